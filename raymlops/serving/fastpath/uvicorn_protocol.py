"""The fast path of an ordinary request to the data plane of its replica: uvicorn's protocol, without ASGI's messages.
Depends on uvicorn; imports neither Serve nor models.

A scope, a cycle, events, two writes and a chain of middlewares take as long as a short model. Everything unusual goes
uvicorn's own way: large or chunked bodies, `Expect`, upgrades, HEAD, requests pipelined behind an unanswered one, and
paths that are not the plane's.

uvicorn waits forever for a request to arrive and for an answer to be read. Here one timer checks all connections of a
process and ends those that exceed their time; see `connection_limits`.
"""

import asyncio
import logging
import weakref
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import httptools

from raymlops.serving.fastpath.coalesced_write import COPIED
from raymlops.serving.fastpath.middleware import OWN
from raymlops.serving.fastpath.repeated_head import RepeatedHead
from raymlops.serving.fastpath.response_head import DEFAULTS, render_fields, render_head
from raymlops.serving.fastpath.uvicorn_internals import STATUS_LINE, HttpToolsProtocol
from raymlops.serving.protocol.json_text import dump_json
from raymlops.serving.transport.http import Request, Response

LOG = logging.getLogger("raymlops.serving")
WHOLE = 2**16
"""Bytes of a body that are waited for before its request is processed."""
_LINGERS_S = 10.0
"""Seconds for a client to read the last answer of a connection that is closed while it still sends."""
_LEAVES_S = 1.0
"""Seconds for which an idle connection of a replica that is ending stays open: a proxy that does not know yet may
have sent a request."""
_NOTHING, _HEAD, _BODY = 0, 1, 2
"""What is being read."""


class _NoWaiter:
    """Replaces the event of uvicorn's own cycle that its application waits for."""

    def set(self) -> None: ...


_NOBODY = _NoWaiter()


class _Exchange:
    """A request and its response, with the attributes and methods that uvicorn expects of its own cycles."""

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


class _SlowlyClosed:
    """A connection as uvicorn's cycles see it."""

    def __init__(self, wire: "UvicornProtocol") -> None:
        self.write = wire.transport.write
        self.is_closing = wire.transport.is_closing
        self.close = wire._close_slowly


class UvicornProtocol(HttpToolsProtocol):
    """One connection."""

    cycle: Any
    _idle_since: float | None = None
    _reading = _HEAD
    _since = 0.0
    """When the check of all connections first saw what is being read; 0 if it has not yet."""
    _received = 0
    """Bytes since then."""
    _body = 0
    """Bytes of a body that goes uvicorn's way."""
    _began = False
    """True until the data with the start of what is being read are processed."""
    _has_wide_data = False
    """True if a head may have arrived in one piece that is too large."""
    _is_deaf = False
    """True if nothing more of this connection is read: it ends when the received requests are answered."""
    _blocked: tuple[float, int] | None = None
    """Since when the client does not read, and the bytes that wait for it."""
    _peer = ""
    _running: Any = None
    """The last answered request that went uvicorn's way."""
    _is_leaving = False
    """True when this server ends: every answer is the last one of its connection."""
    _usual: RepeatedHead | None = None
    """The last head of an ordinary request that came in one piece."""
    _refusal: tuple[int, str] | None = None
    _ends = 0.0
    """When a connection whose last answer is sent is closed; 0 for others."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.ws_protocol_class = None  # a plane has no websockets, and nothing would watch theirs
        self._limits = OWN.limits
        self._most_bytes, self._most_headers = (
            self._limits.head_bytes,
            self._limits.headers,
        )  # read for each request
        self._peer = self.client[0] if self.client else ""
        if len(self.connections) > self._limits.connections:
            transport.abort()
            return
        _watch(self.server_state, self.loop, self._limits.interval)

    def data_received(self, data: bytes) -> None:
        """As in uvicorn, except for requests that exceed their limits."""
        if self._is_deaf:
            self._received += len(data)
            if not self._ends:
                self.flow.pause_reading()  # earlier requests are answered first
            elif self._received > self._limits.body_bytes:
                self._abort()
            return
        self._idle_since = None
        usual, begins = self._usual, self._reading == _NOTHING
        if usual is not None and begins and usual.begins(data):
            cycle = self.cycle
            if cycle.response_complete and not self.pipeline:
                self._start_answer(usual.method, usual.path, usual.fields, True)
                self.cycle.request.body = data[len(usual.head) :]
                self._create_task(self.cycle)
                return
        if len(data) > self._most_bytes:
            self._has_wide_data = True
        try:
            self.parser.feed_data(data)
            if begins and self._reading == _NOTHING:
                cycle = self.cycle
                is_usual = type(cycle) is _Exchange and cycle.keep_alive
                self._usual = RepeatedHead.of(data, cycle.request) if is_usual else None
        except httptools.HttpParserError:
            self._refuse(
                *(self._refusal or (400, "The bytes of this connection are not a valid HTTP request"))
            )
        except httptools.HttpParserUpgrade:
            pass  # it is answered like any other, and is the last one
        if self._reading:
            self._check_reading(len(data))

    def _check_reading(self, size: int) -> None:
        """The request in progress, after so many more bytes of it. Raises nothing: errors become answers."""
        limits = self._limits
        if self._began:  # an unknown part of these bytes belongs to the request before
            self._began, self._since = False, 0.0
            self._received = min(size, self._measure_head() if self._reading == _HEAD else self._body)
        else:
            self._received += size
        if self._reading == _HEAD:
            if self._received > limits.head_bytes:
                self._refuse(431, f"The head of the request is over {limits.head_bytes} bytes")
        elif self._body or self._received > limits.head_bytes:
            if type(self.cycle) is _Exchange:
                return
            if self.cycle.response_complete and self._received > limits.body_bytes + limits.head_bytes:
                self._close_slowly()
            elif len(self.headers) > limits.headers or self._received - self._body > limits.framing(
                self._body
            ):
                self._refuse(
                    431, "The chunks of the body have too many bytes around them, or trailers after them"
                )

    def on_message_begin(self) -> None:
        self._reading, self._began = _HEAD, True
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        if self.pipeline and len(self.pipeline) >= self._limits.pipelined:
            self._end_unread()
            raise _RefusedError

    def on_headers_complete(self) -> None:
        if self._received or self._has_wide_data or len(self.headers) > self._most_headers:
            self._check_head()
        fields = dict(self.headers)
        path = self._find_usual(fields)
        if path is None:
            self._check_length()
            self._use_uvicorn()
        else:
            keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
            self._start_answer(self.parser.get_method().decode("ascii"), path, fields, keep_alive)
        self._reading = _BODY

    def _start_answer(self, method: str, path: str, fields: Mapping[bytes, bytes], keep_alive: bool) -> None:
        request: Request = OWN.app.begin(method, path, fields)
        request.peer, request.prefix = self._peer, OWN.prefix
        self.cycle = _Exchange(request, keep_alive and not self._is_leaving)

    def _check_head(self) -> None:
        limits, self._has_wide_data = self._limits, False
        if len(self.headers) > limits.headers or self._measure_head() > limits.head_bytes:
            self._refusal = 431, f"The head has over {limits.headers} fields or {limits.head_bytes} bytes"
            raise _RefusedError

    def _check_length(self) -> None:
        limit = self._limits.body_bytes
        if int(dict(self.headers).get(b"content-length", 0)) > limit:
            self._refusal = (
                413,
                f"The body is over {limit} bytes, the most that is accepted here; send fewer rows a request",
            )
            if OWN.app is not None and (path := OWN.own_path(_read_path(self.url))) is not None:
                OWN.app.count_refused(self.parser.get_method().decode("ascii"), path, 413)
            raise _RefusedError

    def _measure_head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _find_usual(self, fields: Mapping[bytes, bytes]) -> str | None:
        """The path of the request whose head was read, if it is an ordinary one."""
        if OWN.app is None or self.root_path or self.limit_concurrency is not None or self.access_log:
            return None
        if self.cycle is not None and not self.cycle.response_complete:
            return None
        method = self.parser.get_method()
        if method not in (b"POST", b"GET") or self.parser.should_upgrade():
            return None
        if (
            b"transfer-encoding" in fields
            or b"expect" in fields
            or int(fields.get(b"content-length", 0)) > WHOLE
        ):
            return None
        return OWN.own_path(_read_path(self.url))

    def _use_uvicorn(self) -> None:
        """uvicorn's way, which needs a scope from the start."""
        url, headers, expect, self._body = self.url, self.headers, self.expect_100_continue, 0
        super().on_message_begin()
        self.scope["raymlops.peer"] = self._peer  # type: ignore[typeddict-unknown-key]
        self.url, self.expect_100_continue = url, expect
        self.headers.extend(headers)
        super().on_headers_complete()
        self.cycle.transport = _SlowlyClosed(self)
        if self._is_leaving or self.parser.should_upgrade():
            self.cycle.keep_alive = False  # the parser reads nothing after a request to upgrade

    def on_body(self, body: bytes) -> None:
        exchange = self.cycle
        if type(exchange) is _Exchange:
            exchange.request.body += body
        else:
            self._body += len(body)
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._reading = _NOTHING
        if self._received:
            self._received = 0
        exchange = self.cycle
        if type(exchange) is not _Exchange:
            super().on_message_complete()
            return
        self._create_task(exchange)

    def _create_task(self, exchange: _Exchange) -> None:
        exchange.task = self.loop.create_task(self._answer(exchange))
        self.tasks.add(exchange.task)

    async def _answer(self, exchange: _Exchange) -> None:
        try:
            response = await OWN.app.respond(exchange.request)
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
        head = (render_head(response), DEFAULTS.render(self.server_state.default_headers), end)
        if len(body) <= COPIED:
            self.transport.write(b"".join((*head, body)))
        else:
            self.transport.write(b"".join(head))
            self.transport.write(body)
        if not exchange.keep_alive:
            self._close_slowly()

    def _refuse(self, status: int, text: str) -> None:
        """Answer the incomplete request that is being read, and close the connection, after the answers to earlier
        requests."""
        cycle = self.cycle
        if self._is_deaf or self.transport.is_closing():
            return
        if cycle is None or cycle.response_complete:
            if self._reading != _BODY:  # else its answer left before it was complete
                self._write_refusal(status, text)
        elif self._reading == _BODY and not self.pipeline and not getattr(cycle, "response_started", False):
            self._write_refusal(status, text)
            cycle.disconnected = True
            cycle.message_event.set()
        else:
            self._end_unread()
            return
        self._close_slowly()

    def _close_slowly(self) -> None:
        """Close the sending side, and discard what the client still sends for a while: closing at once would make it
        lose what it has not read yet."""
        if self._ends or self.transport.is_closing():
            return
        self._is_deaf, self._received, self._ends = True, 0, self.loop.time() + _LINGERS_S
        self.pipeline.clear()
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.flow.resume_reading()
        else:
            self.transport.close()

    def _abort(self) -> None:
        """End the connection with all data that wait in it; nothing is written to it from here on."""
        self._is_deaf = True
        self._tell_disconnected()
        self.transport.abort()

    def _tell_disconnected(self) -> None:
        """Of pipelined requests, uvicorn notifies only the last one."""
        for cycle in (self._running, self.cycle, *(waiting for waiting, _ in self.pipeline)):
            if cycle is not None:
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _end_unread(self) -> None:
        """Close the connection when the complete requests are answered."""
        self._is_deaf = True
        if self.cycle is None or self._reading == _BODY or self.cycle.response_complete:
            self._abort()
        else:
            self.cycle.keep_alive = False
            self.flow.pause_reading()

    def _write_refusal(self, status: int, text: str) -> None:
        body = dump_json({"error": text, "status": status, "request_id": ""})
        defaults = DEFAULTS.render(self.server_state.default_headers)
        cors = OWN.app.cors if OWN.app is not None and self.headers else None
        shared = b"" if cors is None else render_fields(cors.list_headers(dict(self.headers)))
        fields = b"content-type: application/json\r\ncontent-length: %d\r\n%sconnection: close\r\n\r\n" % (
            len(body),
            shared,
        )
        self.transport.write(b"".join((STATUS_LINE[status], defaults, fields, body)))

    def pause_writing(self) -> None:
        self._blocked = self.loop.time(), self.transport.get_write_buffer_size()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._blocked = None
        super().resume_writing()

    def look(self, now: float) -> None:
        """Called at intervals: end what exceeds its time."""
        limits, transport = self._limits, self.transport
        if self._ends and not transport.is_closing():
            if not transport.get_write_buffer_size():
                if now > self._ends:
                    self._abort()
                return
            self._ends = now + _LINGERS_S
        if self._blocked is None and (
            self._ends or transport.is_closing()
        ):  # the last write is still pending
            self._blocked = now, transport.get_write_buffer_size()
        if self._blocked is not None:
            since, size = self._blocked
            if now - since > limits.time_to_send(size):
                self._abort()
        elif self._reading and (not self._since or self.flow.read_paused):  # paused: it is we who do not read
            self._since = now
        elif self._reading and now - self._since > limits.time_to_receive(self._received):
            if self._reading == _HEAD and self.headers is None:  # nothing has come
                transport.close()
            else:
                self._refuse(408, f"The request was not complete within {now - self._since:.0f} s")

    def on_response_complete(self) -> None:
        """As in uvicorn, but with one timer for all connections, not one for each response."""
        self.server_state.total_requests += 1
        if self._ends or self.transport.is_closing():
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
            return  # the next response checks it again
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0 or self._reading:  # a part of the next request has arrived, which has its own deadline
            self._watch_idle(max(left, 1.0))
        else:
            self.transport.close()

    def shutdown(self) -> None:
        """Called by uvicorn when the server ends."""
        self._is_leaving = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(_LEAVES_S, self._leave)
        else:
            self.cycle.keep_alive = False

    def _leave(self) -> None:
        if (
            self._reading == _NOTHING or self.headers is None
        ):  # else what is being read is answered, and then closes it
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        self._tell_disconnected()
        super().connection_lost(exc)
        self._running = None


_SLASH = ord("/")


class _RefusedError(Exception):
    """Ends the parser."""


_WATCHED: "weakref.WeakKeyDictionary[Any, asyncio.TimerHandle]" = weakref.WeakKeyDictionary()


def _watch(state: Any, loop: asyncio.AbstractEventLoop, interval: float) -> None:
    """Check the connections of a server from now on, as long as it has any."""
    if state not in _WATCHED:
        _WATCHED[state] = loop.call_later(interval, _check_connections, state, loop, interval)


def _check_connections(state: Any, loop: asyncio.AbstractEventLoop, interval: float) -> None:
    now = loop.time()
    for connection in list(state.connections):
        if isinstance(connection, UvicornProtocol):
            connection.look(now)
    del _WATCHED[state]
    if state.connections:
        _watch(state, loop, interval)


def _read_path(url: bytes) -> str:
    if b"%" not in url and b"?" not in url and b"#" not in url and url[0] == _SLASH and b"//" not in url:
        return url.decode("ascii")
    path = httptools.parse_url(url).path.decode("ascii")
    return unquote(path) if "%" in path else path
