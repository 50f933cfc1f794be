"""The language of expressions: what it computes, as pandas and as ONNX do, and what it refuses."""

import datetime
import decimal
import pathlib

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from raymlops import expressions
from raymlops.data.column_expressions import evaluate, evaluate_condition
from raymlops.data.sources import derive_columns
from raymlops.errors import DataError, SpecError
from raymlops.features import FittedColumn, column_to_tensor
from raymlops.models import encoder
from raymlops.models.session import open_session
from raymlops.specs.document import validate_document
from raymlops.specs.experiment import ExperimentSpec
from tests import expression_soup, random_expressions

ATTACKS = (
    "().__class__", "a.__class__.__mro__", "a.dt.__class__", "a.str.__init__.__globals__", "__import__('os')",
    "__builtins__", "@pd", "@a.__class__", "a.to_csv('x')", "a.eval('1')", "a.pipe(print)", "a.map(print)",
    "a.str.format(b)", "a.str.encode('x')", "a.dt.strftime('%Y')", "getattr(a, 'b')", "eval('1')", "open('x')",
    "print(a)", "`__import__`('os')", "`a`.__class__", "a.`__class__`", "(lambda: 1)()", "[x for x in a]",
    "{x for x in a}", "(x for x in a)", "(x := 1)", "f'{a}'", "f'{a.__class__}'", "a if b else c", "a[0]", "a['b']",
    "a.str[::2]", "a.b", "*a", "**a", "a; b", "a = 1", "a #", "a\\\nb", "a \x00 b", "ｏｓ", "ｅval('1')", "𝐚 + 1",
    "a‮b", "a\u200bb", "9**9**9", "2**64", "10**400", "1e999", "9" * 5000, "'a' * 10**9", "'a' % 'b'", "1 / 0",
    "1 // 0", "(" * 300 + "a" + ")" * 300, "-" * 3000 + "a", "not " * 2000 + "a", "a" + "+a" * 4000, "a" * 20_000,
    "a is None", "a == None", "None", "...", "b'a'", "1j", "{1: 2}", "a in b", "a in [b]", "[1, 2]", "(1, 2)", "a @ b",
    "a << 2", "a ^ b", "await a", "yield a", "a.mean()", "a.rank()", "where(a, b)", "contains(a, b)",
    "month(a, 'No/Where')", "month(a, '../../etc/passwd')", "`", "``", "`a", "'a' 'b'", "'''a'''", "'a", "", " ",
    "class", "import os", "a\nimport os", "a.astype('__main__')", "max(a)", "str(*a)", "str(**a)",
    "a.str.replace('a', b)",
    "hour(a, zone='UTC')", "a()", "a()()", "a.str()", "a.dt()", "a.str", "'x'.join(a)", "len", "x = y == z", "a <> b",
)  # fmt: skip


@pytest.mark.parametrize("expression", ATTACKS)
def test_what_is_not_of_the_language_is_refused_with_a_sentence(expression: str) -> None:
    if expression == "len":
        assert expressions.columns_in(expression) == ("len",)  # a column may be named as a function
        return
    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- the sentences differ
        expressions.parse(expression)
    assert 20 < len(str(caught.value)) < 1200
    table = pa.table({"a": ["x"], "b": ["y"], "c": ["z"], "x": [1]})
    with pytest.raises(DataError):
        evaluate(table, expression, "derive.new")


@pytest.mark.parametrize("arrow", [False, True])
def test_random_expressions_compute_what_pandas_does(arrow: bool) -> None:
    table = random_expressions.table(60, seed=1, nulls=arrow)
    frame = table.to_pandas(types_mapper=pd.ArrowDtype) if arrow else table.to_pandas()
    for seed in range(300):
        expression = random_expressions.Generator(seed, arrow).draw()
        expected = frame.eval(expression, engine="python")
        random_expressions.check_values(evaluate(table, expression, "x"), expected, expression)


@pytest.mark.parametrize("nulls", [False, True])
def test_random_features_are_the_same_on_columns_and_in_a_model(nulls: bool) -> None:
    table = random_expressions.table(40, seed=3, nulls=nulls, earliest=2 * 10**11)
    kinds = {
        "i": "integer",
        "j": "integer",
        "x": "number",
        "y": "number",
        "wide name": "number",
        "w": "timestamp",
    }
    columns = tuple(FittedColumn(name, "input", kind) for name, kind in kinds.items())
    drawn = [random_expressions.FeatureGenerator(seed, conditions=not nulls).number(3) for seed in range(250)]
    formulas = {f"e{place}": text for place, text in enumerate(drawn) if expressions.columns_in(text)}
    session = open_session(encoder.build_formulas(columns, formulas).SerializeToString())
    answer = session.infer({column.name: column_to_tensor(table, column) for column in columns})
    for name, expression in formulas.items():
        expected = evaluate(table, expression, name).cast(pa.float64()).to_numpy(zero_copy_only=False)
        got = answer[name]
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-4, err_msg=expression)


def test_every_day_has_the_calendar_of_pandas_in_a_model_and_on_columns() -> None:
    days = np.arange("1896-01-01", "1905-01-01", dtype="datetime64[D]").astype("datetime64[ms]")
    days = np.concatenate([days, days + np.timedelta64(36_525, "D"), [np.datetime64("1600-02-29", "ms")]])
    table = pa.table({"w": pa.array(days, pa.timestamp("ms"))})
    column = FittedColumn("w", "input", "timestamp")
    parts = ("year", "quarter", "month", "day", "dayofyear", "weekday", "minute", "second")
    session = open_session(
        encoder.build_formulas((column,), {part: f"{part}(w)" for part in parts}).SerializeToString()
    )
    answer = session.infer({"w": column_to_tensor(table, column)})
    frame = table.to_pandas()["w"].dt
    for part in parts:
        expected = getattr(
            frame, {"dayofyear": "day_of_year", "weekday": "day_of_week"}.get(part, part)
        ).to_numpy()
        np.testing.assert_array_equal(answer[part], expected, err_msg=part)
        np.testing.assert_array_equal(evaluate(table, f"w.dt.{part}", part).to_numpy(), expected)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("i // 0", [None, None, None]),
        ("i % 0", [None, None, None]),
        ("i / 0", [float("-inf"), float("inf"), None]),
        ("i // 2", [-1, 1, None]),
        ("i ** 2", [1, 9, None]),
        ("i > 0", [False, True, None]),
        ("not i > 0", [True, False, None]),
        ("i != 3", [True, False, None]),
        ("i > 0 or s == 'c'", [False, True, True]),
        ("i in [3, 4]", [False, True, None]),
        ("i not in [3, 4.5]", [True, False, None]),
        ("sqrt(i) > 1", [None, True, None]),
        ("x", [1.5, None, float("inf")]),
        ("isnull(x)", [False, True, False]),
        ("coalesce(x, 0)", [1.5, 0.0, float("inf")]),
        ("where(i > 0, 'up', 'down')", ["down", "up", None]),
        ("flag + 1", [2, 1, None]),
        ("flag & ~(i > 5)", [True, False, None]),
        ("s + '!'", ["a!", "B b!", "c!"]),
        ("s.str.contains('^.b?$', case=False)", [True, False, True]),
        ("s.str.contains('.', regex=False)", [False, False, False]),
        ("fullmatch(s, '[a-z]')", [True, False, True]),
        ("len(s)", [1, 3, 1]),
        ("s.str[-1]", ["a", "b", "c"]),
        ("int('12') + i", [11, 15, None]),
        ("str(i)", ["-1", "3", None]),
        ("`a b` * 2", [2, 4, 6]),
        ("small * 100", [10_000, -10_000, None]),
        ("single == 0.1", [True, False, None]),
        ("when > '2020-02'", [False, True, None]),
        ("when == '2020-01-01T01:00:00+01:00'", [True, False, None]),
        ("day < '2020-01-02'", [True, False, None]),
        ("when in ['2020-01-01']", [True, False, None]),
        ("(when - timestamp('2020-01-01')).dt.total_seconds()", [0.0, 5_270_400.0, None]),
        ("nothing + i", [None, None, None]),
        ("nothing == 'x'", [None, None, None]),
        ("7", [7, 7, 7]),
        ("dictionary == 'u'", [True, False, None]),
        ("decimal * 2 > 3", [False, True, None]),
    ],
)
def test_missing_values_zeros_and_types_meet_as_documented(expression: str, expected: list[object]) -> None:
    utc = datetime.UTC
    days = [datetime.datetime(2020, 1, 1, tzinfo=utc), datetime.datetime(2020, 3, 2, tzinfo=utc), None]
    table = pa.table(
        {
            "i": pa.array([-1, 3, None], pa.int64()),
            "x": [1.5, float("nan"), float("inf")],
            "flag": [True, False, None],
            "s": ["a", "B b", "c"],
            "a b": [1, 2, 3],
            "small": pa.array([100, -100, None], pa.int8()),
            "single": pa.array([0.1, 0.2, None], pa.float32()),
            "when": pa.array(days, pa.timestamp("ms", tz="UTC")),
            "day": pa.array([day and day.date() for day in days], pa.date32()),
            "nothing": pa.nulls(3),
            "dictionary": pa.array(["u", "v", None]).dictionary_encode(),
            "decimal": pa.array([decimal.Decimal("1.00"), decimal.Decimal("2.00"), None]),
        }
    )
    found = evaluate(table, expression, "derive.new").to_pylist()
    assert found == expected or (found[1] != found[1] and expression == "x")


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("big + 1", r"dataset\.derive\.new: 'big \+ 1' failed: a whole number leaves 64 bits.*float"),
        ("big * big", "leaves 64 bits"),
        ("-least", "leaves 64 bits"),
        ("least // -1", "leaves 64 bits"),
        ("big ** 2", "leaves 64 bits"),
        ("s + 1", r"takes text, and got 1; write str"),
        ("s > 1", "does not mix texts and 1"),
        ("s * 2", "takes numbers, and got texts"),
        ("big and s", "a condition is true or false"),
        ("big & 1", "a condition is true or false.*x != 0"),
        ("int(s)", "Failed to parse string: 'abc'"),
        ("s.dt.year", "takes timestamps, and got texts"),
        ("when > 'soon'", "'soon' is not a time"),
        ("biig + 1", "Unknown column 'biig'; did you mean 'big'"),
        ("replace(s, '', 'x')", "at least"),
        ("s.str.contains('(')", "regex|missing"),
        ("rows + 1", "takes numbers, and got list"),
        ("where(s, 1, 2)", "a condition is true or false"),
    ],
)
def test_what_cannot_be_computed_names_the_value_and_the_remedy(expression: str, message: str) -> None:
    table = pa.table(
        {
            "big": pa.array([2**63 - 1], pa.int64()),
            "least": pa.array([-(2**63)], pa.int64()),
            "s": ["abc"],
            "when": pa.array([datetime.datetime(2020, 1, 1)], pa.timestamp("ms")),
            "rows": [[1]],
        }
    )
    with pytest.raises(DataError, match=message):
        evaluate(table, expression, "derive.new")


def test_texts_that_grow_beyond_the_block_are_refused_before_they_are_made() -> None:
    table = pa.table({"s": ["a" * 1000] * 1000})
    doubled = {f"s{step}": f"s{step - 1 or ''} + s{step - 1 or ''}" for step in range(1, 40)}
    with pytest.raises(DataError, match=r"texts of [\d,]+ bytes would be made"):
        derive_columns(table, None, doubled)
    grown = {"b": "s"} | {
        f"b{step}": f"replace(b{step - 1 or ''}, 'a', '{'a' * 100}')" for step in range(1, 9)
    }
    with pytest.raises(DataError, match=r"texts of [\d,]+ bytes would be made"):
        derive_columns(table, None, grown)


def test_rows_are_kept_by_conditions_and_by_numbers_and_empty_blocks_have_their_types() -> None:
    table = pa.table({"i": [0, 1, None], "s": ["a", "b", "c"]})
    assert evaluate_condition(table, "i", "where").to_pylist() == [False, True, False]
    with pytest.raises(DataError, match="a condition is true or false"):
        evaluate_condition(table, "s", "where")
    derived = {"late": "i > 0", "next": "i + 1", "up": "upper(s)", "one": "1", "pi2": "pi * 2"}
    full, empty = (derive_columns(part, None, derived) for part in (table, table.slice(0, 0)))
    assert full.schema.equals(empty.schema)


def spec_with(**parts: object) -> dict[str, object]:
    return {
        "name": "m",
        "dataset": {"path": "rows.parquet", **parts},
        "features": {"target": {"column": "y"}, "numbers": ["a"]},
    }


def test_a_spec_with_a_wrong_expression_is_refused_where_it_is_read() -> None:
    for part in ({"where": "@x"}, {"derive": {"b": "a.__class__"}}):
        with pytest.raises(SpecError, match=r"dataset\.(where|derive)"):
            validate_document(spec_with(**part), ExperimentSpec)
    texts = {"kind": "number", "expression": "len(s)"}
    value = spec_with()
    value["features"] = {"target": {"column": "y"}, "columns": {"n": texts}}
    with pytest.raises(SpecError, match="len, which a model cannot compute; derive a column"):
        validate_document(value, ExperimentSpec)


def test_nothing_is_run_or_written_by_what_walked_to_modules_before(tmp_path: pathlib.Path) -> None:
    table = pa.table({"a": [1]})
    for expression in (
        "@a.__class__.__base__.__subclasses__()",
        f"a.to_csv({str(tmp_path / 'x')!r})",
        f"a.to_pickle({str(tmp_path / 'x')!r})",
    ):
        with pytest.raises(DataError):
            derive_columns(table, None, {"b": expression})
    assert list(tmp_path.iterdir()) == []


def test_senseless_expressions_over_every_type_end_with_values_or_a_sentence() -> None:
    table, soup = expression_soup.table(), expression_soup.Soup(1)
    for _ in range(1500):
        text = soup.draw()
        try:
            found = evaluate(table, text, "derive.x")
        except DataError:
            continue
        assert len(found) == table.num_rows, text
        assert found.type == evaluate(table.slice(0, 0), text, "derive.x").type, text
