"""A validated graph, as frozen values: what runs in which order, and what each node reads."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from raymlops.specs.graph import GraphSpec
from raymlops.specs.graph_nodes import INPUTS
from raymlops.tensors import Signature, TensorSpec

if TYPE_CHECKING:
    from raymlops.graphs.node_kind import NodeKind

LENGTHS = "_lengths"
"""Suffix of the counts: a ragged tensor enters and leaves a graph as two, the elements of all rows and their counts."""


@dataclasses.dataclass(frozen=True)
class Port:
    """A tensor between nodes. A ragged one is an object array with one array of elements per row."""

    spec: TensorSpec
    ragged: bool = False

    def __str__(self) -> str:
        return f"ragged {self.spec}" if self.ragged else str(self.spec)

    def named(self, name: str) -> "Port":
        return Port(TensorSpec(name, self.spec.datatype, self.spec.shape), self.ragged)


@dataclasses.dataclass(frozen=True, order=True)
class Reference:
    """A tensor of a node; an empty tensor name stands for all of them."""

    node: str
    tensor: str

    def __str__(self) -> str:
        return f"{self.node}.{self.tensor}" if self.tensor else self.node


Read = tuple[Reference, Port]
"""A tensor that a node reads, and its type."""


def read_reference(text: str) -> Reference:
    node, _, tensor = text.partition(".")
    return Reference(node, tensor)


@dataclasses.dataclass(frozen=True)
class Step:
    """A node with everything about it resolved."""

    name: str
    node: Any
    """Its document, an instance of the kind's `spec`."""
    kind: "NodeKind[Any]"
    needs: tuple[tuple[str, Reference], ...]
    """Name of the tensor in the node -> the tensor; a node with branches also gets theirs."""
    outputs: tuple[Port, ...]
    reads: tuple[Reference, ...] = ()
    """Tensors that the node reads without names of its own, in the spec's order."""
    branches: tuple[str, ...] = ()
    """Steps that run only when this one calls them."""
    inner: "Plan | None" = None

    @property
    def after(self) -> set[str]:
        """Nodes that must have answered before."""
        return {reference.node for _, reference in self.needs} - {INPUTS}

    @property
    def awaited(self) -> list[str]:
        """The branches for which an answer may wait: all but mirrors."""
        ignored = self.kind.unawaited(self.node)
        return [name for name in self.branches if name not in ignored or name == self.node.fallback]

    @property
    def own_prefix(self) -> str:
        """Prefix of a node's own inputs, if those of its fallback are beside them."""
        has_names = self.kind.is_leaf or self.inner is not None
        return f"{INPUTS}/" if has_names and self.branches else ""

    @property
    def own_needs(self) -> list[tuple[str, Reference]]:
        """The node's own reads, without those of called nodes."""
        if not self.kind.is_leaf and self.inner is None:
            return [(str(reference), reference) for reference in self.reads]
        prefix = self.own_prefix
        return [(key[len(prefix) :], reference) for key, reference in self.needs if key.startswith(prefix)]


@dataclasses.dataclass(frozen=True)
class Plan:
    spec: GraphSpec
    steps: dict[str, Step]
    """Ordered: every step follows those that it reads; a branch precedes the step that calls it."""
    branches: frozenset[str]
    """Steps that run only inside another."""
    inputs: tuple[Port, ...]
    outputs: tuple[tuple[str, Reference], ...]

    @property
    def output_ports(self) -> tuple[Port, ...]:
        return tuple(self.port(reference).named(name) for name, reference in self.outputs)

    @property
    def signature(self) -> Signature:
        """The inputs and outputs of the graph itself."""
        return Signature(tuple(_flatten(self.inputs)), tuple(_flatten(self.output_ports)))

    def answering(self, prefix: str = "") -> Iterator[str]:
        """Paths of the leaves for which an answer may wait: all but those of mirrors."""
        waiting = [name for name in self.steps if name not in self.branches]
        seen: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            step = self.steps[name]
            if step.kind.is_leaf:
                yield prefix + name
            elif step.inner is not None:
                yield from step.inner.answering(f"{prefix}{name}/")
            waiting += step.awaited

    def port(self, reference: Reference) -> Port:
        ports = self.inputs if reference.node == INPUTS else self.steps[reference.node].outputs
        return next(port for port in ports if port.spec.name == reference.tensor)

    def leaves(self, prefix: str = "") -> Iterator[tuple[str, Step]]:
        """Steps that need an implementation, by path; those of inner graphs as `outer/inner`."""
        for name, step in self.steps.items():
            if step.kind.is_leaf:
                yield prefix + name, step
            elif step.inner is not None:
                yield from step.inner.leaves(f"{prefix}{name}/")


def _flatten(ports: tuple[Port, ...]) -> Iterator[TensorSpec]:
    for port in ports:
        yield port.spec
        if port.ragged:
            yield TensorSpec(port.spec.name + LENGTHS, "INT64", (-1,))
