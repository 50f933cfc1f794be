"""Converts bytes of the Open Inference Protocol over REST to tensors and back: JSON, and JSON followed by binary
tensors.

Does not know HTTP or models; a caller's mistake is an InputError with a sentence.
"""

import struct
import sys
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from raymlops.errors import InputError, TooLargeError, unknown_name
from raymlops.serving.protocol import columns, json_numbers
from raymlops.serving.protocol.columns import Column
from raymlops.serving.protocol.json_text import check_elements, dump_json, parse_json
from raymlops.serving.protocol.open_inference import InferRequest, RequestedOutput
from raymlops.serving.protocol.request_limits import (
    RequestLimits,
    check_answer,
    check_rows,
    check_strings,
    count_elements,
    show,
)
from raymlops.tensors import DATATYPES, Array, Batch, Signature

IS_LITTLE = sys.byteorder == "little"
"""In the byte order of the protocol."""


def decode_infer(
    body: bytes,
    header_length: int | None,
    known: Mapping[str, Column],
    signature: Signature,
    limits: RequestLimits,
) -> InferRequest:
    """A request of `POST /v2/models/{m}/infer`. `header_length` is that of the JSON if binary tensors follow."""
    blob = memoryview(b"")
    if header_length is not None:
        if not 0 <= header_length <= len(body):
            raise InputError(
                f"Inference-Header-Content-Length is {header_length}, but the body has {len(body)} bytes"
            )
        blob, body = memoryview(body)[header_length:], body[:header_length]
    document = _parse(body, known, limits)
    if not isinstance(document, dict) or not isinstance(document.get("inputs"), list):
        raise InputError('The body must be a JSON object with a list "inputs"')
    batch: Batch = {}
    offset = 0
    with np.errstate(over="raise"):
        for entry in document["inputs"]:
            column = _find_column(entry, known)
            name = column.spec.name
            if name in batch:
                raise InputError(f"Input {name!r} is given twice")
            batch[name], offset = _decode_tensor(entry, column, blob, offset, limits)
    if offset != len(blob):
        raise InputError(f"The binary tensors use {offset} bytes, but {len(blob)} follow the JSON")
    if len(batch) != len(known):
        columns.require_inputs(batch, known)
    rows = columns.check_rows(batch, known)
    if rows > limits.rows:
        check_rows(rows, limits)
    return make_request(document, batch, rows, signature)


def make_request(document: Mapping[str, Any], batch: Batch, rows: int, signature: Signature) -> InferRequest:
    """The request of a document with decoded inputs. Raises InputError."""
    parameters = _object(document.get("parameters"), "parameters")
    binary = bool(parameters) and _flag(parameters, "binary_data_output", default=False)
    outputs = document.get("outputs")
    return InferRequest(
        id=_text(document.get("id", ""), "id"),
        batch=batch,
        outputs=() if outputs is None else _decode_outputs(outputs, signature, binary),
        binary=binary,
        parameters=parameters,
        rows=rows,
    )


def _parse(body: bytes, known: Mapping[str, Column], limits: RequestLimits) -> Any:
    """The JSON of a request; the numbers of a large one are already arrays. Raises InputError, TooLargeError."""
    if len(body) >= json_numbers.LARGE:
        check_elements(body, limits)
        document = json_numbers.read_request(body, known, limits.json_depth)
        if document is not None:
            return document
    return parse_json(body, limits)


def _find_column(entry: Any, known: Mapping[str, Column]) -> Column:
    if not isinstance(entry, dict):
        raise InputError('Each of "inputs" must be an object with name, shape, datatype and data')
    name = entry.get("name")
    column = known.get(name) if isinstance(name, str) else None
    if column is None:
        raise InputError(unknown_name("input", name, known))
    return column


def _decode_tensor(
    entry: dict[str, Any], column: Column, blob: memoryview, offset: int, limits: RequestLimits
) -> tuple[Array, int]:
    name = column.spec.name
    datatype = entry.get("datatype")
    if datatype != column.spec.datatype and (not isinstance(datatype, str) or datatype not in DATATYPES):
        raise InputError(unknown_name(f"datatype of input {name!r}:", datatype, DATATYPES))
    shape = entry.get("shape")
    if type(shape) is not list:
        raise InputError(f"Input {name!r}: shape must be a list of whole numbers, got {show(shape)}")
    count = count_elements(shape, column.spec, limits)
    parameters = entry.get("parameters")
    size = _object(parameters, f"parameters of {name!r}").get("binary_data_size") if parameters else None
    if size is not None:
        if type(size) is not int or size < 0 or offset + size > len(blob):
            raise InputError(
                f"Input {name!r}: binary_data_size is {show(size)}, but {len(blob) - offset} bytes are left"
            )
        if datatype == "BYTES":
            check_strings(count, name, limits)
        array = decode_binary(blob[offset : offset + size], datatype, count, name)
        return columns.convert(array.reshape(shape), datatype, column), offset + size
    data = entry.get("data")
    if not isinstance(data, list | np.ndarray):
        raise InputError(
            f"Input {name!r} has no data; give a list, or binary_data_size and the bytes after the JSON"
        )
    if datatype == "FP16":
        raise InputError(f"Input {name!r}: FP16 travels only as a binary tensor")
    if datatype != column.spec.datatype:  # raises if it cannot join
        columns.convert(np.empty(0, DATATYPES[datatype].numpy), datatype, column)
    array = columns.to_array(data, column) if isinstance(data, list) else columns.check_whole(data, column)
    if array.size != count:
        raise InputError(
            f"Input {name!r} has shape {show(shape)}, {count} elements, but its data has {array.size}"
        )
    return array.reshape(shape), offset


def decode_binary(blob: memoryview, datatype: str, count: int, name: str) -> Array:
    """Flat tensor from little-endian bytes; each BYTES element is a 4-byte length and its bytes."""
    if datatype == "BYTES":
        return _split_strings(blob, count, name)
    row = DATATYPES[datatype]
    if len(blob) != count * row.itemsize:
        raise InputError(
            f"Input {name!r}: {count} elements of {datatype} are {count * row.itemsize} bytes, got "
            f"{len(blob)}"
        )
    if datatype == "BOOL":
        # for ONNX Runtime a byte of 2 is not a valid bool
        return np.asarray(np.frombuffer(blob, np.uint8) != 0)
    return np.frombuffer(blob, row.numpy.newbyteorder("<"))


def _split_strings(blob: memoryview, count: int, name: str) -> Array:
    if count * 4 > len(blob):
        raise InputError(f"Input {name!r}: {count} strings need over {count * 4} bytes, got {len(blob)}")
    values = np.empty(count, dtype=object)
    if len(blob) <= _COPIED:
        found = _split_whole_strings(bytes(blob), count)
        if found is not None:
            values[:] = found
            return values
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


_COPIED = 2**20
"""Bytes of strings up to which a copy is made, since cutting a copy is faster."""
_LENGTH = struct.Struct("<I")


def _split_whole_strings(data: bytes, count: int) -> list[bytes] | None:
    """None if the lengths are wrong."""
    values, offset, size, unpack = [], 0, len(data), _LENGTH.unpack_from
    for _ in range(count):
        if offset + 4 > size:
            return None
        start = offset + 4
        offset = start + unpack(data, offset)[0]
        values.append(data[start:offset])
    return values if offset == size else None


def _decode_outputs(value: Any, signature: Signature, binary: bool) -> tuple[RequestedOutput, ...]:
    if not isinstance(value, list):
        raise InputError('"outputs" must be a list of objects with a name')
    names = [spec.name for spec in signature.outputs]
    wanted: dict[str, RequestedOutput] = {}
    for entry in value:
        name = entry.get("name") if isinstance(entry, dict) else entry
        name = check_output(name, names, wanted)
        own = _object(entry.get("parameters") if isinstance(entry, dict) else None, "parameters of an output")
        if own.get("classification"):
            raise InputError(f"Output {name!r}: the classification extension is not supported")
        if "shared_memory_region" in own:
            raise InputError(f"Output {name!r} is to be in shared memory, which is not supported")
        wanted[name] = RequestedOutput(name, _flag(own, "binary_data", default=binary))
    return tuple(wanted.values())


def check_output(name: Any, names: Collection[str], wanted: Collection[str]) -> str:
    """The same name. Raises InputError if there is no such output, or it was requested before."""
    if not isinstance(name, str) or name not in names:
        raise InputError(unknown_name("output", name, names))
    if name in wanted:
        raise InputError(f"Output {name!r} is asked for twice")
    return name


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InputError(f"Parameter {name!r} must be true or false, got {show(value)}")
    return value


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


def encode_large(
    answer: Batch,
    request: InferRequest,
    name: str,
    version: str,
    signature: Signature,
    limits: RequestLimits,
) -> tuple[bytes, int | None]:
    """Like `encode_infer`, but checks the size of the answer before any of it is written."""
    check_answer(answer, request.binary_by_output(signature), limits)
    return encode_infer(answer, request, name, version, signature, limits)


def encode_infer(
    answer: Batch,
    request: InferRequest,
    name: str,
    version: str,
    signature: Signature,
    limits: RequestLimits,
) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON if binary tensors follow it. Raises TooLargeError, InputError."""
    if request.outputs:
        specs = {spec.name: spec for spec in signature.outputs}
        wanted = [(specs[output.name], output.binary) for output in request.outputs]
    else:
        wanted = [(spec, request.binary) for spec in signature.outputs]
    blobs: list[bytes] = []
    outputs = []
    for spec, is_binary in wanted:
        array, datatype = answer[spec.name], spec.datatype
        entry: dict[str, Any] = {"name": spec.name, "datatype": datatype, "shape": list(array.shape)}
        if is_binary:
            blob = encode_binary(array, datatype)
            entry["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
        elif datatype == "FP16":
            raise InputError(
                f"Output {spec.name!r} is FP16, which travels only as a binary tensor: request it as one"
            )
        else:
            entry["data"] = to_json_list(array) if array.dtype == object else array.ravel()
        outputs.append(entry)
    document: dict[str, Any] = {"model_name": name, "model_version": version}
    if request.id:
        document["id"] = request.id
    document["outputs"] = outputs
    text = dump_json(document)
    size = len(text) + sum(map(len, blobs)) if blobs else len(text)
    if size > limits.answer_bytes:  # long strings, and characters that JSON writes as six
        raise TooLargeError(f"The answer has {size} bytes, over {limits.answer_bytes}; ask for fewer rows")
    return (b"".join([text, *blobs]), len(text)) if blobs else (text, None)


def encode_binary(array: Array, datatype: str) -> bytes:
    if datatype != "BYTES":
        return (array if IS_LITTLE else array.astype(array.dtype.newbyteorder("<"))).tobytes()
    parts = []
    for value in array.ravel():
        data = value if isinstance(value, bytes) else str(value).encode()
        parts += [struct.pack("<I", len(data)), data]
    return b"".join(parts)


def to_json_list(array: Array) -> list[Any]:
    """Flat, row-major; strings as text. Bytes that are not text are an InputError: they need a binary output."""
    values = array.ravel().tolist()
    if array.dtype == object and any(isinstance(value, bytes) for value in values):
        try:
            return [value.decode() if isinstance(value, bytes) else value for value in values]
        except UnicodeDecodeError:
            raise InputError(
                "An output holds bytes that are not text; ask for it as a binary tensor"
            ) from None
    return values
