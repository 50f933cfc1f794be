"""Several trained models on packed rows as one ONNX graph: their members side by side, and the weighted mean of their
margins. The members share the packed inputs."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import compose

from raymlops.onnx_builder import GraphBuilder
from raymlops.training.blends import LEAST_MARGIN


def write_blend(members: Sequence[tuple[onnx.ModelProto, float]], task: str) -> onnx.ModelProto:
    """`members` are graphs as of `Learner.to_onnx`, with their weights; the result is such a graph, too."""
    build = GraphBuilder()
    inputs: dict[str, onnx.ValueInfoProto] = {}
    weighted = []
    for place, (model, weight) in enumerate(members):
        core = compose.add_prefix(model, f"member_{place}/", rename_inputs=False, rename_outputs=True)
        inputs |= {value.name: value for value in core.graph.input}
        build.nodes.extend(core.graph.node)
        build.constants.extend(core.graph.initializer)
        margin = _to_margin(build, core.graph.output[0].name, task)
        weighted.append(build.add("Mul", margin, build.constant(np.array(weight, np.float32), "weight")))
    total = weighted[0] if len(weighted) == 1 else build.add("Sum", *weighted)
    build.add("Identity", total, name="outputs")
    return build.to_model("blend", list(inputs.values()), [members[0][0].graph.output[0]])


def _to_margin(build: GraphBuilder, outputs: str, task: str) -> str:
    """As `blends.to_margins` has them."""
    if task == "regression":
        return outputs
    low, high = (
        build.constant(np.array(bound, np.float32), "limit") for bound in (LEAST_MARGIN, -LEAST_MARGIN)
    )
    if task == "multiclass":
        return build.add("Max", build.add("LogSoftmax", outputs, axis=1), low)
    return build.add("Clip", outputs, low, high)
