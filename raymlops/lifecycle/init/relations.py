"""How columns of a sample relate to the target. Works in memory on at most as many rows as the sample has."""

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from raymlops.data.profiling import summaries, time_columns, written_numbers
from raymlops.data.profiling.roles import LEAK, Relations
from raymlops.data.profiling.target import Target
from raymlops.evaluation import leakage
from raymlops.metrics import METRICS
from raymlops.table_profile import ColumnProfile, TableProfile
from raymlops.tensors import Array, Batch

_FEWEST = 30
"""Rows below which relations say nothing."""
_PARTS = 4
"""Columns that a sum may have."""
_EXACT = 0.99995


@np.errstate(all="ignore")
def relate(table: TableProfile, sample: pa.Table, target: Target) -> Relations:
    """Each column's relation to the target; empty for a sample that is too small to tell."""
    labels, kept = _to_labels(sample, table.column(target.column), target)
    if len(labels) < _FEWEST:
        return Relations()
    columns: Batch = {}
    numbers: Batch = {}
    for column in table.columns:
        if column.name == target.column or column.kind in ("other", "nothing", "image"):
            continue
        values = to_values(sample[column.name], column)[kept]
        columns[column.name] = values
        if values.dtype.kind == "f" and column.kind != "timestamp" and not _is_dated(column):
            numbers[column.name] = values
    # Columns that tell rows apart have no value twice, and so no relation by values.
    alone = leakage.measure_columns(columns, labels, target.task)
    straight = {name: _measure_straight(values, labels, target.task) for name, values in numbers.items()}
    held = {name: max(alone[name], straight.get(name, 0.0)) for name in alone}
    sums: tuple[str, ...] = ()
    if target.task == "regression" and max(held.values(), default=0) < LEAK:
        sums = _find_sum(numbers, labels)
    return Relations(held, straight, sums)


def _to_labels(
    sample: pa.Table, column: ColumnProfile, target: Target
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """The target as the measure takes it, of the rows that have it, and which rows these are."""
    values = to_values(sample[column.name], column, as_number=target.task == "regression")
    if target.task == "regression":
        kept = np.isfinite(values)
        return values[kept], kept
    codes, _ = pd.factorize(pd.Series(values), use_na_sentinel=True)
    kept = codes >= 0
    if target.task == "binary":
        return (codes[kept] == 0).astype(np.float64), kept
    return codes[kept].astype(np.int64), kept


def to_values(column: pa.ChunkedArray, profile: ColumnProfile, *, as_number: bool = False) -> Array:
    """A column of a sample as floats, or as objects with None where missing."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if profile.text is not None and profile.text.formats:
        return time_columns.to_instants(column, profile.text.formats[0])
    if summaries.kind_of(array.type) == "text":
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        written = profile.text.written if profile.text is not None else ""
        if written and (as_number or profile.kind in ("number", "integer") or written != "plain"):
            return written_numbers.parse_numbers(array.cast(pa.string()), written)
        return np.asarray(array.to_pandas(), dtype=object)
    if summaries.kind_of(array.type) == "nothing":
        return np.full(len(array), np.nan)
    if profile.kind == "text":  # numbers in some blocks only
        return np.asarray(array.cast(pa.string()).to_pandas(), dtype=object)
    return summaries.to_floats(array)


def _is_dated(column: ColumnProfile) -> bool:
    """Whether it has times that are written as texts or numbers."""
    return column.text is not None and bool(column.text.formats)


def _measure_straight(values: Array, labels: Array, task: str) -> float:
    """By the order of numbers: ROC AUC on the better side, R2 of a line or ranks; errors that five ranges remove."""
    known = np.isfinite(values)
    if known.sum() < _FEWEST:
        return 0.0
    if task == "binary":
        found = METRICS["binary"]["roc_auc"](labels[known], values[known])
        return float(max(found, 1 - found))
    if task == "regression":
        ranks, wanted = (pd.Series(one[known]).rank().to_numpy() for one in (values, labels))
        return max(_correlate(values[known], labels[known]), _correlate(ranks, wanted)) ** 2
    edges = np.unique(np.quantile(values[known], (0.2, 0.4, 0.6, 0.8)))
    ranges = np.searchsorted(edges, values, side="right").astype(np.float64)
    ranges[~known] = np.nan
    return leakage.measure_columns({"": ranges}, labels, task)[""]


def _correlate(one: Array, other: Array) -> float:
    with np.errstate(all="ignore"):
        return float(abs(np.nan_to_num(np.corrcoef(one, other)[0, 1])))


def _find_sum(numbers: Batch, labels: Array) -> tuple[str, ...]:
    """Few columns of which the target is a weighted sum, found one by one: each explains most of what is left."""
    names = [name for name, values in numbers.items() if np.isfinite(values).all() and np.std(values) > 0]
    if not names or len(labels) < 20 * (_PARTS + 1):
        return ()
    table = np.column_stack([(numbers[name] - numbers[name].mean()) / numbers[name].std() for name in names])
    centred = labels - labels.mean()
    total = float(centred @ centred)
    chosen: list[int] = []
    left = centred
    for _ in range(_PARTS):
        scores = np.abs(table.T @ left)
        scores[chosen] = -1
        chosen.append(int(scores.argmax()))
        weights, *_ = np.linalg.lstsq(table[:, chosen], centred, rcond=None)
        left = centred - table[:, chosen] @ weights
        if total and 1 - float(left @ left) / total > _EXACT:
            return tuple(names[place] for place in sorted(chosen)) if len(chosen) > 1 else ()
    return ()


def find_everywhere(table: TableProfile, sample: pa.Table, target: Target) -> dict[str, bool]:
    """Column of times -> whether each class is in the first 70 % of the rows by it, in the next 15 and in the last."""
    if target.task == "regression":
        return {}
    labels, kept = _to_labels(sample, table.column(target.column), target)
    found = {}
    for column in table.columns:
        if (column.kind != "timestamp" and not _is_dated(column)) or column.nulls:
            continue
        times = to_values(sample[column.name], column)[kept]
        cuts = np.quantile(times, (0.7, 0.85)) if len(times) else np.zeros(2)
        parts = np.searchsorted(cuts, times, side="right")
        found[column.name] = all(
            len(np.unique(labels[parts == part])) == len(np.unique(labels)) for part in range(3)
        )
    return found
