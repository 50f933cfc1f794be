"""What an ONNX file says of itself without being loaded: its signature and metadata. Makes no session."""

import dataclasses
from typing import Any

import onnx

from raymlops.errors import ArtifactError, SpecError
from raymlops.specs.document import read_json
from raymlops.tensors import DATATYPE_OF_ONNX, Signature, TensorSpec


@dataclasses.dataclass(frozen=True)
class Header:
    signature: Signature
    contract: dict[str, Any]


def read_header(data: bytes, contract_key: str = "raymlops.contract") -> Header:
    """The signature as a session would have it. Raises ArtifactError for tensors that are not plain ones."""
    model = onnx.ModelProto.FromString(data)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_to_spec(value) for value in model.graph.input if value.name not in weights)
    outputs = tuple(_to_spec(value) for value in model.graph.output)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return Header(Signature(inputs, outputs), read_contract(metadata.get(contract_key, "{}")))


def read_contract(text: str) -> dict[str, Any]:
    """What a model says of its own columns and labels. Raises ArtifactError for what is no JSON object."""
    try:
        held = read_json(text, "The contract in the model")
    except SpecError as error:
        raise ArtifactError(str(error)) from None
    if not isinstance(held, dict):
        raise ArtifactError(f"The contract in the model is {type(held).__name__}; expected a JSON object")
    return held


def _to_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or tensor.elem_type not in DATATYPE_OF_ONNX:
        raise ArtifactError(f"Tensor {value.name!r} is no plain tensor; only these are supported")
    if not tensor.HasField("shape"):
        raise ArtifactError(f"Tensor {value.name!r} has no shape; export the model with its shapes")
    shape = tuple(size.dim_value if size.HasField("dim_value") else -1 for size in tensor.shape.dim)
    return TensorSpec(value.name, DATATYPE_OF_ONNX[tensor.elem_type].name, shape)
