"""Requests of one turn of the event loop share a run, and each gets what it would get alone."""

import asyncio
import pathlib
from collections.abc import Sequence
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from onnx import TensorProto, helper

from raymlops.errors import InputError, OverloadedError
from raymlops.models.row_independence import prove_rows
from raymlops.models.session import open_session
from raymlops.runtime import run_cost as cost_module
from raymlops.serving.endpoints import lazy_endpoint
from raymlops.serving.endpoints.graph import host_graph, prepare_graph
from raymlops.serving.endpoints.hosted import Hosted
from raymlops.serving.endpoints.lazy_models import LazyModels
from raymlops.serving.endpoints.model import ModelEndpoint
from raymlops.serving.endpoints.queue_batcher import BatchOptions
from raymlops.serving.endpoints.statistics import Statistics
from raymlops.serving.endpoints.tick_batcher import JoinedCalls, TickBatcher
from raymlops.settings import Settings
from raymlops.specs.document import validate_document
from raymlops.specs.graph import GraphSpec
from raymlops.specs.serving import ManyModels
from raymlops.tensors import Batch
from tests import toy_models
from tests.graph_models import make_mlp, make_model


def batch(*values: float) -> Batch:
    return {"x": np.array(values, np.float32)}


class Doubler:
    """Doubles x, and notes what it ran."""

    def __init__(self) -> None:
        self.runs: list[list[float]] = []

    def __call__(self, batch: Batch, rows: Sequence[int]) -> Batch:
        assert sum(rows) == len(batch["x"])
        self.runs.append(batch["x"].tolist())
        if (batch["x"] < 0).any():
            raise InputError("x must not be negative")
        return {"y": batch["x"] * 2}


async def ask(turns: TickBatcher, model: Any, one: Batch, most: int = 100) -> list[float]:
    answer = await turns.infer(model, one, len(one["x"]), most)
    return answer["y"].tolist()  # type: ignore[no-any-return]


def ask_at_once(model: Any, *batches: Batch, most: int = 100) -> list[Any]:
    async def run() -> list[Any]:
        turns = TickBatcher(Statistics("toy", "1"))
        asked = [ask(turns, model, one, most) for one in batches]
        return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(run())


def test_requests_of_one_turn_share_a_run_and_those_of_the_next_another() -> None:
    model = Doubler()

    async def run() -> None:
        turns = TickBatcher(Statistics("toy", "1"))
        for values in ((1, 2, 3), (4, 5)):
            answers = await asyncio.gather(*(ask(turns, model, batch(value)) for value in values))
            assert answers == [[2 * value] for value in values]

    asyncio.run(run())
    assert model.runs == [[1, 2, 3], [4, 5]]


@hypothesis.given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.integers(1, 12))
def test_everyone_gets_its_own_rows_whatever_their_number(sizes: list[int], most: int) -> None:
    batches = [batch(*(100 * i + row for row in range(size))) for i, size in enumerate(sizes)]
    model = Doubler()
    answers = ask_at_once(model, *batches, most=most)
    assert answers == [(2 * one["x"]).tolist() for one in batches]
    assert all(len(ran) <= max(most, *sizes) for ran in model.runs)


def test_a_request_that_is_refused_leaves_its_company_unharmed() -> None:
    model = Doubler()
    good, bad, other = ask_at_once(model, batch(1), batch(-1), batch(3))
    assert (good, other) == ([2], [6])
    assert isinstance(bad, InputError)
    assert model.runs == [[1, -1, 3], [1], [-1], [3]]


def test_tensors_of_other_kinds_are_not_joined() -> None:
    model = Doubler()
    long = {"x": np.array([7.0])}
    assert ask_at_once(model, batch(1), long, batch(2)) == [[2], [14], [4]]
    assert model.runs == [[1], [7], [2]]


def test_a_model_that_answers_other_rows_is_asked_one_by_one() -> None:
    def largest(batch: Batch, rows: Sequence[int]) -> Batch:
        return {"y": batch["x"].max(keepdims=True)}

    assert ask_at_once(largest, batch(1, 5), batch(2)) == [[5], [2]]


def test_a_caller_that_gives_up_takes_nobody_with_it() -> None:
    model = Doubler()

    async def run() -> None:
        turns = TickBatcher(Statistics("toy", "1"))
        tasks = [asyncio.ensure_future(ask(turns, model, batch(value))) for value in (1, 2, 3)]
        await asyncio.sleep(0)  # all are in the group, which the first one opened
        tasks[0].cancel()
        assert await asyncio.gather(*tasks[1:]) == [[4], [6]]
        assert tasks[0].cancelled() or await asyncio.wait(tasks[:1])
        assert await ask(turns, model, batch(9)) == [18]

    asyncio.run(run())


def ask_endpoint(endpoint: Any, values: Sequence[Sequence[float]], name: str = "x") -> list[Batch]:
    async def run() -> list[Batch]:
        return await asyncio.gather(*(endpoint.infer({name: np.array([row], np.float32)}) for row in values))

    return asyncio.run(run())


def serve(model: Any, mode: str = "auto") -> tuple[ModelEndpoint, Statistics]:
    statistics = Statistics("toy", "1")
    data = model.SerializeToString()
    return ModelEndpoint(
        open_session(data), statistics, BatchOptions(), mode, independence=prove_rows(data)
    ), statistics


@pytest.fixture(autouse=True)
def _every_run_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the machine's load would decide which models are run on the event loop."""
    for module in (cost_module, lazy_endpoint):
        monkeypatch.setattr(module, "INLINE_S", 60.0)


ROWS = np.random.default_rng(0).normal(size=(6, 3)).tolist()


@pytest.mark.parametrize(("mode", "runs"), [("auto", 1), ("on", 1), ("off", 6)])
def test_a_short_model_runs_once_a_turn_unless_told_not_to(mode: str, runs: int) -> None:
    endpoint, statistics = serve(toy_models.doubler(), mode)
    answers = ask_endpoint(endpoint, ROWS)
    for answer, row in zip(answers, ROWS, strict=True):
        np.testing.assert_array_equal(answer["y"], np.array([row], np.float32) * 2)
    assert (statistics.runs, statistics.rows) == (runs, 6)


def centred() -> Any:
    """y = x less the mean of all rows: an answer that depends on its company."""
    return toy_models.make(
        [
            helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
            helper.make_node("Sub", ["x", "mean"], ["y"]),
        ],
        [toy_models.value("x", TensorProto.FLOAT, "n", 3)],
        [toy_models.value("y", TensorProto.FLOAT, "n", 3)],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [0])],
    )


def test_a_model_whose_rows_are_not_independent_never_joins_by_itself() -> None:
    assert not prove_rows(centred().SerializeToString())
    endpoint, statistics = serve(centred())
    for answer in ask_endpoint(endpoint, ROWS):
        np.testing.assert_array_equal(answer["y"], np.zeros((1, 3)))
    assert statistics.runs == 6


def host(folder: pathlib.Path, settings: Settings, nodes: dict[str, Any], *outputs: str) -> Hosted:
    for seed in (1, 2):
        (folder / f"{seed}.onnx").write_bytes(make_model(seed))
    (folder / "centred.onnx").write_bytes(centred().SerializeToString())
    document: dict[str, Any] = {"nodes": nodes, "outputs": list(outputs)}
    spec = validate_document(document, GraphSpec)
    return host_graph("graph", prepare_graph(spec, settings), {}, settings)


def model_node(folder: pathlib.Path, name: str) -> dict[str, Any]:
    return {"kind": "model", "model": f"{folder}/{name}.onnx"}


JOINED = {
    "mean": {"out": {"kind": "mean", "of": ["a.y", "b.y"]}},
    "shadow": {"out": {"kind": "shadow", "primary": "a", "mirror": "b"}},
}


@pytest.mark.parametrize("kind", ["mean", "shadow"])
def test_a_graph_of_short_models_runs_once_a_turn(
    tmp_path: pathlib.Path, settings: Settings, kind: str
) -> None:
    leaves = {"a": model_node(tmp_path, "1"), "b": model_node(tmp_path, "2")}
    hosted = host(tmp_path, settings, leaves | JOINED[kind], "out")
    together = ask_endpoint(hosted.endpoint, ROWS)
    document = hosted.statistics.to_json()
    assert hosted.statistics.runs == 1
    assert document["nodes"]["a"]["count"] == 1
    for row, answer in zip(ROWS, together, strict=True):
        (alone,) = ask_endpoint(hosted.endpoint, [row])
        for name, values in alone.items():
            np.testing.assert_allclose(answer[name], values, atol=1e-6)


def test_a_mirror_is_counted_by_callers_not_by_runs(tmp_path: pathlib.Path, settings: Settings) -> None:
    leaves = {"a": model_node(tmp_path, "1"), "b": model_node(tmp_path, "2")}
    hosted = host(tmp_path, settings, leaves | JOINED["shadow"], "out")

    async def run() -> dict[str, Any]:
        await asyncio.gather(*(hosted.endpoint.infer({"x": np.array([row], np.float32)}) for row in ROWS))
        while not (shadow := hosted.statistics.to_json()["shadows"]["out"])["compared"]:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        return shadow  # type: ignore[no-any-return]

    shadow = asyncio.run(run())
    assert (shadow["compared"], shadow["different"], shadow["dropped"]) == (6, 6, 0)


APART = {
    "split": {"out": {"kind": "split", "weights": {"a": 1, "b": 1}}},
    "fallback": {"out": {"kind": "mean", "of": ["a.y", "b.y"], "fallback": {"y": 0.0}}},
    "timeout": {"out": {"kind": "mean", "of": ["a.y", "b.y"], "timeout_s": 10}},
}


@pytest.mark.parametrize("kind", [*APART, "company", "python"])
def test_a_graph_that_may_not_join_runs_for_each(
    tmp_path: pathlib.Path, settings: Settings, kind: str
) -> None:
    nodes: dict[str, Any] = {"a": model_node(tmp_path, "1"), "b": model_node(tmp_path, "2")}
    if kind == "company":
        nodes = {"out": model_node(tmp_path, "centred")}
    elif kind == "python":
        ports = {"takes": [{"name": "x", "shape": [-1, 3]}], "outputs": [{"name": "y", "shape": [-1, 3]}]}
        nodes = {
            "out": {"kind": "python", "target": "tests.graph_models:Scale", "config": {"factor": 2}, **ports}
        }
    else:
        nodes |= APART[kind]
    hosted = host(tmp_path, settings, nodes, "out")
    assert len(ask_endpoint(hosted.endpoint, ROWS)) == 6
    assert hosted.statistics.runs == 6


def test_one_model_of_many_runs_once_a_turn(tmp_path: pathlib.Path) -> None:
    for i in range(2):
        toy_models.save(make_mlp(i, features=3), tmp_path / f"m{i}.onnx")
    host = LazyModels(ManyModels(folder=str(tmp_path)))
    endpoint = host.hosted["m0"].endpoint
    (first,) = ask_endpoint(endpoint, ROWS[:1])  # which also times it
    together = ask_endpoint(endpoint, ROWS)
    np.testing.assert_allclose(together[0]["y"], first["y"], atol=1e-6)
    assert (host.hosted["m0"].statistics.runs, host.hosted["m0"].statistics.rows) == (2, 7)


class Elsewhere:
    """Doubles x in its own time, and notes what it was asked."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.calls: list[list[float]] = []
        self._failure = failure

    async def __call__(self, batch: Batch) -> Batch:
        self.calls.append(batch["x"].tolist())
        await asyncio.sleep(0.01)
        if (batch["x"] < 0).any():
            raise self._failure or InputError("x must not be negative")
        return {"y": batch["x"] * 2}


def call_at_once(model: Elsewhere, *batches: Batch, most: int = 100) -> list[Any]:
    async def run() -> list[Any]:
        calls = JoinedCalls(model, most)
        asked = [calls.infer(one, len(one["x"])) for one in batches]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        return [answer if isinstance(answer, Exception) else answer["y"].tolist() for answer in answers]

    return asyncio.run(run())


@hypothesis.given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.integers(1, 12))
def test_calls_elsewhere_are_joined_and_dealt_out_again(sizes: list[int], most: int) -> None:
    batches = [batch(*(100 * i + row for row in range(size))) for i, size in enumerate(sizes)]
    model = Elsewhere()
    assert call_at_once(model, *batches, most=most) == [(2 * one["x"]).tolist() for one in batches]
    assert all(len(call) <= max(most, *sizes) for call in model.calls)
    if sum(sizes) <= most:
        assert len(model.calls) == 1


def test_a_call_that_is_refused_leaves_its_company_unharmed() -> None:
    model = Elsewhere()
    good, bad, other = call_at_once(model, batch(1), batch(-1), batch(3))
    assert (good, other) == ([2], [6])
    assert isinstance(bad, InputError)
    assert model.calls == [[1, -1, 3], [1], [-1], [3]]


def test_an_overloaded_node_is_not_asked_again() -> None:
    model = Elsewhere(OverloadedError("full"))
    answers = call_at_once(model, batch(1), batch(-1), batch(3))
    assert [type(answer) for answer in answers] == [OverloadedError] * 3
    assert model.calls == [[1, -1, 3]]


def test_calls_with_other_tensors_stay_apart() -> None:
    model = Elsewhere()
    assert call_at_once(model, batch(1), {"x": np.array([7.0])}, batch(2)) == [[2], [14], [4]]
    assert model.calls == [[1], [7], [2]]


def test_a_caller_of_elsewhere_that_gives_up_takes_nobody_with_it() -> None:
    model = Elsewhere()

    async def run() -> None:
        calls = JoinedCalls(model, 100)
        tasks = [asyncio.ensure_future(calls.infer(batch(value), 1)) for value in (1, 2, 3)]
        await asyncio.sleep(0.002)
        tasks[0].cancel()
        answers = await asyncio.gather(*tasks[1:])
        assert [answer["y"].tolist() for answer in answers] == [[4], [6]]
        await asyncio.wait(tasks[:1])
        assert tasks[0].cancelled()

    asyncio.run(run())
    assert model.calls == [[1, 2, 3]]


def test_a_mirror_within_a_branch_that_gets_some_of_the_rows_compares_those(
    tmp_path: pathlib.Path, settings: Settings
) -> None:
    sure = open_session(make_model(2)).infer({"x": np.array(ROWS, np.float32)})["sure"]
    nodes = {
        "a": model_node(tmp_path, "1"),
        "b": model_node(tmp_path, "2"),
        "release": {"kind": "shadow", "primary": "a", "mirror": "b"},
        "c": model_node(tmp_path, "2"),
        "out": {
            "kind": "cascade",
            "steps": ["c", "release"],
            "confidence": "sure",
            "threshold": float(np.median(sure)),
        },
    }
    hosted = host(tmp_path, settings, nodes, "out")

    async def run() -> dict[str, Any]:
        await asyncio.gather(*(hosted.endpoint.infer({"x": np.array([row], np.float32)}) for row in ROWS))
        while not (shadow := hosted.statistics.to_json()["shadows"]["release"])["compared"]:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        return shadow  # type: ignore[no-any-return]

    shadow = asyncio.run(run())
    assert hosted.statistics.runs == 1
    assert (shadow["compared"], shadow["failed"], shadow["dropped"]) == (1, 0, 0)
