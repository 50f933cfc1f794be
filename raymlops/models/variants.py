"""Smaller variants of an ONNX model: fp16, int8 by dynamic and int8 by static quantisation. Does not judge them.

Only the learned part changes, from the first matrix product to the last. The nodes before it, which read raw columns
and strings, and those after it, which make probabilities and labels, keep their types, as do inputs and outputs.
"""

import dataclasses
import hashlib
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnxruntime import quantization

from raymlops.errors import ArtifactError, InputError, unknown_name
from raymlops.models.external_data import ModelFiles
from raymlops.models.float16 import LARGEST, halve
from raymlops.models.runtime_messages import explain_failure
from raymlops.models.safety import read_model
from raymlops.models.session import SessionOptions, open_session
from raymlops.tensors import Batch, count_rows

_HEAVY = ("MatMul", "Gemm", "Conv")
_CALIBRATION_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Variant:
    """One file made from another; `original` is the kind of the file it was made from."""

    kind: str
    path: pathlib.Path
    size: int
    digest: str
    note: str = ""


def make_variant(
    kind: str, source: pathlib.Path, target: pathlib.Path, rows: Batch | None = None, digest: str = ""
) -> Variant:
    """Write the variant of `source`, whose digest is `digest` if given, to `target`; `rows` calibrate int8_static.

    Raises InputError without rows for int8_static, ArtifactError if the model cannot be converted.
    """
    if kind not in KINDS:
        raise InputError(unknown_name("variant", kind, KINDS))
    read = read_model(source, digest)
    model = read.embed() if isinstance(read, ModelFiles) else onnx.load_from_string(read)
    learned = find_learned(model)
    if not any(node.op_type in _HEAVY for node in learned):
        raise ArtifactError(
            f"{source.name!r} has no {', '.join(_HEAVY)} to make smaller; keep the original for this model"
        )
    _join_opsets(model)
    metadata = [(entry.key, entry.value) for entry in model.metadata_props]
    try:
        smaller, note = KINDS[kind](model, learned, rows)
    except (InputError, ArtifactError):
        raise
    except Exception as error:  # the quantisers raise a dozen unrelated classes
        raise ArtifactError(f"{source.name!r} cannot become {kind}: {explain_failure(error)}") from None
    del smaller.metadata_props[:]
    onnx.helper.set_model_props(smaller, dict(metadata))
    smaller.ir_version = min(smaller.ir_version, model.ir_version)
    _check_types(model, smaller, kind)
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(smaller, str(target))
    return _describe(kind, target, note)


def _join_opsets(model: onnx.ModelProto) -> None:
    """One opset import per domain; merging duplicates them, which the quantisers refuse."""
    versions: dict[str, int] = {}
    for entry in model.opset_import:
        versions[entry.domain] = max(versions.get(entry.domain, 0), entry.version)
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(*item) for item in versions.items())


def find_learned(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes from the first matrix product to the last, in order; unnamed nodes get names."""
    nodes = list(model.graph.node)
    taken = {node.name for node in nodes}
    for place, node in enumerate(nodes):
        if not node.name or sum(other.name == node.name for other in nodes) > 1:
            node.name = next(
                name for n in range(len(nodes) + 1) if (name := f"{node.op_type}_{place}_{n}") not in taken
            )
            taken.add(node.name)
    after: set[str] = set()  # tensors that depend on a heavy node
    for node in nodes:
        if node.op_type in _HEAVY or any(name in after for name in node.input):
            after.update(node.output)
    before: set[str] = set()  # tensors that a heavy node depends on
    for node in reversed(nodes):
        if node.op_type in _HEAVY or any(name in before for name in node.output):
            before.update(node.input)
    return [
        node
        for node in nodes
        if node.op_type in _HEAVY
        or (any(name in after for name in node.input) and any(name in before for name in node.output))
    ]


def to_fp16(
    model: onnx.ModelProto, learned: Sequence[onnx.NodeProto], rows: Batch | None
) -> tuple[onnx.ModelProto, str]:
    """Half precision of the learned part; weights beyond 65504 are clipped, and the note says so.

    With rows, raises ArtifactError if a value inside exceeds 65504 on them. A CPU computes FP16 in wider numbers, so
    that the overflow would show only on a GPU.
    """
    if rows is not None:
        _check_range(model, learned, rows)
    smaller, cut = halve(model, learned)
    return smaller, f"{cut} weights beyond 65504 were clipped" if cut else ""


def _check_range(model: onnx.ModelProto, learned: Sequence[onnx.NodeProto], rows: Batch) -> None:
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    names = [name for node in learned for name in node.output]
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = SessionOptions(optimisation="none")
    session = open_session(watched.SerializeToString(), options)
    for batch in _cut(rows):
        for name, values in session.infer(batch).items():
            reach = (
                float(np.abs(values, dtype=np.float64).max(initial=0)) if values.dtype == np.float32 else 0.0
            )
            if reach > LARGEST:
                raise ArtifactError(
                    f"Tensor {name!r} reaches {reach:.3g}, and FP16 ends at {LARGEST:.0f}; "
                    "keep the original, or scale the layer before it"
                )


def to_int8(
    model: onnx.ModelProto, learned: Sequence[onnx.NodeProto], rows: Batch | None
) -> tuple[onnx.ModelProto, str]:
    """int8 weights; activations are scaled for each batch, so outputs depend slightly on their batch."""
    return _quantise(
        model,
        lambda source, target: quantization.quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
        ),
    )


def to_int8_static(
    model: onnx.ModelProto, learned: Sequence[onnx.NodeProto], rows: Batch | None
) -> tuple[onnx.ModelProto, str]:
    """int8 weights and activations, with the ranges of the calibration rows."""
    if rows is None or count_rows(rows) == 0:
        raise InputError(
            "int8_static needs rows to calibrate with; give some hundred rows of the training split"
        )
    return _quantise(
        model,
        lambda source, target: quantization.quantize_static(
            source,
            target,
            _Rows(rows),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(_HEAVY),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
        ),
    )


KINDS: dict[str, Any] = {"fp16": to_fp16, "int8": to_int8, "int8_static": to_int8_static}


def _cut(rows: Batch) -> Iterator[Batch]:
    for start in range(0, count_rows(rows), _CALIBRATION_BATCH):
        yield {name: values[start : start + _CALIBRATION_BATCH] for name, values in rows.items()}


class _Rows(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Batches of the calibration rows, in the form that the quantiser asks for."""

    def __init__(self, rows: Batch) -> None:
        self._batches = _cut(rows)

    def get_next(self) -> Batch | None:
        return next(self._batches, None)


def _quantise(model: onnx.ModelProto, run: Any) -> tuple[onnx.ModelProto, str]:
    # The mark suppresses a warning that asks for a pre-processing step, which needs shapes that raw columns lack. The
    # quantisers transpose weights, and fail on the old shapes of the tensors between.
    del model.graph.value_info[:]
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    with tempfile.TemporaryDirectory() as folder:
        source, target = pathlib.Path(folder, "source.onnx"), pathlib.Path(folder, "target.onnx")
        onnx.save(model, str(source))
        run(str(source), str(target))
        return onnx.load(str(target)), ""


def _check_types(model: onnx.ModelProto, smaller: onnx.ModelProto, kind: str) -> None:
    def types(graph: onnx.GraphProto) -> list[tuple[str, int]]:
        return [(v.name, v.type.tensor_type.elem_type) for v in (*graph.input, *graph.output)]

    if types(model.graph) != types(smaller.graph):
        raise ArtifactError(f"Making {kind} changed inputs or outputs: {types(smaller.graph)}")


def _describe(kind: str, path: pathlib.Path, note: str = "") -> Variant:
    data = path.read_bytes()
    return Variant(kind, path, len(data), hashlib.sha256(data).hexdigest(), note)
