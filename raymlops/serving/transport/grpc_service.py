"""The Open Inference Protocol and grpc.health.v1 over gRPC: reads callers from metadata, parses, admits, answers,
reports failures as gRPC status codes, and logs.

Serve calls these by method name through its gRPC port; the messages are those of the standard client, see
`grpc_answers.py` for the answers.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from tritonclient.grpc import service_pb2 as pb

from raymlops.errors import (
    InputError,
    OverloadedError,
    ProcessEndedError,
    RaymlopsError,
    TooLargeError,
    TooManyRequestsError,
    shorten,
)
from raymlops.serving.protocol import open_inference
from raymlops.serving.protocol.grpc_message import find_id, find_model
from raymlops.serving.protocol.protobuf_limits import check_fields
from raymlops.serving.protocol.request_limits import RequestLimits
from raymlops.serving.protocol.server_settings import UnsupportedError
from raymlops.serving.transport import grpc_answers, inference, routes, trace_context
from raymlops.serving.transport.asgi import LOG, DataPlane
from raymlops.serving.transport.grpc_answers import METHODS, STREAMS, Call
from raymlops.serving.transport.trace_context import Trace

SERVICER = "raymlops.serving.transport.grpc_service.add_to_server"


def add_to_server(servicer: Any, server: Any) -> None:
    """Register the methods of both services. Messages arrive as bytes, which are parsed after the key was checked."""
    for file, name in ((pb, "GRPCInferenceService"), (health_pb2, "Health")):
        service = file.DESCRIPTOR.services_by_name[name]
        handlers = {}
        for method in service.methods:
            if method.name not in METHODS and method.name not in STREAMS:
                continue
            kind = "_".join(
                "stream" if streams else "unary"
                for streams in (method.client_streaming, method.server_streaming)
            )
            make = getattr(grpc, f"{kind}_rpc_method_handler")
            handlers[method.name] = make(getattr(servicer, method.name))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))


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
_DETAILS = 500
"""Characters of an error text: it travels in a trailer of at most 8 KiB, in which a character takes up to twelve
bytes."""
_ID = 128
"""Longest request id, in characters."""
_PROXY = ("x-forwarded-for", "x-raymlops-proxy")


async def answer(plane: DataPlane, name: str, message: bytes, context: Any) -> Any:
    """Answer a method of the protocol. A raised failure has set its code, details and trailers."""
    sent = dict(context.invocation_metadata() or ())
    call = _begin(plane, name, sent)
    failure: BaseException | None = asyncio.CancelledError()
    response = None
    try:
        response = await _run(plane, call, message, sent, context)
        failure = None
        context.set_trailing_metadata(_trailers(plane, call, None))
        return response
    except Exception as error:
        failure = _log_fault(plane, call, error)
        _tell(plane, call, failure, context)
        raise failure from None
    finally:
        _finish(plane, call, failure, len(message), response)


class RelayedError(Exception):
    """The error of another application, see `grpc_relay.py`."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(code, details)
        self.code, self.details = code, details


class Relay(Protocol):
    """Relays calls to other applications."""

    async def admit(self, token: str) -> None: ...

    async def relay_call(
        self, name: str, message: bytes, context: Any
    ) -> tuple[str, str, Any, bytes] | None: ...


async def stream(
    plane: DataPlane, name: str, messages: AsyncIterator[bytes], context: Any, relay: Relay | None = None
) -> AsyncIterator[Any]:
    """Answer the requests of a stream, one after the other; a failure is the answer to its request, and the next one
    is answered.

    With the metadata `triton_grpc_error: true` a failure ends the stream with its code, as in Triton.
    """
    sent = dict(context.invocation_metadata() or ())
    ends = _text(sent.get("triton_grpc_error", "")).lower() == "true"
    method = STREAMS[name]
    try:
        if relay is None:
            plane.keys.admit(read_token(sent), METHODS[method].role)
        else:
            await relay.admit(read_token(sent))
    except RaymlopsError as error:
        refuse(plane, name, sent, error, context)
        return
    async for message in _until_draining(plane, messages):
        if message is None:
            ended = OverloadedError("This replica is being replaced; open the stream again")
            refuse(plane, name, sent, ended, context)
            return
        call = _begin(plane, method, sent)
        response, failure = await _answer_streamed(plane, call, message, sent, context, relay)
        if failure is None:
            yield pb.ModelStreamInferResponse(infer_response=response)
        elif ends:
            _tell(plane, call, failure, context)
            return
        else:
            told = pb.ModelInferResponse(model_name=find_model(method, message), id=find_id(message))
            yield pb.ModelStreamInferResponse(error_message=_describe(failure, call), infer_response=told)


async def _answer_streamed(
    plane: DataPlane,
    call: Call,
    message: bytes,
    sent: Mapping[str, Any],
    context: Any,
    relay: Relay | None,
) -> tuple[Any, Exception | None]:
    """An answer, or the reason why there is none."""
    response: Any = None
    handed = None
    failure: BaseException | None = asyncio.CancelledError()
    try:
        handed = await relay.relay_call(call.method, message, context) if relay is not None else None
        if handed is not None:  # the application that it was relayed to has logged it
            code, details, _, answered = handed
            if code != "OK":
                return None, RelayedError(code, details)
            return pb.ModelInferResponse.FromString(answered), None
        response = await _run(plane, call, message, sent, context)
        failure = None
    except Exception as error:
        failure = _log_fault(plane, call, error)
        return None, failure
    finally:
        if handed is None:
            _finish(plane, call, failure, len(message), response)
    return response, None


async def _until_draining(plane: DataPlane, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes | None]:
    """The messages; None if none has arrived and the replica is about to end."""
    while True:
        coming = asyncio.ensure_future(anext(messages, _END))
        try:
            while not (await asyncio.wait({coming}, timeout=_LOOK_S))[0]:
                if plane.is_draining():
                    yield None
                    return
        finally:
            if not coming.done():
                coming.cancel()
        if (message := coming.result()) is _END:
            return
        yield message


_END: Any = object()
_WATCHERS, _LOOK_S = 64, 1.0
"""Maximum number of health watchers of a replica, and how often it looks for news for watchers and open streams."""


async def watch(
    plane: DataPlane, message: bytes, context: Any, relay: Relay | None = None
) -> AsyncIterator[Any]:
    """The health of a service now and whenever it changes, as in grpc.health.v1: an unknown service may become known
    later."""
    sent = dict(context.invocation_metadata() or ())
    if plane.watchers >= _WATCHERS:
        many = TooManyRequestsError(f"{_WATCHERS} clients watch this replica already; call Check instead")
        refuse(plane, "Watch", sent, many, context)
        return
    plane.watchers += 1
    try:
        told = None
        while not plane.is_draining():
            status = await _find_status(plane, message, sent, context, relay)
            if status is None:
                return
            if status != told:
                yield health_pb2.HealthCheckResponse(status=status)
                told = status
            await asyncio.sleep(_LOOK_S)
        yield health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)
    finally:
        plane.watchers -= 1


async def _find_status(
    plane: DataPlane, message: bytes, sent: Mapping[str, Any], context: Any, relay: Relay | None
) -> int | None:
    """The requested health; None if the caller may not know it, or no longer, after its call was ended."""
    response = health_pb2.HealthCheckResponse
    try:
        if len(message) > _PROBE:
            raise TooLargeError(f"A probe takes {_PROBE} bytes, got {len(message)}")
        handed = await relay.relay_call("Check", message, context) if relay is not None else None
        if handed is None:
            service = _parse("Check", message).service
            return grpc_answers.find_health(plane, service, read_token(sent))
    except RaymlopsError as error:
        if error.status == 404:
            return int(response.SERVICE_UNKNOWN)
        refuse(plane, "Watch", sent, error, context)
        return None
    code, details, _, answered = handed
    if code == "OK":
        return int(response.FromString(answered).status)
    if code in ("NOT_FOUND", "UNAVAILABLE"):
        return int(response.SERVICE_UNKNOWN if code == "NOT_FOUND" else response.NOT_SERVING)
    context.set_code(grpc.StatusCode[code])
    context.set_details(details)
    return None


def _begin(plane: DataPlane, name: str, sent: Mapping[str, Any]) -> Call:
    given = sent.get("x-request-id")
    request_id = _text(given)[:_ID] if given else f"{random.getrandbits(64):016x}"
    call = Call(name, request_id, read_token(sent), _text(sent.get("x-request-key", "")))
    call.has_id = bool(given)
    call.logged = logged = random.random() < plane.log_share  # noqa: S311

    def trace() -> Trace:
        return Trace(
            request_id, _text(sent.get("traceparent", "")), _text(sent.get("tracestate", "")), logged=logged
        )

    call.trace = trace
    trace_context.follow(trace)
    return call


async def _run(plane: DataPlane, call: Call, message: bytes, sent: Mapping[str, Any], context: Any) -> Any:
    """The answer to a message of any size. Raises RaymlopsError."""
    role = METHODS[call.method].role
    if role:
        call.caller = plane.keys.admit(call.token, role)
        if plane.rate is not None and role in routes.LIMITED:
            headers = {
                header.encode(): _text(sent.get(header, "")).encode("latin-1", "replace") for header in _PROXY
            }
            peer = _read_peer(context.peer())
            await plane.rate.admit(call.caller.name or plane.addresses.find(peer, headers))
    elif len(message) > _PROBE:
        raise TooLargeError(f"A probe takes {_PROBE} bytes, got {len(message)}")
    if len(message) <= inference.LARGE:
        return await _dispatch(plane, call, _parse(call.method, message))
    held = plane.large_bodies.hold()
    try:
        held.take(len(message))
        given = call.method, message, plane.body_limit, plane.hosts.limits
        return await _dispatch(plane, call, await inference.run_large(plane.hosts, _parse_large, *given))
    finally:
        held.release()


_PROBE = 1024
"""Bytes that are parsed for callers without a key."""


async def _dispatch(plane: DataPlane, call: Call, request: Any) -> Any:
    method = METHODS[call.method]
    call.model = model = method.name_model(request)
    if call.caller.models and method.model and (model or not method.optional):
        plane.keys.admit(call.token, method.role, model)
    if method.role not in routes.LIMITED:
        return await method.run(plane, request, call)
    plane.hosts.enter()
    try:
        return await method.run(plane, request, call)
    finally:
        plane.hosts.pending -= 1


def _parse(name: str, message: bytes) -> Any:
    try:
        return METHODS[name].request.FromString(message)
    except DecodeError as error:
        raise InputError(f"The message is no {METHODS[name].request.DESCRIPTOR.name}: {error}") from None


def _parse_large(name: str, message: bytes, limit: int, limits: RequestLimits) -> Any:
    if len(message) > limit:
        raise TooLargeError(
            f"The message has {len(message)} bytes, over {limit}, the most that is accepted here; send fewer rows"
        )
    check_fields(message, METHODS[name].request.DESCRIPTOR, _FIELDS + limits.json_elements)
    return _parse(name, message)


_FIELDS = 10_000
"""Bytes of a message beside the elements of its tensors."""


def _log_fault(plane: DataPlane, call: Call, error: Exception) -> Exception:
    """The error that the caller sees; if it is our fault, the log has it with its cause."""
    if isinstance(error, MemoryError):
        error = TooLargeError("The request needs more memory than there is; send fewer rows a request")
    if _status(error) == 500:
        LOG.error("gRPC request %s failed: %s", call.id, error, exc_info=error)
    return error


def _status(error: BaseException) -> int:
    return error.status if isinstance(error, RaymlopsError) else 500


def _code(error: BaseException) -> grpc.StatusCode:
    if isinstance(error, RelayedError):
        return grpc.StatusCode[error.code]
    if isinstance(error, UnsupportedError):
        return grpc.StatusCode.UNIMPLEMENTED
    return _CODES.get(_status(error), grpc.StatusCode.INTERNAL)


def _describe(error: BaseException, call: Call) -> str:
    if isinstance(error, RelayedError):
        return error.details
    return shorten(open_inference.describe_error(error, call.id)["error"], _DETAILS)


def refuse(plane: DataPlane, name: str, sent: Mapping[str, Any], error: RaymlopsError, context: Any) -> None:
    """Report and log why a call is not started."""
    call = _begin(plane, name, sent)
    _tell(plane, call, error, context)
    _finish(plane, call, error, 0, None)


def _tell(plane: DataPlane, call: Call, error: BaseException, context: Any) -> None:
    context.set_code(_code(error))
    context.set_details(_describe(error, call))
    context.set_trailing_metadata(_trailers(plane, call, error))


def _trailers(plane: DataPlane, call: Call, error: BaseException | None) -> list[tuple[str, str]]:
    """What HTTP says in headers. Clients that retry failed calls by themselves are told when, and not to retry calls
    that may have been started: https://github.com/grpc/proposal/blob/master/A6-client-retries.md"""
    told = []
    if call.id.isascii() and call.id.isprintable():
        told.append(("x-request-id", call.id))
    hosted = plane.hosts.models.get(call.model)
    if error is None and hosted is not None and call.model.isascii() and call.model.isprintable():
        told.append(("x-model-version", f"{call.model}/{hosted.endpoint.version}"))
    if isinstance(error, ProcessEndedError):
        told.append(("grpc-retry-pushback-ms", "-1"))
    elif isinstance(error, OverloadedError | TooManyRequestsError):
        told.append(("retry-after", str(max(1, round(error.retry_after)))))
        told.append(("grpc-retry-pushback-ms", str(max(1, round(1000 * error.retry_after)))))
    return told


def _finish(plane: DataPlane, call: Call, failure: BaseException | None, size: int, response: Any) -> None:
    """Count an inference request and notify observers, with the HTTP `status` and gRPC's code."""
    gone = isinstance(failure, asyncio.CancelledError)
    status, ended = 200 if failure is None else 499 if gone else _status(failure), time.perf_counter_ns()
    sizes = size, 0 if response is None else response.ByteSize()
    call.infers = METHODS[STREAMS.get(call.method, call.method)].role == "infer"
    if call.infers:
        plane.hosts.count(call, call.model, status, ended, *sizes)
    if call.logged or status >= 500 or plane.hosts.observers.inferences:
        code = (
            grpc.StatusCode.OK if failure is None else grpc.StatusCode.CANCELLED if gone else _code(failure)
        )
        plane.hosts.observers.tell(call, status, ended, *sizes, code.name)


def _text(value: Any) -> str:
    """Metadata are text, or bytes if their name says so."""
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _read_peer(peer: str) -> str:
    """The address in `ipv4:127.0.0.1:4711` and `ipv6:%5B::1%5D:4711`, gRPC's form of a peer."""
    kind, _, rest = peer.partition(":")
    return unquote(rest.rpartition(":")[0]).strip("[]") if kind in ("ipv4", "ipv6") else ""


def read_token(metadata: Mapping[str, Any]) -> str:
    """The API key in a call's metadata; empty for none."""
    bearer = _text(metadata.get("authorization", ""))
    return bearer[7:].strip() if bearer[:7].lower() == "bearer " else _text(metadata.get("x-api-key", ""))
