"""Decodes requests for one model with what is known of its columns beforehand: a plain request, as clients write it,
is read in one pass, without a Python call for each column.

Refuses nothing: any request that is not plain, above all a wrong one, is left to `rest_codec.decode_infer`, whose
results this module reproduces.
"""

import math
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import orjson

from raymlops.errors import InputError, TooLargeError
from raymlops.serving.protocol import columns, json_numbers, rest_codec
from raymlops.serving.protocol.columns import Column
from raymlops.serving.protocol.json_text import check_depth, count_byte
from raymlops.serving.protocol.open_inference import InferRequest
from raymlops.serving.protocol.request_limits import RequestLimits, check_strings
from raymlops.tensors import ELEMENTS, Array, Batch, Signature

_CODES = {
    "FP32": "f", "FP64": "d", "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q",
    "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q",
}  # fmt: skip
"""`struct` format of a datatype; packing is faster than making an array from a list. It raises for values that are
not numbers, not integers or out of range; but it accepts true and false."""
_LEVELS = 4
"""Number of lists and objects in a value of a plain document."""
_KEPT = 256
"""Cached packers of a group, each for a number of elements."""
_WIDE = 2**13
"""Bytes of a body from which on the parser that makes no Python numbers is faster."""
_FEW = 16
"""Numbers that are checked one by one, which for so few is faster than numpy."""
_SEVERAL = 4
"""Strings from which on cutting them all at once is faster than one by one."""
_NOT_PLAIN = (InputError, TooLargeError, LookupError, TypeError, ValueError, OverflowError, struct.error)
_INT = {int}
_EXACT = 2**53
"""Above it, a float may stand for another integer."""
_EMPTY = np.empty(0)


class _Step:
    """A column in the form that the loop over a request's inputs needs: plain attributes, no calls."""

    __slots__ = ("column", "converts_all", "datatypes", "group", "name", "tail", "width")

    def __init__(self, column: Column, groups: dict[tuple[str, bool], "_Group"]) -> None:
        spec = column.spec
        self.column, self.name = column, spec.name
        takes_texts = column.kind == "timestamp" or column.conversion is not None
        self.datatypes = frozenset({spec.datatype, *(("BYTES",) if takes_texts else ())})
        self.converts_all = column.converts_all
        self.tail = list(spec.shape[1:])
        self.width = math.prod(self.tail)
        self.group: _Group | None = None
        code, is_whole = _CODES.get(spec.datatype, ""), column.kind == "integer" and spec.dtype.kind == "f"
        rule = column.conversion
        if code and not self.converts_all and (rule is None or rule.type in ("number", "integer")):
            self.group = groups.setdefault((code, is_whole), _Group(code, spec.dtype, is_whole))

    def convert(self, data: list[Any]) -> Array:
        """A flat array from a non-empty list. Raises one of `_NOT_PLAIN`."""
        if self.column.spec.datatype == "BYTES" and type(data[0]) is str and not self.converts_all:
            "".join(data)  # raises unless all are strings
            return np.array(data, object)
        with np.errstate(over="raise"):
            array = columns.to_array(data, self.column)
        if array.ndim != 1:
            raise ValueError("nested")
        return array

    def convert_binary(self, blob: memoryview, count: int, limits: RequestLimits) -> Array:
        """A flat array of so many elements. Raises InputError, TooLargeError."""
        spec = self.column.spec
        if spec.datatype == "BYTES":
            check_strings(count, self.name, limits)
            texts = None if self.converts_all else _read_codes(blob, count)
            if texts is not None:
                return texts
        array = rest_codec.decode_binary(blob, spec.datatype, count, self.name)
        is_limited = self.column.kind == "integer" or self.column.conversion is not None
        needs_more = spec.datatype == "BYTES" or is_limited or self.converts_all
        return columns.convert(array, spec.datatype, self.column) if needs_more else array


def _read_codes(blob: memoryview, count: int) -> Array | None:
    """ASCII strings of equal length, such as category codes; None if they are not."""
    if count < _SEVERAL or len(blob) % count:
        return None
    size = len(blob) // count - 4
    records = np.frombuffer(blob, np.uint8).reshape(count, 4 + size) if size > 0 else None
    if (
        records is None
        or int.from_bytes(blob[:4], "little") != size
        or (records[:, :4] != records[0, :4]).any()
    ):
        return None
    joined = records[:, 4:].tobytes()
    if not joined.isascii():
        return None
    text = joined.decode("ascii")
    texts = np.empty(count, object)
    texts[:] = [text[start : start + size] for start in range(0, len(text), size)]
    return texts


class _Group:
    """Columns of one datatype, whose numbers are packed together."""

    def __init__(self, code: str, dtype: np.dtype[Any], is_whole: bool) -> None:
        """`is_whole` for floats that must have no fraction."""
        self._code, self._dtype, self.is_whole = code, dtype, is_whole
        self._packers: dict[int, struct.Struct] = {}

    def pack(self, numbers: list[Any]) -> Array | None:
        """None if this cannot be decided quickly: null, a time, a fraction, an overflow, or a mistake."""
        size = len(numbers)
        packer = self._packers.get(size)
        if packer is None:
            if len(self._packers) >= _KEPT:
                self._packers.clear()
            packer = self._packers[size] = struct.Struct(f"={size}{self._code}")
        packed = bytearray(packer.size)
        try:
            packer.pack_into(packed, 0, *numbers)
        except (struct.error, OverflowError):
            return None
        array = np.frombuffer(packed, self._dtype)
        if self.is_whole:
            # A generator takes twice as long as a list.
            if size <= _FEW:
                others = any([x % 1 or x > _EXACT or x < -_EXACT for x in numbers])  # noqa: C419
            else:
                others = (np.floor(array) != array).any() or (np.abs(array) > _EXACT).any()
            if others:
                return None
        return array


_Member = tuple[_Step, list[Any], list[int]]
"""A column, its elements and its shape in a request."""
_Packed = tuple[list[Any], list[_Member]]
"""The elements of all columns of a group, and these columns."""


class InferDecoder:
    """The decoder of one model."""

    def __init__(self, known: Mapping[str, Column]) -> None:
        self._known = known
        groups: dict[tuple[str, bool], _Group] = {}
        self._steps = (
            {name: _Step(column, groups) for name, column in known.items()} if _may_be_plain(known) else {}
        )
        numeric = sum(step.group is not None for step in self._steps.values())
        self._is_numeric = 2 * numeric > len(self._steps)
        self._width = max((step.width for step in self._steps.values()), default=0)

    def decode(
        self, body: bytes, header_length: int | None, signature: Signature, limits: RequestLimits
    ) -> InferRequest:
        """Exactly like `rest_codec.decode_infer`."""
        try:
            if header_length is not None:
                request = self._read_binary(body, header_length, signature, limits)
            # A body with many numbers per column is for the codec, which also takes nested lists of them.
            elif len(body) >= json_numbers.LARGE * len(self._steps) or len(body) > limits.json_elements:
                request = None
            elif len(body) < _WIDE or not self._is_numeric:
                request = self._read(body, signature, limits)
            else:
                with json_numbers.parsing(body) as root, np.errstate(over="raise"):
                    request = self._read_wide(root, body, signature, limits)
        except (*_NOT_PLAIN, *json_numbers.FAILURES):
            request = None
        if request is not None:
            return request
        return rest_codec.decode_infer(body, header_length, self._known, signature, limits)

    def _read(  # noqa: C901  -- in one piece: each call of a function is a part of what this spares
        self, body: bytes, signature: Signature, limits: RequestLimits
    ) -> InferRequest | None:
        """None, or one of `_NOT_PLAIN` is raised, if the request is not plain."""
        document = orjson.loads(body)
        steps, inputs, rows = self._steps, document["inputs"], -1
        if type(inputs) is not list or len(inputs) != len(steps):
            return None
        brackets, flags = (2, 0) if len(document) == 1 else _count(document.values(), inputs)
        has_flags = body.count(b"true") + body.count(b"false") != flags  # or has texts with these words
        batch: Batch = {}
        packed: dict[_Group, _Packed] = {}
        for entry in inputs:
            step = steps[entry["name"]]
            data, shape = entry["data"], entry["shape"]
            if type(data) is not list or type(shape) is not list or entry["datatype"] not in step.datatypes:
                return None
            if len(entry) != 4 and (len(entry) != 5 or entry["parameters"]):
                return None
            count, tail = shape[0], step.tail
            if type(count) is not int or count * step.width != len(data) or shape[1:] != tail:
                return None
            if tail and set(map(type, shape)) != _INT:  # true is 1
                return None
            if count != rows:
                if rows >= 0 or not 0 < count <= limits.rows or count * self._width > limits.elements:
                    return None
                rows = count
            brackets += 3 if len(entry) == 4 else 3 + (type(entry["parameters"]) in (dict, list))
            group = step.group
            if group is None or has_flags:
                array = step.convert(data)
                batch[step.name] = array.reshape(shape) if tail else array
                continue
            batch[step.name] = _EMPTY  # the column's position
            numbers, members = packed.get(group) or packed.setdefault(group, ([], []))
            numbers += data
            members.append((step, data, shape))
        if len(batch) != len(steps):
            return None
        for group, (numbers, members) in packed.items():
            _unpack(group.pack(numbers), members, batch)
        # If all were counted, none is nested deeper, or hidden under a repeated key.
        if limits.json_depth < _LEVELS + 1 or count_byte(body, b"[") + count_byte(body, b"{") != brackets:
            check_depth(body, limits)
        return rest_codec.make_request(document, batch, rows, signature)

    def _read_wide(
        self, root: Any, body: bytes, signature: Signature, limits: RequestLimits
    ) -> InferRequest | None:
        """Like `_read`, for a document from the parser for many numbers."""
        document = json_numbers.read_object(root, "inputs")
        inputs, steps, rows = document.pop("inputs"), self._steps, -1
        if len(inputs) != len(steps):
            return None
        brackets = _count(document.values(), None)[0] + 1
        batch: Batch = {}
        for entry in inputs:
            step = steps[entry["name"]]
            data, shape = entry["data"], entry["shape"].as_list()
            size = len(data)
            if len(entry) != 4 or entry["datatype"] not in step.datatypes:
                return None
            rows = self._count_rows(step, shape, rows, limits)
            if rows * step.width != size:
                return None
            array = json_numbers.read_numbers(data, step.column, size)
            if array is None:
                array = step.convert(data.as_list())
            elif step.group is not None and step.group.is_whole:
                columns.check_whole(array, step.column)
            batch[step.name] = array.reshape(shape) if step.tail else array
        brackets += 3 * len(inputs)
        if len(batch) != len(steps) or limits.json_depth <= _LEVELS:
            return None
        # If all were counted, no list is within the data, and none is nested deeper, or hidden under a repeated key.
        if count_byte(body, b"[") + count_byte(body, b"{") != brackets:
            return None
        return rest_codec.make_request(document, batch, rows, signature)

    def _count_rows(self, step: _Step, shape: list[Any], rows: int, limits: RequestLimits) -> int:
        """For a column of this shape, which other columns of the request also have unless `rows` is negative. Raises
        ValueError."""
        count = shape[0]
        if type(count) is not int or shape[1:] != step.tail or (step.tail and set(map(type, shape)) != _INT):
            raise ValueError("not plain")  # true is 1
        if count != rows and (
            rows >= 0 or not 0 < count <= limits.rows or count * self._width > limits.elements
        ):
            raise ValueError("not plain")
        return count

    def _read_binary(
        self, body: bytes, header_length: int, signature: Signature, limits: RequestLimits
    ) -> InferRequest | None:
        """Like `_read`, if all inputs are binary tensors after the JSON."""
        steps, rows, offset = self._steps, -1, 0
        if not steps or not 0 <= header_length <= min(len(body), limits.json_elements):
            return None
        blob, text = memoryview(body)[header_length:], body[:header_length]
        document = orjson.loads(text)
        inputs = document["inputs"]
        if type(inputs) is not list or len(inputs) != len(steps):
            return None
        brackets = 2 if len(document) == 1 else _count(document.values(), inputs)[0]
        batch: Batch = {}
        for entry in inputs:
            step = steps[entry["name"]]
            parameters, shape = entry["parameters"], entry["shape"]
            if len(entry) != 4 or type(parameters) is not dict or type(shape) is not list:
                return None
            size = parameters["binary_data_size"]
            if entry["datatype"] != step.column.spec.datatype:
                return None
            rows = self._count_rows(step, shape, rows, limits)
            if len(parameters) != 1 or type(size) is not int or not 0 < size <= len(blob) - offset:
                return None
            array = step.convert_binary(blob[offset : offset + size], rows * step.width, limits)
            batch[step.name] = array.reshape(shape) if step.tail else array
            offset += size
        if len(batch) != len(steps) or offset != len(blob):
            return None
        brackets += 3 * len(inputs)
        if limits.json_depth < _LEVELS + 1 or count_byte(text, b"[") + count_byte(text, b"{") != brackets:
            check_depth(text, limits)
        return rest_codec.make_request(document, batch, rows, signature)


def _unpack(array: Array | None, members: list[_Member], batch: Batch) -> None:
    """The parts of a packed array that belong to these columns; without one, each column separately."""
    start = end = 0
    for step, data, shape in members:
        end += len(data)
        part = step.convert(data) if array is None else array[start:end]
        batch[step.name] = part.reshape(shape) if step.tail else part
        start = end


def _may_be_plain(known: Mapping[str, Column]) -> bool:
    """Whether the rows are the only size that requests choose, and all inputs have it."""
    return all(
        column.spec.shape[:1] == (-1,)
        and min(column.spec.shape[1:], default=1) > 0
        and column.spec.datatype != "FP16"
        and column.kind != ELEMENTS
        and not column.optional  # the default value has its own length
        for column in known.values()
    )


def _count(values: Iterable[Any], inputs: Any, levels: int = _LEVELS) -> tuple[int, int]:
    """Counts of lists and objects in a document with these values (itself and its inputs, without their contents),
    and of true and false. Raises ValueError if it is deeper than so many levels."""
    if not levels:
        raise ValueError("deep")
    brackets, flags = 1, 0
    for value in values:
        kind = type(value)
        if value is inputs:
            brackets += 1
        elif kind is bool:
            flags += 1
        elif kind is dict or kind is list:
            inner = _count(value.values() if kind is dict else value, inputs, levels - 1)
            brackets, flags = brackets + inner[0], flags + inner[1]
    return brackets, flags
