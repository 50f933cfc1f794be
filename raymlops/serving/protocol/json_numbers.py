"""Reads the numbers of a large JSON request directly into arrays with a SIMD parser: no Python object is made for
each.

Knows the form of an inference request; refuses nothing. It reads only what both parsers understand alike; any other
body (a mistake, or a rare form) is left to the usual parser and its checks.
"""

import contextlib
import math
import threading
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from raymlops.serving.protocol.columns import Column, are_native
from raymlops.serving.protocol.json_text import count_byte
from raymlops.tensors import Array

try:
    import simdjson
except ImportError:  # there is no wheel for every platform: the usual parser reads everything
    simdjson = None  # type: ignore[assignment]

LARGE = 2**12
"""Bytes of a body from which on the usual parser is slower."""
_KEPT = 2**22
"""Bytes of a body whose parser is kept for reuse: it holds several times as much memory."""
_KEYS = 16
"""Keys of an object; finding a key takes time proportional to the keys before it."""
_WIDE = 2**24 - 1
"""The parser's counts stop here."""
_LEVELS = 8
_BEGINNINGS = (b"{", b" ", b"\n", b"\r", b"\t")
_BUFFERS: Mapping[str, tuple[str, type[np.generic]]] = {
    **dict.fromkeys(("FP32", "FP64"), ("d", np.float64)),
    **dict.fromkeys(("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32"), ("i", np.int64)),
    "UINT64": ("u", np.uint64),
}
"""How the parser returns the numbers of a datatype. It raises for other elements; integers become floats as
everywhere."""


class _OtherBodyError(Exception):
    """The usual parser must read the body."""


class _Parsers(threading.local):
    """One per thread. A parser cannot be reused while anything that it returned is alive."""

    kept: Any = None


_PARSERS = _Parsers()
FAILURES = (
    _OtherBodyError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, MemoryError, FloatingPointError,
)  # fmt: skip
"""Errors for a body that the usual parser must read."""


@contextlib.contextmanager
def parsing(text: bytes) -> Iterator[Any]:
    """The document as the parser's view, of which nothing may be kept. Raises one of `FAILURES`, also if the parsers
    differ: for a byte order mark, and for escapes."""
    if simdjson is None or text[:1] not in _BEGINNINGS or b"\\" in text:
        raise _OtherBodyError
    parser, _PARSERS.kept = _PARSERS.kept or simdjson.Parser(), None
    yield parser.parse(text)
    if len(text) <= _KEPT:  # not after an exception, whose traceback may hold a part
        _PARSERS.kept = parser


def read_request(text: bytes, known: Mapping[str, Column], depth: int) -> dict[str, Any] | None:
    """The document as from orjson, except that input data are an array of their column's datatype if they are its
    numbers, flat or regularly nested; None if the usual parser must read the body.

    `depth` is the largest nesting of lists and objects; the caller checks the cost of the body's contents.
    """
    if not _is_promising(text, known):
        return None
    try:
        with parsing(text) as root, np.errstate(over="raise"):
            return _read_document(root, text, known, depth)
    except FAILURES:
        return None


def read_tensor(text: bytes, forms: Collection[str], column: Column, depth: int) -> dict[str, Any] | None:
    """The same for a document with a single tensor, under the key of a form, or as the only column under "inputs";
    None if the usual parser must read the body."""
    if not _is_promising(text, {"": column}):
        return None
    try:
        with parsing(text) as root, np.errstate(over="raise"):
            return _read_tensor(root, text, forms, column, depth)
    except FAILURES:
        return None


def _read_tensor(
    root: Any, text: bytes, forms: Collection[str], column: Column, depth: int
) -> dict[str, Any]:
    form, value = _find_only(root)
    is_named = type(value) is simdjson.Object
    name, data = _find_only(value) if is_named else ("", value)
    if (
        form not in forms
        or type(data) is not simdjson.Array
        or (is_named and (form, name) != ("inputs", column.spec.name))
    ):
        raise _OtherBodyError
    shape = _find_shape(data)
    brackets = 1 + is_named + _count_lists(shape)
    if 1 + is_named + len(shape) > depth or count_byte(text, b"[") + count_byte(text, b"{") != brackets:
        raise _OtherBodyError
    array = read_numbers(data, column, math.prod(shape))
    if array is None:
        raise _OtherBodyError
    array = array.reshape(shape)
    return {form: {name: array} if is_named else array}


def _find_only(value: Any) -> tuple[str, Any]:
    """Key and value of an object with a single key."""
    if type(value) is not simdjson.Object or len(value) != 1:
        raise _OtherBodyError
    (key,) = value
    return key, value[key]


def _count_lists(shape: tuple[int, ...]) -> int:
    return sum(math.prod(shape[:axis]) for axis in range(len(shape)))


def _is_promising(text: bytes, known: Mapping[str, Column]) -> bool:
    """False for a body of mostly strings, which is not read faster."""
    return any(column.spec.datatype in _BUFFERS for column in known.values()) and count_byte(
        text, b'"'
    ) <= 100 + 50 * len(known)


def _read_document(root: Any, text: bytes, known: Mapping[str, Column], depth: int) -> dict[str, Any]:
    document = read_object(root, "inputs")
    if type(document.get("inputs")) is not simdjson.Array:
        raise _OtherBodyError
    entries = [read_object(entry, "data") for entry in document["inputs"]]
    document["inputs"] = entries
    found = [(entry, entry.pop("data")) for entry in entries if type(entry.get("data")) is simdjson.Array]
    brackets, levels = _measure(document)
    shapes = [_find_shape(data) for _, data in found]
    for shape in shapes:
        brackets += _count_lists(shape)
        levels = max(levels, 3 + len(shape))  # within an object, within a list, within an object
    # If the counts are equal, the only lists in the data are the shapes, and nothing deep is under a repeated key;
    # brackets in strings count too.
    there = count_byte(text, b"[") + count_byte(text, b"{")
    if levels > depth or (there != brackets and there > depth):
        raise _OtherBodyError
    for (entry, data), shape in zip(found, shapes, strict=True):
        column = known.get(entry["name"]) if type(entry.get("name")) is str else None
        array = (
            read_numbers(data, column, math.prod(shape)) if there == brackets and column is not None else None
        )
        entry["data"] = data.as_list() if array is None else array
    return document


def read_object(value: Any, unread: str) -> dict[str, Any]:
    """Its values as Python's, except for the list under the key `unread`."""
    if type(value) is not simdjson.Object or len(value) > _KEYS:
        raise _OtherBodyError
    keys = list(value)
    if len(set(keys)) != len(keys):  # the last one counts, but the first one would be found
        raise _OtherBodyError
    return {key: value[key] if key == unread else _to_python(value[key]) for key in keys}


def _to_python(value: Any) -> Any:
    if type(value) is simdjson.Object:
        return value.as_dict()
    return value.as_list() if type(value) is simdjson.Array else value


def _measure(value: Any) -> tuple[int, int]:
    """Lists and objects within a value, and their nesting."""
    if type(value) is not dict and type(value) is not list:
        return 0, 0
    within = [_measure(item) for item in (value.values() if type(value) is dict else value)]
    return (
        sum(brackets for brackets, _ in within) + 1,
        max((levels for _, levels in within), default=0) + 1,
    )


def _find_shape(data: Any) -> tuple[int, ...]:
    """The shape of nested lists, as far as all lists of a level have one length. Elements are not examined."""
    shape: tuple[int, ...] = (len(data),)
    level = [data]
    while shape[-1] and len(shape) < _LEVELS and type(level[0][0]) is simdjson.Array:
        level = [inner for outer in level for inner in outer]
        lengths = {len(inner) if type(inner) is simdjson.Array else -1 for inner in level}
        if len(lengths) > 1 or -1 in lengths:
            raise _OtherBodyError
        shape += tuple(lengths)
    if max(shape) >= _WIDE:
        raise _OtherBodyError
    return shape


def read_numbers(data: Any, column: Column, count: int) -> Array | None:
    """A flat array from a list of the parser's view; None if not all data are numbers that the column can hold.
    Raises FloatingPointError, one of `FAILURES`, for values too large for its float."""
    datatype = column.spec.datatype
    if datatype not in _BUFFERS or not count or column.converts_all:
        return None
    code, kind = _BUFFERS[datatype]
    try:
        values = np.frombuffer(data.as_buffer(of_type=code), kind)
    except (TypeError, ValueError):
        return None
    if values.size != count:
        return None
    want = column.spec.dtype
    if want.kind in "iu" and want.itemsize < 8:
        bounds = np.iinfo(want)
        if values.min() < bounds.min or values.max() > bounds.max:
            return None
    if column.conversion is not None and not are_native(values, column):
        return None
    return values.astype(want, copy=False)
