"""The Open Inference Protocol over gRPC: messages of `inference.GRPCInferenceService` <-> the same hosts as
over REST.

Serve calls these by method name through its gRPC port; the messages are those of the stock client.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import unquote

import grpc
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from raymlops import __version__
from raymlops.errors import InputError, RaymlopsError, TooLargeError, shorten
from raymlops.serving import codec, columns, grpc_codec, inference, protocol, routes, tracing
from raymlops.serving.keys import ANYONE, Key
from raymlops.serving.plane import LOG, DataPlane
from raymlops.serving.protobuf_limits import check_fields
from raymlops.serving.request_limits import (
    RequestLimits,
    check_rows,
)
from raymlops.serving.tracing import Trace

SERVICER = "raymlops.serving.grpc_plane.add_to_server"
_SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]


def add_to_server(servicer: Any, server: Any) -> None:
    """Register the protocol's methods. Messages arrive as bytes, which are parsed when the key was checked."""
    handlers = {
        method.name: grpc.unary_unary_rpc_method_handler(getattr(servicer, method.name))
        for method in _SERVICE.methods
        if method.name in _ROLES
    }
    handler = grpc.method_handlers_generic_handler(_SERVICE.full_name, handlers)
    server.add_generic_rpc_handlers((handler,))


_ROLES = {
    "ServerLive": "",
    "ServerReady": "",
    "ModelReady": "ready",
    "ServerMetadata": "view",
    "ModelMetadata": "view",
    "ModelStatistics": "view",
    "RepositoryIndex": "view",
    "ModelInfer": "infer",
}
"""What is answered, by the protocol's names, and for which role of a key; none is for probes."""
_REQUESTS = {name: getattr(pb, f"{name}Request") for name in _ROLES}

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
_TRACE = ("x-request-id", "traceparent", "tracestate")


async def answer(plane: DataPlane, name: str, message: bytes, context: Any) -> Any:
    """Answer a method of the protocol for whoever the metadata says, and turn failures into gRPC's codes."""
    started = time.perf_counter_ns()
    request: Any = None
    try:
        sent = dict(context.invocation_metadata() or ())
        request_id, parent, state = (_text(sent.get(name, "")) for name in _TRACE)
        tracing.follow(lambda: Trace(request_id, parent, state))
        role, token = _ROLES[name], read_token(sent)
        caller = plane.keys.admit(token, role) if role else ANYONE
        if plane.rate is not None and role in routes.LIMITED:
            headers = {
                header.encode(): _text(sent.get(header, "")).encode("latin-1", "replace") for header in _PROXY
            }
            await plane.rate.admit(caller.name or plane.addresses.find(_read_peer(context.peer()), headers))
        if not role:  # probes say nothing, and come from anyone
            message = b""
        if len(message) <= inference.LARGE:
            request = _parse(name, message)
            return await _run(plane, name, request, caller, token)
        held = plane.large_bodies.hold()
        try:
            held.take(len(message))
            request = await inference.run_large(
                plane.hosts, _parse_large, name, message, plane.body_limit, plane.hosts.limits
            )
            return await _run(plane, name, request, caller, token)
        finally:
            held.release()
    except Exception as error:
        if isinstance(error, MemoryError):
            error = TooLargeError("The request needs more memory than there is; send fewer rows a request")
        status = error.status if isinstance(error, RaymlopsError) else 500
        if status == 500:
            LOG.error("gRPC request failed: %s", error, exc_info=error)
        plane.hosts.count_failure(getattr(request, "model_name", ""), started)
        context.set_code(_CODES.get(status, grpc.StatusCode.INTERNAL))
        # They travel in a trailer of at most 8 KiB, in which a character takes up to twelve bytes.
        context.set_details(shorten(protocol.describe_error(error, "")["error"], 500))
        raise error from None


_PROXY = ("x-forwarded-for", "x-raymlops-proxy")


def _text(value: Any) -> str:
    """Metadata are text, or bytes where their name says so."""
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _read_peer(peer: str) -> str:
    """The address in `ipv4:127.0.0.1:4711` and `ipv6:%5B::1%5D:4711`, as gRPC names the other end."""
    kind, _, rest = peer.partition(":")
    return unquote(rest.rpartition(":")[0]).strip("[]") if kind in ("ipv4", "ipv6") else ""


def _parse(name: str, message: bytes) -> Any:
    try:
        return _REQUESTS[name].FromString(message)
    except DecodeError as error:
        raise InputError(f"The message is no {name}Request: {error}") from None


def _parse_large(name: str, message: bytes, limit: int, limits: RequestLimits) -> Any:
    if len(message) > limit:
        raise TooLargeError(
            f"The message has {len(message)} bytes, over {limit}, the most that is taken here; send fewer rows"
        )
    check_fields(message, _REQUESTS[name].DESCRIPTOR, _FIELDS + limits.json_elements)
    return _parse(name, message)


_FIELDS = 10_000
"""Of a message beside the elements of its tensors."""


async def _run(plane: DataPlane, name: str, request: Any, caller: Key, token: str) -> Any:
    method, role = _METHODS[name], _ROLES[name]
    model = getattr(request, "model_name", getattr(request, "name", None))
    if caller.models and (model or method is not model_statistics):
        plane.keys.admit(token, role, model)
    if role not in routes.LIMITED:
        return await method(plane, request, caller)
    plane.hosts.enter([getattr(request, "model_name", "")])
    try:
        return await method(plane, request, caller)
    finally:
        plane.hosts.pending -= 1


def read_token(metadata: Mapping[str, Any]) -> str:
    """The API key among a call's metadata; empty for none."""
    bearer = _text(metadata.get("authorization", ""))
    return bearer[7:].strip() if bearer[:7].lower() == "bearer " else _text(metadata.get("x-api-key", ""))


async def server_live(plane: DataPlane, request: Any, caller: Key) -> Any:
    return pb.ServerLiveResponse(live=True)


async def server_ready(plane: DataPlane, request: Any, caller: Key) -> Any:
    return pb.ServerReadyResponse(ready=all(hosted.ready for hosted in plane.hosts.models.values()))


async def model_ready(plane: DataPlane, request: Any, caller: Key) -> Any:
    return pb.ModelReadyResponse(ready=plane.hosts.find(request.name, request.version).can_answer)


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
    hosts = plane.hosts
    hosted = hosts.find(request.model_name, request.model_version)
    endpoint, limits = hosted.endpoint, hosts.limits
    large = request.ByteSize() > inference.LARGE
    batch = (
        await inference.run_large(hosts, grpc_codec.decode, request, hosted, limits)
        if large
        else grpc_codec.decode(request, hosted, limits)
    )
    known = [spec.name for spec in endpoint.signature.outputs]
    names: list[str] = []
    for output in request.outputs:
        codec.check_output(output.name, known, names)
        names.append(output.name)
    rows = columns.check_rows(batch, hosted.columns)
    check_rows(rows, limits)
    outputs = tuple(protocol.RequestedOutput(name, binary=True) for name in names or known)
    asked = protocol.InferRequest(request.id, batch, outputs)
    inference.check_estimate(hosts, hosted, rows, asked)
    timeout_s = inference.read_timeout({"timeout": _parameter(request, "timeout")})
    result = await inference.ask(hosted, batch, caller.name or None, timeout_s, time.perf_counter_ns())
    given = result, asked, hosted.name, endpoint.version, endpoint.signature, limits
    if inference.count_bytes(result) <= inference.LARGE:
        return grpc_codec.encode(*given)
    return await inference.run_large(hosts, grpc_codec.encode, *given)


def _parameter(request: Any, name: str) -> Any:
    """Its value, whatever its kind; None where there is none."""
    if name not in request.parameters:
        return None
    parameter = request.parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None


_METHODS: dict[str, Callable[[DataPlane, Any, Key], Awaitable[Any]]] = {
    "ServerLive": server_live,
    "ServerReady": server_ready,
    "ModelReady": model_ready,
    "ServerMetadata": server_metadata,
    "ModelMetadata": model_metadata,
    "ModelStatistics": model_statistics,
    "RepositoryIndex": repository_index,
    "ModelInfer": model_infer,
}
