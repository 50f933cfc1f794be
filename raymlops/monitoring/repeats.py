"""Repeated rows: hashes of rows as a small map of bits. Replicas join theirs by OR, and how many bits are set tells
about how many rows differ."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.monitoring.ticks import REPEAT_BITS

Hashes = npt.NDArray[np.uint64]

_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


def hash_rows(batch: Mapping[str, npt.NDArray[Any]], rows: int) -> Hashes:
    """(rows,), of arrays (rows, ...) by name; the same in all processes. Arrays of another length are left out."""
    held = np.full(rows, _ODD, np.uint64)
    for name in sorted(batch):
        values = batch[name]
        if values.ndim and len(values) == rows:
            held = _scramble(held ^ _hash_column(values))
    return held


def _hash_column(values: npt.NDArray[Any]) -> Hashes:
    flat = values.reshape(len(values), -1)
    if flat.dtype.kind in "fiub" and flat.shape[1] == 1:
        column = flat[:, 0]
        whole = column if column.dtype.kind in "iu" else column.astype(np.float64).view(np.uint64)
        return whole.astype(np.uint64, copy=False)
    if flat.dtype.kind in "fiub":
        return np.array([zlib.crc32(row) for row in np.ascontiguousarray(flat)], np.uint64)
    known: dict[Any, int] = {}
    return np.array([_hash_texts(row, known) for row in flat.tolist()], np.uint64)


def _hash_texts(row: list[Any], known: dict[Any, int]) -> int:
    found = 0
    for value in row:
        number = known.get(value)
        if number is None:
            data = value if isinstance(value, bytes) else repr(value).encode("utf-8", "surrogatepass")
            number = known[value] = zlib.crc32(data)
        found = (found * 31 + number) & 0xFFFFFFFFFFFFFFFF
    return found


def _scramble(hashes: Hashes) -> Hashes:
    """Every bit depends on all (Steele et al., SplitMix64, 2014)."""
    with np.errstate(over="ignore"):
        mixed = (hashes ^ (hashes >> np.uint64(30))) * _MIX + _ODD
    return mixed ^ (mixed >> np.uint64(27))


def set_bits(bits: npt.NDArray[np.bool_], hashes: Hashes) -> None:
    """In a map (16384,), in place."""
    bits[(hashes % np.uint64(REPEAT_BITS)).astype(np.int64)] = True


def to_bytes(bits: npt.NDArray[np.bool_]) -> bytes:
    """As `Tick.repeats` has it."""
    return np.packbits(bits, bitorder="little").tobytes()
