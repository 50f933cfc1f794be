"""Hashes rows by their values: 64 bits per row, the same on every machine and in every block."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

Hashes = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


def hash_rows(
    table: pa.Table, seed: int = 0, hash_values: Callable[[pa.ChunkedArray], Hashes] | None = None
) -> Hashes:
    """One hash per row over all columns, in the order of their names; `hash_values` gives one per value of a column,
    by default `hash_column`."""
    of_column = hash_values or hash_column
    total = np.full(table.num_rows, np.uint64(seed & 0xFFFFFFFF) + np.uint64(1), dtype=np.uint64)
    for name in sorted(table.column_names):
        total = mix(total * _GOLDEN + of_column(table[name]))
    return total


def hash_column(column: pa.ChunkedArray) -> Hashes:
    """One hash per value; numbers hash by value, whatever their width. Missing values, including NaN, hash to 0 in
    every type, since a reader that infers types may give a block of nulls another type."""
    hashes = _hash_present(column)
    return np.where(np.asarray(pc.is_null(column, nan_is_null=True)), np.uint64(0), hashes)


def _hash_present(column: pa.ChunkedArray) -> Hashes:
    kind = column.type
    if pa.types.is_null(kind):
        return np.zeros(len(column), dtype=np.uint64)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
        encoded = (
            column.combine_chunks()
            if pa.types.is_dictionary(kind)
            else column.combine_chunks().dictionary_encode()
        )
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.unify_dictionaries().combine_chunks()
        words = pd.util.hash_array(np.asarray(encoded.dictionary.to_pandas(), dtype=object), categorize=False)
        words = np.append(words, np.uint64(0))  # of a null; there may be no other value
        positions = pc.fill_null(encoded.indices.cast(pa.int64()), len(words) - 1)
        return np.asarray(words[positions.to_numpy(zero_copy_only=False)], dtype=np.uint64)
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("ms", tz=kind.tz), safe=False).cast(pa.int64())
    if (
        pa.types.is_integer(column.type)
        or pa.types.is_floating(column.type)
        or pa.types.is_boolean(column.type)
    ):
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.int8())
        return hash_numbers(np.asarray(column.to_numpy(), dtype=np.float64))
    return np.array([_hash_bytes(value) for value in column.to_numpy()], dtype=np.uint64)


def hash_numbers(values: npt.NDArray[np.float64]) -> Hashes:
    return mix((values + 0.0).view(np.uint64) + _GOLDEN)  # -0.0 becomes 0.0


def _hash_bytes(value: object) -> int:
    data = np.ascontiguousarray(value).tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
    padded = np.frombuffer(data + b"\0" * (-len(data) % 8), dtype=np.uint64)
    order = np.arange(1, len(padded) + 1, dtype=np.uint64)
    return int(
        mix(np.bitwise_xor.reduce(mix(padded + order * _GOLDEN), initial=np.uint64(len(data)))[None])[0]
    )


def mix(values: Hashes) -> Hashes:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): every input bit moves every output bit."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * _MIX
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))
