"""What a graph's inputs take follows from the models that read them, in inner graphs too."""

import pathlib
from typing import Any

import pytest

from raymlops.errors import SpecError
from raymlops.runtime.open_graph import OfflineGraph
from raymlops.serving.protocol.columns import read_columns, to_array
from raymlops.specs.document import validate_document
from raymlops.specs.graph import GraphSpec
from tests import toy_models

COMMA = {"type": "number", "decimal": ","}


def save_model(folder: pathlib.Path, name: str, conversion: dict[str, Any] | None) -> str:
    """x FP32 -> y, with a conversion of x."""
    from onnx import TensorProto, helper

    column = {"name": "x", "kind": "number", **({"conversion": conversion} if conversion else {})}
    model = toy_models.make(
        [helper.make_node("Identity", ["x"], ["y"])],
        [toy_models.value("x", TensorProto.FLOAT, "n")],
        [toy_models.value("y", TensorProto.FLOAT, "n")],
        contract={"columns": [column]},
    )
    return str(toy_models.save(model, folder / f"{name}.onnx"))


def open_two(
    folder: pathlib.Path, first: dict[str, Any] | None, second: dict[str, Any] | None
) -> OfflineGraph:
    """Two models that read one input, the second within a graph of its own."""
    inner = {
        "nodes": {"b": {"kind": "model", "model": save_model(folder, "b", second)}},
        "outputs": {"y": "b.y"},
    }
    nodes = {
        "a": {"kind": "model", "model": save_model(folder, "a", first)},
        "within": {"kind": "graph", "graph": inner},
    }
    document = {"name": "two", "nodes": nodes, "outputs": {"a": "a.y", "b": "within.y"}}
    return OfflineGraph(validate_document(document, GraphSpec))


@pytest.mark.parametrize(("first", "second"), [(COMMA, COMMA), (COMMA, None), (None, COMMA)])
def test_an_input_is_converted_as_its_models_were_trained(
    first: dict[str, Any] | None, second: dict[str, Any] | None, tmp_path: pathlib.Path
) -> None:
    graph = open_two(tmp_path, first, second)
    (column,) = read_columns(graph.signature, graph.contract).values()
    assert to_array(["1,5", 2.5, None], column).tolist()[:2] == [1.5, 2.5]


def test_an_input_that_two_models_convert_differently_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(SpecError, match=r"'x' is converted by a .* and by within/b .*an input of its own"):
        open_two(tmp_path, COMMA, {"type": "number", "decimal": ",", "thousands": "."})
