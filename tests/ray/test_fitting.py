from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray.data

from raymlops.data import fitting, sources, target_values
from raymlops.errors import DataError
from raymlops.features import FittedFeatures
from raymlops.specs.dataset import ContractSpec, DatasetSpec
from raymlops.specs.features import FeaturesSpec
from tests import experiments

pytestmark = pytest.mark.usefixtures("ray_cluster")

TABLE = experiments.signal_table(800)
FEATURES = {
    "target": {"column": "late"},
    "numbers": ["x"],
    "timestamps": ["when"],
    "columns": {
        "z": {"kind": "number", "bins": 4},
        "word": {"kind": "category", "min_count": 1},
        "count": {"kind": "category", "min_count": 1, "max_values": 4},
    },
}


def fit(
    features: dict[str, Any], table: pa.Table = TABLE, blocks: int = 3, contract: dict[str, Any] | None = None
) -> FittedFeatures:
    spec, rules = FeaturesSpec.model_validate(features), ContractSpec.model_validate(contract or {})
    size = -(-table.num_rows // blocks)
    dataset = ray.data.from_arrow([table.slice(at, size) for at in range(0, table.num_rows, size)])
    with sources.reading(DatasetSpec(path="here")):
        return fitting.fit_features(fitting.measure_columns(dataset, spec), spec, rules)


def test_what_training_learns_of_each_column() -> None:
    fitted = fit(FEATURES)
    columns = {column.name: column for column in fitted.columns}
    x = np.array([value for value in TABLE["x"].to_pylist() if value is not None])
    assert columns["x"].mean == pytest.approx(x.mean())
    assert columns["x"].std == pytest.approx(x.std())
    assert columns["x"].indicator
    assert not columns["z"].indicator
    assert columns["z"].edges == pytest.approx(
        np.quantile(TABLE["z"].to_numpy(), [0, 0.25, 0.5, 0.75, 1]), abs=0.02
    )
    assert set(columns["word"].values) == {"red", "green", "blue"}
    assert len(columns["count"].values) == 4
    assert list(columns["count"].values) == sorted(columns["count"].values), (
        "trees split whole numbers by size"
    )
    assert columns["when"].spec.datatype == "INT64"
    assert FittedFeatures.from_json(fitted.to_json()) == fitted


def test_fitting_repeats_bit_for_bit() -> None:
    assert fit(FEATURES) == fit(FEATURES)


@pytest.mark.parametrize(
    ("target", "task", "classes"),
    [
        ({"column": "late"}, "binary", (0, 1)),
        ({"column": "late", "positive": 0}, "binary", (1, 0)),
        ({"column": "sure"}, "binary", (False, True)),
        ({"column": "kind"}, "multiclass", ("high", "low", "mid")),
        ({"column": "price"}, "regression", ()),
        ({"column": "id", "task": "regression"}, "regression", ()),
    ],
)
def test_the_task_and_the_classes_follow_from_the_target(
    target: dict[str, Any], task: str, classes: tuple[Any, ...]
) -> None:
    found = fit({"target": target, "numbers": ["x"]}).target
    assert (found.task, found.classes) == (task, classes)
    assert sum(found.shares) == pytest.approx(1 if classes else 0)


def test_a_rare_class_among_whole_floats_is_not_lost() -> None:
    """A reader makes floats of whole numbers where a column has nulls."""
    classes = np.zeros(6000)
    classes[1::2] = 1.0
    classes[17] = 2.0
    table = pa.table({"x": np.arange(6000.0), "y": classes})
    found = fit({"target": {"column": "y", "task": "multiclass"}, "numbers": ["x"]}, table).target
    assert found.classes == (0, 1, 2)
    assert found.shares == pytest.approx((0.5, 0.5, 1 / 6000), abs=0.001)


def test_a_contract_that_forbids_nulls_makes_a_strict_input() -> None:
    contract = {"columns": {"id": {"nulls": False}, "flag": {"nulls": False}}}
    features = {"target": {"column": "late"}, "numbers": ["id", "flag"]}
    assert [spec.datatype for spec in fit(features, contract=contract).inputs] == ["INT64", "BOOL"]
    assert [spec.datatype for spec in fit(features).inputs] == ["FP64", "FP32"]


def nulls_in(column: str, kind: pa.DataType | None = None) -> pa.Table:
    position = TABLE.column_names.index(column)
    return TABLE.set_column(position, column, pa.nulls(TABLE.num_rows, kind or TABLE[column].type))


@pytest.mark.parametrize(
    ("features", "table", "message"),
    [
        ({"numbers": ["x"]}, nulls_in("x"), "Column 'x' is null in all 800 training rows; leave it out"),
        ({"categories": ["word"]}, nulls_in("word"), "Column 'word' is null in all 800"),
        ({"categories": ["word"]}, nulls_in("word", pa.null()), "Column 'word' is null in all 800"),
        ({"timestamps": ["when"]}, nulls_in("when", pa.null()), "Column 'when' is null in all 800"),
        ({"numbers": ["xx"]}, TABLE, "features: Unknown column 'xx'; did you mean 'x'"),
        (
            {"numbers": ["word"]},
            TABLE,
            "Column 'word' is string, and a number feature takes number or integer",
        ),
        ({"categories": ["z"]}, TABLE, "Column 'z' is number, and a category feature takes string"),
        ({"numbers": ["x"], "target": {"column": "lat"}}, TABLE, "did you mean 'late'"),
        ({"numbers": ["x"], "target": {"column": "when"}}, TABLE, "Target 'when' is timestamp"),
        ({"numbers": ["x"], "target": {"column": "word"}}, TABLE, "Target 'word' is null in"),
        (
            {"numbers": ["x"], "target": {"column": "kind", "task": "binary"}},
            TABLE,
            "a binary task takes two",
        ),
        (
            {"numbers": ["x"], "target": {"column": "kind", "task": "regression"}},
            TABLE,
            "regression needs numbers",
        ),
        (
            {"numbers": ["x"], "target": {"column": "late", "positive": 7}},
            TABLE,
            "positive is 7, but the classes",
        ),
        (
            {"numbers": ["x"]},
            TABLE.filter(pa.array(TABLE["late"].to_numpy() == 1)),
            r"one class only \(\[1\]\)",
        ),
    ],
)
def test_what_teaches_nothing_is_refused(features: dict[str, Any], table: pa.Table, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit({"target": {"column": "late"}, **features}, table)


def test_infinities_count_as_missing() -> None:
    values = TABLE["z"].to_numpy().copy()
    values[:5] = [np.inf, -np.inf, np.nan, np.inf, 0]
    table = TABLE.set_column(TABLE.column_names.index("z"), "z", pa.array(values))
    column = fit({"target": {"column": "late"}, "numbers": ["z"]}, table).columns[0]
    assert column.indicator
    assert np.isfinite([column.mean, column.std, column.fill]).all()


def test_the_target_becomes_class_numbers_and_an_unseen_class_is_named() -> None:
    target = fit({"target": {"column": "kind"}, "numbers": ["x"]}).target
    column = pa.chunked_array([pa.array(["low", "high"])])
    assert target_values.encode_target(column, target).tolist() == [1, 0]
    with pytest.raises(DataError, match=r"classes \['huge'\] that no training row has"):
        target_values.encode_target(pa.chunked_array([pa.array(["huge"])]), target)
