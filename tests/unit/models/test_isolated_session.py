"""A model in a process of its own: what a request does to that process its caller is told, and nobody else; the next
requests are answered by the next process, which ends with the one that started it."""

import asyncio
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil
import pytest
from onnx import TensorProto as T
from onnx import helper as h

from raymlops.errors import (
    ArtifactError,
    DeadlineError,
    InputError,
    OverloadedError,
    ProcessEndedError,
    TooLargeError,
)
from raymlops.models import isolated_session
from raymlops.models.isolated_session import IsolatedSession
from raymlops.models.session import SessionOptions, open_session
from raymlops.runtime.sources import pin_model
from raymlops.serving.endpoints.graph import host_graph, prepare_graph
from raymlops.serving.endpoints.model import ModelEndpoint
from raymlops.serving.endpoints.model_host import host_model
from raymlops.serving.endpoints.queue_batcher import BatchOptions
from raymlops.serving.endpoints.statistics import Statistics
from raymlops.settings import Settings
from raymlops.specs.document import validate_document
from raymlops.specs.graph import GraphSpec
from raymlops.specs.serving import HostedModel
from raymlops.tensors import Batch
from tests import toy_models

ROW = {"x": np.array([[1, 2, 3]], np.float32)}


def open_isolated(model: Any, **options: Any) -> IsolatedSession:
    data = model.SerializeToString()
    return IsolatedSession("toy", lambda: data, SessionOptions(**options))


@pytest.fixture
def toy() -> Iterator[IsolatedSession]:
    session = open_isolated(toy_models.doubler())
    yield session
    session.close()


def pid_of(session: IsolatedSession) -> int:
    assert session._process is not None
    return session._process.popen.pid


def wait_until(found: Callable[[], Any], seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_it_answers_as_a_session_in_the_same_process_for_every_datatype(toy: IsolatedSession) -> None:
    here = open_session(toy_models.doubler().SerializeToString())
    assert (toy.signature, toy.metadata, toy.providers) == (here.signature, here.metadata, here.providers)
    np.testing.assert_array_equal(toy.infer(ROW)["y"], here.infer(ROW)["y"])
    for kind in (T.BOOL, T.FLOAT16, T.STRING):
        model = toy_models.dtypes(kind)
        apart, plain = open_isolated(model), open_session(model.SerializeToString())
        for rows in (0, 1, 3):
            batch = {
                spec.name: np.full((rows, *(abs(size) for size in spec.shape[1:])), "é\0x", object)
                if spec.datatype == "BYTES"
                else np.ones((rows, *(abs(size) for size in spec.shape[1:])), spec.dtype)
                for spec in plain.signature.inputs
            }
            ours, theirs = apart.infer(batch), plain.infer(batch)
            assert list(ours) == list(theirs)
            for name, values in theirs.items():
                assert ours[name].dtype == values.dtype
                np.testing.assert_array_equal(ours[name], values)
        apart.close()


def test_what_the_model_refuses_is_raised_here(toy: IsolatedSession) -> None:
    with pytest.raises(InputError, match="takes x: FP32"):
        toy.infer({"x": np.zeros((1, 7), np.float32)})
    assert toy.infer(ROW)["y"].tolist() == [[2, 4, 6]]


def test_a_request_that_ends_the_process_is_told_so_once_and_those_behind_it_are_answered() -> None:
    session = open_isolated(toy_models.countdown())
    statistics = Statistics("toy", "1")
    endpoint = ModelEndpoint(session, statistics, BatchOptions(), "on")
    assert "may end the process" in statistics.sharing
    first = pid_of(session)

    async def ask() -> list[Any]:
        fatal = asyncio.ensure_future(endpoint.infer({"x": np.array([2**62])}))
        await asyncio.sleep(0)
        others = [asyncio.ensure_future(endpoint.infer({"x": np.array([n])})) for n in range(5)]
        await asyncio.to_thread(wait_until, lambda: psutil.Process(first).cpu_percent(0.1) > 1)  # it runs
        os.kill(first, signal.SIGSEGV)
        return await asyncio.gather(fatal, *others, return_exceptions=True)

    fatal, *others = asyncio.run(ask())
    assert isinstance(fatal, ProcessEndedError)
    assert fatal.status == 503
    assert "SIGSEGV" in str(fatal)
    assert "not run again" in str(fatal)
    assert [answer["y"].tolist() for answer in others] == [[0], [1], [2], [3], [4]]
    assert (statistics.ended, pid_of(session) != first) == (1, True)
    endpoint.close()


@pytest.mark.slow
def test_a_process_that_ends_again_and_again_is_started_after_growing_pauses(
    toy: IsolatedSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated_session, "WAITED_S", -1.0)
    monkeypatch.setattr(toy, "_start_again", lambda pause: pauses.append(pause))
    pauses: list[float] = []
    for _ in range(5):
        os.kill(pid_of(toy), signal.SIGKILL)
        wait_until(lambda: not toy.is_running())
        with pytest.raises(OverloadedError, match="started again"):
            toy.infer(ROW)
        toy._next_start = 0.0
        monkeypatch.setattr(isolated_session, "WAITED_S", 1e9)
        assert toy.infer(ROW)["y"].tolist() == [[2, 4, 6]]
        monkeypatch.setattr(isolated_session, "WAITED_S", -1.0)
    assert pauses == [0, 1, 2, 4, 8]
    toy.check(ROW)  # what callers do to the process does not make its replica unhealthy


def test_a_process_that_cannot_be_started_makes_its_replica_unhealthy(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = toy_models.save(toy_models.doubler(), tmp_path / "toy.onnx")
    hosted = host_model("toy", file, HostedModel(source=str(file), isolate=True))
    assert hosted.check is not None
    assert hosted.running is not None
    hosted.check()
    assert hosted.can_answer
    session = hosted.endpoint._session  # type: ignore[attr-defined]
    monkeypatch.setattr(session, "_start_again", lambda pause: None)
    file.write_bytes(toy_models.adder().SerializeToString())  # no longer what was checked
    os.kill(pid_of(session), signal.SIGKILL)
    wait_until(lambda: not hosted.can_answer)
    for _ in range(isolated_session.STARTS):
        session._next_start = 0.0
        with pytest.raises(OverloadedError, match="was changed"):
            session.infer(ROW)
    with pytest.raises(Exception, match="did not start"):
        hosted.check()
    hosted.endpoint.close()  # type: ignore[attr-defined]


def test_an_endless_run_is_ended_and_the_process_stays() -> None:
    session = open_isolated(toy_models.countdown())
    endpoint = ModelEndpoint(session, Statistics("toy", "1"), BatchOptions(), deadline_s=0.3)
    process = pid_of(session)

    async def ask() -> Batch:
        with pytest.raises(DeadlineError):
            await endpoint.infer({"x": np.array([2**62])})
        for _ in range(200):
            try:
                return await endpoint.infer({"x": np.array([3])})
            except DeadlineError:
                continue
        raise AssertionError("the endless run goes on")

    assert asyncio.run(ask())["y"].tolist() == [3]
    assert pid_of(session) == process
    endpoint.close()


@pytest.mark.slow
def test_memory_that_a_request_would_take_is_the_process_s_own() -> None:
    inputs = [toy_models.value("x", T.STRING, "n"), toy_models.value("i", T.INT64, "m")]
    nodes = [h.make_node("Gather", ["x", "i"], ["y"])]
    session = open_isolated(
        toy_models.make(nodes, inputs, [toy_models.value("y", T.STRING, "m")]), memory=2**28
    )
    small = {"x": np.array(["a", "b"], object), "i": np.array([1, 0])}
    assert session.infer(small)["y"].tolist() == ["b", "a"]
    huge = {"x": np.array(["a" * 10_000_000], object), "i": np.zeros(10_000, np.int64)}  # 100 GB
    with pytest.raises((ProcessEndedError, TooLargeError, InputError)):
        session.infer(huge)
    assert session.infer(small)["y"].tolist() == ["b", "a"]
    session.close()


def test_the_process_ends_with_the_one_that_started_it_however_that_ends() -> None:
    script = (
        "import time\n"
        "from tests.unit.models import test_isolated_session as tests\n"
        "session = tests.open_isolated(tests.toy_models.countdown())\n"
        "print(tests.pid_of(session), flush=True)\n"
        "import numpy as np\n"
        "session.infer({'x': np.array([2**62])})\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=pathlib.Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    wait_until(lambda: child.cpu_percent(0.1) > 1)  # in the midst of a run
    parent.kill()
    parent.wait()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_the_process_has_none_of_the_keys_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    session = open_isolated(toy_models.doubler())
    assert "AWS_SECRET_ACCESS_KEY" not in psutil.Process(pid_of(session)).environ()
    session.close()


def repeating() -> Any:
    inputs = [toy_models.value("x", T.STRING, "n"), toy_models.value("i", T.INT64, "n")]
    nodes = [h.make_node("Gather", ["x", "i"], ["y"], name="pick")]
    return toy_models.make(nodes, inputs, [toy_models.value("y", T.STRING, "n")])


def test_a_model_that_may_not_be_shared_is_refused_before_it_is_deployed_unless_it_is_isolated(
    tmp_path: pathlib.Path,
) -> None:
    file = toy_models.save(repeating(), tmp_path / "repeating.onnx")
    settings = Settings.from_env({"RAYMLOPS_HOME": str(tmp_path)})
    with pytest.raises(ArtifactError, match=r"'repeating.onnx'.*Gather 'pick'.*isolate: true"):
        pin_model(HostedModel(source=str(file)), settings)
    assert pin_model(HostedModel(source=str(file), isolate=True), settings).digest


def test_a_node_of_a_graph_can_be_isolated_and_is_then_not_merged(tmp_path: pathlib.Path) -> None:
    toy_models.save(toy_models.doubler(), tmp_path / "toy.onnx")
    nodes: dict[str, Any] = {
        "one": {"kind": "model", "model": str(tmp_path / "toy.onnx")},
        "two": {
            "kind": "model",
            "model": str(tmp_path / "toy.onnx"),
            "isolate": True,
            "inputs": {"x": "one.y"},
        },
    }
    settings = Settings.from_env({"RAYMLOPS_HOME": str(tmp_path)})
    spec = validate_document({"nodes": nodes, "outputs": ["two"]}, GraphSpec)
    hosted = host_graph("graph", prepare_graph(spec, settings), {}, settings)
    assert asyncio.run(hosted.endpoint.infer(ROW))["y"].tolist() == [[4, 8, 12]]
    children = [
        child for child in psutil.Process().children() if "isolated_process" in " ".join(child.cmdline())
    ]
    assert len(children) == 1
    children[0].kill()
    assert hosted.check is not None
    hosted.check()
