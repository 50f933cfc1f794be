"""One conversion a column, over blocks and files: in training's rows, in evaluation and in predictions of files."""

import json
import pathlib
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper

from raymlops.conversions.conversion import Conversion
from raymlops.data.split_rows import SplitRows, scan_rows
from raymlops.errors import DataError
from raymlops.features import FittedColumn, FittedFeatures, FittedTarget
from raymlops.lifecycle.batch.predict import Scoring, predict_files
from raymlops.lifecycle.train import stages
from raymlops.models.export import export_model, to_bytes
from raymlops.specs.dataset import ContractSpec, DatasetSpec, RandomSplit
from raymlops.specs.features import FeaturesSpec
from tests import experiments

pytestmark = pytest.mark.usefixtures("ray_cluster")


def write(folder: pathlib.Path, name: str, frame: pd.DataFrame) -> str:
    path = folder / name
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(path, index=False)
    return str(path)


def frame(rows: int = 60, **columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"id": np.arange(rows), "y": np.arange(rows) % 2, **columns})


def scan(path: str | tuple[str, ...], columns: dict[str, Any] | None = None, **features: Any) -> SplitRows:
    table = DatasetSpec(reader="csv" if str(path).endswith(("csv", "csv')")) else "parquet", path=path)
    roles = {"numbers": ["id"], **features, "target": {"column": "y"}}
    contract = ContractSpec.model_validate({"columns": columns or {}, "max_failed": 0.1})
    return scan_rows(table, contract, RandomSplit(), FeaturesSpec.model_validate(roles))


def values_of(rows: SplitRows, column: str) -> list[Any]:
    parts = [rows.of(name).to_pandas() for name in ("train", "validation", "test")]
    return pd.concat(parts).sort_values("id")[column].tolist()  # type: ignore[no-any-return]


def test_a_date_has_one_format_in_all_files_even_where_one_file_leaves_it_open(
    tmp_path: pathlib.Path,
) -> None:
    days = pd.date_range("2020-03-01", periods=12, freq="MS").append(pd.date_range("2021-01-13", periods=48))
    table = frame(when=days.strftime("%d/%m/%Y"))
    early, late = write(tmp_path, "1.csv", table[:12]), write(tmp_path, "2.csv", table[12:])
    rows = scan((early, late), timestamps=["when"])
    assert rows.contract.columns["when"].format == "%d/%m/%Y"
    assert values_of(rows, "when") == list(days.tz_localize("UTC"))
    with pytest.raises(
        DataError, match=r"columns\.when: .*'01/03/2020'.* set format to '%d/%m/%Y' or '%m/%d/%Y'"
    ):
        scan(early, timestamps=["when"])
    given = scan(early, {"when": {"format": "%m/%d/%Y"}})
    assert values_of(given, "when")[1] == pd.Timestamp("2020-01-04", tz="UTC")


def test_numbers_that_are_times_are_told_apart_by_their_size_or_asked_for(tmp_path: pathlib.Path) -> None:
    seconds = 1_577_836_800 + 86_400 * np.arange(60)
    path = write(
        tmp_path, "a.parquet", frame(s=seconds, ms=seconds * 1000.0, day=20_200_101 + np.arange(60) % 31)
    )
    rows = scan(path, timestamps=["s", "ms", "day"])
    assert [rows.contract.columns[name].format for name in ("s", "ms", "day")] == [
        "epoch_s",
        "epoch_ms",
        "%Y%m%d",
    ]
    assert values_of(rows, "s") == values_of(rows, "ms")
    with pytest.raises(DataError, match=r"no format in common .*epoch_s"):
        scan(path, timestamps=["id"], numbers=["s"])


def test_a_text_deep_in_a_column_of_numbers_is_named_or_spoils_its_row(tmp_path: pathlib.Path) -> None:
    rows = 90_000  # beyond what the reader looks at
    table = frame(rows, x=np.arange(rows) / 7).astype({"x": object})
    table.loc[rows - 2, "x"] = "unknown"
    path = write(tmp_path, "deep.csv", table)
    with pytest.raises(
        DataError, match=r"Column 'x' of .*deep\.csv has 'unknown' in row 89,999, .*null_values"
    ):
        scan(path, numbers=["x"])
    rest = scan(path, {"x": {"type": "number"}}, numbers=["x"])
    assert (rest.scan.rows, rest.scan.failed) == (rows, 1)
    (kept,) = map(json.loads, rest.scan.left_out)
    assert (kept["row"], kept["values"]["x"]) == (89_999, "unknown")
    assert kept["reasons"] == ["x: type number"]


def test_a_column_of_texts_that_is_to_be_numbers_names_its_first_other_value(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, "a.csv", frame(x=[*map(str, range(57)), "NA", "unknown", "7"]))
    with pytest.raises(DataError, match=r"Column 'x' .*'unknown' \(the first is row 59\).*type: number"):
        scan(path, numbers=["x"])


def test_numbers_beyond_fp32_are_refused_with_their_row(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, "a.parquet", frame(x=np.where(np.arange(60) == 7, 1e300, 1.0)))
    with pytest.raises(DataError, match=r"Column 'x' has 1e\+300 in row 8, .*contract\.columns\.x\.max"):
        scan(path, numbers=["x"])
    assert scan(path, {"x": {"max": 1e9}}, numbers=["x"]).scan.failed == 1


def test_texts_of_csv_keep_their_zeros_and_separators(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.csv").write_text(
        "id,y,zip,price\n" + "".join(f'{n},{n % 2},0{n % 10}123,"{n % 9 + 1}.234,5"\n' for n in range(60))
    )
    rules = {"zip": {"type": "string"}, "price": {"decimal": ",", "thousands": "."}}
    rows = scan(str(tmp_path / "a.csv"), rules, categories=["zip"])
    assert values_of(rows, "zip")[:2] == ["00123", "01123"]
    assert values_of(rows, "price")[:2] == [1234.5, 2234.5]


def test_columns_of_expressions_and_joins_keep_the_type_that_the_reader_gives(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, "a.csv", frame(code=np.arange(60)))
    table = DatasetSpec(reader="csv", path=path, where="code >= 10")
    contract = ContractSpec.model_validate({"columns": {"code": {"type": "string"}}})
    rows = scan_rows(table, contract, RandomSplit())
    assert sorted(values_of(rows, "code")) == sorted(map(str, range(10, 60)))


def test_large_integers_are_categories_of_their_own(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, "a.parquet", frame(ids=2**53 + np.arange(60) % 2))
    rows = scan(path)
    spec = experiments.spec_of(
        "ids",
        {"path": path},
        target="y",
        features={
            "target": {"column": "y"},
            "columns": {"ids": {"kind": "category", "min_count": 1}},
        },
    )
    features, _ = stages.fit(spec, rows)
    assert sorted(features.columns[0].values) == [str(2**53), str(2**53 + 1)]
    assert features.columns[0].conversion == Conversion("string")


def sum_model(columns: tuple[FittedColumn, ...]) -> bytes:
    """Its probability follows from the sum of its packed columns."""
    features = FittedFeatures(columns, FittedTarget("y", "binary", "integer", (0, 1)))
    values = [("numeric", TensorProto.FLOAT), ("category", TensorProto.INT64)]
    nodes = [
        helper.make_node("Cast", ["category"], ["c"], to=1),
        helper.make_node("Concat", ["numeric", "c"], ["all"], axis=1),
        helper.make_node("ReduceSum", ["all", "axis"], ["outputs"], keepdims=1),
    ]
    graph = helper.make_graph(
        nodes,
        "sum",
        [helper.make_tensor_value_info(name, kind, ["n", None]) for name, kind in values],
        [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["n", 1])],
        [onnx.numpy_helper.from_array(np.array([1]), "axis")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return to_bytes(export_model(model, features, name="sum"))


MODEL = sum_model(
    (
        FittedColumn("flag", "number", "boolean", conversion=Conversion("boolean")),
        FittedColumn("x", "number", "number"),
        FittedColumn("c", "category", "string", values=("a", "b")),
    )
)


def test_a_file_is_scored_as_training_read_it_and_what_does_not_convert_is_kept_aside(
    tmp_path: pathlib.Path,
) -> None:
    table = frame(flag=["Yes", "No"] * 30, x=1.0, c=["a", "b", "new"] * 20)
    table.loc[7, "flag"] = "maybe"
    path, told = write(tmp_path, "a.csv", table), []
    scores = tmp_path / "scores"
    count = predict_files(
        DatasetSpec(reader="csv", path=path), MODEL, str(scores), Scoring(workers=1), tell=told.append
    )
    assert count == 59
    found = pd.read_parquet(scores)  # which passes over the folder of what was left out
    assert found["id"].tolist() == [number for number in range(60) if number != 7]
    assert found["flag"].tolist()[:2] == ["Yes", "No"], "columns stay as they were read"
    as_booleans = pa.table({"flag": found["flag"] == "Yes", "x": found["x"], "c": found["c"]})
    pq.write_table(as_booleans, tmp_path / "b.parquet")
    predict_files(
        DatasetSpec(path=str(tmp_path / "b.parquet")), MODEL, str(tmp_path / "again"), Scoring(workers=1)
    )
    assert found["probability"].tolist() == pd.read_parquet(tmp_path / "again")["probability"].tolist()
    (kept,) = [
        json.loads(line) for file in scores.glob("_left_out/*") for line in file.read_text().splitlines()
    ]
    assert kept == {
        "reasons": ["flag: type boolean"],
        "values": {"id": 7, "y": 1, "flag": "maybe", "x": 1.0, "c": "b"},
    }
    assert any(
        "1 of 60 rows are left out" in line and "'type boolean' (such as maybe)" in line for line in told
    )
    assert any(
        "c: 20 of 60 rows have a category that the model does not know, such as 'new'" in line
        for line in told
    )


def test_too_many_values_that_do_not_convert_are_an_error_and_leave_no_predictions(
    tmp_path: pathlib.Path,
) -> None:
    path = write(tmp_path, "a.csv", frame(flag=["Yes", "what"] * 30, x=1.0, c="a"))
    with pytest.raises(
        DataError, match=r"30 of 60 rows \(50\.00%\) do not convert, and max_failed is 5\.0%: flag: "
    ):
        predict_files(DatasetSpec(reader="csv", path=path), MODEL, str(tmp_path / "out"), Scoring(workers=1))
    assert not list((tmp_path / "out").glob("*.parquet"))
    assert list((tmp_path / "out" / "_left_out").glob("*.jsonl"))


def test_a_text_deep_in_a_file_to_be_scored_spoils_its_row_only(tmp_path: pathlib.Path) -> None:
    rows = 90_000
    table = frame(rows, flag="Yes", x=np.arange(rows) / 7, c="a").astype({"x": object})
    table.loc[rows - 2, "x"] = "unknown"
    path = write(tmp_path, "deep.csv", table)
    out = str(tmp_path / "out")
    assert predict_files(DatasetSpec(reader="csv", path=path), MODEL, out, Scoring(workers=1)) == rows - 1


@pytest.mark.parametrize("file_format", ["parquet", "csv"])
def test_a_table_without_rows_is_told_and_nothing_is_written(
    tmp_path: pathlib.Path, file_format: str
) -> None:
    path = write(tmp_path, "header.csv", frame(flag="Yes", x=1.0, c="a")[:0])
    told: list[str] = []
    data, out = DatasetSpec(reader="csv", path=path), str(tmp_path / "out")
    assert predict_files(data, MODEL, out, Scoring(workers=1), told.append, file_format=file_format) == 0
    assert any("has no rows, so nothing was scored" in line for line in told)
