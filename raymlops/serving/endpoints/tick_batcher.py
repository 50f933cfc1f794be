"""Joins requests for one model that arrive in the same turn of the event loop into one run, here or in another
process. Imports neither HTTP nor Ray.

No request waits for others: a turn is what the sockets held at one moment, and a single request in it runs when the
turn ends.
"""

import asyncio
import dataclasses
import types
from collections.abc import Awaitable, Callable, Generator, Sequence
from time import perf_counter_ns

from raymlops.errors import DeadlineError, OverloadedError
from raymlops.serving.endpoints.queue_batcher import join, split
from raymlops.serving.endpoints.statistics import Statistics
from raymlops.tensors import Batch

MOST_ROWS = 256
"""Rows that share a run, by default."""
Run = Callable[[Batch, Sequence[int]], Batch]
"""Answers joined batches of so many rows each, at once, and every row as if it were alone."""


@dataclasses.dataclass(slots=True)
class _Group:
    batches: list[Batch]
    rows: list[int]
    total: int
    arrived: list[int] = dataclasses.field(default_factory=list)
    """When each arrived, in nanoseconds, if that is counted."""
    answers: list[Batch] | None = None

    def add(self, batch: Batch, rows: int) -> int:
        """The number of the batch in the group."""
        self.batches.append(batch)
        self.rows.append(rows)
        self.total += rows
        return len(self.batches) - 1


class TickBatcher:
    """The requests for one short model here. All on one event loop, which runs ready tasks in order."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics
        self._open: _Group | None = None

    async def infer(self, run: Run, batch: Batch, rows: int, most: int, arrived: int = 0) -> Batch:
        """The answer to this batch, joined with others up to `most` rows; it waits since `arrived`, by default since
        now. Raises what it raises alone."""
        group, arrived = self._open, arrived or perf_counter_ns()
        if group is not None and group.total + rows <= most:
            group.arrived.append(arrived)
            number = group.add(batch, rows)
            # the task that opened the group started to wait earlier, so it has run by now
            await _end_of_turn()
            return (
                self._run(run, batch, (rows,), (arrived,)) if group.answers is None else group.answers[number]
            )
        group = self._open = _Group([batch], [rows], rows, [arrived])
        try:
            await _end_of_turn()
        finally:
            if self._open is group:
                self._open = None
        if len(group.batches) > 1 and _are_alike(group.batches, group.rows):
            try:
                group.answers = split(
                    self._run(run, join(group.batches), group.rows, group.arrived), group.rows
                )
                return group.answers[0]
            except Exception:  # one of them may be the cause: each runs alone, and gets its own error
                group.answers = None
        return self._run(run, batch, (rows,), (arrived,))

    def _run(self, run: Run, batch: Batch, rows: Sequence[int], arrived: Sequence[int]) -> Batch:
        started = perf_counter_ns()
        answer = run(batch, rows)
        self._statistics.record_run(sum(rows), started, perf_counter_ns(), arrived)
        return answer


class JoinedCalls:
    """The calls to one model elsewhere, which take as long for some rows as for one."""

    def __init__(self, call: Callable[[Batch], Awaitable[Batch]], most: int) -> None:
        self._call, self._most = call, most
        self._open: _Group | None = None
        self._answers: asyncio.Task[list[Batch]] | None = None
        """Rows of the open group."""

    async def infer(self, batch: Batch, rows: int) -> Batch:
        """The answer to this batch, joined with others up to `most` rows. Raises what it raises alone."""
        group, answers = self._open, self._answers
        if group is None or answers is None or group.total + rows > self._most:
            group = self._open = _Group([], [], 0)
            answers = self._answers = asyncio.ensure_future(self._ask(group))
        number = group.add(batch, rows)
        try:
            return (await asyncio.shield(answers))[number]  # others wait for it too
        except (OverloadedError, DeadlineError):
            raise
        except Exception:
            if len(group.batches) == 1:
                raise
            return await self._call(batch)  # another request may be the cause

    async def _ask(self, group: _Group) -> list[Batch]:
        """Starts when all ready tasks have had their turn."""
        if self._open is group:
            self._open = None
        if len(group.batches) == 1:
            return [await self._call(group.batches[0])]
        if not _are_alike(group.batches, group.rows):
            return list(await asyncio.gather(*(self._call(batch) for batch in group.batches)))
        return split(await self._call(join(group.batches)), group.rows)


def _are_alike(batches: Sequence[Batch], rows: Sequence[int]) -> bool:
    """Equal for batches with the same tensors, whose rows (equally many in all tensors of a batch) may differ."""
    kinds = [(name, array.dtype, array.shape[1:]) for name, array in batches[0].items()]
    for batch, count in zip(batches, rows, strict=True):
        if len(batch) != len(kinds):
            return False
        for name, dtype, rest in kinds:
            array = batch.get(name)
            if array is None or array.dtype != dtype or array.shape != (count, *rest):
                return False
    return True


@types.coroutine
def _end_of_turn() -> Generator[None, None, None]:
    """Let all ready tasks run first."""
    yield
