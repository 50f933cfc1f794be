"""A TensorFlow function -> ONNX by tf2onnx, with the opset and IR version of our graphs. Its variables, and the
constants that it captured, are frozen first: tf2onnx itself leaves the latter out."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import defs, helper, version_converter

from raymlops.errors import ArtifactError, shorten
from raymlops.onnx_builder import IR_VERSION, ML_OPSET, OPSET

_CONVERTED_OPSET = 18
"""The highest of tf2onnx."""
_DOMAINS = frozenset(("", "ai.onnx.ml"))


def export_function(function: Any, names: Sequence[str]) -> onnx.ModelProto:
    """Of a concrete function with one output: a graph whose inputs have these names, in the order of the function's
    tensors, and which gives `outputs`. Raises ArtifactError."""
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    try:
        with _quiet():
            frozen = convert_variables_to_constants_v2(function)
            given = dict(zip((tensor.name for tensor in frozen.inputs), names, strict=True))
            output = frozen.outputs[0].name
            model, _ = tf2onnx.convert.from_graph_def(
                frozen.graph.as_graph_def(),
                input_names=list(given),
                output_names=[output],
                opset=_CONVERTED_OPSET,
                tensors_to_rename={**given, output: "outputs"},
                custom_op_handlers={"Erfc": (_add_erfc, [])},
            )
            _require_operators(model)
            model = version_converter.convert_version(model, OPSET)
    except ArtifactError:
        raise
    except Exception as error:  # tf2onnx and TensorFlow raise many classes
        cause = shorten(" ".join(str(error).split()) or type(error).__name__, 300)
        raise ArtifactError(f"tf2onnx cannot convert it to ONNX: {cause}") from error
    model.ir_version = IR_VERSION
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)])
    return model


def _require_operators(model: onnx.ModelProto) -> None:
    """tf2onnx leaves what it does not know as it is, or takes an operator of another library."""
    unknown = {
        node.op_type
        for node in _nodes_of(model.graph)
        if node.domain not in _DOMAINS or not defs.has(node.op_type, _CONVERTED_OPSET, node.domain)
    }
    if unknown:
        raise ArtifactError(
            f"ONNX has nothing for its operations {', '.join(sorted(unknown))}; leave such steps out of the model, as "
            "those that look texts up, or write them with others"
        )


def _nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes_of(inner)


def _add_erfc(context: Any, node: Any, name: str, arguments: Any) -> None:
    """1 - Erf, which GELU needs, and tf2onnx lacks."""
    shapes, types = node.output_shapes, node.output_dtypes
    one = context.make_const(f"{name}/one", np.array(1, dtype=helper.tensor_dtype_to_np_dtype(types[0])))
    error = context.make_node("Erf", [node.input[0]], name=f"{name}/erf", shapes=shapes, dtypes=types)
    context.remove_node(name)
    parts = [one.output[0], error.output[0]]
    context.make_node("Sub", parts, name=name, outputs=node.output, shapes=shapes, dtypes=types)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Both libraries log their progress and what they deprecate of each other."""
    loggers = [logging.getLogger(name) for name in ("tensorflow", "tf2onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
