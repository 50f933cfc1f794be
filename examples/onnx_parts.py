"""Shorthands for building ONNX files by hand, as the examples do."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from raymlops.artifact import CONTRACT_KEY

OPSETS = (helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3))


def make(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Mapping[str, Any],
    contract: dict[str, Any] | None = None,
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(values), name) for name, values in weights.items()]
    graph = helper.make_graph(nodes, "example", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=list(OPSETS), ir_version=10)
    if contract:
        helper.set_model_props(model, {CONTRACT_KEY: json.dumps(contract)})
    return model


def tensor(name: str, kind: int, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))
