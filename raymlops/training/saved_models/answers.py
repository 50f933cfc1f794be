"""What the outputs of a converted network mean: which of its last operations makes probabilities, and a graph that
gives logits or a prediction in its place."""

import dataclasses
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import compose, helper
from scipy.special import expit, softmax

from raymlops.errors import ArtifactError
from raymlops.features import FittedFeatures, FittedTarget
from raymlops.onnx_builder import GraphBuilder, to_value_info
from raymlops.tensors import Batch, TensorSpec, count_rows
from raymlops.training.saved_models import OpenedModel
from raymlops.training.saved_models.tensor_inputs import InputColumns

_LEAST = 1e-12
"""Of a probability, whose logarithm is taken."""
_SHAPED = frozenset(("Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast"))
"""Operators that may follow the one that makes probabilities, and change no value of them."""
_LAST = {"Sigmoid": "sigmoid", "Softmax": "softmax", "LogSoftmax": "log_softmax"}

Scale = Literal["logits", "probabilities", "values"]


@dataclasses.dataclass(frozen=True)
class Answers:
    """`core` gives `outputs` (rows, outputs) as OpenedModel has them, and `scores` are the library's own."""

    core: onnx.ModelProto
    target: FittedTarget
    scores: npt.NDArray[Any]


def read_answers(model: onnx.ModelProto, own: npt.NDArray[Any], classes: tuple[str, ...]) -> Answers:
    """Of a graph with one output, and the library's own answers to some rows, (rows,) or (rows, outputs).

    One output after a sigmoid is a probability, and else a prediction; several after a softmax, or which sum to 1, are
    those of classes. `classes` say that others are logits. Raises ArtifactError.
    """
    if len(model.graph.output) != 1 or own.ndim > 2 or not own.size or own.dtype.kind != "f":
        raise ArtifactError(
            f"It gives {len(model.graph.output)} outputs, the first {own.dtype} of shape (rows, "
            f"{', '.join(map(str, own.shape[1:]))}); converted is one output of a prediction, or of probabilities of "
            "classes, for each row. An ONNX file of any outputs: raymlops register"
        )
    branching = sorted({node.op_type for node in model.graph.node if _has_graph(node)})
    if branching:
        raise ArtifactError(
            f"It has {' and '.join(branching)}, which run a graph of their own and are not converted; write branches "
            "as where(), and loops as operations on whole tensors"
        )
    flat, width = own.ndim == 1, 1 if own.ndim == 1 else own.shape[1]
    own = own.reshape(len(own), width)
    last = _take_last(model)
    if width == 1:
        task, scale = _read_one(last, own, classes)
    else:
        task, scale = "multiclass", _read_several(last, own, classes)
    target = _target_of(task, width)
    return Answers(_finish(model, flat, width, scale), target, _to_scores(own, task, last, scale))


def to_opened(
    library: str, summary: str, columns: InputColumns, rows: Batch, answers: Answers
) -> OpenedModel:
    """Of a network that answered these rows, all of them of the sample."""
    return OpenedModel(
        library=library,
        summary=summary,
        features=FittedFeatures(columns.columns, answers.target),
        front=columns.to_onnx(),
        core=answers.core,
        rows=rows,
        sampled=count_rows(rows),
        scores=answers.scores,
    )


def _has_graph(node: onnx.NodeProto) -> bool:
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)


def _read_one(last: str, own: npt.NDArray[Any], classes: tuple[str, ...]) -> tuple[str, Scale]:
    if last == "sigmoid":
        return "binary", "logits"
    if not classes:
        return "regression", "values"
    within = bool(((own >= 0) & (own <= 1)).all())
    return "binary", "probabilities" if within else "logits"


def _read_several(last: str, own: npt.NDArray[Any], classes: tuple[str, ...]) -> Scale:
    if last in ("softmax", "log_softmax"):
        return "logits"
    if bool((own >= 0).all()) and np.allclose(own.sum(axis=1), 1, atol=1e-4):
        return "probabilities"
    if classes and last != "sigmoid":
        return "logits"
    raise ArtifactError(
        f"It gives {own.shape[1]} numbers for each row that are no probabilities: their sums are "
        f"{own.sum(axis=1).min():.3g} to {own.sum(axis=1).max():.3g}. If they are logits of classes, give --classes "
        "with their names; of several targets, save one model for each"
    )


def _target_of(task: str, width: int) -> FittedTarget:
    if task == "regression":
        return FittedTarget("target", "regression", "number")
    if width <= 2:
        return FittedTarget("target", "binary", "integer", (0, 1))
    return FittedTarget("target", "multiclass", "integer", tuple(range(width)))


def _to_scores(own: npt.NDArray[Any], task: str, last: str, scale: Scale) -> npt.NDArray[Any]:
    """The library's answers as probabilities, or as they are."""
    if task == "regression":
        return own[:, 0]
    if last == "log_softmax":
        own = np.exp(own)
    elif scale == "logits" and not last:
        own = expit(own) if own.shape[1] == 1 else softmax(own, axis=1)
    return own if own.shape[1] > 2 else own[:, -1]


def _take_last(model: onnx.ModelProto) -> str:
    """Which operation makes the probabilities, empty if none does; it is left out of the graph, whose output then has
    logits."""
    graph = model.graph
    makers = {output: node for node in graph.node for output in node.output}
    readers: dict[str, int] = {graph.output[0].name: 1}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    name = graph.output[0].name
    while (node := makers.get(name)) is not None and readers.get(name) == 1:
        if node.op_type in _LAST and node.domain == "":
            if node.op_type == "Softmax" and not _is_of_last_axis(node, model):
                return ""
            found = _LAST[node.op_type]
            node.op_type = "Identity"
            del node.attribute[:]
            return found
        if node.op_type not in _SHAPED:
            return ""
        name = node.input[0]
    return ""


def _is_of_last_axis(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), -1)
    return axis in (-1, 1)


def _finish(model: onnx.ModelProto, flat: bool, width: int, scale: Scale) -> onnx.ModelProto:
    """With `outputs` (rows, outputs) that are logits, of two classes those of the second over the first."""
    build = GraphBuilder()
    found = build.cast("given", onnx.TensorProto.FLOAT)
    found = build.column(found) if flat else found
    if scale == "probabilities":
        least, one = (build.constant(np.float32(value), "number") for value in (_LEAST, 1))
        if width == 1:
            rest = build.add("Log", build.add("Max", build.add("Sub", one, found), least))
            found = build.add("Sub", build.add("Log", build.add("Max", found, least)), rest)
        else:
            found = build.add("Log", build.add("Max", found, least))
    if width == 2:
        parts = [
            build.add("Gather", found, build.constant(np.array([at], dtype=np.int64), "class"), axis=1)
            for at in (1, 0)
        ]
        found = build.add("Sub", *parts)
    build.add("Identity", found, name="outputs")
    kind = model.graph.output[0].type.tensor_type.elem_type
    given = helper.make_tensor_value_info("given", kind, ["batch"] if flat else ["batch", width])
    raw = TensorSpec("outputs", "FP32", (-1, width if width > 2 else 1))
    ending = build.to_model("ending", [given], [to_value_info(raw)])
    ending = compose.add_prefix(ending, "ending/", rename_inputs=True, rename_outputs=False)
    if "outputs" in {name for node in model.graph.node for name in (*node.input, *node.output)}:
        model = compose.add_prefix(model, "core/", rename_inputs=False)
    name = model.graph.output[0].name
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info(name, kind, ["batch"] if flat else ["batch", width])
    )
    return compose.merge_models(model, ending, io_map=[(name, "ending/given")], outputs=["outputs"])
