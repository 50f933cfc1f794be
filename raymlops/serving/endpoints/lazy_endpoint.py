"""One model of a folder as an endpoint: holds its session only while it answers, and learns how long runs take. Does
not import Ray."""

import asyncio
import concurrent.futures
import dataclasses
import time

from raymlops.errors import DeadlineError, OverloadedError
from raymlops.models.session import RunControl, Session
from raymlops.runtime.run_cost import INLINE_S, count_batch_rows, find_largest, list_free_axes
from raymlops.serving.endpoints.model_cache import ModelCache
from raymlops.serving.endpoints.model_folder import FolderModel
from raymlops.serving.endpoints.statistics import Statistics
from raymlops.serving.endpoints.tick_batcher import MOST_ROWS, TickBatcher
from raymlops.tensors import Batch


class LazyEndpoint:
    """One model of many; holds its session only while it answers."""

    is_withdrawn = False
    """The file was removed or replaced after this model was found."""

    def __init__(
        self,
        found: FolderModel,
        cache: ModelCache[Session],
        threads: concurrent.futures.Executor,
        statistics: Statistics,
        joins: bool,
        deadline_s: float = 30.0,
    ) -> None:
        """`joins` says whether requests may share a run."""
        self._joins = joins
        self.signature = found.header.signature
        self.version = found.version
        self._name = found.name
        self._key = found.key
        self._cache = cache
        self._threads = threads
        self._statistics = statistics
        self._deadline_s = deadline_s
        self._free = list_free_axes(self.signature)
        self._cost = _Cost()
        self._has_run = False
        self._turns = TickBatcher(statistics)

    async def infer(self, batch: Batch, *, key: str | None = None) -> Batch:
        # With values for optional inputs a request runs alone: what is known of runs holds for the default values only.
        alone = len(batch) > len(self.signature.inputs)
        own = {spec.name: batch[spec.name] for spec in self.signature.inputs} if alone else batch
        rows, arrived = count_batch_rows(own), time.perf_counter_ns()
        if self.is_withdrawn:
            raise OverloadedError(
                f"Model {self._name!r} was replaced while this request was on its way; send it again"
            )
        session = await self._cache.acquire(self._key)
        try:
            cost = self._cost
            if (
                not alone
                and rows <= cost.rows
                and (not self._free or find_largest(batch, self._free) <= cost.size)
            ):
                return await self._turns.infer(
                    lambda joined, _: session.infer(joined), batch, rows, cost.most, arrived
                )
            return await self._infer_apart(session, batch, rows, arrived, learns=not alone)
        finally:
            self._cache.release(self._key)

    async def _infer_apart(
        self, session: Session, batch: Batch, rows: int, arrived: int, *, learns: bool
    ) -> Batch:
        """In a thread, where it is timed. On DeadlineError, cancels the run."""
        control = session.begin()
        loop = asyncio.get_running_loop()
        is_first, self._has_run = not self._has_run, True
        try:
            async with asyncio.timeout(self._deadline_s):
                answer, seconds, started = await loop.run_in_executor(
                    self._threads, _time, session, batch, control, is_first
                )
        except TimeoutError:
            raise DeadlineError(f"{self._name!r} did not answer within {self._deadline_s:g} s") from None
        finally:
            control.end()  # it is done, or nobody waits for it
        if learns:
            largest = find_largest(batch, self._free)
            self._cost = self._cost.learn(rows, largest, seconds, self._joins, never=bool(session.by_value))
        self._statistics.record_run(rows, started, started + int(1e9 * seconds), (arrived,))
        return answer


_STEP = 64
"""A run of up to so many times the timed rows may be assumed short, if run time is proportional to rows."""


@dataclasses.dataclass(frozen=True)
class _Cost:
    """Rows of the longest run that is short, if no other free size is above `size`; and the rows that requests may
    share a run for, 0 if they may not."""

    rows: int = 0
    size: int = 0
    most: int = 0

    def learn(self, rows: int, size: int, seconds: float, joins: bool, *, never: bool) -> "_Cost":
        """Updates what is known after a run of so many rows and seconds; a model of unknown run time is never short."""
        if never or seconds > INLINE_S or (self.rows and size < self.size):
            return self
        short = int(rows * min(_STEP, INLINE_S / max(seconds, 1e-9)))
        if size == self.size:
            short = max(short, self.rows)
        return _Cost(short, size, min(MOST_ROWS, short) if joins else 0)


def _time(session: Session, batch: Batch, control: RunControl, is_first: bool) -> tuple[Batch, float, int]:
    """The answer, the seconds of the run, and when it began, in nanoseconds."""
    if is_first:
        session.infer(batch, control=control)  # the first run takes longer than later ones
    started = time.perf_counter_ns()
    answer = session.infer(batch, control=control)
    return answer, (time.perf_counter_ns() - started) / 1e9, started
