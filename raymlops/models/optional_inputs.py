"""Inputs that a request may leave out: an ONNX initialiser that is an input of its graph as well is the value that
holds unless a run is given another. Makes no session."""

import onnx

_FIRST_IR = 4
"""Before this version of the format, every initialiser had to be an input too, and none can be given anew."""


def list_optional(model: onnx.ModelProto) -> list[str]:
    """Names of the inputs with a value of their own, in the order of the graph's inputs."""
    if model.ir_version < _FIRST_IR:
        return []
    held = {tensor.name for tensor in model.graph.initializer}
    held |= {sparse.values.name for sparse in model.graph.sparse_initializer}
    return [value.name for value in model.graph.input if value.name in held]


def fix_optional(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with these values fixed: constants, which no run is given anew."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    names = set(list_optional(model))
    kept = [value for value in model.graph.input if value.name not in names]
    del fixed.graph.input[:]
    fixed.graph.input.extend(kept)
    return fixed
