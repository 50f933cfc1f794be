"""Kinds of nodes that are not ours: a user's beside a graph, and one that is added to ours as CONTRIBUTING.md says."""

import asyncio
import inspect
import pathlib
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

import numpy as np
import pytest
from click.testing import CliRunner

from raymlops.cli.graph import graph as command
from raymlops.errors import NodeError, SpecError
from raymlops.graphs.kinds import KINDS
from raymlops.runtime.leaf_kinds import LEAF_KINDS
from raymlops.runtime.open_graph import OfflineGraph
from raymlops.serving.deploy.config_files import read_graphs, read_spec
from raymlops.serving.deploy.history import list_code, make_config
from raymlops.serving.deploy.spec_trial import try_models
from raymlops.serving.endpoints.graph import host_graph, prepare_graph
from raymlops.settings import Settings
from raymlops.specs.graph import GraphSpec, read_graph
from raymlops.specs.graph_nodes import NODE_DOCUMENTS
from tests import imported_modules, own_kinds
from tests.graph_models import make_model, open_model

ROOT = pathlib.Path(__file__).parents[3]
GRAPH = """
name: held
nodes:
  first: {kind: model, model: MODEL}
  again: {kind: "own_kinds:Retry", run: flaky}
  flaky: {kind: python, target: "flaky:Flaky", takes: [{name: x, shape: [-1, 3]}], outputs: [{name: z, shape: [-1, 3]}]}
  held: {kind: "own_kinds:Clip", of: [first.y], high: 0.5}
outputs: {y: held.y, z: again.z}
"""
FLAKY = """
class Flaky:
    rows_independent = True
    calls = 0
    def run(self, batch):
        self.calls += 1
        if self.calls % 2:
            raise RuntimeError("down")
        return {"z": batch["x"]}
"""
X = {"x": np.array([[0.1, -0.5, 2.0], [1.0, 1.0, -3.0]], np.float32)}


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    with imported_modules.forgotten():
        yield


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "model.onnx").write_bytes(make_model(1))
    (tmp_path / "own_kinds.py").write_text(pathlib.Path(own_kinds.__file__).read_text())
    (tmp_path / "flaky.py").write_text(FLAKY)
    file = tmp_path / "graph.yaml"
    file.write_text(GRAPH.replace("MODEL", str(tmp_path / "model.onnx")))
    return file


@pytest.fixture
def settings(tmp_path: pathlib.Path) -> Settings:
    return Settings.from_env({"RAYMLOPS_HOME": str(tmp_path)})


def test_a_kind_of_ones_own_is_short() -> None:
    for kind in (own_kinds.Clip, own_kinds.Retry):
        lines = len(inspect.getsource(kind).splitlines()) + len(inspect.getsource(kind.spec).splitlines())
        assert lines < 30


def test_the_example_of_the_page_is_the_one_that_is_tested() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/node_kinds.md").read_text(), re.DOTALL)
    for source in (own_kinds.ClipNode, own_kinds.Clip):
        assert inspect.getsource(source) in example
    exec(compile(example, "node_kinds.md", "exec"), {"__name__": "own_kinds"})


def test_a_kind_of_ones_own_is_checked_and_drawn(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    checked = CliRunner().invoke(command, [str(path), "--check"])
    assert checked.exit_code == 0, checked.output
    assert "held: a valid graph of 4 nodes" in checked.output
    picture = tmp_path / "graph.svg"
    drawn = CliRunner().invoke(command, [str(path), "--svg", str(picture), "--as", "text"])
    assert "own_kinds:Clip · 0 to 0.5" in drawn.output
    assert "<- flaky: twice at most" in drawn.output
    texts = [
        text.text for text in ElementTree.parse(picture).getroot().iter("{http://www.w3.org/2000/svg}text")
    ]
    assert "own_kinds:Clip · 0 to 0.5" in texts
    assert "twice at most" in texts


def test_a_kind_of_ones_own_answers_over_an_endpoint_and_over_files_and_is_counted(
    path: pathlib.Path, settings: Settings
) -> None:
    spec = read_graph(path)
    expected = np.clip(open_model("1").infer(X)["y"], 0.0, 0.5)
    prepared = prepare_graph(spec, settings)
    hosted = host_graph("held", prepared, {}, settings)
    answer = asyncio.run(hosted.endpoint.infer(X))
    np.testing.assert_array_equal(answer["y"], expected)
    np.testing.assert_array_equal(answer["z"], X["x"])
    counted = hosted.statistics.to_tree()["counts"]["nodes"]
    assert (counted["held"]["runs"], counted["held"]["rows"]) == (1, 2)
    assert (counted["flaky"]["runs"], counted["flaky"]["failures"], counted["again"]["failures"]) == (2, 1, 0)
    offline = OfflineGraph(spec).infer(X)
    np.testing.assert_array_equal(offline["y"], expected)


def test_requests_share_a_run_only_where_a_kind_says_that_rows_are_independent(path: pathlib.Path) -> None:
    spec = read_graph(path)
    told = OfflineGraph(spec).independence.reason
    assert told == "node 'again' is of a kind that does not say rows_independent = True"
    alone = spec.model_copy(
        update={"nodes": {name: spec.nodes[name] for name in ("first", "held")}, "outputs": {"y": "held.y"}}
    )
    assert OfflineGraph(alone).independence


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("def explain_dependence(self, node): return None", "is of a kind that explains nothing"),
        ("rows_independent = 'no'", "is of a kind that does not say rows_independent = True"),
    ],
)
def test_only_what_a_kind_says_outright_lets_requests_share_a_run(
    path: pathlib.Path, said: str, told: str
) -> None:
    module = path.with_name("own_kinds.py")
    module.write_text(module.read_text() + f"\n\nclass Vague(Clip):\n    {said}\n")
    path.write_text(path.read_text().replace("own_kinds:Clip", "own_kinds:Vague"))
    spec = read_graph(path)
    alone = spec.model_copy(
        update={"nodes": {name: spec.nodes[name] for name in ("first", "held")}, "outputs": {"y": "held.y"}}
    )
    assert OfflineGraph(alone).independence.reason == f"node 'held' {told}"


def test_a_deployment_holds_the_module_of_a_kind_and_names_it_as_code(
    path: pathlib.Path, settings: Settings, tmp_path: pathlib.Path
) -> None:
    serving = tmp_path / "serving.yaml"
    serving.write_text(
        "graphs:\n  held:\n" + "".join(f"    {line}\n" for line in path.read_text().splitlines())
    )
    spec = read_spec(serving)
    try_models(spec, settings)
    config = make_config(spec, settings)
    code = list_code(config)
    assert "args.graphs.held.nodes.held: own_kinds:Clip" in code
    assert "args.graphs.held.nodes.flaky: flaky:Flaky" in code
    path.with_name("own_kinds.py").unlink()
    again = GraphSpec.model_validate(config["args"]["graphs"]["held"])
    assert again.nodes["held"].list_code() == spec.graphs["held"].nodes["held"].list_code()
    np.testing.assert_array_equal(
        OfflineGraph(again).infer(X)["y"], np.clip(open_model("1").infer(X)["y"], 0.0, 0.5)
    )


def test_two_kinds_of_one_name_from_different_files_are_refused(
    path: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "own_kinds.py").write_text(path.with_name("own_kinds.py").read_text() + "# another\n")
    (inner / "inner.yaml").write_text(
        f"nodes:\n  one: {{kind: model, model: {tmp_path / 'model.onnx'}}}\n"
        '  held: {kind: "own_kinds:Clip", of: [one.y]}\noutputs: [held]\n'
    )
    nodes = "nodes:\n  below: {kind: graph, file: inner/inner.yaml}"
    path.write_text(path.read_text().replace("nodes:", nodes).replace("y: held.y", "y: held.y, b: below.y"))
    with pytest.raises(SpecError, match=r"have different files 'own_kinds\.py'"):
        read_graphs(path)


ANSWERS = """
import asyncio
import numpy as np
from raymlops.graphs.node_kind import Built, Combination, NodeKind
from raymlops.graphs.port_types import join_ports
from raymlops.specs.graph_nodes import NodeDocument
class Node(NodeDocument):
    of: list[str]
class Wrong(Combination):
    spec, rows_independent = Node, True
    def outputs(self, node, reads, answers):
        return (join_ports(reads),)
class Short(Wrong):
    def combine(self, node):
        return lambda arrays: arrays[0][:-1]
class Double(Wrong):
    def combine(self, node):
        return lambda arrays: arrays[0].astype(np.float64)
class Unnamed(Wrong):
    def build(self, parts):
        async def run(batch, request):
            return {"other": batch["first.y"]}
        return Built(run)
class Sleeper(Wrong):
    def build(self, parts):
        async def run(batch, request):
            await asyncio.sleep(0.001)
            return {"y": batch["first.y"]}
        return Built(run, suspends=True)
"""


def own(path: pathlib.Path, name: str) -> GraphSpec:
    path.with_name("kinds.py").write_text(ANSWERS)
    node = f'{{kind: "kinds:{name}", of: [first.y]}}'
    path.write_text(
        f"nodes:\n  first: {{kind: model, model: {path.parent / 'model.onnx'}}}\n  own: {node}\noutputs: {{y: own.y}}\n"
    )
    return read_graph(path)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Short", "Node 'own' declares y: .*, but answered 1 rows for 2"),
        ("Double", r"Node 'own' declares y: FP32\[-1,3\], but answered FP64"),
        ("Unnamed", "Node 'own' declares output 'y', but answered 'other'"),
    ],
)
def test_a_kind_of_ones_own_is_held_to_what_it_said_that_it_answers(
    path: pathlib.Path, settings: Settings, name: str, told: str
) -> None:
    hosted = host_graph("g", prepare_graph(own(path, name), settings), {}, settings)
    with pytest.raises(NodeError, match=told):
        asyncio.run(hosted.endpoint.infer(X))


def test_a_kind_of_ones_own_may_wait(path: pathlib.Path) -> None:
    np.testing.assert_array_equal(
        OfflineGraph(own(path, "Sleeper")).infer(X)["y"], open_model("1").infer(X)["y"]
    )


RAISES = """
from raymlops.graphs.node_kind import NodeKind
from raymlops.specs.graph_nodes import NodeDocument
class Empty:
    pass
class Node(NodeDocument):
    of: str
class Leaf(NodeKind):
    spec, is_leaf = Node, True
    def build(self, parts): ...
class Broken(NodeKind):
    spec = Node
    def reads(self, node):
        return [node.of]
    def outputs(self, node, reads, answers):
        return [][1]
    def build(self, parts): ...
class Unsaid(NodeKind):
    def build(self, parts): ...
class Unmade(Broken):
    def outputs(self, node, reads, answers):
        return (reads[0][1],)
class Portless(Broken):
    def outputs(self, node, reads, answers):
        return reads[0][1]
class Doubled(Broken):
    def outputs(self, node, reads, answers):
        return (reads[0][1],) * 2
class Numbered(Broken):
    def reads(self, node):
        return [1]
class Unbuilt(Broken):
    def outputs(self, node, reads, answers):
        return (reads[0][1],)
    def build(self, parts):
        raise RuntimeError("no")
"""
MISTAKES: dict[str, tuple[str, str]] = {
    "an unknown key": (
        '{kind: "own_kinds:Clip", of: [first.y], hihg: 2}',
        "Node 'wrong': Unknown key 'hihg'; did you mean 'high'?",
    ),
    "a missing key": ('{kind: "own_kinds:Clip"}', "Node 'wrong': key 'of' is missing; add it"),
    "a wrong value": (
        '{kind: "own_kinds:Clip", of: [first.y], low: lots}',
        "Node 'wrong': low: .*got 'lots'",
    ),
    "an unknown class": ('{kind: "own_kinds:Clap", of: [first.y]}', "did you mean 'Clip'"),
    "an unknown module": (
        '{kind: "nowhere:Clip", of: [first.y]}',
        "neither beside the document nor installed",
    ),
    "a kind that is no text": ("{kind: [own]}", "Unknown kind of node 'wrong': .*Known: cascade"),
    "no name of a class": ('{kind: "own_kinds:", of: [first.y]}', "nodes.wrong.kind"),
    "tensors that do not fit": ('{kind: "own_kinds:Clip", of: [first.label]}', "cannot average label: INT64"),
    "a node that is not there": (
        '{kind: "own_kinds:Retry", run: nowhere}',
        "node that 'wrong' calls: 'nowhere'",
    ),
    "a class that is no kind": ('{kind: "kinds:Empty"}', "kinds:Empty is not a subclass of .*NodeKind"),
    "no spec": ('{kind: "kinds:Unsaid"}', "kinds:Unsaid has as its spec None; expected a subclass of"),
    "nothing built": ('{kind: "kinds:Unmade", of: first.y}', "kinds:Unmade failed: AttributeError"),
    "a leaf": ('{kind: "kinds:Leaf", of: first.y}', "says is_leaf, but only models"),
    "a failure": ('{kind: "kinds:Broken", of: first.y}', "kinds:Broken failed: IndexError"),
    "outputs that are none": (
        '{kind: "kinds:Portless", of: first.y}',
        "its outputs are .*expected a tuple of",
    ),
    "outputs of one name": ('{kind: "kinds:Doubled", of: first.y}', r"outputs are named \['y', 'y'\]"),
    "a reference that is no text": (
        '{kind: "kinds:Numbered", of: first.y}',
        "node in '1', which 'wrong' reads",
    ),
    "a failure later": ('{kind: "kinds:Unbuilt", of: first.y}', "kinds:Unbuilt failed: RuntimeError: no"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_node_of_ones_own_kind_is_named(path: pathlib.Path, mistake: str) -> None:
    node, told = MISTAKES[mistake]
    path.with_name("kinds.py").write_text(RAISES)
    path.write_text(re.sub(r"  held: .*", f"  wrong: {node}", path.read_text()).replace("held.y", "wrong.y"))
    with pytest.raises(SpecError, match=told):
        OfflineGraph(read_graph(path))


def test_every_kind_has_a_document_and_every_leaf_what_opens_it() -> None:
    assert {name: kind.spec for name, kind in KINDS.items()} == NODE_DOCUMENTS
    assert {name for name, kind in KINDS.items() if kind.is_leaf} == LEAF_KINDS.keys()


USE = """
import numpy as np
from raymlops.graphs.drawing import sketch, to_mermaid
from raymlops.graphs.execution import Implementation
from raymlops.graphs.graph import Graph
from raymlops.graphs.validation import validate
from raymlops.specs.document import parse_document
from raymlops.specs.graph import GraphSpec
spec = parse_document('''
inputs: [{name: a, shape: [-1, 2]}, {name: b, shape: [-1, 2]}, {name: c, shape: [-1, 2]}]
nodes: {middle: {kind: median, of: [inputs.a, inputs.b, inputs.c]}}
outputs: {y: middle.a}
''', GraphSpec)
plan = validate(spec, {})
assert "middle<br/>median" in to_mermaid(sketch(plan))
batch = {name: np.full((1, 2), value, np.float32) for name, value in zip("abc", (1, 5, 2))}
answer = Graph(plan, {}).infer_now(batch)["y"]
assert answer.tolist() == [[2, 2]] and answer.dtype == np.float32
assert GraphSpec.model_json_schema()["$defs"]["MedianNode"]
"""


def test_a_kind_added_as_contributing_says_touches_two_files_and_works(tmp_path: pathlib.Path) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (diff,) = (
        found for found in re.findall(r"```diff\n(.*?)```", text, re.DOTALL) if "graphs/kinds/" in found
    )
    touched = re.findall(r"^diff --git a/(\S+)", diff, re.MULTILINE)
    existing = [file for file in touched if (ROOT / file).exists()]
    assert len(touched) == 3
    assert len(existing) == 2
    shutil.copytree(ROOT / "raymlops", tmp_path / "raymlops", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "median.diff").write_text(diff)
    patch = ["git", "apply", "--unsafe-paths", "--recount", "median.diff"]
    subprocess.run(patch, cwd=tmp_path, check=True, timeout=60)
    done = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode()
