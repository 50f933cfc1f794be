"""Small experiments: a table that holds a signal, and the spec that learns it."""

import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from raymlops.specs.document import validate_document
from raymlops.specs.experiment import ExperimentSpec


def signal_table(rows: int = 600, seed: int = 0) -> pa.Table:
    """Numbers, strings, booleans and timestamps, some missing; `late`, `kind`, `sure` and `price` follow from them."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=rows)
    z = draw.normal(size=rows)
    word = draw.choice(["red", "green", "blue"], size=rows)
    flag = draw.random(rows) < 0.4
    when = np.datetime64("2023-01-01", "ms") + draw.integers(0, 365 * 86_400, rows) * np.timedelta64(1, "s")
    total = 2 * x - z + (word == "red") + flag
    missing = draw.random(rows) < 0.05
    return pa.table(
        {
            "id": np.arange(rows),
            "x": pa.array(x, mask=missing),
            "z": z,
            "count": pa.array(draw.integers(0, 9, rows), mask=draw.random(rows) < 0.05),
            "word": pa.array(word, mask=draw.random(rows) < 0.05),
            "flag": pa.array(flag),
            "when": pa.array(when.astype("datetime64[ms]"), type=pa.timestamp("ms", tz="UTC")),
            "late": pa.array((total > 1).astype(np.int64)),
            "sure": pa.array(total > 1),
            "kind": pa.array(np.array(["low", "mid", "high"])[np.digitize(total, [0, 2])]),
            "price": pa.array(1000 + 50 * total),
        }
    )


def write_table(table: pa.Table, path: pathlib.Path) -> pathlib.Path:
    """Write by the ending of the path: .parquet, .csv or .json (lines)."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=100)
    elif path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    else:
        path.write_text(table.to_pandas().to_json(orient="records", lines=True, date_format="iso"))
    return path


def spec_of(name: str, dataset: dict[str, Any], target: str = "late", **parts: Any) -> ExperimentSpec:
    """A spec of two trials of two epochs, and fixed numbers for what it leaves open; `parts` replace whole parts of
    it."""
    value = {
        "name": name,
        "defaults": "fixed",
        "dataset": dataset,
        "features": {
            "target": {"column": target},
            "numbers": ["x", "z", "count"],
            "timestamps": ["when"],
            "columns": {
                "word": {"kind": "category", "min_count": 2},
                "flag": {"kind": "category", "min_count": 2},
            },
        },
        "network": {"options": {"hidden": 16, "dropout": 0.0}},
        "training": {"epochs": 2, "batch_size": 64, "lr": 0.02},
        "search": {
            "algorithm": "random",
            "scheduler": "none",
            "trials": 2,
            "space": {"lr": {"low": 0.005, "high": 0.05, "log": True}},
        },
    }
    return validate_document({**value, **parts}, ExperimentSpec)


class Told:
    """An observer that keeps what it is told of trials."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.reported: dict[str, list[int]] = {}
        self.ended: dict[str, str | None] = {}

    def trial_started(self, trial: str, parameters: Any) -> None:
        self.started.append(trial)

    def trial_reported(self, trial: str, learned: Any) -> None:
        self.reported.setdefault(trial, []).append(int(learned["epoch"]))

    def trial_ended(self, trial: str, error: str | None) -> None:
        self.ended[trial] = error
