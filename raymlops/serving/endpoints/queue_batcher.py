"""Joins requests that wait for the same model into one run (dynamic batching). Knows batches and threads; imports
neither HTTP nor Ray.

A lone request never waits for a timer: while one run is in its thread, arrivals queue up, and the next run takes them
all. Only if the last run was shared does a run wait a moment for the callers that were just answered.
"""

import asyncio
import collections
import concurrent.futures
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from raymlops.errors import DeadlineError, OverloadedError, ProcessEndedError
from raymlops.serving.endpoints import queue_time
from raymlops.serving.endpoints.statistics import Statistics
from raymlops.tensors import Batch, count_rows, have_rows_in_common, split_rows


@dataclasses.dataclass(slots=True)
class Waiting:
    batch: Batch
    rows: int
    shapes: tuple[object, ...]
    arrived: int
    future: asyncio.Future[Batch]
    started: int = 0


@dataclasses.dataclass(frozen=True)
class BatchOptions:
    max_rows: int = 256
    wait_s: float = 0.001
    join: bool = True
    queue: int = 128


class Control(Protocol):
    """A control of one run, which can cancel it from another thread."""

    def end(self) -> None: ...


class QueueBatcher:
    """One model's queue and the one thread that runs it. Lives on one event loop."""

    def __init__(
        self,
        run: Callable[..., Batch],
        options: BatchOptions,
        statistics: Statistics,
        begin: Callable[[], Control] | None = None,
    ) -> None:
        """`run` takes a batch; if `begin` is given, its result for each run is the second argument."""
        self._run = run
        self._begin = begin
        self._control: Control | None = None
        self._running: Sequence[Waiting] = ()
        self._options = options
        self._statistics = statistics
        self._waiting: collections.deque[Waiting] = collections.deque()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="model")
        self._worker: asyncio.Task[None] | None = None
        self._seconds = 0.01  # duration of a recent run, for Retry-After

    async def submit(self, batch: Batch, rows: int, deadline_s: float, *, alone: bool = False) -> Batch:
        """The model's answer for these rows; with `alone`, in a run of its own. Raises OverloadedError at once,
        DeadlineError in time."""
        if len(self._waiting) >= self._options.queue:
            raise OverloadedError(
                f"{len(self._waiting)} requests already wait for {self._statistics.name!r}; try again later",
                retry_after=max(1.0, self._seconds * len(self._waiting)),
            )
        loop = asyncio.get_running_loop()
        shapes = (object(),) if alone else _shapes_of(batch)
        item = Waiting(batch, rows, shapes, time.perf_counter_ns(), loop.create_future())
        self._waiting.append(item)
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        try:
            async with asyncio.timeout(deadline_s):
                answer = await item.future
            queue_time.add(item.started - item.arrived)
            return answer
        except TimeoutError:
            raise DeadlineError(f"{self._statistics.name!r} did not answer within {deadline_s:g} s") from None
        finally:
            self._end_unwanted()

    def _end_unwanted(self) -> None:
        """Cancel a run for which nobody waits any more: it may be endless, and others wait for its thread."""
        if self._control is not None and all(item.future.done() for item in self._running):
            self._control.end()

    async def _work(self) -> None:
        company = 0
        while self._waiting:
            if company > 1:
                await self._wait_for(company)
            items = self._take()
            if not items:
                continue
            company = len(items) if self._options.join else 0
            await self._answer(items)

    async def _wait_for(self, company: int) -> None:
        """Wait a moment until as many requests have arrived as were answered last time."""
        rows = sum(item.rows for item in self._waiting)
        ends = time.perf_counter() + min(self._options.wait_s, self._seconds * 0.5)
        while len(self._waiting) < company and rows < self._options.max_rows and time.perf_counter() < ends:
            await asyncio.sleep(0.0002)
            rows = sum(item.rows for item in self._waiting)

    def _take(self) -> list[Waiting]:
        """The next requests in order of arrival that fit into one run; abandoned ones are dropped."""
        items: list[Waiting] = []
        rows = 0
        while self._waiting:
            item = self._waiting[0]
            if item.future.done():
                self._waiting.popleft()
                continue
            if items and (
                not self._options.join
                or rows + item.rows > self._options.max_rows
                or item.shapes != items[0].shapes
            ):
                break
            items.append(self._waiting.popleft())
            rows += item.rows
        return items

    async def _answer(self, items: Sequence[Waiting]) -> None:
        rows = sum(item.rows for item in items)
        started = time.perf_counter_ns()
        for item in items:
            item.started = started
        loop = asyncio.get_running_loop()
        try:
            batch = items[0].batch if len(items) == 1 else join([item.batch for item in items])
            arguments: tuple[Any, ...] = (batch,)
            if self._begin is not None:
                self._control, self._running = self._begin(), items
                arguments = (batch, self._control)
                self._end_unwanted()
            try:
                answer = await loop.run_in_executor(self._thread, self._run, *arguments)
            finally:
                self._control = None
            ended = time.perf_counter_ns()
            parts = [answer] if len(items) == 1 else split(answer, [item.rows for item in items])
        except Exception as error:
            await self._answer_failed(items, error)
            return
        self._seconds = 0.8 * self._seconds + 0.2 * (ended - started) / 1e9
        self._statistics.record_run(rows, started, ended, [item.arrived for item in items])
        for item, part in zip(items, parts, strict=True):
            if not item.future.done():
                item.future.set_result(part)

    async def _answer_failed(self, items: Sequence[Waiting], error: Exception) -> None:
        """One bad request must not fail the others: each is run again alone, unless it has ended the model's
        process."""
        if len(items) > 1 and isinstance(error, ProcessEndedError):
            for item in items:
                if not item.future.done():
                    item.future.set_exception(error)
        elif len(items) > 1:
            for item in items:
                await self._answer([item])
        elif not items[0].future.done():
            items[0].future.set_exception(error)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def _shapes_of(batch: Batch) -> tuple[object, ...]:
    """Batches with equal keys can be joined; a batch in which a tensor has no rows has no equal."""
    if not have_rows_in_common(batch):
        return (object(),)
    return tuple((name, array.dtype.char, array.shape[1:]) for name, array in sorted(batch.items()))


def join(batches: Sequence[Batch]) -> Batch:
    """The rows of all, in order."""
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def split(answer: Batch, rows: Sequence[int]) -> list[Batch]:
    """The inverse of `join` for an answer with the same rows. Raises ValueError if it has others."""
    if count_rows(answer) != sum(rows) or any(len(array) != sum(rows) for array in answer.values()):
        raise ValueError(
            f"the model answered {count_rows(answer)} rows for {sum(rows)}; set batching: {{mode: off}}"
        )
    return split_rows(answer, rows)
