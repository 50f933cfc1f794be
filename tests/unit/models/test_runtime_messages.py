"""What ONNX Runtime says of models and requests reaches people without its source files and codes."""

import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from raymlops.errors import ArtifactError, InputError, TooLargeError
from raymlops.models.runtime_messages import explain_failure
from raymlops.models.session import open_session
from tests.toy_models import make, value

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
INTERNAL = re.compile(
    r"ONNXRuntimeError|onnxruntime_src|onnxruntime::|std::|\.(h|cc|cpp|cu|cuh|hpp):\d|status code|was false"
    r"|Status Message|RUNTIME_EXCEPTION|INVALID_ARGUMENT|\n"
)


def zeros(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


def weight(name: str, array: Any) -> Any:
    return numpy_helper.from_array(np.asarray(array), name)


def build(
    operator: str, *more: str, weights: dict[str, Any] | None = None, x: int = FLOAT, **attributes: Any
) -> Any:
    """One node 'n1' over x of any shape and `more`: inputs where they are no weights."""
    held = weights or {}
    node = helper.make_node(operator, ["x", *more], ["y"], name="n1", **attributes)
    shape = [f"d{i}" for i in range(4 if operator == "Conv" else 2)]
    inputs = [value("x", x, *shape), *(value(name, INT64, "k") for name in more if name not in held)]
    outputs = [helper.make_tensor_value_info("y", FLOAT, None)]
    return make([node], inputs, outputs, [weight(name, array) for name, array in held.items()])


RUNS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "MatMul": (
        build("MatMul", "w", weights={"w": zeros(3, 2)}), {"x": zeros(1, 4)}, r"dimension mismatch.*float32\[1, 4\]"
    ),
    "Reshape": (
        build("Reshape", "s", weights={"s": [3, 2]}), {"x": zeros(1, 2)},
        r"Input shape:\{1,2\}, requested shape:\{3,2\}"
    ),
    "Gather": (build("Gather", "i"), {"x": zeros(1, 2), "i": np.array([9])}, r"idx=9 must be within .*\[-1,0\]"),
    "Add": (build("Add", "w", weights={"w": zeros(3, 2)}), {"x": zeros(2, 5)}, "2 by 5"),
    "Concat": (build("Concat", "w", weights={"w": zeros(3, 2)}, axis=0), {"x": zeros(2, 5)}, "dimensions of 2 and 5"),
    "Conv": (build("Conv", "w", weights={"w": zeros(3, 2, 3, 3)}), {"x": zeros(1, 5, 8, 8)}, "C: 5 kernel channels: 2"),
    "Cast": (build("Cast", x=STRING, to=FLOAT), {"x": np.array([["abc"]], object)}, "a text is not a number"),
    "ScatterND": (
        build("ScatterND", "i", "u", weights={"i": [[9, 9]], "u": zeros(1)}), {"x": zeros(2, 3)}, "indice = 9"
    ),
    "Squeeze": (build("Squeeze", "a", weights={"a": [0]}), {"x": zeros(2, 3)}, "must be 1 instead of 2"),
    "Gemm": (build("Gemm", "w", "b", weights={"w": zeros(3, 2), "b": zeros(7)}), {"x": zeros(1, 3)}, "bias shape"),
}  # fmt: skip


@pytest.mark.parametrize("operator", RUNS)
def test_a_run_that_fails_names_operator_node_and_sizes(operator: str) -> None:
    model, batch, told = RUNS[operator]
    session = open_session(model.SerializeToString())
    with pytest.raises((InputError, TooLargeError), match=told) as raised:
        session.infer(batch)
    assert f"operator {operator} (node " in str(raised.value)
    assert not INTERNAL.search(str(raised.value))


def with_opset(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    model.opset_import[0].version = version
    return model


def with_ir(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    model.ir_version = version
    return model


def with_input(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    model.graph.node[0].input[0] = name
    return model


OPENS: dict[str, tuple[Callable[[], bytes], str]] = {
    "an unknown operator": (lambda: build("Foo").SerializeToString(), r"operator Foo \(node 'n1'\): No Op registered"),
    "no model": (lambda: b"this is no model at all", "protobuf parsing failed"),
    "nothing": (lambda: b"", "No graph"),
    "a new opset": (lambda: with_opset(build("Relu"), 99).SerializeToString(), "till opset 26"),
    "a new format": (lambda: with_ir(build("Relu"), 99).SerializeToString(), "IR version: 99, max supported"),
    "a name of nothing": (lambda: with_input(build("Relu"), "z").SerializeToString(), "'z' is not a graph input"),
    "a missing attribute": (lambda: build("Concat").SerializeToString(), r"\(node 'n1'\): Required attribute 'axis'"),
    "wrong sizes": (
        lambda: make(
            [helper.make_node("MatMul", ["x", "w"], ["y"], name="n1")],
            [value("x", FLOAT, "n", 4)],
            [helper.make_tensor_value_info("y", FLOAT, None)],
            [weight("w", zeros(3, 2))],
        ).SerializeToString(),
        r"operator MatMul \(node 'n1'\): Incompatible dimensions",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", OPENS)
def test_a_model_that_cannot_be_loaded_is_told_without_source_files(kind: str) -> None:
    data, told = OPENS[kind]
    with pytest.raises(ArtifactError, match=told) as raised:
        open_session(data())
    assert not INTERNAL.search(str(raised.value))


def test_a_missing_file_of_weights_is_told_without_source_files(tmp_path: pathlib.Path) -> None:
    tensor = weight("w", zeros(3, 2))
    onnx.external_data_helper.set_external_data(tensor, "nowhere.bin")
    tensor.ClearField("raw_data")
    model = build("MatMul", "w", weights={"w": zeros(3, 2)})
    model.graph.initializer[0].CopyFrom(tensor)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match=r"'nowhere\.bin'.*does not exist") as raised:
        open_session(tmp_path / "m.onnx")
    assert not INTERNAL.search(str(raised.value))


KNOWN = {
    "a signature with types of functions": (
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: /onnxruntime_src/onnxruntime"
        "/core/a.cc:7 std::vector<std::function<void(int)>> onnxruntime::F<T>::Make(const std::map<int, float>&,"
        " std::function<bool(int)>) const [with T = float; U = std::pair<int, int>] n > 0 was false. n is 0",
        "Exception during initialization: n is 0",
    ),
    "a condition without a text": (
        "[ONNXRuntimeError] : 1 : FAIL : /src/core/a.h:91 void f(int) x != nullptr was false. ",
        "it needs x != nullptr",
    ),
    "a lambda": (
        r"C:\a\core\framework\x.cc:12 onnxruntime::Foo(int)::<lambda(int)> Status not ok",
        "Status not ok",
    ),
    "a function's name": ("upsamplebase.h:548 ScalesValidation Scale value should be greater than 0.",
                          "Scale value should be greater than 0."),
    "a stack": ("x.cu:3 f failed Stacktrace:\n 0 main /a.cc:1", "failed"),
    "nested": (
        "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running If node. Name:'o' Status Message: "
        "Non-zero status code returned while running MatMul node. Name:'it's' Status Message: m.h:59 Compute no",
        "operator If (node 'o'): operator MatMul (node \"it's\"): no",
    ),
    "nothing": ("", "it does not say why"),
    "a sentence": ("Invalid rank for input: x Got: 1 Expected: 2", "Invalid rank for input: x Got: 1 Expected: 2"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KNOWN)
def test_a_message_is_made_a_sentence(kind: str) -> None:
    text, told = KNOWN[kind]
    assert explain_failure(text) == told


PARTS = st.sampled_from(
    [
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : ", "/onnxruntime_src/onnxruntime/core/a/b.cc:91 ",
        "helper.h:5 ", "(", ")", "[with T = ", "]", "\n", "Node (", "' ", "a" * 500 + " ",
        "void onnxruntime::f(const std::vector<int>&) ", "x == y was false. ", "Input shape:{1,2} ",
        "Non-zero status code returned while running Add node. Name:'a' Status Message: ",
    ]
)  # fmt: skip


@given(st.lists(PARTS | st.text(max_size=20), max_size=30).map("".join))
@example("(" * 4000)
@example("a/" * 2000 + "x.cc:1 ")
@example("Node (" * 700)
@example('In Node, ("' * 400)
def test_any_text_becomes_one_line_without_source_files(text: str) -> None:
    told = explain_failure(text)
    assert told
    assert "\n" not in told
    assert "/onnxruntime_src/" not in told
    assert explain_failure(RuntimeError(text)) == told
