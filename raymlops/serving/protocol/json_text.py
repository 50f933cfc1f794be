"""Reads and writes JSON, within limits that are checked before anything is parsed. Does not know tensors."""

import json
import re
from typing import Any

import numpy as np
import orjson

from raymlops.errors import InputError, TooLargeError, encodable, shorten
from raymlops.serving.protocol.request_limits import RequestLimits


def parse_json(body: bytes | memoryview, limits: RequestLimits) -> Any:
    """Parse within limits, which hold before anything is parsed. Raises InputError, TooLargeError."""
    text = bytes(body)
    check_elements(text, limits)
    check_depth(text, limits)
    try:
        # NaN is not JSON, but Python's own clients write it; only the slow parser accepts it.
        return _parse_with_nan(text) if _has_nan(text) else orjson.loads(text)
    except (
        ValueError,
        RecursionError,
    ) as error:  # also UnicodeDecodeError and integers of thousands of digits
        raise InputError(f"The body is not JSON: {shorten(str(error))}") from None


def check_elements(text: bytes, limits: RequestLimits) -> None:
    """Raises TooLargeError if a JSON text may have more values than a request may."""
    if len(text) > limits.json_elements and _count_elements(text) > limits.json_elements:
        plain = _strip_strings(text)
        if _count_elements(plain) > limits.json_elements and plain.count(b"[") + plain.count(b"{") < len(
            plain
        ):
            raise TooLargeError(f"The JSON has over {limits.json_elements} elements; send binary tensors")


def check_depth(text: bytes, limits: RequestLimits) -> None:
    """Raises InputError if lists and objects of a JSON text are nested too deeply."""
    if _is_deeper(text, limits.json_depth):
        raise InputError(f"The JSON is nested deeper than {limits.json_depth} levels")


def _has_nan(text: bytes) -> bool:
    # Finding one byte is many times faster than finding three.
    return (b"N" in text and b"NaN" in text) or (b"I" in text and b"Infinity" in text)


def _parse_with_nan(text: bytes) -> Any:
    """With the standard parser, which also accepts unpaired surrogates, which no text may hold."""
    if b"\\u" in text and _LONE_SURROGATE.search(_SURROGATE_PAIR.sub(b"", text.replace(b"\\\\", b""))):
        raise ValueError("a string holds half of a surrogate pair")
    return json.loads(text.decode())


_SURROGATE_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_MARKS = bytes(set(range(256)) - set(b'[]{}"'))


def _count_elements(text: bytes) -> int:
    """An upper bound of the number of values in a JSON text; lists and objects cost as much as their values."""
    return count_byte(text, b",") + count_byte(text, b"[") + count_byte(text, b"{")


def count_byte(text: bytes, mark: bytes) -> int:
    """Like `text.count(mark)`, many times faster on a large text."""
    if len(text) < 4096:
        return text.count(mark)
    return int(np.count_nonzero(np.frombuffer(text, np.uint8) == ord(mark)))


def _strip_strings(text: bytes) -> bytes:
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(plain.split(b'"')[::2])


def _is_deeper(text: bytes, limit: int) -> bool:
    """Whether lists and objects of a JSON text are nested deeper than `limit`."""
    if text.count(b"[") + text.count(b"{") <= limit:
        return False
    marks = text.translate(_BRACKETS, _NO_MARKS).replace(b'""', b"")
    if b'"' in marks or b"\\" in text:  # brackets inside strings do not count
        marks = _strip_strings(text).translate(_BRACKETS, _NO_MARKS)
    for _ in range(limit):
        inner = marks.replace(b"[]", b"")  # remove the innermost level
        if len(inner) == len(marks):
            return False  # nothing is left, or the rest is not JSON
        marks = inner
    return bool(marks)


def dump_json(document: Any) -> bytes:
    """JSON as bytes, arrays included; NaN and infinities, which JSON lacks, become null.

    Unpaired surrogates, which occur only in errors that quote input, become question marks.
    """
    try:
        return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    except orjson.JSONEncodeError:
        return orjson.dumps(_replace_surrogates(document), option=orjson.OPT_SERIALIZE_NUMPY)


def _replace_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, dict):
        return {encodable(str(key)): _replace_surrogates(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_surrogates(item) for item in value]
    return value
