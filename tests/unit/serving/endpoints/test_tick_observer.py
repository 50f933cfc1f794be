import asyncio
import dataclasses
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient

from raymlops.errors import StorageError
from raymlops.monitoring import row_values
from raymlops.monitoring.reference import Reference, make_reference
from raymlops.monitoring.row_values import read_answers
from raymlops.monitoring.tick_store import TickStore, read_losses, read_ticks
from raymlops.monitoring.ticks import Place, Tick
from raymlops.serving.actors import tick_collector, tick_delivery
from raymlops.serving.actors.tick_collector import Message, Sender, TickCollector
from raymlops.serving.actors.tick_delivery import TickDelivery, remove_files
from raymlops.serving.endpoints import request_ids
from raymlops.serving.endpoints.answered_rows import AnsweredRows, EndedReplica, find_ended
from raymlops.serving.endpoints.graph import host_graph, prepare_graph
from raymlops.serving.endpoints.hosted import Hosts
from raymlops.serving.endpoints.model_host import host_model
from raymlops.serving.endpoints.observers import make_observers
from raymlops.serving.endpoints.statistics import Statistics
from raymlops.serving.endpoints.tick_observer import TickObserver, TickQueue
from raymlops.serving.protocol.request_limits import RequestLimits
from raymlops.serving.transport.asgi import DataPlane
from raymlops.serving.transport.http import Request
from raymlops.settings import Settings
from raymlops.specs.graph import GraphSpec
from raymlops.specs.monitoring import Monitoring
from raymlops.specs.serving import HostedModel
from raymlops.tensors import Batch
from tests import toy_models
from tests.grpc_server import serve_grpc

FLIGHTS = Place("flights", "endpoint", "flights", "4", "ab" * 32)
NODE = Place("tree/mirror", "shadow", "flights", "5", "ab" * 32)
EMPTY = Tick(FLIGHTS, 0, 60, np.zeros((0, 32), np.int64))
PLACES = {"flights": FLIGHTS, "tree/mirror": NODE}


def make_rows(rows: int, seed: int = 0) -> tuple[Batch, Batch]:
    rng = np.random.default_rng(seed)
    batch: Batch = {
        "distance": rng.gamma(2.0, 400.0, rows).astype(np.float32),
        "origin": rng.choice(np.array(["JFK", "LGA"], object), rows),
    }
    return batch, {"score": (batch["distance"] / 1e4).astype(np.float32)}


@pytest.fixture(scope="module")
def reference() -> Reference:
    batch, answer = make_rows(2000)
    return make_reference(
        {**batch, **read_answers(answer, 2000)}, {"score": "score"}, segments=[("origin", "JFK")]
    )


class Loop:
    """A collector in a thread, as in its actor; `replace` kills it and starts another."""

    def __init__(self, root: pathlib.Path, folder: pathlib.Path, nodes: Mapping[str, bool]) -> None:
        self.root, self.folder, self.nodes = root, folder, nodes
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.fails = 0
        self.replace()

    def replace(self) -> None:
        async def find(node: str, folder: str) -> list[tuple[str, EndedReplica]]:
            return [(str(path), ended) for path, ended in find_ended(pathlib.Path(folder))]

        async def is_alive(node: str) -> bool:
            return self.nodes.get(node, False)

        async def remove(node: str, paths: Sequence[str]) -> None:
            remove_files(paths)

        self.collector = TickCollector(str(self.root), "app", find, is_alive, remove)

    def __getattr__(self, method: str) -> Any:
        def call(*arguments: Any) -> Any:
            coroutine = getattr(self.collector, method)(*arguments)
            found = asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)
            if method == "deliver" and self.fails:  # killed after it wrote, before it acknowledged
                self.fails -= 1
                self.replace()
                raise ConnectionError("the collector was lost")
            return found

        return call

    def close(self) -> None:
        async def end() -> None:
            for task in asyncio.all_tasks():
                if task is not asyncio.current_task():
                    task.cancel()
            await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(5)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()


@pytest.fixture
def collector(tmp_path: pathlib.Path) -> Iterator[Loop]:
    loop = Loop(tmp_path / "store", tmp_path / "node", {"n1": True})
    yield loop
    loop.close()


def start(collector: Loop, reference: Reference, replica: str = "r1", seconds: int = 1) -> TickQueue:
    rows = AnsweredRows(collector.folder, replica, "n1", PLACES)
    sender = Sender(replica, "n1", str(collector.folder), 90, seconds)
    delivery = TickDelivery(sender, lambda: collector)
    spec = Monitoring(tick_seconds=seconds)
    return TickQueue(TickObserver(spec, PLACES, rows, delivery, lambda digest: reference, replica))


def answer(queue: TickQueue, rows: int = 1, *, seed: int = 0, given: str = "", status: int = 200) -> None:
    batch, scores = make_rows(rows, seed)
    request = Request(
        "POST", "/v2/models/flights/infer", {b"x-request-id": b""} if given else {}, given or "random"
    )
    request.rows, request.batch, request.answer = rows, batch, scores
    request.arrived = request.started
    request.statistics = Statistics("flights", "4")
    queue.put((request, status, time.perf_counter_ns(), 0, 0, ""), 100)


def read(collector: Loop) -> dict[str, Tick]:
    found: dict[str, Tick] = {}
    for tick in read_ticks(str(collector.root), "app"):
        key = f"{tick.place.path} {tick.place.segment}".strip()
        found[key] = tick if key not in found else found[key] + _at(tick, found[key])
    return found


def _at(tick: Tick, other: Tick) -> Tick:
    return dataclasses.replace(tick, start=other.start, seconds=other.seconds)


def test_every_answered_row_is_counted_and_a_replica_that_ends_leaves_nothing(
    collector: Loop, reference: Reference
) -> None:
    queue = start(collector, reference)
    for seed in range(50):
        answer(queue, 1 + seed % 3, seed=seed)
    answer(queue, 4, status=400)
    queue.watch("tree/mirror", copies=False)(*make_rows(7))
    assert queue.close()
    found = read(collector)
    rows = sum(1 + seed % 3 for seed in range(50))
    assert (found["flights"].rows, found["flights"].answered) == (rows, rows)
    assert found["flights"].requests == {"2xx": 50, "4xx": 1}
    assert sum(found["flights"].latency) == 50
    assert (found["tree/mirror"].rows, found["tree/mirror"].place.role) == (7, "shadow")
    assert 0 < found["flights origin=JFK"].rows < rows
    assert queue.to_rows() == {"counted": rows + 7, "left_out": 0, "retried": 0, "lost": 0}
    assert list(collector.folder.iterdir()) == []
    assert TickStore(str(collector.root), "app").read_replicas() == {}


def test_a_retry_counts_once_and_other_rows_of_the_same_id_count(
    collector: Loop, reference: Reference
) -> None:
    queue = start(collector, reference, seconds=3600)
    for _ in range(3):
        answer(queue, 2, seed=1, given="a")
    answer(queue, 2, seed=2, given="a")
    for seed in (3, 3):
        answer(queue, 2, seed=seed)
    queue.close()
    found = read(collector)["flights"]
    assert (found.answered, found.retried, found.rows) == (12, 4, 8)


def test_a_retry_that_another_replica_answers_counts_once(collector: Loop, reference: Reference) -> None:
    queues = [start(collector, reference, name, seconds=3600) for name in ("r1", "r2")]
    for queue in queues:
        answer(queue, 2, seed=1, given="a")
        answer(queue, 2, seed=2)
    answer(queues[1], 2, seed=3, given="b")
    for queue in queues:
        assert queue.close()
    found = read(collector)["flights"]
    assert (found.answered, found.retried, found.rows) == (10, 2, 8)


def test_ids_beyond_the_memory_for_them_count_at_once(
    collector: Loop, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_ids, "_HELD", 3)
    queue = start(collector, reference, seconds=3600)
    for seed in range(10):
        answer(queue, 2, seed=seed, given=str(seed))
        answer(queue, 2, seed=seed, given=str(seed))
    assert queue.close()
    found = read(collector)["flights"]
    assert (found.answered, found.retried, found.rows) == (40, 20, 20)


def test_a_collector_that_is_killed_loses_nothing_and_counts_nothing_twice(
    collector: Loop, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tick_delivery, "_LONGEST_PAUSE_S", 0.05)
    queue = start(collector, reference)
    for seed in range(20):
        answer(queue, 5, seed=seed)
        if seed % 4 == 0:
            collector.fails = 1
            queue._ticks._flush()
            time.sleep(0.1)
    collector.fails = 0
    assert queue.close()
    assert read(collector)["flights"].rows == 100


def test_a_store_that_is_away_keeps_nobody_waiting(
    collector: Loop, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tick_delivery, "_LONGEST_PAUSE_S", 0.05)
    is_away = [True]

    def write(self: TickStore, *arguments: Any) -> str:
        if is_away[0]:
            raise StorageError("no space is left")
        return real(self, *arguments)

    real = TickStore.write
    monkeypatch.setattr(TickStore, "write", write)
    queue = start(collector, reference)
    began = time.monotonic()
    for seed in range(30):
        answer(queue, 5, seed=seed)
        queue._ticks._flush()
    assert time.monotonic() - began < 5.0
    time.sleep(0.3)
    assert read(collector) == {}
    is_away[0] = False
    assert queue.close()
    assert read(collector)["flights"].rows == 150


def test_counts_that_find_no_room_are_lost_and_counted_as_that(
    collector: Loop, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tick_delivery, "_MOST_BYTES", 3000)
    monkeypatch.setattr(tick_delivery, "_LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr(Loop, "deliver", lambda self, message: 1 / 0, raising=False)
    queue = start(collector, reference)
    for second in range(4):
        batch, given = make_rows(10)
        tick = queue._ticks._counter.open(queue._ticks._open(FLIGHTS), second)
        tick.answered += 10
        tick.add_rows(batch, given, 10)
        queue._ticks._flush()
    monkeypatch.undo()
    assert queue.close()
    found = read(collector)["flights"]
    assert found.answered == 40
    assert found.lost >= 30
    assert found.rows + found.lost == 40
    assert queue.to_rows()["lost"] == found.lost


def test_rows_that_do_not_fit_into_the_queue_are_lost(collector: Loop, reference: Reference) -> None:
    queue = start(collector, reference)
    queue._most_events = 5
    queue._thread = threading.current_thread()  # nobody takes them out
    for seed in range(9):
        answer(queue, 3, seed=seed)
    queue._thread = None
    queue._hand_over()
    assert queue.close()
    found = read(collector)["flights"]
    assert (found.answered, found.rows, found.lost) == (27, 15, 12)


def test_above_a_hundredth_of_a_core_a_sample_is_counted_and_its_share_told(
    collector: Loop, reference: Reference
) -> None:
    queue = start(collector, reference, seconds=3600)
    queue._ticks.aside.share, queue._ticks._adapts = 0.25, float("inf")
    for seed in range(10):
        answer(queue, 1000, seed=seed)
        for _ in range(100):
            answer(queue, 1, seed=seed)
    queue.close()
    found = read(collector)["flights"]
    assert found.answered == 11_000
    assert found.share == pytest.approx(0.25, abs=0.02)
    assert found.left_out == 11_000 - found.rows


def test_a_retry_in_a_sample_is_known_as_one(collector: Loop, reference: Reference) -> None:
    queue = start(collector, reference, seconds=3600)
    queue._ticks.aside.share, queue._ticks._adapts = 0.5, float("inf")
    for seed in range(400):
        for _ in range(2):
            answer(queue, 2, seed=seed, given="one id for all" if seed % 2 else str(seed))
    queue.close()
    found = read(collector)["flights"]
    assert found.answered == 1600
    assert found.rows == pytest.approx(0.75 * 800, abs=80)  # at least one of the two is in the sample
    assert found.retried == pytest.approx(0.25 * 800, abs=80)  # both are
    assert sum(found.requests.values()) == sum(found.latency) == 800


def test_a_reference_that_is_not_here_yet_loses_rows_and_is_asked_for_again(
    collector: Loop, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = start(collector, reference, seconds=3600)
    observer, loads = queue._ticks, iter([True, False, False])

    def load(digest: str) -> Reference:
        if next(loads):
            raise StorageError("the store is away")
        return reference

    monkeypatch.setattr(observer, "_load", load)
    answer(queue, 3)
    observer._loads_again = 0.0
    answer(queue, 4)
    queue.close()
    found = read(collector)["flights"]
    assert (found.answered, found.lost, found.rows) == (7, 3, 4)
    assert found.counts[:, :31].sum(axis=1).tolist() == [4] * len(reference.columns)


_KILLED = """
import pathlib, sys, time
from raymlops.serving.endpoints.answered_rows import AnsweredRows
from raymlops.monitoring.ticks import Place
place = Place("flights", "endpoint", "flights", "4", "ab" * 32)
rows = AnsweredRows(pathlib.Path(sys.argv[1]), sys.argv[2], "n1", {"flights": place})
rows.counts[0] = int(sys.argv[3])
print("ready", flush=True)
time.sleep(60)
"""


def kill_replica(folder: pathlib.Path, name: str, rows: int) -> None:
    command = [sys.executable, "-c", _KILLED, str(folder), name, str(rows)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert list(find_ended(folder)) == []  # it lives
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


def test_the_rows_of_a_killed_replica_are_counted_or_lost(collector: Loop, reference: Reference) -> None:
    kill_replica(collector.folder, "r0", 57)
    told = [Tick(FLIGHTS, 60, 60, np.zeros((0, 32), np.int64), rows=40, answered=40, replica="r0")]
    collector.register(Sender("r0", "n1", str(collector.folder), 90, 60))
    collector.deliver(Message("r0", 1, "1970-01-01", tick_collector.pack(told), {"flights": 40}))
    queue = start(collector, reference, "r1")
    answer(queue, 3)
    assert queue.close()
    found = read(collector)["flights"]
    assert (found.answered, found.rows, found.lost) == (60, 43, 17)
    (loss,) = read_losses(str(collector.root), "app")
    assert loss.rows == 17
    assert loss.told == 40
    assert list(collector.folder.iterdir()) == []


def test_a_loss_is_stated_once_by_whoever_reads(collector: Loop) -> None:
    kill_replica(collector.folder, "r0", 5)
    ended = [one for _, one in find_ended(collector.folder)]
    collector.state_ended(ended)
    collector.replace()
    collector.state_ended(ended)
    assert read(collector)["flights"].lost == 5
    assert [loss.rows for loss in read_losses(str(collector.root), "app")] == [5]


def test_the_collector_looks_for_silent_replicas_and_names_those_of_lost_nodes(
    collector: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tick_collector, "SILENT_S", -1.0)
    kill_replica(collector.folder, "r0", 5)
    for name, node in (("r0", "n1"), ("r2", "n2")):
        collector.register(Sender(name, node, str(collector.folder), 90, 60))
    message = Message(
        "r2",
        1,
        "1970-01-01",
        tick_collector.pack([Tick(FLIGHTS, 0, 60, np.zeros((0, 32), np.int64))]),
        {"flights": 9},
    )
    collector.deliver(message)
    collector.replace()
    collector.beat("r9")
    collector._open()
    collector._look_for_silent()
    losses = {loss.replica: loss for loss in read_losses(str(collector.root), "app")}
    assert (losses["r0"].rows, losses["r2"].rows, losses["r2"].told) == (5, None, 9)
    assert losses["r2"].node == "n2"
    assert list(collector.folder.iterdir()) == []


def test_a_folder_of_another_user_is_not_believed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_replica(tmp_path / "node", "r0", 5)
    monkeypatch.setattr(os, "getuid", lambda: 12_345_678)
    assert list(find_ended(tmp_path / "node")) == []
    rows = AnsweredRows(tmp_path / "node", "r1", "n1", PLACES)
    assert rows.path is None
    rows.counts[1] += 3
    assert rows.read() == {"flights": 0, "tree/mirror": 3}


def test_ids_and_order_are_random_but_sums_are_not(collector: Loop, reference: Reference) -> None:
    order = random.Random(1)
    queues = [start(collector, reference, f"r{number}") for number in range(3)]
    for seed in range(60):
        answer(order.choice(queues), 2, seed=seed)
    for queue in queues:
        assert queue.close()
    whole = read(collector)["flights"]
    batches = [make_rows(2, seed) for seed in range(60)]
    batch = {name: np.concatenate([one[name] for one, _ in batches]) for name in batches[0][0]}
    given = {"score": np.concatenate([one["score"] for _, one in batches])}
    assert np.array_equal(whole.counts, reference.count({**batch, **read_answers(given, 120)}))


def test_requests_over_http_and_grpc_and_the_models_of_a_graph_are_counted(
    collector: Loop, tmp_path: pathlib.Path
) -> None:
    file = str(toy_models.save(toy_models.doubler(), tmp_path / "doubler.onnx"))
    spec = GraphSpec.model_validate(
        {
            "name": "tree",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
            "nodes": {
                "first": {"kind": "model", "model": file, "inputs": "inputs"},
                "old": {"kind": "model", "model": file, "inputs": {"x": "first.y"}},
                "new": {"kind": "model", "model": file, "inputs": {"x": "first.y"}},
                "share": {"kind": "split", "weights": {"old": 99, "new": 1}},
            },
            "outputs": ["share"],
        }
    )
    settings = Settings.from_env({"RAYMLOPS_HOME": str(tmp_path), "USER": "tester"})
    prepared = prepare_graph(spec, settings)
    values = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    inputs = row_values.read_inputs({"x": values}, row_values.Texts({}))
    answers = row_values.read_answers({"y": 2 * values}, 300)
    reference = make_reference({**inputs, **answers}, dict.fromkeys(answers, "score"))
    places = {"toy": FLIGHTS._replace(path="toy"), "tree": Place("tree", "endpoint", "tree", "1", "")}
    places |= {
        f"tree/{node}": FLIGHTS._replace(path=f"tree/{node}", role="node") for node in ("first", "old", "new")
    }
    rows = AnsweredRows(collector.folder, "r1", "n1", places)
    delivery = TickDelivery(Sender("r1", "n1", str(collector.folder), 90, 60), lambda: collector)
    queue = TickQueue(TickObserver(Monitoring(), places, rows, delivery, lambda digest: reference, "r1"))
    watches = {node: queue.watch(f"tree/{node}", copies=False) for node in ("first", "old", "new")}
    hosted = {
        "toy": host_model("toy", pathlib.Path(file), HostedModel(source=file, version="3")),
        "tree": host_graph("tree", prepared, {}, settings, watches=watches),
    }
    plane = DataPlane(Hosts("test", hosted, RequestLimits(), observers=make_observers(queues_of_own=[queue])))

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(app=plane)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            told = []
            for number in range(20):
                tensor = {"name": "x", "shape": [2, 3], "datatype": "FP32", "data": [number] * 6}
                for path in ("toy", "tree"):
                    found = await client.post(f"/v2/models/{path}/infer", json={"inputs": [tensor]})
                    told.append(found.status_code)
            told.append((await client.post("/v2/models/toy/infer", json={"inputs": []})).status_code)
            told.append((await client.post("/v2/models/tony/infer", json={"inputs": []})).status_code)
            async with serve_grpc(plane) as address, InferenceServerClient(address) as stock:
                tensor = InferInput("x", [2, 3], "FP32")
                tensor.set_data_from_numpy(np.ones((2, 3), np.float32))
                for _ in range(2):
                    await stock.infer("toy", [tensor], request_id="g")
            metrics = (await client.get("/metrics")).text
            assert 'raymlops_monitored_rows_total{application="test",outcome="counted"}' in metrics
            return told

    assert asyncio.run(ask()) == [200] * 40 + [400, 404]
    assert rows.read()["toy"] == 44
    assert queue.close()
    found = read(collector)
    assert {path: tick.rows for path, tick in found.items()} == {
        "toy": 42,
        "tree": 40,
        "tree/first": 40,
        "tree/old": 40 - found.get("tree/new", EMPTY).rows,
        **({"tree/new": found["tree/new"].rows} if "tree/new" in found else {}),
    }
    assert found["toy"].requests == {"2xx": 22, "4xx": 1}
    assert found["toy"].retried == 2  # over gRPC, with the same id
    assert found["tree"].counts.shape == (0, 32)
    assert (found["tree/first"].counts[:, :31].sum(axis=1) == 40).all()
    assert hosted["tree"].endpoint.graph.statistics().clocks.keys() >= {
        "first",
        "old",
        "new",
    }  # none is merged
