"""Messages of a JSON document and named tensors over a socket, for a process that runs a model.

Unpickles nothing: the reader need not trust the writer.
"""

import json
import math
import socket
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from raymlops.errors import RaymlopsError
from raymlops.tensors import DATATYPE_OF_NUMPY, DATATYPES, Batch

_LENGTH = struct.Struct("<Q")
_LARGEST_HEADER = 2**24


class StreamEndedError(RaymlopsError):
    """The other side has ended, or sent something that is not a message."""


def write_message(
    connection: socket.socket, document: Mapping[str, Any], tensors: Batch | None = None
) -> None:
    """Raises StreamEndedError."""
    entries: list[Any] = []
    parts: list[bytes | memoryview] = []
    for name, array in (tensors or {}).items():
        datatype = DATATYPE_OF_NUMPY[array.dtype].name
        sent: list[bytes | memoryview] = _pack_texts(array) if datatype == "BYTES" else [_view(array)]
        entries.append([name, datatype, list(array.shape), [len(part) for part in sent]])
        parts += sent
    header = json.dumps({"document": document, "tensors": entries}).encode()
    try:
        connection.sendall(_LENGTH.pack(len(header)) + header)
        for part in parts:
            connection.sendall(part)
    except OSError as error:
        raise StreamEndedError(f"The other process is gone: {error}") from None


def read_message(connection: socket.socket, largest: int) -> tuple[dict[str, Any], Batch]:
    """A message of at most `largest` bytes of tensors. Raises StreamEndedError."""
    (size,) = _LENGTH.unpack(_read(connection, _LENGTH.size, _LENGTH.size))
    text = _read(connection, size, _LARGEST_HEADER)
    batch: Batch = {}
    try:
        header = json.loads(text)
        for name, datatype, shape, sizes in header["tensors"]:
            parts = [_read(connection, part, largest) for part in sizes]
            largest -= sum(sizes)
            batch[name] = _unpack(DATATYPES[datatype].numpy, shape, parts)
        return header["document"], batch
    except (ValueError, KeyError, TypeError, UnicodeError) as error:
        raise StreamEndedError(f"The data from the other process are not a message: {error}") from None


def count_bytes(tensors: Batch) -> int:
    """The tensors in a message."""
    return sum(
        sum(map(len, _pack_texts(array))) if array.dtype.hasobject else array.nbytes
        for array in tensors.values()
    )


def _view(array: "np.ndarray[Any, Any]") -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _pack_texts(array: "np.ndarray[Any, Any]") -> list[bytes | memoryview]:
    """The length of each text, and all texts joined."""
    texts = [
        text if isinstance(text, bytes) else str(text).encode("utf-8", "surrogatepass")
        for text in array.ravel().tolist()
    ]
    return [_view(np.array([len(text) for text in texts], np.int64)), b"".join(texts)]


def _unpack(dtype: "np.dtype[Any]", shape: list[int], parts: list[bytearray]) -> "np.ndarray[Any, Any]":
    count = math.prod(shape)
    texts = dtype.hasobject
    if any(size < 0 for size in shape) or len(parts) != 1 + texts:
        raise ValueError(f"a tensor of shape {shape}")
    if not texts:
        return np.frombuffer(parts[0], dtype, count if count else -1).reshape(shape)
    lengths = np.frombuffer(parts[0], np.int64)
    if len(lengths) != count or (lengths < 0).any() or int(lengths.sum()) != len(parts[1]):
        raise ValueError("texts of other lengths than declared")
    array = np.empty(count, object)
    start = 0
    for place, length in enumerate(lengths.tolist()):
        array[place] = bytes(parts[1][start : start + length]).decode("utf-8", "surrogatepass")
        start += length
    return array.reshape(shape)


def _read(connection: socket.socket, size: int, largest: int) -> bytearray:
    if not isinstance(size, int) or not 0 <= size <= largest:
        raise StreamEndedError(f"The other process sends {size} bytes; at most {largest} are accepted")
    data = bytearray(size)
    view = memoryview(data)
    while view:
        try:
            got = connection.recv_into(view)
        except OSError as error:
            raise StreamEndedError(f"The other process is gone: {error}") from None
        if not got:
            raise StreamEndedError("The other process is gone")
        view = view[got:]
    return data
