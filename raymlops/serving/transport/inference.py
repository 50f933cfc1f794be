"""Inference requests from the body of the request to that of the response, in the forms of all protocols. Imports
neither ASGI nor Ray."""

import asyncio
import functools
import gc
from collections.abc import Callable, Mapping
from time import perf_counter_ns
from typing import Any, TypeVar

from raymlops.errors import DeadlineError, InputError, NotFoundError
from raymlops.serving.endpoints import deadlines
from raymlops.serving.endpoints.hosted import Hosted, Hosts
from raymlops.serving.endpoints.observers import PendingRequest
from raymlops.serving.protocol import kserve_v1, mlflow_codec, open_inference, rest_codec
from raymlops.serving.protocol.request_limits import AnswerEstimate, show
from raymlops.serving.transport.http import Request, Response
from raymlops.tensors import Batch, copy_batch

LARGE = 2**16
"""Bytes above which a body is decoded, or an answer encoded, in a thread: about a millisecond's work."""
T = TypeVar("T")


async def run_large(hosts: Hosts, call: Callable[..., T], *arguments: Any) -> T:
    """The result of a long call, run in a thread."""
    return await asyncio.get_running_loop().run_in_executor(hosts.threads, _run_without_gc, call, *arguments)


def _run_without_gc(call: Callable[..., T], *arguments: Any) -> T:
    """Without the garbage collector, which would traverse all lists of a body repeatedly while they are made, and
    stops every thread meanwhile."""
    collects = gc.isenabled()
    gc.disable()
    try:
        return call(*arguments)
    finally:
        if collects:
            gc.enable()


async def infer(hosts: Hosts, request: Request) -> Response:
    hosted = hosts.find(*request.parts)
    request.model = hosted.name
    length = request.headers.get(b"inference-header-content-length")
    if length is not None and not (length.isdigit() and len(length) < 20):
        raise InputError("Inference-Header-Content-Length must be a whole number")
    header_length = None if length is None else int(length)
    endpoint, body, limits = hosted.endpoint, request.body, hosts.limits
    signature = endpoint.signature
    what, decode = (body, header_length, signature, limits), hosted.decoder.decode
    decoded = decode(*what) if len(body) <= LARGE else await run_large(hosts, decode, *what)
    rows = request.rows = decoded.rows
    if rows > 1:
        check_estimate(hosts, hosted, rows, decoded)
    timeout_s = None
    if decoded.parameters:
        request.parameters, timeout_s = decoded.parameters, read_timeout(decoded.parameters)
    if decoded.id and b"x-request-id" not in request.headers:
        request.body_id = decoded.id[:128]
    answer = await ask(hosted, decoded.batch, _sticky(request), timeout_s, request)
    given = answer, decoded, hosted.name, endpoint.version, signature, limits
    body, json_length = (
        rest_codec.encode_infer(*given)
        if count_bytes(answer) <= LARGE
        else await run_large(hosts, rest_codec.encode_large, *given)
    )
    if json_length is None:
        return Response(200, body, hosted.headers)
    lengths = (b"inference-header-content-length", str(json_length).encode())
    return Response(200, body, (*hosted.binary_headers, lengths))


def count_bytes(answer: Batch) -> int:
    return sum([array.nbytes for array in answer.values()])  # a generator takes twice as long


def check_estimate(
    hosts: Hosts, hosted: Hosted, rows: int, request: open_inference.InferRequest | None = None
) -> None:
    """Refuse a request before it runs if its answer would be too large; without `request` the answer is JSON of all
    outputs. Raises TooLargeError."""
    signature, limits = hosted.endpoint.signature, hosts.limits
    if hosted.estimate is None:
        hosted.estimate = AnswerEstimate.of(signature, limits)
    if rows > hosted.estimate.safe_rows:
        request = request or open_inference.InferRequest("", {})
        hosted.estimate.check(rows, request.binary_by_output(signature), limits, signature)


_LONGEST_US = 3600e6
"""Microseconds; no deadline of a model is longer."""


def read_timeout(parameters: Mapping[str, Any]) -> float | None:
    """Seconds, from the parameter `timeout`, which Triton's clients send in microseconds; 0 is none.

    Raises InputError.
    """
    timeout = parameters.get("timeout")
    if timeout is None:
        return None
    if type(timeout) not in (int, float) or not timeout >= 0:
        raise InputError(f"Parameter 'timeout' must be microseconds, 0 or more, got {show(timeout)}")
    return timeout / 1e6 if 0 < timeout < _LONGEST_US else None


async def ask(
    hosted: Hosted, batch: Batch, key: str | None, timeout_s: float | None, request: PendingRequest
) -> Batch:
    """The endpoint's answer. Where it becomes a response, the request is counted and observers are notified, with the
    times and tensors that were recorded here."""
    request.statistics = hosted.statistics
    request.batch = copy_batch(batch) if hosted.is_observed_by_copy else batch
    request.decoded = perf_counter_ns()
    if not hosted.ready:
        raise NotFoundError(
            f"Model {hosted.name!r} is not loaded; POST /v2/repository/models/{hosted.name}/load"
        )
    try:
        if timeout_s is None:
            answer = await hosted.endpoint.infer(batch, key=key)
        else:
            with deadlines.bound(timeout_s, is_asked=True):
                async with asyncio.timeout(timeout_s):
                    answer = await hosted.endpoint.infer(batch, key=key)
    except TimeoutError as error:
        node = ", ".join(getattr(error.__cause__, "__notes__", ()))  # the node that a graph waited for
        raise DeadlineError(
            f"{hosted.name!r} did not answer within the {timeout_s or 0:g} s asked "
            f"for{node and f': {node} did not'}"
        ) from None
    request.answered = perf_counter_ns()
    request.answer = copy_batch(answer) if hosted.is_observed_by_copy else answer
    return answer


def _sticky(request: Request) -> str | None:
    """Keeps a caller on one branch of a split: a key that it sent, or else its API key."""
    word = request.headers.get(b"x-request-key")
    return word.decode("latin-1") if word else request.key or None


async def invoke(hosts: Hosts, request: Request) -> Response:
    """MLflow's scoring protocol."""
    if request.parts:
        hosted = hosts.find(*request.parts)
    elif len(hosts.models) == 1:
        hosted = next(iter(hosts.models.values()))
    else:
        raise InputError(
            f"Several models are served; say which: POST /invocations/NAME with one of "
            f"{', '.join(hosts.seen_by(request.caller))}"
        )
    encode = functools.partial(mlflow_codec.encode, answers_frames=hosted.answers_frames)
    return await _score(hosts, hosted, request, mlflow_codec.decode, encode)


async def predict(hosts: Hosts, request: Request) -> Response:
    """KServe's protocol of version 1."""
    return await _score(hosts, hosts.find(*request.parts), request, kserve_v1.decode, kserve_v1.encode)


async def _score(
    hosts: Hosts,
    hosted: Hosted,
    request: Request,
    decode: Callable[..., mlflow_codec.Scored],
    encode: Callable[..., bytes],
) -> Response:
    request.model = hosted.name
    limits, body, signature = hosts.limits, request.body, hosted.endpoint.signature
    what = body, request.content_type, hosted.columns, limits
    asked = (
        decode(*what)
        if len(body) <= LARGE // 4  # an object per row costs more than a number
        else await run_large(hosts, decode, *what)
    )
    request.rows = asked.rows
    check_estimate(hosts, hosted, asked.rows)
    request.parameters = asked.parameters
    timeout_s = read_timeout(asked.parameters)
    answer = await ask(hosted, asked.batch, _sticky(request), timeout_s, request)
    given = answer, asked, signature, limits
    text = encode(*given) if count_bytes(answer) <= LARGE // 4 else await run_large(hosts, encode, *given)
    return Response(200, text, hosted.headers)
