"""The interface of a kind of node: one Protocol, which each file of `kinds` implements, and the values that its
methods take and return.

A method with a body here is the default for most kinds. Imports no kind.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from raymlops.errors import InputError
from raymlops.graphs.execution import Branch, Implementation, Request, Run
from raymlops.graphs.plan import Plan, Port, Read, Reference, Step
from raymlops.specs.graph import GraphSpec
from raymlops.specs.graph_nodes import Bindings, NodeDocument
from raymlops.tensors import Array, Batch, Signature

Node = TypeVar("Node", bound=NodeDocument, contravariant=True)


class Scope(Protocol):
    """The graph around a node, as the node sees it while tensors are resolved. Its methods raise SpecError."""

    def read(self, text: str, *, whole: bool = False) -> Read:
        """The one tensor of a reference; for a node that runs for each element, the tensor of one element unless the
        `whole` ragged one is wanted."""
        ...

    def bind(self, bindings: Bindings, wanted: Sequence[Port] | None) -> list[tuple[str, Reference]]:
        """A source for every wanted input; all bound tensors if `wanted` is None."""
        ...

    def answers(self, called: str) -> tuple[Port, ...]:
        """The outputs of a called node."""
        ...

    @property
    def signature(self) -> Signature:
        """The signature of the node's model."""
        ...

    def validate(self, inner: GraphSpec) -> Plan:
        """The plan of a graph inside the node."""
        ...


@dataclasses.dataclass(frozen=True)
class Resolved:
    """The inputs and outputs of a node."""

    outputs: tuple[Port, ...]
    reads: Sequence[Read] = ()
    """Tensors that it reads under their references, as `node.tensor`."""
    needs: Sequence[tuple[str, Reference]] = ()
    """Tensors that it reads under its own names."""
    inner: Plan | None = None


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a node is built from, once for all requests."""

    step: Step
    path: str
    branches: Mapping[str, Branch]
    """The nodes that it may call."""
    port: Callable[[Reference], Port]
    """The type of a tensor that it reads."""
    implementation: Implementation | None = None
    """The implementation of a leaf."""
    inner: Run | None = None
    """The graph inside a node."""


@dataclasses.dataclass
class Weights:
    """Shares of branches, which `raymlops weights` changes while the graph serves: `now` is replaced as a whole."""

    now: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Built:
    """A node that is ready to run, with its mutable state and counters."""

    run: Run
    suspends: bool = False
    """Whether `run` waits for anything but branches, its implementation or the graph inside."""
    weights: Weights | None = None
    shadow: Any = None
    """Counters of mirrored requests, a dataclass."""


class NodeKind(Protocol[Node]):
    """A kind of node. It has no state: `build` creates the state of a node."""

    spec: ClassVar[type[NodeDocument]]
    """The class of the keys that a user may write for a node of this kind; the other methods get an instance."""
    is_leaf: ClassVar[bool] = False
    """Whether a model or a class implements it, which is opened elsewhere, here or in its own replicas."""
    is_over_elements: ClassVar[bool] = False
    """Whether the nodes that it calls run on elements of ragged tensors, not on rows."""
    rows_independent: ClassVar[bool] = False
    """Whether the kind itself answers each row independently of the other rows in the batch: models, classes and
    called nodes are asked separately. Only then may requests share a run."""

    def reads(self, node: Node) -> Sequence[str]:
        """References that it reads itself."""
        return ()

    def calls(self, node: Node) -> Sequence[str]:
        """Nodes that run only when this one calls them."""
        return ()

    def unawaited(self, node: Node) -> Sequence[str]:
        """Those of `calls` for which no answer waits."""
        return ()

    def resolve(self, node: Node, scope: Scope) -> Resolved:
        """Its inputs and outputs. Raises SpecError if the tensors do not fit."""
        answers = {called: scope.answers(called) for called in self.calls(node)}
        reads = [scope.read(text) for text in self.reads(node)]
        return Resolved(self.outputs(node, reads, answers), reads)

    def outputs(
        self, node: Node, reads: Sequence[Read], answers: Mapping[str, tuple[Port, ...]]
    ) -> tuple[Port, ...]:
        """Its outputs, from the tensors that it reads, in the order of `reads`, and the outputs of called nodes.

        Raises SpecError.
        """
        raise AssertionError(f"{type(self).__name__} has neither outputs nor a resolve of its own")

    def is_mergeable(self, node: Node) -> bool:
        """Whether it is an ONNX model that may be merged with its neighbours."""
        return False

    def explain_dependence(self, node: Node) -> str:
        """Why a row's answer may depend on other rows of its batch or on the caller; empty if rows are independent."""
        return (
            "" if self.rows_independent is True else "is of a kind that does not say rows_independent = True"
        )

    def build(self, parts: Parts) -> Built:
        """The function that runs it."""
        ...

    def describe(self, node: Node) -> str:
        """What a drawing shows of it beside its kind."""
        return ""

    def label_call(self, node: Node, called: str) -> str:
        """The label of the arrow from a called node in a drawing."""
        return ""


LARGE = 2**16
"""Elements from which on they are combined in a thread: a vote over as many takes 10 ms."""


class Combination(NodeKind[Node], Protocol[Node]):
    """A kind that computes one tensor from those that it reads, by a function of arrays."""

    def reads(self, node: Any) -> Sequence[str]:
        return list(node.of)

    def combine(self, node: Node) -> Callable[[Sequence[Array]], Array]:
        """Arrays in the order of `reads`, which it must not modify -> the output, rows first."""
        ...

    def build(self, parts: Parts) -> Built:
        combine = self.combine(parts.step.node)
        name = parts.step.outputs[0].spec.name
        members = [str(reference) for reference in parts.step.reads]

        async def run(batch: Batch, request: Request) -> Batch:
            values = [batch[member] for member in members]
            # Joined requests are small, and are run by code that cannot wait.
            if not request.rows and sum(array.size for array in values) > LARGE and on_loop():
                return {name: await asyncio.to_thread(combine, values)}
            return {name: combine(values)}

        return Built(run)


def require_equal_shapes(arrays: Sequence[Array]) -> None:
    """numpy would repeat an array of size 1 along an axis. Free sizes come from the request: raises InputError."""
    shape = arrays[0].shape
    for array in arrays:
        if array.shape != shape:
            raise InputError(
                f"it combines tensors of equal shapes, but got {list(shape)} and {list(array.shape)}"
            )


def on_loop() -> bool:
    """False if a graph runs without an event loop: over files, and in threads, which may block."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
