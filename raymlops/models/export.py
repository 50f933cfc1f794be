"""Network + fitted features -> one ONNX file that takes raw columns. Proves nothing: see parity."""

import contextlib
import hashlib
import io
import json
import logging
import pathlib
import warnings
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, compose, helper

from raymlops import __version__
from raymlops.errors import ArtifactError, shorten
from raymlops.features import FittedFeatures, FittedTarget, Packing, packing_of
from raymlops.models import encoder
from raymlops.models.nodes import INNER, IR_VERSION, ML_OPSET, OPSET, GraphBuilder, to_value_info
from raymlops.models.runtime_messages import explain_failure
from raymlops.models.session import CONTRACT_KEY
from raymlops.tensors import Signature, TensorSpec

MODEL_FILE = "model.onnx"


def export_network(network: torch.nn.Module, features: FittedFeatures, *, name: str) -> onnx.ModelProto:
    """Encoder, network and answer in one graph, with its own contract in the metadata; opset 20, IR 10.

    Raises ArtifactError when torch cannot export the network.
    """
    front = encoder.build_encoder(features)
    core = compose.add_prefix(_export_core(network, packing_of(features)), "network/")
    given = {output.name for output in front.graph.output}
    joined = [(INNER + value.name.removeprefix("network/"), value.name) for value in core.graph.input]
    raw = core.graph.output[0].name
    model = compose.merge_models(
        front, core, io_map=[pair for pair in joined if pair[0] in given], outputs=[raw]
    )
    model = compose.merge_models(model, _build_answer(features.target), io_map=[(raw, "outputs")])
    del model.opset_import[:]  # merging repeats them, and the quantiser refuses that
    model.opset_import.extend([helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)])
    del model.metadata_props[:]
    model.graph.name = name
    model.producer_name = "raymlops"
    model.producer_version = __version__
    helper.set_model_props(model, {CONTRACT_KEY: json.dumps(contract_of(features), sort_keys=True)})
    onnx.checker.check_model(model, full_check=True)
    return model


def contract_of(features: FittedFeatures) -> dict[str, Any]:
    """What the file says of itself: columns, types, vocabulary sizes, class labels, versions."""
    columns = [
        {
            "name": column.name,
            "kind": column.type,
            "feature": column.kind,
            "nullable": column.nullable,
            "datatype": column.spec.datatype,
            "shape": list(column.spec.shape),
            **(
                {"vocabulary": len(column.values), "examples": list(column.values[:3])}
                if column.values
                else {}
            ),
            **({"typical": column.fill} if column.kind in ("number", "timestamp") else {}),
        }
        for column in features.raw
    ]
    target = features.target
    return {
        "columns": columns,
        "target": {
            "name": target.name,
            "task": target.task,
            "type": target.type,
            "classes": list(target.classes),
            "threshold": target.threshold,
        },
        "versions": {
            "raymlops": __version__,
            "torch": str(torch.__version__).partition("+")[0],
            "onnx": onnx.__version__,
            "opset": OPSET,
            "ir": IR_VERSION,
        },
    }


def signature_of(features: FittedFeatures) -> Signature:
    """What the exported model takes and answers."""
    target = features.target
    if target.task == "regression":
        return Signature(features.inputs, (TensorSpec("prediction", "FP32", (-1,)),))
    label = TensorSpec("label", {"string": "BYTES", "boolean": "BOOL"}.get(target.type, "INT64"), (-1,))
    if target.task == "binary":
        return Signature(features.inputs, (label, TensorSpec("probability", "FP32", (-1,))))
    return Signature(features.inputs, (label, TensorSpec("probabilities", "FP32", (-1, len(target.classes)))))


def save_model(model: onnx.ModelProto, directory: pathlib.Path) -> tuple[pathlib.Path, str]:
    """Write `model.onnx`, and give its path and sha256."""
    directory.mkdir(parents=True, exist_ok=True)
    data = model.SerializeToString(deterministic=True)
    path = directory / MODEL_FILE
    path.write_bytes(data)
    return path, hashlib.sha256(data).hexdigest()


def _export_core(network: torch.nn.Module, packing: Packing) -> onnx.ModelProto:
    network = network.eval().cpu()
    rows = 2  # an example of one row would fix the batch at one
    inputs: dict[str, torch.Tensor] = {}
    if packing.numeric:
        inputs["numeric"] = torch.zeros(rows, packing.numeric)
    if packing.categories:
        inputs["category"] = torch.zeros(rows, len(packing.categories), dtype=torch.int64)
    if packing.image:
        inputs["image"] = torch.zeros(rows, *packing.image)
    batch = torch.export.Dim("batch", min=1)
    noise = io.StringIO()  # the exporter prints its progress
    try:
        with warnings.catch_warnings(), _quiet_loggers(), contextlib.redirect_stdout(noise):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (),
                kwargs=inputs,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes={key: {0: batch} for key in inputs},
                input_names=list(inputs),
                output_names=["outputs"],
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # torch raises many classes from tracing
        cause = shorten(explain_failure(error), 300)
        raise ArtifactError(
            f"torch cannot export network {type(network).__name__} to ONNX: {cause}; "
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


def _build_answer(target: FittedTarget) -> onnx.ModelProto:
    """Raw network outputs (rows, outputs) -> label and probabilities, or the prediction in its own unit."""
    build = GraphBuilder()
    outputs: list[onnx.ValueInfoProto] = []
    if target.task == "multiclass":
        build.add("Softmax", "outputs", name="probabilities", axis=1)
        outputs.append(to_value_info(TensorSpec("probabilities", "FP32", (-1, len(target.classes)))))
        position = build.add("ArgMax", "probabilities", axis=1, keepdims=0)
    else:
        flat = build.add("Squeeze", "outputs", build.constant(np.array([1], dtype=np.int64), "axis"))
        if target.task == "regression":
            scaled = build.add("Mul", flat, build.constant(np.array([target.std], np.float32), "std"))
            build.add(
                "Add", scaled, build.constant(np.array([target.mean], np.float32), "mean"), name="prediction"
            )
            outputs.append(to_value_info(TensorSpec("prediction", "FP32", (-1,))))
            position = ""
        else:
            build.add("Sigmoid", flat, name="probability")
            outputs.append(to_value_info(TensorSpec("probability", "FP32", (-1,))))
            over = build.add(
                "GreaterOrEqual",
                "probability",
                build.constant(np.array([target.threshold], np.float32), "threshold"),
            )
            position = build.cast(over, TensorProto.INT64)
    if position:
        kind = {"string": np.object_, "boolean": np.bool_}.get(target.type, np.int64)
        classes = build.constant(np.array(target.classes, dtype=kind), "classes")
        build.add("Gather", classes, position, name="label")
        datatype = {"string": "BYTES", "boolean": "BOOL"}.get(target.type, "INT64")
        outputs.insert(0, to_value_info(TensorSpec("label", datatype, (-1,))))
    given = to_value_info(TensorSpec("outputs", "FP32", (-1, target.outputs)))
    model = build.to_model("answer", [given], outputs)
    return compose.add_prefix(model, "answer/", rename_inputs=False, rename_outputs=False)


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
