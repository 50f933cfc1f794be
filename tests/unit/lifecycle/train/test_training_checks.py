"""The training set is looked at before it is trained on: its anomalies, and the rows of each slice in each split."""

import types
from typing import Any

import numpy as np
import pyarrow as pa

from raymlops.data import fitting
from raymlops.features import FittedFeatures, FittedTarget
from raymlops.lifecycle.train.training_checks import TrainingChecks, check_training_set
from raymlops.specs.dataset import DatasetSpec
from raymlops.specs.document import validate_document
from raymlops.specs.experiment import ExperimentSpec

TABLE = DatasetSpec(path="rows.csv")


class Rows:
    """A split as Ray Data gives it, in this process."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def iter_batches(self, batch_size: Any, batch_format: str) -> Any:
        yield self.table.slice(0, 0)
        yield self.table

    def schema(self, fetch_if_missing: bool) -> Any:
        return self.table.schema


def table_of(rows: int, place: str, high: float = 0.0) -> pa.Table:
    chance = np.random.default_rng(rows)
    return pa.table({
        "x": chance.normal(high, size=rows), "same": np.ones(rows),
        "place": [place if n % 3 else None for n in range(rows)], "y": [n % 4 == 0 for n in range(rows)],
    })  # fmt: skip


def check(slices: list[str]) -> TrainingChecks:
    spec = validate_document(
        {
            "name": "toy",
            "dataset": {"path": "rows.csv"},
            "features": {"target": {"column": "y"}, "numbers": ["x", "same"], "categories": ["place"]},
            "evaluation": {"slices": slices},
        },
        ExperimentSpec,
    )
    tables = {
        "train": table_of(400, "here"), "validation": table_of(120, "there", high=3.0), "test": table_of(80, "here"),
    }  # fmt: skip
    scanned = types.SimpleNamespace(
        fingerprint=types.SimpleNamespace(rows={name: one.num_rows for name, one in tables.items()})
    )
    rows: Any = types.SimpleNamespace(
        table=TABLE, scan=scanned, dataset=Rows(tables["train"]), of=lambda split: Rows(tables[split])
    )
    measured = fitting.measure_block(tables["train"], {"x": "number", "same": "number", "place": "category"},
                                     spec.features.target, (), None)  # fmt: skip
    profile = {name: one.to_json() for name, one in measured.items() if name != "types"}
    target = FittedTarget("y", "binary", "boolean", (False, True), (0.75, 0.25))
    return check_training_set(spec, rows, FittedFeatures((), target), profile)


def test_anomalies_are_told_by_column() -> None:
    found = check([])
    assert {(one.column, one.kind) for one in found.anomalies} == {
        ("x", "skew"), ("same", "constant"), ("place", "new values"),
    }  # fmt: skip
    told = found.describe()
    assert told.startswith("3 anomalies of the training set:")
    assert "'there'" in told


def test_the_rows_and_positives_of_each_slice_are_counted_in_each_split() -> None:
    found = check(["place", "unknown"])
    counts = {one.value: one for one in found.slices}
    assert counts["here"].rows == {"train": 266, "validation": 0, "test": 53}
    assert counts[""].rows == {"train": 134, "validation": 40, "test": 27}
    assert counts[""].means["train"] == sum(n % 12 == 0 for n in range(400)) / 134
    assert "place here: train 266" in found.describe()
    assert found.to_json()["slices"][0]["column"] == "place"
