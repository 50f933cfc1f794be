"""Reads an ONNX file's signature and metadata without loading it. Makes no session."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import onnx

from raymlops.artifact import CONTRACT_KEY
from raymlops.errors import ArtifactError, SpecError, shorten
from raymlops.models.optional_inputs import list_optional
from raymlops.specs.document import read_json
from raymlops.tensors import DATATYPE_OF_ONNX, Signature, TensorSpec


@dataclasses.dataclass(frozen=True)
class Header:
    signature: Signature
    contract: dict[str, Any]
    optional: tuple[TensorSpec, ...] = ()
    """Inputs with a default value, which a request may override."""


def read_header(data: bytes) -> Header:
    """The signature that a session would have. Raises ArtifactError for tensors that are not plain tensors."""
    model = onnx.ModelProto.FromString(data)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_to_spec(value) for value in model.graph.input if value.name not in weights)
    outputs = tuple(_to_spec(value) for value in model.graph.output)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    contract = read_contract(metadata.get(CONTRACT_KEY, "{}"))
    return Header(Signature(inputs, outputs), contract, tuple(_list_optional(model)))


def _list_optional(model: onnx.ModelProto) -> Iterator[TensorSpec]:
    values = {value.name: value for value in model.graph.input}
    for name in list_optional(model):
        with contextlib.suppress(ArtifactError):  # of a type that no request can hold
            yield _to_spec(values[name])


def read_contract(text: str) -> dict[str, Any]:
    """The model's contract on its columns and labels. Raises ArtifactError if it is not a JSON object."""
    try:
        held = read_json(text, "The contract in the model")
    except SpecError as error:
        raise ArtifactError(str(error)) from None
    if not isinstance(held, dict):
        raise ArtifactError(f"The contract in the model is {type(held).__name__}; expected a JSON object")
    if not isinstance(held.get("explanation", {}), dict):
        raise ArtifactError(
            f"The explanation in the contract of the model is {shorten(repr(held['explanation']))}; expected an object"
        )
    columns = held.get("columns", [])
    if not isinstance(columns, list) or not all(map(_is_column, columns)):
        raise ArtifactError(
            f"The columns of the contract in the model are {shorten(repr(columns))}; expected a list of objects with a "
            "name and a kind"
        )
    return held


def _is_column(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("name", "kind"))


def _to_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or tensor.elem_type not in DATATYPE_OF_ONNX:
        raise ArtifactError(f"Tensor {value.name!r} is not a plain tensor; only these are supported")
    if not tensor.HasField("shape"):
        raise ArtifactError(f"Tensor {value.name!r} has no shape; export the model with its shapes")
    shape = tuple(size.dim_value if size.HasField("dim_value") else -1 for size in tensor.shape.dim)
    return TensorSpec(value.name, DATATYPE_OF_ONNX[tensor.elem_type].name, shape)
