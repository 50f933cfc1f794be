"""A folder of models behind one application: each is known from the start, and loaded when it is asked for.
No Ray."""

import asyncio
import concurrent.futures
import dataclasses
import pathlib
import time
from collections.abc import Iterable, Iterator

from raymlops.errors import DeadlineError, NotFoundError, unknown_name
from raymlops.models.session import RunControl, Session
from raymlops.serving.cache import ModelCache
from raymlops.serving.columns import read_columns
from raymlops.serving.cost import INLINE_S, count_batch_rows, find_largest, list_free_axes
from raymlops.serving.folder import OPTIONS, Found, Opener, find_models
from raymlops.serving.hosts import Hosted
from raymlops.serving.statistics import Sample, Statistics
from raymlops.serving.turns import MOST_ROWS, Turns
from raymlops.specs.serving import ManyModels
from raymlops.tensors import Batch


class ManyHost:
    """The hosted models of a folder, and the repository that the protocol loads and unloads."""

    def __init__(self, spec: ManyModels, queue: int = 128, memory: int = 0) -> None:
        self._found = {found.name: found for found in find_models(pathlib.Path(spec.folder).expanduser())}
        self._deadline_s = spec.deadline_s
        self._opener = opener = Opener(self._found, dataclasses.replace(OPTIONS, memory=memory))
        self._threads = concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="many")
        self.cache: ModelCache[Session] = ModelCache(
            opener.open,
            {name: found.size for name, found in self._found.items()},
            int(spec.memory_mb * 1e6),
            threads=spec.loads,
            patience_s=spec.patience_s,
        )
        self.hosted = {name: self._host(found) for name, found in self._found.items()}
        self.version = 0
        """Of what is closed; an older word of it, which was on its way when this replica changed it, is ignored."""
        self.closed: set[str] = set()
        """Names that were unloaded by hand; the same in all replicas, within the time between two looks."""

    async def load(self, name: str) -> None:
        self.check(name)
        self.closed.discard(name)
        self.hosted[name].ready = True
        await self.cache.load(name)

    async def unload(self, name: str) -> None:
        self.check(name)
        self.closed.add(name)
        self.hosted[name].ready = False
        self.cache.unload(name)

    def follow(self, version: int, closed: Iterable[str]) -> None:
        """Take over what another replica was told to unload, and to open again, unless this one knows better."""
        if version < self.version:
            return
        self.version = version
        wanted = set(closed) & self._found.keys()
        for name in wanted - self.closed:
            self.hosted[name].ready = False
            self.cache.unload(name)
        for name in self.closed - wanted:
            self.hosted[name].ready = True
            self.cache.reopen(name)
        self.closed = wanted

    def samples(self) -> Iterator[Sample]:
        """What the cache counts, as metrics."""
        count = self.cache.count
        yield "raymlops_many_hits", (), count.hits
        yield "raymlops_many_loads", (), count.loads
        yield "raymlops_many_load_duration_us", (), int(1e6 * count.load_seconds)
        yield "raymlops_many_evictions", (), count.evictions
        yield "raymlops_many_failures", (), count.failures
        yield "raymlops_many_bytes", (), self.cache.held

    def check(self, name: str) -> str:
        """The same name. Raises NotFoundError unless there is such a model."""
        if name not in self._found:
            raise NotFoundError(unknown_name("model", name, self._found))
        return name

    def _host(self, found: Found) -> Hosted:
        statistics = Statistics(found.name, "1")
        independence = self._opener.prove(found.name)
        statistics.sharing = independence.told
        joins = bool(independence)
        endpoint = ManyEndpoint(found, self.cache, self._threads, statistics, joins, self._deadline_s)
        columns = read_columns(found.header.signature, found.header.contract)
        return Hosted(
            found.name,
            endpoint,
            statistics,
            columns,
            loaded=lambda: self.cache.state(found.name) == "READY",
        )


class ManyEndpoint:
    """One model of many; holds its session only while it answers."""

    version = "1"

    def __init__(
        self,
        found: Found,
        cache: ModelCache[Session],
        threads: concurrent.futures.Executor,
        statistics: Statistics,
        joins: bool,
        deadline_s: float = 30.0,
    ) -> None:
        """`joins` is whether requests may share a run."""
        self._joins = joins
        self.signature = found.header.signature
        self._name = found.name
        self._cache = cache
        self._threads = threads
        self._statistics = statistics
        self._deadline_s = deadline_s
        self._free = list_free_axes(self.signature)
        self._cost = _Cost()
        self._turns = Turns(statistics)

    async def infer(self, batch: Batch, *, key: str | None = None) -> Batch:
        rows = count_batch_rows(batch)
        session = await self._cache.acquire(self._name)
        try:
            cost = self._cost
            if rows <= cost.rows and (not self._free or find_largest(batch, self._free) <= cost.size):
                return await self._turns.infer(
                    lambda joined, _: session.infer(joined), batch, rows, cost.most
                )
            return await self._infer_apart(session, batch, rows)
        finally:
            self._cache.release(self._name)

    async def _infer_apart(self, session: Session, batch: Batch, rows: int) -> Batch:
        """In a thread, where it is timed. Raises DeadlineError, and then ends the run."""
        started = time.perf_counter_ns()
        control = session.begin()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._deadline_s):
                answer, seconds = await loop.run_in_executor(
                    self._threads, _time, session, batch, control, not self._cost.rows
                )
        except TimeoutError:
            raise DeadlineError(f"{self._name!r} did not answer within {self._deadline_s:g} s") from None
        finally:
            control.end()  # it is done, or nobody waits for it
        largest = find_largest(batch, self._free)
        self._cost = self._cost.learn(rows, largest, seconds, self._joins, never=bool(session.by_value))
        self._statistics.record_run(rows, time.perf_counter_ns() - started)
        return answer


_STEP = 64
"""Times as many rows as were timed may be taken for short, if each row took as long as those did."""


@dataclasses.dataclass(frozen=True)
class _Cost:
    """Rows of the longest run that is short, where no other free size is above `size`; and the rows that requests may
    share a run for, 0 where they may not."""

    rows: int = 0
    size: int = 0
    most: int = 0

    def learn(self, rows: int, size: int, seconds: float, joins: bool, *, never: bool) -> "_Cost":
        """What is known after a run of so many rows and seconds; a model of unknown length is never short."""
        if never or seconds > INLINE_S or (self.rows and size < self.size):
            return self
        short = int(rows * min(_STEP, INLINE_S / max(seconds, 1e-9)))
        if size == self.size:
            short = max(short, self.rows)
        return _Cost(short, size, min(MOST_ROWS, short) if joins else 0)


def _time(session: Session, batch: Batch, control: RunControl, is_first: bool) -> tuple[Batch, float]:
    if is_first:
        session.infer(batch, control=control)  # which takes longer than those after it
    started = time.perf_counter()
    answer = session.infer(batch, control=control)
    return answer, time.perf_counter() - started


class Closed:
    """What was unloaded by hand, for all replicas: an actor that outlives them."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._version = 0

    def change(self, name: str, closed: bool) -> int:
        """The version from which on everyone knows."""
        (self._names.add if closed else self._names.discard)(name)
        self._version += 1
        return self._version

    def read(self) -> tuple[int, list[str]]:
        return self._version, sorted(self._names)
