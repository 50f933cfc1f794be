"""Checks an ONNX file that came from somewhere else, before ONNX Runtime sees it: nothing outside its folder,
no unknown code.

Reads bytes and protobuf only; makes no session. What passes can still be a bad model, but not one that reads
other files, asks for absurd memory, or is not the file that was registered.
"""

import dataclasses
import hashlib
import math
import pathlib
from collections.abc import Iterator, Sequence

import onnx
from google.protobuf.message import DecodeError

from raymlops.errors import ArtifactError, NotFoundError, unknown_name
from raymlops.tensors import DATATYPE_OF_ONNX

DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Operator domains that ONNX Runtime brings itself; any other would need a library of someone else's code."""


@dataclasses.dataclass(frozen=True)
class SafetyLimits:
    """What a model may ask for. `largest` is the bytes of all weights together."""

    largest: int = 16 * 2**30
    domains: tuple[str, ...] = DOMAINS


def read_model(
    path: pathlib.Path, digest: str = "", limits: SafetyLimits | None = None
) -> bytes | pathlib.Path:
    """Check the file and return what a session may be opened from: its bytes, or its path when weights lie
    beside it.

    The bytes are those that were hashed and checked, so nobody can swap the file in between. `digest` is the
    expected sha256 in hex, empty for none. Raises NotFoundError, ArtifactError.
    """
    limits = limits or SafetyLimits()
    try:
        size = path.stat().st_size
        if size > min(limits.largest, 2**31):
            raise ArtifactError(
                f"{path.name!r} has {size} bytes; an ONNX file may have at most 2 GiB and the limit here"
            )
        data = path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"No ONNX file {str(path)!r}") from None
    except OSError as error:
        raise ArtifactError(f"Cannot read {str(path)!r}: {error}") from None
    if digest and (got := hashlib.sha256(data).hexdigest()) != digest:
        raise ArtifactError(
            f"{path.name!r} has sha256 {got[:12]}…, but {digest[:12]}… was registered; the file was "
            f"changed or is incomplete"
        )
    return path if check_model(data, path.name, path.parent, limits) else data


def check_model(
    data: bytes,
    name: str = "the model",
    folder: pathlib.Path | None = None,
    limits: SafetyLimits | None = None,
) -> bool:
    """Raise ArtifactError unless the model is safe to load. True when it has weights in other files of
    `folder`."""
    limits = limits or SafetyLimits()
    try:
        model = onnx.ModelProto.FromString(data)
    except (DecodeError, ValueError) as error:
        raise ArtifactError(f"{name!r} is not an ONNX file, or it is cut short: {error}") from None
    if not model.HasField("graph") or (not model.graph.node and not model.graph.output):
        raise ArtifactError(f"{name!r} holds no graph; it is not an ONNX file, or it is cut short")
    local = {function.domain for function in model.functions}
    for graph in _graphs(model):
        _check_nodes(graph, name, {*limits.domains, *local})
    total, external = 0, False
    for tensor in _tensors(model):
        outside = tensor.data_location == onnx.TensorProto.EXTERNAL
        external = external or outside
        total += _check_external(tensor, name, folder) if outside else _check_weight(tensor, name, limits)
        if total > limits.largest:
            raise ArtifactError(
                f"The weights of {name!r} are over {limits.largest} bytes; that is the limit here"
            )
    return external


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    waiting: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting.extend(attribute.graphs)
                if attribute.HasField("g"):
                    waiting.append(attribute.g)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for graph in _graphs(model):
        if isinstance(graph, onnx.GraphProto):
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                yield from attribute.tensors
                if attribute.HasField("t"):
                    yield attribute.t
                if attribute.HasField("sparse_tensor"):
                    yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)


def _check_nodes(graph: onnx.GraphProto | onnx.FunctionProto, name: str, domains: set[str]) -> None:
    for node in graph.node:
        if node.domain not in domains:
            raise ArtifactError(
                f"{name!r} uses operator {node.op_type!r} of a foreign library; "
                + unknown_name("operator domain", node.domain, (d or "ai.onnx" for d in domains))
            )
    producer = {output: node for node in graph.node for output in node.output if output}
    depends = {
        id(node): {id(producer[i]) for i in node.input if i in producer} for node in graph.node
    }  # edges inside this graph only
    users: dict[int, list[int]] = {}
    for node_id, sources in depends.items():
        for source in sources:
            users.setdefault(source, []).append(node_id)
    ready = [node_id for node_id, sources in depends.items() if not sources]
    seen = 0
    while ready:
        seen += 1
        done = ready.pop()
        for user in users.get(done, ()):
            depends[user].discard(done)
            if not depends[user]:
                ready.append(user)
    if seen != len(depends):
        raise ArtifactError(
            f"The graph of {name!r} is cyclic: {len(depends) - seen} nodes wait for each other"
        )


def _elements(tensor: onnx.TensorProto, name: str) -> int:
    if any(size < 0 for size in tensor.dims):
        raise ArtifactError(f"Weight {tensor.name!r} of {name!r} has a negative size {list(tensor.dims)}")
    return math.prod(tensor.dims)


def _check_weight(tensor: onnx.TensorProto, name: str, limits: SafetyLimits) -> int:
    """Bytes of a weight that is in the file; its declared shape must be what is there."""
    elements = _elements(tensor, name)
    datatype = DATATYPE_OF_ONNX.get(tensor.data_type)
    expected = elements * (datatype.itemsize if datatype else 0)
    if expected > limits.largest:
        raise ArtifactError(
            f"Weight {tensor.name!r} of {name!r} is declared as {list(tensor.dims)}, {expected} bytes; "
            f"the limit is {limits.largest}"
        )
    if tensor.HasField("raw_data") and datatype and datatype.itemsize and len(tensor.raw_data) != expected:
        raise ArtifactError(
            f"Weight {tensor.name!r} of {name!r} is declared as {list(tensor.dims)}, {expected} bytes, "
            f"but holds {len(tensor.raw_data)}; the file is broken"
        )
    fields: Sequence[Sequence[object]] = (
        tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data,
        tensor.string_data
    )  # fmt: skip
    held = max(len(field) for field in fields)
    if not tensor.HasField("raw_data") and datatype and held != elements:
        raise ArtifactError(
            f"Weight {tensor.name!r} of {name!r} is declared with {elements} elements but holds {held}; "
            f"the file is broken"
        )
    return max(expected, len(tensor.raw_data))


def _check_external(tensor: onnx.TensorProto, name: str, folder: pathlib.Path | None) -> int:
    """Bytes of a weight that lies in another file, which must be a plain file of the same folder."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    what = f"Weight {tensor.name!r} of {name!r} is kept in {location!r}"
    if folder is None:
        raise ArtifactError(f"{what}, but a model given as bytes has no folder; export it as one file")
    root = folder.resolve()
    target = root / location
    if not location or pathlib.PurePath(location).is_absolute() or "\\" in location or "\0" in location:
        raise ArtifactError(f"{what}; only a relative path inside the model's folder is allowed")
    if not target.resolve().is_relative_to(root):
        raise ArtifactError(f"{what}, which leads out of the model's folder")
    if not target.is_file():
        raise ArtifactError(f"{what}, which does not exist in the model's folder")
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", 0))
    except ValueError:
        raise ArtifactError(f"{what} with an offset or length that is no number") from None
    datatype = DATATYPE_OF_ONNX.get(tensor.data_type)
    expected = _elements(tensor, name) * (datatype.itemsize if datatype else 0)
    size = target.stat().st_size
    if (
        offset < 0
        or length < 0
        or offset + max(length, expected) > size
        or (length and expected and length != expected)
    ):
        raise ArtifactError(
            f"{what} at {offset}, {max(length, expected)} bytes, but that file has {size} bytes and the "
            f"tensor needs {expected}"
        )
    return expected
