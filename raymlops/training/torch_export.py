"""A torch network on packed rows -> ONNX. Knows no raw columns: see models/export.py."""

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from typing import Any

import onnx
import torch
from onnx import helper

from raymlops.errors import ArtifactError, shorten
from raymlops.features import Packing
from raymlops.onnx_builder import IR_VERSION, ML_OPSET, OPSET


def export_network(network: torch.nn.Module, packing: Packing) -> onnx.ModelProto:
    """A graph that takes packed rows by name and returns `outputs` (rows, outputs). Raises ArtifactError."""
    rows = 2  # an example of one row would fix the batch size at one
    inputs: dict[str, torch.Tensor] = {}
    if packing.numeric:
        inputs["numeric"] = torch.zeros(rows, packing.numeric)
    if packing.categories:
        inputs["category"] = torch.zeros(rows, len(packing.categories), dtype=torch.int64)
    if packing.image:
        inputs["image"] = torch.zeros(rows, *packing.image)
    return export_module(network, inputs)


def export_module(network: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> onnx.ModelProto:
    """The same of a network that takes these inputs by name, of two rows each; the number of rows is free."""
    batch = torch.export.Dim("batch", min=1)
    return _export(
        f"network {type(network).__name__}",
        network.eval().cpu(),
        kwargs=inputs,
        dynamic_shapes={key: {0: batch} for key in inputs},
        input_names=list(inputs),
    )


def export_listed(network: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> onnx.ModelProto:
    """The same of a network that takes the list of its inputs, which may have any names."""
    batch = torch.export.Dim("batch", min=1)
    return _export(
        "the model",
        network.eval().cpu(),
        (list(inputs.values()),),
        dynamic_shapes=([{0: batch} for _ in inputs],),
        input_names=list(inputs),
    )


def export_program(program: torch.export.ExportedProgram, names: Sequence[str]) -> onnx.ModelProto:
    """The same of an exported program, whose inputs get these names."""
    return _export("the program", program, input_names=list(names))


def _export(what: str, network: Any, places: tuple[Any, ...] = (), **given: Any) -> onnx.ModelProto:
    try:
        with (
            warnings.catch_warnings(),
            _quiet_loggers(),
            contextlib.redirect_stdout(io.StringIO()),  # the exporter prints its progress
        ):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                places,
                dynamo=True,
                opset_version=OPSET,
                output_names=["outputs"],
                external_data=False,
                verbose=False,
                **given,
            )
    except Exception as error:  # torch raises many classes from tracing
        cause = shorten(" ".join(str(error).split()), 300)
        raise ArtifactError(
            f"torch cannot export {what} to ONNX: {cause}; "
            "a network must not branch on the values of its tensors"
        ) from error
    assert program is not None
    model = program.model_proto
    model.ir_version = IR_VERSION
    del model.functions[:]
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces of this machine
        node.doc_string = ""
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)])
    return model


@contextlib.contextmanager
def _quiet_loggers() -> Any:
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
