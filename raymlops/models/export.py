"""A trained model on packed rows + fitted features -> one ONNX file that takes raw columns. Does not compare their
outputs: see parity."""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper

from raymlops import __version__
from raymlops.artifact import CONTRACT_KEY, CONTRIBUTIONS, EXPLANATION_KEY, MODEL_FILE
from raymlops.features import FittedFeatures, FittedTarget, name_columns
from raymlops.models import encoder
from raymlops.onnx_builder import INNER, IR_VERSION, ML_OPSET, OPSET, GraphBuilder, to_value_info
from raymlops.tensors import Signature, TensorSpec


def export_model(
    trained: onnx.ModelProto, features: FittedFeatures, *, name: str, front: onnx.ModelProto | None = None
) -> onnx.ModelProto:
    """Encoder, trained model and output nodes in one graph, with its contract in the metadata; opset 20, IR 10.
    `front` takes the place of the encoder of these features.

    `trained` takes packed rows and gives `outputs` (rows, outputs), as made by `Learner.to_onnx`. Packed tensors that
    it does not take are not computed.
    """
    front = front or encoder.build_encoder(features, [value.name for value in trained.graph.input])
    core = compose.add_prefix(trained, "network/")
    given = {output.name for output in front.graph.output}
    joined = [(INNER + value.name.removeprefix("network/"), value.name) for value in core.graph.input]
    raw = core.graph.output[0].name
    explained = {one.key: json.loads(one.value) for one in trained.metadata_props}.get(EXPLANATION_KEY)
    del core.metadata_props[:]
    model = compose.merge_models(
        front,
        core,
        io_map=[pair for pair in joined if pair[0] in given],
        outputs=[value.name for value in core.graph.output],
    )
    model = compose.merge_models(model, _build_answer(features.target), io_map=[(raw, "outputs")])
    if explained is not None:
        _move_contributions(model)
    del model.opset_import[:]  # merging duplicates the opset imports, which the quantiser refuses
    model.opset_import.extend([helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)])
    del model.metadata_props[:]
    model.graph.name = name
    model.producer_name = "raymlops"
    model.producer_version = __version__
    helper.set_model_props(
        model, {CONTRACT_KEY: json.dumps(contract_of(features, explained), sort_keys=True)}
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _move_contributions(model: onnx.ModelProto) -> None:
    """They become the last output, by their own name."""
    inner = f"network/{CONTRIBUTIONS}"
    (held,) = (value for value in model.graph.output if value.name == inner)
    shown = onnx.ValueInfoProto()
    shown.CopyFrom(held)
    shown.name = CONTRIBUTIONS
    model.graph.output.remove(held)
    model.graph.output.append(shown)
    model.graph.node.append(helper.make_node("Identity", [inner], [CONTRIBUTIONS], name=CONTRIBUTIONS))


def _name_terms(explained: Mapping[str, Any], features: FittedFeatures) -> dict[str, Any]:
    names = name_columns(features)
    terms = [" & ".join(names[column] for column in columns) for columns in explained["columns"]]
    return {
        "output": CONTRIBUTIONS,
        "terms": terms,
        "intercept": explained["intercept"],
        "of": explained["of"],
    }


def contract_of(features: FittedFeatures, explained: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The contract in the file: columns, types, vocabulary sizes, class labels, versions, and the names of terms if the
    trained graph has their contributions."""
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
            **({"encoder": column.encoder, "encoder_sha256": column.digest} if column.encoder else {}),
            **({"typical": column.fill} if column.kind in ("number", "timestamp") else {}),
            **({"conversion": column.conversion.to_json()} if column.conversion else {}),
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
            **({"conversion": target.conversion.to_json()} if target.conversion else {}),
        },
        "versions": {
            "raymlops": __version__,
            "torch": metadata.version("torch").partition("+")[0],
            "onnx": onnx.__version__,
            "opset": OPSET,
            "ir": IR_VERSION,
        },
        **({} if explained is None else {"explanation": _name_terms(explained, features)}),
    }


def signature_of(features: FittedFeatures) -> Signature:
    """The inputs and outputs of the exported model."""
    target = features.target
    if target.task == "regression":
        return Signature(features.inputs, (TensorSpec("prediction", "FP32", (-1,)),))
    label = TensorSpec("label", {"string": "BYTES", "boolean": "BOOL"}.get(target.type, "INT64"), (-1,))
    if target.task == "binary":
        return Signature(features.inputs, (label, TensorSpec("probability", "FP32", (-1,))))
    return Signature(features.inputs, (label, TensorSpec("probabilities", "FP32", (-1, len(target.classes)))))


def to_bytes(model: onnx.ModelProto) -> bytes:
    """The content of its file; equal models give equal bytes."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def save_model(model: bytes, directory: pathlib.Path) -> tuple[pathlib.Path, str]:
    """Write `model.onnx` into a folder named by its sha256, below `directory`; returns its path and sha256."""
    digest = hashlib.sha256(model).hexdigest()
    path = directory / digest[:12] / MODEL_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model)
    return path, digest


def _transform_back(build: GraphBuilder, values: str, target: FittedTarget) -> None:
    low, high, one = (
        build.constant(np.array(bound, np.float32), name)
        for bound, name in ((target.low, "low"), (target.high, "high"), (1.0, "one"))
    )
    kept = build.add("Clip", values, low, high)
    if target.transform == "log":
        build.add("Sub", build.add("Exp", kept), one, name="prediction")
        return
    inverse = build.constant(np.array([1 / target.exponent], np.float32), "inverse")
    size = build.add("Pow", build.add("Abs", kept), inverse)
    build.add("Mul", build.add("Sign", kept), size, name="prediction")


def _build_answer(target: FittedTarget) -> onnx.ModelProto:
    """Raw network outputs (rows, outputs) -> label and probabilities, or the prediction in the target's unit."""
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
            mean = build.constant(np.array([target.mean], np.float32), "mean")
            if target.transform == "none":
                build.add("Add", scaled, mean, name="prediction")
            else:
                _transform_back(build, build.add("Add", scaled, mean), target)
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
