"""Which tensors join, and what each kind of node answers for what it reads. Pure functions of ports."""

from collections.abc import Mapping, Sequence
from typing import Any

from raymlops.errors import SpecError, unknown_name
from raymlops.graphs.plan import Port, Reference
from raymlops.specs.graph_nodes import ModelNode, StackNode, parse_condition
from raymlops.tensors import Signature, TensorSpec

FLOATS = ("FP16", "FP32", "FP64")
Read = tuple[Reference, Port]


def explain_mismatch(source: Port, wanted: Port) -> str | None:
    """Why a tensor cannot be read as another, or None when it can."""
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
    """The shape that is known of two that must be one; None if they cannot be."""
    if len(first) != len(second) or any(
        a != b and -1 not in (a, b) for a, b in zip(first, second, strict=True)
    ):
        return None
    return tuple(b if a == -1 else a for a, b in zip(first, second, strict=True))


def answer_of_model(node: ModelNode, signature: Signature) -> tuple[Port, ...]:
    names = {spec.name: spec for spec in signature.outputs}
    for values, counts in node.ragged.items():
        for name in (values, counts):
            if name not in names:
                raise SpecError(unknown_name("output under ragged:", name, names))
        if not names[counts].datatype.startswith(("INT", "UINT")) or len(names[counts].shape) != 1:
            raise SpecError(f"ragged: {names[counts]} cannot count elements; expected one whole number a row")
    return tuple(
        Port(TensorSpec(spec.name, spec.datatype, (-1, *spec.shape[1:])), True)
        if spec.name in node.ragged
        else Port(spec)
        for spec in signature.outputs
    )


def answer_of_mean(reads: Sequence[Read]) -> tuple[Port, ...]:
    port = _same(reads)
    if port.spec.datatype not in FLOATS:
        raise SpecError(
            f"cannot average {port.spec}; expected one of {', '.join(FLOATS)} (vote takes labels)"
        )
    return (port,)


def answer_of_vote(reads: Sequence[Read]) -> tuple[Port, ...]:
    port = _same(reads)
    if port.spec.datatype in FLOATS:
        raise SpecError(
            f"cannot vote on {port.spec}; expected labels: whole numbers, BOOL or BYTES (mean takes these)"
        )
    return (port,)


def answer_of_stack(node: StackNode, reads: Sequence[Read]) -> tuple[Port, ...]:
    """Sizes along the axis add up; tensors of one value a row count as one column."""
    shapes = [(*port.spec.shape, 1) if len(port.spec.shape) == 1 else port.spec.shape for _, port in reads]
    first = reads[0][1].spec
    axis = node.axis if node.axis > 0 else len(shapes[0]) + node.axis
    if not 0 < axis < len(shapes[0]):
        raise SpecError(f"axis {node.axis} is not a dimension after the rows of {first}")
    total, rest = 0, (*shapes[0][:axis], -1, *shapes[0][axis + 1 :])
    for (reference, port), shape in zip(reads, shapes, strict=True):
        joined = (
            join_shapes(rest, (*shape[:axis], -1, *shape[axis + 1 :])) if len(shape) == len(rest) else None
        )
        if port.ragged or joined is None or port.spec.datatype != first.datatype:
            raise SpecError(
                f"cannot stack {reference} ({port}) with {reads[0][0]} ({first}) along axis {axis}"
            )
        rest = joined
        total = -1 if -1 in (total, shape[axis]) else total + shape[axis]
    return (Port(TensorSpec(node.name, first.datatype, (*rest[:axis], total, *rest[axis + 1 :]))),)


def _same(reads: Sequence[Read]) -> Port:
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


def _loosest(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a if a == b else -1 for a, b in zip(first, second, strict=True))


def answer_of_branches(answers: Mapping[str, tuple[Port, ...]]) -> tuple[Port, ...]:
    """What rows have in common whichever branch answered them: the same names and datatypes, sizes where
    equal."""
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


def answer_of_each(ports: Sequence[Port]) -> tuple[Port, ...]:
    for port in ports:
        if port.ragged:
            raise SpecError(f"the node that it runs answers {port}; each cannot nest ragged tensors")
    return tuple(
        Port(TensorSpec(port.spec.name, port.spec.datatype, (-1, *port.spec.shape[1:])), ragged=True)
        for port in ports
    )


def check_condition(text: str, port: Port) -> None:
    """Raises SpecError when a condition cannot be asked of a tensor."""
    _, operator, value = parse_condition(text)
    check_one_a_row(text, port)
    expected: tuple[type, ...] = (int, float)
    if port.spec.datatype in ("BYTES", "BOOL"):
        expected = (str,) if port.spec.datatype == "BYTES" else (bool,)
        if operator not in ("==", "!=", "in", "not in"):
            raise SpecError(f"{text!r}: {operator} does not apply to {port}")
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, expected) or (isinstance(item, bool) and bool not in expected):
            raise SpecError(f"{text!r}: {item!r} is no value of {port}")


def check_one_a_row(text: str, port: Port) -> None:
    if port.ragged or port.spec.shape[1:] not in ((), (1,)):
        raise SpecError(f"{text!r} needs one value a row, but reads {port}")


def check_fallback(values: Mapping[str, Any], ports: Sequence[Port]) -> None:
    """Raises SpecError unless the values can stand in for these outputs."""
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
            raise SpecError(f"fallback {values[name]!r} is no value of {port}")


def _list(names: Mapping[str, Any]) -> str:
    return ", ".join(sorted(names)) or "nothing"
