"""A table network -> ONNX, node by node. What is constant in a trained network is multiplied into its weights."""

import numpy as np
import onnx
import torch
from onnx import TensorProto

from raymlops.features import FittedTarget, Packing
from raymlops.onnx_builder import GraphBuilder
from raymlops.training.learners.objectives import Objective
from raymlops.training.table_networks import (
    LEAST,
    MOST_SCALED,
    Activation,
    RealMLP,
    Scaled,
    TableInputs,
    TabM,
)


def write_network(
    network: RealMLP | TabM, packing: Packing, objective: Objective, name: str
) -> onnx.ModelProto:
    """A graph that takes packed rows by name and returns `outputs` (rows, outputs)."""
    build = GraphBuilder()
    with torch.inference_mode():
        values = _add_inputs(build, network.inputs)
        if isinstance(network, RealMLP):
            margins = _add_realmlp(build, network, values)
        else:
            margins = _add_mean(build, _add_tabm(build, network, values), objective.target)
    if objective.target.task == "regression":
        low, high = (build.constant(bound.numpy(), "bound") for bound in network.bounds.cpu())
        margins = build.add("Clip", margins, low, high)
    return objective.write(build, margins, packing, name)


def _add_inputs(build: GraphBuilder, inputs: TableInputs) -> str:
    parts = _add_numbers(build, inputs) if len(inputs.center) else []
    for place, table in enumerate(inputs.tables):
        column = build.constant(np.array(place, dtype=np.int64), "column")
        ids = build.add("Gather", "category", column, axis=1)  # (rows,)
        parts.append(build.add("Gather", _hold(build, table), ids, axis=0))
    return build.concat(parts)


def _add_numbers(build: GraphBuilder, inputs: TableInputs) -> list[str]:
    def number(value: float) -> str:
        return build.constant(np.float32(value), "number")

    def shape(*sizes: int) -> str:
        return build.constant(np.array(sizes, dtype=np.int64), "shape")

    missing = build.add("IsNaN", "plain")
    centred = build.add("Sub", "plain", _hold(build, inputs.center))
    scaled = build.add("Mul", centred, _hold(build, inputs.factor))
    scaled = build.add("Clip", scaled, number(-MOST_SCALED), number(MOST_SCALED))
    scaled = build.add("Where", missing, number(0), scaled)
    third = build.add("Div", scaled, number(3))
    square = build.add("Add", build.add("Mul", third, third), number(1))
    scaled = build.add("Div", scaled, build.add("Sqrt", square))
    turned = build.add("Unsqueeze", build.add("Transpose", scaled, perm=[1, 0]), shape(2))
    turned = build.add("Mul", turned, _hold(build, inputs.waves))  # (numbers, rows, waves)
    turned = build.add("Cos", build.add("Add", turned, _hold(build, inputs.shifts)))
    mixed = build.add("MatMul", turned, _hold(build, inputs.mix))
    mixed = build.add("Add", mixed, _hold(build, inputs.mix_bias))  # (numbers, rows, 3)
    mixed = build.add("Transpose", mixed, perm=[1, 0, 2])
    parts = [scaled, build.add("Reshape", mixed, shape(-1, 3 * len(inputs.center)))]
    if len(inputs.indicators):
        chosen = build.add(
            "Gather", missing, build.constant(inputs.indicators.cpu().numpy(), "columns"), axis=1
        )
        parts.append(build.cast(chosen, TensorProto.FLOAT))
    return parts


def _add_realmlp(build: GraphBuilder, network: RealMLP, values: str) -> str:
    scale: torch.Tensor = network.scale
    for layer, activation in zip(network.layers, network.activations, strict=True):
        assert isinstance(layer, Scaled)
        assert isinstance(activation, Activation)
        weight = layer.scaled_weight() * scale
        scale = torch.ones(1, device=weight.device)
        values = build.add("Gemm", values, _hold(build, weight), _hold(build, layer.bias), transB=1)
        bent = build.add("Selu" if activation.kind == "selu" else "Mish", values)
        difference = build.add("Mul", build.add("Sub", bent, values), _hold(build, activation.share))
        values = build.add("Add", values, difference)
    last = network.last
    return build.add("Gemm", values, _hold(build, last.scaled_weight()), _hold(build, last.bias), transB=1)


def _add_tabm(build: GraphBuilder, network: TabM, values: str) -> str:
    """(members, rows, outputs)"""
    for weight, before, after, bias in zip(
        network.weights, network.before, network.after, network.biases, strict=True
    ):
        values = build.add("Mul", values, _hold(build, before[:, None]))  # (members, rows, inputs)
        values = build.add("MatMul", values, _hold(build, weight.t()))
        values = build.add("Mul", values, _hold(build, after[:, None]))
        values = build.add("Relu", build.add("Add", values, _hold(build, bias[:, None])))
    values = build.add("MatMul", values, _hold(build, network.last))
    return build.add("Add", values, _hold(build, network.last_bias[:, None]))


def _add_mean(build: GraphBuilder, margins: str, target: FittedTarget) -> str:
    """(members, rows, outputs) -> (rows, outputs): of the mean of the members' probabilities or predictions."""

    def mean(values: str) -> str:
        axis = build.constant(np.array([0], dtype=np.int64), "axis")
        return build.add("ReduceMean", values, axis, keepdims=0)

    def log(values: str) -> str:
        return build.add("Log", build.add("Max", values, build.constant(np.float32(LEAST), "least")))

    if target.task == "regression":
        return mean(margins)
    if target.task == "multiclass":
        return log(mean(build.add("Softmax", margins, axis=2)))
    means = mean(build.add("Sigmoid", margins))
    other = build.add("Sub", build.constant(np.float32(1), "one"), means)
    return build.add("Sub", log(means), log(other))


def _hold(build: GraphBuilder, tensor: torch.Tensor) -> str:
    return build.constant(np.ascontiguousarray(tensor.detach().cpu().numpy()), "weight")
