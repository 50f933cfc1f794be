"""The categories that an exported model knows, read from its encoder nodes. Knows only files that raymlops made."""

from collections.abc import Collection

import onnx
import pyarrow as pa

from raymlops.models.external_data import ModelFiles


def read_vocabularies(model: bytes | ModelFiles, columns: Collection[str]) -> dict[str, pa.Array]:
    """Column -> the values that have an embedding of their own, for those of `columns` that are categories."""
    data = model.data if isinstance(model, ModelFiles) else model
    graph = onnx.ModelProto.FromString(data).graph
    made_by = {name: node for node in graph.node for name in node.output}
    inputs = {one.name for one in graph.input}
    found = {}
    for node in graph.node:
        if node.op_type == "LabelEncoder":
            sources = _trace(node.input[0], made_by) & inputs  # several of the one that names classes
            keys = next((one for one in node.attribute if one.name.startswith("keys_")), None)
            if keys is not None and len(sources) == 1 and sources <= set(columns):
                texts = [key.decode() for key in keys.strings]
                (name,) = sources
                found[name] = pa.array(
                    texts if texts else list(keys.ints), pa.string() if texts else pa.int64()
                )
    return found


def _trace(name: str, made_by: dict[str, onnx.NodeProto]) -> set[str]:
    """The inputs and constants of the graph from which a value is computed."""
    found, left, seen = set(), [name], set()
    while left:
        one = left.pop()
        if one in seen:
            continue
        seen.add(one)
        if one in made_by:
            left += made_by[one].input
        else:
            found.add(one)
    return found
