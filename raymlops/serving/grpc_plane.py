"""The Open Inference Protocol over gRPC: messages of `inference.GRPCInferenceService` <-> the same hosts as
over REST.

Serve calls these by method name through its gRPC port; the messages are those of the stock client.
"""

import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
import numpy as np
from google.protobuf import json_format
from tritonclient.grpc import service_pb2 as pb

from raymlops import __version__
from raymlops.errors import InputError, RaymlopsError, unknown_name
from raymlops.serving import codec, columns, protocol, routes, tracing
from raymlops.serving.columns import Array
from raymlops.serving.keys import ANYONE, Key, KeyRing
from raymlops.serving.plane import LOG, DataPlane
from raymlops.serving.routes import Hosted
from raymlops.serving.tracing import Trace
from raymlops.tensors import DATATYPES, Batch, Signature

SERVICER = "tritonclient.grpc.service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server"

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.FAILED_PRECONDITION,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_CONTENTS = {
    "BOOL": "bool_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


_TRACE = ("x-request-id", "traceparent", "tracestate")


async def answer(
    plane: DataPlane,
    method: Callable[[DataPlane, Any, Key], Awaitable[Any]],
    role: str,
    request: Any,
    context: Any,
) -> Any:
    """Run a method for whoever the metadata says, and turn failures into gRPC's codes."""
    started = time.perf_counter_ns()
    try:
        sent = dict(context.invocation_metadata() or ())
        tracing.follow(lambda: Trace(*(sent.get(name, "") for name in _TRACE)))
        model = getattr(request, "model_name", getattr(request, "name", None))
        about_all = model == "" and method is model_statistics
        caller = _admit(plane.keys, role, sent, None if about_all else model)
        if plane.rate is not None and role in routes.LIMITED:
            await plane.rate.admit(caller.name)
        if role not in routes.LIMITED:
            return await method(plane, request, caller)
        plane.hosts.enter([getattr(request, "model_name", "")])
        try:
            return await method(plane, request, caller)
        finally:
            plane.hosts.pending -= 1
    except Exception as error:
        status = error.status if isinstance(error, RaymlopsError) else 500
        if status == 500:
            LOG.error("gRPC request failed: %s", error, exc_info=error)
        plane.hosts.count_failure(getattr(request, "model_name", ""), started)
        context.set_code(_CODES.get(status, grpc.StatusCode.INTERNAL))
        context.set_details(protocol.describe_error(error, "")["error"])
        raise


def _admit(keys: KeyRing, role: str, metadata: Mapping[str, str], model: str | None) -> Key:
    if not role:
        return ANYONE
    return keys.admit(read_token(metadata), role, model)


def read_token(metadata: Mapping[str, str]) -> str:
    """The API key among a call's metadata; empty for none."""
    bearer = metadata.get("authorization", "")
    return bearer[7:].strip() if bearer[:7].lower() == "bearer " else metadata.get("x-api-key", "")


async def server_live(plane: DataPlane, request: Any, caller: Key) -> Any:
    return pb.ServerLiveResponse(live=True)


async def server_ready(plane: DataPlane, request: Any, caller: Key) -> Any:
    return pb.ServerReadyResponse(ready=all(hosted.ready for hosted in plane.hosts.models.values()))


async def model_ready(plane: DataPlane, request: Any, caller: Key) -> Any:
    return pb.ModelReadyResponse(ready=plane.hosts.find(request.name, request.version).ready)


async def server_metadata(plane: DataPlane, request: Any, caller: Key) -> Any:
    return pb.ServerMetadataResponse(
        name=plane.hosts.name, version=__version__, extensions=protocol.EXTENSIONS
    )


async def model_metadata(plane: DataPlane, request: Any, caller: Key) -> Any:
    hosted = plane.hosts.find(request.name, request.version)
    endpoint = hosted.endpoint

    def tensors(specs: Any) -> list[Any]:
        kind = pb.ModelMetadataResponse.TensorMetadata
        return [kind(name=s.name, datatype=s.datatype, shape=s.shape) for s in specs]

    return pb.ModelMetadataResponse(
        name=hosted.name,
        versions=[endpoint.version],
        platform=hosted.platform,
        inputs=tensors(endpoint.signature.inputs),
        outputs=tensors(endpoint.signature.outputs),
    )


async def repository_index(plane: DataPlane, request: Any, caller: Key) -> Any:
    seen = plane.hosts.seen_by(caller)
    states = {name: (hosted.endpoint.version, hosted.ready) for name, hosted in seen.items()}
    entries = [
        entry for entry in protocol.describe_index(states) if entry["state"] == "READY" or not request.ready
    ]
    return pb.RepositoryIndexResponse(
        models=[pb.RepositoryIndexResponse.ModelIndex(**entry) for entry in entries]
    )


async def model_statistics(plane: DataPlane, request: Any, caller: Key) -> Any:
    hosts = plane.hosts
    wanted = (
        [hosts.find(request.name, request.version)] if request.name else list(hosts.seen_by(caller).values())
    )
    response = pb.ModelStatisticsResponse()
    for hosted in wanted:
        json_format.ParseDict(
            hosted.statistics.to_json(), response.model_stats.add(), ignore_unknown_fields=True
        )
    return response


async def model_infer(plane: DataPlane, request: Any, caller: Key) -> Any:
    hosted = plane.hosts.find(request.model_name, request.model_version)
    batch = decode(request, hosted)
    known = {spec.name for spec in hosted.endpoint.signature.outputs}
    for output in request.outputs:
        if output.name not in known:
            raise InputError(unknown_name("output", output.name, known))
    timeout = request.parameters["timeout"].int64_param if "timeout" in request.parameters else None
    started = time.perf_counter_ns()
    result = await routes.ask(hosted, batch, caller.name or None, {"timeout": timeout}, started)
    names = [output.name for output in request.outputs]
    return encode(result, request.id, names, hosted.name, hosted.endpoint.version, hosted.endpoint.signature)


def decode(request: Any, hosted: Hosted) -> Batch:
    """The batch of a ModelInferRequest, from raw bytes or typed contents. Raises InputError."""
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise InputError(f"raw_input_contents has {len(raw)} entries for {len(request.inputs)} inputs")
    batch: Batch = {}
    for index, tensor in enumerate(request.inputs):
        column = hosted.columns.get(tensor.name)
        if column is None:
            raise InputError(unknown_name("input", tensor.name, hosted.columns))
        if tensor.name in batch:
            raise InputError(f"Input {tensor.name!r} is given twice")
        if tensor.datatype not in DATATYPES:
            raise InputError(unknown_name(f"datatype of input {tensor.name!r}:", tensor.datatype, DATATYPES))
        shape = list(tensor.shape)
        if any(size < 0 or size > 2**40 for size in shape):
            raise InputError(f"Input {tensor.name!r}: shape must have no negative size, got {shape}")
        count = math.prod(shape)
        if raw:
            array = codec.decode_binary(memoryview(raw[index]), tensor.datatype, count, tensor.name)
        else:
            array = _from_contents(tensor, count)
        array = columns.convert(array.reshape(shape), tensor.datatype, column)
        batch[tensor.name] = columns.check_shape(array, column)
    missing = [str(column.spec) for name, column in hosted.columns.items() if name not in batch]
    if missing:
        raise InputError(f"Input missing: {', '.join(missing)}")
    columns.check_rows(batch, hosted.columns)
    return batch


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
    wide = np.array(values)
    if (
        dtype.kind in "iu"
        and count
        and not np.iinfo(dtype).min <= wide.min() <= wide.max() <= np.iinfo(dtype).max
    ):
        raise InputError(f"Input {tensor.name!r}: a value is outside {tensor.datatype}")
    return wide.astype(dtype)


def encode(
    answer: Batch, request_id: str, names: list[str], model: str, version: str, signature: Signature
) -> Any:
    """A ModelInferResponse with raw contents, as Triton answers."""
    response = pb.ModelInferResponse(model_name=model, model_version=version, id=request_id)
    for spec in signature.outputs:
        if names and spec.name not in names:
            continue
        array = answer[spec.name]
        response.outputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
        response.raw_output_contents.append(codec.encode_binary(array, spec.datatype))
    return response
