"""Small models of tables: of late flights by hand, with raw columns as our exports have them, and random networks."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from examples.onnx_parts import make, tensor

FLIGHTS: dict[str, Any] = {
    "columns": [
        {"name": "distance", "kind": "number", "nullable": True},
        {"name": "carrier", "kind": "category", "nullable": True},
        {"name": "departure", "kind": "timestamp", "nullable": True},
    ],
    "target": {"task": "binary", "classes": ["on_time", "late"]},
}


def flights(usual: float = 0.25) -> onnx.ModelProto:
    """Raw columns distance FP32, carrier BYTES, departure INT64 -> label BYTES, probability FP32, as our exports do.

    The probability is 0.9 where the distance is missing, else `usual`; plus 0.5 where the carrier is UA or no time is
    given.
    """
    nodes = [
        helper.make_node("IsNaN", ["distance"], ["missing"]),
        helper.make_node("Where", ["missing", "high", "low"], ["p"]),
        helper.make_node(
            "LabelEncoder", ["carrier"], ["code"], domain="ai.onnx.ml",
            keys_strings=["UA"], values_floats=[0.5], default_float=0.0,
        ),
        helper.make_node("Less", ["departure", "zero"], ["timeless"]),
        helper.make_node("Cast", ["timeless"], ["timeless_f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["timeless_f", "half"], ["t"]),
        helper.make_node("Add", ["p", "code"], ["pc"]),
        helper.make_node("Add", ["pc", "t"], ["probability"]),
        helper.make_node("Greater", ["probability", "half"], ["is_late"]),
        helper.make_node("Cast", ["is_late"], ["late_i"], to=TensorProto.INT64),
        helper.make_node(
            "LabelEncoder", ["late_i"], ["label"], domain="ai.onnx.ml",
            keys_int64s=[0, 1], values_strings=["on_time", "late"],
        ),
    ]  # fmt: skip
    inputs = [
        tensor("distance", TensorProto.FLOAT, "n"),
        tensor("carrier", TensorProto.STRING, "n"),
        tensor("departure", TensorProto.INT64, "n"),
    ]
    outputs = [tensor("label", TensorProto.STRING, "n"), tensor("probability", TensorProto.FLOAT, "n")]
    low, high, half = (np.float32(number) for number in (usual, 0.9, 0.5))
    return make(nodes, inputs, outputs, {"high": high, "low": low, "half": half, "zero": 0}, FLIGHTS)


def make_mlp(seed: int, features: int = 20, width: int = 64, outputs: int = 20) -> onnx.ModelProto:
    """x FP32[-1,features] -> y FP32[-1,outputs], through one hidden layer of random weights."""
    noise = np.random.default_rng(seed)
    weights = {"a": noise.normal(size=(features, width)), "b": noise.normal(size=(width, outputs))}
    return make(
        [
            helper.make_node("MatMul", ["x", "a"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "b"], ["s"]),
            helper.make_node("Sigmoid", ["s"], ["y"]),
        ],
        [tensor("x", TensorProto.FLOAT, "rows", features)],
        [tensor("y", TensorProto.FLOAT, "rows", outputs)],
        {name: values.astype(np.float32) for name, values in weights.items()},
    )
