"""Small ONNX models that tests and benchmarks serve: built in memory from standard operators, no training."""

import itertools
import json
import pathlib
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from examples.tables import flights
from raymlops.artifact import CONTRACT_KEY

__all__ = ["flights"]

OPSETS = (helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3))


def make(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: list[onnx.TensorProto] | None = None,
    contract: dict[str, Any] | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "toy", inputs, outputs, weights or [])
    model = helper.make_model(graph, opset_imports=list(OPSETS), ir_version=10)
    if contract:
        helper.set_model_props(model, {CONTRACT_KEY: json.dumps(contract)})
    return model


def value(name: str, kind: int, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def doubler(factor: float = 2) -> onnx.ModelProto:
    """x FP32[-1,3] -> y = 2x, or another multiple."""
    two = numpy_helper.from_array(np.array(factor, np.float32), "two")
    return make(
        [helper.make_node("Mul", ["x", "two"], ["y"])],
        [value("x", TensorProto.FLOAT, "n", 3)],
        [value("y", TensorProto.FLOAT, "n", 3)],
        [two],
    )


def adder() -> onnx.ModelProto:
    """Triton's example: INPUT0, INPUT1 INT32[-1,16] -> OUTPUT0 sum, OUTPUT1 difference."""
    return make(
        [
            helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
            helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
        ],
        [value(name, TensorProto.INT32, "n", 16) for name in ("INPUT0", "INPUT1")],
        [value(name, TensorProto.INT32, "n", 16) for name in ("OUTPUT0", "OUTPUT1")],
    )


def echo() -> onnx.ModelProto:
    """text BYTES[-1] -> same BYTES[-1]."""
    return make(
        [helper.make_node("Identity", ["text"], ["same"])],
        [value("text", TensorProto.STRING, "n")],
        [value("same", TensorProto.STRING, "n")],
    )


def dtypes(kind: int) -> onnx.ModelProto:
    """x of one ONNX type [-1] -> y = x."""
    return make(
        [helper.make_node("Identity", ["x"], ["y"])], [value("x", kind, "n")], [value("y", kind, "n")]
    )


def mlp(features: int = 20, width: int = 64, layers: int = 2, seed: int = 0) -> onnx.ModelProto:
    """x FP32[-1,features] -> p FP32[-1,1]: the benchmarks' network; `width` and `layers` make it as expensive as
    wanted."""
    rng = np.random.default_rng(seed)
    sizes = [features, *[width] * layers, 1]
    nodes, weights, current = [], [], "x"
    for index, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        w = rng.normal(0, (2 / rows) ** 0.5, (rows, columns)).astype(np.float32)
        weights += [
            numpy_helper.from_array(w, f"w{index}"),
            numpy_helper.from_array(np.zeros(columns, np.float32), f"b{index}"),
        ]
        nodes.append(helper.make_node("Gemm", [current, f"w{index}", f"b{index}"], [f"h{index}"]))
        last = index == len(sizes) - 2
        current = "p" if last else f"a{index}"
        nodes.append(helper.make_node("Sigmoid" if last else "Relu", [f"h{index}"], [current]))
    return make(
        nodes,
        [value("x", TensorProto.FLOAT, "n", features)],
        [value("p", TensorProto.FLOAT, "n", 1)],
        weights,
    )


def slow(width: int = 512, repeats: int = 400) -> onnx.ModelProto:
    """x FP32[-1,width] -> y: tens of milliseconds a row with one small weight, used over and over."""
    weight = numpy_helper.from_array(np.eye(width, dtype=np.float32), "w")
    names = ["x", *(f"h{index}" for index in range(repeats - 1)), "y"]
    nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in itertools.pairwise(names)]
    tensors = [value(name, TensorProto.FLOAT, "n", width) for name in ("x", "y")]
    return make(nodes, tensors[:1], tensors[1:], [weight])


def widener() -> onnx.ModelProto:
    """x FP32[-1] -> wide FP32[-1,1000], and top FP32[], the greatest of all rows."""
    nodes = [
        helper.make_node("Unsqueeze", ["x", "one"], ["column"]),
        helper.make_node("Expand", ["column", "width"], ["wide"]),
        helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
    ]
    weights = [
        numpy_helper.from_array(np.array([1], np.int64), "one"),
        numpy_helper.from_array(np.array([1, 1000], np.int64), "width"),
    ]
    return make(
        nodes,
        [value("x", TensorProto.FLOAT, "n")],
        [value("wide", TensorProto.FLOAT, "n", 1000), value("top", TensorProto.FLOAT)],
        weights,
    )


def repeater() -> onnx.ModelProto:
    """count INT64[1] -> y FP32[-1] of so many zeros: a size that no signature tells."""
    return make(
        [helper.make_node("ConstantOfShape", ["count"], ["y"])],
        [value("count", TensorProto.INT64, 1)],
        [value("y", TensorProto.FLOAT, "m")],
    )


def quotient() -> onnx.ModelProto:
    """a, b INT64[-1] -> y = a // b, cut towards zero. The least integer by -1 ends a process that is not careful."""
    return make(
        [helper.make_node("Div", ["a", "b"], ["y"])],
        [value(name, TensorProto.INT64, "n") for name in "ab"],
        [value("y", TensorProto.INT64, "n")],
    )


def countdown() -> onnx.ModelProto:
    """x INT64[-1] -> y = x, after as many turns as the largest x says."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Identity", ["s"], ["s2"])],
        "body",
        [value("i", TensorProto.INT64), value("c", TensorProto.BOOL), value("s", TensorProto.INT64, "n")],
        [value("c2", TensorProto.BOOL), value("s2", TensorProto.INT64, "n")],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Loop", ["most", "", "x"], ["y"], body=body),
    ]
    return make(nodes, [value("x", TensorProto.INT64, "n")], [value("y", TensorProto.INT64, "n")])


def save(model: onnx.ModelProto, path: pathlib.Path) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path
