"""Observers are told of every request, over both protocols and in every format, with tensors that stay as they were;
what they do is felt by nobody who asks."""

import asyncio
import json
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import yaml
from tritonclient.grpc import service_pb2 as pb

from raymlops.errors import SpecError
from raymlops.observers import Event, Observer
from raymlops.runtime import observer_queue
from raymlops.runtime.observer_queue import ObserverQueue
from raymlops.serving.deploy.config_files import read_spec
from raymlops.serving.endpoints.graph import host_graph, prepare_graph
from raymlops.serving.endpoints.hosted import Hosts
from raymlops.serving.endpoints.model_host import host_model
from raymlops.serving.endpoints.observers import Observers, check_observers, make_event, make_observers
from raymlops.serving.transport.api_keys import KeyRing
from raymlops.serving.transport.asgi import DataPlane
from raymlops.serving.transport.http import Request
from raymlops.settings import Settings
from raymlops.specs.document import validate_document
from raymlops.specs.graph import GraphSpec
from raymlops.specs.serving import HostedModel, ObserverSpec
from tests import toy_models
from tests.own_observers import HighScores
from tests.unit.serving.replica.test_grpc_methods import doubler, infer, streamed, stub

ROOT = pathlib.Path(__file__).parents[4]
OWN = ROOT / "tests" / "own_observers.py"
URL = "/v2/models/doubler/infer"


class Kept:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def observe(self, events: Sequence[Event]) -> None:
        self.events += events


def queue_of(observer: Observer, **limits: int) -> ObserverQueue[Any]:
    return ObserverQueue("own", observer, make_event, **limits)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("models")
    toy_models.save(toy_models.doubler(), folder / "doubler.onnx")
    toy_models.save(toy_models.echo(), folder / "echo.onnx")
    return folder


def observed(files: pathlib.Path, queue: ObserverQueue[Any], graph: Any = None, **options: Any) -> DataPlane:
    hosted = {
        name: host_model(name, path, HostedModel(source=str(path), version="3"))
        for name in ("doubler", "echo")
        for path in (files / f"{name}.onnx",)
    }
    if graph is not None:
        settings = Settings.from_env()
        hosted["graph"] = host_graph("graph", prepare_graph(graph, settings), {}, settings)
    return DataPlane(Hosts("test", hosted, observers=Observers([queue])), log_share=0.0, **options)


def ask(plane: DataPlane, *requests: tuple[str, str, dict[str, Any]]) -> list[httpx.Response]:
    async def send() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=plane)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return [await client.request(method, path, **options) for method, path, options in requests]

    return asyncio.run(send())


def body(values: Any, name: str = "x", datatype: str = "FP32") -> dict[str, Any]:
    shape = list(np.shape(values))
    return {"inputs": [{"name": name, "shape": shape, "datatype": datatype, "data": values}]}


def binary(values: Any) -> dict[str, Any]:
    array = np.asarray(values, "<f4")
    entry = {
        "name": "x",
        "shape": list(array.shape),
        "datatype": "FP32",
        "parameters": {"binary_data_size": array.nbytes},
    }
    text = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    return {"content": text + array.tobytes(), "headers": headers}


def test_every_format_of_both_protocols_is_told_with_its_own_tensors(files: pathlib.Path) -> None:
    kept = Kept()
    plane = observed(files, queue_of(kept))
    rows = [[[float(start + k) for k in range(3)]] for start in range(5)]
    answers = ask(
        plane,
        ("POST", URL, {"json": body(rows[0]), "headers": {"x-request-id": "first"}}),
        ("POST", URL, binary(rows[1])),
        ("POST", "/invocations/doubler", {"json": {"inputs": {"x": rows[2]}}}),
        ("POST", "/v1/models/doubler:predict", {"json": {"inputs": {"x": rows[3]}}}),
    )
    assert [answer.status_code for answer in answers] == [200] * 4
    infer(plane, doubler(7.0))

    async def stream(client: Any) -> Any:
        return await streamed(client, [doubler(8.0), doubler(9.0)])

    stub(plane, stream)
    expected = [*rows[:4], *([[number] * 3] for number in (7.0, 8.0, 9.0))]
    assert len(kept.events) == len(expected)
    for event, row in zip(kept.events, expected, strict=True):
        assert (event.model, event.version, event.status, event.rows) == ("doubler", "3", 200, 1)
        assert event.batch is not None
        assert event.answer is not None
        np.testing.assert_array_equal(event.batch["x"], np.float32(row))
        np.testing.assert_array_equal(event.answer["y"], 2 * np.float32(row))
        assert event.ns > 0
        assert abs(event.time - time.time()) < 60
        assert event.bytes_in
        assert event.bytes_out
    first, last = kept.events[0], kept.events[-1]
    assert (first.request_id, first.method, first.path, first.grpc_status) == ("first", "POST", URL, "")
    assert (last.method, last.grpc_status) == ("gRPC", "OK")
    assert last.path == "/inference.GRPCInferenceService/ModelStreamInfer" or last.path.endswith(
        "/ModelInfer"
    )


def test_failures_are_told_with_their_status_and_probes_are_not(files: pathlib.Path) -> None:
    kept = Kept()
    plane = observed(files, queue_of(kept), keys=KeyRing(required=True))
    ask(plane, ("GET", "/v2/health/ready", {}), ("POST", URL, {"json": body([[1.0, 2.0, 3.0]])}))
    plane.keys = KeyRing()
    wrong = {"json": body([["a", "b", "c"]])}
    ask(
        plane,
        ("GET", "/v2/models", {}),
        ("POST", URL, wrong),
        ("POST", "/v2/models/nobody/infer", wrong),
    )
    plane.count_refused("POST", URL, 413)
    code, *_ = infer(plane, pb.ModelInferRequest(model_name="nobody"))
    assert code == grpc.StatusCode.NOT_FOUND
    told = [(event.model, event.version, event.status, event.batch, event.answer) for event in kept.events]
    assert told == [
        ("doubler", "3", 401, None, None),
        ("doubler", "3", 400, None, None),
        ("", "", 404, None, None),
        ("doubler", "3", 413, None, None),
        ("nobody", "", 404, None, None),
    ]


NODE = """
class Scratch:
    def __init__(self):
        self.answer = None
    def run(self, batch):
        self.answer = batch["x"] if self.answer is None else self.answer
        self.answer[:] = batch["x"] + 1
        batch["x"][:] = -1
        return {"y": self.answer}
"""


def test_tensors_stay_as_they_were_where_python_nodes_work_in_place_and_answers_share_runs(
    files: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    node = {
        "kind": "python", "target": "scratch_node:Scratch", "code": {"scratch_node.py": NODE},
        "outputs": [{"name": "y", "shape": [-1, 3]}],
    }  # fmt: skip
    inputs = [{"name": "x", "shape": [-1, 3]}]
    spec = {"name": "graph", "inputs": inputs, "nodes": {"own": node}, "outputs": {"y": "own.y"}}
    kept = Kept()
    plane = observed(files, queue_of(kept), validate_document(spec, GraphSpec))
    values = [[[float(number)] * 3] for number in range(20)]
    ask(plane, *(("POST", "/v2/models/graph/infer", {"json": body(value)}) for value in values))

    async def together() -> None:
        def begin(value: Any) -> Request:
            request = plane.begin("POST", URL, {})
            request.body = json.dumps(body(value)).encode()
            return request

        await asyncio.gather(*(plane.respond(begin(value)) for value in values))

    asyncio.run(together())
    graph, model = kept.events[:20], kept.events[20:]
    for event, value in zip(graph, values, strict=True):
        assert event.batch is not None
        np.testing.assert_array_equal(event.batch["x"], value)
    shown = [event.answer["y"][0, 0] for event in graph if event.answer is not None]
    assert shown[1:] == [value[0][0] + 1 for value in values[1:]]
    for event in model:
        assert event.batch is not None
        assert event.answer is not None
        np.testing.assert_array_equal(event.answer["y"], 2 * event.batch["x"])
    assert sorted(event.batch["x"][0, 0] for event in model if event.batch is not None) == list(range(20))


class Slow:
    def __init__(self, gate: threading.Event) -> None:
        self._gate = gate
        self.closed = False

    def observe(self, events: Sequence[Event]) -> None:
        self._gate.wait(60)

    def close(self) -> None:
        self.closed = True


class UnreadableError(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class Failing:
    def __init__(self, error: BaseException) -> None:
        self._error = error

    def observe(self, events: Sequence[Event]) -> None:
        raise self._error

    def close(self) -> None:
        raise self._error


def test_a_hanging_observer_delays_nobody_and_what_it_has_no_room_for_is_counted(files: pathlib.Path) -> None:
    gate = threading.Event()
    slow = Slow(gate)
    queue = queue_of(slow, most_events=10)
    queue.start()
    plane = observed(files, queue)
    requests = [("POST", URL, {"json": body([[1.0, 2.0, 3.0]])})] * 60
    assert {answer.status_code for answer in ask(plane, *requests)} == {200}
    assert not queue.close(within_s=0.05)
    shown = ask(plane, ("GET", "/metrics", {}))[0].text
    dropped = queue.dropped
    assert dropped >= 60 - 10 - 60 // 2
    assert f'outcome="dropped"}} {float(dropped)}' in shown
    gate.set()
    deadline = time.monotonic() + 30
    while not slow.closed and time.monotonic() < deadline:
        time.sleep(0.01)
    assert slow.closed
    assert queue.delivered + queue.dropped == 60


@pytest.mark.parametrize("error", [SystemExit("no"), UnreadableError()], ids=["exit", "unreadable"])
def test_a_failing_observer_is_counted_and_told_once(
    files: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    monkeypatch.setattr(observer_queue.LOG, "propagate", True)
    queue = queue_of(Failing(error))
    plane = observed(files, queue)
    requests = [("POST", URL, {"json": body([[1.0, 2.0, 3.0]])})] * 3
    assert {answer.status_code for answer in ask(plane, *requests)} == {200}
    assert (queue.failed, queue.delivered, queue.dropped) == (3, 0, 0)
    assert sum("observer 'own' failed" in record.getMessage() for record in caplog.records) == 1
    assert queue.close()
    assert sum("observer 'own' could not be closed" in record.getMessage() for record in caplog.records) == 1


def test_an_observer_is_told_of_what_comes_after_an_error_that_has_no_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queue: ObserverQueue[Event] = ObserverQueue("own", Failing(UnreadableError()), lambda event: event)
    event = make_event((Request("POST", "/", {}, "1"), 200, 1, 0, 0, ""))
    queue.start()
    for count in (1, 2):
        queue.put(event, 1)
        deadline = time.monotonic() + 30
        while queue.failed < count and time.monotonic() < deadline:
            time.sleep(0.01)
    assert (queue.failed, queue.dropped) == (2, 0)
    assert queue.close(within_s=30)


def test_what_waits_is_bounded_by_bytes_and_is_handed_over_before_the_end() -> None:
    kept = Kept()
    queue: ObserverQueue[Event] = ObserverQueue("own", kept, lambda event: event, most_bytes=100_000)
    event = make_event((Request("POST", "/", {}, "1"), 200, 1, 0, 0, ""))
    queue.start()
    for _ in range(20):
        queue.put(event, 20_000)
    assert queue.close(within_s=30)
    assert len(kept.events) + queue.dropped == 20
    assert len(kept.events) >= 5
    queue.put(event, 1)
    assert len(kept.events) + queue.dropped == 21


class Waiting:
    async def observe(self, events: Sequence[Event]) -> None: ...


class Yielding:
    def observe(self, events: Sequence[Event]) -> Iterator[Event]:
        yield from events


class Selective(Kept):
    observes = "inference"


def write(folder: pathlib.Path, observers: Any) -> pathlib.Path:
    (folder / "models").mkdir(exist_ok=True)
    spec = {"many": {"folder": str(folder / "models")}, "observers": observers}
    path = folder / "serving.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


def test_a_strangers_module_beside_the_document_is_shipped_made_and_told(
    files: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shutil.copy(OWN, tmp_path / "high_scores.py")
    told = tmp_path / "told.jsonl"
    config = {"path": str(told), "output": "y", "threshold": 10}
    path = write(tmp_path, {"high": {"target": "high_scores:HighScores", "config": config}})
    spec = read_spec(path)
    assert spec.observers["high"].code == {"high_scores.py": OWN.read_text()}
    check_observers(spec.observers)
    observers = make_observers(spec.observers)
    assert [queue.name for queue in observers.queues] == ["access_log", "high"]
    hosted = {"doubler": host_model("doubler", files / "doubler.onnx", HostedModel(source="x", version="3"))}
    plane = DataPlane(Hosts("test", hosted, observers=observers), log_share=0.0)
    observers.start()
    ask(plane, *(("POST", URL, {"json": body([[value] * 3])}) for value in (1.0, 6.0, 7.0)))
    observers.close()
    assert [json.loads(line)["score"] for line in told.read_text().splitlines()] == [12.0, 14.0]
    assert HighScores.__module__ == "tests.own_observers"


@pytest.mark.parametrize(
    ("observer", "match"),
    [
        ({"target": "acces_log"}, "Observer 'own': .*did you mean 'access_log'.*module:Class"),
        ({"target": "high_scores:HighScore"}, "Observer 'own': .*did you mean 'HighScores'"),
        (
            {"target": "high_scores:HighScores", "config": {"pth": 1}},
            "Observer 'own': .*does not take config",
        ),
        ({"target": "high_scores:json"}, "Observer 'own': .*"),
        ({"target": f"{__name__}:Waiting"}, "Observer 'own': observe must not be async"),
        ({"target": f"{__name__}:Yielding"}, "Observer 'own': observe must not yield"),
        ({"target": f"{__name__}:Selective"}, "Observer 'own': .*did you mean 'inferences'"),
        ({"target": "access_log", "config": {"a": 1}}, "Observer 'own': access_log does not take config"),
        ({"target": "not a name"}, "target"),
        ({"target": "access_log", "queue": 0}, "queue"),
    ],
)
def test_what_cannot_be_an_observer_is_told_before_anything_is_deployed(
    tmp_path: pathlib.Path, observer: dict[str, Any], match: str
) -> None:
    shutil.copy(OWN, tmp_path / "high_scores.py")
    with pytest.raises(SpecError, match=match):
        check_observers(read_spec(write(tmp_path, {"own": observer})).observers)


def test_one_named_access_log_takes_the_place_of_the_access_log() -> None:
    own = {
        "access_log": ObserverSpec(
            target="tests.own_observers:HighScores", config={"path": "/dev/null", "output": "y"}
        )
    }
    assert [(queue.name, queue.observes) for queue in make_observers(own).queues] == [
        ("access_log", "inferences")
    ]


USE = """
from raymlops.serving.endpoints.observers import make_observers
from raymlops.specs.serving import ObserverSpec
config = {"path": "told.jsonl", "output": "y"}
made = make_observers({"high": ObserverSpec(target="high_scores", config=config)})
assert [queue.name for queue in made.queues] == ["access_log", "high"]
"""


def test_an_observer_added_as_contributing_says_touches_one_file_and_is_made(tmp_path: pathlib.Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    diffs = re.findall(r"```diff\n(.*?)```", text, re.DOTALL)
    (diff,) = (found for found in diffs if "endpoints/observers.py" in found)
    touched = re.findall(r"^diff --git a/(\S+)", diff, re.MULTILINE)
    assert [file for file in touched if (ROOT / file).exists()] == ["raymlops/serving/endpoints/observers.py"]
    added = "".join(
        line[1:] + "\n" for line in diff.splitlines() if line.startswith("+") and line[1:2] != "+"
    )
    assert OWN.read_text() in added
    shutil.copytree(ROOT / "raymlops", tmp_path / "raymlops", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "added.diff").write_text(diff)
    patch = ["git", "apply", "--unsafe-paths", "--recount", "added.diff"]
    subprocess.run(patch, cwd=tmp_path, check=True, timeout=60)
    use = [sys.executable, "-c", USE]
    done = subprocess.run(
        use, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr.decode()
