"""Nothing that was begun is lost while an application changes, goes, or is stopped: stock clients and many connections
that are kept alive, over HTTP and gRPC, against one replica."""

import asyncio
import collections
import contextlib
import pathlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
import yaml

from tests import toy_models
from tests.serving_process import Served
from tests.survival.test_serving_survival import Load, failures

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def served(tmp_path: pathlib.Path) -> Iterator[Served]:
    toy_models.save(toy_models.doubler(), tmp_path / "one.onnx")
    triple = toy_models.doubler()
    triple.graph.initializer[0].raw_data = np.array(3, "<f4").tobytes()
    toy_models.save(triple, tmp_path / "two.onnx")
    toy_models.save(toy_models.slow(), tmp_path / "expensive.onnx")
    served = Served(tmp_path, {**describe(tmp_path, "one", "1"), "grpc_port": 1})
    yield served
    if served.process.poll() is None:
        served.stop()


def describe(folder: pathlib.Path, file: str, version: str) -> dict[str, Any]:
    models = {
        "toy": {"source": str(folder / f"{file}.onnx"), "version": version},
        "expensive": {"source": str(folder / "expensive.onnx"), "batching": {"mode": "off"}},
    }
    return {"models": models, "cpus": 0.2}


class GrpcLoad:
    """Triton's own client, asking without pause on one connection, in a thread."""

    def __init__(self, port: int) -> None:
        self.told: collections.Counter[str] = collections.Counter()
        self.stop = threading.Event()
        self._port = port
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "GrpcLoad":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        client = triton.InferenceServerClient(f"127.0.0.1:{self._port}")
        given = triton.InferInput("x", [1, 3], "FP32")
        given.set_data_from_numpy(np.ones((1, 3), np.float32))
        while not self.stop.is_set():
            try:
                answer = client.infer("toy", [given])
                self.told[f"ok {answer.as_numpy('y')[0, 0]:g}"] += 1
            except triton.InferenceServerException as error:
                self.told[f"{error.status()}: {error.message()}"] += 1
                time.sleep(0.05)


def test_no_request_fails_while_one_replica_changes_and_changes_back(served: Served) -> None:
    load = Load(f"{served.url}/v2/models/toy/infer", clients=4)
    paths = []
    for version, file in (("1", "one"), ("2", "two")):
        path = served.folder / f"v{version}.yaml"
        path.write_text(yaml.safe_dump(describe(served.folder, file, version)))
        paths.append(path)
    said = []

    async def change() -> None:
        for options in ((), ("--rollback",)):
            said.append(await asyncio.to_thread(served.run, "deploy", str(paths[1]), *options))

    with GrpcLoad(served.grpc_port) as grpc:
        asyncio.run(load.run(change()))
    print(f"told {dict(load.told)}, gRPC {dict(grpc.told)}")
    assert "version 2, is serving" in said[0]
    assert not failures(load)
    assert set(grpc.told) == {"ok 2", "ok 3"}
    assert load.told["200 toy/1"]
    assert load.told["200 toy/2"]


def test_an_application_that_is_removed_answers_what_it_had_and_then_is_not_found(served: Served) -> None:
    spec = {**describe(served.folder, "one", "1"), "name": "second", "route": "/second"}
    path = served.folder / "second.yaml"
    path.write_text(yaml.safe_dump(spec))
    served.run("deploy", str(path))
    load = Load(f"{served.url}/second/v2/models/toy/infer", clients=4)
    beside = Load(f"{served.url}/v2/models/toy/infer", clients=2)

    async def remove() -> None:
        await asyncio.sleep(1)
        await asyncio.to_thread(served.run, "deploy", str(path), "--remove")

    asyncio.run(beside.run(load.run(remove())))
    print(f"told {dict(load.told)}, beside {dict(beside.told)}")
    assert {told.split()[0] for told in load.told} == {"200", "404"}
    assert not failures(beside)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_refuses_what_is_new_and_answers_what_was_begun(
    served: Served, number: signal.Signals
) -> None:
    rows = 40
    question = {
        "inputs": [{"name": "x", "shape": [rows, 512], "datatype": "FP32", "data": [0.5] * 512 * rows}]
    }
    answers: list[Any] = []

    def ask_dear() -> None:
        answers.append(httpx.post(f"{served.url}/v2/models/expensive/infer", json=question, timeout=60))

    threads = [threading.Thread(target=ask_dear) for _ in range(6)]
    load = Load(f"{served.url}/v2/models/toy/infer", clients=4)

    async def stop() -> None:
        for thread in threads:
            thread.start()
        await asyncio.sleep(0.3)
        served.process.send_signal(number)
        await asyncio.to_thread(served.process.wait, 60)

    asyncio.run(load.run(stop()))
    for thread in threads:
        thread.join(60)
    print(f"told {dict(load.told)}, expensive {[answer.status_code for answer in answers]}")
    assert served.process.returncode == 0
    assert [answer.status_code for answer in answers] == [200] * 6
    assert any("in flight" in line for line in served.lines)
    refused = set(failures(load))
    assert refused <= {"ConnectionRefusedError"}, refused
    assert not any("Traceback" in line or "graceful_shutdown" in line for line in served.lines)


def test_serve_ends_with_its_cluster_and_says_so(served: Served) -> None:
    """As where a manager of services signals all processes at once."""
    children = psutil.Process(served.process.pid).children(recursive=True)
    next(process for process in children if process.name() == "gcs_server").kill()
    assert served.process.wait(timeout=60) == 1
    assert "KillMode=mixed" in "".join(served.lines)
    for process in children:
        with contextlib.suppress(psutil.Error):
            process.kill()
