"""Counts the fields of a protobuf message before it is parsed: an empty nested message takes two bytes on the wire
and a hundred in memory. Knows the wire format, not tensors."""

from typing import Any

from raymlops.errors import InputError, TooLargeError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types of fields."""
_PACKED = 10
"""Bytes of the longest packed number."""


def check_fields(message: bytes, descriptor: Any, most: int) -> None:
    """Raises TooLargeError if the message has more fields than that, including those of nested messages, or packs
    more numbers into one; InputError if the bytes are not a message."""
    try:
        _count(memoryview(message), descriptor, most)
    except IndexError:
        raise InputError("The message is truncated") from None


def _count(view: memoryview, descriptor: Any, left: int) -> int:
    """The number of fields that may still follow."""
    messages = {field.number: field.message_type for field in descriptor.fields if field.message_type}
    packed = {field.number for field in descriptor.fields if field.is_packed}
    at, end = 0, len(view)
    while at < end:
        left -= 1
        if left < 0:
            raise TooLargeError("The message has too many fields; send tensors in raw_input_contents")
        tag, start, at = read_field(view, at, end)
        if tag & 7 == BYTES:
            inner = messages.get(tag >> 3)
            if inner is not None:
                left = _count(view[start:at], inner, left)
            elif tag >> 3 in packed and at - start > _PACKED * left:
                raise TooLargeError("The message has too many numbers; send tensors in raw_input_contents")
    return left


def read_field(view: memoryview | bytes, at: int, end: int) -> tuple[int, int, int]:
    """The tag of the field there, and where its value starts and ends. Raises IndexError if it is truncated or
    malformed."""
    tag, at = read_number(view, at)
    kind = tag & 7
    if kind == BYTES:
        size, at = read_number(view, at)
        if size > end - at:
            raise IndexError
        return tag, at, at + size
    if kind == VARINT:
        return tag, at, read_number(view, at)[1]
    if kind in (FIXED64, FIXED32):
        return tag, at, at + (8 if kind == FIXED64 else 4)
    raise IndexError


def read_number(view: memoryview | bytes, at: int) -> tuple[int, int]:
    """A varint, and where it ends. Raises IndexError."""
    if view[at] < 128:  # as nearly all are
        return view[at], at + 1
    value = shift = 0
    while True:
        byte = view[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError
