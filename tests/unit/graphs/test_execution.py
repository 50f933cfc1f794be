import asyncio
import collections
import pathlib

import numpy as np
import pytest

from raymlops.errors import ArtifactError, DeadlineError, InputError, NodeError, OverloadedError, SpecError
from raymlops.graphs.answer_checks import make_check
from raymlops.graphs.execution import Implementation
from raymlops.graphs.graph import Graph
from raymlops.graphs.kinds.cascade import find_unconfident_rows
from raymlops.graphs.kinds.split import choose_branch, choose_branches
from raymlops.graphs.kinds.stack import stack
from raymlops.graphs.kinds.switch import find_held
from raymlops.graphs.kinds.vote import vote
from raymlops.graphs.plan import Port
from raymlops.graphs.ragged_arrays import flatten_elements, group_elements
from raymlops.graphs.validation import list_leaves, validate
from raymlops.runtime.open_graph import OfflineGraph, open_leaves, run_python, run_session
from raymlops.runtime.python_modules import load_python
from raymlops.specs.document import parse_document
from raymlops.specs.graph import GraphSpec
from raymlops.tensors import DATATYPES, Batch, TensorSpec
from tests import toy_models
from tests.graph_models import count_calls, open_model, read_model


class Doubler:
    """A python node."""

    def __init__(self, factor: float = 2.0) -> None:
        self.factor = factor

    def run(self, batch: Batch) -> Batch:
        return {"y": (batch["y"] * self.factor).astype(np.float32)}


class Constant:
    """A python node, whose texts numpy puts in an array of their length."""

    def __init__(self, text: str) -> None:
        self.text = text

    def run(self, batch: Batch) -> Batch:
        return {"y": np.array([self.text] * len(batch["x"]))}


class Waiter:
    async def run(self, batch: Batch) -> Batch:
        await asyncio.sleep(0)
        return {"y": batch["x"]}


def make_graph(text: str, **given: Implementation) -> Graph:
    """A graph whose models are named as in tests.graph_models, unless an implementation is given."""
    spec = parse_document(text, GraphSpec)
    leaves = dict(list_leaves(spec))
    plan = validate(
        spec,
        {path: open_model(node.model).signature for path, node in leaves.items() if node.kind == "model"},
    )
    made = {
        path: run_session(open_model(node.model))
        if node.kind == "model"
        else run_python(load_python(path, node))
        for path, node in leaves.items()
        if path not in given
    }
    return Graph(plan, made | given)


def rows(count: int, seed: int = 0) -> Batch:
    return {"x": np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)}


def fail(error: Exception, waits: bool = False) -> Implementation:
    async def run(batch: Batch) -> Batch:
        if waits:
            await asyncio.sleep(0)
        raise error

    return Implementation(run, suspends=waits)


TWO = """
nodes:
  a: {kind: model, model: "1"}
  b: {kind: model, model: "2"}
  both: {kind: mean, of: [a.y, b.y]}
outputs: {y: both.y}
"""
CASCADE = """
nodes:
  small: {kind: model, model: "1"}
  large: {kind: model, model: "2"}
  answer: {kind: cascade, steps: [small, large], confidence: sure, threshold: 0.7}
outputs: [answer]
"""
SPLIT = """
nodes:
  champion: {kind: model, model: "1"}
  challenger: {kind: model, model: "2"}
  canary: {kind: split, weights: {champion: 0.8, challenger: 0.2}}
outputs: [canary]
"""
SHADOW = """
nodes:
  champion: {kind: model, model: "1"}
  challenger: {kind: model, model: "2"}
  release: {kind: shadow, primary: champion, mirror: challenger, queue: 1, load: 1.0}
outputs: [release]
"""


def test_a_mean_is_the_mean_of_its_models() -> None:
    batch = rows(5)
    first, second = open_model("1").infer(batch)["y"], open_model("2").infer(batch)["y"]
    np.testing.assert_allclose(make_graph(TWO).infer_now(batch)["y"], (first + second) / 2, rtol=1e-6)


def test_only_the_unsure_rows_of_a_cascade_reach_the_dearer_model() -> None:
    batch = rows(40)
    large, seen = count_calls(open_model("2").infer)
    answer = make_graph(CASCADE, large=large).infer_now(batch)
    small_answer, large_answer = open_model("1").infer(batch), open_model("2").infer(batch)
    unsure = small_answer["sure"] < 0.7
    assert seen == [unsure.sum()]
    assert 0 < unsure.sum() < 40
    np.testing.assert_array_equal(
        answer["y"], np.where(unsure[:, None], large_answer["y"], small_answer["y"])
    )


def test_rows_without_a_confidence_go_on() -> None:
    assert find_unconfident_rows(np.array([0.9, np.nan, 0.1]), "max", 0.5).tolist() == [1, 2]
    assert find_unconfident_rows(np.array([0.9, 0.5, 0.1]), "binary", 0.8).tolist() == [1]
    assert find_unconfident_rows(np.array([[0.5, 0.4], [0.9, 0.1]]), "margin", 0.3).tolist() == [0]


def test_a_split_keeps_a_key_on_its_branch() -> None:
    graph = make_graph(SPLIT)
    batch = rows(1)
    answers = {asyncio.run(graph.infer(batch, key="ann"))["y"].tobytes() for _ in range(20)}
    assert len(answers) == 1


def test_a_split_takes_keys_that_are_no_text() -> None:
    weights = {"a": 0.5, "b": 0.5}
    assert choose_branch("\ud800", weights) == choose_branch("\ud800", weights)
    keys = np.array([b"\xff", b"\xfe", b"\xff"], dtype=object)
    assert sorted(np.concatenate([*choose_branches(keys, weights).values()])) == [0, 1, 2]


def test_changed_weights_move_only_keys_of_the_branch_that_lost_share() -> None:
    before = {key: choose_branch(key, {"old": 0.9, "new": 0.1}) for key in map(str, range(4000))}
    after = {key: choose_branch(key, {"old": 0.5, "new": 0.5}) for key in before}
    assert {(before[key], after[key]) for key in before} == {("old", "old"), ("old", "new"), ("new", "new")}
    assert 300 < collections.Counter(before.values())["new"] < 500
    assert 1850 < collections.Counter(after.values())["new"] < 2150


def test_weights_change_while_the_graph_runs() -> None:
    graph = make_graph(SPLIT)
    batch = rows(3)
    graph.set_weights({"canary": {"challenger": 0.4}})
    assert graph.statistics().weights == {"canary": {"champion": 0.8, "challenger": 0.4}}
    graph.set_weights({"canary": {"champion": 0}})
    np.testing.assert_array_equal(graph.infer_now(batch)["y"], open_model("2").infer(batch)["y"])
    graph.set_weights({"canary": {"champion": 1, "challenger": 0}})
    np.testing.assert_array_equal(graph.infer_now(batch)["y"], open_model("1").infer(batch)["y"])
    for wrong, told in [
        ({"canari": {"champion": 1}}, "did you mean 'canary'"),
        ({"canary": {"chalenger": 1}}, "did you mean 'challenger'"),
        ({"canary": {"champion": 0}}, "sum to 0"),
        ({"canary": {"champion": -1}}, "not 0 or more"),
        ({"canary": {"champion": float("inf")}}, "not 0 or more"),
        ({"canary": {"champion": float("nan")}}, "not 0 or more"),
    ]:
        with pytest.raises(SpecError, match=told):
            graph.set_weights(wrong)


def test_a_shadow_is_compared_and_counted_but_never_answers() -> None:
    graph = make_graph(SHADOW)
    batch = rows(4)

    async def ask() -> Batch:
        answer = await graph.infer(batch)
        while not graph.statistics().shadows["release"].compared:  # noqa: ASYNC110 (a thread sets it)
            await asyncio.sleep(0.001)
        return answer

    np.testing.assert_array_equal(asyncio.run(ask())["y"], open_model("1").infer(batch)["y"])
    counted = graph.statistics().shadows["release"]
    assert (counted.compared, counted.different, counted.failed) == (1, 1, 0)
    assert counted.largest > 0.01


def test_a_shadow_that_fails_or_lags_is_not_felt() -> None:
    async def ask() -> None:
        gate = asyncio.Event()

        async def lag(batch: Batch) -> Batch:
            await gate.wait()
            raise RuntimeError("the mirror is broken")

        graph = make_graph(SHADOW, challenger=Implementation(lag))
        for _ in range(3):
            await graph.infer(rows(1))
            await asyncio.sleep(0)
        counted = graph.statistics().shadows["release"]
        assert counted.dropped == 2  # one waits, as queue allows
        gate.set()
        while not counted.failed:  # noqa: ASYNC110
            await asyncio.sleep(0)

    asyncio.run(ask())


NESTED = """
nodes:
  release:
    kind: graph
    timeout_s: 60
    graph:
      nodes:
        champion: {kind: model, model: "1"}
        challenger: {kind: model, model: "2"}
        release: {kind: shadow, primary: champion, mirror: challenger}
      outputs: [release]
outputs: [release]
"""
MIRRORED_TWICE = """
nodes:
  champion: {kind: model, model: "1"}
  challenger: {kind: model, model: "2"}
  other: {kind: model, model: "3"}
  trial: {kind: shadow, primary: challenger, mirror: other}
  release: {kind: shadow, primary: champion, mirror: trial}
outputs: [release]
"""


@pytest.mark.parametrize(
    "text",
    [SHADOW.replace("kind: shadow", "kind: shadow, timeout_s: 60"), NESTED, MIRRORED_TWICE],
    ids=["of a shadow", "around a shadow", "a shadow as mirror"],
)
def test_a_shadow_that_runs_beside_the_event_loop_answers_and_mirrors(text: str) -> None:
    graph = make_graph(text)

    async def ask() -> Batch:
        answer = await graph.infer(rows(3))
        shadows = graph.statistics().shadows.values()
        while not all(shadow.compared for shadow in shadows):  # noqa: ASYNC110 (mirrors tell nobody)
            await asyncio.sleep(0.001)
        return answer

    answer = asyncio.run(asyncio.wait_for(ask(), 60))
    np.testing.assert_array_equal(answer["y"], open_model("1").infer(rows(3))["y"])
    assert [shadow.failed for shadow in graph.statistics().shadows.values()] == [0] * text.count(
        "kind: shadow"
    )


def test_a_shadow_stays_off_offline() -> None:
    graph = make_graph(SHADOW, challenger=fail(RuntimeError("must not run")))
    graph.infer_now(rows(2))
    counted = graph.statistics().shadows["release"]
    assert (counted.compared, counted.failed, counted.dropped) == (0, 0, 0)


def test_nodes_that_wait_overlap() -> None:
    async def ask() -> Batch:
        barrier = asyncio.Barrier(2)  # opens only when both have come

        async def meet(batch: Batch) -> Batch:
            await barrier.wait()
            return {"y": batch["x"], "sure": batch["x"][:, 0], "label": np.zeros(len(batch["x"]), np.int64)}

        return await make_graph(TWO, a=Implementation(meet), b=Implementation(meet)).infer(rows(2))

    np.testing.assert_array_equal(asyncio.run(asyncio.wait_for(ask(), 60))["y"], rows(2)["x"])


def test_when_a_node_fails_those_beside_it_are_cancelled() -> None:
    stopped = []

    async def endless(batch: Batch) -> Batch:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            stopped.append("b")
            raise
        return batch

    graph = make_graph(TWO, a=fail(ValueError("no"), waits=True), b=Implementation(endless))
    with pytest.raises(NodeError, match="Node 'a' failed: ValueError: no"):
        asyncio.run(graph.infer(rows(1)))
    assert stopped == ["b"]


class UnreadableError(Exception):
    def __str__(self) -> str:
        raise TypeError("no text")


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ValueError("x"), NodeError),
        (UnreadableError(), NodeError),
        (OverloadedError("full", 3.0), OverloadedError),
        (DeadlineError("late"), DeadlineError),
        (InputError("bad"), InputError),
    ],
)
def test_a_failure_names_its_node_and_keeps_its_status(raised: Exception, expected: type[Exception]) -> None:
    with pytest.raises(expected, match="Node 'a'") as error:
        make_graph(TWO, a=fail(raised)).infer_now(rows(1))
    assert type(error.value) is expected
    assert getattr(error.value, "retry_after", 3.0) == 3.0


def test_a_node_that_is_too_slow_is_named_and_gives_504() -> None:
    async def hang(batch: Batch) -> Batch:
        await asyncio.sleep(3600)
        return batch

    text = TWO.replace('model: "1"', 'model: "1", timeout_s: 0.01')
    with pytest.raises(DeadlineError, match=r"Node 'a' did not answer within 0\.01 s"):
        make_graph(text, a=Implementation(hang)).infer_now(rows(1))


def test_a_timeout_of_a_nodes_own_is_no_late_answer() -> None:
    text = TWO.replace('model: "1"', 'model: "1", timeout_s: 60')
    with pytest.raises(NodeError, match="Node 'a' failed: TimeoutError: its database"):
        make_graph(text, a=fail(TimeoutError("its database"), waits=True)).infer_now(rows(1))


def test_a_timeout_does_not_disturb_a_node_that_is_in_time() -> None:
    text = TWO.replace('model: "1"', 'model: "1", timeout_s: 60')
    np.testing.assert_array_equal(
        make_graph(text).infer_now(rows(3))["y"], make_graph(TWO).infer_now(rows(3))["y"]
    )


def test_a_fallback_value_answers_for_a_failing_node() -> None:
    text = TWO.replace('model: "1"', 'model: "1", fallback: {y: 0.5, sure: 0, label: 0}')
    batch = rows(3)
    graph = make_graph(text, a=fail(RuntimeError("down")))
    np.testing.assert_allclose(
        graph.infer_now(batch)["y"], (open_model("2").infer(batch)["y"] + 0.5) / 2, rtol=1e-6
    )
    assert graph.statistics().clocks["a"].fallbacks == 1


def test_a_fallback_node_answers_for_a_failing_cascade() -> None:
    text = CASCADE.replace("threshold: 0.7", "threshold: 0.7, fallback: plain").replace(
        "nodes:", 'nodes:\n  plain: {kind: model, model: "3"}'
    )
    batch = rows(3)
    answer = make_graph(text, small=fail(RuntimeError("down"))).infer_now(batch)
    np.testing.assert_array_equal(answer["y"], open_model("3").infer(batch)["y"])


def test_a_switch_asks_text_numbers_and_lists() -> None:
    names = np.array(["ann", b"bob", "cid"], dtype=object)
    assert find_held(names, "in", ["ann", "bob"]).tolist() == [True, True, False]
    assert find_held(names, "!=", "ann").tolist() == [False, True, True]
    assert find_held(np.array([[1.0], [np.nan]]), ">", 0).tolist() == [True, False]
    assert find_held(np.array([1, 2, 3]), "not in", [1, 2]).tolist() == [False, False, True]
    assert find_held(np.array([0.1, 0.3], np.float32), "in", [0.1, 0.2]).tolist() == [True, False]
    assert find_held(np.array([b"\xff", "ann"], dtype=object), "==", "ann").tolist() == [False, True]


def test_votes_go_to_the_most_frequent_label_and_ties_to_the_first() -> None:
    labels = [np.array(["a", "b", "c"], dtype=object), np.array(["b", "b", "a"], dtype=object)]
    assert vote([*labels, np.array(["b", "a", "b"], dtype=object)]).tolist() == ["b", "b", "c"]
    assert vote([np.array([1, 2]), np.array([2, 2]), np.array([2, 1])]).tolist() == [2, 2]


@pytest.mark.parametrize(
    "kind", ["mean, of: [a.y, b.y]", "weighted, of: {a.y: 1, b.y: 1}", "vote, of: [a.y, b.y]"]
)
def test_tensors_of_unequal_free_sizes_are_not_combined(kind: str) -> None:
    datatype = "INT64" if "vote" in kind else "FP32"
    node = f"{{kind: python, target: 'm:C', outputs: [{{name: y, datatype: {datatype}, shape: [-1, -1]}}]}}"
    nodes = f"nodes:\n  a: {node}\n  b: {node}\n  c: {{kind: {kind}}}\n"
    text = f"inputs: [{{name: x, shape: [-1, 3]}}]\n{nodes}outputs: [c]"

    async def wide(batch: Batch) -> Batch:
        return {"y": np.ones((len(batch["x"]), 4), DATATYPES[datatype].numpy)}

    async def narrow(batch: Batch) -> Batch:
        return {"y": np.ones((len(batch["x"]), 1), DATATYPES[datatype].numpy)}

    given = {"a": Implementation(wide, suspends=False), "b": Implementation(narrow, suspends=False)}
    with pytest.raises(InputError, match=r"Node 'c': it combines .* got \[2, 4\] and \[2, 1\]"):
        make_graph(text, **given).infer_now(rows(2))


def test_tensors_that_cannot_be_stacked_are_the_requests_fault() -> None:
    with pytest.raises(InputError, match=r"shapes \[2, 3\] and \[1, 3\] along axis 1"):
        stack([np.zeros((2, 3)), np.zeros((1, 3))], 1)


def test_weights_have_a_finite_sum() -> None:
    with pytest.raises(SpecError, match="sum to inf; expected a finite number above 0"):
        make_graph(TWO.replace("mean, of: [a.y, b.y]", "weighted, of: {a.y: 1.0e+308, b.y: 1.0e+308}"))


@pytest.mark.parametrize(
    "route", ["switch, cases: [{when: inputs.x > 0, then: a}], otherwise: b", "vote, of: [a.y, b.y, c.y]"]
)
def test_texts_of_user_code_are_whole_in_an_answer_of_several_nodes(route: str) -> None:
    node = "{kind: python, target: 'm:C', outputs: [{name: y, datatype: BYTES}]}"
    third = f"\n  c: {node}" if "vote" in route else ""
    nodes = f"nodes:\n  a: {node}\n  b: {node}{third}\n  r: {{kind: {route}}}\n"
    text = f"inputs: [{{name: x}}]\n{nodes}outputs: {{y: r.y}}"
    answered = {"a": "no", "b": "certainly", "c": "certainly"}
    output = [Port(TensorSpec("y", "BYTES", (-1,)))]
    given = {
        name: run_python(Constant(answered[name]), make_check(name, output))
        for name in ("a", "b", "c")[: 2 + bool(third)]
    }
    answer = make_graph(text, **given).infer_now({"x": np.array([1, -1, -1], np.float32)})
    assert answer["y"].tolist() == (["certainly"] * 3 if third else ["no", "certainly", "certainly"])


def test_each_runs_once_for_all_elements_and_repeats_the_row_for_them() -> None:
    graph = make_graph("""
inputs:
  - {name: crops, shape: [-1, 3], ragged: true}
  - {name: image, shape: [-1, 3]}
nodes:
  look: {kind: model, model: "1,two", inputs: {a: inputs.crops, b: inputs.image}}
  all: {kind: each, over: inputs.crops, run: look}
outputs: {y: all.y, label: all.label}
""")
    crops, image = rows(5, 1)["x"], rows(3, 2)["x"]
    answer = graph.infer_now({"crops": crops, "crops_lengths": np.array([2, 0, 3]), "image": image})
    expected = open_model("1,two").infer({"a": crops, "b": image[[0, 0, 2, 2, 2]]})
    np.testing.assert_array_equal(answer["y"], expected["y"])
    assert answer["label_lengths"].tolist() == [2, 0, 3]
    empty = graph.infer_now({"crops": crops[:0], "crops_lengths": np.array([0, 0, 0]), "image": image})
    assert empty["y"].shape == (0, 3)
    assert empty["label"].dtype == np.int64


def test_lengths_that_do_not_sum_up_are_refused() -> None:
    with pytest.raises(InputError, match="5 elements, but the rows' lengths sum to 4"):
        group_elements(np.zeros((5, 2)), np.array([1, 3]))


@pytest.mark.parametrize("lengths", [[6, -1], [-1, 6], [2**63 - 1, 2**63 - 1, 7], [-(2**63), 5, -(2**63)]])
def test_lengths_that_sum_up_by_what_no_length_can_be_are_refused(lengths: list[int]) -> None:
    with pytest.raises(InputError, match="must be from 0 to the 5 elements"):
        group_elements(np.zeros((5, 2)), np.array(lengths, np.int64))


def test_elements_return_to_their_rows() -> None:
    port = Port(TensorSpec("t", "BYTES", (-1,)), ragged=True)
    values, lengths = np.array(["a", "b", "c"], dtype=object), np.array([1, 0, 2])
    flat, counted = flatten_elements(group_elements(values, lengths), port)
    assert flat.tolist() == ["a", "b", "c"]
    assert counted.tolist() == [1, 0, 2]


def test_python_nodes_take_their_config_and_may_wait() -> None:
    graph = make_graph("""
nodes:
  wait: {kind: python, target: "tests.unit.graphs.test_execution:Waiter", outputs: [{name: y, shape: [-1, 3]}],
         takes: [{name: x, shape: [-1, 3]}]}
  twice: {kind: python, target: "tests.unit.graphs.test_execution:Doubler", config: {factor: 3.0},
          inputs: [wait], outputs: [{name: y, shape: [-1, 3]}]}
outputs: {y: twice.y}
""")
    assert graph.suspends
    np.testing.assert_allclose(graph.infer_now(rows(2))["y"], rows(2)["x"] * 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("tests.unit.graphs.test_execution:Doublr", "did you mean 'Doubler'"),
        ("tests.nowhere:Doubler", "cannot be imported"),
        ("tests.unit.graphs.test_execution:TWO", "does not take config"),
    ],
)
def test_a_wrong_python_target_is_named(target: str, told: str) -> None:
    text = f"""
nodes: {{p: {{kind: python, target: "{target}", config: {{a: 1}}, outputs: [{{name: y}}]}}}}
inputs: [{{name: x}}]
outputs: [p]
"""
    with pytest.raises(SpecError, match=told):
        make_graph(text.replace("config: {a: 1}", "config: {}" if "Doublr" in target else "config: {a: 1}"))


def test_a_missing_input_is_told_with_what_the_graph_takes() -> None:
    with pytest.raises(InputError, match=r"Input 'x' is missing; graph 'graph' takes x: FP32\[-1,3\]"):
        make_graph(TWO).infer_now({})


def test_nodes_of_one_file_are_each_held_to_their_digest(tmp_path: pathlib.Path) -> None:
    (tmp_path / "model.onnx").write_bytes(read_model("1"))
    node = f"kind: model, model: {tmp_path}/model.onnx"
    text = f"nodes:\n  a: {{{node}}}\n  b: {{{node}, digest: {'a' * 64}}}\noutputs: {{a: a.y, b: b.y}}"
    with pytest.raises(ArtifactError, match="aaa"):
        open_leaves(parse_document(text, GraphSpec))


def test_a_graph_runs_offline_over_columns_as_a_model_does(tmp_path: pathlib.Path) -> None:
    """The contract of its models becomes that of the graph, so that files are read with the same kinds."""
    model = toy_models.save(toy_models.flights(), tmp_path / "flights.onnx")
    text = """
nodes:
  one: {kind: model, model: MODEL}
  two: {kind: model, model: MODEL}
  both: {kind: mean, of: [one.probability, two.probability]}
outputs: {probability: both.probability}
""".replace("MODEL", str(model))
    offline = OfflineGraph(parse_document(text, GraphSpec))
    assert {"name": "departure", "kind": "timestamp"} in offline.contract["columns"]
    columns = {"distance": [100.0, np.nan], "carrier": ["UA", None], "departure": [0, 1], "more": [1, 2]}
    answer = offline({name: np.array(values) for name, values in columns.items()})
    np.testing.assert_allclose(answer["probability"], [0.75, 0.9], rtol=1e-6)
    with pytest.raises(InputError, match="Unknown column 'distance'"):
        offline({"carrier": np.array(["UA"], dtype=object)})
