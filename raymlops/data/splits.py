"""Assigns each row to training, validation or test; decided row by row, so that no shuffle is needed."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raymlops.data import rowhash
from raymlops.errors import DataError, unknown_name
from raymlops.specs.dataset import GroupSplit, RandomSplit, TimeSplit

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class SplitRule:
    """A split with what it learned from the data: the two times between its three parts."""

    spec: TimeSplit | RandomSplit | GroupSplit
    cuts: tuple[int, int] | None = None

    def assign(self, table: pa.Table) -> npt.NDArray[np.int8]:
        """0 train, 1 validation, 2 test, per row."""
        if isinstance(self.spec, TimeSplit):
            assert self.cuts is not None
            return np.searchsorted(
                np.array(self.cuts), to_instants(table, self.spec.column), side="right"
            ).astype(np.int8)
        if isinstance(self.spec, GroupSplit):
            hashes = rowhash.hash_rows(_select(table, self.spec.column), self.spec.seed)
        else:
            hashes = rowhash.hash_rows(table, self.spec.seed)
        uniform = hashes.astype(np.float64) / 2.0**64
        edges = np.cumsum(self.spec.fractions)[:2]
        return np.searchsorted(edges, uniform, side="right").astype(np.int8)


def to_instants(table: pa.Table, column: str) -> npt.NDArray[np.int64]:
    """A timestamp or integer column as integers in the same order. Raises DataError for nulls and other types."""
    values = _select(table, column)[column]
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        values = values.cast(pa.timestamp("ms"), safe=False).cast(pa.int64())
    if not pa.types.is_integer(values.type):
        raise DataError(
            f"split.column {column!r} is {values.type}; a split by time needs a timestamp or an "
            "integer column"
        )
    if values.null_count:
        raise DataError(
            f"split.column {column!r} has {values.null_count} nulls; filter them: dataset.where: "
            f"{column}.notna()"
        )
    return np.asarray(values.to_numpy(), dtype=np.int64)


def find_cuts(counts: Mapping[int, int], fractions: tuple[float, float, float]) -> tuple[int, int]:
    """The first times of validation and of test, from the number of rows at each time."""
    instants = np.array(sorted(counts), dtype=np.int64)
    before = np.cumsum([counts[int(instant)] for instant in instants])
    shares = np.cumsum(fractions)[:2] * before[-1]
    first, second = (
        int(instants[min(np.searchsorted(before, share, side="left") + 1, len(instants) - 1)])
        for share in shares
    )
    return first, second


def _select(table: pa.Table, column: str) -> pa.Table:
    if column not in table.column_names:
        raise DataError(f"split.column: {unknown_name('column', column, table.column_names)}")
    return table.select([column])
