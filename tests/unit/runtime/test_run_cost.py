"""What runs on the event loop is short for sure: everything long, or of unknown length, has a thread, and its end.
Threads and gates judge here, no clocks."""

import asyncio
import pathlib
import threading
import types
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto as T
from onnx import helper as h

from raymlops.errors import DeadlineError
from raymlops.graphs.kinds import mean as mean_kind
from raymlops.models.session import Session, open_session
from raymlops.runtime import run_cost
from raymlops.serving.endpoints import lazy_endpoint
from raymlops.serving.endpoints.graph import host_graph, prepare_graph
from raymlops.serving.endpoints.lazy_models import LazyModels
from raymlops.serving.endpoints.model import ModelEndpoint
from raymlops.serving.endpoints.python_runs import run_in_thread
from raymlops.serving.endpoints.queue_batcher import BatchOptions
from raymlops.serving.endpoints.run_memory import bound_memory, read_memory
from raymlops.serving.endpoints.statistics import Statistics
from raymlops.serving.replica import app
from raymlops.settings import Settings
from raymlops.specs.document import validate_document
from raymlops.specs.graph import GraphSpec
from raymlops.specs.serving import ManyModels, ServingSpec
from raymlops.tensors import Batch
from tests import toy_models

LOOP = "the event loop"
APART = "a thread"


@pytest.fixture(autouse=True)
def _every_measured_run_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the machine's load would decide what runs where."""
    for module in (run_cost, lazy_endpoint):
        monkeypatch.setattr(module, "INLINE_S", 60.0)


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where each run of a model was."""
    found: list[str] = []
    infer = Session.infer

    def record(self: Session, *args: Any, **named: Any) -> Batch:
        found.append(LOOP if threading.current_thread() is threading.main_thread() else APART)
        return infer(self, *args, **named)

    monkeypatch.setattr(Session, "infer", record)
    return found


def make_endpoint(model: Any, deadline_s: float = 30.0) -> ModelEndpoint:
    session = open_session(model.SerializeToString())
    return ModelEndpoint(session, Statistics("toy", "1"), BatchOptions(), "auto", deadline_s)


def make_square(*shape: Any) -> Any:
    """y = the sum of x times itself: more expensive than its elements are many."""
    nodes = [
        h.make_node("MatMul", ["x", "x"], ["m"]),
        h.make_node("ReduceSum", ["m", "axes"], ["y"], keepdims=0),
    ]
    axes = h.make_tensor("axes", T.INT64, [2], [1, 2])
    inputs = [toy_models.value("x", T.FLOAT, *shape)]
    return toy_models.make(nodes, inputs, [toy_models.value("y", T.FLOAT, "n")], [axes])


SIZES = [
    ("rows that were measured", toy_models.doubler(), np.zeros((5, 3), np.float32), LOOP),
    ("more rows than were measured", toy_models.doubler(), np.zeros((2**20, 3), np.float32), APART),
    ("one small picture", make_square("n", "s", "s"), np.zeros((1, 8, 8), np.float32), LOOP),
    ("one large picture", make_square("n", "s", "s"), np.zeros((1, 1100, 1100), np.float32), APART),
    ("many small pictures", make_square("n", "s", "s"), np.zeros((300_000, 2, 2), np.float32), APART),
    ("a picture of a fixed size", make_square("n", 1100, 1100), np.zeros((1, 1100, 1100), np.float32), LOOP),
    ("as many turns as a value says", toy_models.countdown(), np.zeros(1, np.int64), APART),
]


@pytest.mark.parametrize(("name", "model", "x", "place"), SIZES, ids=[name for name, *_ in SIZES])
def test_only_runs_no_larger_than_those_measured_stay_on_the_event_loop(
    name: str, model: Any, x: Any, place: str, places: list[str]
) -> None:
    endpoint = make_endpoint(model)
    places.clear()
    asyncio.run(endpoint.infer({"x": x}))
    assert places == [place]


def test_the_sizes_that_are_short_are_measured_and_not_extrapolated(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def take(session: Session, batch: Batch) -> float:
        asked.append(run_cost.count_elements(batch))
        return (batch["x"].shape[1] / 100) ** 3

    monkeypatch.setattr(run_cost, "INLINE_S", 0.5)
    monkeypatch.setattr(run_cost, "time_runs", take)
    found = run_cost.measure(open_session(make_square("n", "s", "s").SerializeToString()))
    assert found.sizes is not None
    assert (found.sizes.largest, found.sizes.elements) == (64, 64 * 64)
    assert found.is_short({"x": np.zeros((1, 64, 64))}, 1)
    assert not found.is_short({"x": np.zeros((1, 1, 65))}, 1)  # long and narrow
    assert not found.is_short({"x": np.zeros((2, 64, 64))}, 2)
    assert found.count_joined_rows({"x": np.zeros((1, 16, 16))}, 1, 256) == 16
    assert found.always_inline_rows == 0


def test_an_endless_run_ends_at_its_deadline_and_the_next_is_answered() -> None:
    endpoint = make_endpoint(toy_models.countdown(), deadline_s=0.3)

    async def ask() -> Batch:
        with pytest.raises(DeadlineError):
            await endpoint.infer({"x": np.array([2**62])})
        for _ in range(100):  # the run ends between two turns, and the machine may be slow
            try:
                return await endpoint.infer({"x": np.array([3])})
            except DeadlineError:
                continue
        raise AssertionError("the endless run goes on")

    assert asyncio.run(ask())["y"].tolist() == [3]


def test_an_endless_run_whose_caller_left_makes_room_for_the_next() -> None:
    endpoint = make_endpoint(toy_models.countdown(), deadline_s=600)

    async def ask() -> Batch:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(endpoint.infer({"x": np.array([2**62])}), 0.2)
        return await endpoint.infer({"x": np.array([3])})

    assert asyncio.run(ask())["y"].tolist() == [3]


def test_one_model_of_many_is_ended_too_and_never_holds_the_event_loop(
    tmp_path: pathlib.Path, places: list[str]
) -> None:
    (tmp_path / "turns.onnx").write_bytes(toy_models.countdown().SerializeToString())
    (tmp_path / "toy.onnx").write_bytes(toy_models.doubler().SerializeToString())
    host = LazyModels(ManyModels(folder=str(tmp_path), deadline_s=0.5))

    async def ask() -> None:
        turns, toy = host.hosted["turns"].endpoint, host.hosted["toy"].endpoint
        for _ in range(3):  # of two threads
            with pytest.raises(DeadlineError):
                await turns.infer({"x": np.array([2**62])})
        places.clear()
        for rows in (1, 2, 60, 3_000_000):
            await toy.infer({"x": np.zeros((rows, 3), np.float32)})
        assert [place for place in places if place == LOOP] == [LOOP] * 2
        assert places[-1] == APART

    asyncio.run(ask())


class Held:
    """A python node that waits for the event loop, which would wait for it for ever."""

    def __init__(self) -> None:
        self.open = threading.Event()

    def run(self, batch: Batch) -> Batch:
        assert self.open.wait(30)
        return {"y": batch["x"] * 2}


def test_a_python_node_that_is_no_coroutine_leaves_the_event_loop_to_others() -> None:
    held = Held()
    node = run_in_thread(held, "held").implementation
    assert node.suspends

    async def ask() -> Batch:
        waiting = asyncio.ensure_future(node.run({"x": np.ones(2)}))
        await asyncio.sleep(0)
        held.open.set()
        return await waiting

    assert asyncio.run(ask())["y"].tolist() == [2, 2]


def test_a_python_run_that_was_given_up_holds_nobody_up() -> None:
    began, end = threading.Event(), threading.Event()

    class Hanging:
        def run(self, batch: Batch) -> Batch:
            if batch["x"][0] == 0:
                began.set()
                assert end.wait(30)
            return batch

    node = run_in_thread(Hanging(), "hanging").implementation

    async def ask() -> Batch:
        given_up = asyncio.ensure_future(node.run({"x": np.zeros(1)}))
        assert await asyncio.to_thread(began.wait, 30)
        given_up.cancel()
        await asyncio.wait([given_up])
        return await node.run({"x": np.ones(1)})

    assert asyncio.run(ask())["x"].tolist() == [1]
    end.set()


def test_requests_that_waited_behind_a_run_that_was_given_up_are_answered_in_their_order() -> None:
    began, end = threading.Event(), threading.Event()
    order: list[float] = []

    class Hanging:
        def run(self, batch: Batch) -> Batch:
            if batch["x"][0] == 0:
                began.set()
                assert end.wait(60)
            order.append(float(batch["x"][0]))
            return batch

    node = run_in_thread(Hanging(), "hanging").implementation

    async def ask() -> list[Batch]:
        given_up = asyncio.ensure_future(node.run({"x": np.zeros(1)}))
        assert await asyncio.to_thread(began.wait, 30)
        waiting = [asyncio.ensure_future(node.run({"x": np.full(1, number)})) for number in (1.0, 2.0, 3.0)]
        left = asyncio.ensure_future(node.run({"x": np.full(1, 4.0)}))
        await asyncio.sleep(0)
        left.cancel()
        given_up.cancel()
        async with asyncio.timeout(30):
            return await asyncio.gather(*waiting)

    try:
        assert [float(answer["x"][0]) for answer in asyncio.run(ask())] == [1, 2, 3]
        assert order == [1, 2, 3]
    finally:
        end.set()


def test_python_runs_of_a_node_follow_each_other() -> None:
    inside: list[int] = []

    class Counter:
        def run(self, batch: Batch) -> Batch:
            inside.append(1)
            assert len(inside) == 1
            inside.pop()
            return batch

    node = run_in_thread(Counter(), "counter").implementation

    async def ask() -> None:
        await asyncio.gather(*(node.run({"x": np.zeros(1)}) for _ in range(50)))

    asyncio.run(ask())


def test_the_nodes_of_a_graph_run_where_their_lengths_let_them(
    tmp_path: pathlib.Path, places: list[str]
) -> None:
    (tmp_path / "turns.onnx").write_bytes(toy_models.countdown().SerializeToString())
    document = {
        "nodes": {"turns": {"kind": "model", "model": str(tmp_path / "turns.onnx")}},
        "outputs": ["turns"],
    }
    settings = Settings.from_env({"RAYMLOPS_HOME": str(tmp_path)})
    spec = validate_document(document, GraphSpec)
    hosted = host_graph("graph", prepare_graph(spec, settings), {}, settings)
    places.clear()
    asyncio.run(hosted.endpoint.infer({"x": np.array([2])}))
    assert places == [APART]


@pytest.mark.parametrize(("rows", "place"), [(10, LOOP), (30_000, APART)])
def test_answers_of_many_rows_are_combined_beside_the_event_loop(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, rows: int, place: str
) -> None:
    places: list[str] = []
    mean = mean_kind.mean

    def record(values: Any) -> Any:
        places.append(LOOP if threading.current_thread() is threading.main_thread() else APART)
        return mean(values)

    monkeypatch.setattr(mean_kind, "mean", record)
    model = str(toy_models.save(toy_models.doubler(), tmp_path / "toy.onnx"))
    nodes: dict[str, Any] = {name: {"kind": "model", "model": model} for name in "abc"}
    nodes["most"] = {"kind": "mean", "of": ["a.y", "b.y", "c.y"]}
    settings = Settings.from_env({"RAYMLOPS_HOME": str(tmp_path)})
    spec = validate_document({"nodes": nodes, "outputs": ["most"]}, GraphSpec)
    hosted = host_graph("graph", prepare_graph(spec, settings), {}, settings)
    places.clear()
    x = np.ones((rows, 3), np.float32)
    answer = asyncio.run(hosted.endpoint.infer({"x": x}))
    np.testing.assert_array_equal(next(iter(answer.values())), 2 * x)
    assert places == [place]


def test_the_health_check_runs_no_model_on_the_event_loop() -> None:
    checked: list[threading.Thread] = []
    hosted = types.SimpleNamespace(ready=True, check=lambda: checked.append(threading.current_thread()))
    ingress = types.SimpleNamespace(
        plane=types.SimpleNamespace(hosts=types.SimpleNamespace(models={"toy": hosted})), _background=()
    )
    asyncio.run(app.Ingress.check_health(ingress))  # type: ignore[arg-type]
    assert checked
    assert checked[0] is not threading.main_thread()


def test_the_memory_of_runs_follows_the_spec_and_else_the_machine() -> None:
    models: dict[str, Any] = {"models": {"toy": {"source": "x.onnx"}}}
    asked = ServingSpec(**models, limits={"run_memory_mb": 300})
    assert bound_memory(asked) == 300 * 2**20
    assert bound_memory(ServingSpec(**models, memory_mb=4096)) == 3 * 2**30
    assert 2**30 <= bound_memory(ServingSpec(**models, cpus=0.1)) <= max(2**30, read_memory())
