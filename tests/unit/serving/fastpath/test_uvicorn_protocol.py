"""Requests on real sockets: what the replica's own protocol answers is what uvicorn's way to the same plane answers."""

import asyncio
import contextlib
import gzip
import itertools
import json
import random
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import uvicorn

from raymlops.errors import RaymlopsError
from raymlops.serving.fastpath import middleware, response_head, uvicorn_protocol
from raymlops.serving.fastpath.middleware import OWN, FastMiddleware
from raymlops.serving.fastpath.uvicorn_protocol import WHOLE, UvicornProtocol
from raymlops.serving.transport.asgi import DataPlane
from raymlops.serving.transport.client_addresses import ClientAddresses
from raymlops.serving.transport.http import Request, Response
from tests import toy_models
from tests.unit.serving.transport.test_asgi import infer_body, make_plane

Answer = tuple[int, dict[str, str], bytes]


class CountingWire(UvicornProtocol):
    """Counts what is handed to the socket, and the requests that went uvicorn's way."""

    writes = 0
    round_about = 0
    parsed = 0
    usual = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)

        class Counted:
            def write(self, data: bytes) -> None:
                CountingWire.writes += 1
                transport.write(data)

            def __getattr__(self, name: str) -> Any:
                return getattr(transport, name)

        self.transport = Counted()  # type: ignore[assignment]

    def on_headers_complete(self) -> None:
        CountingWire.parsed += 1
        super().on_headers_complete()

    def _start_answer(self, *arguments: Any) -> None:
        CountingWire.usual += 1
        super()._start_answer(*arguments)

    def _use_uvicorn(self) -> None:
        CountingWire.round_about += 1
        super()._use_uvicorn()


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> DataPlane:
    models = {"doubler": toy_models.doubler(), "echo": toy_models.echo()}
    return make_plane(tmp_path_factory.mktemp("models"), models, body_limit=1_000_000)


@pytest.fixture(autouse=True)
def _on_the_lane(plane: DataPlane) -> Iterator[None]:
    OWN.app, OWN.prefix = plane, ""
    CountingWire.writes = CountingWire.round_about = CountingWire.parsed = CountingWire.usual = 0
    yield
    OWN.app, OWN.prefix = None, ""


async def answer_for_serve(scope: Any, receive: Any, send: Any) -> None:
    """Stands where Serve does, behind the middleware."""
    await send({"type": "http.response.start", "status": 299, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"serve"})


@contextlib.asynccontextmanager
async def served(
    protocol: Any = CountingWire, **options: Any
) -> AsyncIterator[tuple[uvicorn.Server, tuple[str, int]]]:
    config = uvicorn.Config(
        FastMiddleware(answer_for_serve), http=protocol, loop="asyncio", lifespan="off", log_level="critical",
        access_log=False, **options,
    )  # fmt: skip
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.ensure_future(server.serve([listener]))
        try:
            yield server, listener.getsockname()
        finally:
            server.should_exit = True
            await serving


async def read_answer(reader: asyncio.StreamReader, bare: bool = False) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status, *lines = head.rstrip().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    body = b"" if bare else await reader.readexactly(int(headers.get("content-length", "0")))
    return int(status.split()[1]), headers, body


async def exchange(
    address: tuple[str, int], *parts: bytes, answers: int = 1, bare: bool = False
) -> list[Answer]:
    """Answers to what is sent on one connection, part by part."""
    reader, writer = await asyncio.open_connection(*address)
    for part in parts:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0.02)
    found = [await read_answer(reader, bare) for _ in range(answers)]
    writer.close()
    return found


def ask(*parts: bytes, protocol: Any = CountingWire, **options: Any) -> list[Answer]:
    async def run() -> list[Answer]:
        async with served(protocol) as (_, address):
            return await exchange(address, *parts, **options)

    return asyncio.run(run())


def post(body: bytes, *headers: str, path: str = "/v2/models/doubler/infer", version: str = "1.1") -> bytes:
    lines = [f"POST {path} HTTP/{version}", "Host: a", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: a", *headers, "", ""]).encode()


ROW = json.dumps(infer_body([1, 2, 3], [1, 3])).encode()
LARGE = json.dumps(infer_body([0.123456789] * 9_000, [3_000, 3])).encode()
FIXED = "X-Request-Id: call-1"
CHUNKED = get("/v2/models/doubler/infer", "Transfer-Encoding: chunked", FIXED, method="POST") + (
    f"{len(ROW):x}\r\n".encode() + ROW + b"\r\n0\r\n\r\n"
)

USUAL = {
    "json": post(ROW, FIXED),
    "gzip": post(gzip.compress(ROW), "Content-Encoding: gzip", FIXED),
    "not gzip": post(ROW, "Content-Encoding: gzip", FIXED),
    "no json": post(b"{", FIXED),
    "unknown model": post(ROW, FIXED, path="/v2/models/none/infer"),
    "unknown path": get("/nowhere", FIXED),
    "wrong method": get("/v2/models/doubler/infer", FIXED),
    "quoted path": get("/v2/models/doubl%65r", FIXED),
    "query": get("/v2/models/doubler?a=b", FIXED),
    "metadata": get("/v2/models/doubler", FIXED),
    "document": get("/openapi.json", FIXED),
    "empty body": post(b"", FIXED),
    "close": post(ROW, "Connection: close", FIXED),
    "http 1.0": post(ROW, FIXED, version="1.0"),
}
ROUND_ABOUT = {
    "large": post(LARGE, FIXED),
    "chunked": CHUNKED,
    "put": get("/v2/models/doubler", FIXED, method="PUT"),
    "serve's own": get("/-/healthz", FIXED),
}


def comparable(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    status, headers, body = answer
    return status, {name: value for name, value in headers.items() if name != "date"}, body


@pytest.mark.parametrize("name", [*USUAL, *ROUND_ABOUT])
def test_every_request_is_answered_as_by_uvicorn(name: str) -> None:
    request = {**USUAL, **ROUND_ABOUT}[name]
    (ours,) = ask(request)
    (theirs,) = ask(request, protocol="httptools")
    assert comparable(ours) == comparable(theirs)
    assert CountingWire.round_about == (name in ROUND_ABOUT)
    assert CountingWire.writes == 1 or name not in USUAL


@pytest.mark.parametrize("kind", ["h2c", "websocket"])
def test_an_upgrade_is_answered_as_if_it_was_not_asked_for_and_ends_the_connection(kind: str) -> None:
    request = get(
        "/v2/models/doubler", "Connection: Upgrade", f"Upgrade: {kind}", "Sec-WebSocket-Key: a", FIXED
    )
    ((status, headers, _),) = ask(request)
    assert (status, headers["connection"]) == (200, "close")


def test_a_head_request_is_answered_without_a_body() -> None:
    ((status, _, body),) = ask(get("/v2/health/live", method="HEAD"), bare=True)
    assert (status, body) == (200, b"")


def test_a_client_that_asks_before_it_sends_is_told_to_go_on() -> None:
    (go_on, _, _), (status, _, body) = ask(post(ROW, "Expect: 100-continue"), answers=2)
    assert (go_on, status) == (100, 200)
    assert json.loads(body)["outputs"][0]["data"] == [2, 4, 6]


@pytest.mark.parametrize("size", [1, 7, 40, 120])
def test_a_request_may_come_in_any_pieces(size: int) -> None:
    request = post(ROW)
    pieces = [request[i : i + size] for i in range(0, len(request), size)]

    async def run() -> list[Answer]:
        async with served() as (_, address):
            reader, writer = await asyncio.open_connection(*address)
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0.001)
            answer = await read_answer(reader)
            writer.close()
            return [answer]

    ((status, _, body),) = asyncio.run(run())
    assert status == 200
    assert json.loads(body)["outputs"][0]["data"] == [2, 4, 6]


def test_requests_that_are_sent_at_once_are_answered_in_their_order() -> None:
    requests = [post(ROW, f"X-Request-Id: {i}") for i in range(3)]
    requests.insert(1, post(LARGE, "X-Request-Id: large"))
    requests.insert(3, CHUNKED)
    answers = ask(b"".join(requests), answers=5)
    assert [headers["x-request-id"] for _, headers, _ in answers] == ["0", "large", "1", "call-1", "2"]
    assert {status for status, _, _ in answers} == {200}
    sizes = [len(json.loads(body)["outputs"][0]["data"]) for _, _, body in answers]
    assert sizes == [3, 9_000, 3, 3, 3]


@pytest.mark.parametrize("seed", range(4))
def test_requests_in_a_row_may_be_cut_anywhere(seed: int) -> None:
    draw = random.Random(seed)
    kinds = [
        post(ROW),
        post(LARGE),
        CHUNKED,
        get("/v2/health/live"),
        post(b"{"),
        get("/nowhere"),
        post(b" " * 70_000),
    ]
    chosen = [draw.choice(kinds) for _ in range(8)]
    data = b"".join(chosen)
    cuts = sorted(draw.randrange(len(data)) for _ in range(15))
    pieces = [data[start:end] for start, end in itertools.pairwise([0, *cuts, len(data)])]

    async def run() -> list[Answer]:
        async with served() as (_, address):
            reader, writer = await asyncio.open_connection(*address)
            reading = asyncio.ensure_future(read_all(reader, len(chosen)))
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.002)
            answers = await reading
            writer.close()
            return answers

    found = [(status, len(body)) for status, _, body in asyncio.run(run())]
    alone = {kind: ask(kind)[0] for kind in set(chosen)}
    assert [status for status, _ in found] == [alone[kind][0] for kind in chosen]
    assert [size for _, size in found] == [len(alone[kind][2]) for kind in chosen]


@pytest.mark.parametrize("seed", range(2))
def test_a_head_that_comes_again_is_known_and_each_body_behind_it_is_its_own(seed: int) -> None:
    """Heads that are the same to the byte are not parsed again, wherever bytes are cut and whatever came between."""
    draw = random.Random(seed)

    def make() -> tuple[bytes, list[float] | int]:
        kind, values = draw.randrange(20), [float(draw.randrange(10, 100)) for _ in range(3)]
        body = json.dumps(infer_body(values, [1, 3])).encode()
        answer = [2 * value for value in values]
        if kind == 0:
            return post(body, f"X-Request-Id: {draw.randrange(99)}"), answer
        if kind == 1:
            return post(LARGE), [0.246913578] * 9_000
        if kind == 2:
            return draw.choice([(CHUNKED, [2.0, 4.0, 6.0]), (get("/v2/health/live"), 200), (post(b"{"), 400)])
        return post(body), answer

    async def run() -> None:
        async with served() as (_, address):
            reader, writer = await asyncio.open_connection(*address)
            for _ in range(60):
                made = [make() for _ in range(draw.choice([1, 1, 1, 1, 2, 3]))]
                data = b"".join(part for part, _ in made)
                cuts = sorted(draw.randrange(len(data)) for _ in range(draw.choice([0, 0, 0, 1, 2])))
                for start, end in itertools.pairwise([0, *cuts, len(data)]):
                    writer.write(data[start:end])
                    await writer.drain()
                    await asyncio.sleep(0.001 if cuts else 0)
                for status, _, body in await read_all(reader, len(made)):
                    _, wanted = made.pop(0)
                    found = json.loads(body)["outputs"][0]["data"] if isinstance(wanted, list) else status
                    assert found == pytest.approx(wanted)
            writer.close()

    asyncio.run(run())
    known = CountingWire.usual + CountingWire.round_about - CountingWire.parsed
    assert known > 5, "hardly any head was known"


def test_a_head_is_known_on_its_own_connection_only() -> None:
    """Who comes by another connection has another address, whatever its head says."""

    async def run() -> None:
        async with served() as (_, address):
            for _ in range(2):
                reader, writer = await asyncio.open_connection(*address)
                for _ in range(4):
                    writer.write(post(ROW))
                    assert (await read_answer(reader))[0] == 200
                writer.close()

    asyncio.run(run())
    assert CountingWire.parsed == 4, "the first is parsed, and the second, which is remembered"


async def read_all(reader: asyncio.StreamReader, answers: int) -> list[Answer]:
    return [await read_answer(reader) for _ in range(answers)]


def test_a_connection_carries_many_requests_and_is_closed_when_the_client_says_so() -> None:
    async def run() -> None:
        async with served() as (_, address):
            reader, writer = await asyncio.open_connection(*address)
            for request in (post(ROW), get("/v2/health/live"), post(LARGE), post(ROW, "Connection: close")):
                writer.write(request)
                assert (await read_answer(reader))[0] == 200
            assert await reader.read() == b""
            writer.close()

    asyncio.run(run())


def test_what_is_no_http_is_told_so_and_closed() -> None:
    ((status, headers, _),) = ask(b"hello\r\n\r\n")
    assert status == 400
    assert headers["connection"] == "close"


@pytest.mark.parametrize("character", ["\x01", "\x0b", "\x7f"])
def test_an_id_that_no_header_may_hold_is_refused(character: str) -> None:
    ((status, headers, _),) = ask(post(ROW, f"X-Request-Id: a{character}b"))
    assert status == 400
    assert "x-request-id" not in headers


@pytest.mark.parametrize("request_bytes", [ROW, LARGE, None], ids=["usual", "large", "chunked"])
def test_a_client_is_known_by_its_connection_whatever_it_says_and_whichever_way_it_goes(
    plane: DataPlane, monkeypatch: pytest.MonkeyPatch, request_bytes: bytes | None
) -> None:
    seen: list[str] = []

    class Watched:
        async def admit(self, caller: str) -> None:
            seen.append(caller)

    monkeypatch.setattr(plane, "rate", Watched())
    monkeypatch.setattr(plane, "addresses", ClientAddresses(token="secret"))
    forged = "X-Forwarded-For: 1.2.3.4"
    request = (
        CHUNKED.replace(FIXED.encode(), forged.encode())
        if request_bytes is None
        else post(request_bytes, forged)
    )
    assert ask(request)[0][0] == 200
    assert seen == ["127.0.0.1"]


def test_an_application_below_a_prefix_answers_below_it_only() -> None:
    OWN.prefix = "/team"
    assert ask(get("/team/v2/health/live"))[0][0] == 200
    assert CountingWire.round_about == 0
    assert ask(get("/v2/health/live"))[0][::2] == (299, b"serve")


def test_an_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    async def run() -> None:
        async with served(timeout_keep_alive=1) as (_, address):
            reader, writer = await asyncio.open_connection(*address)
            for _ in range(8):
                writer.write(post(ROW))
                assert (await read_answer(reader))[0] == 200
                await asyncio.sleep(0.2)
            async with asyncio.timeout(20):
                assert await reader.read() == b""
            writer.close()

    asyncio.run(run())


class Slow:
    """A plane that answers when it is let."""

    def __init__(self) -> None:
        self.asked, self.go = asyncio.Event(), asyncio.Event()
        self.ended = 0

    def begin(self, method: str, path: str, headers: Any) -> Request:
        return Request(method, path, headers, "slow")

    async def respond(self, request: Request) -> Response:
        self.asked.set()
        await self.go.wait()
        self.ended += 1
        return Response(200, b"late")


def test_a_shutdown_waits_for_the_request_that_is_answered() -> None:
    async def run() -> None:
        slow = OWN.app = Slow()
        async with served() as (server, address):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(post(ROW))
            await slow.asked.wait()
            server.should_exit = True
            await asyncio.sleep(0.3)
            slow.go.set()
            status, headers, body = await read_answer(reader)
            assert (status, headers["connection"], body) == (200, "close", b"late")
            assert await reader.read() == b""
            writer.close()

    asyncio.run(run())


def test_a_client_that_goes_away_leaves_nothing_behind() -> None:
    async def run() -> None:
        slow = OWN.app = Slow()
        async with served() as (server, address):
            _, writer = await asyncio.open_connection(*address)
            writer.write(post(ROW))
            await slow.asked.wait()
            writer.transport.abort()
            await asyncio.sleep(0.1)
            slow.go.set()
            await asyncio.sleep(0.1)
            assert slow.ended == 1
            assert not server.server_state.tasks
            assert not server.server_state.connections

    asyncio.run(run())


def test_a_defect_of_the_plane_ends_its_connection_only(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Slow):
        async def respond(self, request: Request) -> Response:
            raise RaymlopsError("broken")

    async def run() -> None:
        async with served() as (_, address):
            working, OWN.app = OWN.app, Broken()
            reader, writer = await asyncio.open_connection(*address)
            writer.write(post(ROW))
            assert await reader.read() == b""
            writer.close()
            OWN.app = working
            assert (await exchange(address, post(ROW)))[0][0] == 200

    monkeypatch.setattr(uvicorn_protocol.LOG, "propagate", True)
    asyncio.run(run())
    assert "request slow was not answered" in caplog.text


def test_what_is_remembered_of_responses_has_no_values_of_requests() -> None:
    response_head.KNOWN.clear()
    binary = []
    for rows in range(1, 21):
        body = json.dumps(infer_body([0] * 3 * rows, [rows, 3], parameters={"binary_data_output": True}))
        binary.append(post(body.encode()))
    unknown = [get(path) for path in ("/" + 2000 * "a", *(f"/unknown/{i}" for i in range(20)))]
    for answers in (ask(b"".join(binary), answers=20), ask(b"".join(unknown), answers=21)):
        assert {status for status, _, _ in answers} <= {200, 404}
    assert len(response_head.KNOWN) == 1


def test_serve_takes_the_protocol_from_its_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", "httptools")
    middleware.make_middlewares()
    config = uvicorn.Config(answer_for_serve, log_config=None)
    config.load()
    assert config.http_protocol_class is UvicornProtocol


def test_a_body_at_the_limit_is_usual_and_one_above_it_is_not() -> None:
    for spare, round_about in ((0, 0), (1, 1)):
        CountingWire.round_about = 0
        body = ROW + b" " * (WHOLE - len(ROW) + spare)
        assert ask(post(body))[0][0] == 200
        assert CountingWire.round_about == round_about


@pytest.mark.parametrize("requests", [0, 1, 3])
def test_a_server_that_ends_answers_what_was_on_its_way_and_says_that_it_closes(requests: int) -> None:
    body = json.dumps(infer_body([1.0, 2.0, 3.0], [1, 3])).encode()
    head = f"POST /v2/models/doubler/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    question = head.encode() + body

    async def run() -> list[Answer]:
        async with served() as (server, address):
            reader, writer = await asyncio.open_connection(*address)
            answers = []
            for _ in range(requests):
                writer.write(question)
                answers.append(await read_answer(reader))
            server.should_exit = True
            await asyncio.sleep(0.5)  # it looks every tenth of a second
            writer.write(question)
            answers.append(await read_answer(reader))
            assert await reader.read() == b""
            writer.close()
            return answers

    *before, last = asyncio.run(run())
    assert [(status, headers.get("connection")) for status, headers, _ in before] == [(200, None)] * requests
    assert (last[0], last[1]["connection"]) == (200, "close")


def test_an_idle_connection_does_not_keep_a_server_that_ends() -> None:
    async def run() -> None:
        async with served() as (server, address):
            connections = [await asyncio.open_connection(*address) for _ in range(3)]
            await asyncio.sleep(0.1)
            server.should_exit = True
            async with asyncio.timeout(10):
                for reader, writer in connections:
                    assert await reader.read() == b""
                    writer.close()

    asyncio.run(run())
