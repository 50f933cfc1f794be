"""HTTP as a handler sees it: a request that is read and decompressed within limits, and a response. Pure ASGI, no
framework."""

import dataclasses
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from raymlops.errors import InputError, OverloadedError, TooLargeError, shorten
from raymlops.serving.endpoints.statistics import Statistics
from raymlops.serving.protocol.headers import JSON, Headers
from raymlops.serving.transport.api_keys import ANYONE, Key
from raymlops.serving.transport.trace_context import Trace
from raymlops.tensors import Batch

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


@dataclasses.dataclass(slots=True)
class Request:
    """`caller` is the admitted API key; `parts` are the groups that the route's pattern matched; `peer` is the
    address of the other end of the connection, a client or a proxy."""

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    id: str
    body: bytes = b""
    caller: Key = ANYONE
    peer: str = ""
    prefix: str = ""
    """The prefix before `path`, such as the application's route; without a prefix that a proxy removed."""
    scheme: str = "http"
    parts: tuple[str, ...] = ()
    model: str = ""
    rows: int = 0
    logged: bool = False
    infers: bool = False
    """Whether it is an inference request, which is counted."""
    started: int = dataclasses.field(default_factory=time.perf_counter_ns)
    arrived: int = 0
    decoded: int = 0
    answered: int = 0
    statistics: Statistics | None = None
    batch: Batch | None = None
    answer: Batch | None = None
    parameters: Mapping[str, Any] | None = None
    body_id: str = ""
    """The id in its body, if no header gave one."""

    @property
    def key(self) -> str:
        return self.caller.name

    def header(self, name: str) -> str:
        return self.headers.get(name.encode(), b"").decode("latin-1")

    def trace(self) -> Trace:
        return Trace(self.id, self.header("traceparent"), self.header("tracestate"), self.logged)

    @property
    def has_id(self) -> bool:
        """Whether a header gave one."""
        return b"x-request-id" in self.headers

    @property
    def where(self) -> tuple[str, str]:
        return self.method, self.path

    @property
    def content_type(self) -> str:
        return self.header("content-type").partition(";")[0].strip().lower()

    @property
    def token(self) -> str:
        """The API key of the request."""
        bearer = self.header("authorization")
        return bearer[7:].strip() if bearer[:7].lower() == "bearer " else self.header("x-api-key")


@dataclasses.dataclass(slots=True)
class Response:
    status: int
    body: bytes
    headers: Headers = (JSON,)


class DisconnectedError(Exception):
    """The client disconnected before its request was complete."""


class ByteBudget:
    """Bytes that all large bodies together may hold."""

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0

    def hold(self) -> "Reservation":
        return Reservation(self)


class Reservation:
    """One request's share of a budget, until it is released."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget, self._mine = budget, 0

    def take(self, size: int) -> None:
        """Reserve so many bytes more. Raises OverloadedError."""
        budget = self._budget
        if budget.held + size > budget.most:
            raise OverloadedError(
                f"Large bodies already hold {budget.held} of {budget.most} bytes here; try again later"
            )
        budget.held += size
        self._mine += size

    def release(self) -> None:
        self._budget.held -= self._mine
        self._mine = 0


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], limit: int, held: Reservation) -> bytes:
    """The whole body, as sent; `held` reserves each part. Raises TooLargeError as soon as it is over `limit` bytes,
    DisconnectedError."""
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise TooLargeError(_too_large(limit))
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise DisconnectedError
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise TooLargeError(_too_large(limit))
        held.take(len(part))
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)


_WINDOW = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}


def is_packed(headers: Mapping[bytes, bytes]) -> bool:
    return b"content-encoding" in headers and headers[b"content-encoding"].lower() != b"identity"


def unpack_body(body: bytes, headers: Mapping[bytes, bytes], limit: int) -> bytes:
    """The body, decompressed as its headers say. Raises TooLargeError, InputError."""
    encoding = headers[b"content-encoding"].lower()
    name = shorten(encoding.decode("latin-1"))
    if encoding not in _WINDOW:
        raise InputError(f"Content-Encoding {name!r} is not supported here; send gzip, deflate or none")
    stream = zlib.decompressobj(_WINDOW[encoding])
    try:
        result = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise InputError(f"The body is not {name}: {error}") from None
    if len(result) > limit:
        raise TooLargeError(_too_large(limit))
    if not stream.eof:
        raise InputError(f"The {name} body is truncated")
    if stream.unused_data:
        raise InputError(f"The {name} body continues after its end; send it as one stream")
    return result


def _too_large(limit: int) -> str:
    return f"The body is over {limit} bytes, the most that is accepted here; send fewer rows a request"


async def send_response(
    send: Send, response: Response, extra: Headers = (), *, head_only: bool = False
) -> None:
    """`head_only` answers HEAD, with the Content-Length of GET. Status 204 has no length."""
    length: Headers = () if response.status == 204 else ((b"content-length", b"%d" % len(response.body)),)
    await send(
        {
            "type": "http.response.start",
            "status": response.status,
            "headers": [*response.headers, *length, *extra],
        }
    )
    await send({"type": "http.response.body", "body": b"" if head_only else response.body})
