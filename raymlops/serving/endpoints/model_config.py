"""A model's configuration in the form of Triton's `ModelConfig`, as its clients read it over REST and gRPC. Imports
no transport: a JSON document, which `json_format.ParseDict` turns into the message."""

from collections.abc import Mapping, Sequence
from typing import Any

from raymlops.artifact import MODEL_FILE
from raymlops.serving.endpoints.hosted import Hosted
from raymlops.serving.protocol.request_limits import RequestLimits
from raymlops.tensors import TensorSpec

_TYPES = {"BYTES": "TYPE_STRING"}
"""Datatypes whose Triton name is not TYPE_ and the protocol's name."""


def describe_config(hosted: Hosted, limits: RequestLimits) -> dict[str, Any]:
    """The configuration of a hosted model.

    `max_batch_size` is above 0, and the dimensions are those of one row, only if every tensor has a free first
    dimension and at least one more: Triton has no tensor of rows alone, so such models list whole shapes.
    """
    signature = hosted.endpoint.signature
    optional = {spec.name for spec in hosted.optional}
    inputs = (*signature.inputs, *hosted.optional)
    batched = all(len(spec.shape) > 1 and spec.shape[0] == -1 for spec in (*inputs, *signature.outputs))
    skipped = 1 if batched and not optional else 0
    return {
        "name": hosted.name,
        "platform": hosted.platform,
        "backend": "onnxruntime" if hosted.platform == "onnxruntime_onnx" else "raymlops",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": min(limits.rows, 2**31 - 1) if skipped else 0,
        "input": _list_tensors(inputs, skipped, optional),
        "output": _list_tensors(signature.outputs, skipped),
        "default_model_filename": MODEL_FILE if hosted.platform == "onnxruntime_onnx" else "",
        "parameters": _to_parameters({"shared_runs": hosted.statistics.sharing}),
    }


def _list_tensors(
    specs: Sequence[TensorSpec], skipped: int, optional: set[str] | frozenset[str] = frozenset()
) -> list[dict[str, Any]]:
    return [
        {
            "name": spec.name,
            "data_type": _TYPES.get(spec.datatype, f"TYPE_{spec.datatype}"),
            "dims": list(spec.shape[skipped:]),
            **({"optional": True} if spec.name in optional else {}),
        }
        for spec in specs
    ]


def _to_parameters(values: Mapping[str, str]) -> dict[str, Any]:
    return {name: {"string_value": value} for name, value in values.items()}
