"""Named tensors and their types: Batch, TensorSpec, Signature and the only table of datatypes.

Datatype names are those of the Open Inference Protocol (FP32, INT64, BYTES ...).
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.errors import InputError, unknown_name

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Batch = dict[str, Array]
"""Column or tensor name -> array whose first axis is the rows. BYTES tensors are object arrays of `str` or `bytes`."""

ELEMENTS = "elements"
"""Kind of a tensor whose first axis runs over the elements of all rows; a second tensor holds the counts per row."""


@dataclasses.dataclass(frozen=True)
class Datatype:
    """One row of the dtype table; `onnx` is the onnx.TensorProto.DataType, `ort` the type name in a session."""

    name: str
    numpy: np.dtype[Any]
    onnx: int
    ort: str

    @property
    def itemsize(self) -> int:
        """Bytes per element; 0 for BYTES, whose elements vary."""
        return 0 if self.name == "BYTES" else self.numpy.itemsize


_ROWS = (
    ("BOOL", np.bool_, 9, "bool"),
    ("UINT8", np.uint8, 2, "uint8"),
    ("UINT16", np.uint16, 4, "uint16"),
    ("UINT32", np.uint32, 12, "uint32"),
    ("UINT64", np.uint64, 13, "uint64"),
    ("INT8", np.int8, 3, "int8"),
    ("INT16", np.int16, 5, "int16"),
    ("INT32", np.int32, 6, "int32"),
    ("INT64", np.int64, 7, "int64"),
    ("FP16", np.float16, 10, "float16"),
    ("FP32", np.float32, 1, "float"),
    ("FP64", np.float64, 11, "double"),
    ("BYTES", np.object_, 8, "string"),
)
DATATYPES = {name: Datatype(name, np.dtype(kind), onnx, ort) for name, kind, onnx, ort in _ROWS}
DATATYPE_OF_ONNX = {row.onnx: row for row in DATATYPES.values()}
DATATYPE_OF_ORT = {f"tensor({row.ort})": row for row in DATATYPES.values()}
DATATYPE_OF_NUMPY = {row.numpy: row for row in DATATYPES.values()}


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """Name, Open Inference Protocol datatype and shape of a tensor; -1 is a dimension known only at run time."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.datatype not in DATATYPES:
            raise InputError(unknown_name(f"datatype of tensor {self.name!r}:", self.datatype, DATATYPES))

    def __str__(self) -> str:
        return f"{self.name}: {self.datatype}[{','.join(str(size) for size in self.shape)}]"

    @property
    def dtype(self) -> np.dtype[Any]:
        return DATATYPES[self.datatype].numpy

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """True if an array of this shape fits."""
        if len(shape) != len(self.shape):
            return False
        for want, got in zip(self.shape, shape, strict=True):  # noqa: SIM110  -- twice as fast as all(...)
            if want not in (-1, got):
                return False
        return True

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "TensorSpec":
        return cls(str(value["name"]), str(value["datatype"]), tuple(int(size) for size in value["shape"]))


@dataclasses.dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a model, in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __iter__(self) -> Iterator[TensorSpec]:
        return iter(self.inputs + self.outputs)

    def to_json(self) -> dict[str, Any]:
        return {
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Signature":
        return cls(
            tuple(TensorSpec.from_json(spec) for spec in value["inputs"]),
            tuple(TensorSpec.from_json(spec) for spec in value["outputs"]),
        )


def count_rows(batch: Mapping[str, npt.NDArray[Any]]) -> int:
    """Rows of a batch; 0 if it has no tensor."""
    for values in batch.values():
        return len(values)
    return 0


def list_texts(values: npt.NDArray[Any]) -> list[str]:
    """Every element of a tensor as text, in row-major order; bytes are UTF-8, or get a text that no UTF-8 has."""
    return [
        value.decode(errors="surrogateescape") if isinstance(value, bytes) else str(value)
        for value in values.reshape(-1).tolist()
    ]


def have_rows_in_common(batch: Mapping[str, npt.NDArray[Any]]) -> bool:
    """True if all tensors have the same number of rows."""
    return len({array.shape[:1] for array in batch.values()}) == 1


def make_writable(batch: Batch) -> Batch:
    """The same batch, with read-only arrays copied: views of a request body or of an object store."""
    return {name: array if array.flags.writeable else array.copy() for name, array in batch.items()}


def copy_batch(batch: Batch) -> Batch:
    return {name: array.copy() for name, array in batch.items()}


def split_rows(batch: Batch, rows: Sequence[int]) -> list[Batch]:
    """Consecutive batches of a given number of rows."""
    ends = list(itertools.accumulate(rows))
    return [
        {name: values[start:end] for name, values in batch.items()}
        for start, end in zip([0, *ends], ends, strict=False)
    ]


def sample(signature: Signature, rows: int, size: int = 1) -> Batch:
    """A valid batch of zeros and empty strings; `size` replaces other free dimensions."""
    return {spec.name: _sample_tensor(spec, rows, size) for spec in signature.inputs}


def _sample_tensor(
    spec: TensorSpec, rows: int, size: int
) -> "np.ndarray[tuple[int, ...], np.dtype[np.generic]]":
    shape = [fixed if fixed >= 0 else (rows if axis == 0 else size) for axis, fixed in enumerate(spec.shape)]
    return np.full(shape, "", dtype=object) if spec.datatype == "BYTES" else np.zeros(shape, spec.dtype)


def make_noise(signature: Signature, rows: int) -> Batch:
    """Like `sample`, with random numbers in floating-point tensors."""
    noise = np.random.default_rng(0)
    batch = sample(signature, rows)
    for name, array in batch.items():
        if array.dtype.kind == "f":
            batch[name] = noise.normal(size=array.shape).astype(array.dtype)
    return batch
