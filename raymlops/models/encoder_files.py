"""ONNX files of the user's own that turn a column into numbers, as frozen nodes of our graphs. Trains nothing.

A file takes one tensor, of a column's values, and gives one tensor of numbers for each row.
"""

import dataclasses
import pathlib

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, compose, version_converter

from raymlops.errors import ArtifactError
from raymlops.features import FittedColumn
from raymlops.models.safety import SafetyLimits, digest_of, read_model
from raymlops.onnx_builder import INNER, ML_OPSET, OPSET, GraphBuilder

_LIMITS = SafetyLimits(largest=2**29, domains=("", "ai.onnx", "ai.onnx.ml"))
"""It becomes a part of one file, which may have 2 GiB."""


@dataclasses.dataclass(frozen=True)
class EncoderFile:
    """A checked file, in our opset, with functions inlined."""

    model: onnx.ModelProto
    digest: str

    @property
    def dtype(self) -> int:
        """Type of its input, of TensorProto."""
        return int(self.model.graph.input[0].type.tensor_type.elem_type)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its input, -1 for free axes."""
        dims = self.model.graph.input[0].type.tensor_type.shape.dim
        return tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims)


def read_encoder(path: str, digest: str = "") -> EncoderFile:
    """Read and check a file. Raises NotFoundError, ArtifactError for one that is unsafe, cannot be a part of our
    graphs, or has another digest."""
    data = read_model(pathlib.Path(path), digest, _LIMITS)
    if not isinstance(data, bytes):
        raise ArtifactError(f"{path!r} keeps weights in other files; export it as one file")
    model = onnx.ModelProto.FromString(data)
    fixed = {tensor.name for tensor in model.graph.initializer}
    given = [value for value in model.graph.input if value.name not in fixed]
    if len(given) != 1 or len(model.graph.output) != 1:
        raise ArtifactError(
            f"{path!r} has {len(given)} inputs and {len(model.graph.output)} outputs; an encoder takes the values of "
            "one column and gives one tensor of numbers: (rows, numbers)"
        )
    del model.graph.input[:]
    model.graph.input.extend(given)
    _check_types(model.graph, path)
    return EncoderFile(_to_our_opset(model, path), digest_of(data))


def _check_types(graph: onnx.GraphProto, path: str) -> None:
    kind, answer = (one[0].type.tensor_type for one in (graph.input, graph.output))
    numbers = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
    taken = (*numbers, TensorProto.STRING, TensorProto.INT64, TensorProto.INT32, TensorProto.UINT8)
    if kind.elem_type not in taken or not kind.shape.dim or kind.shape.dim[0].HasField("dim_value"):
        raise ArtifactError(
            f"The input {graph.input[0].name!r} of {path!r} must be strings or numbers with a free first axis, the "
            "rows; export it with a dynamic batch axis"
        )
    if answer.elem_type not in numbers:
        name = TensorProto.DataType.Name(answer.elem_type)
        raise ArtifactError(
            f"The output {graph.output[0].name!r} of {path!r} is {name}; expected numbers, FLOAT"
        )


def _to_our_opset(model: onnx.ModelProto, path: str) -> onnx.ModelProto:
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    opset = opsets.get("", opsets.get("ai.onnx", OPSET))
    if opset > OPSET or opsets.get("ai.onnx.ml", ML_OPSET) > ML_OPSET:
        raise ArtifactError(
            f"{path!r} has opset {opset} and ai.onnx.ml {opsets.get('ai.onnx.ml', ML_OPSET)}; export it with opset "
            f"{OPSET} and ai.onnx.ml {ML_OPSET} or less"
        )
    if opset == OPSET:
        return model
    try:
        return version_converter.convert_version(model, OPSET)
    except Exception as error:  # of the converter, which is C++
        raise ArtifactError(
            f"{path!r} has opset {opset}, and cannot be converted: {' '.join(str(error).split())[:200]}; export it "
            f"with opset {OPSET}"
        ) from None


def add_encoder(build: GraphBuilder, column: FittedColumn, number: int) -> str:
    """The nodes of a column's file; returns the numbers (rows, numbers) FP32. Raises ArtifactError if the file changed
    since it was measured."""
    file = read_encoder(column.encoder, column.digest)
    prefix = f"{INNER}encoder_{number}/"
    graph = compose.add_prefix_graph(file.model.graph, prefix)
    tensor = _fit_shape(build, column, file)
    if file.dtype != TensorProto.STRING:
        if column.scale != 1:
            scale = build.constant(np.float32(column.scale), "scale")
            tensor = build.add("Div", build.cast(tensor, TensorProto.FLOAT), scale)
        tensor = build.cast(tensor, file.dtype)
    build.add("Identity", tensor, name=graph.input[0].name)
    build.nodes.extend(graph.node)
    build.constants.extend(graph.initializer)
    return build.cast(build.add("Flatten", graph.output[0].name, axis=1), TensorProto.FLOAT)


def _fit_shape(build: GraphBuilder, column: FittedColumn, file: EncoderFile) -> str:
    """The column's values with the axes that the file takes."""
    values, texts = column.name, column.type == "string"
    if texts != (file.dtype == TensorProto.STRING):
        takes = "strings" if not texts else "numbers"
        raise ArtifactError(
            f"Encoder {column.encoder!r} takes {takes}, and column {column.name!r} is {column.type}"
        )
    shape, own = file.shape, (-1, *column.shape)
    if _matches(own, shape):
        return values
    if _matches((*own, 1), shape):
        return _add_axis(build, values, -1)
    if len(own) == 3 and _matches((own[0], 1, *own[1:]), shape):
        return _add_axis(build, values, 1)
    if len(own) == 4 and _matches((own[0], own[3], own[1], own[2]), shape):
        return build.add("Transpose", values, perm=[0, 3, 1, 2])
    raise ArtifactError(
        f"Encoder {column.encoder!r} takes {list(shape)}, and the values of column {column.name!r} are {list(own)}"
    )


def _matches(own: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(own) == len(wanted) and all(
        size in (-1, have) for have, size in zip(own[1:], wanted[1:], strict=True)
    )


def _add_axis(build: GraphBuilder, values: str, axis: int) -> str:
    return build.add("Unsqueeze", values, build.constant(np.array([axis], dtype=np.int64), "axis"))
