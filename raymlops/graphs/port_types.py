"""Which tensors can be connected, and the common type of several. Pure functions of ports."""

from collections.abc import Mapping, Sequence
from typing import Any

from raymlops.errors import SpecError, unknown_name
from raymlops.graphs.plan import LENGTHS, Port, Read
from raymlops.specs.graph_nodes import Tensor
from raymlops.tensors import TensorSpec

FLOATS = ("FP16", "FP32", "FP64")


def explain_mismatch(source: Port, wanted: Port) -> str | None:
    """Why a tensor cannot be read as another one, or None if it can."""
    if source.ragged and not wanted.ragged:
        return "it is ragged; run the node inside an `each`"
    if wanted.ragged and not source.ragged:
        return "it is not ragged"
    if source.spec.datatype != wanted.spec.datatype:
        return "the datatypes differ"
    if len(source.spec.shape) != len(wanted.spec.shape):
        return "the numbers of dimensions differ"
    if join_shapes(source.spec.shape, wanted.spec.shape) is None:
        return "the sizes differ"
    return None


def join_shapes(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...] | None:
    """The common shape of two that must be equal; None if there is none."""
    if len(first) != len(second) or any(
        a != b and -1 not in (a, b) for a, b in zip(first, second, strict=True)
    ):
        return None
    return tuple(b if a == -1 else a for a, b in zip(first, second, strict=True))


def join_ports(reads: Sequence[Read]) -> Port:
    """The type of tensors that are combined element by element. Raises SpecError if they differ."""
    reference, port = reads[0]
    if port.ragged:
        raise SpecError(f"cannot combine {reference} ({port}); ragged tensors are combined inside an `each`")
    shape = port.spec.shape
    for other, other_port in reads[1:]:
        reason = explain_mismatch(other_port, port)
        joined = join_shapes(shape, other_port.spec.shape)
        if reason or joined is None:
            raise SpecError(
                f"cannot combine {other} ({other_port}) with {reference} ({port}): "
                f"{reason or 'the sizes differ'}"
            )
        shape = _loosest(shape, other_port.spec.shape)
    return Port(TensorSpec(port.spec.name, port.spec.datatype, shape))


def join_numbers(reads: Sequence[Read]) -> Port:
    """Like `join_ports`, for numbers that can be averaged."""
    port = join_ports(reads)
    if port.spec.datatype not in FLOATS:
        raise SpecError(
            f"cannot average {port.spec}; expected one of {', '.join(FLOATS)} (vote takes labels)"
        )
    return port


def declare_port(tensor: Tensor) -> Port:
    """A tensor that a document declares. Raises SpecError."""
    if tensor.ragged and tensor.name.endswith(LENGTHS):
        raise SpecError(
            f"ragged tensor {tensor.name!r}: names ending in {LENGTHS!r} are reserved for its counts"
        )
    return Port(tensor.to_spec(), tensor.ragged)


def _loosest(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a if a == b else -1 for a, b in zip(first, second, strict=True))


def join_answers(answers: Mapping[str, tuple[Port, ...]]) -> tuple[Port, ...]:
    """The common outputs of branches, whichever answers: the same names and datatypes, and sizes that are equal."""
    (first, ports), *others = answers.items()
    for name, other in others:
        mine, theirs = {port.spec.name: port for port in ports}, {port.spec.name: port for port in other}
        if mine.keys() != theirs.keys():
            raise SpecError(
                f"{first!r} answers {_list(mine)}, but {name!r} answers {_list(theirs)}; expected the same"
            )
        for key, port in theirs.items():
            if (port.spec.datatype, port.ragged, len(port.spec.shape)) != (
                mine[key].spec.datatype,
                mine[key].ragged,
                len(mine[key].spec.shape),
            ):
                raise SpecError(
                    f"{first!r} answers {mine[key]}, but {name!r} answers {port}; expected the same"
                )
        ports = tuple(
            Port(
                TensorSpec(
                    port.spec.name,
                    port.spec.datatype,
                    _loosest(port.spec.shape, theirs[port.spec.name].spec.shape),
                ),
                port.ragged,
            )
            for port in ports
        )
    return ports


def check_one_value_per_row(text: str, port: Port) -> None:
    if port.ragged or port.spec.shape[1:] not in ((), (1,)):
        raise SpecError(f"{text!r} needs one value a row, but reads {port}")


def check_fallback(values: Mapping[str, Any], ports: Sequence[Port]) -> None:
    """Raises SpecError unless the values can replace these outputs."""
    names = [port.spec.name for port in ports]
    for name in values:
        if name not in names:
            raise SpecError(unknown_name("output under fallback:", name, names))
    for port in ports:
        name = port.spec.name
        if name not in values:
            raise SpecError(f"fallback gives no value for output {port}")
        if port.ragged or -1 in port.spec.shape[1:]:
            raise SpecError(f"fallback cannot fill {port}, whose size is not known; name a node instead")
        if (port.spec.datatype == "BYTES") != isinstance(values[name], str):
            raise SpecError(f"fallback {values[name]!r} is not a value of {port}")


def _list(names: Mapping[str, Any]) -> str:
    return ", ".join(sorted(names)) or "nothing"
