"""Parts of a node's execution: the request, the calls of branches, and rows that are split into sub-batches and
reassembled in order."""

import asyncio
import concurrent.futures
import dataclasses
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from raymlops.tensors import Batch

T = TypeVar("T")
Rows = npt.NDArray[np.intp]


@dataclasses.dataclass(slots=True)
class Request:
    """The context of a batch in a graph."""

    key: str | None = None
    live: bool = True
    """False if shadows must not run, as in batch scoring."""
    counted: bool = True
    """False for an example that is tried outside of any request."""
    rows: Sequence[int] = ()
    """Numbers of rows of the callers whose requests were joined; empty for one caller."""
    loop: asyncio.AbstractEventLoop | None = None
    """The event loop, for a run in a thread beside it; None on the loop itself."""
    waited_for: list[str] = dataclasses.field(default_factory=list)
    """Nodes that had not answered when the request was given up, the innermost first."""


Run = Callable[[Batch, Request], Coroutine[Any, Any, Batch]]
Watch = Callable[[Batch, Batch], None]
"""Told of the tensors and the answer of each run of a node for a request; takes no time."""


@dataclasses.dataclass(frozen=True)
class Implementation:
    """The implementation of a leaf. `suspends` is False if `run` never waits, as for a short model in this process."""

    run: Callable[[Batch], Coroutine[Any, Any, Batch]]
    suspends: bool = True
    inline_rows: int = 0
    """Rows of the largest batch for which it does not wait, if known."""
    watch: Watch | None = None


@dataclasses.dataclass(frozen=True)
class Branch:
    """A node to call: the tensors that it reads, by their names in the node and in the caller's batch."""

    name: str
    run: Run
    needs: tuple[tuple[str, str], ...]
    suspends: bool

    def call(self, batch: Batch, request: Request, rows: Rows | None = None) -> Coroutine[Any, Any, Batch]:
        if rows is None:
            return self.run({key: batch[source] for key, source in self.needs}, request)
        if request.rows:  # it is no longer known which rows belong to whom
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


async def work_in_thread(
    work: Callable[[Request], T], request: Request, executor: concurrent.futures.Executor | None = None
) -> T:
    """The result of work in a thread beside the event loop; it gets the request as it is there."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(executor, work, dataclasses.replace(request, loop=loop))


async def gather(calls: Sequence[tuple[Branch, Coroutine[Any, Any, Batch]]]) -> list[Batch]:
    """Answers of several branches; waiting branches overlap, and if one fails the others are cancelled."""
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


async def call_by_rows(
    batch: Batch, request: Request, parts: Sequence[tuple[Branch, Rows]], rows: int
) -> Batch:
    """Call each branch with its rows, of so many in total, and put the answers back in their order."""
    if len(parts) == 1:
        return await parts[0][0].call(batch, request)
    answers = await gather([(branch, branch.call(batch, request, index)) for branch, index in parts])
    return join_rows(rows, [(index, answer) for (_, index), answer in zip(parts, answers, strict=True)])


def join_rows(rows: int, parts: Sequence[tuple[Rows, Batch]]) -> Batch:
    """Answers of sub-batches, in the order of the whole batch."""
    joined = {name: np.empty((rows, *values.shape[1:]), values.dtype) for name, values in parts[0][1].items()}
    for index, answer in parts:
        put_rows(joined, index, answer)
    return joined


def put_rows(target: Batch, index: Rows, answer: Batch) -> None:
    for name, values in target.items():
        part = answer[name]
        if part.shape[1:] != values.shape[1:] or len(part) != len(index):
            raise ValueError(
                f"tensor {name!r} is {list(part.shape)} for {len(index)} rows, but the other rows have "
                f"{list(values.shape[1:])} each"
            )
        values[index] = part
