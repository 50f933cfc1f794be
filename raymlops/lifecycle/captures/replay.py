"""Asks another version what it would have answered to captured requests, and compares. Moves no alias, and writes
only predictions where it is told to."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from raymlops.captures.store import CaptureStore
from raymlops.data.captured import ALL, Wanted, read_captured
from raymlops.errors import DataError
from raymlops.lifecycle.batch.predict import Scoring, open_scorer, predict_dataset, require_empty
from raymlops.models.safety import Model
from raymlops.specs.graph import GraphSpec

_BEFORE = "captured__"
_EQUAL = 1e-6


@dataclasses.dataclass(frozen=True)
class OutputComparison:
    """An output of both. `changed` are rows whose values differ: numbers by more than a millionth, relative to the
    larger one, others at all. `mean` and `largest` are of the absolute differences of numbers, else None."""

    output: str
    rows: int
    changed: int
    mean: float | None = None
    largest: float | None = None


@dataclasses.dataclass(frozen=True)
class Replay:
    rows: int
    outputs: tuple[OutputComparison, ...]
    only_captured: tuple[str, ...]
    only_new: tuple[str, ...]


def replay(
    store: CaptureStore,
    model: str,
    other: Model | GraphSpec,
    wanted: Wanted = ALL,
    *,
    output: str = "",
    scoring: Scoring | None = None,
) -> Replay:
    """Score the captured inputs of `model` by `other` with the batch prediction, and compare each output of the same
    name with the captured answer. With `output`, both are also written there, as Parquet.

    Raises NotFoundError; DataError if `other` needs inputs that are not captured.
    """
    if output:
        require_empty(output)
    rows = read_captured(store, model, wanted)
    opened, _ = open_scorer(other)
    outputs = [spec.name for spec in opened.signature.outputs]
    columns = rows.columns() or []
    names = {spec.name for spec in opened.signature.inputs}
    if missing := sorted(names - set(columns)):
        raise DataError(
            f"The captured requests of {model!r} lack {', '.join(map(repr, missing))}, which the other version needs; "
            "see drop, hash and columns of capture"
        )
    before = {f"predicted_{name}": f"{_BEFORE}{name}" for name in outputs if f"predicted_{name}" in columns}
    own = [
        name for name in ("request_id", "request_row", "request_time", "request_version") if name in columns
    ]
    wanted_columns = [*own, *sorted(names - set(own)), *(name for name in before if name not in names)]
    chosen = rows.select_columns(wanted_columns).rename_columns(before)
    keep = (*own, *before.values())
    scored = predict_dataset(chosen, other, dataclasses.replace(scoring or Scoring(), keep=keep))
    if output:
        scored = scored.materialize()
        scored.write_parquet(output)
    shared = [name for name in outputs if f"{_BEFORE}{name}" in before.values()]
    captured = {name.removeprefix("predicted_") for name in columns if name.startswith("predicted_")}
    return _compare(
        scored, shared, tuple(sorted(captured - {*outputs})), tuple(sorted({*outputs} - captured))
    )


def _compare(
    scored: ray.data.Dataset, shared: list[str], only_captured: tuple[str, ...], only_new: tuple[str, ...]
) -> Replay:
    counted = scored.map_batches(
        _count, batch_format="pyarrow", batch_size=None, fn_kwargs={"outputs": shared}
    )
    parts = counted.take_all()
    total = sum(part["rows"] for part in parts if part["output"] == "")
    compared = []
    for name in shared:
        own = [part for part in parts if part["output"] == name]
        numeric = [part for part in own if part["numbers"]]
        values = sum(part["numbers"] for part in numeric)
        compared.append(
            OutputComparison(
                name,
                sum(part["rows"] for part in own),
                sum(part["changed"] for part in own),
                sum(part["sum"] for part in numeric) / values if values else None,
                max((part["largest"] for part in numeric), default=None),
            )
        )
    return Replay(total, tuple(compared), only_captured, only_new)


def _count(table: pa.Table, outputs: list[str]) -> pa.Table:
    """Sums of one block: rows, rows that changed, and of the differences of numbers."""
    made: list[dict[str, Any]] = [
        {"output": "", "rows": table.num_rows, "changed": 0, "numbers": 0, "sum": 0.0, "largest": 0.0}
    ]
    for name in outputs if table.num_columns else ():
        before, after = table[f"{_BEFORE}{name}"].to_pylist(), table[name].to_pylist()
        first, second = _to_numbers(before), _to_numbers(after)
        one = {"output": name, "rows": table.num_rows, "numbers": 0, "sum": 0.0, "largest": 0.0}
        if first is not None and second is not None and first.shape == second.shape:
            differences = np.abs(first - second)
            differences[np.isnan(first) & np.isnan(second)] = 0.0
            differences[first == second] = 0.0  # infinite ones
            scale = np.maximum(np.maximum(np.abs(first), np.abs(second)), 1.0)
            far = ~(differences <= _EQUAL * scale)
            finite = differences[np.isfinite(differences)]
            one |= {"changed": int(far.reshape(len(far), -1).any(axis=1).sum()), "numbers": int(finite.size)}
            one |= {"sum": float(finite.sum()), "largest": float(finite.max(initial=0.0))}
        else:
            one["changed"] = sum(a != b for a, b in zip(before, after, strict=True))
        made.append(one)
    return pa.Table.from_pylist(made)


def _to_numbers(values: list[Any]) -> Any:
    """As an array (rows, ...); None if they are no numbers, or lists of different lengths."""
    try:
        array = np.array([np.nan if value is None else value for value in values])
    except ValueError:
        return None
    return array.astype(np.float64) if array.dtype.kind in "iuf" else None
