"""Requests that a data plane has to answer whatever they are, over REST and gRPC, and what was answered. They go to
127.0.0.1 only, a given number of them, in a given time.

Some are right: their answer is known and compared. Others were right and are changed, in their values, bytes, fields,
paths or framing: their answer may be any but a fault of the server, one for each request, in their order.
"""

import asyncio
import collections
import contextlib
import copy
import dataclasses
import gzip
import json
import random
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb

WAITS = 60.0
"""Seconds without an answer that count as a hang."""
OVERLOADED = 503
LATE = 504
"""For who asks for an answer within a microsecond."""


@dataclasses.dataclass
class Tally:
    """What became of the requests; `wrong`, `hung` and `faults` name the first of their kind."""

    sent: int = 0
    statuses: "collections.Counter[str]" = dataclasses.field(default_factory=collections.Counter)
    compared: int = 0
    cut: int = 0
    """Connections that the server closed before it had answered all, which it may where the framing is wrong."""
    overloaded: int = 0
    late: int = 0
    wrong: list[str] = dataclasses.field(default_factory=list)
    hung: list[str] = dataclasses.field(default_factory=list)
    faults: list[str] = dataclasses.field(default_factory=list)
    slowest_probe_s: float = 0.0

    def count(self, status: int, shown: str, body: bytes = b"") -> None:
        self.statuses[str(status)] += 1
        if status == OVERLOADED:
            self.overloaded += 1
        elif status == LATE and b"asked for" in body:
            self.late += 1
        elif status >= 500:
            self.faults.append(f"{status}: {shown}")

    def check(self) -> None:
        """Raises AssertionError unless all was answered as it should be."""
        assert not self.wrong, self.wrong[:3]
        assert not self.hung, self.hung[:3]
        assert not self.faults, self.faults[:3]


Check = Callable[[int, bytes, dict[bytes, bytes]], bool]


@dataclasses.dataclass(frozen=True)
class Case:
    """A request, and what is right where that is known."""

    method: str
    path: str
    fields: tuple[bytes, ...]
    body: bytes
    check: Check | None = None

    def render(self, name: str) -> bytes:
        lines = [f"{self.method} {self.path} HTTP/1.1".encode("latin-1", "replace"), b"Host: a"]
        lines += [*self.fields, b"X-Request-Id: " + name.encode()]
        if self.body or self.method == "POST":
            lines.append(b"Content-Length: %d" % len(self.body))
        return b"\r\n".join((*lines, b"", b"")) + self.body


HUGE = 10**400
ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    2**63,
    2**64,
    -(2**63),
    HUGE,
    -HUGE,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\ud800",
    "\x00",
    "a\x7fb",
    "ü" * 50,
    "9" * 5_000,
    "x" * 20_000,
    [],
    {},
    [[]],
    [None],
    [1, [2]],
    [True],
    ["a"],
    [[[[[[[[1]]]]]]]],
    {"a": {}},
    [1] * 70,
    [2**40, 2**40],
    [0, 2**62],
    [-1, 3],
    [1e400],
    ["\udfff"],
    [1] * 3_000,
    [[] for _ in range(300)],
    [{} for _ in range(300)],
)
TYPES = (
    "BOOL",
    "UINT8",
    "INT8",
    "INT32",
    "INT64",
    "UINT64",
    "FP16",
    "FP32",
    "FP64",
    "BYTES",
    "FP8",
    "",
    None,
    5,
)
PATHS = (
    "/",
    "//",
    "/v2",
    "/v2/",
    "/v2/models",
    "/v2/models/none/infer",
    "/v2/models//infer",
    "/v2/models/doubler/versions/9",
    "/v2/models/doubler/versions/" + "9" * 3_000,
    "/v2/models/%ff%fe/infer",
    "/v2/models/doubler%00",
    "/v2/%2e%2e/%2e",
    "/invocations",
    "/ping",
    "/health",
    "/metrics",
    "/openapi.json",
    "/docs",
    "/version",
    "/v2/repository/index",
    "/v2/repository/models/doubler/unload",
    "/v2/models/stats",
    "/v2/models/doubler?" + "a=b&" * 100,
    "/v2/models/doub%6Cer",
    "/" + "a" * 6_000,
    "/v2/models/" + "b" * 6_000 + "/infer",
    "/v2/health/live",
    "/v2/health/ready",
    "*",
    "/%",
    "/%zz",
)
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD")
FIELDS = (
    b"Content-Encoding: gzip",
    b"Content-Encoding: br",
    b"Content-Encoding: deflate",
    b"Content-Encoding: gzip, gzip",
    b"Content-Encoding: \xff",
    b"Content-Type: text/csv",
    b"Content-Type: application/xml",
    b"Content-Type: \xff\xfe",
    b"Inference-Header-Content-Length: 3",
    b"Inference-Header-Content-Length: -1",
    b"Inference-Header-Content-Length: a",
    b"Inference-Header-Content-Length: " + b"9" * 5_000,
    b"Inference-Header-Content-Length: 10000000000000000000",
    b"Authorization: Bearer \xff\xfe",
    b"Authorization: Basic abc",
    b"X-Api-Key: " + b"k" * 3_000,
    b"Accept: nothing",
    b"Traceparent: 00-zz",
    b"Traceparent: 00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-00",
    b"X-Request-Key: \xc3\x28",
    b"X-Forwarded-For: 1.2.3.4",
    b"X-Forwarded-For: \xff",
    b"Range: bytes=0-",
    b"If-None-Match: *",
    b"Cookie: a=b",
    b"TE: trailers",
)


def make_right(random: random.Random) -> Case:
    """A request whose answer is known."""
    return random.choice((_doubler, _doubler, _binary, _echo, _adder, _widener, _invocations, _probe))(random)


def _numbers(random: random.Random, rows: int, columns: int) -> list[float]:
    draw = random.random
    return [
        float(np.float32((draw() - 0.5) * 10.0 ** random.randrange(-6, 7))) for _ in range(rows * columns)
    ]


def _infer(model: str, document: dict[str, Any], check: Check, pack: str = "") -> Case:
    body, fields = json.dumps(document).encode(), ()
    if pack == "gzip":
        return Case(
            "POST", f"/v2/models/{model}/infer", (b"Content-Encoding: gzip",), gzip.compress(body, 1), check
        )
    if pack == "deflate":
        return Case(
            "POST",
            f"/v2/models/{model}/infer",
            (b"Content-Encoding: deflate",),
            zlib.compress(body, 1),
            check,
        )
    return Case("POST", f"/v2/models/{model}/infer", fields, body, check)


def _tensor(name: str, datatype: str, shape: list[int], data: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def _doubler(random: random.Random) -> Case:
    rows = random.choice((1, 1, 1, 2, 7, 300))
    values = _numbers(random, rows, 3)
    expected = [float(np.float32(value) * np.float32(2)) for value in values]
    nested = [values[i : i + 3] for i in range(0, len(values), 3)]
    data = random.choice((values, nested))

    def check(status: int, body: bytes, fields: dict[bytes, bytes]) -> bool:
        return status == 200 and np.array_equal(
            np.array(json.loads(body)["outputs"][0]["data"], np.float32), np.array(expected, np.float32)
        )

    document = {"inputs": [_tensor("x", "FP32", [rows, 3], data)]}
    if random.random() < 0.2:
        document["outputs"] = [{"name": "y"}]
    if random.random() < 0.1:
        document["parameters"] = {"timeout": random.choice((0, 10**7, 10**18))}  # type: ignore[assignment]
    return _infer("doubler", document, check, random.choice(("", "", "", "gzip", "deflate")))


def _binary(random: random.Random) -> Case:
    rows = random.choice((1, 2, 50, 2_000))
    values = np.array(_numbers(random, rows, 3), "<f4")
    entry = {
        "name": "x",
        "datatype": "FP32",
        "shape": [rows, 3],
        "parameters": {"binary_data_size": values.nbytes},
    }
    text = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()

    def check(status: int, body: bytes, fields: dict[bytes, bytes]) -> bool:
        length = int(fields.get(b"inference-header-content-length", 0))
        return status == 200 and body[length:] == (2 * values).astype("<f4").tobytes()

    field = b"Inference-Header-Content-Length: %d" % len(text)
    return Case("POST", "/v2/models/doubler/infer", (field,), text + values.tobytes(), check)


def _echo(random: random.Random) -> Case:
    words = [
        "".join(random.choices('aü€𝄞"\\\n,[{', k=random.randrange(9))) for _ in range(random.randrange(1, 9))
    ]

    def check(status: int, body: bytes, fields: dict[bytes, bytes]) -> bool:
        return status == 200 and json.loads(body)["outputs"][0]["data"] == words

    return _infer("echo", {"inputs": [_tensor("text", "BYTES", [len(words)], words)]}, check)


def _adder(random: random.Random) -> Case:
    a = [random.randrange(-(2**30), 2**30) for _ in range(16)]
    b = [random.randrange(-(2**30), 2**30) for _ in range(16)]

    def check(status: int, body: bytes, fields: dict[bytes, bytes]) -> bool:
        found = {output["name"]: output["data"] for output in json.loads(body)["outputs"]}
        sums = {"OUTPUT0": [x + y for x, y in zip(a, b, strict=True)]}
        sums["OUTPUT1"] = [x - y for x, y in zip(a, b, strict=True)]
        return status == 200 and found == sums

    inputs = [_tensor("INPUT0", "INT32", [1, 16], a), _tensor("INPUT1", "INT32", [1, 16], b)]
    random.shuffle(inputs)
    return _infer("adder", {"inputs": inputs}, check)


def _widener(random: random.Random) -> Case:
    values = _numbers(random, random.choice((1, 3)), 1)

    def check(status: int, body: bytes, fields: dict[bytes, bytes]) -> bool:
        found = json.loads(body)["outputs"][0]["data"]
        return status == 200 and [np.float32(value) for value in found] == [np.float32(max(values))]

    document = {"inputs": [_tensor("x", "FP32", [len(values)], values)], "outputs": ["top"]}
    return _infer("widener", document, check)


def _invocations(random: random.Random) -> Case:
    values = _numbers(random, 2, 3)
    rows = [values[:3], values[3:]]
    names = ["a", "b", "c"]
    documents = (
        {"instances": rows},
        {"inputs": rows},
        {"dataframe_split": {"columns": names, "data": rows}},
        {"dataframe_records": [dict(zip(names, row, strict=True)) for row in rows]},
    )

    def check(status: int, body: bytes, fields: dict[bytes, bytes]) -> bool:
        found = np.array(json.loads(body)["predictions"]["y"], np.float32)
        return status == 200 and np.array_equal(found, 2 * np.array(rows, np.float32))

    body = json.dumps(random.choice(documents)).encode()
    return Case("POST", "/invocations/doubler", (b"Content-Type: application/json",), body, check)


def _probe(random: random.Random) -> Case:
    path, key = random.choice((("/v2/health/live", "live"), ("/v2/health/ready", "ready")))
    return Case(
        "GET", path, (), b"", lambda status, body, fields: status == 200 and json.loads(body)[key] is True
    )


def _heavy(random: random.Random) -> Case:
    """What takes long, or would."""
    rows = random.choice((2_000, 19_000, 21_000, 10**6))
    shape, short = [rows, 3], [1.5] * 3 * min(rows, 21_000)
    inputs = random.choice(
        (
            {"inputs": [_tensor("x", "FP32", shape, short)]},
            {"inputs": [_tensor("x", "FP32", shape, [[1, 2, 3]] * min(rows, 21_000))]},
            {"inputs": [_tensor("count", "INT64", [1], [random.choice((99_999, 10**6, 10**7))])]},
            {"inputs": [_tensor("x", "FP32", [200], [1] * 200)]},
            {"inputs": [_tensor("text", "BYTES", [2], ["\x01" * 300_000, "a" * 900_000])]},
            {"inputs": [_tensor("text", "BYTES", [rows], ["a"] * min(rows, 21_000))]},
            {"inputs": [{}] * 30_000},
            {"inputs": [[]] * 60_000},
            {"inputs": [_tensor("x", "FP32", [1, 3], [1, 2, 3])], "outputs": ["y"] * 20_000},
            {"inputs": [_tensor("x", "FP32", [1, 3], [1, 2, 3])] * 5_000},
            {"instances": [{}] * 30_000},
            {"dataframe_split": {"columns": ["a"] * 9_000, "data": [[1] * 9_000] * 9}},
        )
    )
    model = random.choice(("doubler", "doubler", "repeater", "widener", "echo", "flights"))
    path = f"/invocations/{model}" if "inputs" not in inputs else f"/v2/models/{model}/infer"
    body = json.dumps(inputs).encode()
    if random.random() < 0.3:
        body = body[:-1] + random.choice((b', "z": NaN}', b" " * 10**6 + b"}", b"}", b"[" * 300_000))
    if random.random() < 0.3:
        return Case("POST", path, (b"Content-Encoding: gzip",), gzip.compress(body, 1))
    if random.random() < 0.05:
        bomb = gzip.compress(b" " * 50_000_000, 1)
        return Case("POST", path, (b"Content-Encoding: gzip",), bomb)
    return Case("POST", path, (), body)


def make_changed(random: random.Random) -> Case:
    """A request that was right; the server says what is wrong with it, or answers it."""
    if random.random() < 0.004:
        return _heavy(random)
    case = make_right(random)
    kind = random.randrange(8)
    if kind <= 3:
        return dataclasses.replace(case, body=_change_value(random, case), check=None)
    if kind == 4:
        return dataclasses.replace(case, body=change_bytes(random, case.body), check=None)
    if kind == 5:
        fields = (*case.fields, *random.sample(FIELDS, random.randrange(1, 4)))
        return dataclasses.replace(case, fields=fields, check=None)
    if kind == 6:
        return dataclasses.replace(case, path=random.choice(PATHS), method=random.choice(METHODS), check=None)
    return dataclasses.replace(
        case,
        path=case.path.replace("doubler", random.choice(("echo", "flights", "adder", "repeater"))),
        check=None,
    )


def _change_value(random: random.Random, case: Case) -> bytes:
    try:
        document = json.loads(case.body)
    except ValueError:
        return change_bytes(random, case.body)
    for _ in range(random.randrange(1, 4)):
        place, key = _pick(random, document)
        if place is None:
            continue
        choice = random.randrange(8)
        if choice == 0 and isinstance(place, dict):
            del place[key]
        elif choice == 1 and isinstance(place, dict):
            place[random.choice(("outputs", "parameters", "id", "shape", "datatype", "data", "\ud800"))] = (
                _odd(random)
            )
        elif choice == 2 and isinstance(place, list):
            place += place[:50]
        elif choice == 3 and key == "datatype":
            place[key] = random.choice(TYPES)
        elif choice == 4 and key == "shape":
            place[key] = [
                random.choice((0, 1, 2, 3, 2**20, 2**40, 2**62)) for _ in range(random.randrange(0, 70))
            ]
        elif choice == 5 and isinstance(place, dict):
            place["parameters"] = {
                "timeout": _odd(random),
                "binary_data_output": random.choice((True, _odd(random))),
            }
        else:
            place[key] = _odd(random)
    text = json.dumps(document, ensure_ascii=random.random() < 0.5)
    if random.random() < 0.1:  # a key twice, which Python does not write
        text = text.replace('{"', '{"inputs": [], "', 1)
    body = text.encode("utf-8", "surrogatepass")
    if case.fields[:1] == (b"Content-Encoding: gzip",):
        return gzip.compress(body, 1)
    return body


def _odd(random: random.Random) -> Any:
    return copy.deepcopy(random.choice(ODD))


def _pick(random: random.Random, document: Any) -> tuple[Any, Any]:
    """A place within a document: what holds it, and its key or number there."""
    holder, key, value = None, None, document
    while isinstance(value, dict | list) and value and (holder is None or random.random() < 0.75):
        holder = value
        key = random.choice(list(value)) if isinstance(value, dict) else random.randrange(len(value))
        value = value[key]
    return holder, key


def change_bytes(random: random.Random, data: bytes) -> bytes:
    """Some bytes other, fewer, more, or twice."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 5))):
        at = random.randrange(len(changed) + 1)
        choice = random.randrange(6)
        if choice == 0:
            changed[at : at + 1] = random.randbytes(1)
        elif choice == 1:
            del changed[at : at + random.choice((1, 4, 50, 10_000))]
        elif choice == 2:
            changed[at:at] = random.randbytes(random.choice((1, 4, 50)))
        elif choice == 3:
            changed[at:at] = changed[at : at + 200] * random.choice((1, 20))
        elif choice == 4:
            changed[at:at] = random.choice(
                (b"[", b"{", b'"', b"\\u", b"\r\n", b"\0", b"NaN", b"[" * 500, b'{"a":' * 100, b",", b"-")
            )
        else:
            changed[at : at + 8] = struct.pack("<q", random.choice((-1, 2**31, 2**62, 0)))
    return bytes(changed[:200_000])


class Client:
    """Connections to one server over HTTP."""

    def __init__(self, port: int, tally: Tally, seed: int) -> None:
        self._port, self._tally = port, tally
        self._random = random.Random(seed)
        self._number = 0

    def _name(self) -> str:
        self._number += 1
        return f"{id(self):x}-{self._number}"

    async def run(self, requests: int, ends: float) -> None:
        """Send so many, until `ends` of the monotonic clock at most."""
        sent = 0
        while sent < requests and time.monotonic() < ends:
            random = self._random
            kind = random.random()
            if kind < 0.97:
                sent += await self._keep_asking(min(requests - sent, 400), ends)
            elif kind < 0.985:
                sent += await self._break_framing()
            else:
                sent += await self._drip()

    async def _keep_asking(self, most: int, ends: float) -> int:
        """Requests in a row on one connection, several at once."""
        random, sent = self._random, 0
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=2**23)
        try:
            while sent < most and time.monotonic() < ends:
                cases = [
                    make_right(random) if random.random() < 0.4 else make_changed(random)
                    for _ in range(random.choice((1, 2, 8, 20)))
                ]
                names = [self._name() for _ in cases]
                writer.write(b"".join(case.render(name) for case, name in zip(cases, names, strict=True)))
                sent += len(cases)
                self._tally.sent += len(cases)
                for case, name in zip(cases, names, strict=True):
                    if not await self._read_one(reader, case, name):
                        return sent
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        return sent

    async def _read_one(self, reader: asyncio.StreamReader, case: Case, name: str) -> bool:
        """Whether the connection goes on."""
        tally, shown = self._tally, f"{case.method} {case.path[:80]} {case.fields!r:.200} {case.body!r:.600}"
        try:
            async with asyncio.timeout(WAITS):
                status, fields, body = await read_response(reader, case.method)
        except TimeoutError:
            tally.hung.append(shown)
            return False
        except (asyncio.IncompleteReadError, ConnectionError):
            tally.cut += 1
            if case.check is not None:
                tally.wrong.append(f"no answer: {shown}")
            return False
        tally.count(status, shown, body)
        answered = fields.get(b"x-request-id", b"")
        # By the protocol, which reads no further; a path that is none HAProxy answers itself.
        refused = not answered and (fields.get(b"connection") == b"close" or case.path == "*")
        if not refused and answered != name.encode():
            tally.wrong.append(f"{answered!r} answered {name}: {shown}")
        if case.check is not None and status != OVERLOADED:
            tally.compared += 1
            if not case.check(status, body, fields):
                tally.wrong.append(f"{status} {body!r:.300}: {shown}")
        return fields.get(b"connection") != b"close"

    async def _break_framing(self) -> int:
        """Bytes that were requests in a row."""
        random = self._random
        cases = [make_right(random) if random.random() < 0.5 else make_changed(random) for _ in range(3)]
        data = b"".join(case.render(self._name()) for case in cases)
        if random.random() < 0.3:
            data = data.replace(b"Content-Length", b"Transfer-Encoding: chunked\r\nX-Length", 1)
        waits = random.random() < 0.05
        self._tally.sent += len(cases)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(change_bytes(random, data))
            async with asyncio.timeout(WAITS if waits else 0.2):
                answer = await reader.read(-1)
        except TimeoutError:
            answer = b""
            if waits:
                self._tally.hung.append(f"framing {data!r:.600}")
        except ConnectionError:
            answer = b""
            self._tally.cut += 1
        finally:
            writer.close()
        for line in answer.split(b"HTTP/1.1 ")[1:]:
            if line[:3].isdigit():
                self._tally.count(int(line[:3]), f"framing {data!r:.600}", line)
        return len(cases)

    async def _drip(self) -> int:
        """A right request, piece by piece."""
        random = self._random
        case, name = make_right(random), self._name()
        data = case.render(name)
        self._tally.sent += 1
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=2**23)
        try:
            for _ in range(5):
                cut = random.randrange(len(data) + 1)
                writer.write(data[:cut])
                data = data[cut:]
                await asyncio.sleep(0.002)
            writer.write(data)
            await self._read_one(reader, case, name)
        finally:
            writer.close()
        return 1


async def read_response(reader: asyncio.StreamReader, method: str) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, fields by lower case name, body."""
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head[:-4].split(b"\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in lines)
    length = 0 if method == "HEAD" else int(fields.get(b"content-length", 0))
    return int(first.split()[1]), fields, await reader.readexactly(length)


_FINE = {
    "OK",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "RESOURCE_EXHAUSTED",
    "UNIMPLEMENTED",
}


_OTHERS = (
    "ModelMetadata", "ModelConfig", "ModelReady", "ModelStatistics", "RepositoryIndex", "ServerLive", "TraceSetting",
    "LogSettings", "SystemSharedMemoryRegister", "CudaSharedMemoryUnregister",
)  # fmt: skip
"""Methods that are sent what is meant for another."""


async def ask_over_grpc(port: int, tally: Tally, requests: int, ends: float, seed: int) -> None:
    """As `Client.run`, over gRPC."""
    rng = random.Random(seed)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for _ in range(requests):
            if time.monotonic() > ends:
                return
            right = rng.random() < 0.4
            values = np.array(_numbers(rng, rng.choice((1, 1, 2, 100)), 3), "<f4").reshape(-1, 3)
            request = pb.ModelInferRequest(model_name="doubler", raw_input_contents=[values.tobytes()])
            request.inputs.add(name="x", datatype="FP32", shape=values.shape)
            method = "ModelInfer"
            if not right:
                _change_message(rng, request)
                if rng.random() < 0.1:
                    method = rng.choice(_OTHERS)
            data = request.SerializeToString()
            if not right and rng.random() < 0.5:
                data = change_bytes(rng, data)
            ask = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            packed = rng.choice((None, None, grpc.Compression.Gzip, grpc.Compression.Deflate))
            tally.sent += 1
            code, answer, began = "OK", b"", time.monotonic()
            try:
                answer = await ask(data, timeout=WAITS, compression=packed)
            except grpc.aio.AioRpcError as error:
                code = error.code().name
            tally.statuses[code] += 1
            if time.monotonic() - began > WAITS - 1:
                tally.hung.append(f"gRPC {method} {data!r:.600}")
            elif code == "UNAVAILABLE":
                tally.overloaded += 1
            elif code == "DEADLINE_EXCEEDED" and b"timeout" in data:
                tally.late += 1
            elif code not in _FINE:
                tally.faults.append(f"gRPC {code}: {method} {data!r:.600}")
            if right:
                tally.compared += 1
                found = pb.ModelInferResponse.FromString(answer).raw_output_contents
                if code != "OK" or list(found) != [(2 * values).tobytes()]:
                    tally.wrong.append(f"gRPC {code} {data!r:.300}")


def _change_message(rng: random.Random, request: Any) -> None:
    tensor = request.inputs[0]
    choice = rng.randrange(9)
    if choice == 0:
        tensor.name = rng.choice(("", "y", "x" * 5_000, "\x00"))
    elif choice == 1:
        tensor.datatype = rng.choice(("", "FP64", "INT8", "BYTES", "BOOL", "FLOAT"))
    elif choice == 2:
        del tensor.shape[:]
        tensor.shape.extend(rng.choice((0, 1, 3, -1, 2**62)) for _ in range(rng.randrange(70)))
    elif choice == 3:
        request.model_name = rng.choice(("", "echo", "adder", "none", "ü" * 1_000))
    elif choice == 4:
        del request.raw_input_contents[:]
        tensor.contents.fp32_contents.extend(
            rng.choice((1.0, float("nan"))) for _ in range(rng.randrange(2_000))
        )
    elif choice == 5:
        for _ in range(rng.randrange(1, 300)):
            request.outputs.add(name=rng.choice(("y", "z", "")))
    elif choice == 6:
        kind = rng.choice(("int64_param", "bool_param", "string_param", "double_param", "uint64_param"))
        value = {
            "int64_param": rng.choice((-1, 0, 1, 2**63 - 1)),
            "bool_param": True,
            "string_param": "1e400",
        }
        value |= {"double_param": rng.choice((float("nan"), 1e308, -1.0)), "uint64_param": 2**64 - 1}  # type: ignore[dict-item]
        request.parameters["timeout"].CopyFrom(pb.InferParameter(**{kind: value[kind]}))
    elif choice == 7:
        request.inputs.extend([tensor] * rng.randrange(1, 300))
    else:
        request.raw_input_contents.extend([b"", b"\xff" * rng.randrange(5_000)])


async def probe(port: int, tally: Tally, done: asyncio.Event) -> None:
    """How late a probe is answered while the others ask."""
    request = Case("GET", "/v2/health/live", (), b"").render("probe")
    while not done.is_set():
        began = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        try:
            async with asyncio.timeout(WAITS):
                status, _, _ = await read_response(reader, "GET")
            if status != 200:
                tally.faults.append(f"{status}: the probe")
        except (TimeoutError, asyncio.IncompleteReadError) as error:
            tally.hung.append(f"the probe: {error!r}")
        finally:
            writer.close()
        tally.slowest_probe_s = max(tally.slowest_probe_s, time.monotonic() - began)
        await asyncio.sleep(0.1)


async def fuzz(
    ports: tuple[int, int], rest: int, over_grpc: int, seconds: float, seed: int, clients: int = 24
) -> Tally:
    """Send so many requests from several clients at once, in so many seconds at most."""
    tally, done, ends = Tally(), asyncio.Event(), time.monotonic() + seconds
    probing = asyncio.ensure_future(probe(ports[0], tally, done))
    calling = max(1, clients // 4)
    await asyncio.gather(
        *(Client(ports[0], tally, seed * 1_000 + n).run(rest // clients, ends) for n in range(clients)),
        *(
            ask_over_grpc(ports[1], tally, over_grpc // calling, ends, seed * 1_000 + n)
            for n in range(calling)
        ),
    )
    done.set()
    await probing
    return tally


@contextlib.contextmanager
def fuzzed_server() -> Iterator[tuple["subprocess.Popen[str]", tuple[int, int]]]:
    """The process of a data plane, and its ports for REST and gRPC."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz_server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        http, over_grpc = process.stdout.readline().split()
        yield process, (int(http), int(over_grpc))
    finally:
        process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
