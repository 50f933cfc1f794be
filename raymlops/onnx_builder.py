"""Builds ONNX graphs node by node, with the opset and IR version that all our graphs share."""

import collections
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from raymlops.tensors import DATATYPES, TensorSpec

OPSET = 20
ML_OPSET = 2
IR_VERSION = 10  # ONNX Runtime supports at most 13, and models can be merged only if theirs are equal

INNER = "raymlops/"
"""Prefix of the names of inner tensors, so that none equals the name of a column."""


class GraphBuilder:
    """Collects nodes and constants, and names their outputs."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._names: collections.Counter[str] = collections.Counter()

    def constant(self, value: Any, name: str = "constant") -> str:
        tensor = numpy_helper.from_array(np.asarray(value), self._fresh(name))
        self.constants.append(tensor)
        return str(tensor.name)

    def add(
        self, operator: str, *inputs: str, name: str | None = None, domain: str = "", **attributes: Any
    ) -> str:
        output = name or self._fresh(operator.lower())
        self.nodes.append(
            helper.make_node(operator, list(inputs), [output], name=output, domain=domain, **attributes)
        )
        return output

    def add_outputs(self, operator: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """A node of several outputs."""
        names = [self._fresh(operator.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(operator, list(inputs), names, name=names[0], **attributes))
        return names

    def _fresh(self, stem: str) -> str:
        self._names[stem] += 1
        return f"{INNER}{stem}_{self._names[stem]}"

    def column(self, tensor: str) -> str:
        """(rows,) -> (rows, 1)"""
        return self.add("Unsqueeze", tensor, self._axis())

    def _axis(self) -> str:
        if not any(constant.name == f"{INNER}second_axis" for constant in self.constants):
            self.constants.append(
                numpy_helper.from_array(np.array([1], dtype=np.int64), f"{INNER}second_axis")
            )
        return f"{INNER}second_axis"

    def cast(self, tensor: str, kind: int) -> str:
        return self.add("Cast", tensor, to=kind)

    def concat(self, tensors: list[str], name: str | None = None) -> str:
        """Concatenates (rows, *) tensors along axis 1."""
        if len(tensors) == 1 and name is None:
            return tensors[0]
        return self.add("Concat", *tensors, name=name, axis=1)

    def to_model(
        self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.constants)
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)],
            ir_version=IR_VERSION,
        )


def to_value_info(spec: TensorSpec) -> onnx.ValueInfoProto:
    """A tensor spec as an ONNX value_info; the first unknown dimension is called `batch`."""
    shape = [
        "batch" if size == -1 and axis == 0 else (None if size == -1 else size)
        for axis, size in enumerate(spec.shape)
    ]
    return helper.make_tensor_value_info(spec.name, DATATYPES[spec.datatype].onnx, shape)
