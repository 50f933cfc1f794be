"""What a connection may hold, and for how long: dripped and endless requests, answers that nobody reads, heads and
pipelines without an end. On real sockets, in the replica's own protocol."""

import asyncio
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from raymlops.serving.fastpath.middleware import OWN
from raymlops.serving.fastpath.uvicorn_protocol import UvicornProtocol
from raymlops.serving.transport.asgi import DataPlane
from raymlops.serving.transport.connection_limits import ConnectionLimits
from tests import toy_models
from tests.unit.serving.fastpath.test_uvicorn_protocol import CHUNKED, ROW, get, post, read_answer, served
from tests.unit.serving.transport.test_asgi import infer_body, make_plane

BODY_LIMIT = 200_000
SECONDS = 0.4
LIMITS = ConnectionLimits(
    body_bytes=BODY_LIMIT,
    receive_s=SECONDS,
    send_s=SECONDS,
    connections=40,
    head_bytes=8_000,
    headers=30,
    pipelined=16,
)
WAITS = 20
"""Seconds after which a connection that should have ended counts as never ending."""


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> DataPlane:
    models = {"doubler": toy_models.doubler(), "echo": toy_models.echo()}
    return make_plane(tmp_path_factory.mktemp("models"), models, body_limit=BODY_LIMIT)


@pytest.fixture(autouse=True)
def _on_the_lane(plane: DataPlane) -> Iterator[None]:
    OWN.app, OWN.prefix, OWN.limits = plane, "", LIMITS
    yield
    OWN.app, OWN.prefix, OWN.limits = None, "", ConnectionLimits()


async def read_all(reader: asyncio.StreamReader) -> bytes:
    """What comes until the connection ends, by whichever side."""
    found = b""
    async with asyncio.timeout(WAITS):
        while True:
            try:
                piece = await reader.read(65536)
            except ConnectionError:
                return found
            if not piece:
                return found
            found += piece


def send(*parts: bytes, pause: float = 0.0) -> bytes:
    """All that is answered to what is sent on a connection, until the replica ends it."""

    async def run() -> bytes:
        async with served(UvicornProtocol) as (_, address):
            reader, writer = await asyncio.open_connection(*address)
            answering = asyncio.ensure_future(read_all(reader))
            try:
                for part in parts:
                    if answering.done():
                        break
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(pause)
            except ConnectionError:
                pass
            answer = await answering
            writer.close()
            return answer

    return asyncio.run(run())


def statuses(answer: bytes) -> list[int]:
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


DRIP = b"".join(get("/v2", "X-Long: " + "a" * 2_000).split(b"\r\n\r\n"))
LONG = post(ROW).replace(str(len(ROW)).encode(), b"150000")


@pytest.mark.parametrize(
    ("start", "drop", "answered"),
    [
        (b"", b"", []),
        (b"GET /", b"a", [408]),
        (b"GET /v2 HTTP/1.1\r\n", b"A: b\r\n", [408]),
        (post(ROW)[:-20], b"", [408]),
        (LONG, b" ", [408]),
        (CHUNKED[:-5], b"1\r\n \r\n", [408]),
    ],
    ids=["nothing", "letters", "fields", "short body", "long body", "chunks"],
)
def test_a_request_that_does_not_arrive_is_ended(start: bytes, drop: bytes, answered: list[int]) -> None:
    assert statuses(send(start, *[drop] * 400, pause=0.05)) == answered


def test_dripping_connections_take_no_place_of_others(plane: DataPlane) -> None:
    async def run() -> None:
        OWN.limits = ConnectionLimits(body_bytes=BODY_LIMIT)
        plane.hosts.queue = 8
        async with served(UvicornProtocol) as (_, address):
            dripping = [await asyncio.open_connection(*address) for _ in range(30)]
            for index, (_, writer) in enumerate(dripping):
                writer.write((post(ROW)[:-9], LONG, CHUNKED[:-7])[index % 3])
            await asyncio.sleep(0.1)
            assert plane.hosts.pending == 0
            for _ in range(20):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(post(ROW))
                assert (await read_answer(reader))[0] == 200
                writer.close()
            for _, writer in dripping:
                writer.close()

    try:
        asyncio.run(run())
    finally:
        plane.hosts.queue = 128


@pytest.mark.parametrize(
    "head",
    [
        get("/v2", *(f"A{i}: b" for i in range(40))),
        get("/v2", "A: " + "b" * 9_000),
        get("/" + "a" * 9_000),
        get("/v2", *(f"A{i}: " + "b" * 400 for i in range(25))),
    ],
    ids=["fields", "field", "path", "sum"],
)
@pytest.mark.parametrize("piece", [100_000, 700])
def test_a_head_without_an_end_is_refused(head: bytes, piece: int) -> None:
    parts = [head[i : i + piece] for i in range(0, len(head), piece)]
    assert statuses(send(*parts)) == [431]


def test_trailers_and_extensions_of_chunks_have_an_end_too() -> None:
    many = [b"A%d: b\r\n" % i for i in range(3_000)]
    assert statuses(send(CHUNKED[:-2], *many)) == [431]
    assert statuses(send(CHUNKED[:-2], b"A: ", *[b"b" * 1_000] * 100)) == [431]
    assert statuses(send(CHUNKED[:-5], b"1;", *[b"b" * 1_000] * 100)) == [431]
    assert statuses(send(CHUNKED[:-2] + b"A: b\r\n\r\n" + get("/v2", "Connection: close"))) == [200, 200]


def test_requests_in_a_row_are_answered_in_theirs_and_have_an_end() -> None:
    sent = b"".join(post(ROW, f"X-Request-Id: {i}") for i in range(100))
    answer = send(sent)
    assert statuses(answer) == [200] * len(statuses(answer))
    assert 1 <= len(statuses(answer)) <= 20
    assert answer.count(b"x-request-id: 0\r\n") == 1


@pytest.mark.parametrize(
    "wrong", [b"\0\0\0\r\n\r\n", get("/v2", "Content-Length: x"), get("/v2", "A: " + "b" * 9_000)]
)
def test_what_is_wrong_behind_a_request_does_not_take_its_answer(wrong: bytes) -> None:
    answer = send(post(ROW, "X-Request-Id: first") + wrong + b"\0")
    assert statuses(answer)[:1] == [200]
    assert b"x-request-id: first" in answer
    assert json.loads(answer.split(b"\r\n\r\n")[1].split(b"HTTP")[0])["outputs"][0]["data"] == [2, 4, 6]


async def ask_without_reading(address: tuple[str, int], requests: bytes) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, address)
    await asyncio.get_running_loop().sock_sendall(client, requests)
    return client


@pytest.mark.slow
@pytest.mark.parametrize("close", [False, True])
def test_a_client_that_does_not_read_is_cut(close: bool) -> None:
    words = ["a" * 1_000] * 120
    body = json.dumps(
        {"inputs": [{"name": "text", "shape": [120], "datatype": "BYTES", "data": words}]}
    ).encode()
    request = post(body, *(["Connection: close"] if close else []), path="/v2/models/echo/infer")

    async def run() -> None:
        async with served(UvicornProtocol) as (server, address):
            clients = [await ask_without_reading(address, request * (1 if close else 30)) for _ in range(3)]
            await asyncio.sleep(0.1)
            for _ in range(int(WAITS / 0.05)):
                if not server.server_state.connections:
                    break
                await asyncio.sleep(0.05)
            assert not server.server_state.connections
            for client in clients:
                client.close()

    asyncio.run(run())


def test_a_client_that_reads_slowly_gets_all_of_its_answer() -> None:
    OWN.limits = ConnectionLimits(body_bytes=BODY_LIMIT, send_s=8)
    words = ["a" * 1_000] * 150
    body = json.dumps(
        {"inputs": [{"name": "text", "shape": [150], "datatype": "BYTES", "data": words}]}
    ).encode()

    async def run() -> None:
        async with served(UvicornProtocol) as (_, address):
            client = await ask_without_reading(
                address, post(body, "Connection: close", path="/v2/models/echo/infer")
            )
            found, loop = b"", asyncio.get_running_loop()
            while piece := await loop.sock_recv(client, 8_192):
                found += piece
                await asyncio.sleep(0.02)
            client.close()
            assert json.loads(found.split(b"\r\n\r\n", 1)[1])["outputs"][0]["data"] == words

    asyncio.run(run())


def test_connections_have_a_number() -> None:
    async def run() -> None:
        async with served(UvicornProtocol) as (server, address):
            first = [await asyncio.open_connection(*address) for _ in range(LIMITS.connections)]
            await asyncio.sleep(0.1)
            reader, writer = await asyncio.open_connection(*address)
            assert await read_all(reader) == b""
            writer.close()
            assert len(server.server_state.connections) == LIMITS.connections
            first[0][1].write(post(ROW))
            assert (await read_answer(first[0][0]))[0] == 200
            for _, other in first:
                other.close()

    asyncio.run(run())


def test_a_body_that_is_not_wanted_is_thrown_away_up_to_the_limit() -> None:
    small = post(b" " * 190_000, path="/nowhere")
    assert statuses(send(small + get("/v2", "Connection: close"))) == [404, 200]
    large = post(b" " * 500_000)
    assert statuses(send(*[large[i : i + 20_000] for i in range(0, len(large), 20_000)])) == [413]
    endless = get("/nowhere", "Transfer-Encoding: chunked", method="POST")
    assert statuses(send(endless, *[b"2710\r\n" + b" " * 10_000 + b"\r\n"] * 100)) == [404]


def test_a_refusal_before_the_body_ends_the_connection_where_the_client_waits_to_be_told() -> None:
    asks = post(ROW, "Expect: 100-continue", path="/nowhere")[: -len(ROW)]
    answer = send(asks)
    assert statuses(answer) == [404]
    assert b"connection: close" in answer


AMBIGUOUS = {
    "both lengths": get("/v2", "Content-Length: 3", "Transfer-Encoding: chunked", method="POST") + b"abc",
    "two lengths": post(ROW, "Content-Length: 3"),
    "negative length": get("/v2", "Content-Length: -1", method="POST"),
    "long length": get("/v2", "Content-Length: " + "9" * 5_000, method="POST"),
    "unknown coding": get("/v2", "Transfer-Encoding: gzip", method="POST"),
    "chunk of no size": get("/v2/models/doubler/infer", "Transfer-Encoding: chunked", method="POST")
    + b"x\r\n",
    "endless chunk size": get("/v2", "Transfer-Encoding: chunked", method="POST") + b"f" * 40 + b"\r\n",
    "unknown method": b"SPAM /v2 HTTP/1.1\r\n\r\n",
    "unknown version": b"GET /v2 HTTP/9.9\r\n\r\n",
    "http 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no path": b"GET  HTTP/1.1\r\n\r\n",
    "path of other characters": b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
    "folded field": b"GET /v2 HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n",
    "connect": b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "star": b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "other host": b"GET http://other/v2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_what_is_ambiguous_is_answered_once_and_never_by_a_5xx(request_bytes: bytes) -> None:
    found = statuses(send(request_bytes))
    assert len(found) == 1, found
    assert found[0] < 500


def test_a_full_second_request_waits_for_the_first(plane: DataPlane) -> None:
    more = json.dumps(infer_body([0.5] * 9_000, [3_000, 3])).encode()
    closing: Any = post(ROW, "Connection: close")
    assert statuses(send(post(more) + post(ROW) + post(more) + closing)) == [200] * 4


@pytest.mark.parametrize("more", [b"", b"Expect: 100-continue\r\n"])
def test_what_is_too_large_is_told_so_and_the_rest_of_it_is_not_read(plane: DataPlane, more: bytes) -> None:
    head = b"POST /v2/models/doubler/infer HTTP/1.1\r\nHost: x\r\n" + more
    counted = plane.hosts.models["doubler"].statistics

    def read_too_large() -> int:
        return int(counted.to_json()["outcomes"].get("too_large", 0))

    before = read_too_large()
    declared = send(head + b"Content-Length: %d\r\n\r\n" % (plane.body_limit + 1))
    assert statuses(declared) == [413]
    assert read_too_large() == before + 1  # counted, though none of it was read
    piece = b"%x\r\n" % 50_000 + b" " * 50_000 + b"\r\n"
    pieces = [piece] * (plane.body_limit // 50_000 + 2)
    chunked = send(head + b"Transfer-Encoding: chunked\r\n\r\n", *pieces)
    assert statuses(chunked)[-1] == 413
    for answer in (declared, chunked):
        assert b"connection: close" in answer
        assert (b"100 Continue" in answer) == (answer is chunked and bool(more))
