"""Runs a Plan over awaitables, as one endpoint. Knows nodes and batches; knows nothing of Ray, HTTP or
model files.

The plan is compiled once into a list of calls. Nodes that never wait run one after the other without the
event loop;
only where several nodes wait at the same time are tasks made.
"""

import asyncio
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from raymlops.errors import InputError, NodeError, SpecError, unknown_name
from raymlops.graphs import arrays
from raymlops.graphs.compiling import Call, Clock, Compiler, Implementation, Merged
from raymlops.graphs.plan import LENGTHS, Plan, Port
from raymlops.graphs.routing import Request, finish
from raymlops.graphs.shadowing import ShadowCount
from raymlops.specs.graph_nodes import INPUTS
from raymlops.tensors import Batch, Signature

__all__ = ["Graph", "Implementation", "Merged", "Program"]


class Program:
    """The compiled steps of one graph, without its edge."""

    def __init__(self, plan: Plan, calls: Sequence[Call]) -> None:
        self._calls = calls
        self._inputs = [(port.spec.name, f"{INPUTS}.{port.spec.name}") for port in plan.inputs]
        self._outputs = [(name, str(reference)) for name, reference in plan.outputs]
        self.suspends = any(call.suspends for call in calls)
        self._ahead, self._overlapping = _find_overlap(calls)

    async def run(self, batch: Batch, request: Request) -> Batch:
        values = {key: batch[name] for name, key in self._inputs}
        for call in self._ahead:
            answer = await call.run({key: values[source] for key, source in call.needs}, request)
            for name, key in call.gives:
                values[key] = answer[name]
        if self._overlapping:
            await _overlap(self._overlapping, values, request)
        return {name: values[key] for name, key in self._outputs}


def _find_overlap(calls: Sequence[Call]) -> tuple[Sequence[Call], Sequence[Call]]:
    """Calls to run in their order, and then those among which two may wait at the same time; often none."""
    above: dict[str, set[str]] = {}
    for call in calls:
        above[call.name] = set(call.after).union(*(above.get(name, ()) for name in call.after))
    waiting = [call.name for call in calls if call.suspends]
    together = any(first not in above[second] for i, second in enumerate(waiting) for first in waiting[:i])
    if not together:
        return calls, ()
    tasks = [call for call in calls if call.suspends or above[call.name] & set(waiting)]
    return [call for call in calls if call not in tasks], tasks


async def _overlap(calls: Sequence[Call], values: dict[str, Any], request: Request) -> None:
    """Each call starts as soon as those that it reads have answered."""
    tasks: dict[str, asyncio.Task[None]] = {}

    async def run(call: Call) -> None:
        for name in call.after:
            if name in tasks:
                await tasks[name]
        answer = await call.run({key: values[source] for key, source in call.needs}, request)
        for name, key in call.gives:
            values[key] = answer[name]

    for call in calls:
        tasks[call.name] = asyncio.ensure_future(run(call))
    try:
        await asyncio.gather(*tasks.values())
    except BaseException:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        raise


def _blame_empty_input(error: NodeError, batch: Batch) -> NodeError | InputError:
    """What a node cannot do with an input without elements is the caller's to mend, as with a model alone."""
    empty = [(name, values.shape) for name, values in batch.items() if not values.size]
    if not empty:
        return error
    name, shape = empty[0]
    return InputError(
        f"Node {error.node!r} cannot take this request, whose input {name!r} has the shape {list(shape)}: send at "
        "least one element along every axis"
    )


def change_weights(split: str, present: Mapping[str, float], named: Mapping[str, float]) -> dict[str, float]:
    """The weights of all branches of a split after those that are named were set. Raises SpecError."""
    for branch, weight in named.items():
        if branch not in present:
            raise SpecError(unknown_name(f"branch of split {split!r}:", branch, present))
        if not 0 <= weight < math.inf:
            raise SpecError(f"Weight {weight} of branch {branch!r} of split {split!r} is not 0 or more")
    changed = {**present, **named}
    if not 0 < sum(changed.values()) < math.inf:
        told = ", ".join(f"{branch}={weight:g}" for branch, weight in changed.items())
        raise SpecError(
            f"Weights of split {split!r} would sum to nothing ({told}); at least one must be above 0"
        )
    return changed


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What a graph has counted since it was made, by node path."""

    clocks: Mapping[str, Clock]
    shadows: Mapping[str, ShadowCount]
    weights: Mapping[str, Mapping[str, float]]


class Graph:
    """A composition that answers like one model.

    `implementations` has one entry for each leaf of the plan, by path. `merged` replaces chains of leaves
    by one.
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
        self._compiler = Compiler(implementations, merged, Program)
        self._program: Program = self._compiler.compile(plan)
        self._names = [spec.name for spec in self.signature.inputs]
        self._ragged_inputs = [port.spec.name for port in plan.inputs if port.ragged]
        self._ragged_outputs: list[Port] = [port for port in plan.output_ports if port.ragged]

    @property
    def suspends(self) -> bool:
        """False when the graph never waits, so that it can be run without an event loop."""
        return self._program.suspends

    async def infer(self, batch: Batch, *, key: str | None = None, request: Request | None = None) -> Batch:
        """Answer a batch; `key` makes splits sticky. Raises InputError, NodeError, DeadlineError,
        OverloadedError."""
        try:
            return self._leave(await self._program.run(self._enter(batch), request or Request(key)))
        except NodeError as error:
            raise _blame_empty_input(error, batch) from error

    def infer_joined(self, batch: Batch, rows: Sequence[int]) -> Batch:
        """As `infer` for requests of so many rows each, on the event loop, by a graph that does not wait for them."""
        try:
            return self._leave(finish(self._program.run(self._enter(batch), Request(rows=rows))))
        except NodeError as error:
            raise _blame_empty_input(error, batch) from error

    def infer_now(self, batch: Batch, *, key: str | None = None) -> Batch:
        """As `infer`, outside an event loop and without shadows; for files."""
        coroutine = self._program.run(self._enter(batch), Request(key, live=False))
        try:
            return self._leave(asyncio.run(coroutine) if self.suspends else finish(coroutine))
        except NodeError as error:
            raise _blame_empty_input(error, batch) from error

    def statistics(self) -> Statistics:
        return Statistics(self._compiler.clocks, self._compiler.shadows, self._compiler.weights)

    def set_weights(self, weights: Mapping[str, Mapping[str, float]]) -> None:
        """Change the weights of splits, by path, from the next request on; branches that are not named keep theirs.

        Raises SpecError, and then changes none.
        """
        known = self._compiler.weights
        changed = {}
        for path, named in weights.items():
            if path not in known:
                raise SpecError(unknown_name("split:", path, known))
            changed[path] = change_weights(path, known[path], named)
        known.update(changed)

    def _enter(self, batch: Batch) -> Batch:
        for name in self._names:
            if name not in batch:
                specs = ", ".join(str(spec) for spec in self.signature.inputs)
                raise InputError(f"Input {name!r} is missing; graph {self.name!r} takes {specs}")
        if not self._ragged_inputs:
            return batch
        entered = dict(batch)
        for name in self._ragged_inputs:
            entered[name] = arrays.group_elements(batch[name], batch[name + LENGTHS])
        return entered

    def _leave(self, answer: Batch) -> Batch:
        for port in self._ragged_outputs:
            name = port.spec.name
            answer[name], answer[name + LENGTHS] = arrays.flatten_elements(answer[name], port)
        return answer
