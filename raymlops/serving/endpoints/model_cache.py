"""Keeps many models within a budget of bytes: loaded on first use, least recently used evicted. Does not import Ray."""

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, Literal, TypeVar

from raymlops.errors import NotFoundError, OverloadedError, ResourceError, unknown_name

T = TypeVar("T")
SHORT_S = 0.002
"""A load that computes for less stays on the event loop: in a busy interpreter a thread waits 5 ms for its turn."""
PENANCE = 16
"""Loads in a thread for a model whose load made the event loop wait, as from a slow disk."""
State = Literal["READY", "LOADING", "UNAVAILABLE", "UNLOADED"]


@dataclasses.dataclass(slots=True)
class _Entry(Generic[T]):
    model: T
    size: int
    users: int


@dataclasses.dataclass(slots=True)
class _Loading(Generic[T]):
    task: "asyncio.Task[_Entry[T]]"
    waiting: int = 0


@dataclasses.dataclass(slots=True)
class CacheCount:
    hits: int = 0
    loads: int = 0
    load_seconds: float = 0.0
    evictions: int = 0
    failures: int = 0


class ModelCache(Generic[T]):
    """Models by name, on one event loop. Different models load in parallel, each once, however many requests wait for
    it.

    `sizes` are bytes by name, and define the names; `load` runs in a thread, or here if it is short and `may_block`;
    `close` frees a model; `label` is a model's name in messages. A model in use is never evicted: a request that
    needs its room waits, at most `patience_s`.
    """

    def __init__(
        self,
        load: Callable[[str], T],
        sizes: Mapping[str, int],
        budget: int,
        *,
        close: Callable[[T], None] | None = None,
        threads: int = 2,
        patience_s: float = 10.0,
        label: Callable[[str], str] = str,
        may_block: bool = True,
    ) -> None:
        self._load = load
        self._close = close
        self._label = label
        self._may_block = may_block
        self.sizes = dict(sizes)
        self.budget = budget
        self.held = 0
        """Bytes of models that are loaded or loading."""
        self.count = CacheCount()
        self._patience_s = patience_s
        self._threads = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="load")
        self._entries: collections.OrderedDict[str, _Entry[T]] = collections.OrderedDict()
        self._loading: dict[str, _Loading[T]] = {}
        self._unloaded: set[str] = set()
        self._forgotten: set[str] = set()
        """Removed models that requests still use."""
        self._short: set[str] = set()
        """Models that load on the event loop."""
        self._penance: dict[str, int] = {}
        """Models whose load there made it wait -> remaining loads in a thread."""
        self._room: collections.deque[asyncio.Future[None]] = collections.deque()

    def state(self, name: str) -> State:
        """UNAVAILABLE models are loaded by the next request; UNLOADED ones only by `load`."""
        if name in self._entries:
            return "READY"
        if name in self._loading:
            return "LOADING"
        return "UNLOADED" if name in self._unloaded else "UNAVAILABLE"

    async def acquire(self, name: str) -> T:
        """The model, kept in memory until the caller calls `release`.

        Raises NotFoundError, ResourceError for a model above the whole budget, OverloadedError if all loaded models
        stay in use, and what loading raises.
        """
        entry = self._entries.get(name)
        if entry is not None:
            self._entries.move_to_end(name)
            entry.users += 1
            self.count.hits += 1
            return entry.model
        if name in self._unloaded:
            raise self._refuse(name)
        if name in self._short and name not in self._loading and self._find_room(self.sizes[name]):
            return self._load_now(name)
        return await self._wait_for(name)

    def release(self, name: str) -> None:
        entry = self._entries[name]
        entry.users -= 1
        if not entry.users:
            if name in self._unloaded:
                self._evict(name)
            self._call_room()

    async def load(self, name: str) -> None:
        """Load a model into memory now, and open it to requests again. Raises the same as `acquire`."""
        self._unloaded.discard(name)
        await self.acquire(name)
        self.release(name)

    def reopen(self, name: str) -> None:
        """Let the next request load a model that was unloaded."""
        self._unloaded.discard(name)

    def add(self, name: str, size: int) -> None:
        """Add a model of so many bytes."""
        self.sizes[name] = size
        self._unloaded.discard(name)
        self._forgotten.discard(name)

    def forget(self, name: str) -> None:
        """Like `unload`, for a model that no longer exists."""
        self._forgotten.add(name)
        self.unload(name)
        self._clean_up(name)

    def unload(self, name: str) -> None:
        """Close a model to requests; it leaves memory when the last request that uses it ends."""
        if name not in self.sizes:
            raise self._refuse(name)
        self._unloaded.add(name)
        entry = self._entries.get(name)
        if entry is not None and not entry.users:
            self._evict(name)
            self._call_room()

    def _refuse(self, name: str) -> Exception:
        label = self._label(name)
        if name in self._unloaded:
            return NotFoundError(f"Model {label!r} is not loaded; POST /v2/repository/models/{label}/load")
        return NotFoundError(unknown_name("model", label, map(self._label, self.sizes)))

    def _clean_up(self, name: str) -> None:
        """Forget a model that no longer exists, once nobody uses it."""
        if name in self._forgotten and name not in self._entries and name not in self._loading:
            self.sizes.pop(name, None)
            self._penance.pop(name, None)
            self._short.discard(name)
            self._unloaded.discard(name)
            self._forgotten.discard(name)

    async def _wait_for(self, name: str) -> T:
        if name not in self.sizes:
            raise self._refuse(name)
        loading = self._loading.get(name)
        if loading is None:
            loading = self._loading[name] = _Loading(asyncio.ensure_future(self._load_in_turn(name)))
        loading.waiting += 1
        try:
            entry = await asyncio.shield(loading.task)
        except asyncio.CancelledError:
            if loading.task.done() and not loading.task.cancelled() and not loading.task.exception():
                self.release(name)  # it was counted as a user when the load ended
            else:
                loading.waiting -= 1
            raise
        return entry.model

    def _load_now(self, name: str) -> T:
        """Load a short model for its caller if there is room; nothing else runs before it is loaded."""
        size = self.sizes[name]
        with self._counted(size):
            model = self._load_here(name)
        self._entries[name] = _Entry(model, size, 1)
        return model

    async def _load_in_turn(self, name: str) -> _Entry[T]:
        """Load a model and count all waiting requests as its users, so that nothing can evict it before they run."""
        size = self.sizes[name]
        try:
            await self._make_room(name, size)
            with self._counted(size):
                model = await self._load_apart(name)
        except BaseException:
            del self._loading[name]
            self._clean_up(name)
            raise
        entry = _Entry(model, size, self._loading.pop(name).waiting)
        self._entries[name] = entry
        if not entry.users:
            if name in self._unloaded:  # while this one waited
                self._evict(name)
            self._call_room()
        return entry

    @contextlib.contextmanager
    def _counted(self, size: int) -> Iterator[None]:
        """A load, whose bytes are reserved from its start on, unless it fails."""
        self.held += size
        started = time.perf_counter()
        try:
            yield
        except BaseException:
            self.held -= size
            self.count.failures += 1
            self._call_room()
            raise
        self.count.loads += 1
        self.count.load_seconds += time.perf_counter() - started

    async def _load_apart(self, name: str) -> T:
        """Load in a thread, and learn whether the thread is worth it."""

        def load() -> tuple[T, float]:
            began = time.thread_time()
            return self._load(name), time.thread_time() - began

        model, seconds = await asyncio.get_running_loop().run_in_executor(self._threads, load)
        left = self._penance.pop(name, 0)
        if left > 1:
            self._penance[name] = left - 1
        elif seconds < SHORT_S and self._may_block:
            self._short.add(name)
        return model

    def _load_here(self, name: str) -> T:
        """Load on the event loop; a model whose load makes it wait is loaded in threads for a while."""
        began = time.perf_counter()
        model = self._load(name)
        if time.perf_counter() - began > 10 * SHORT_S:
            self._short.remove(name)
            self._penance[name] = PENANCE
        return model

    async def _make_room(self, name: str, size: int) -> None:
        if size > self.budget:
            raise ResourceError(
                f"Model {self._label(name)!r} takes {size} bytes, over the whole budget of {self.budget}; raise it"
            )
        deadline = asyncio.get_running_loop().time() + self._patience_s
        while not self._find_room(size):
            called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._room.append(called)
            try:
                async with asyncio.timeout_at(deadline):
                    await called
            except TimeoutError:
                raise OverloadedError(
                    f"No room for model {self._label(name)!r}: {self.held} of {self.budget} bytes are in use",
                    retry_after=1.0,
                ) from None
            finally:
                if called in self._room:
                    self._room.remove(called)

    def _find_room(self, size: int) -> bool:
        """Evict unused models until there is room; False if that is not enough."""
        while self.held + size > self.budget:
            victim = self._choose()
            if victim is None:
                return False
            self._evict(victim)
        return True

    def _choose(self) -> str | None:
        """The least recently used model that is not in use."""
        return next((name for name, entry in self._entries.items() if not entry.users), None)

    def _evict(self, name: str) -> None:
        entry = self._entries.pop(name)
        self.held -= entry.size
        self.count.evictions += 1
        if self._close is not None:
            self._close(entry.model)
        self._clean_up(name)

    def _call_room(self) -> None:
        """Wake all that wait for room; each checks for itself."""
        while self._room:
            called = self._room.popleft()
            if not called.done():
                called.set_result(None)
