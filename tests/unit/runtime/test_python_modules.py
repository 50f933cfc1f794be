"""Modules of Python nodes: found beside the document by every verb, wherever it is run, and as they are there now."""

import pathlib
import pickle
import re
from collections.abc import Iterator

import numpy as np
import pytest
from click.testing import CliRunner

from raymlops.cli.graph import graph as command
from raymlops.errors import ArtifactError, ForbiddenError, SpecError
from raymlops.runtime import python_modules
from raymlops.runtime.open_graph import OfflineGraph
from raymlops.serving.deploy import config_files, spec_trial
from raymlops.serving.deploy.config_files import read_graphs
from raymlops.serving.deploy.history import make_config
from raymlops.settings import Settings
from raymlops.specs.document import validate_document
from raymlops.specs.graph import GraphSpec, read_graph
from raymlops.specs.module_files import LIMIT, collect_files
from raymlops.tensors import Batch
from tests import imported_modules

GRAPH = """
name: {name}
nodes:
  own:
    kind: python
    target: {target}
    takes: [{{name: x}}]
    outputs: [{{name: y}}]
outputs: [own]
"""
NODE = """
import numpy as np
class Node:
    def run(self, batch):
        return {"y": batch["x"] * np.float32(FACTOR)}
"""


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    with imported_modules.forgotten():
        yield


def write(
    folder: pathlib.Path, files: dict[str, str], target: str = "nodes:Node", name: str = "g"
) -> pathlib.Path:
    for file, text in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    path = folder / "graph.yaml"
    path.write_text(GRAPH.format(name=name, target=target))
    return path


def answer(path: pathlib.Path) -> float:
    (spec,) = read_graphs(path)
    return float(OfflineGraph(spec).infer({"x": np.ones(1, np.float32)})["y"][0])


LAYOUTS: dict[str, tuple[str, dict[str, str]]] = {
    "alone": ("nodes:Node", {"nodes.py": f"FACTOR = 7{NODE}"}),
    "with a module beside it": (
        "nodes:Node",
        {"nodes.py": f"from factors import FACTOR{NODE}", "factors.py": "FACTOR = 7"},
    ),
    "with a package beside it": (
        "nodes:Node",
        {
            "nodes.py": f"import parts.factors as f\nFACTOR = f.FACTOR{NODE}",
            "parts/__init__.py": "",
            "parts/factors.py": "from .numbers_of import FACTOR",
            "parts/numbers_of.py": "FACTOR = 7",
        },
    ),
    "in a package": (
        "mine.nodes:Node",
        {"mine/__init__.py": "FACTOR = 7", "mine/nodes.py": f"from . import FACTOR{NODE}"},
    ),
    "in a folder that is no package": (
        "mine.nodes:Node",
        {"mine/nodes.py": f"from mine.deep import FACTOR{NODE}", "mine/deep.py": "FACTOR = 7"},
    ),
    "with an import while it runs": (
        "nodes:Node",
        {
            "nodes.py": "class Node:\n    def run(self, batch):\n        from late import FACTOR\n"
            "        return {'y': batch['x'] * FACTOR}\n",
            "late.py": "import numpy\nFACTOR = numpy.float32(7)",
        },
    ),
    "with a file of text": (
        "nodes:Node",
        {
            "nodes.py": 'import pathlib\nFACTOR = float(pathlib.Path(__file__).with_name("factor.txt").read_text())'
            + NODE,
            "factor.txt": "7",
        },
    ),
    "with imports in a circle": (
        "nodes:Node",
        {"nodes.py": f"FACTOR = 7\nimport other{NODE}", "other.py": "import nodes"},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_module_is_found_beside_its_document(layout: str, tmp_path: pathlib.Path) -> None:
    target, files = LAYOUTS[layout]
    assert answer(write(tmp_path, files, target)) == 7


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_was_read_needs_the_folder_no_more(layout: str, tmp_path: pathlib.Path) -> None:
    """As in a process on another node, or after a rollback."""
    target, files = LAYOUTS[layout]
    path = write(tmp_path, files, target)
    text = read_graph(path).model_dump_json()
    path.parent.rename(tmp_path.with_name(f"{tmp_path.name}-gone"))
    spec = GraphSpec.model_validate_json(text)
    assert OfflineGraph(spec).infer({"x": np.ones(1, np.float32)})["y"].tolist() == [7]


def test_a_relative_path_is_taken_from_where_the_command_is_run(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "deep", {"nodes.py": f"FACTOR = 7{NODE}"})
    monkeypatch.chdir(tmp_path)
    assert answer(pathlib.Path("deep/graph.yaml")) == 7
    monkeypatch.chdir(tmp_path / "deep")
    assert answer(pathlib.Path("graph.yaml")) == 7
    done = CliRunner().invoke(command, ["graph.yaml", "--check"])
    assert done.output == "g: a valid graph of 1 nodes\n", done.output


def test_documents_in_two_folders_have_their_own_modules_of_one_name(tmp_path: pathlib.Path) -> None:
    paths = [
        write(
            tmp_path / str(i),
            {"nodes.py": f"from factors import FACTOR{NODE}", "factors.py": f"FACTOR = {i}"},
        )
        for i in (2, 3)
    ]
    graphs = [OfflineGraph(read_graph(path)) for path in (*paths, *paths)]
    x: Batch = {"x": np.ones(1, np.float32)}
    assert [float(graph.infer(x)["y"][0]) for graph in graphs] == [2, 3, 2, 3]


def test_an_edited_module_is_another_version_of_its_graph(tmp_path: pathlib.Path) -> None:
    files = {"nodes.py": f"from factors import FACTOR{NODE}", "factors.py": "FACTOR = 2"}
    path = write(tmp_path, files)
    before = read_graph(path)
    assert answer(path) == 2
    write(tmp_path, {"factors.py": "FACTOR = 3"})
    assert read_graph(path) != before
    assert answer(path) == 3


def test_nodes_of_a_document_share_the_modules_beside_it(tmp_path: pathlib.Path) -> None:
    counting = "import counter\nclass Node:\n    def __init__(self):\n        counter.made.append(1)\n"
    counting += "    def run(self, batch):\n        return {'y': batch['x'] * 0 + len(counter.made)}\n"
    write(tmp_path, {"one.py": counting, "two.py": counting, "counter.py": "made = []"})
    nodes = {
        name: {
            "kind": "python",
            "target": f"{name}:Node",
            "takes": [{"name": "x"}],
            "outputs": [{"name": "y"}],
        }
        for name in ("one", "two")
    }
    (tmp_path / "two.yaml").write_text(repr({"nodes": nodes, "outputs": {"a": "one.y", "b": "two.y"}}))
    graph = OfflineGraph(read_graph(tmp_path / "two.yaml"))
    assert graph.infer({"x": np.ones(1, np.float32)}) == {"a": [2], "b": [2]}


@pytest.mark.parametrize("package", [{"mine/__init__.py": ""}, {}], ids=["package", "folder"])
def test_nodes_of_one_document_may_be_in_one_package(tmp_path: pathlib.Path, package: dict[str, str]) -> None:
    files = {f"mine/{name}.py": f"FACTOR = {number}{NODE}" for name, number in (("one", 1), ("two", 2))}
    write(tmp_path, files | package)
    nodes = {
        name: {
            "kind": "python",
            "target": f"mine.{name}:Node",
            "takes": [{"name": "x"}],
            "outputs": [{"name": "y"}],
        }
        for name in ("one", "two")
    }
    (tmp_path / "two.yaml").write_text(repr({"nodes": nodes, "outputs": {"a": "one.y", "b": "two.y"}}))
    for _ in range(2):
        graph = OfflineGraph(read_graph(tmp_path / "two.yaml"))
        assert graph.infer({"x": np.ones(1, np.float32)}) == {"a": [1], "b": [2]}


def test_two_graphs_of_an_application_cannot_have_different_modules_of_one_name(
    tmp_path: pathlib.Path,
) -> None:
    for i in (2, 3):
        write(tmp_path / str(i), {"nodes.py": f"FACTOR = {i}{NODE}"})
    outer = {
        f"g{i}": {"nodes": {"in": {"kind": "graph", "file": f"{i}/graph.yaml"}}, "outputs": ["in"]}
        for i in (2, 3)
    }
    path = tmp_path / "serving.yaml"
    path.write_text(repr({"graphs": outer}))
    with pytest.raises(SpecError, match=r"'g2/in/own' and 'g3/in/own' have different files 'nodes\.py'"):
        config_files.read_spec(path)
    outer.pop("g3")
    path.write_text(repr({"graphs": outer}))
    node = config_files.read_spec(path).graphs["g2"].nodes["in"].graph.nodes["own"]  # type: ignore[union-attr]
    assert node.code == {"nodes.py": f"FACTOR = 2{NODE}"}  # type: ignore[union-attr]


def test_modules_of_the_environment_stay_what_they_are(tmp_path: pathlib.Path) -> None:
    names = ("random.py", "numpy/__init__.py", "raymlops/__init__.py", "yaml.py")
    files = {"nodes.py": f"import random, numpy, raymlops, yaml\nFACTOR = 7{NODE}"}
    path = write(tmp_path, files | dict.fromkeys(names, "raise AssertionError('imported')"))
    assert list(collect_files(tmp_path, "nodes")) == ["nodes.py"]
    assert answer(path) == 7
    assert collect_files(tmp_path, "random") == {}
    with pytest.raises(SpecError, match="the name of an installed package"):
        collect_files(tmp_path, "yaml")


MISTAKES: list[tuple[str, str, type[Exception], str]] = [
    (
        "class Node:\n    def run(self, batch):\n        return (",
        "nodes:Node",
        SpecError,
        r"nodes\.py:3: not valid Python",
    ),
    (f"FACTOR = 7{NODE}", "nodes:Nod", SpecError, "did you mean 'Node'"),
    (f"FACTOR = 7{NODE}", "nodez:Node", SpecError, "neither beside the document nor installed"),
    (f"import nothing_of_this_name{NODE}", "nodes:Node", SpecError, "No module named 'nothing_of_this_name'"),
    (f"1 / 0{NODE}", "nodes:Node", SpecError, "importing 'nodes' failed: ZeroDivisionError"),
    (
        "class Node:\n    def __init__(self, size):\n        pass",
        "nodes:Node",
        SpecError,
        "does not take config",
    ),
    (
        "class Node:\n    def __init__(self):\n        raise KeyError('x')\n    run = None.__init__",
        "nodes:Node",
        ArtifactError,
        "cannot be made",
    ),
    ("class Node:\n    pass", "nodes:Node", SpecError, "has no method run"),
    (f"FACTOR = 7{NODE}\nbig = '{'x' * LIMIT}'", "nodes:Node", SpecError, "more than 1,048,576"),
]


@pytest.mark.parametrize(("text", "target", "kind", "told"), MISTAKES, ids=[told for *_, told in MISTAKES])
def test_mistakes_are_told_in_a_sentence(
    tmp_path: pathlib.Path, text: str, target: str, kind: type[Exception], told: str
) -> None:
    path = write(tmp_path, {"nodes.py": text}, target)
    with pytest.raises(kind, match=told):
        answer(path)


def test_files_of_secrets_do_not_travel_in_a_config(tmp_path: pathlib.Path, settings: Settings) -> None:
    text = f"import pathlib\nKEY = pathlib.Path(__file__).with_name('token.txt')\nFACTOR = 7{NODE}"
    write(tmp_path, {"nodes.py": text, "token.txt": "a7"})
    path = tmp_path / "serving.yaml"
    path.write_text(
        repr({"graphs": {"g": {"nodes": {"in": {"kind": "graph", "file": "graph.yaml"}}, "outputs": ["in"]}}})
    )
    with pytest.raises(ForbiddenError, match=r"code\.token\.txt looks like a secret"):
        make_config(config_files.read_spec(path), settings)
    (tmp_path / "token.txt").unlink()
    assert make_config(config_files.read_spec(path), settings)["args"]["graphs"]["g"]


def test_a_module_that_was_edited_elsewhere_may_begin_with_a_byte_order_mark(tmp_path: pathlib.Path) -> None:
    assert answer(write(tmp_path, {"nodes.py": f"\ufeffFACTOR = 7{NODE}".replace("\n", "\r\n")})) == 7


@pytest.mark.parametrize("name", ["../nodes.py", "/etc/nodes.py", ".", "a/../../b.py"])
def test_files_of_a_document_stay_in_their_folder(name: str) -> None:
    node = {"kind": "python", "target": "nodes:Node", "outputs": [{"name": "y"}], "code": {name: "x = 1"}}
    with pytest.raises(SpecError, match="a path below the document's folder"):
        validate_document({"nodes": {"own": node}, "outputs": ["own"]}, GraphSpec)


@pytest.mark.parametrize(
    "text",
    [
        "from other import Node",
        "import other as Node",
        "Node = type('Node', (), {})",
        "if True:\n    from other import *",
    ],
)
def test_a_class_may_come_into_its_module_from_elsewhere(tmp_path: pathlib.Path, text: str) -> None:
    write(tmp_path, {"nodes.py": text, "other.py": f"FACTOR = 7{NODE}"})
    assert read_graph(tmp_path / "graph.yaml").nodes["own"].kind == "python"


def test_objects_of_such_modules_can_be_pickled(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, {"nodes.py": f"FACTOR = 7{NODE}"})
    instance = python_modules.load_python("own", read_graph(path).nodes["own"])  # type: ignore[arg-type]
    assert type(pickle.loads(pickle.dumps(instance))) is type(instance)


def test_the_page_on_nodes_in_python_says_what_works(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (pathlib.Path(__file__).parents[3] / "docs/python_nodes.md").read_text()
    node, check = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (graph,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "words.py").write_text(node)
    (tmp_path / "graph.yaml").write_text(graph)
    monkeypatch.chdir(tmp_path)
    exec(check, {})


@pytest.mark.parametrize(("text", "target", "kind", "told"), MISTAKES, ids=[told for *_, told in MISTAKES])
def test_what_is_wrong_with_a_class_is_told_before_anything_is_deployed(
    tmp_path: pathlib.Path, settings: Settings, text: str, target: str, kind: type[Exception], told: str
) -> None:
    write(tmp_path, {"nodes.py": text}, target)
    path = tmp_path / "serving.yaml"
    inner = {"nodes": {"in": {"kind": "graph", "file": "graph.yaml"}}, "outputs": ["in"]}
    path.write_text(repr({"graphs": {"g": inner}}))
    elsewhere = (
        "nothing_of_this_name" in text or target == "nodez:Node"
    )  # it may be installed where it will run
    if kind is ArtifactError or elsewhere:
        spec_trial.try_models(config_files.read_spec(path), settings)
        return
    with pytest.raises(kind, match=told):
        spec_trial.try_models(config_files.read_spec(path), settings)
