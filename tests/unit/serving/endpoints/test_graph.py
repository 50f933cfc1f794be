"""A hosted graph without a server: what it counts, and what it does about nodes that hang and empty inputs."""

import asyncio
import contextlib
import pathlib
import sys
import threading
import time
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest

from raymlops.errors import DeadlineError, InputError, NodeError, ResourceError
from raymlops.graphs.graph import Graph
from raymlops.graphs.validation import list_leaves, validate
from raymlops.runtime.open_graph import OfflineGraph
from raymlops.serving.endpoints import deadlines
from raymlops.serving.endpoints.example_search import find_example
from raymlops.serving.endpoints.graph import host_graph, prepare_graph
from raymlops.serving.endpoints.hosted import Hosted, Hosts
from raymlops.serving.endpoints.python_runs import MOST_LEFT
from raymlops.serving.transport import inference
from raymlops.serving.transport.grpc_answers import Call
from raymlops.settings import Settings
from raymlops.specs.document import parse_document
from raymlops.specs.graph import GraphSpec
from raymlops.specs.graph_nodes import ModelNode
from raymlops.tensors import Batch
from tests.graph_models import batches, graphs, implement, open_model, read_model


@pytest.fixture
def shadowed(tmp_path: pathlib.Path, settings: Settings) -> Hosted:
    for name in ("1", "2"):
        (tmp_path / f"{name}.onnx").write_bytes(read_model(name))
    text = f"""
nodes:
  champion: {{kind: model, model: {tmp_path}/1.onnx}}
  challenger: {{kind: model, model: {tmp_path}/2.onnx}}
  release: {{kind: shadow, primary: champion, mirror: challenger}}
outputs: [release]
"""
    return host_graph("release", prepare_graph(parse_document(text, GraphSpec), settings), {}, settings)


def test_nodes_and_shadows_are_metrics(shadowed: Hosted) -> None:
    async def ask() -> None:
        await shadowed.endpoint.infer({"x": np.ones((2, 3), np.float32)})
        while not shadowed.statistics.to_json()["shadows"]["release"]["compared"]:  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    asyncio.run(ask())
    text = render(shadowed)
    version = f'version="{shadowed.endpoint.version}"'
    labels = f'application="test",model="release",node="champion",{version}'
    assert f"raymlops_node_requests_total{{{labels}}} 1.0\n" in text
    assert f"raymlops_node_rows_total{{{labels}}} 2.0\n" in text
    assert f"raymlops_node_duration_seconds_count{{{labels}}} 1.0\n" in text
    for outcome, count in (("different", 1), ("dropped", 0)):
        labels = f'application="test",model="release",node="release",outcome="{outcome}",{version}'
        assert f"raymlops_shadow_requests_total{{{labels}}} {count}.0\n" in text
    assert f'nv_inference_count{{application="test",model="release",{version}}} 2.0\n' in text
    assert 'nv_inference_pending_request_count{application="test"} 0.0\n' in text


def render(hosted: Hosted) -> str:
    text, _ = asyncio.run(Hosts("test", {"release": hosted}).render_metrics(""))
    return text.decode()


def test_every_metric_has_its_help_once(shadowed: Hosted) -> None:
    text = render(shadowed)
    for name in [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]:
        assert text.count(f"# HELP {name} ") == 1


class Stubborn:
    """A Python node that does not answer rows of zeros until it is told to."""

    end = threading.Event()

    def run(self, batch: Batch) -> Batch:
        if not batch["x"].any():
            self.end.wait(60)
        return {"y": batch["x"]}


class Asleep:
    async def run(self, batch: Batch) -> Batch:
        if not batch["x"].any():
            await asyncio.sleep(60)
        return {"y": batch["x"]}


def host_python(kind: type, settings: Settings, deadline_s: float = 0.2) -> Hosted:
    text = f"""
deadline_s: {deadline_s}
nodes:
  inner:
    kind: graph
    graph:
      nodes:
        own:
          kind: python
          target: {kind.__module__}:{kind.__name__}
          takes: [{{name: x}}]
          outputs: [{{name: y}}]
      outputs: [own]
outputs: [inner]
"""
    return host_graph("g", prepare_graph(parse_document(text, GraphSpec), settings), {}, settings)


class Silent:
    async def run(self, batch: Batch) -> Batch:
        await asyncio.sleep(60)
        return {"y": batch["x"]}


ZEROS, ONES = {"x": np.zeros(2, np.float32)}, {"x": np.ones(2, np.float32)}


@pytest.fixture
def stubborn() -> Iterator[type]:
    Stubborn.end = threading.Event()
    yield Stubborn
    Stubborn.end.set()


@pytest.mark.parametrize("kind", [Stubborn, Asleep])
def test_a_node_that_hangs_is_named_at_the_deadline_and_others_go_on(
    kind: type, stubborn: type, settings: Settings
) -> None:
    hosted = host_python(kind, settings)

    async def ask() -> None:
        hanging = [asyncio.ensure_future(hosted.endpoint.infer(ZEROS)) for _ in range(3)]
        for waiting in hanging:
            with pytest.raises(DeadlineError, match=r"Node 'inner/own' did not answer within 0\.2 s"):
                await waiting
        assert (await hosted.endpoint.infer(ONES))["y"].tolist() == [1, 1]

    asyncio.run(ask())


class Exiting:
    def run(self, batch: Batch) -> Batch:
        if not batch["x"].any():
            sys.exit(3)
        return {"y": batch["x"]}


class ExitingAsync(Exiting):
    async def run(self, batch: Batch) -> Batch:  # type: ignore[override]
        return super().run(batch)


@pytest.mark.parametrize("kind", [Exiting, ExitingAsync])
def test_a_node_that_exits_fails_at_its_request_and_ends_no_process(kind: type, settings: Settings) -> None:
    hosted = host_python(kind, settings, deadline_s=30)

    async def ask() -> None:
        with pytest.raises(NodeError, match=r"Node 'inner/own' failed: .*sys\.exit\(3\)"):
            await hosted.endpoint.infer(ZEROS)
        assert (await hosted.endpoint.infer(ONES))["y"].tolist() == [1, 1]

    asyncio.run(ask())


def test_the_deadline_of_a_caller_names_the_node_too(stubborn: type, settings: Settings) -> None:
    hosted = host_python(stubborn, settings, deadline_s=30)

    async def ask() -> None:
        told = r"'g' did not answer within the 0\.1 s asked for: Node 'inner/own' did not"
        with pytest.raises(DeadlineError, match=told):
            await inference.ask(hosted, ZEROS, None, 0.1, Call("ModelInfer", "1"))
        assert deadlines.count_remaining() is None  # the next request of the task has its own
        assert (await inference.ask(hosted, ONES, None, 10, Call("ModelInfer", "1")))["y"].tolist() == [1, 1]

    asyncio.run(ask())


def test_a_node_without_a_thread_left_is_unhealthy_until_its_runs_end(
    stubborn: type, settings: Settings
) -> None:
    hosted = host_python(stubborn, settings, deadline_s=0.02)
    assert hosted.check is not None

    async def hang(times: int) -> None:
        for _ in range(times):
            with pytest.raises(DeadlineError):
                await hosted.endpoint.infer(ZEROS)

    asyncio.run(hang(MOST_LEFT))
    hosted.check()
    asyncio.run(hang(1))
    with pytest.raises(ResourceError, match="runs that nobody waits for"):
        hosted.check()
    Stubborn.end.set()

    async def recover() -> None:
        while True:
            with contextlib.suppress(DeadlineError):
                assert (await hosted.endpoint.infer(ONES))["y"].tolist() == [1, 1]
                return

    asyncio.run(recover())
    hosted.check()


class Slow:
    """A Python node whose runs follow each other in its thread."""

    def run(self, batch: Batch) -> Batch:
        time.sleep(0.05)
        return {"y": batch["x"]}


def test_what_requests_wait_for_the_thread_of_a_node_is_told_from_its_runs(settings: Settings) -> None:
    hosted = host_python(Slow, settings, deadline_s=30)

    async def ask() -> None:
        await asyncio.gather(*(hosted.endpoint.infer(ONES) for _ in range(4)))

    asyncio.run(ask())
    counted = hosted.statistics.to_json()["inference_stats"]
    assert counted["queue"]["count"] == counted["compute_infer"]["count"] == 4
    assert counted["queue"]["ns"] >= (0 + 1 + 2 + 3) * 0.05e9 * 0.9  # clocks and sleeps differ a little
    assert counted["compute_infer"]["ns"] >= 4 * 0.05e9
    node = hosted.statistics.to_json()["nodes"]["inner/own"]
    assert node["ms"] >= (1 + 2 + 3 + 4) / 4 * 50


class Reusing:
    """A Python node that writes each answer into the same memory."""

    def __init__(self) -> None:
        self.out = np.zeros(2, np.float32)

    def run(self, batch: Batch) -> Batch:
        self.out[:] = batch["x"]
        return {"y": self.out[:]}


class ReusingAsync(Reusing):
    async def run(self, batch: Batch) -> Batch:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().run(batch)


@pytest.mark.parametrize("kind", [Reusing, ReusingAsync])
def test_an_answer_of_code_that_reuses_its_memory_belongs_to_its_caller(
    kind: type, settings: Settings
) -> None:
    hosted = host_python(kind, settings, deadline_s=30)

    async def ask(number: int) -> list[float]:
        answer = await hosted.endpoint.infer({"x": np.full(2, number, np.float32)})
        await asyncio.sleep(0.01)  # until it is written
        return list(answer["y"].tolist())

    async def ask_all() -> list[list[float]]:
        return await asyncio.gather(*map(ask, range(50)))

    assert asyncio.run(ask_all()) == [[number, number] for number in range(50)]


@pytest.mark.parametrize("kind", [Reusing, ReusingAsync])
def test_scored_rows_of_code_that_reuses_its_memory_stay(kind: type) -> None:
    own = f"{{kind: python, target: '{kind.__module__}:{kind.__name__}', takes: [{{name: x}}], outputs: [{{name: y}}]}}"
    graph = OfflineGraph(parse_document(f"nodes: {{own: {own}}}\noutputs: [own]", GraphSpec))
    first, second = graph.infer(ZEROS), graph.infer(ONES)
    assert (first["y"].tolist(), second["y"].tolist()) == ([0, 0], [1, 1])


class Indexing:
    """A Python node that takes its rows' elements for granted, as nodes do."""

    def run(self, batch: Batch) -> Batch:
        for values in batch.values():
            values.flat[0]
        return {"y": np.full(len(batch["x"]), 1 // batch["x"].shape[1], np.float32)}


EMPTY_KINDS: dict[str, str] = {
    "python": "nodes: {own: PYTHON}\noutputs: [own]",
    "in a graph": "nodes: {in: {kind: graph, graph: {nodes: {own: PYTHON}, outputs: [own]}}}\noutputs: [in]",
    "in a split": "nodes: {own: PYTHON, way: {kind: split, weights: {own: 1}}}\noutputs: [way]",
    "with a timeout": "nodes: {own: TIMED}\noutputs: [own]",
}


@pytest.mark.parametrize("kind", EMPTY_KINDS)
@pytest.mark.parametrize("shape", [(1, 0), (0, 3), (0, 0), (2, 0)])
def test_inputs_without_elements_are_the_callers_to_mend(
    kind: str, shape: tuple[int, ...], settings: Settings
) -> None:
    node = (
        "{kind: python, target: 'tests.unit.serving.endpoints.test_graph:Indexing', "
        "takes: [{name: x, shape: [-1, -1]}], outputs: [{name: y}]}"
    )
    text = EMPTY_KINDS[kind].replace("PYTHON", node).replace("TIMED", node[:-1] + ", timeout_s: 9}")
    spec = parse_document(text, GraphSpec)
    batch = {"x": np.zeros(shape, np.float32)}
    hosted = host_graph("g", prepare_graph(spec, settings), {}, settings)
    with pytest.raises(InputError, match="'x' has the shape") as told:
        asyncio.run(hosted.endpoint.infer(batch))
    assert "out of bounds" not in str(told.value)
    with pytest.raises(InputError, match="'x' has the shape"):
        OfflineGraph(spec).infer(batch)


def test_a_fault_with_inputs_that_have_elements_stays_the_nodes(settings: Settings) -> None:
    node = {
        "kind": "python",
        "target": "tests.unit.serving.endpoints.test_graph:Indexing",
        "outputs": [{"name": "y"}],
    }
    spec = GraphSpec.model_validate(
        {"inputs": [{"name": "x", "shape": [-1]}], "nodes": {"own": node}, "outputs": ["own"]}
    )
    with pytest.raises(NodeError, match="IndexError"):
        OfflineGraph(spec).infer({"x": np.ones(2, np.float32)})


@hypothesis.settings(max_examples=20)
@hypothesis.given(graphs(), batches())
def test_no_rows_are_answered_or_refused_whatever_the_graph(spec: GraphSpec, batch: Batch) -> None:
    leaves = {path: open_model(node.model) for path, node in list_leaves(spec) if isinstance(node, ModelNode)}
    plan = validate(spec, {path: session.signature for path, session in leaves.items()})
    graph = Graph(plan, {path: implement(path, step) for path, step in plan.leaves()})
    with contextlib.suppress(InputError):
        answer = graph.infer_now({name: values[:0] for name, values in batch.items()})
        assert {len(values) for values in answer.values()} == {0}


def test_an_example_of_a_graph_is_tried_uncounted_and_no_longer_than_its_deadline(settings: Settings) -> None:
    async def look(hosted: Hosted) -> list[object]:
        async with asyncio.timeout(30):
            return await asyncio.gather(*[find_example(hosted) for _ in range(3)])

    for kind in (Asleep, Silent):
        hosted = host_python(kind, settings)
        found = asyncio.run(look(hosted))
        assert found[0] is not None
        assert found[1] is found[2] is found[0]  # one looks, the others wait for it
        counts = hosted.statistics.to_tree()["counts"]
        assert {node["requests"] + node["failures"] for node in counts["nodes"].values()} == {0}
