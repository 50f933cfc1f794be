"""What a handler sees of HTTP: a request that is read and decompressed within limits, and a response. Pure
ASGI, no framework."""

import dataclasses
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from raymlops.errors import InputError, TooLargeError
from raymlops.serving.keys import ANYONE, Key
from raymlops.serving.tracing import Trace

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]

JSON: tuple[bytes, bytes] = (b"content-type", b"application/json")


@dataclasses.dataclass(slots=True)
class Request:
    """`caller` is the API key that was admitted; `parts` what the route's pattern matched."""

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    id: str
    body: bytes = b""
    caller: Key = ANYONE
    parts: tuple[str, ...] = ()
    model: str = ""
    rows: int = 0
    logged: bool = False
    started: int = dataclasses.field(default_factory=time.perf_counter_ns)

    @property
    def key(self) -> str:
        return self.caller.name

    def header(self, name: str) -> str:
        return self.headers.get(name.encode(), b"").decode("latin-1")

    def trace(self) -> Trace:
        return Trace(self.id, self.header("traceparent"), self.header("tracestate"), self.logged)

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


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], limit: int) -> bytes:
    """The whole body, as it came. Raises TooLargeError as soon as it is over `limit` bytes, DisconnectedError."""
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise TooLargeError(_too_large(limit))
    message = await receive()
    if message["type"] == "http.disconnect":
        raise DisconnectedError
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        parts, size = [body], len(body)
        while message.get("more_body"):
            message = await receive()
            if message["type"] == "http.disconnect":
                raise DisconnectedError
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise TooLargeError(_too_large(limit))
        body = b"".join(parts)
    return body


def unpack_body(body: bytes, headers: Mapping[bytes, bytes], limit: int) -> bytes:
    """The body, decompressed where the headers say that it must be. Raises TooLargeError, InputError."""
    encoding = headers.get(b"content-encoding")
    if encoding and encoding != b"identity":
        body = _decompress(body, encoding.decode("latin-1").lower(), limit)
    if len(body) > limit:
        raise TooLargeError(_too_large(limit))
    return body


_WINDOW = {"gzip": 31, "x-gzip": 31, "deflate": 15}


def _decompress(body: bytes, encoding: str, limit: int) -> bytes:
    if encoding not in _WINDOW:
        raise InputError(f"Content-Encoding {encoding!r} is not taken here; send gzip, deflate or none")
    stream = zlib.decompressobj(_WINDOW[encoding])
    try:
        result = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise InputError(f"The body is not {encoding}: {error}") from None
    if len(result) > limit:
        raise TooLargeError(_too_large(limit))
    if not stream.eof:
        raise InputError(f"The {encoding} body is cut short")
    return result


def _too_large(limit: int) -> str:
    return f"The body is over {limit} bytes, which is the most that is taken here; send fewer rows a request"


async def send_response(send: Send, response: Response, extra: Headers = ()) -> None:
    length = (b"content-length", str(len(response.body)).encode())
    await send(
        {
            "type": "http.response.start",
            "status": response.status,
            "headers": [*response.headers, length, *extra],
        }
    )
    await send({"type": "http.response.body", "body": response.body})
