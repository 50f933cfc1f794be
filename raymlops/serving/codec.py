"""Bytes <-> tensors of the Open Inference Protocol over REST: JSON, and JSON followed by binary tensors, both
ways.

Knows no HTTP and no model; a mistake of the caller is an InputError with a sentence.
"""

import dataclasses
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from raymlops.errors import InputError, TooLargeError, unknown_name
from raymlops.serving import columns
from raymlops.serving.columns import Array, Column
from raymlops.serving.protocol import InferRequest, RequestedOutput
from raymlops.tensors import DATATYPES, Batch, Signature


@dataclasses.dataclass(frozen=True)
class JsonLimits:
    """Caps that hold before a body is parsed; `depth` of nested lists, `elements` in all."""

    depth: int = 32
    elements: int = 5_000_000


def parse_json(body: bytes | memoryview, limits: JsonLimits) -> Any:
    """Parse within limits. Raises InputError, TooLargeError."""
    text = bytes(body)
    if _is_deeper(text, limits.depth):
        raise InputError(f"The JSON is nested deeper than {limits.depth} levels")
    if len(text) > limits.elements and text.count(b",") > limits.elements:
        raise TooLargeError(f"The JSON has over {limits.elements} elements; send binary tensors")
    try:
        # Not a number is no JSON, but Python's own clients write it; only the slow parser takes it.
        return json.loads(text) if b"NaN" in text or b"Infinity" in text else orjson.loads(text)
    except (
        ValueError,
        RecursionError,
    ) as error:  # also UnicodeDecodeError and integers of thousands of digits
        raise InputError(f"The body is not JSON: {error}") from None


_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_MARKS = bytes(set(range(256)) - set(b'[]{}"'))


def _is_deeper(text: bytes, limit: int) -> bool:
    """Whether the lists and objects of a JSON text lie deeper in each other than `limit`."""
    if text.count(b"[") + text.count(b"{") <= limit:
        return False
    marks = text.translate(_BRACKETS, _NO_MARKS).replace(b'""', b"")
    if b'"' in marks or b"\\" in text:  # brackets inside strings do not count
        plain = text.replace(b"\\\\", b"").replace(b'\\"', b"")
        marks = b"".join(plain.split(b'"')[::2]).translate(_BRACKETS, _NO_MARKS)
    for _ in range(limit):
        inner = marks.replace(b"[]", b"")  # the innermost level goes
        if len(inner) == len(marks):
            return False  # nothing is left, or what is left is no JSON
        marks = inner
    return bool(marks)


def decode_infer(
    body: bytes,
    header_length: int | None,
    known: Mapping[str, Column],
    signature: Signature,
    limits: JsonLimits,
) -> InferRequest:
    """A request of `POST /v2/models/{m}/infer`. `header_length` is that of the JSON when binary tensors
    follow."""
    blob = memoryview(b"")
    if header_length is not None:
        if not 0 <= header_length <= len(body):
            raise InputError(
                f"Inference-Header-Content-Length is {header_length}, but the body has {len(body)} bytes"
            )
        blob, body = memoryview(body)[header_length:], body[:header_length]
    document = parse_json(body, limits)
    if not isinstance(document, dict) or not isinstance(document.get("inputs"), list):
        raise InputError('The body must be a JSON object with a list "inputs"')
    batch: Batch = {}
    offset = 0
    with np.errstate(over="ignore"):
        for entry in document["inputs"]:
            column = _find_column(entry, known)
            name = column.spec.name
            if name in batch:
                raise InputError(f"Input {name!r} is given twice")
            batch[name], offset = _decode_tensor(entry, column, blob, offset)
    if offset != len(blob):
        raise InputError(f"The binary tensors use {offset} bytes, but {len(blob)} follow the JSON")
    if len(batch) != len(known):
        missing = ", ".join(str(column.spec) for name, column in known.items() if name not in batch)
        raise InputError(f"Input missing: {missing}")
    columns.check_rows(batch, known)
    parameters = _object(document.get("parameters"), "parameters")
    outputs = document.get("outputs")
    return InferRequest(
        id=_text(document.get("id", ""), "id"),
        batch=batch,
        outputs=_decode_outputs(outputs, signature, parameters) if outputs else (),
        binary=bool(parameters.get("binary_data_output", False)),
        parameters=parameters,
    )


def _find_column(entry: Any, known: Mapping[str, Column]) -> Column:
    if not isinstance(entry, dict):
        raise InputError('Each of "inputs" must be an object with name, shape, datatype and data')
    name = entry.get("name")
    column = known.get(name) if isinstance(name, str) else None
    if column is None:
        raise InputError(unknown_name("input", name, known))
    return column


def _decode_tensor(entry: dict[str, Any], column: Column, blob: memoryview, offset: int) -> tuple[Array, int]:
    name = column.spec.name
    datatype = entry.get("datatype")
    if datatype != column.spec.datatype and (not isinstance(datatype, str) or datatype not in DATATYPES):
        raise InputError(unknown_name(f"datatype of input {name!r}:", datatype, DATATYPES))
    shape = entry.get("shape")
    count = _count(shape)
    if count < 0:
        raise InputError(f"Input {name!r}: shape must be a list of whole numbers, got {str(shape)[:60]}")
    parameters = entry.get("parameters")
    size = _object(parameters, f"parameters of {name!r}").get("binary_data_size") if parameters else None
    if size is not None:
        if type(size) is not int or size < 0 or offset + size > len(blob):
            raise InputError(
                f"Input {name!r}: binary_data_size is {str(size)[:20]}, but {len(blob) - offset} bytes "
                f"are left"
            )
        array = decode_binary(blob[offset : offset + size], datatype, count, name)
        array = columns.convert(array.reshape(shape), datatype, column)
        return columns.check_shape(array, column), offset + size
    data = entry.get("data")
    if not isinstance(data, list):
        raise InputError(
            f"Input {name!r} has no data; give a list, or binary_data_size and the bytes after the JSON"
        )
    if datatype == "FP16":
        raise InputError(f"Input {name!r}: FP16 travels only as a binary tensor")
    if datatype != column.spec.datatype:  # raises when it cannot join
        columns.convert(np.empty(0, DATATYPES[datatype].numpy), datatype, column)
    array = columns.to_array(data, column)
    if array.size != count:
        raise InputError(f"Input {name!r} has shape {shape}, {count} elements, but its data has {array.size}")
    return columns.check_shape(array.reshape(shape), column), offset


def _count(shape: Any) -> int:
    """Elements of a tensor of this shape; -1 when it is no shape."""
    if type(shape) is not list:
        return -1
    count = 1
    for size in shape:
        if type(size) is not int or not 0 <= size < 2**40:
            return -1
        count *= size
    return count


def decode_binary(blob: memoryview, datatype: str, count: int, name: str) -> Array:
    """Flat tensor from little-endian bytes; BYTES are a 4-byte length and the bytes, each."""
    if datatype == "BYTES":
        return _split_strings(blob, count, name)
    row = DATATYPES[datatype]
    if len(blob) != count * row.itemsize:
        raise InputError(
            f"Input {name!r}: {count} elements of {datatype} are {count * row.itemsize} bytes, got "
            f"{len(blob)}"
        )
    if datatype == "BOOL":
        return np.asarray(np.frombuffer(blob, np.uint8) != 0)  # a byte of 2 is no valid bool for ONNX Runtime
    return np.frombuffer(blob, row.numpy.newbyteorder("<"))


def _split_strings(blob: memoryview, count: int, name: str) -> Array:
    if count * 4 > len(blob):
        raise InputError(f"Input {name!r}: {count} strings need over {count * 4} bytes, got {len(blob)}")
    values = np.empty(count, dtype=object)
    offset = 0
    for index in range(count):
        if offset + 4 > len(blob):
            raise InputError(f"Input {name!r}: the bytes end within string {index} of {count}")
        (length,) = struct.unpack_from("<I", blob, offset)
        offset += 4
        if offset + length > len(blob):
            raise InputError(
                f"Input {name!r}: string {index} claims {length} bytes, but {len(blob) - offset} are left"
            )
        values[index] = bytes(blob[offset : offset + length])
        offset += length
    if offset != len(blob):
        raise InputError(f"Input {name!r}: {len(blob) - offset} bytes are left after its {count} strings")
    return values


def _decode_outputs(
    value: Any, signature: Signature, parameters: Mapping[str, Any]
) -> tuple[RequestedOutput, ...]:
    if not isinstance(value, list):
        raise InputError('"outputs" must be a list of objects with a name')
    names = [spec.name for spec in signature.outputs]
    wanted = []
    for entry in value:
        name = entry.get("name") if isinstance(entry, dict) else entry
        if name not in names:
            raise InputError(unknown_name("output", name, names))
        own = _object(entry.get("parameters") if isinstance(entry, dict) else None, "parameters of an output")
        if own.get("classification"):
            raise InputError(f"Output {name!r}: the classification extension is not supported")
        default = parameters.get("binary_data_output", False)
        wanted.append(RequestedOutput(str(name), bool(own.get("binary_data", default))))
    return tuple(wanted)


def _object(value: Any, what: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f'"{what}" must be an object')
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or len(value) > 256:
        raise InputError(f'"{what}" must be a string of at most 256 characters')
    return value


def encode_infer(
    answer: Batch, request: InferRequest, name: str, version: str, signature: Signature
) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON when binary tensors follow it."""
    wanted: Sequence[RequestedOutput] = request.outputs or [
        RequestedOutput(spec.name, request.binary) for spec in signature.outputs
    ]
    datatypes = {spec.name: spec.datatype for spec in signature.outputs}
    blobs: list[bytes] = []
    outputs = []
    for output in wanted:
        array, datatype = answer[output.name], datatypes[output.name]
        entry: dict[str, Any] = {"name": output.name, "datatype": datatype, "shape": list(array.shape)}
        if output.binary:
            blob = encode_binary(array, datatype)
            entry["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
        elif datatype == "FP16":
            raise InputError(
                f"Output {output.name!r} is FP16, which travels only as a binary tensor: ask for it so"
            )
        else:
            entry["data"] = (
                to_json_list(array) if array.dtype == object else np.ascontiguousarray(array).ravel()
            )
        outputs.append(entry)
    document: dict[str, Any] = {"model_name": name, "model_version": version}
    if request.id:
        document["id"] = request.id
    document["outputs"] = outputs
    text = dump_json(document)
    return (b"".join([text, *blobs]), len(text)) if blobs else (text, None)


def encode_binary(array: Array, datatype: str) -> bytes:
    if datatype != "BYTES":
        return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    parts = []
    for value in array.ravel():
        data = value if isinstance(value, bytes) else str(value).encode()
        parts += [struct.pack("<I", len(data)), data]
    return b"".join(parts)


def to_json_list(array: Array) -> list[Any]:
    """Flat, row-major; strings as text. Bytes that are no text are an InputError: they need a binary
    output."""
    values = array.ravel().tolist()
    if array.dtype == object and any(isinstance(value, bytes) for value in values):
        try:
            return [value.decode() if isinstance(value, bytes) else value for value in values]
        except UnicodeDecodeError:
            raise InputError(
                "An output holds bytes that are no text; ask for it as a binary tensor"
            ) from None
    return values


def dump_json(document: Any) -> bytes:
    """JSON as bytes, arrays included; NaN and infinities, which JSON lacks, become null."""
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
