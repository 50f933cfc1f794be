"""Visits every part of an ONNX file that can hold a graph, a node or a tensor.

The fields are found from the protobuf descriptors, so that none is forgotten: training info, attributes of functions,
defaults of attributes, sparse tensors, and what later releases of ONNX add.
"""

import functools
from collections.abc import Iterator
from typing import Any

import onnx

from raymlops.errors import ArtifactError

DEEPEST = 20
"""Deepest nesting of subgraphs; Protocol Buffers' own limit is 33."""
_WANTED = {"onnx.GraphProto", "onnx.FunctionProto", "onnx.NodeProto", "onnx.TensorProto"}


@functools.cache
def _fields(kind: str) -> tuple[tuple[str, bool], ...]:
    """The fields of a message under which a wanted one can be, and whether each is repeated."""
    messages: dict[str, Any] = {}
    waiting = [onnx.ModelProto.DESCRIPTOR]
    while waiting:
        found = waiting.pop()
        if found.full_name not in messages:
            messages[found.full_name] = found
            waiting += [field.message_type for field in found.fields if field.message_type]
    reaching = set(_WANTED)
    while True:
        more = {
            name
            for name, found in messages.items()
            if any(field.message_type and field.message_type.full_name in reaching for field in found.fields)
        }
        if more <= reaching:
            break
        reaching |= more
    return tuple(
        (field.name, field.is_repeated)
        for field in messages[kind].fields
        if field.message_type and field.message_type.full_name in reaching
    )


def visit(root: Any) -> Iterator[Any]:
    """Every graph, function, node and tensor at or below a message. Raises ArtifactError if graphs are nested more
    than DEEPEST deep."""
    waiting: list[tuple[Any, int]] = [(root, 0)]
    while waiting:
        message, depth = waiting.pop()
        kind = message.DESCRIPTOR.full_name
        if kind == "onnx.GraphProto":
            depth += 1
            if depth > DEEPEST:
                raise ArtifactError(f"The model has subgraphs within subgraphs over {DEEPEST} deep")
        if kind in _WANTED:
            yield message
        for field, repeated in _fields(kind):
            if repeated:
                waiting += [(inner, depth) for inner in getattr(message, field)]
            elif message.HasField(field):
                waiting.append((getattr(message, field), depth))


def find_tensors(root: Any) -> Iterator[onnx.TensorProto]:
    """Every tensor at or below a message."""
    return (message for message in visit(root) if isinstance(message, onnx.TensorProto))


def short_domain(domain: str) -> str:
    """The domain of an operator; the standard one has two names."""
    return "" if domain == "ai.onnx" else domain
