"""What `init` finds in a table: how its file is written, what its columns are, and which split suits it."""

import dataclasses
import gzip
import pathlib
import zipfile
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from raymlops.conversions.conversion import Conversion
from raymlops.data.column_expressions import evaluate_condition
from raymlops.data.profiling import (
    csv_dialect,
    files,
    roles,
    split_choice,
    table_scan,
    time_columns,
    written_numbers,
)
from raymlops.data.profiling import target as targets
from raymlops.errors import DataError, NotFoundError
from raymlops.evaluation import table_page
from raymlops.lifecycle.init import relations, spec_text
from raymlops.table_profile import Conclusion, NumberProfile, TableProfile


def dialect(text: str | bytes, **options: str) -> csv_dialect.Dialect:
    data = text if isinstance(text, bytes) else text.encode()
    return csv_dialect.find_dialect(data, whole=True, source="data.csv", **options)


def profile(frame: pd.DataFrame, blocks: int = 1) -> tuple[TableProfile, pa.Table]:
    """The profile of a frame that comes in several blocks."""
    total = table_scan.TableSummary()
    for part in np.array_split(np.arange(len(frame)), blocks):
        table = pa.Table.from_pandas(frame.iloc[part], preserve_index=False)
        table_scan._merge(total, table_scan._measure_block(table, frozenset(), 1.0))
    return table_scan.finish(total, "frame")


def conclude(frame: pd.DataFrame, column: str, blocks: int = 1) -> dict[str, Conclusion]:
    table, sample = profile(frame, blocks)
    goal = targets.find_target(table, column)
    return roles.conclude(table, goal, relations.relate(table, sample, goal))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a,b\n1,2\n3,4\n", {"separator": ",", "names": ("a", "b")}),
        ("a;b\n1,5;x\n2,25;y\n", {"separator": ";", "decimal": ","}),
        ("p;q;y\n1.234,5;0,5;1\n2.345,5;0,7;0\n3.345,5;0,8;0\n", {"separator": ";", "header": True}),
        ("a\tb\n1\t2\n", {"separator": "\t"}),
        ("a|b\n1|2\n", {"separator": "|"}),
        ("\ufeffa,b\n1,2\n", {"names": ("a", "b"), "encoding": "utf-8"}),
        ("a;b\n1;é\n".encode("latin-1"), {"encoding": "latin-1"}),
        ("a;b\n1;€\n".encode("cp1252"), {"encoding": "cp1252"}),
        ("a,b\n1,é\n".encode("utf-16"), {"encoding": "utf-16", "names": ("a", "b")}),
        ('a,b\n1,"two\nlines"\n3,x\n', {"multiline": True}),
        ('"a\nb",c\n1,x\n3,x\n', {"multiline": True, "names": ("a b", "c"), "header_lines": 2}),
        ("5.1,3.5,x\n4.9,3.0,x\n4.7,3.2,y\n", {"header": False, "names": ("f0", "f1", "f2")}),
        ("red,small,yes\nblue,big,no\nred,big,no\nblue,small,yes\n", {"header": False}),
        ("0,1,2\n5.1,3.5,0.2\n4.9,3.0,0.7\n", {"header": True, "names": ("0", "1", "2")}),
        ("a,a,b\n1,2,3\n4,5,6\n", {"names": ("a", "a_2", "b"), "renamed": True}),
        ("a, b\n1, 2\n", {"names": ("a", "b"), "renamed": True}),
        ("Sales of 2020\n\na,b\n1,2\n3,4\n5,6\n7,8\n9,9\n", {"skipped": 2, "names": ("a", "b")}),
        ("a,b\n'x, y',1\n'z',2\n'w',3\n'v',4\n", {"quote": "'"}),
        ('a,b\n"say \\"hi\\"",1\n"z",2\n', {"escape": "\\"}),
    ],
)
def test_the_way_a_csv_file_is_written_is_found(text: str | bytes, found: dict[str, object]) -> None:
    got = dataclasses.asdict(dialect(text))
    assert {key: got[key] for key in found} == found


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("a  b   c\n1  2  3\n10 2  3\n", "tr -s ' '"),
        ("alone\n1\n2\n", "parse_options"),
        ("a,b\n1,2\na,b\n3,4\n", "header"),
        ("   \n", "is empty"),
        (b"\x00\x01\x02\x00\x00\x00", "dataset.reader"),
    ],
)
def test_a_file_that_is_no_table_is_refused_with_the_remedy(text: str | bytes, remedy: str) -> None:
    with pytest.raises(DataError, match=remedy):
        dialect(text)


def test_files_are_told_by_their_endings_their_first_bytes_and_their_folder(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    (tmp_path / "odd").write_bytes(gzip.compress(b"a,b\n1,2\n"))
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
        archive.writestr("inner.csv", "a,b\n1,2\n")
    assert files.find_files(str(tmp_path / "a.csv")).reader == "csv"
    odd = files.find_files(str(tmp_path / "odd"))
    assert odd.options == {"arrow_open_stream_args": {"compression": "gzip"}}
    assert odd.head == b"a,b\n1,2\n"
    assert files.find_files(str(tmp_path / "one.zip")).path == f"zip://inner.csv::{tmp_path / 'one.zip'}"
    (tmp_path / "parts").mkdir()
    for name in ("p1.csv", "p2.csv", "_SUCCESS", "README.md"):
        (tmp_path / "parts" / name).write_text("a,b\n1,2\n")
    assert files.find_files(str(tmp_path / "parts")).options == {"file_extensions": ["csv"]}
    assert len(files.find_files(str(tmp_path / "parts/*.csv")).files) == 2
    (tmp_path / "parts/p3.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="several formats"):
        files.find_files(str(tmp_path / "parts"))
    (tmp_path / "book.xlsx").write_bytes(b"PK\x03\x04" + b"0" * 40)
    with pytest.raises(DataError, match="read_excel"):
        files.find_files(str(tmp_path / "book.xlsx"))
    with pytest.raises(NotFoundError, match="No file or folder"):
        files.find_files(str(tmp_path / "none*.csv"))


ROWS = 600


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    x = rng.normal(size=ROWS)
    y = (x + rng.normal(size=ROWS) > 0).astype(int)
    parts = np.array(["red", "green", "blue"])
    return pd.DataFrame(
        {
            "row": np.arange(ROWS),
            "customer_id": rng.integers(0, 150, ROWS),
            "x": x,
            "x_again": x,
            "colour": rng.choice(parts, ROWS),
            "flag": rng.choice(["Yes", "No"], ROWS),
            "same": 7,
            "code": y * 10 + rng.choice([1, 5, 3], ROWS),
            "when": pd.date_range("2024-01-01", periods=ROWS, freq="h"),
            "note": [f"the {rng.choice(parts)} one of order {n} came late" for n in range(ROWS)],
            "picture": [f"img/{n}.png" for n in range(ROWS)],
            "income": np.where(rng.random(ROWS) < 0.1, -999.0, rng.gamma(3, 10, ROWS).round()),
            "odd": np.where(np.arange(ROWS) == ROWS - 2, "unknown", rng.integers(0, 999, ROWS).astype(str)),
            "answer": np.where(y > 0, "a", "b"),
            "y": y,
        }
    )


@pytest.mark.parametrize("blocks", [1, 7])
def test_each_column_has_its_role_however_the_rows_come_in_blocks(frame: pd.DataFrame, blocks: int) -> None:
    found = conclude(frame, "y", blocks)
    assert {name: one.role for name, one in found.items()} == {
        "row": "id",
        "customer_id": "group",
        "x": "number",
        "x_again": "duplicate",
        "colour": "category",
        "flag": "boolean",
        "same": "constant",
        "code": "leak",
        "when": "timestamp",
        "note": "prose",
        "picture": "image path",
        "income": "number",
        "odd": "number",
        "answer": "leak",
        "y": "target",
    }
    assert found["income"].sentinels == (-999.0,)
    assert "-999" in found["income"].unsure
    assert found["code"].unsure


def test_a_profile_is_the_same_however_the_rows_come_in_blocks(frame: pd.DataFrame) -> None:
    one, _ = profile(frame)
    many, _ = profile(frame, 11)
    for left, right in zip(one.columns, many.columns, strict=True):
        assert (left.name, left.nulls, left.distinct, left.order, left.twin, left.text) == (
            right.name, right.nulls, right.distinct, right.order, right.twin, right.text,
        )  # fmt: skip
    assert one.column("odd").text == many.column("odd").text


def test_numbers_of_different_values_are_counted_within_the_stated_error() -> None:
    table, _ = profile(pd.DataFrame({"a": np.arange(200_000) % 50_000, "b": np.arange(200_000) % 7}), 13)
    assert table.column("a").distinct == pytest.approx(50_000, rel=0.1)
    assert table.column("b").distinct == 7


def test_duplicates_are_counted_and_near_ones_too() -> None:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"x": rng.normal(size=500), "c": rng.choice(["Ab", "cd"], 500)})
    again = frame.head(50)
    near = frame.iloc[50:80].assign(c=lambda rows: rows.c.str.upper() + " ", x=lambda rows: rows.x + 1e-9)
    table, _ = profile(pd.concat([frame, again, near]), 3)
    assert table.duplicates == 50
    assert table.near_duplicates == pytest.approx(80, abs=3)


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (["a", "b"], "binary"),
        ([True, False], "binary"),
        ([0, 1], "binary"),
        ([1, 2, 3, 4, 5], "multiclass"),
        (["a", "b", "c"], "multiclass"),
        (list(range(100)), "regression"),
        ([0.5, 1.5, 2.25], "regression"),
    ],
)
def test_the_task_follows_from_the_target(values: list[object], task: str) -> None:
    table, _ = profile(pd.DataFrame({"y": values * 40}))
    assert targets.find_target(table, "y").task == task


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ([1] * 50, "one value only"),
        ([None] * 50, "null in all"),
        ([f"text {n}" for n in range(50)], "a class must repeat"),
        ([0] * 49 + [1], "too few"),
    ],
)
def test_a_column_that_can_be_no_target_is_refused(values: list[object], remedy: str) -> None:
    table, _ = profile(pd.DataFrame({"y": values, "x": range(50)}))
    with pytest.raises(DataError, match=remedy):
        targets.find_target(table, "y")
    with pytest.raises(DataError, match="did you mean 'y'"):
        targets.find_target(table, "yy")


def test_a_target_that_is_a_sum_of_columns_is_told() -> None:
    rng = np.random.default_rng(2)
    frame = pd.DataFrame(
        {"a": rng.integers(0, 99, 400), "b": rng.integers(0, 200, 400), "c": rng.normal(size=400)}
    )
    found = conclude(frame.assign(total=frame.a + frame.b), "total")
    assert [name for name, one in found.items() if one.role == "leak"] == ["a", "b"]
    logged = conclude(frame.assign(y=np.exp(frame.c)), "y")
    assert logged["c"].role == "leak"


def test_the_split_is_by_time_if_time_orders_the_rows_else_by_a_group_that_repeats(
    frame: pd.DataFrame,
) -> None:
    def choose(columns: pd.DataFrame) -> split_choice.SplitChoice:
        table, sample = profile(columns)
        goal = targets.find_target(table, "y")
        concluded = roles.conclude(table, goal, relations.relate(table, sample, goal))
        everywhere = relations.find_everywhere(table, sample, goal)
        return split_choice.choose_split(table, goal, concluded, everywhere=everywhere)

    assert (choose(frame).by, choose(frame).column) == ("time", "when")
    timeless = frame.drop(columns="when")
    assert (choose(timeless).by, choose(timeless).column) == ("group", "customer_id")
    assert choose(timeless.drop(columns="customer_id")).by == "random"
    late = frame.assign(y=(frame.index > ROWS - 20).astype(int) * (frame.index % 3 > 0)).drop(
        columns="customer_id"
    )
    assert choose(late).by == "random"
    assert "when" in choose(late).unsure
    panel = timeless.drop(columns="customer_id").assign(
        pig=np.arange(ROWS) % 50, spot=frame["x"].rank() // 12
    )
    assert choose(panel).by == "random"
    assert "use by: group, column: pig" in choose(panel).unsure
    assert "spot" not in choose(panel).unsure
    births = timeless.drop(columns="customer_id").assign(birth_date=frame.when.to_numpy())
    assert choose(births).by == "random"


@pytest.mark.parametrize(
    "text",
    ["y", "no", "null", "1e5", "2020-01-01", "a: b", "#x", "é", "'", "", " ", "~", "a\nb", "😀", "\x85"],
)
def test_every_name_is_read_back_from_the_text_of_a_spec(text: str) -> None:
    from raymlops.specs.document import read_yaml

    assert read_yaml(f"[{spec_text._quote(text)}]")[0] == [text]


@pytest.mark.parametrize("value", [0.0, 1e-7, -2.5e300, 1e16, 123456.0, 0.1])
def test_every_bound_is_read_back_as_a_number(value: float) -> None:
    from raymlops.specs.document import read_yaml

    assert read_yaml(spec_text._flow(value))[0] == value


def test_bounds_are_kept_by_the_rows_that_they_were_made_from(frame: pd.DataFrame) -> None:
    rng = np.random.default_rng(3)
    scales = {f"c{place}": rng.normal(scale=10.0**place, size=50) - 3 for place in range(-12, 12, 3)}
    table, _ = profile(pd.DataFrame(scales))
    for column in table.columns:
        assert column.numbers is not None
        low, high = spec_text.find_bounds(column.numbers, column)
        assert low <= column.numbers.min <= column.numbers.max <= high
    assert written_numbers.parse_numbers(pa.array(["1.234,5"]), "comma").tolist() == [1234.5]


@pytest.mark.parametrize(
    ("separator", "ending", "rule"),
    [
        (",", "", {"thousands": ","}),
        ("\u202f", "", {"thousands": " "}),
        (" ", ",5", {"thousands": " ", "decimal": ","}),
        ("\u2019", "", {"thousands": "'"}),
    ],
)
def test_numbers_with_separators_are_numbers_and_read_as_such(
    separator: str, ending: str, rule: dict[str, Any]
) -> None:
    rng = np.random.default_rng(4)
    numbers = rng.integers(1, 10**6, 200)
    texts = [f"{number:,}".replace(",", separator) + ending for number in numbers.tolist()]
    frame = pd.DataFrame({"x": texts, "y": rng.integers(0, 2, 200)})
    table, sample = profile(frame)
    goal = targets.find_target(table, "y")
    concluded = roles.conclude(table, goal, relations.relate(table, sample, goal))
    assert concluded["x"].role == "number"
    found = spec_text.find_rule(table.column("x"), concluded["x"], goal)
    assert {key: found.get(key) for key in rule} == rule
    converted = Conversion("number", **rule).apply(pa.chunked_array([pa.array(texts)]))
    assert not converted.failed.any()
    assert converted.values.to_pylist() == (numbers + 0.5 * bool(ending)).tolist()


def test_integers_beyond_64_bits_and_numbers_beyond_fp32_suit_the_rules_that_are_made_of_them() -> None:
    frame = pd.DataFrame({"x": [2.0**63 + 4096 * n for n in range(50)], "z": [1e300, *range(49)]})
    table, _ = profile(frame.assign(y=np.arange(50) % 2))
    goal = targets.find_target(table, "y")
    assert spec_text.find_rule(table.column("x"), Conclusion("number"), goal)["type"] == "number"
    assert table.column("z").beyond == 1
    roles_of = {name: Conclusion("number") for name in "xz"} | {"y": Conclusion("target")}
    text = "\n".join(spec_text._write_contract(table, goal, roles_of, {}))
    assert "# unsure: z has 1 numbers beyond FP32" in text


def test_rows_whose_target_no_model_can_learn_are_left_out_by_the_spec() -> None:
    values = [np.inf, np.nan, *np.linspace(0, 1, 60)]
    table, _ = profile(pd.DataFrame({"my y": values, "x": np.arange(62.0)}))
    goal = targets.find_target(table, "my y")
    conditions = spec_text._list_conditions(table.column("my y"), goal)
    kept = evaluate_condition(pa.table({"my y": values}), " and ".join(conditions), "where")
    assert kept.to_pylist() == [False, False] + [True] * 60


def test_a_contract_lets_todays_rows_be_searched_though_many_are_left_out() -> None:
    codes = [str(n) if n % 12 else "A" for n in range(600)]
    table, sample = profile(pd.DataFrame({"code": codes, "y": np.arange(600) % 2}))
    goal = targets.find_target(table, "y")
    concluded = roles.conclude(table, goal, relations.relate(table, sample, goal))
    text = "\n".join(spec_text._write_contract(table, goal, concluded, {}))
    assert "# unsure: up to 8% of today's rows are left out" in text
    assert "max_failed: 0.1 " in text


def make_page(frame: pd.DataFrame) -> str:
    table, sample = profile(frame)
    goal = targets.find_target(table, "y")
    concluded = roles.conclude(table, goal, relations.relate(table, sample, goal))
    return table_page.write_table_page(
        table, concluded, "y", goal.task, {"split": "random"}, ["look at <this>"]
    )


def test_the_page_of_a_table_has_a_line_for_each_column_and_escapes_what_it_shows(
    frame: pd.DataFrame,
) -> None:
    page = make_page(frame.rename(columns={"colour": "<b>colour</b>"}))
    assert "&lt;b&gt;colour&lt;/b&gt;" in page
    assert "look at &lt;this&gt;" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count('<svg class="small"') >= 10
    for name in frame.columns:
        assert name in page


def test_the_page_of_500_columns_stays_small() -> None:
    rng = np.random.default_rng(4)
    wide = pd.DataFrame(rng.normal(size=(300, 500)), columns=[f"f_{n}" for n in range(500)])
    assert len(make_page(wide.assign(y=rng.integers(0, 2, 300)))) < 1_000_000


@pytest.mark.parametrize(
    "values", [[1e308, -1e308, 0.0, 1.0], [5.0, 5.0, 5.0, 5.1], [1e-300, 2e-300, 0.0, 3e-300]]
)
def test_numbers_of_any_size_are_shown(values: list[float]) -> None:
    page = make_page(pd.DataFrame({"x": values * 25, "y": [0, 1] * 50}))
    assert ">nan" not in page


def test_times_as_texts_and_numbers_have_their_formats_and_ambiguous_ones_are_marked() -> None:
    days = pd.date_range("2020-01-25", periods=300, freq="D")
    firsts = pd.date_range("2010-01-01", periods=300, freq="MS")
    frame = pd.DataFrame(
        {
            "day_first": days.strftime("%d/%m/%Y"),
            "month_first": days.strftime("%m/%d/%Y"),
            "firsts": firsts.strftime("%d/%m/%Y"),
            "seen_at": 1_577_836_800 + np.arange(300) * 3600,
            "amount": 1_577_836_800 + np.arange(300) * 3600,
            "y": [0, 1] * 150,
        }
    )
    table, sample = profile(frame, 3)
    table = time_columns.find_times(table, sample)
    formats = {column.name: column.text.formats for column in table.columns if column.text}
    assert formats["day_first"] == ("%d/%m/%Y",)
    assert formats["month_first"] == ("%m/%d/%Y",)
    assert formats["firsts"] == ("%d/%m/%Y", "%m/%d/%Y")  # the likelier, since it runs with the rows, first
    assert formats["seen_at"] == ("epoch_s",)
    assert "amount" not in formats
    goal = targets.find_target(table, "y")
    found = roles.conclude(table, goal, relations.relate(table, sample, goal))
    assert [found[name].role for name in ("day_first", "firsts", "seen_at")] == ["timestamp"] * 3
    assert "%m/%d/%Y" in found["firsts"].unsure
    assert not found["day_first"].unsure
    assert spec_text.find_rule(table.column("firsts"), found["firsts"], goal)["format"] == "%d/%m/%Y"


@pytest.mark.parametrize(
    ("first", "last", "parts"),
    [
        ("2024-01-01T00:30", "2024-02-01", ("hour", "weekday")),
        ("2024-01-01", "2024-02-01", ("weekday",)),
        ("2024-01-01", "2024-08-01T12:00", ("hour", "weekday")),
        ("2020-01-01", "2024-01-01", ("weekday", "day", "month", "dayofyear")),
    ],
)
def test_times_have_the_parts_that_can_tell_rows_apart(first: str, last: str, parts: tuple[str, ...]) -> None:
    low, high = (float(np.datetime64(one, "ms").astype(np.int64)) for one in (first, last))
    assert time_columns.choose_parts(NumberProfile(low, 1.0, low, high, (low, high), True)) == parts
