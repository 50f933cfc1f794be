import pathlib
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import matplotlib
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from PIL import ImageFont

from raymlops.cli.graph import graph as command
from raymlops.errors import ArtifactError, SpecError
from raymlops.graphs.drawing import Sketch, sketch, to_mermaid
from raymlops.graphs.placement import Limits, Measurement, decide, find_chains
from raymlops.graphs.plan import Plan
from raymlops.graphs.svg import to_svg
from raymlops.graphs.text_drawing import to_text
from raymlops.models.merge import load_part, merge_models
from raymlops.models.session import open_session
from raymlops.specs.document import parse_document, validate_document
from raymlops.specs.graph import GraphSpec, read_graph
from tests.graph_models import graphs, make_model, open_model, read_model, validate_graph

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


SVG = "{http://www.w3.org/2000/svg}"
Span = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def font(size: float, bold: bool) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(pathlib.Path(matplotlib.get_data_path()) / "fonts/ttf" / name), size)


def read_texts(root: ElementTree.Element) -> list[tuple[Span, bool]]:
    """Where each text lies in the widest font that is usual, and whether it is a label."""
    found = []
    for text in root.iter(f"{SVG}text"):
        size, bold = float(text.get("font-size", "12")), text.get("font-weight") == "bold"
        width = font(size, bold).getlength(text.text or "")
        x, y = float(text.attrib["x"]), float(text.attrib["y"])
        left = x - width if text.get("text-anchor") == "end" else x
        found.append(
            ((left, y - 0.75 * size, left + width, y + 0.2 * size), text.get("text-anchor") == "end")
        )
    return found


def read_boxes(root: ElementTree.Element) -> list[Span]:
    found = []
    for rect in root.iter(f"{SVG}rect"):
        if "rx" in rect.attrib:
            x, y, width, height = (float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
            found.append((x, y, x + width, y + height))
    return found


def read_points(root: ElementTree.Element) -> Iterator[list[tuple[float, float]]]:
    """Points along each line, close together."""
    for path in root.iter(f"{SVG}path"):
        if "marker-end" not in path.attrib:
            continue
        points: list[tuple[float, float]] = []
        for letter, numbers in re.findall(r"([MLCHV])([-\d. ]+)", path.attrib["d"]):
            values = [float(number) for number in numbers.split()]
            if letter in "HV":
                x, y = points[-1]
                values = [values[0], y] if letter == "H" else [x, values[0]]
            corners = [*points[-1:], *zip(values[::2], values[1::2], strict=True)]
            steps = np.linspace(0, 1, 60)[:, None]
            if letter == "C":
                a, b, c, d = (np.array(corner) for corner in corners)
                curve = (
                    a * (1 - steps) ** 3 + 3 * b * steps * (1 - steps) ** 2 + 3 * c * steps**2 * (1 - steps)
                )
                points += map(tuple, curve + d * steps**3)
            elif len(corners) == 2:
                start, end = (np.array(corner) for corner in corners)
                points += map(tuple, start * (1 - steps) + end * steps)
            else:
                points += corners
        yield points


def meet(first: Span, second: Span, gap: float = 0) -> bool:
    return (
        first[0] < second[2] + gap
        and second[0] < first[2] + gap
        and first[1] < second[3] + gap
        and second[1] < first[3] + gap
    )


def is_inside(span: Span, around: Span) -> bool:
    return around[0] < span[0] and around[1] < span[1] and span[2] < around[2] and span[3] < around[3]


def check_picture(text: str, most_wide: float = 2400) -> None:
    root = ElementTree.fromstring(text)
    page = (0.0, 0.0, float(root.attrib["width"]), float(root.attrib["height"]))
    boxes, texts = read_boxes(root), read_texts(root)
    assert page[2] <= most_wide
    for i, box in enumerate(boxes):
        assert is_inside(box, page)
        assert not any(meet(box, other, 4) for other in boxes[:i])
    labels = [span for span, is_label in texts if is_label]
    for span, is_label in texts:
        assert is_inside(span, page)
        around = [box for box in boxes if meet(span, box)]
        if around:
            (box,) = around
            assert not is_label
            assert is_inside(span, box)
    for i, label in enumerate(labels):
        assert not any(meet(label, other, -1.5) for other in labels[:i])
    for points in read_points(root):
        assert all(page[0] <= x <= page[2] and page[1] <= y <= page[3] for x, y in points)
        assert not any(
            box[0] + 1 < x < box[2] - 1 and box[1] + 1 < y < box[3] - 1 for x, y in points for box in boxes
        )


def draw(spec: GraphSpec) -> Sketch:
    plan = validate_graph(spec)
    return sketch(plan, decide(plan), {path: 0.5 for path, _ in plan.leaves()})


@hypothesis.given(graphs())
def test_boxes_texts_and_lines_of_any_graph_keep_clear_of_each_other(spec: GraphSpec) -> None:
    picture = draw(spec)
    check_picture(to_svg(picture))
    for width in (40, 80, 132):
        assert all(len(line) <= width for line in to_text(picture, width).splitlines())


LONG = "a_very_long_name_that_goes_on_" * 6


def chain_of(length: int, name: str = "n") -> dict[str, Any]:
    nodes = {
        f"{name}{i}": {
            "kind": "model",
            "model": "1",
            "inputs": {"x": f"{name}{i - 1}.y" if i else "inputs.x"},
        }
        for i in range(length)
    }
    return {"nodes": nodes, "outputs": {"y": f"{name}{length - 1}.y"}}


def fan_of(width: int) -> dict[str, Any]:
    nodes: dict[str, Any] = {f"n{i}": {"kind": "model", "model": "1"} for i in range(width)}
    nodes["all"] = {"kind": "mean", "of": [f"n{i}.y" for i in range(width)]}
    return {"nodes": nodes, "outputs": ["all"]}


def many_inputs(count: int, nodes: int) -> dict[str, Any]:
    inputs = [{"name": f"{'column_of_a_wide_table_'}{i}", "shape": [-1]} for i in range(count)]
    outputs = [{"name": "y"}]
    own = {"kind": "python", "target": "numpy:array", "takes": inputs, "outputs": outputs}
    made: dict[str, Any] = {f"n{i}": own for i in range(nodes)}
    made["way"] = {"kind": "split", "weights": {f"n{i}": 1 for i in range(nodes)}}
    return {"nodes": made, "outputs": ["way"]}


SHAPES: dict[str, dict[str, Any]] = {
    "a chain of 20": chain_of(20),
    "a chain of 60": chain_of(60),
    "a fan of 20": fan_of(20),
    "long names": {"name": "x" * 200} | chain_of(12, LONG),
    "tables of 30 columns": many_inputs(30, 3),
    "a step over many": {
        "nodes": chain_of(20)["nodes"] | {"end": {"kind": "stack", "of": ["n0.y", "n10.y", "n19.y"]}},
        "outputs": {"a": "end.stacked", "b": "n3.y", "c": "n19.label"},
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_graphs_that_are_wide_deep_or_named_at_length_keep_to_the_page(shape: str) -> None:
    picture = draw(validate_document(SHAPES[shape], GraphSpec))
    check_picture(to_svg(picture))
    assert all(len(line) <= 60 for line in to_text(picture, 60).splitlines())
    for box in picture.boxes:
        assert box.lines[0][:20] in to_text(picture, 60)


def test_what_is_left_out_of_a_box_is_counted() -> None:
    text = to_svg(draw(validate_document(SHAPES["tables of 30 columns"], GraphSpec)))
    (box,) = [line for line in text.splitlines() if ">inputs<" in line]
    (more,) = re.findall(r">and (\d+) more<", box)
    assert box.count("column_of_a_wide_table_") + int(more) == 30


def test_the_text_for_a_terminal_tells_what_each_node_reads() -> None:
    plan = plan_of(CHAIN)
    text = to_text(sketch(plan, decide(plan), {"a": 0.5}))
    assert "a\n    model · 1\n" in text
    assert "  <- inputs: x: FP32[-1,3]\n" in text
    assert "  <- one: a.label == 1\n" in text


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


DRAWN = pathlib.Path(__file__).parent / "drawn"


@pytest.mark.parametrize(
    ("ending", "draw_as"),
    [("txt", lambda picture: to_text(picture, 100)), ("mmd", to_mermaid), ("svg", to_svg)],
    ids=["text", "mermaid", "svg"],
)
def test_a_graph_of_every_kind_is_drawn_as_it_was(ending: str, draw_as: Callable[[Sketch], str]) -> None:
    """The pictures were drawn before each kind had a file of its own."""
    spec = read_graph(DRAWN / "all_kinds.yaml")
    plan = validate_graph(spec)
    assert len({node.kind for node in spec.nodes.values()}) == 12
    measured = {path: Measurement(0.5 * i, 1000) for i, (path, _) in enumerate(plan.leaves())}
    decisions = decide(plan, measured)
    times = {path: measurement.milliseconds for path, measurement in measured.items()}
    picture = sketch(plan, decisions, times, find_chains(plan, decisions))
    assert draw_as(picture) == (DRAWN / f"all_kinds.{ending}").read_text(encoding="utf-8")
