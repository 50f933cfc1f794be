"""Which rows a version was trained on, in at most a few MB: a Bloom filter (Bloom 1970) of the keys of its training
rows, and one of its validation rows, by which it was chosen. Knows no model and no gate.

A row that was in training is always found. A row that was not is taken for one in `FALSE_SHARE` of cases. Beyond `MOST`
training rows, filters hold those of a part of all keys, and the rows of other keys are not known.
"""

import base64
import dataclasses
import math
import zlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raymlops.data import row_keys, rowhash
from raymlops.data.rowhash import Hashes
from raymlops.errors import SpecError

MOST = 2**20
"""Keys in a filter, at 10 bits each."""
_BITS, _PROBES = 10, 7
FALSE_SHARE = (1 - math.exp(-_PROBES / _BITS)) ** _PROBES
"""0.8%: of the rows that were in no training, those that are taken for such."""
_TEST_SAMPLE = 4096
"""Test rows that are kept."""
NEW, TRAIN, VALIDATION, SAMPLED_OUT, UNKNOWN = range(5)
"""What a row is to a version: none of its rows, one of its training or validation, one that its sample leaves out, or
not known, since the table lacks columns of its rows."""
Marks = npt.NDArray[np.int8]


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingRows:
    """The rows of a training, by their keys and, for identical rows, their numbers."""

    columns: tuple[str, ...]
    """Of the table as it was read, in order of their names: the keys are of these."""
    numbered: bool
    """Whether identical rows were told apart by numbers; else all of them were on one side."""
    shift: int
    """Only keys whose mixed value starts with so many zero bits are held."""
    rows: Mapping[str, int]
    """Side -> its number of rows."""
    train: npt.NDArray[np.uint8]
    """Bits of a filter."""
    validation: npt.NDArray[np.uint8]
    test: npt.NDArray[np.uint64]
    """(2, rows): keys of a sample of test rows, and keys with their numbers."""

    def find(self, keys: Hashes, places: Hashes) -> Marks:
        """What each row is to the version, by its key, and by its key with its number (row_keys.Repeats)."""
        wanted = places if self.numbered else keys
        marks = np.full(len(keys), NEW, dtype=np.int8)
        marks[_holds(self.validation, wanted)] = VALIDATION
        marks[_holds(self.train, wanted)] = TRAIN
        marks[~is_sampled(keys, self.shift)] = SAMPLED_OUT
        return marks

    def share_of(self, other: "TrainingRows") -> float | None:
        """About which share of the test rows of `other` were its training rows; None if that cannot be told: the keys
        are of other columns, or too few rows are in both samples."""
        if self.columns != other.columns:
            return None
        marks = self.find(*other.test)
        known = marks != SAMPLED_OUT
        if known.sum() < min(100, other.rows["test"]):
            return None
        return to_share(int((marks == TRAIN).sum()), int(known.sum()))

    def to_json(self) -> dict[str, Any]:
        return {
            "columns": list(self.columns),
            "numbered": self.numbered,
            "shift": self.shift,
            "rows": dict(self.rows),
            "false_share": FALSE_SHARE,
            **{name: _to_text(getattr(self, name)) for name in ("train", "validation", "test")},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "TrainingRows":
        """Raises SpecError if it is not what `to_json` gives."""
        try:
            return cls(
                tuple(str(name) for name in value["columns"]),
                bool(value["numbered"]),
                int(value["shift"]),
                {str(side): int(count) for side, count in value["rows"].items()},
                _from_text(value["train"]),
                _from_text(value["validation"]),
                _from_text(value["test"]).view("<u8").astype(np.uint64).reshape(2, -1),
            )
        except (KeyError, TypeError, ValueError, AttributeError, zlib.error) as error:
            raise SpecError(f"The record of training rows cannot be read: {error}") from None


def add_marks(
    kept: pa.Table,
    table: pa.Table,
    holds: npt.NDArray[np.bool_],
    known: Mapping[str, TrainingRows],
    repeats: row_keys.Repeats,
    changed: Collection[str],
) -> pa.Table:
    """The rows of a block that are kept, with a column for each of `known`: what a row is to the version.

    `table` is the whole block with its keys, and `holds` says which of its rows are kept.
    """
    if not known:
        return kept
    keys = row_keys.keys_of(table)
    places = repeats.to_places(keys, row_keys.name_block(table, keys))
    for name, training in known.items():
        marks = mark_rows(table, places, training, changed)
        kept = kept.append_column(name, pa.array(marks[holds]))
    return kept


def mark_rows(table: pa.Table, places: Hashes, training: TrainingRows, changed: Collection[str]) -> Marks:
    """What each row of a block is to a version. `places` are its keys with their numbers, `changed` the columns that no
    longer have the values that were read."""
    columns, keys = row_keys.columns_of(table), row_keys.keys_of(table)
    if columns == training.columns:
        return training.find(keys, places)
    if not set(training.columns) <= set(columns) - set(changed):
        return np.full(len(keys), UNKNOWN, dtype=np.int8)
    # The table has got more columns since; identical rows count as the first of them.
    keys = row_keys.hash_values(table.select(list(training.columns)))
    return training.find(keys, keys)


def shift_for(rows: int) -> int:
    """How many bits of keys must be zero so that about `MOST` of so many rows are held."""
    return max(0, math.ceil(math.log2(max(1, rows) / MOST)))


def is_sampled(keys: Hashes, shift: int) -> npt.NDArray[np.bool_]:
    if not shift:
        return np.ones(len(keys), dtype=bool)
    return np.asarray(rowhash.mix(keys) >> np.uint64(64 - shift) == 0)


def to_filter(keys: Hashes) -> npt.NDArray[np.uint8]:
    """The bits of a Bloom filter that holds them."""
    bits = np.zeros(max(8, -(-len(keys) * _BITS // 8) * 8), dtype=np.uint8)
    for places in _probe(keys, len(bits)):
        bits[places] = 1
    return np.packbits(bits)


def sample_rows(keys: Hashes, places: Hashes) -> npt.NDArray[np.uint64]:
    """(2, rows): some of them, which depend on the rows alone."""
    least = np.argsort(rowhash.mix(places), kind="stable")[:_TEST_SAMPLE]
    return np.stack([keys[least], places[least]])


def to_share(found: int, rows: int) -> float:
    """The share of rows that were in a training, of so many that the filter took for such."""
    return max(0.0, (found / rows - FALSE_SHARE) / (1 - FALSE_SHARE)) if rows else 0.0


def _holds(packed: npt.NDArray[np.uint8], keys: Hashes) -> npt.NDArray[np.bool_]:
    held = np.ones(len(keys), dtype=bool)
    for places in _probe(keys, 8 * len(packed)):
        held &= (packed[places >> 3] >> (7 - (places & 7)).astype(np.uint8)) & 1 == 1
    return held


def _probe(keys: Hashes, bits: int) -> Iterable[npt.NDArray[np.int64]]:
    """Places of each key by double hashing (Kirsch, Mitzenmacher 2006)."""
    first, step = rowhash.mix(keys), rowhash.mix(~keys) | np.uint64(1)
    for number in range(_PROBES):
        with np.errstate(over="ignore"):
            yield ((first + np.uint64(number) * step) % np.uint64(bits)).astype(np.int64)


def _to_text(values: npt.NDArray[Any]) -> str:
    plain = values.astype("<u8") if values.dtype == np.uint64 else values
    return base64.b64encode(zlib.compress(plain.tobytes(), 6)).decode()


def _from_text(text: str) -> npt.NDArray[np.uint8]:
    inflate = zlib.decompressobj()
    content = inflate.decompress(base64.b64decode(text, validate=True), 4 * MOST)
    if inflate.unconsumed_tail:
        raise ValueError("a filter is larger than any that is made")
    return np.frombuffer(content, dtype=np.uint8)
