"""A key for each row of the table as it was read, before joins, filters and derived columns; and a number for each of
the rows that are identical. Both are the same whatever the order of rows and files and however they are cut into
blocks. Knows no split.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from raymlops.data import rowhash
from raymlops.data.rowhash import Hashes
from raymlops.errors import DataError
from raymlops.tensors import Batch

COLUMNS = COLUMN, POSITION = "__row_key__", "__row_position__"
"""Carry each row's key, and a number that no other row has, from the reader to the split, which takes them away."""
_MOST_REPEATS = 5_000_000
"""Pairs of a block and a key that are remembered, about 24 bytes each; beyond, identical rows share a side."""
Name = tuple[int, int, int]
"""Names a block: the position of its first row, the number of its rows, and the sum of their keys."""
Counts = npt.NDArray[np.int64]


def add_keys(table: pa.Table) -> pa.Table:
    """The block with the hash of each row's values in a column of its own."""
    if table.num_columns == 0:
        return table
    refuse_taken(name for name in table.column_names if name != POSITION)
    return table.append_column(COLUMN, pa.array(hash_values(drop_keys(table))))


def refuse_taken(names: Iterable[str]) -> None:
    """Raises DataError for a column of a table that has the name of one of `COLUMNS`."""
    for name in names:
        if name in COLUMNS:
            raise DataError(
                f"Column {name!r} has a name that raymlops needs for itself; rename it in the table"
            )


def hash_values(table: pa.Table) -> Hashes:
    """The hash of each row's values. A value has the same one whether it was read as a number, a boolean or a time, or
    as the text of one: readers that infer types do so by file, and a value that does not fit makes a column text.
    Fractions count as FP32 has them, so that a table that is stored anew in FP32 keeps its keys."""
    return rowhash.hash_rows(table, hash_values=hash_column)


def hash_column(column: pa.ChunkedArray) -> Hashes:
    """One hash per value, the same in every type that it may be read in; see `hash_values`."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
        kind = column.type
    if pa.types.is_date(kind):
        return rowhash.hash_column(column.cast(pa.timestamp("ms")))
    if pa.types.is_floating(kind):
        values = np.asarray(column.to_numpy(), dtype=np.float64)
        return np.where(np.isnan(values), np.uint64(0), rowhash.hash_numbers(_round_fractions(values)))
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return rowhash.hash_column(column)
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    words = pd.Series(encoded.dictionary.to_pylist(), dtype=object)
    hashes = rowhash.hash_column(pa.chunked_array([encoded.dictionary]))
    numbers = pd.to_numeric(words.replace(_BOOLEANS), errors="coerce").to_numpy(np.float64, copy=True)
    times = np.flatnonzero(np.isnan(numbers) & words.str.fullmatch(_TIME).fillna(False).to_numpy(bool))
    instants = pd.to_datetime(words.iloc[times], format="ISO8601", errors="coerce", utc=True)
    milliseconds = instants.dt.tz_localize(None).to_numpy().astype("datetime64[ms]")
    numbers[times] = np.where(np.isnat(milliseconds), np.nan, milliseconds.astype(np.int64))
    hashes = np.where(np.isnan(numbers), hashes, rowhash.hash_numbers(_round_fractions(numbers)))
    positions = np.asarray(pc.fill_null(encoded.indices, len(hashes)).to_numpy(), dtype=np.int64)
    return np.append(hashes, np.uint64(0))[positions]


def _round_fractions(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Numbers with a fraction as FP32 holds them; whole ones, and those beyond it, as they are."""
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32).astype(np.float64)
    return np.where((np.floor(values) == values) | np.isinf(rounded), values, rounded)


_BOOLEANS = {"true": 1, "True": 1, "TRUE": 1, "false": 0, "False": 0, "FALSE": 0}
_TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]{1,9})?)?)?Z?"


def keys_of(table: pa.Table) -> Hashes:
    """What `add_keys` put there; for a table that no reader of ours made, the hash of its rows."""
    if COLUMN in table.column_names:
        return np.asarray(table[COLUMN].to_numpy(), dtype=np.uint64)
    return rowhash.hash_rows(table)


def columns_of(table: pa.Table) -> tuple[str, ...]:
    """The columns that the keys are of, in the order of their names: those that were there when keys were added, since
    joins and derived columns come behind. All, for a table without keys."""
    names = table.column_names
    ends = [names.index(name) for name in COLUMNS if name in names]
    return tuple(sorted(names[: min(ends, default=len(names))]))


def drop_keys(table: pa.Table) -> pa.Table:
    """Without what `add_keys` put there."""
    held = [name for name in COLUMNS if name in table.column_names]
    return table.drop_columns(held) if held else table


def name_block(table: pa.Table, keys: Hashes) -> Name:
    """The name of a block by its rows, in any order. Where they have no positions, blocks of equal rows share one."""
    if POSITION in table.column_names and len(keys):
        first = int(np.asarray(table[POSITION].to_numpy()).min())
    else:
        first = int((keys * keys).sum(dtype=np.uint64))
    return first, len(keys), int(keys.sum(dtype=np.uint64))


@dataclasses.dataclass(frozen=True)
class Repeats:
    """How many rows with the same key stand in other blocks before this one, by block and key."""

    before: Mapping[Name, tuple[Hashes, Counts]] = dataclasses.field(default_factory=dict)
    """Of the blocks where there are any, with the keys in order."""
    blocks: frozenset[Name] = frozenset()
    """All blocks of the table; empty if no row is repeated."""
    together: bool = False
    """There are too many to be numbered, so that identical rows share one place."""

    def to_arrays(self) -> Batch:
        """As arrays that can be stored: the names of blocks, and the keys of each with their numbers."""
        names = sorted(self.blocks)
        nothing = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        parts = [self.before.get(name, nothing) for name in names]
        return {
            "blocks": np.array(names, dtype=np.uint64).reshape(-1, 3),
            "ends": np.cumsum([len(keys) for keys, _ in parts], dtype=np.int64),
            "keys": np.concatenate([nothing[0], *(keys for keys, _ in parts)]),
            "before": np.concatenate([nothing[1], *(counts for _, counts in parts)]),
            "together": np.array(self.together),
        }

    @classmethod
    def from_arrays(cls, arrays: Batch) -> "Repeats":
        ends = arrays["ends"][:-1]
        keys, counts = np.split(arrays["keys"], ends), np.split(arrays["before"], ends)
        names = [(int(first), int(rows), int(total)) for first, rows, total in arrays["blocks"]]
        parts = zip(names, keys, counts, strict=False)  # without a block, there is still one empty part
        before = {name: (own, numbers) for name, own, numbers in parts if len(own)}
        return cls(before, frozenset(names), bool(arrays["together"]))

    def to_places(self, keys: Hashes, name: Name) -> Hashes:
        """A hash for each row of a block: the key of the first of identical rows, and another one for each that
        follows. Which of identical rows is the first does not matter: nothing tells them apart.

        Raises DataError for a block that the scan did not see.
        """
        if self.together or not self.blocks or not len(keys):
            return keys
        if name not in self.blocks:
            raise DataError(
                "The table was read in other blocks than when it was scanned, so that its identical rows cannot be "
                "told apart as before; set dataset.cache: true, or fix the blocks by "
                "dataset.options.override_num_blocks"
            )
        numbers = number_equal(keys)
        if name in self.before:
            known, counts = self.before[name]
            at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
            numbers = numbers + np.where(known[at] == keys, counts[at], 0)
        if not numbers.any():
            return keys
        return np.where(numbers == 0, keys, rowhash.mix(keys ^ rowhash.mix(numbers.astype(np.uint64))))


def find_repeats(blocks: Sequence[tuple[Name, Hashes]]) -> Repeats:
    """From the names and keys of all blocks, in any order. Takes about 16 bytes a row of memory at once."""
    held = dict(blocks)
    ranked = np.sort(np.concatenate([np.zeros(0, np.uint64), *held.values()]))
    repeated = np.unique(ranked[1:][ranked[1:] == ranked[:-1]])
    del ranked
    if not len(repeated):
        return Repeats()
    running = np.zeros(len(repeated), dtype=np.int64)
    before, pairs = {}, 0
    for name, keys in sorted(held.items(), key=lambda item: item[0]):
        at = np.minimum(np.searchsorted(repeated, keys), len(repeated) - 1)
        found, counts = np.unique(at[repeated[at] == keys], return_counts=True)
        later = running[found] > 0
        if later.any():
            before[name] = repeated[found[later]], running[found[later]]
        running[found] += counts
        pairs += int(later.sum())
        if pairs > _MOST_REPEATS:
            return Repeats(together=True)
    return Repeats(before, frozenset(held))


def number_equal(keys: Hashes) -> Counts:
    """0 for the first row of each key, 1 for the second, and so on."""
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    same = np.append(False, ranked[1:] == ranked[:-1])
    first = np.maximum.accumulate(np.where(same, 0, np.arange(len(keys))))
    numbers = np.empty(len(keys), dtype=np.int64)
    numbers[order] = np.arange(len(keys)) - first
    return numbers
