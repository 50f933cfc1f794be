"""Nodes that call other nodes: switch, cascade, split, shadow, each. Rows leave as sub-batches and return
in order."""

import asyncio
import dataclasses
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.graphs import arrays
from raymlops.graphs.plan import Port
from raymlops.specs.graph_nodes import (
    CascadeNode,
    EachNode,
    SplitNode,
    SwitchNode,
    parse_condition,
)
from raymlops.tensors import Batch

Rows = npt.NDArray[np.intp]


@dataclasses.dataclass(slots=True)
class Request:
    """What travels with a batch through a graph."""

    key: str | None = None
    live: bool = True
    """False where shadows must not run, as offline."""
    counted: bool = True
    """False for an example that is tried, which nobody asked for."""
    rows: Sequence[int] = ()
    """Of each of the callers whose requests were joined; empty for one caller."""
    waited_for: list[str] = dataclasses.field(default_factory=list)
    """Nodes that had not answered when the request was given up, the innermost first."""


Run = Callable[[Batch, Request], Coroutine[Any, Any, Batch]]


@dataclasses.dataclass(frozen=True)
class Branch:
    """A node to call: the tensors it wants, each by its name there and its name in the caller's batch."""

    name: str
    run: Run
    needs: tuple[tuple[str, str], ...]
    suspends: bool

    def call(self, batch: Batch, request: Request, rows: Rows | None = None) -> Coroutine[Any, Any, Batch]:
        if rows is None:
            return self.run({key: batch[source] for key, source in self.needs}, request)
        if request.rows:  # which rows are whose is no longer known
            request = dataclasses.replace(request, rows=())
        return self.run({key: batch[source][rows] for key, source in self.needs}, request)


def finish(coroutine: Coroutine[Any, Any, Batch]) -> Batch:
    """Run a coroutine that never waits, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    coroutine.close()
    raise AssertionError("a node that was declared never to wait has waited")


async def join(calls: Sequence[tuple[Branch, Coroutine[Any, Any, Batch]]]) -> list[Batch]:
    """Answers of several branches; those that wait overlap, and when one fails the others are cancelled."""
    if sum(branch.suspends for branch, _ in calls) < 2:
        return [await call for _, call in calls]
    tasks = [asyncio.ensure_future(call) for _, call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def _deal(batch: Batch, request: Request, parts: Sequence[tuple[Branch, Rows]], rows: int) -> Batch:
    """Call each branch with its rows."""
    if len(parts) == 1:
        return await parts[0][0].call(batch, request)
    answers = await join([(branch, branch.call(batch, request, index)) for branch, index in parts])
    return arrays.join_rows(
        rows, [(index, answer) for (_, index), answer in zip(parts, answers, strict=True)]
    )


def count(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def build_switch(node: SwitchNode, conditions: Sequence[str], branches: Mapping[str, Branch]) -> Run:
    """`conditions` are the batch's names of the tensors that the cases read, in their order."""
    cases = [
        (source, *parse_condition(case.when)[1:], case.then)
        for source, case in zip(conditions, node.cases, strict=True)
    ]

    async def run(batch: Batch, request: Request) -> Batch:
        rows = count(batch)
        left = np.ones(rows, dtype=bool)
        chosen = np.full(rows, len(cases))
        for i, (source, operation, value, _) in enumerate(cases):
            held = arrays.ask(batch[source], operation, value) & left
            chosen[held] = i
            left &= ~held
            if not left.any():
                break
        names = [name for *_, name in cases] + [node.otherwise]
        index: dict[str, list[Rows]] = {}
        for i in np.unique(chosen).tolist():
            index.setdefault(names[i], []).append(np.flatnonzero(chosen == i))
        parts = [(branches[name], np.concatenate(found)) for name, found in index.items()]
        return await _deal(batch, request, parts or [(branches[node.otherwise], chosen)], rows)

    return run


def build_cascade(node: CascadeNode, branches: Mapping[str, Branch]) -> Run:
    first, *others = [branches[name] for name in node.steps]
    thresholds = node.threshold if isinstance(node.threshold, list) else [node.threshold] * len(others)

    async def run(batch: Batch, request: Request) -> Batch:
        whole = answer = await first.call(batch, request)
        index: Rows | None = None
        for branch, threshold in zip(others, thresholds, strict=True):
            unsure = arrays.find_unsure(answer[node.confidence], node.measure, threshold)
            if not len(unsure):
                break
            if index is None and len(unsure) == len(answer[node.confidence]):
                whole = answer = await branch.call(batch, request)
                continue
            if index is None:
                whole = {name: values.copy() for name, values in answer.items()}
            index = unsure if index is None else index[unsure]
            answer = await branch.call(batch, request, index)
            arrays.put_rows(whole, index, answer)
        return whole

    return run


def build_split(
    node: SplitNode,
    by: str | None,
    branches: Mapping[str, Branch],
    weights: Callable[[], Mapping[str, float]],
) -> Run:
    """`weights` is asked at every request, so that they can change while the graph runs."""
    choose = random.Random()  # noqa: S311 (shares of traffic, not secrets)

    async def run(batch: Batch, request: Request) -> Batch:
        shares = weights()
        if by is None:
            if request.key is not None:
                name = arrays.deal(request.key, shares, node.salt)
            else:
                name = choose.choices(list(shares), list(shares.values()))[0]
            return await branches[name].call(batch, request)
        dealt = arrays.deal_rows(batch[by], shares, node.salt)
        parts = [(branches[name], index) for name, index in dealt.items()]
        return await _deal(
            batch, request, parts or [(branches[max(shares, key=shares.__getitem__)], _NONE)], count(batch)
        )

    return run


_NONE: Rows = np.empty(0, dtype=np.intp)


def build_each(
    node: EachNode, over: str, branch: Branch, ragged: Mapping[str, Port], outputs: Sequence[Port]
) -> Run:
    """`ragged` are the batch's names of ragged tensors; every other tensor is repeated for the elements of
    its row."""

    async def run(batch: Batch, request: Request) -> Batch:
        _, lengths = arrays.flatten_elements(batch[over], ragged[over])
        if not lengths.sum():
            return {port.spec.name: _empty(len(lengths), port) for port in outputs}
        owner = np.repeat(np.arange(len(lengths)), lengths)
        elements: Batch = {}
        for name, values in batch.items():
            if name not in ragged:
                elements[name] = values[owner]
                continue
            elements[name], found = arrays.flatten_elements(values, ragged[name])
            if not np.array_equal(found, lengths):
                raise ValueError(f"{name} has other numbers of elements a row than {over}")
        answer = await branch.call(elements, request)
        return {name: arrays.group_elements(values, lengths) for name, values in answer.items()}

    return run


def _empty(rows: int, port: Port) -> arrays.Array:
    flat = np.empty((0, *(max(size, 0) for size in port.spec.shape[1:])), port.spec.dtype)
    return arrays.group_elements(flat, np.zeros(rows, dtype=np.int64))
