"""Converts our signatures to MLflow's, and makes input examples that its tools can send."""

from typing import Any

import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import Schema
from mlflow.types import TensorSpec as MlflowTensorSpec

from raymlops.tensors import Batch, Signature, TensorSpec


def to_mlflow(signature: Signature) -> ModelSignature:
    """Named tensors, so that pyfunc takes data frames and dicts and keeps outputs of any shape."""
    return ModelSignature(
        inputs=Schema([_to_tensor(spec) for spec in signature.inputs]),
        outputs=Schema([_to_tensor(spec) for spec in signature.outputs]),
    )


def _to_tensor(spec: TensorSpec) -> Any:
    dtype = np.dtype("str") if spec.datatype == "BYTES" else spec.dtype
    return MlflowTensorSpec(dtype, spec.shape, spec.name)


def to_example(batch: Batch) -> dict[str, Any]:
    """A few rows, as a mapping of input names."""
    return {
        name: values[:3].astype(str) if values.dtype == object else values[:3]
        for name, values in batch.items()
    }
