"""What a kind of node is: one Protocol, which each file of `kinds` fulfils, and what its methods are given and give.

A method here with a body is what most kinds do. Knows no kind.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from raymlops.graphs.execution import Branch, Implementation, Request, Run
from raymlops.graphs.plan import Plan, Port, Read, Reference, Step
from raymlops.specs.graph import GraphSpec
from raymlops.specs.graph_nodes import Bindings, NodeDocument
from raymlops.tensors import Array, Batch, Signature

Node = TypeVar("Node", bound=NodeDocument, contravariant=True)


class Scope(Protocol):
    """The graph around a node, as the node sees it while tensors are resolved. Its methods raise SpecError."""

    def read(self, text: str, *, whole: bool = False) -> Read:
        """The one tensor that a reference stands for; of a node that runs for each element, the tensor of one
        element unless the `whole` ragged one is asked for."""
        ...

    def bind(self, bindings: Bindings, wanted: Sequence[Port] | None) -> list[tuple[str, Reference]]:
        """A source for every input that is wanted; all that is bound where None is."""
        ...

    def answers(self, called: str) -> tuple[Port, ...]:
        """What a node that is called answers."""
        ...

    @property
    def signature(self) -> Signature:
        """That of the node's model."""
        ...

    def validate(self, inner: GraphSpec) -> Plan:
        """The plan of a graph inside the node."""
        ...


@dataclasses.dataclass(frozen=True)
class Resolved:
    """What a node answers and from what."""

    outputs: tuple[Port, ...]
    reads: Sequence[Read] = ()
    """Tensors that it takes under their references, as `node.tensor`."""
    needs: Sequence[tuple[str, Reference]] = ()
    """Tensors that it takes under names of its own."""
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
    """Of a leaf."""
    inner: Run | None = None
    """Of a node with a graph inside."""


@dataclasses.dataclass
class Weights:
    """Shares of branches, which `raymlops weights` changes while the graph serves: `now` is replaced as a whole."""

    now: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Built:
    """A node that is ready to run, and what of it changes or counts while it does."""

    run: Run
    suspends: bool = False
    """Whether `run` waits for anything but branches, its implementation or the graph inside."""
    weights: Weights | None = None
    shadow: Any = None
    """Counters of mirrored requests, a dataclass."""


class NodeKind(Protocol[Node]):
    """A kind of node. It holds no state: what a node of it keeps, `build` makes."""

    spec: ClassVar[type[NodeDocument]]
    """What a user may write for a node of this kind; the other methods are given one that was read."""
    is_leaf: ClassVar[bool] = False
    """Whether a model or a class answers for it, which is opened elsewhere, here or in replicas of its own."""
    is_over_elements: ClassVar[bool] = False
    """Whether the nodes that it calls run on elements of ragged tensors, not on rows."""
    rows_independent: ClassVar[bool] = False
    """Whether a row's answer is the same whoever else is in the batch, as far as the kind goes: models, classes and
    the nodes that it calls are asked by themselves. Requests may share a run only where this is so."""

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
        """What it reads and answers. Raises SpecError where the tensors do not fit."""
        answers = {called: scope.answers(called) for called in self.calls(node)}
        reads = [scope.read(text) for text in self.reads(node)]
        return Resolved(self.outputs(node, reads, answers), reads)

    def outputs(
        self, node: Node, reads: Sequence[Read], answers: Mapping[str, tuple[Port, ...]]
    ) -> tuple[Port, ...]:
        """What it answers, of what it reads, in the order of `reads`, and of what those that it calls answer.

        Raises SpecError.
        """
        raise AssertionError(f"{type(self).__name__} has neither outputs nor a resolve of its own")

    def is_mergeable(self, node: Node) -> bool:
        """Whether it is an ONNX model that may become one with those beside it."""
        return False

    def explain_dependence(self, node: Node) -> str:
        """What it does by which a row's answer may depend on the other rows of its batch or on the caller; empty
        where each row is answered by itself."""
        return "" if self.rows_independent else "is of a kind that does not say rows_independent = True"

    def build(self, parts: Parts) -> Built:
        """What runs it."""
        ...

    def describe(self, node: Node) -> str:
        """What a drawing says of it beside its kind."""
        return ""

    def label_call(self, node: Node, called: str) -> str:
        """What a drawing writes on the arrow from a node that it calls."""
        return ""


LARGE = 2**16
"""Elements that are combined in a thread: a vote over as many takes 10 ms."""


class Combination(NodeKind[Node], Protocol[Node]):
    """A kind that makes one tensor of those that it reads, by a function of arrays."""

    def reads(self, node: Any) -> Sequence[str]:
        return list(node.of)

    def combine(self, node: Node) -> Callable[[Sequence[Array]], Array]:
        """Arrays in the order of `reads`, which it must not write into -> the answer, rows first."""
        ...

    def build(self, parts: Parts) -> Built:
        combine = self.combine(parts.step.node)
        name = parts.step.outputs[0].spec.name
        members = [str(reference) for reference in parts.step.reads]

        async def run(batch: Batch, request: Request) -> Batch:
            values = [batch[member] for member in members]
            # Requests that were joined are small, and are run by what cannot wait.
            if not request.rows and sum(array.size for array in values) > LARGE and on_loop():
                return {name: await asyncio.to_thread(combine, values)}
            return {name: combine(values)}

        return Built(run)


def on_loop() -> bool:
    """False where a graph is run without an event loop: over files, and in threads, which may be blocked."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
