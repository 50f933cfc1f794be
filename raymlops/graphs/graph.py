"""Runs a Plan over awaitables, as one endpoint. Knows nodes and batches; imports neither Ray nor HTTP, and opens no
model files.

The plan is compiled once into a list of calls. Nodes that never wait run in sequence without the event loop; tasks
are created only if several nodes wait at the same time.
"""

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from raymlops.errors import InputError, NodeError, SpecError, unknown_name
from raymlops.graphs.compiler import Clock, Compiler, Merged
from raymlops.graphs.execution import Implementation, Request, finish
from raymlops.graphs.kinds.split import change_weights
from raymlops.graphs.plan import LENGTHS, Plan, Port
from raymlops.graphs.ragged_arrays import flatten_elements, group_elements
from raymlops.tensors import Batch, Signature


def _blame_empty_input(error: NodeError, batch: Batch) -> NodeError | InputError:
    """An input without elements that a node cannot process is the caller's error, as with a model alone."""
    empty = [(name, values.shape) for name, values in batch.items() if not values.size]
    if not empty:
        return error
    name, shape = empty[0]
    return InputError(
        f"Node {error.node!r} cannot take this request, whose input {name!r} has the shape {list(shape)}: send at "
        "least one element along every axis"
    )


@dataclasses.dataclass(frozen=True)
class Statistics:
    """The counts of a graph since it was created, by node path."""

    clocks: Mapping[str, Clock]
    shadows: Mapping[str, Any]
    weights: Mapping[str, Mapping[str, float]]


class Graph:
    """A composition that answers like one model.

    `implementations` has one entry for each leaf of the plan, by path. `merged` replaces chains of leaves by one
    model.
    """

    def __init__(
        self,
        plan: Plan,
        implementations: Mapping[str, Implementation],
        *,
        merged: Sequence[Merged] = (),
        version: str = "1",
    ) -> None:
        self.plan = plan
        self.name = plan.spec.name
        self.version = version
        self.signature: Signature = plan.signature
        self._compiler = Compiler(implementations, merged)
        self._program = self._compiler.compile(plan)
        self._names = [spec.name for spec in self.signature.inputs]
        self._ragged_inputs = [port.spec.name for port in plan.inputs if port.ragged]
        self._ragged_outputs: list[Port] = [port for port in plan.output_ports if port.ragged]

    @property
    def suspends(self) -> bool:
        """False if the graph never waits, so that it can run without an event loop."""
        return self._program.suspends

    async def infer(self, batch: Batch, *, key: str | None = None, request: Request | None = None) -> Batch:
        """Answer a batch; `key` makes splits sticky. Raises InputError, NodeError, DeadlineError, OverloadedError."""
        try:
            return self._leave(await self._program.run(self._enter(batch), request or Request(key)))
        except NodeError as error:
            raise _blame_empty_input(error, batch) from error

    def infer_joined(self, batch: Batch, rows: Sequence[int]) -> Batch:
        """Like `infer` for requests of so many rows each, on the event loop, by a graph that does not wait for them."""
        try:
            return self._leave(finish(self._program.run(self._enter(batch), Request(rows=rows))))
        except NodeError as error:
            raise _blame_empty_input(error, batch) from error

    def infer_now(self, batch: Batch, *, key: str | None = None) -> Batch:
        """Like `infer`, outside an event loop and without shadows; for files."""
        coroutine = self._program.run(self._enter(batch), Request(key, live=False))
        try:
            return self._leave(asyncio.run(coroutine) if self.suspends else finish(coroutine))
        except NodeError as error:
            raise _blame_empty_input(error, batch) from error

    def statistics(self) -> Statistics:
        weights = {path: weights.now for path, weights in self._compiler.weights.items()}
        return Statistics(self._compiler.clocks, self._compiler.shadows, weights)

    def set_weights(self, weights: Mapping[str, Mapping[str, float]]) -> None:
        """Change the weights of splits, by path, from the next request on; unnamed branches keep theirs.

        Raises SpecError, and then changes none.
        """
        known = self._compiler.weights
        changed = {}
        for path, named in weights.items():
            if path not in known:
                raise SpecError(unknown_name("split:", path, known))
            changed[path] = change_weights(path, known[path].now, named)
        for path, shares in changed.items():
            known[path].now = shares

    def _enter(self, batch: Batch) -> Batch:
        for name in self._names:
            if name not in batch:
                specs = ", ".join(str(spec) for spec in self.signature.inputs)
                raise InputError(f"Input {name!r} is missing; graph {self.name!r} takes {specs}")
        if not self._ragged_inputs:
            return batch
        entered = dict(batch)
        for name in self._ragged_inputs:
            entered[name] = group_elements(batch[name], batch[name + LENGTHS])
        return entered

    def _leave(self, answer: Batch) -> Batch:
        for port in self._ragged_outputs:
            name = port.spec.name
            answer[name], answer[name + LENGTHS] = flatten_elements(answer[name], port)
        return answer
