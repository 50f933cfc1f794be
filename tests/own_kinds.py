"""Kinds of nodes that a user would write, beside a graph's file: numbers held within bounds, and a node asked again."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from pydantic import Field

from raymlops.graphs.execution import Request
from raymlops.graphs.node_kind import Array, Built, Combination, NodeKind, Parts
from raymlops.graphs.plan import Port, Read
from raymlops.graphs.port_types import join_answers, join_numbers
from raymlops.specs.graph_nodes import NodeDocument
from raymlops.tensors import Batch


class ClipNode(NodeDocument):
    of: list[str] = Field(
        min_length=1, max_length=1, description="tensor whose numbers are held within bounds"
    )
    low: float = Field(0.0, description="least number that is answered")
    high: float = Field(1.0, description="largest number that is answered")


class Clip(Combination[ClipNode]):
    spec = ClipNode
    rows_independent = True

    def outputs(
        self, node: ClipNode, reads: Sequence[Read], answers: Mapping[str, tuple[Port, ...]]
    ) -> tuple[Port, ...]:
        return (join_numbers(reads),)

    def combine(self, node: ClipNode) -> Callable[[Sequence[Array]], Array]:
        return lambda arrays: np.clip(arrays[0], node.low, node.high)

    def describe(self, node: ClipNode) -> str:
        return f"{node.low:g} to {node.high:g}"


class RetryNode(NodeDocument):
    run: str = Field(description="node that is asked again when it fails")


class Retry(NodeKind[RetryNode]):
    spec = RetryNode

    def calls(self, node: RetryNode) -> Sequence[str]:
        return [node.run]

    def outputs(
        self, node: RetryNode, reads: Sequence[Read], answers: Mapping[str, tuple[Port, ...]]
    ) -> tuple[Port, ...]:
        return join_answers(answers)

    def build(self, parts: Parts) -> Built:
        branch = parts.branches[parts.step.node.run]

        async def run(batch: Batch, request: Request) -> Batch:
            try:
                return await branch.call(batch, request)
            except Exception:
                return await branch.call(batch, request)

        return Built(run)

    def label_call(self, node: RetryNode, called: str) -> str:
        return "twice at most"
