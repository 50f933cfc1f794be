"""Says for each row whether it trains, validates or tests; decided row by row, so that no shuffle is needed.

From `SMALL` rows on, the hash of a row's key alone decides, compared with the shares: appended rows move no other.
Below, the shares are made exact within each class of the target by the order of these hashes, so that small tables have
every class on every side; appended rows may then move others.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raymlops.data import row_keys, rowhash
from raymlops.data.rowhash import Hashes
from raymlops.errors import DataError, unknown_name
from raymlops.specs.dataset import GroupSplit, RandomSplit, TimeSplit
from raymlops.tensors import Batch

SPLITS = ("train", "validation", "test")
SMALL = 10_000
"""Rows below which shares are made exact."""
GAP = 3
"""The side of rows that a split by time leaves out."""
_MOST_CLASSES = 50
"""Distinct values of the target up to which each is a class; more, of numbers, are cut into quantiles."""
_QUANTILES = 10
Sides = npt.NDArray[np.int8]


@dataclasses.dataclass(frozen=True)
class SplitRule:
    """A split with what it had to learn from the data."""

    spec: TimeSplit | RandomSplit | GroupSplit
    cuts: tuple[int, int] | None = None
    """By time: the first instants of validation and of test."""
    target: str = ""
    """Column whose classes small tables have on every side; empty for none."""
    repeats: row_keys.Repeats = dataclasses.field(default_factory=row_keys.Repeats)
    exact: tuple[Hashes, Sides] | None = None
    """Of a small table: the places of its rows in order, and the side of each."""
    fold: tuple[int, int] | None = None
    """The number of a fold, and how many there are: it tests, the next one validates, the others train; `fractions` do
    not count."""

    def to_arrays(self) -> Batch:
        """What it learned of rows, as arrays that can be stored."""
        return self.repeats.to_arrays() | (
            {} if self.exact is None else {"places": self.exact[0], "sides": self.exact[1]}
        )

    @classmethod
    def from_arrays(
        cls,
        arrays: Batch,
        spec: TimeSplit | RandomSplit | GroupSplit,
        cuts: tuple[int, int] | None,
        target: str,
    ) -> "SplitRule":
        exact = (arrays["places"], arrays["sides"]) if "places" in arrays else None
        return cls(spec, cuts, target, row_keys.Repeats.from_arrays(arrays), exact)

    @property
    def numbers_repeats(self) -> bool:
        """Whether identical rows have places of their own; else those of one group or key share one."""
        return isinstance(self.spec, RandomSplit) and not self.spec.key and self.spec.version > 1

    @property
    def shares_exactly(self) -> bool:
        """Whether the shares of small tables are made exact."""
        return not isinstance(self.spec, TimeSplit) and self.spec.version > 1

    def assign(self, table: pa.Table, kept: npt.NDArray[np.bool_] | None = None) -> Sides:
        """0 train, 1 validation, 2 test, `GAP` none of them, for each of the `kept` rows (all by default) of a whole
        block."""
        rows = table if kept is None else table.filter(pa.array(kept))
        if isinstance(self.spec, TimeSplit):
            return self.cut(to_instants(rows, self.spec.column), self.gap_in(rows))
        if self.numbers_repeats:
            keys = row_keys.keys_of(table)
            places = self.number(keys, row_keys.name_block(table, keys))
            return self.to_sides(places if kept is None else places[kept])
        return self.to_sides(self.to_places(rows))

    def number(self, keys: Hashes, name: row_keys.Name) -> Hashes:
        """The places of a whole block's rows by their keys; identical rows have different ones."""
        return self._salt(self.repeats.to_places(keys, name))

    def to_places(self, rows: pa.Table) -> Hashes:
        """The places of rows by their group or key."""
        assert not isinstance(self.spec, TimeSplit)
        if self.spec.version == 1:
            if isinstance(self.spec, GroupSplit):
                return rowhash.hash_rows(_select(rows, self.spec.column), self.spec.seed)
            return rowhash.hash_rows(row_keys.drop_keys(rows), self.spec.seed)
        if isinstance(self.spec, GroupSplit):
            return self._salt(hash_groups(rows, self.spec.column))
        assert isinstance(self.spec, RandomSplit)
        return self._salt(row_keys.hash_values(_select(rows, *self.spec.key, option="key")))

    def to_sides(self, places: Hashes) -> Sides:
        if self.exact is not None:
            known, sides = self.exact
            return sides[np.minimum(np.searchsorted(known, places), len(known) - 1)]
        uniform = places.astype(np.float64) / 2.0**64
        if self.fold is not None:
            return self.to_fold_sides(np.minimum(uniform * self.fold[1], self.fold[1] - 1).astype(np.int64))
        return np.searchsorted(np.cumsum(self.spec.fractions)[:2], uniform, side="right").astype(np.int8)

    def share_exactly(self, places: Hashes, classes: Hashes) -> tuple[Hashes, Sides]:
        """The sides of all rows of a small table, by their places in order."""
        if self.fold is not None:
            count = self.fold[1]
            by_row = self.numbers_repeats
            known, folds = fold_classes(places, classes, count) if by_row else fold_groups(places, count)
            return known, self.to_fold_sides(folds)
        if self.numbers_repeats:
            return share_classes(places, classes, self.spec.fractions)
        return share_groups(places, self.spec.fractions)

    def to_fold_sides(self, folds: npt.NDArray[np.int64]) -> Sides:
        assert self.fold is not None
        number, count = self.fold
        sides = np.zeros(len(folds), dtype=np.int8)
        sides[folds == (number + 1) % count] = 1
        sides[folds == number] = 2
        return sides

    def cut(self, instants: npt.NDArray[np.int64], gap: int) -> Sides:
        """By time; rows within `gap` before a cut are of no side."""
        assert self.cuts is not None
        sides = np.searchsorted(np.array(self.cuts), instants, side="right").astype(np.int8)
        for cut in self.cuts if gap else ():
            sides[(instants < cut) & (instants >= cut - gap)] = GAP
        return sides

    def gap_in(self, rows: pa.Table) -> int:
        """The gap in the units of `to_instants`. Raises DataError for a duration beside whole numbers."""
        spec = self.spec
        assert isinstance(spec, TimeSplit)
        if not spec.gap:
            return 0
        whole = pa.types.is_integer(_select(rows, spec.column)[spec.column].type)
        if whole != isinstance(spec.gap, int):
            found, wanted = (
                ("whole numbers", "a whole number") if whole else ("instants", "a time such as 7d")
            )
            raise DataError(
                f"split.gap is {spec.gap!r}, and column {spec.column!r} has {found}; give {wanted}"
            )
        return spec.gap if isinstance(spec.gap, int) else spec.gap_ms

    def _salt(self, places: Hashes) -> Hashes:
        assert not isinstance(self.spec, TimeSplit)
        salt = rowhash.mix(np.array([(self.spec.seed & 0xFFFFFFFF) + 1], dtype=np.uint64))
        return rowhash.mix(places ^ salt)


def hash_groups(table: pa.Table, column: str) -> Hashes:
    """One hash a group; rows without a group are groups of their own, by their keys."""
    groups = _select(table, column)[column]
    missing = np.asarray(pc.is_null(groups, nan_is_null=True))
    hashes = rowhash.mix(row_keys.hash_column(groups))
    return np.where(missing, row_keys.keys_of(table), hashes) if missing.any() else hashes


def share_classes(places: Hashes, classes: Hashes, fractions: Sequence[float]) -> tuple[Hashes, Sides]:
    """`classes` are hashes of what each row is of. Within each class the first rows by place train, the next validate,
    the last test, in numbers as near to the shares as whole rows allow."""
    known, first = np.unique(places, return_index=True)
    sides = np.zeros(len(known), dtype=np.int8)
    for members in _group(classes[first]):
        sides[members] = _deal(len(members), fractions)
    return known, sides


def share_groups(places: Hashes, fractions: Sequence[float]) -> tuple[Hashes, Sides]:
    """Rows of one place stay together; the sides have as many rows as that allows, none empty where there are three
    places."""
    known, counts = np.unique(places, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    first, second = np.searchsorted(middle, np.cumsum(fractions)[:2] * counts.sum())
    if len(known) >= 3:
        first = min(max(first, 1), len(known) - 2)
        second = min(max(second, first + 1), len(known) - 1)
    return known, np.repeat(np.arange(3, dtype=np.int8), [first, second - first, len(known) - second])


def fold_classes(places: Hashes, classes: Hashes, count: int) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """The places in order, and the fold of each: all have equally many rows of each class, but for one."""
    known, first = np.unique(places, return_index=True)
    folds = np.zeros(len(known), dtype=np.int64)
    folds[np.concatenate([folds[:0], *_group(classes[first])])] = np.arange(len(known)) % count
    return known, folds


def fold_groups(places: Hashes, count: int) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """The same for rows that stay together, with about equally many rows."""
    known, counts = np.unique(places, return_counts=True)
    return known, ((np.cumsum(counts) - counts / 2) / counts.sum() * count).astype(np.int64)


def _group(classes: Hashes) -> list[npt.NDArray[np.int64]]:
    order = np.argsort(classes, kind="stable")
    ends = np.flatnonzero(np.diff(classes[order])) + 1
    return [np.sort(part) for part in np.split(order, ends) if len(part)]


def _deal(rows: int, fractions: Sequence[float]) -> Sides:
    """The sides of so many rows: as near to the shares as whole rows allow, none empty where there are three."""
    wanted = [share * rows for share in fractions]
    numbers = [math.floor(share) for share in wanted]
    rest = sorted(range(3), key=lambda side: (numbers[side] - wanted[side], side))
    for side in rest[: rows - sum(numbers)]:
        numbers[side] += 1
    if rows >= 3:
        for side in range(3):
            if numbers[side] == 0:
                numbers[side] += 1
                numbers[int(np.argmax(numbers))] -= 1
    return np.repeat(np.arange(3, dtype=np.int8), numbers)


def classes_of(column: pa.ChunkedArray) -> Hashes:
    """A hash of the class that each row's target is of: its value, or of many numbers the quantile."""
    hashes = rowhash.hash_column(column)
    kind = column.type
    if len(np.unique(hashes)) <= _MOST_CLASSES or not (
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    ):
        return hashes
    values = np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
    edges = np.nanquantile(values, np.linspace(0, 1, _QUANTILES + 1)[1:-1])
    return np.where(np.isnan(values), _QUANTILES, np.searchsorted(edges, values)).astype(np.uint64)


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
    """The first times of validation and of test, from the number of rows at each time; each side has one, where there
    are three."""
    instants = np.array(sorted(counts), dtype=np.int64)
    before = np.cumsum([counts[int(instant)] for instant in instants])
    shares = np.cumsum(fractions)[:2] * before[-1]
    first, second = (
        min(int(np.searchsorted(before, share, side="left")) + 1, len(instants) - 1) for share in shares
    )
    if first == second and len(instants) >= 3:  # so many rows share one time that nothing is left to validate
        first = min(first, len(instants) - 2)
        second = first + 1
    return int(instants[first]), int(instants[second])


def _select(table: pa.Table, *columns: str, option: str = "column") -> pa.Table:
    for column in columns:
        if column not in table.column_names:
            names = [name for name in table.column_names if name not in row_keys.COLUMNS]
            raise DataError(f"split.{option}: {unknown_name('column', column, names)}")
    return table.select(list(columns))
