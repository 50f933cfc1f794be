import pathlib
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from raymlops.cli.graph import graph as command
from raymlops.errors import ArtifactError, SpecError
from raymlops.graphs.drawing import sketch, to_mermaid
from raymlops.graphs.placement import Limits, Measurement, decide, find_chains
from raymlops.graphs.plan import Plan
from raymlops.graphs.svg import to_svg
from raymlops.models.merge import load_part, merge_models
from raymlops.models.session import open_session
from raymlops.specs.document import parse_document
from raymlops.specs.graph import GraphSpec, read_graph
from tests.graph_models import make_model, open_model, read_model, validate_graph

CHAIN = """
name: chain
nodes:
  a: {kind: model, model: "1"}
  b: {kind: model, model: "2", inputs: {x: a.y}}
  c: {kind: model, model: "3,two", inputs: {a: b.y, b: inputs.x}}
  route: {kind: switch, cases: [{when: a.label == 1, then: one}], otherwise: two}
  one: {kind: model, model: "4"}
  two: {kind: model, model: "5", placement: separate}
outputs: {y: c.y, routed: route.y}
"""


def plan_of(text: str) -> Plan:
    return validate_graph(parse_document(text, GraphSpec))


def test_auto_decides_by_needs_size_and_time_and_says_why() -> None:
    plan = plan_of(CHAIN.replace('model: "4"', 'model: "4", resources: {gpus: 0.5}'))
    measured = {
        "a": Measurement(0.05, 100),
        "b": Measurement(40.0, 100),
        "c": Measurement(0.05, 5000),
        "one": Measurement(0.05, 100),
        "two": Measurement(0.05, 100),
    }
    decisions = decide(plan, measured, Limits(fused_bytes=1000))
    assert {path: decision.place for path, decision in decisions.items()} == {
        "a": "fused",
        "b": "separate",
        "c": "separate",
        "one": "separate",
        "two": "separate",
    }
    assert "a row takes 40 ms, over 5 hops of 3 ms" in decisions["b"].reason
    assert "do not fit" in decisions["c"].reason
    assert "gpus 0.5" in decisions["one"].reason
    assert decisions["two"].reason == "the spec says so"


def test_chains_are_found_where_nothing_stands_between() -> None:
    plan = plan_of(CHAIN)
    assert find_chains(plan, decide(plan)) == [("a", "b", "c")]
    timed = plan_of(CHAIN.replace('model: "2"', 'model: "2", timeout_s: 1'))
    assert find_chains(timed, decide(timed)) == []
    apart = plan_of(CHAIN.replace("name: chain", "name: chain\nmerge: false"))
    assert find_chains(apart, decide(apart)) == []


def test_mermaid_names_nodes_types_placements_and_conditions() -> None:
    plan = plan_of(CHAIN)
    text = to_mermaid(sketch(plan, decide(plan), {"a": 0.5}, [("a", "b", "c")]))
    for part in (
        "flowchart LR",
        "a<br/>model · 1<br/>merged: a+b+c<br/>0.5 ms",
        'n0 -->|"x: FP32[-1,3]"| n1',
        "separate: the spec says so",
        "a.label == 1",
        "otherwise",
    ):
        assert part in text


def test_the_picture_is_well_formed_and_its_boxes_do_not_overlap() -> None:
    plan = plan_of(CHAIN)
    root = ElementTree.fromstring(to_svg(sketch(plan, decide(plan))))
    boxes = [
        tuple(float(element.attrib[key]) for key in ("x", "y", "width", "height"))
        for element in root.iter("{http://www.w3.org/2000/svg}rect")
        if "rx" in element.attrib
    ]
    assert len(boxes) == 8
    for i, (x, y, width, height) in enumerate(boxes):
        for other_x, other_y, other_width, other_height in boxes[:i]:
            apart_x = x + width <= other_x or other_x + other_width <= x
            assert apart_x or y + height <= other_y or other_y + other_height <= y


def test_the_command_checks_draws_and_writes_a_picture(tmp_path: pathlib.Path) -> None:
    text = CHAIN
    for name in ("1", "2", "3,two", "4", "5"):
        (tmp_path / f"{name}.onnx").write_bytes(read_model(name))
        text = text.replace(f'model: "{name}"', f'model: "{tmp_path / name}.onnx"')
    (tmp_path / "graph.yaml").write_text(text)
    picture = tmp_path / "graph.svg"
    done = CliRunner().invoke(command, [str(tmp_path / "graph.yaml"), "--svg", str(picture)])
    assert done.exit_code == 0, done.output
    assert "merged: a+b+c" in done.output
    assert re.search(r"fused: a row takes [\d.e-]+ ms", done.output)
    ElementTree.fromstring(picture.read_text())
    checked = CliRunner().invoke(command, [str(tmp_path / "graph.yaml"), "--check"])
    assert checked.output == "chain: a valid graph of 6 nodes\n"


def test_a_graph_file_that_contains_itself_is_refused(tmp_path: pathlib.Path) -> None:
    text = "nodes: {again: {kind: graph, file: graph.yaml}}\noutputs: [again]\n"
    (tmp_path / "graph.yaml").write_text(text)
    with pytest.raises(SpecError, match="contains itself"):
        read_graph(tmp_path / "graph.yaml")


def test_merged_models_answer_as_their_parts_and_keep_what_is_asked_for() -> None:
    parts = [
        load_part("a", make_model(1), {"x": "inputs.x"}),
        load_part("b", make_model(2), {"x": "a.y"}),
        load_part("c", make_model(3, ("a", "b")), {"a": "b.y", "b": "inputs.x"}),
    ]
    merged = open_session(merge_models(parts, ["c.y", "a.label"]))
    assert [spec.name for spec in merged.signature.inputs] == ["inputs.x"]
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    answer = merged.infer({"inputs.x": x})
    first = open_model("1").infer({"x": x})
    second = open_model("2").infer({"x": first["y"]})
    third = open_session(make_model(3, ("a", "b"))).infer({"a": second["y"], "b": x})
    np.testing.assert_allclose(answer["c.y"], third["y"], rtol=1e-6)
    assert answer["a.label"].tolist() == first["label"].tolist()


def test_models_of_different_opsets_are_converted_or_refused_by_name() -> None:
    older = onnx.load_from_string(make_model(2))
    older.opset_import[0].version = 18
    parts = [
        load_part("a", make_model(1), {"x": "inputs.x"}),
        load_part("b", older.SerializeToString(), {"x": "a.y"}),
    ]
    merged = open_session(merge_models(parts, ["b.y"]))
    x = np.ones((2, 3), np.float32)
    expected = open_model("2").infer({"x": open_model("1").infer({"x": x})["y"]})["y"]
    np.testing.assert_allclose(merged.infer({"inputs.x": x})["b.y"], expected, rtol=1e-6)
    for part, version in zip(parts, (2, 3), strict=True):
        part.model.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", version))
    with pytest.raises(ArtifactError, match=r"versions 2 and 3 of operators 'ai\.onnx\.ml'"):
        merge_models(parts, ["b.y"])
