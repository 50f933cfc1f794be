"""Optional inputs of a model: an ONNX initialiser that is also a graph input is its default value. Makes no session."""

import onnx

_FIRST_IR = 4
"""Before this IR version, every initialiser also had to be an input, and none can be overridden."""


def list_optional(model: onnx.ModelProto) -> list[str]:
    """Names of the inputs with default values, in the order of the graph's inputs."""
    if model.ir_version < _FIRST_IR:
        return []
    held = {tensor.name for tensor in model.graph.initializer}
    held |= {sparse.values.name for sparse in model.graph.sparse_initializer}
    return [value.name for value in model.graph.input if value.name in held]


def fix_optional(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with these default values turned into constants."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    names = set(list_optional(model))
    kept = [value for value in model.graph.input if value.name not in names]
    del fixed.graph.input[:]
    fixed.graph.input.extend(kept)
    return fixed
