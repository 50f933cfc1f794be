"""How the usual request reaches the data plane of its replica: uvicorn's protocol, without ASGI's messages. Knows
uvicorn; no Serve and no models.

A scope, a cycle, events, two writes and a chain of middlewares take as long as a short model does. Whatever is not
usual goes uvicorn's own way: bodies that are large or come in chunks, `Expect`, upgrades, HEAD, requests behind one
that is not yet answered, and paths that are not the plane's.
"""

import asyncio
import logging
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from raymlops.serving.http import Headers, Request, Response
from raymlops.serving.joining import COPIED
from raymlops.serving.lane import LANE

LOG = logging.getLogger("raymlops.serving")
WHOLE = 2**16
"""Bytes of a body that is waited for before its request is looked at."""
_KEPT = 10_000
"""Entries of what is remembered about paths and heads of responses: both come from outside."""
_KEPT_URL = 256
"""Bytes of a path that is worth it."""
_KNOWN_PATHS: dict[bytes, str] = {}
_KNOWN_HEADS: dict[tuple[int, Headers], bytes] = {}


class _Nobody:
    """Where uvicorn's own cycle has an event that its application waits for."""

    def set(self) -> None: ...


_NOBODY = _Nobody()


class _Exchange:
    """A request and its response. uvicorn asks it what it asks of its own cycles, by these names."""

    __slots__ = (
        "disconnected",
        "keep_alive",
        "message_event",
        "request",
        "response_complete",
        "task",
    )

    task: "asyncio.Task[None]"

    def __init__(self, request: Request, keep_alive: bool) -> None:
        self.request = request
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False
        self.message_event = _NOBODY


class Wire(HttpToolsProtocol):
    """One connection."""

    cycle: Any
    _idle_since: float | None = None

    def on_message_begin(self) -> None:
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        request = self._find_usual()
        if request is None:
            self._go_round()
            return
        keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        self.cycle = _Exchange(request, keep_alive)

    def _find_usual(self) -> Request | None:
        """The request whose head was read, if it is a usual one."""
        plane = LANE.app
        if plane is None or self.root_path or self.limit_concurrency is not None or self.access_log:
            return None
        if self.cycle is not None and not self.cycle.response_complete:
            return None
        method = self.parser.get_method()
        if method not in (b"POST", b"GET") or self.parser.should_upgrade():
            return None
        fields = dict(self.headers)
        if (
            b"transfer-encoding" in fields
            or b"expect" in fields
            or int(fields.get(b"content-length", 0)) > WHOLE
        ):
            return None
        path = LANE.own_path(_read_path(self.url))
        return None if path is None else plane.begin(method.decode("ascii"), path, fields)

    def _go_round(self) -> None:
        """uvicorn's way; it wants a scope from the beginning on."""
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers.extend(headers)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        exchange = self.cycle
        if type(exchange) is _Exchange:
            exchange.request.body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        exchange = self.cycle
        if type(exchange) is not _Exchange:
            super().on_message_complete()
            return
        exchange.task = self.loop.create_task(self._answer(exchange))
        self.tasks.add(exchange.task)

    async def _answer(self, exchange: _Exchange) -> None:
        try:
            response = await LANE.app.respond(exchange.request)
            if self.flow.write_paused and not exchange.disconnected:
                await self.flow.drain()
            exchange.response_complete = True
            if not exchange.disconnected:
                self._write(exchange, response)
                self.on_response_complete()
        except BaseException as error:
            LOG.error("request %s was not answered: %s", exchange.request.id, error, exc_info=error)
            self.transport.close()
            if not isinstance(error, Exception):
                raise
        finally:
            self.tasks.discard(exchange.task)

    def _write(self, exchange: _Exchange, response: Response) -> None:
        body = response.body
        end = b"content-length: %d\r\nx-request-id: %s\r\n%s\r\n" % (
            len(body),
            exchange.request.id.encode("latin-1"),
            b"" if exchange.keep_alive else b"connection: close\r\n",
        )
        head = (_render_head(response), _DEFAULTS.render(self.server_state.default_headers), end)
        if len(body) <= COPIED:
            self.transport.write(b"".join((*head, body)))
        else:
            self.transport.write(b"".join(head))
            self.transport.write(body)
        if not exchange.keep_alive:
            self.transport.close()

    def on_response_complete(self) -> None:
        """As uvicorn's, but one timer looks after a connection, not one for each of its responses."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._watch_idle(self.timeout_keep_alive)

    def _watch_idle(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = None

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if self._idle_since is None or self.transport.is_closing():
            return  # the next response looks after it again
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._watch_idle(left)
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        super().connection_lost(exc)


def _read_path(url: bytes) -> str:
    path = _KNOWN_PATHS.get(url)
    if path is None:
        path = httptools.parse_url(url).path.decode("ascii")
        path = unquote(path) if "%" in path else path
        if len(_KNOWN_PATHS) < _KEPT and len(url) <= _KEPT_URL:
            _KNOWN_PATHS[url] = path
    return path


def _render_head(response: Response) -> bytes:
    key = response.status, response.headers
    head = _KNOWN_HEADS.get(key)
    if head is None:
        head = STATUS_LINE[response.status] + _render(response.headers)
        if len(_KNOWN_HEADS) < _KEPT:
            _KNOWN_HEADS[key] = head
    return head


def _render(headers: Any) -> bytes:
    return b"".join(b"%s: %s\r\n" % pair for pair in headers)


class _Defaults:
    """uvicorn's date and server, which it changes every second."""

    def __init__(self) -> None:
        self._source: Any = None
        self._text = b""

    def render(self, headers: Any) -> bytes:
        if headers is not self._source:
            self._source, self._text = headers, _render(headers)
        return self._text


_DEFAULTS = _Defaults()
