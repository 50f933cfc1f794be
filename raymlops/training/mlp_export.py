"""An MLP with a linear path -> ONNX, node by node in milliseconds: torch's exporter traces for seconds. Other networks
are exported by torch_export.py."""

import numpy as np
import onnx
import torch
from onnx import compose
from torch import nn

from raymlops.features import Packing
from raymlops.onnx_builder import GraphBuilder, to_value_info
from raymlops.tensors import TensorSpec
from raymlops.training.networks import MLP, LinearPath


def can_write(network: nn.Module) -> bool:
    """Whether this module writes it. Networks without a linear path, as all were at first, stay with torch's exporter,
    so that trainings of then give files of the same bytes."""
    known = (nn.Linear, nn.ReLU, nn.Dropout)
    return (
        type(network) is MLP
        and network.linear is not None
        and all(isinstance(p, known) for p in network.body)
    )


def write_network(network: MLP, packing: Packing) -> onnx.ModelProto:
    """A graph that takes packed rows by name and returns `outputs` (rows, outputs)."""
    assert network.linear is not None
    build = GraphBuilder()
    inputs = []
    if packing.numeric:
        inputs.append(TensorSpec("numeric", "FP32", (-1, packing.numeric)))
    if packing.categories:
        inputs.append(TensorSpec("category", "INT64", (-1, len(packing.categories))))
    values = build.concat(_list_parts(build, network, packing))
    for part in network.body:
        if isinstance(part, nn.Linear):
            weight, bias = _hold(build, part.weight), _hold(build, part.bias)
            values = build.add("Gemm", values, weight, bias, transB=1)
        elif isinstance(part, nn.ReLU):
            values = build.add("Relu", values)
    outputs = network.linear.bias.numel()
    build.add("Add", values, _add_linear(build, network.linear), name="outputs")
    model = build.to_model(
        "network",
        [to_value_info(spec) for spec in inputs],
        [to_value_info(TensorSpec("outputs", "FP32", (-1, outputs)))],
    )
    return compose.add_prefix(model, "network/", rename_inputs=False, rename_outputs=False)


def _list_parts(build: GraphBuilder, network: MLP, packing: Packing) -> list[str]:
    parts = ["numeric"] if packing.numeric else []
    for place, table in enumerate(network.embeddings):
        assert isinstance(table, nn.Embedding)
        column = build.constant(np.array(place, dtype=np.int64), "column")
        chosen = build.add("Gather", "category", column, axis=1)  # (rows,)
        parts.append(build.add("Gather", _hold(build, table.weight), chosen, axis=0))
    return parts


def _add_linear(build: GraphBuilder, path: LinearPath) -> str:
    values = _hold(build, path.bias)
    if path.numbers is not None:
        values = build.add("Add", build.add("MatMul", "numeric", _hold(build, path.numbers)), values)
    if path.values is not None:
        starts = build.constant(path.starts.numpy(), "starts")
        found = build.add(
            "Gather", _hold(build, path.values.weight), build.add("Add", "category", starts), axis=0
        )
        axis = build.constant(np.array([1], dtype=np.int64), "axis")
        values = build.add("Add", build.add("ReduceSum", found, axis, keepdims=0), values)
    return values


def _hold(build: GraphBuilder, tensor: torch.Tensor) -> str:
    return build.constant(tensor.detach().cpu().numpy(), "weight")
