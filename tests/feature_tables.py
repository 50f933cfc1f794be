"""Fitted features of every kind, tables with everything that goes wrong in them, and pandas' idea of their
encoding."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from raymlops.features import FittedColumn, FittedFeatures, FittedTarget
from raymlops.tensors import Batch

PARTS = ("hour", "weekday", "day", "month", "dayofyear", "elapsed")
_CYCLES = {"hour": 24.0, "weekday": 7.0, "day": 31.0, "month": 12.0, "dayofyear": 365.2425}

COLUMNS = (
    FittedColumn("x", "number", "number", indicator=True, fill=0.5, mean=0.25, std=2.0, clip=3.0),
    FittedColumn("many", "number", "integer", fill=7.0, mean=3.0, std=4.0, edges=(-8.0, 0.0, 1.0, 9.0)),
    FittedColumn("count", "number", "integer", nullable=False, mean=-1.0, std=5.0),
    FittedColumn("flag", "number", "boolean", indicator=True, fill=0.25, mean=0.25, std=0.5),
    FittedColumn("sure", "number", "boolean", nullable=False, mean=0.5, std=0.5),
    FittedColumn("word", "category", "string", values=("b", "a", "é")),
    FittedColumn("code", "category", "integer", values=(10, -3, 0)),
    FittedColumn("key", "category", "integer", nullable=False, values=(1, 2)),
    FittedColumn("yes", "category", "boolean", values=(1, 0)),
    FittedColumn("on", "category", "boolean", nullable=False, values=(0,)),
    FittedColumn("rare", "category", "string"),  # no value was frequent enough
    FittedColumn(
        "when", "timestamp", "timestamp", indicator=True, fill=9e11, mean=8e11, std=3e11, parts=PARTS
    ),
    FittedColumn("day", "timestamp", "timestamp", fill=0.0, parts=("weekday",)),
)
BINARY = FittedTarget("y", "binary", "integer", (0, 1), (0.5, 0.5))


def features_of(target: FittedTarget = BINARY, columns: tuple[FittedColumn, ...] = COLUMNS) -> FittedFeatures:
    return FittedFeatures(columns, target)


def random_table(rows: int, seed: int = 0) -> pa.Table:
    """Rows with missing, infinite and unseen values, from the years 1600 to 2300."""
    draw = np.random.default_rng(seed)

    def pick(values: list[Any], kind: pa.DataType) -> pa.Array:
        return pa.array([values[i] for i in draw.integers(0, len(values), rows)], type=kind)

    def instants(low: str, high: str) -> pa.Array:
        bounds = [int(np.datetime64(bound, "ms").astype(np.int64)) for bound in (low, high)]
        values = draw.integers(*bounds, size=rows)
        return pa.array(values, mask=draw.random(rows) < 0.2, type=pa.timestamp("ms", tz="UTC"))

    whole = [None, 0, 1, -3, 10, 2**30]
    return pa.table(
        {
            "x": pick([None, float("nan"), float("inf"), -float("inf"), 0.5, -1e9, 1e9, 1.25], pa.float64()),
            "many": pick(whole, pa.int64()),
            "count": pick(whole[1:], pa.int32()),
            "flag": pick([None, True, False], pa.bool_()),
            "sure": pick([True, False], pa.bool_()),
            "word": pick([None, "", "a", "b", "é", "unseen"], pa.string()),
            "code": pick(whole, pa.int64()),
            "key": pick([1, 2, 3], pa.int8()),
            "yes": pick([None, True, False], pa.bool_()),
            "on": pick([True, False], pa.bool_()),
            "rare": pick([None, "", "z"], pa.string()),
            "when": instants("1600-01-01", "2300-01-01"),
            "day": instants("1969-12-25", "1970-01-08"),
        }
    )


def packed_by_pandas(table: pa.Table, features: FittedFeatures) -> Batch:
    """The packed tensors of a table, worked out without ONNX."""
    numbers = features.of_kind("number")
    raw = {column.name: _to_floats(table, column.name) for column in numbers}
    filled = {c.name: np.where(np.isfinite(raw[c.name]), raw[c.name], np.float32(c.fill)) for c in numbers}
    parts = [((filled[c.name] - c.mean) / c.std).clip(-c.clip, c.clip) for c in numbers]
    for c in numbers:
        for low, high in zip(c.edges, c.edges[1:], strict=False):
            parts.append(((filled[c.name] - low) / (high - low)).clip(0, 1))
    parts += [~np.isfinite(raw[c.name]) for c in numbers if c.indicator]
    for column in features.of_kind("timestamp"):
        parts += _time_parts(table, column)
    ids = [_category_ids(table, column) for column in features.of_kind("category")]
    packed = {"numeric": np.stack(parts, axis=1).astype(np.float32)}
    return {**packed, "category": np.stack(ids, axis=1).astype(np.int64)} if ids else packed


def plain_by_pandas(table: pa.Table, features: FittedFeatures) -> np.ndarray[Any, Any]:
    """The tensor `plain` of a table, worked out without ONNX."""
    raw = [_to_floats(table, column.name) for column in features.of_kind("number")]
    parts = [np.where(np.isinf(values), np.nan, values) for values in raw]
    for column in features.of_kind("timestamp"):
        missing, values = _calendar(table, column)
        parts += [np.where(missing, np.nan, values[part]) for part in column.parts]
    return np.stack(parts, axis=1).astype(np.float32)


def _to_floats(table: pa.Table, name: str) -> np.ndarray[Any, Any]:
    return np.array(
        [np.nan if value is None else float(value) for value in table[name].to_pylist()], np.float32
    )


def _category_ids(table: pa.Table, column: FittedColumn) -> np.ndarray[Any, Any]:
    ids = {value: position + 1 for position, value in enumerate(column.values)}
    return np.array([ids.get(value, 0) for value in table[column.name].to_pylist()])


def _calendar(table: pa.Table, column: FittedColumn) -> tuple[Any, dict[str, Any]]:
    """Which instants are missing, and the parts of all, with those filled."""
    instants = pd.Series(table[column.name].cast(pa.timestamp("ms")).to_numpy())
    missing = instants.isna().to_numpy()
    when = instants.fillna(pd.Timestamp(int(column.fill), unit="ms")).astype("datetime64[ms]")
    midnight = when.dt.normalize()
    leap = when.dt.is_leap_year & (when.dt.day_of_year > 60)
    values = {
        "hour": (when - midnight).dt.total_seconds() / 3600,
        "weekday": when.dt.day_of_week,
        "day": when.dt.day - 1,
        "month": when.dt.month - 1,
        "dayofyear": when.dt.day_of_year - 1 - leap,  # 29 February shares its place with 1 March
    }
    milliseconds = when.to_numpy().astype("datetime64[ms]").astype(np.int64)
    found = {part: value.to_numpy().astype(np.float64) for part, value in values.items()}
    return missing, {**found, "elapsed": (milliseconds - column.mean) / column.std}


def _time_parts(table: pa.Table, column: FittedColumn) -> list[np.ndarray[Any, Any]]:
    missing, values = _calendar(table, column)
    parts: list[np.ndarray[Any, Any]] = []
    for part in column.parts:
        if part == "elapsed":
            parts.append(values[part])
            continue
        angle = values[part] * 2 * np.pi / _CYCLES[part]
        parts += [np.sin(angle), np.cos(angle)]
    return [*parts, missing] if column.indicator else parts
