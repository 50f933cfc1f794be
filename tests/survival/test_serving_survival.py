"""What an endpoint lives through: killed replicas, changed versions, ten times its capacity. Counts judge."""

import asyncio
import collections
import contextlib
import json
import pathlib
import re
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import yaml

from tests import toy_models
from tests.serving_process import CommandError, Served, serve_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

QUESTION = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("survival")
    toy_models.save(toy_models.doubler(), folder / "one.onnx")
    expensive = toy_models.save(toy_models.slow(), folder / "expensive.onnx")
    models = {
        "toy": {"source": str(folder / "one.onnx"), "version": "1"},
        "expensive": {"source": str(expensive), "batching": {"mode": "off"}},
        "quotient": {"source": str(toy_models.save(toy_models.quotient(), folder / "quotient.onnx"))},
    }
    spec = {"models": models, "replicas": 2, "cpus": 0.2, "limits": {"queue": 8}}
    yield from serve_for(folder, spec)


def is_listening(process: psutil.Process) -> bool:
    """True once a replica is initialised, when it opens its port."""
    with contextlib.suppress(psutil.Error):
        return any(
            c.status == psutil.CONN_LISTEN and 20_000 <= c.laddr.port < 29_000
            for c in process.net_connections()
        )
    return False


class Load:
    """Clients that ask without pause; what they were told is counted by status and version.

    They write HTTP by hand, as wrk does: a proper client would be busier than the server. With `get` they ask what
    runs no model, which HAProxy repeats; with `repeats` they ask again themselves, once, what was lost with a replica.
    """

    def __init__(
        self, url: str, question: Any = None, clients: int = 8, *, get: bool = False, repeats: bool = False
    ) -> None:
        self.url, self.clients = url, clients
        body = json.dumps(question or QUESTION).encode()
        parts = urllib.parse.urlsplit(url)
        self._address = (parts.hostname, parts.port)
        if get:
            body = b""
        head = f"{'GET' if get else 'POST'} {parts.path} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n\r\n"
        self.body = body
        self._repeats, self.lost = repeats, 0
        self._request = head.encode() + body
        self.told: collections.Counter[str] = collections.Counter()
        self.seconds: dict[str, list[float]] = collections.defaultdict(list)

    async def run(self, work: Any) -> None:
        """Ask until `work` is done."""
        stop = asyncio.Event()
        tasks = [asyncio.create_task(self._ask(stop)) for _ in range(self.clients)]
        try:
            await work
        finally:
            stop.set()
            await asyncio.gather(*tasks)

    async def _ask(self, stop: asyncio.Event) -> None:
        streams, again = None, False
        while not stop.is_set() or again:
            started = time.perf_counter()
            try:
                streams = streams or await asyncio.open_connection(*self._address)
                streams[1].write(self._request)
                head = (await streams[0].readuntil(b"\r\n\r\n")).decode().lower()
                await streams[0].readexactly(int(find(r"content-length: (\d+)", head)))
                told = f"{head.split()[1]} {find(r'x-model-version: (.*)', head)}".strip()
                if "connection: close" in head:
                    streams[1].close()
                    streams = None
            except (OSError, asyncio.IncompleteReadError) as error:
                told, streams = type(error).__name__, None
            if (
                self._repeats
                and not again
                and (told.startswith("502") or (streams is None and told[:1].isalpha()))
            ):
                again = True  # a connection that was used before is closed instead of a 502
                self.lost += 1
                continue
            again = False
            self.told[told] += 1
            self.seconds[told[:3]].append(time.perf_counter() - started)
            if not told.startswith("200"):
                await asyncio.sleep(0.01)
        if streams is not None:
            streams[1].close()


def find(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1].strip() if found else ""


def failures(load: Load) -> dict[str, int]:
    return {told: count for told, count in load.told.items() if not told.startswith("200")}


def test_no_request_that_may_be_repeated_fails_while_replicas_are_killed(served: Served) -> None:
    """What was in a replica that is killed may be what killed it, so HAProxy gives it to no other: the caller is told,
    and asks again where that does no harm."""
    # Fewer together than the queue of one replica holds.
    load = Load(f"{served.url}/v2/models/toy/infer", clients=4, repeats=True)
    reading = Load(f"{served.url}/v2/models/toy", clients=2, get=True)
    killed = []

    async def kill_every_five_seconds() -> None:
        for turn in range(12):
            await asyncio.sleep(3)
            known = {replica.pid for replica in served.replicas() if is_listening(replica)}
            await asyncio.sleep(2)
            replicas = served.replicas()
            if len(replicas) == 2 and known == {replica.pid for replica in replicas}:  # never the last one
                replicas[turn % 2].kill()
                killed.append(replicas[turn % 2].pid)

    asyncio.run(reading.run(load.run(kill_every_five_seconds())))
    print(f"killed {len(killed)}, told {dict(load.told)}, lost {load.lost}, reading {dict(reading.told)}")
    assert len(killed) >= 2  # how many depends on how fast the machine starts new ones
    assert not failures(load)
    assert not failures(reading)
    assert load.lost <= len(killed) * load.clients  # no more than were in them
    assert load.told["200 toy/1"] > 500
    assert reading.told["200"] > 500


FATAL = {
    "inputs": [
        {"name": name, "shape": [1], "datatype": "INT64", "data": [number]}
        for name, number in (("a", -(2**63)), ("b", -1))
    ]
}


def test_no_process_ends_by_a_division_while_others_are_answered(served: Served) -> None:
    load = Load(f"{served.url}/v2/models/toy/infer", clients=4)  # fewer together than a queue holds
    ends = time.monotonic() + 120
    while len(served.replicas()) < 2 or not all(map(is_listening, served.replicas())):
        assert time.monotonic() < ends
        time.sleep(0.5)
    replicas = served.replicas()

    async def divide() -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            for _ in range(200):
                answer = await client.post(f"{served.url}/v2/models/quotient/infer", json=FATAL)
                assert answer.status_code == 200, answer.text
                assert answer.json()["outputs"][0]["data"] == [-(2**63)]

    asyncio.run(load.run(divide()))
    assert {replica.pid for replica in served.replicas()} == {replica.pid for replica in replicas}
    assert not failures(load)
    assert load.told["200 toy/1"] > 500


def deploy(served: Served, path: pathlib.Path, *options: str) -> Any:
    return asyncio.to_thread(served.run, "deploy", str(path), *options)


def test_no_request_fails_while_versions_change_and_change_back(served: Served) -> None:
    spec = yaml.safe_load((served.folder / "serving.yaml").read_text())
    model = toy_models.doubler()
    model.graph.initializer[0].raw_data = np.array(3, "<f4").tobytes()
    toy_models.save(model, served.folder / "two.onnx")
    paths = []
    for version, file in (("1", "one"), ("2", "two")):
        toy = {"source": str(served.folder / f"{file}.onnx"), "version": version}
        path = served.folder / f"v{version}.yaml"
        path.write_text(yaml.safe_dump({**spec, "models": {**spec["models"], "toy": toy}}))
        paths.append(path)
    load = Load(f"{served.url}/v2/models/toy/infer")
    seen = []

    async def change() -> None:
        for path, options in ((paths[0], ()), (paths[1], ()), (paths[1], ("--rollback",))):
            await deploy(served, path, *options)
            answer = await asyncio.to_thread(httpx.post, load.url, content=load.body)
            seen.append(answer.json()["outputs"][0]["data"][0])

    asyncio.run(load.run(change()))
    print(f"told {dict(load.told)}, answers {seen}")
    assert not failures(load)
    assert seen == [2, 3, 2]
    assert load.told["200 toy/1"]
    assert load.told["200 toy/2"]


@pytest.mark.parametrize("kind", ["no model", "a model that ONNX Runtime cannot load"])
def test_a_version_that_cannot_start_does_not_stay(served: Served, kind: str) -> None:
    spec = yaml.safe_load((served.folder / "serving.yaml").read_text())
    first = served.folder / "v1.yaml"
    toy = {"source": str(served.folder / "one.onnx"), "version": "1"}
    first.write_text(yaml.safe_dump({**spec, "models": {**spec["models"], "toy": toy}}))
    served.run("deploy", str(first))
    broken = toy_models.doubler()
    broken.graph.node[0].op_type = "Nonsense"
    path = toy_models.save(broken, served.folder / "broken.onnx")
    if kind == "no model":
        path.write_bytes(b"nothing")
    spec["models"]["toy"] = {"source": str(path), "version": "9"}
    (served.folder / "broken.yaml").write_text(yaml.safe_dump(spec))
    load = Load(f"{served.url}/v2/models/toy/infer", clients=2)
    said = []

    async def change() -> None:
        with pytest.raises(CommandError) as failure:
            await deploy(served, served.folder / "broken.yaml", "--timeout", "120")
        said.append(str(failure.value))

    asyncio.run(load.run(change()))
    print(f"told {dict(load.told)}")
    assert ("is not an ONNX file" if kind == "no model" else "serving again") in said[0]
    assert set(load.told) == {"200 toy/1"}


def test_ten_times_the_capacity_is_shed_and_memory_stays_flat(served: Served) -> None:
    question = {"inputs": [{"name": "x", "shape": [1, 512], "datatype": "FP32", "data": [0.5] * 512}]}
    load = Load(f"{served.url}/v2/models/expensive/infer", question, clients=100)

    def memory() -> int:
        total = 0
        for process in served.replicas():
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
        return total

    sizes = []

    async def watch() -> None:
        for _ in range(10):
            await asyncio.sleep(1.5)
            sizes.append(memory())

    asyncio.run(load.run(watch()))
    accepted = sorted(load.seconds["200"])
    print(
        f"told {dict(load.told)}, accepted p50 {accepted[len(accepted) // 2]:.3f} s, "
        f"p99 {accepted[int(len(accepted) * 0.99)]:.3f} s, memory {[size >> 20 for size in sizes]} MiB"
    )
    assert set(load.told) == {"200 expensive/1", "503"}
    assert load.told["503"] > load.told["200 expensive/1"]
    assert sizes[-1] < sizes[2] * 1.2
