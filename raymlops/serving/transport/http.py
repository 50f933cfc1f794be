"""What a handler sees of HTTP: a request that is read and decompressed within limits, and a response. Pure
ASGI, no framework."""

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

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


@dataclasses.dataclass(slots=True)
class Request:
    """`caller` is the API key that was admitted; `parts` what the route's pattern matched; `peer` the address of who
    holds the connection, a client or a proxy."""

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    id: str
    body: bytes = b""
    caller: Key = ANYONE
    peer: str = ""
    prefix: str = ""
    """What stood before `path`, such as the application's route; what a proxy took away before is not in it."""
    scheme: str = "http"
    parts: tuple[str, ...] = ()
    model: str = ""
    rows: int = 0
    logged: bool = False
    infers: bool = False
    """Whether it asks for inference, which is counted."""
    started: int = dataclasses.field(default_factory=time.perf_counter_ns)
    arrived: int = 0
    decoded: int = 0
    answered: int = 0
    statistics: Statistics | None = None
    batch: Batch | None = None
    answer: Batch | None = None

    @property
    def key(self) -> str:
        return self.caller.name

    def header(self, name: str) -> str:
        return self.headers.get(name.encode(), b"").decode("latin-1")

    def trace(self) -> Trace:
        return Trace(self.id, self.header("traceparent"), self.header("tracestate"), self.logged)

    @property
    def where(self) -> tuple[str, str]:
        return self.method, self.path

    @property
    def content_type(self) -> str:
        return self.header("content-type").partition(";")[0].strip().lower()

    @property
    def token(self) -> str:
        """The API key that came with the request."""
        bearer = self.header("authorization")
        return bearer[7:].strip() if bearer[:7].lower() == "bearer " else self.header("x-api-key")


@dataclasses.dataclass(slots=True)
class Response:
    status: int
    body: bytes
    headers: Headers = (JSON,)


class DisconnectedError(Exception):
    """The client went away before its request was complete."""


class ByteBudget:
    """Bytes that all large bodies together may hold."""

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0

    def hold(self) -> "Held":
        return Held(self)


class Held:
    """What one request holds of a budget, until it is released."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget, self._mine = budget, 0

    def take(self, size: int) -> None:
        """Hold so many bytes more. Raises OverloadedError."""
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


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], limit: int, held: Held) -> bytes:
    """The whole body, as it came; `held` takes each part. Raises TooLargeError as soon as it is over `limit`
    bytes, DisconnectedError."""
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
        raise InputError(f"Content-Encoding {name!r} is not taken here; send gzip, deflate or none")
    stream = zlib.decompressobj(_WINDOW[encoding])
    try:
        result = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise InputError(f"The body is not {name}: {error}") from None
    if len(result) > limit:
        raise TooLargeError(_too_large(limit))
    if not stream.eof:
        raise InputError(f"The {name} body is cut short")
    if stream.unused_data:
        raise InputError(f"The {name} body goes on behind its end; send it as one stream")
    return result


def _too_large(limit: int) -> str:
    return f"The body is over {limit} bytes, which is the most that is taken here; send fewer rows a request"


async def send_response(
    send: Send, response: Response, extra: Headers = (), *, head_only: bool = False
) -> None:
    """`head_only` is for HEAD, which is told the length of what GET would get. Status 204 has neither."""
    length: Headers = () if response.status == 204 else ((b"content-length", b"%d" % len(response.body)),)
    await send(
        {
            "type": "http.response.start",
            "status": response.status,
            "headers": [*response.headers, *length, *extra],
        }
    )
    await send({"type": "http.response.body", "body": b"" if head_only else response.body})
