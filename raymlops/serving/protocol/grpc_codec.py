"""Converts messages of the Open Inference Protocol over gRPC to tensors and back. Imports no server."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2 as pb

from raymlops.errors import InputError, unknown_name
from raymlops.serving.protocol import columns, open_inference, rest_codec
from raymlops.serving.protocol.columns import Column
from raymlops.serving.protocol.request_limits import (
    RequestLimits,
    check_answer,
    check_strings,
    count_elements,
)
from raymlops.tensors import DATATYPES, Array, Batch, Signature

_CONTENTS = {
    "BOOL": "bool_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
_WIDTHS: dict[str, type] = {
    "bool_contents": np.bool_, "int_contents": np.int32, "int64_contents": np.int64, "uint_contents": np.uint32,
    "uint64_contents": np.uint64, "fp32_contents": np.float32, "fp64_contents": np.float64,
}  # fmt: skip
"""Datatypes of the protocol's fields."""


def decode(request: Any, known: Mapping[str, Column], limits: RequestLimits) -> Batch:
    """The batch of a ModelInferRequest, from raw bytes or typed contents. Raises InputError, TooLargeError."""
    _refuse_shared_memory(request.inputs)
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InputError(f"raw_input_contents has {len(raw)} entries for {len(request.inputs)} inputs")
    batch: Batch = {}
    for index, tensor in enumerate(request.inputs):
        column = known.get(tensor.name)
        if column is None:
            raise InputError(unknown_name("input", tensor.name, known))
        name = column.spec.name
        if name in batch:
            raise InputError(f"Input {name!r} is given twice")
        if tensor.datatype not in DATATYPES:
            raise InputError(unknown_name(f"datatype of input {name!r}:", tensor.datatype, DATATYPES))
        shape = list(tensor.shape)
        count = count_elements(shape, column.spec, limits)
        if tensor.datatype == "BYTES" or not raw:
            check_strings(count, name, limits)
        if raw:
            array = rest_codec.decode_binary(memoryview(raw[index]), tensor.datatype, count, name)
        else:
            array = _from_contents(tensor, count)
        batch[name] = columns.convert(array.reshape(shape), tensor.datatype, column)
    missing = [
        str(column.spec) for name, column in known.items() if name not in batch and not column.optional
    ]
    if missing:
        raise InputError(f"Input missing: {', '.join(missing)}")
    return batch


def _refuse_shared_memory(tensors: Any) -> None:
    for tensor in tensors:
        if tensor.parameters and "shared_memory_region" in tensor.parameters:
            raise InputError(
                f"Tensor {tensor.name!r} is in shared memory, which is not supported; send it in the request"
            )


def decode_outputs(request: Any, known: Sequence[str]) -> list[str]:
    """The names of the requested outputs; empty for all. Raises InputError."""
    names: list[str] = []
    if request.outputs:
        _refuse_shared_memory(request.outputs)
    for output in request.outputs:
        if read_parameter(output, "classification"):
            raise InputError(f"Output {output.name!r}: the classification extension is not supported")
        rest_codec.check_output(output.name, known, names)
        names.append(output.name)
    return names


def read_parameter(request: Any, name: str) -> Any:
    """Its value, whatever its kind; None if there is none."""
    return _to_value(request.parameters[name]) if name in request.parameters else None


def read_parameters(request: Any, most: int = 64) -> dict[str, Any]:
    """Name -> value of the first parameters."""
    return {name: _to_value(request.parameters[name]) for name in itertools.islice(request.parameters, most)}


def _to_value(parameter: Any) -> Any:
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None


def _from_contents(tensor: Any, count: int) -> Array:
    field = _CONTENTS.get(tensor.datatype)
    if field is None:
        raise InputError(f"Input {tensor.name!r}: {tensor.datatype} travels only in raw_input_contents")
    values = getattr(tensor.contents, field)
    if len(values) != count:
        raise InputError(
            f"Input {tensor.name!r}: its shape has {count} elements, but {field} has {len(values)}"
        )
    dtype = DATATYPES[tensor.datatype].numpy
    if tensor.datatype == "BYTES":
        array = np.empty(count, dtype=object)
        array[:] = list(values)
        return array
    wide = _to_array(values, _WIDTHS[field])
    if (
        dtype.kind in "iu"
        and count
        and not np.iinfo(dtype).min <= wide.min() <= wide.max() <= np.iinfo(dtype).max
    ):
        raise InputError(f"Input {tensor.name!r}: a value is outside {tensor.datatype}")
    return wide.astype(dtype)


_PIECE = 2**16
"""Numbers that are converted in one call, during which no other thread runs."""


def _to_array(values: Any, dtype: type) -> Array:
    pieces: list[Array] = [np.array(values[i : i + _PIECE], dtype) for i in range(0, len(values), _PIECE)]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces or [np.empty(0, dtype)])


def encode(
    answer: Batch,
    request: open_inference.InferRequest,
    model: str,
    version: str,
    signature: Signature,
    limits: RequestLimits,
) -> Any:
    """A ModelInferResponse with raw contents, like Triton's. Raises TooLargeError."""
    check_answer(answer, request.binary_by_output(signature), limits)
    response = pb.ModelInferResponse(model_name=model, model_version=version, id=request.id)
    datatypes = {spec.name: spec.datatype for spec in signature.outputs}
    for output in request.outputs:
        array, datatype = answer[output.name], datatypes[output.name]
        response.outputs.add(name=output.name, datatype=datatype, shape=array.shape)
        response.raw_output_contents.append(rest_codec.encode_binary(array, datatype))
    return response
