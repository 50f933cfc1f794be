"""Checks an ONNX file of unknown origin before ONNX Runtime opens it: nothing outside its folder, no foreign code.

Reads bytes and protobuf only; makes no session. A model that passes may still be a bad model, but it cannot read
other files, ask for excessive memory, or differ from the registered file.
"""

import collections
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import onnx
from google.protobuf.message import DecodeError

from raymlops.errors import ArtifactError, NotFoundError, unknown_name
from raymlops.models import external_data
from raymlops.models.external_data import ModelFiles, count_bytes, count_elements
from raymlops.models.traversal import short_domain, visit
from raymlops.tensors import DATATYPE_OF_ONNX

DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Operator domains that ONNX Runtime includes; any other would need a library of foreign code."""

LOADERS = frozenset(("EPContext", "PythonOp", "PythonOpGrad", "ATen", "TritonOp", "Snpe"))
"""Operators of com.microsoft that load compiled code or call code on the machine by name."""

Model: TypeAlias = bytes | ModelFiles
"""A checked model: the bytes of its file, and of its external weights files if it has any."""
_Call: TypeAlias = tuple[str, str, str]  # domain, name and overload of an operator or function


@dataclasses.dataclass(frozen=True)
class SafetyLimits:
    """Limits of a model. `largest` is the bytes of all weights together, `nodes` the nodes of all graphs, with every
    call of a function counted as the nodes of that function."""

    largest: int = 16 * 2**30
    domains: tuple[str, ...] = DOMAINS
    nodes: int = 250_000


def read_model(path: pathlib.Path, digest: str = "", limits: SafetyLimits | None = None) -> Model:
    """Read a model and check it: a session is opened from the bytes that were read, so nobody can swap a file in
    between.

    `digest` is the expected one in hex, as computed by `digest_of`, empty for none. Raises NotFoundError,
    ArtifactError.
    """
    limits = limits or SafetyLimits()
    what = f"The model is {str(path)!r}"
    try:
        with external_data.open_plain(path, what) as number:
            data = _read_bounded(number, path.name, limits)
    except FileNotFoundError:
        raise NotFoundError(f"No ONNX file {str(path)!r}") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"Cannot read {str(path)!r}: {error}") from None
    tensors = _inspect(data, path.name, limits)
    model: Model = data
    if tensors:
        left = limits.largest - len(data)
        weights = external_data.read_weights(
            path.parent, tensors, path.name, largest=left, pinned=bool(digest)
        )
        model = ModelFiles(data, weights)
    if digest and (got := digest_of(model)) != digest:
        raise ArtifactError(
            f"{path.name!r} has sha256 {got[:12]}…, but {digest[:12]}… was registered; the file was "
            f"changed or is incomplete"
        )
    return model


def _read_bounded(number: int, name: str, limits: SafetyLimits) -> bytes:
    size = os.fstat(number).st_size
    if size > min(limits.largest, external_data.LARGEST_FILE):
        raise ArtifactError(
            f"{name!r} has {size} bytes; an ONNX file may have at most 2 GiB and the limit here"
        )
    return external_data.read_all(number, size, f"The model is {name!r}")


def digest_of(model: Model) -> str:
    """sha256 of the file; if weights are in other files, of the list of all files with their digests."""
    return model.digest if isinstance(model, ModelFiles) else hashlib.sha256(model).hexdigest()


def size_of(model: Model) -> int:
    """Bytes of all files of a model."""
    return model.size if isinstance(model, ModelFiles) else len(model)


def check_model(data: bytes, name: str = "the model", limits: SafetyLimits | None = None) -> None:
    """Raise ArtifactError unless the bytes of a file are a complete model that is safe to load."""
    outside = _inspect(data, name, limits or SafetyLimits())
    if outside:
        location = external_data.read_reference(outside[0], name).location
        raise ArtifactError(
            f"Weight {outside[0].name!r} of {name!r} is kept in {location!r}, but a model given as bytes has no "
            "folder; export it as one file"
        )


def _inspect(data: bytes, name: str, limits: SafetyLimits) -> list[onnx.TensorProto]:
    """Check everything but the weights in other files, which are passed in."""
    try:
        model = onnx.ModelProto.FromString(data)
    except (DecodeError, ValueError) as error:
        cause = " ".join(str(error).split())
        raise ArtifactError(
            f"{name!r} is not an ONNX file, or it is truncated; cannot load it: {cause}"
        ) from None
    if not model.HasField("graph") or (not model.graph.node and not model.graph.output):
        raise ArtifactError(f"{name!r} holds no graph; it is not an ONNX file, or it is truncated")
    _check_known(model, name)
    functions = {(short_domain(f.domain), f.name, f.overload): f for f in model.functions}
    if len(functions) != len(model.functions):
        raise ArtifactError(f"{name!r} defines a function twice")
    total, nodes, outside = 0, 0, []
    for part in visit(model):
        if isinstance(part, onnx.TensorProto):
            if part.data_location == onnx.TensorProto.EXTERNAL:
                outside.append(part)
                total += external_data.read_reference(part, name).size
            else:
                total += _check_weight(part, name, limits)
            if total > limits.largest:
                raise ArtifactError(
                    f"The weights of {name!r} are over {limits.largest} bytes; that is the limit here"
                )
        elif isinstance(part, onnx.NodeProto):
            nodes += 1
            _check_domain(part, name, limits.domains, functions)
        else:
            _check_order(part, name)
    if nodes > limits.nodes:
        raise ArtifactError(f"{name!r} has {nodes} nodes; the limit is {limits.nodes}")
    _check_expansion(model, functions, name, limits)
    return outside


def _check_known(model: onnx.ModelProto, name: str) -> None:
    """Fields that this release of ONNX does not know cannot be checked, but ONNX Runtime may use them."""
    size = model.ByteSize()
    model.DiscardUnknownFields()
    if model.ByteSize() != size:
        raise ArtifactError(
            f"{name!r} has fields that ONNX {onnx.__version__} does not know; export it for this release"
        )


def _check_domain(
    node: onnx.NodeProto, name: str, domains: Sequence[str], functions: Iterable[_Call]
) -> None:
    if node.domain not in domains and _call_of(node) not in functions:
        raise ArtifactError(
            f"{name!r} uses operator {node.op_type!r} of a foreign library; "
            + unknown_name("operator domain", node.domain, (d or "ai.onnx" for d in domains))
        )
    if node.domain == "com.microsoft" and node.op_type in LOADERS:
        raise ArtifactError(
            f"{name!r} uses operator {node.op_type!r}, which runs code that is not in the graph; export it without"
        )


def _call_of(node: onnx.NodeProto) -> _Call:
    return short_domain(node.domain), node.op_type, node.overload


def _check_expansion(
    model: onnx.ModelProto, functions: Mapping[_Call, onnx.FunctionProto], name: str, limits: SafetyLimits
) -> None:
    """ONNX Runtime inlines each call of a function: nested functions grow exponentially."""
    if not functions:
        return
    calls = {key: collections.Counter(map(_call_of, _nodes(f))) for key, f in functions.items()}
    waiting = {key: sum(1 for called in held if called in functions) for key, held in calls.items()}
    callers: dict[_Call, list[_Call]] = {}
    for key, held in calls.items():
        for called in held:
            callers.setdefault(called, []).append(key)
    sizes: dict[_Call, int] = {}
    ready = [key for key, count in waiting.items() if not count]
    while ready:
        key = ready.pop()
        size = sum(count * sizes.get(called, 1) for called, count in calls[key].items())
        sizes[key] = min(size, limits.nodes + 1)  # enough: the true number may have many digits
        for caller in callers.get(key, ()):
            waiting[caller] -= 1
            if not waiting[caller]:
                ready.append(caller)
    if len(sizes) != len(functions):
        stuck = sorted(key[1] for key in functions if key not in sizes)
        raise ArtifactError(f"Functions of {name!r} call themselves: {', '.join(stuck[:5])}")
    used = collections.Counter(map(_call_of, _nodes(model.graph)))
    expanded = sum(count * sizes.get(called, 1) for called, count in used.items())
    if max(expanded, *sizes.values()) > limits.nodes:
        raise ArtifactError(
            f"{name!r} has too many nodes once its functions are put in place of their calls; the limit is "
            f"{limits.nodes}"
        )


def _nodes(part: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    return (node for node in visit(part) if isinstance(node, onnx.NodeProto))


def _check_order(graph: onnx.GraphProto | onnx.FunctionProto, name: str) -> None:
    """Raises ArtifactError for a cycle."""
    producer = {output: place for place, node in enumerate(graph.node) for output in node.output if output}
    waits = [{producer[read] for read in node.input if read in producer} for node in graph.node]
    users: dict[int, list[int]] = {}
    for place, sources in enumerate(waits):  # only edges inside this graph
        for source in sources:
            users.setdefault(source, []).append(place)
    ready = [place for place, sources in enumerate(waits) if not sources]
    seen = 0
    while ready:
        seen += 1
        done = ready.pop()
        for user in users.get(done, ()):
            waits[user].discard(done)
            if not waits[user]:
                ready.append(user)
    if seen != len(waits):
        raise ArtifactError(f"The graph of {name!r} is cyclic: {len(waits) - seen} nodes wait for each other")


def _check_weight(tensor: onnx.TensorProto, name: str, limits: SafetyLimits) -> int:
    """Bytes of a weight inside the file; its declared shape must match its data."""
    elements, expected = count_elements(tensor, name), count_bytes(tensor, name)
    if max(expected, elements) > limits.largest:
        raise ArtifactError(
            f"Weight {tensor.name!r} of {name!r} is declared as {list(tensor.dims)}, {expected} bytes; "
            f"the limit is {limits.largest}"
        )
    if tensor.HasField("raw_data"):
        if tensor.data_type in external_data.BITS and len(tensor.raw_data) != expected:
            raise ArtifactError(
                f"Weight {tensor.name!r} of {name!r} is declared as {list(tensor.dims)}, {expected} bytes, "
                f"but holds {len(tensor.raw_data)}; the file is broken"
            )
        return max(expected, len(tensor.raw_data))
    fields: Sequence[Sequence[object]] = (
        tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data,
        tensor.string_data
    )  # fmt: skip
    held = max(len(field) for field in fields)
    if tensor.data_type in DATATYPE_OF_ONNX and held != elements:
        raise ArtifactError(
            f"Weight {tensor.name!r} of {name!r} is declared with {elements} elements but holds {held}; "
            f"the file is broken"
        )
    return max(expected, sum(map(len, tensor.string_data)))
