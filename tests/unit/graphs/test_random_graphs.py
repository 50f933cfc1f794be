import asyncio
import os
import pathlib
import re

import numpy as np
import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from raymlops.errors import SpecError
from raymlops.graphs.graph import Graph
from raymlops.graphs.plan import Plan
from raymlops.runtime.open_graph import OfflineGraph, Opened, open_graph
from raymlops.specs.graph import GraphSpec
from raymlops.tensors import Batch
from tests.graph_models import batches, graphs, implement, read_model, run_afar, validate_graph


def few(examples: int) -> settings:
    """So many random examples; ten times as many in tests/survival."""
    return settings(max_examples=examples * TIMES, deadline=None)


TIMES = int(os.environ.get("RANDOM_GRAPHS_TIMES", "1"))


def fuse(plan: Plan) -> Graph:
    return Graph(plan, {path: implement(path, step) for path, step in plan.leaves()})


def open_merged(spec: GraphSpec, files: pathlib.Path) -> Opened:
    return open_graph(spec, lambda model: files / model, fuse_all=True)


def assert_equal(first: Batch, second: Batch) -> None:
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_allclose(second[name], values, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("models")
    for seed in range(6):
        for name in (f"{seed}", f"{seed},two"):
            (folder / name).write_bytes(read_model(name))
    return folder


@pytest.mark.slow
@few(40)
@given(graphs(), batches())
def test_a_graph_answers_the_same_fused_separate_merged_and_offline(
    files: pathlib.Path, spec: GraphSpec, batch: Batch
) -> None:
    plan = validate_graph(spec)
    fused = fuse(plan)
    answer = fused.infer_now(batch)
    assert [port.name for port in fused.signature.outputs] == list(answer)
    separate = Graph(plan, {path: run_afar(implement(path, step)) for path, step in plan.leaves()})
    assert_equal(answer, asyncio.run(separate.infer(batch)))
    for node in spec.nodes.values():
        event(node.kind)
    event("a chain was merged" if open_merged(spec, files).chains else "no chain")
    offline = OfflineGraph(spec, lambda model: files / model)  # merges chains
    assert_equal(answer, offline(batch))


@few(60)
@given(graphs(), batches())
def test_every_row_is_answered_as_if_it_were_alone(spec: GraphSpec, batch: Batch) -> None:
    graph = fuse(validate_graph(spec))
    together = graph.infer_now(batch)
    ends = np.cumsum(batch["parts_lengths"])
    for row, end in enumerate(ends):
        one = {name: values[row : row + 1] for name, values in batch.items() if name != "parts"}
        one["parts"] = batch["parts"][end - batch["parts_lengths"][row] : end]
        alone = graph.infer_now(one)
        for name, values in alone.items():
            if name not in ("pieces", "pieces_lengths"):
                np.testing.assert_allclose(together[name][row : row + 1], values, rtol=1e-5, atol=1e-6)


def _rename_read(nodes: dict, name: str) -> str:
    key = next(iter(nodes[name]["inputs"]))
    nodes[name]["inputs"][key] = "nowhere.y"
    return "nowhere"


def _drop_input(nodes: dict, name: str) -> str:
    key = next(iter(nodes[name]["inputs"]))
    del nodes[name]["inputs"][key]
    return name


def _unknown_tensor(nodes: dict, name: str) -> str:
    key = next(iter(nodes[name]["inputs"]))
    nodes[name]["inputs"][key] = "inputs.nothing"
    return name


def _wrong_datatype(nodes: dict, name: str) -> str:
    nodes[name]["inputs"][next(iter(nodes[name]["inputs"]))] = "inputs.size"
    return name


def _ragged_outside_each(nodes: dict, name: str) -> str:
    nodes[name]["inputs"][next(iter(nodes[name]["inputs"]))] = "inputs.parts"
    return name


def _surplus_input(nodes: dict, name: str) -> str:
    nodes[name]["inputs"]["surplus"] = "inputs.x"
    return "surplus"


def _wrong_width(nodes: dict, name: str) -> str:
    nodes["wide"] = {"kind": "stack", "of": ["inputs.x", "inputs.x"], "name": "y"}
    nodes[name]["inputs"][next(iter(nodes[name]["inputs"]))] = "wide.y"
    return name


def _bound_twice(nodes: dict, name: str) -> str:
    nodes["twin"] = {"kind": "mean", "of": ["inputs.x"]}
    nodes[name] |= {"model": "0", "inputs": ["inputs", "twin"]}
    return name


def _circle(nodes: dict, name: str) -> str:
    nodes["around"] = {"kind": "mean", "of": [f"{name}.y"]}
    nodes[name]["inputs"][next(iter(nodes[name]["inputs"]))] = "around.y"
    return "around"


def _two_callers(nodes: dict, name: str) -> str:
    nodes["caller"] = {"kind": "shadow", "primary": name, "mirror": "other"}
    nodes["caller2"] = {"kind": "shadow", "primary": name, "mirror": "other2"}
    nodes["other"] = nodes["other2"] = {"kind": "model", "model": "0"}
    return name


def _unread(nodes: dict, name: str) -> str:
    nodes["idle"] = {"kind": "mean", "of": ["inputs.x"]}
    return "idle"


def _mean_of_labels(nodes: dict, name: str) -> str:
    nodes["labels"] = {"kind": "mean", "of": ["inputs.size"]}
    nodes["use"] = {"kind": "model", "model": "0", "inputs": {"x": "labels.size"}}
    return "labels"


def _bad_condition(nodes: dict, name: str) -> str:
    nodes["branch"] = {
        "kind": "switch",
        "cases": [{"when": "inputs.size > ann", "then": "b1"}],
        "otherwise": "b2",
    }
    nodes["b1"] = nodes["b2"] = {"kind": "model", "model": "0", "inputs": {"x": "inputs.x"}}
    return "branch"


def _fallback_nowhere(nodes: dict, name: str) -> str:
    nodes[name]["fallback"] = "nowhere"
    return "nowhere"


def _fallback_without_a_tensor(nodes: dict, name: str) -> str:
    nodes[name]["fallback"] = {"y": 0.5}
    return name


def _each_over_rows(nodes: dict, name: str) -> str:
    nodes["loop"] = {"kind": "each", "over": "inputs.x", "run": "one"}
    nodes["one"] = {"kind": "model", "model": "0", "inputs": {"x": "inputs.x"}}
    return "loop"


def _branch_nowhere(nodes: dict, name: str) -> str:
    nodes["fork"] = {"kind": "split", "weights": {"nowhere": 1}}
    return "nowhere"


def _branches_that_differ(nodes: dict, name: str) -> str:
    nodes["fork"] = {"kind": "split", "weights": {"ours": 1, "theirs": 1}}
    nodes["ours"] = {"kind": "model", "model": "0", "inputs": {"x": "inputs.x"}}
    nodes["theirs"] = {"kind": "stack", "of": ["inputs.x", "inputs.x"], "name": "y"}
    nodes[name]["inputs"][next(iter(nodes[name]["inputs"]))] = "fork.y"
    return "fork"


DAMAGES = [
    _rename_read, _drop_input, _unknown_tensor, _wrong_datatype, _ragged_outside_each, _surplus_input,
    _wrong_width, _bound_twice, _circle, _two_callers, _unread, _mean_of_labels, _bad_condition,
    _fallback_nowhere, _fallback_without_a_tensor, _each_over_rows, _branch_nowhere, _branches_that_differ,
]  # fmt: skip


@few(150)
@given(graphs(inner=False), st.sampled_from(DAMAGES), st.data())
def test_a_damaged_graph_is_refused_with_the_name_of_the_damage(
    spec: GraphSpec, damage, data: st.DataObject
) -> None:
    document = spec.model_dump(exclude_unset=True)
    called = {
        name
        for node in spec.nodes.values()
        for name in [*getattr(node, "weights", ()), *getattr(node, "steps", ()), getattr(node, "primary", "")]
    } | {name for name in spec.nodes if len(name) > 2}
    free = [n for n, node in spec.nodes.items() if n not in called and node.fallback is None]
    models = [n for n in free if spec.nodes[n].kind == "model"]
    assume(models)
    name = data.draw(st.sampled_from(models))
    wrong = damage(document["nodes"], name)
    damaged = GraphSpec.model_validate(document)
    with pytest.raises(SpecError) as error:
        validate_graph(damaged)
    assert re.search(rf"\b{wrong}\b", str(error.value))
