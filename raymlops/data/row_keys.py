"""A key for each row of the table as it was read, before joins, filters and derived columns; and a number for each of
the rows that are identical. Both are the same whatever the order of rows and files and however they are cut into
blocks. Knows no split.
"""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raymlops.data import rowhash
from raymlops.data.rowhash import Hashes
from raymlops.tensors import Batch

COLUMN = "__row_key__"
"""Carries the keys from the reader to the split, which takes it away again."""
_MOST_REPEATS = 5_000_000
"""Pairs of a block and a key that are remembered, about 24 bytes each; beyond, identical rows share a side."""


def add_keys(table: pa.Table) -> pa.Table:
    """The block with the hash of each row's values in a column of its own."""
    if table.num_columns == 0:
        return table
    return table.append_column(COLUMN, pa.array(rowhash.hash_rows(table)))


def keys_of(table: pa.Table) -> Hashes:
    """What `add_keys` put there; for a table that no reader of ours made, the hash of its rows."""
    if COLUMN in table.column_names:
        return np.asarray(table[COLUMN].to_numpy(), dtype=np.uint64)
    return rowhash.hash_rows(table)


def drop_keys(table: pa.Table) -> pa.Table:
    """Without what `add_keys` put there."""
    return table.drop_columns([COLUMN]) if COLUMN in table.column_names else table


def name_block(keys: Hashes) -> tuple[int, int, int]:
    """Names a block by its rows, in any order: their number, and sums over their keys."""
    return len(keys), int(keys.sum(dtype=np.uint64)), int((keys * keys).sum(dtype=np.uint64))


@dataclasses.dataclass(frozen=True)
class Repeats:
    """How many rows with the same key stand in other blocks before this one, by block and key."""

    before: Mapping[tuple[int, int, int], tuple[Hashes, npt.NDArray[np.int64]]] = dataclasses.field(
        default_factory=dict
    )
    together: bool = False
    """There are too many to be numbered, so that identical rows share one place."""

    def to_arrays(self) -> Batch:
        """As arrays that can be stored: the names of blocks, and the keys of each with their numbers."""
        parts = list(self.before.values())
        return {
            "blocks": np.array([*self.before], dtype=np.uint64).reshape(-1, 3),
            "ends": np.cumsum([len(keys) for keys, _ in parts], dtype=np.int64),
            "keys": np.concatenate([np.zeros(0, np.uint64), *(keys for keys, _ in parts)]),
            "before": np.concatenate([np.zeros(0, np.int64), *(counts for _, counts in parts)]),
            "together": np.array(self.together),
        }

    @classmethod
    def from_arrays(cls, arrays: Batch) -> "Repeats":
        ends = arrays["ends"][:-1]
        keys, counts = np.split(arrays["keys"], ends), np.split(arrays["before"], ends)
        names = [(int(rows), int(one), int(two)) for rows, one, two in arrays["blocks"]]
        return cls(
            dict(zip(names, zip(keys, counts, strict=True), strict=True)) if names else {},
            bool(arrays["together"]),
        )

    def to_places(self, keys: Hashes) -> Hashes:
        """A hash for each row of a block: the key of the first of identical rows, and another one for each that
        follows. Which of identical rows is the first does not matter: nothing tells them apart."""
        if self.together:
            return keys
        numbers = _number(keys)
        given = self.before.get(name_block(keys))
        if given is not None:
            known, counts = given
            at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
            numbers = numbers + np.where(known[at] == keys, counts[at], 0)
        if not numbers.any():
            return keys
        return np.where(numbers == 0, keys, rowhash.mix(keys ^ rowhash.mix(numbers.astype(np.uint64))))


def find_repeats(blocks: Iterable[Hashes]) -> Repeats:
    """From the keys of all blocks, in any order. Blocks of the same rows get the same numbers."""
    named = {name_block(keys): keys for keys in blocks if len(keys)}
    names = sorted(named)
    seen: list[tuple[Hashes, npt.NDArray[np.int64], int]] = []
    for place, name in enumerate(names):
        found, counts = np.unique(named[name], return_counts=True)
        seen.append((found, counts, place))
    if not seen:
        return Repeats()
    keys = np.concatenate([found for found, _, _ in seen])
    counts = np.concatenate([count for _, count, _ in seen])
    places = np.concatenate([np.full(len(found), place, dtype=np.int32) for found, _, place in seen])
    order = np.lexsort((places, keys))
    keys, counts, places = keys[order], counts[order], places[order]
    same = np.append(False, keys[1:] == keys[:-1])  # in an earlier block, too
    if not same.any():
        return Repeats()
    if same.sum() > _MOST_REPEATS:
        return Repeats(together=True)
    total = np.cumsum(counts) - counts
    first = np.maximum.accumulate(np.where(same, 0, np.arange(len(keys))))
    before = total - total[first]
    return Repeats(
        {
            names[place]: (keys[same][own], before[same][own])
            for place in np.unique(places[same]).tolist()
            for own in (places[same] == place,)
        }
    )


def _number(keys: Hashes) -> npt.NDArray[np.int64]:
    """0 for the first row of each key, 1 for the second, and so on."""
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    same = np.append(False, ranked[1:] == ranked[:-1])
    first = np.maximum.accumulate(np.where(same, 0, np.arange(len(keys))))
    numbers = np.empty(len(keys), dtype=np.int64)
    numbers[order] = np.arange(len(keys)) - first
    return numbers
