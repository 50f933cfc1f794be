"""Responses as they leave uvicorn on a real socket."""

import asyncio
import re
import socket
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from raymlops.serving.fastpath.coalesced_write import COPIED, join_writes
from raymlops.serving.transport.http import Response, send_response

SIZES = {"/small": 20, "/empty": 0, "/large": 3 * COPIED, "/huge": 5_000_000}


async def answer(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        return
    assert (await receive())["type"] == "http.request"
    response = Response(200, b"x" * SIZES[scope["path"]])
    if scope["method"] == "HEAD":
        response.body = b""
    await send_response(join_writes(scope["method"], send), response)


class CountingProtocol(HttpToolsProtocol):
    """Counts what is handed to the socket."""

    writes: list[int] = []

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        write = transport.write

        class Counted:
            def write(self, data: bytes) -> None:
                CountingProtocol.writes.append(len(data))
                write(data)

            def __getattr__(self, name: str) -> Any:
                return getattr(transport, name)

        self.transport = Counted()  # type: ignore[assignment]


async def ask(requests: bytes, answers: int) -> list[tuple[bytes, bytes]]:
    """Head and body of each answer to requests that are sent at once on one connection."""
    config = uvicorn.Config(answer, http=CountingProtocol, loop="asyncio", log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.ensure_future(server.serve([listener]))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(requests)
        found = []
        for _ in range(answers):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            expected = int(length[1]) if length and not requests.startswith(b"HEAD") else 0
            found.append((head, await reader.readexactly(expected)))
        writer.close()
        server.should_exit = True
        await serving
    return found


def post(path: str, *headers: str, method: str = "POST") -> bytes:
    return "\r\n".join(
        [f"{method} {path} HTTP/1.1", "host: a", "content-length: 0", *headers, "", ""]
    ).encode()


@pytest.mark.parametrize(("path", "writes"), [("/small", 1), ("/empty", 1), ("/large", 2), ("/huge", 2)])
def test_a_response_is_whole_and_a_short_one_leaves_in_one_piece(path: str, writes: int) -> None:
    CountingProtocol.writes.clear()
    ((head, body),) = asyncio.run(ask(post(path), 1))
    assert head.startswith(b"HTTP/1.1 200")
    assert body == b"x" * SIZES[path]
    assert len(CountingProtocol.writes) == writes


def test_requests_of_one_connection_are_answered_one_by_one() -> None:
    answers = asyncio.run(ask(post("/small") + post("/large") + post("/small"), 3))
    assert [len(body) for _, body in answers] == [SIZES["/small"], SIZES["/large"], SIZES["/small"]]


def test_a_head_request_has_its_answer_though_no_body_follows() -> None:
    ((head, body),) = asyncio.run(ask(post("/small", method="HEAD"), 1))
    assert head.startswith(b"HTTP/1.1 200")
    assert body == b""


def test_a_client_that_asks_before_it_sends_is_told_to_go_on() -> None:
    (leave, _), (head, body) = asyncio.run(ask(post("/small", "expect: 100-continue"), 2))
    assert leave.startswith(b"HTTP/1.1 100")
    assert (head[:12], len(body)) == (b"HTTP/1.1 200", SIZES["/small"])


def test_another_server_keeps_its_own_send() -> None:
    async def send(message: Any) -> None: ...

    assert join_writes("GET", send) is send
