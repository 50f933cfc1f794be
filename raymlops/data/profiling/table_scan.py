"""One pass over a table: summaries of its columns and rows, and a random sample, merged from blocks in their order."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from raymlops.data import scan
from raymlops.data.profiling import column_profiles, summaries
from raymlops.data.profiling.summaries import Column, Distinct
from raymlops.errors import DataError
from raymlops.table_profile import TableProfile

SAMPLE = 10_000
_ROUNDED_AWAY = 0.99
"""Share of distinct values from which on a column tells rows apart, and is left out of near-duplicates."""


@dataclasses.dataclass
class TableSummary:
    """All that a pass found."""

    columns: dict[str, Column] = dataclasses.field(default_factory=dict)
    rows: int = 0
    whole: Distinct = dataclasses.field(default_factory=lambda: Distinct(summaries.ROW_SKETCH))
    """Of whole rows."""
    near: Distinct = dataclasses.field(default_factory=lambda: Distinct(summaries.ROW_SKETCH))
    """Of rows without `apart`, rounded and folded."""
    sample: pa.Table | None = None
    priorities: Any = None


def scan_table(
    dataset: ray.data.Dataset, source: str, *, expected: int, apart: frozenset[str]
) -> TableSummary:
    """One pass over the rows; `expected` of them are about to come, and `apart` are the columns that name a row.

    Raises DataError if there are no rows, or blocks have no columns in common.
    """
    total = TableSummary()
    keep = min(1.0, 1.5 * SAMPLE / max(expected, 1))
    for part in scan.fold(dataset, _measure_block, apart=apart, keep=keep):
        _merge(total, part)
    if not total.rows:
        raise DataError(f"{source} has no rows; expected some below the header")
    return total


@np.errstate(all="ignore")  # numbers may be so large that their squares are infinite
def _measure_block(table: pa.Table, apart: frozenset[str], keep: float) -> TableSummary:
    if not table.num_rows or not table.num_columns:
        return TableSummary()
    whole = np.ones(table.num_rows, dtype=np.uint64)
    near = whole
    columns = {}
    for name in sorted(table.column_names):
        columns[name], hashes, rounded = summaries.measure(table[name])
        whole = summaries.combine(whole, hashes)
        if name not in apart:
            near = summaries.combine(near, rounded)
    columns = {name: columns[name] for name in table.column_names}
    priorities = summaries.mix(
        np.arange(table.num_rows, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + whole[0]
    )
    wanted = np.flatnonzero(priorities < np.uint64(min(keep, 1 - 2**-53) * 2.0**64))
    if len(wanted) > SAMPLE:
        wanted = np.sort(wanted[np.argpartition(priorities[wanted], SAMPLE)[:SAMPLE]])
    return TableSummary(
        columns,
        table.num_rows,
        Distinct.of(summaries.ROW_SKETCH, whole),
        Distinct.of(summaries.ROW_SKETCH, near),
        table.take(pa.array(wanted)).combine_chunks(),
        priorities[wanted],
    )


@np.errstate(all="ignore")
def _merge(total: TableSummary, part: TableSummary) -> None:
    if not part.rows:
        return
    for name, column in part.columns.items():
        if name in total.columns:
            total.columns[name] = total.columns[name].merge(column)
        else:
            total.columns[name] = _absent(total.rows).merge(column) if total.rows else column
    for name in total.columns.keys() - part.columns.keys():
        total.columns[name] = total.columns[name].merge(_absent(part.rows))
    total.rows += part.rows
    total.whole, total.near = total.whole.merge(part.whole), total.near.merge(part.near)
    if total.sample is None:
        total.sample, total.priorities = part.sample, part.priorities
        return
    total.sample = _concatenate(total.sample, part.sample)
    total.priorities = np.append(total.priorities, part.priorities)
    if len(total.priorities) > 2 * SAMPLE:
        _trim(total)


def _trim(total: TableSummary) -> None:
    assert total.sample is not None
    if len(total.priorities) > SAMPLE:
        kept = np.sort(np.argpartition(total.priorities, SAMPLE)[:SAMPLE])
        total.sample, total.priorities = total.sample.take(pa.array(kept)), total.priorities[kept]


def _absent(rows: int) -> Column:
    """The summary of a column that a block does not have."""
    return dataclasses.replace(summaries.measure(pa.chunked_array([pa.nulls(rows)]))[0], absent=rows)


def _concatenate(one: pa.Table, other: pa.Table) -> pa.Table:
    try:
        return pa.concat_tables([one, other], promote_options="permissive")
    except pa.ArrowException:  # a column of texts in one block and of numbers in another
        fields = {field.name: field for field in one.schema}
        for field in other.schema:
            if field.name in fields and fields[field.name].type != field.type:
                one, other = (
                    part.set_column(
                        part.column_names.index(field.name), field.name, part[field.name].cast(pa.string())
                    )
                    for part in (one, other)
                )
        return pa.concat_tables([one, other], promote_options="permissive")


@np.errstate(all="ignore")
def finish(total: TableSummary, source: str) -> tuple[TableProfile, pa.Table]:
    """The profile, and the sample of rows."""
    _trim(total)
    assert total.sample is not None
    first: dict[tuple[int, int], str] = {}
    columns = []
    for name, column in total.columns.items():
        key = (column.digest, column.nulls)
        twin = first.setdefault(key, name) if column.distinct.count > 1 else name
        columns.append(column_profiles.finish(name, column, "" if twin == name else twin))
    profile = TableProfile(
        source,
        total.rows,
        tuple(columns),
        round(total.whole.repeated * total.rows),
        round(total.near.repeated * total.rows),
        exact=not total.whole.full,
    )
    return profile, total.sample.combine_chunks()
