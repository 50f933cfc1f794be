"""The actor that writes the ticks of all replicas of an application: one for each, restarted anywhere without its
state, which is in the store. It acknowledges what is written, knows messages that are sent again, joins the files of a
day, deletes old days, and states what killed replicas and lost nodes had answered and not told. Imports no model.

Calls to Ray are given to it, so that it can be tried without a cluster.
"""

import asyncio
import collections
import contextlib
import dataclasses
import io
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import pyarrow as pa

from raymlops.errors import StorageError, describe_cause
from raymlops.monitoring.tick_store import Applied, TickStore, day_of
from raymlops.monitoring.ticks import Loss, Tick, from_table, no_counts, to_table
from raymlops.serving.endpoints.answered_rows import EndedReplica

LOG = logging.getLogger("raymlops.serving")
BEAT_S = 5.0
"""Seconds between two signs of life of a replica."""
SILENT_S = 6 * BEAT_S
"""After this it is looked for."""
_UPKEEP_S = 5.0
_EXPIRE_S = 3600.0
_MOST_FILES = 60
"""Of a day, before they are joined; after the day's end all are."""
_IDLE_S = 1800.0
_MOST_CLAIMS = 2**18
"""Requests with ids that are remembered, of all replicas."""
_JOIN_S = 900.0
"""Between two looks at finished days."""


@dataclasses.dataclass(slots=True)
class _Replica:
    node: str
    folder: str
    heard: float
    told: Mapping[str, int]
    """Answered rows by path, in what was written."""


@dataclasses.dataclass(frozen=True)
class Message:
    """Ticks of one day, UTC, of one replica. `number` grows by 1; the next one is sent when this is acknowledged.
    `told` are the rows by path that the replica answered in all its messages up to this one."""

    replica: str
    number: int
    day: str
    ticks: bytes
    told: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Sender:
    """A replica: `folder` is where its node has the files of answered rows; `days` and `seconds` are its settings."""

    replica: str
    node: str
    folder: str
    days: int
    seconds: int


FindEnded = Callable[[str, str], Awaitable[list[tuple[str, EndedReplica]]]]
"""Node and folder -> files of ended replicas there."""
IsAlive = Callable[[str], Awaitable[bool]]
"""Whether a node of the cluster lives."""
Remove = Callable[[str, Sequence[str]], Awaitable[None]]
"""Node and paths of files there."""


class TickCollector:
    """`root` is the folder of the counts. Its settings are those of the replica that began last."""

    def __init__(
        self,
        root: str,
        application: str,
        find_ended: FindEnded,
        is_alive: IsAlive,
        remove: Remove,
        end: Callable[[], None] = lambda: None,
    ) -> None:
        """`end` ends its process, when no replica has been there for a while."""
        self._end, self._idle = end, time.monotonic()
        self.store, self._days, self._seconds = TickStore(root, application), 0, 60
        self._find_ended, self._is_alive, self._remove = find_ended, is_alive, remove
        self._replicas: dict[str, _Replica] = {}
        self._applied: dict[str, Applied] | None = None
        self._claims: collections.OrderedDict[int, str] = collections.OrderedDict()
        self._waiting: list[tuple[Message, asyncio.Future[int]]] = []
        self._writing = asyncio.Lock()
        self._upkeep: asyncio.Task[None] | None = None
        self._expires = self._joins = 0.0

    async def register(self, sender: Sender) -> int:
        """A replica begins, or finds a new collector. Returns the number of its last message that was written."""
        await self._open()
        self._days, self._seconds = sender.days, sender.seconds
        told = {"node": sender.node, "folder": sender.folder}
        if sender.replica not in self._replicas:
            await asyncio.to_thread(self.store.write_replica, sender.replica, told)
        known = self._known(sender.replica)
        self._replicas[sender.replica] = _Replica(sender.node, sender.folder, time.monotonic(), known.told)
        return known.number

    async def beat(self, replica: str) -> bool:
        """A sign of life; false if it must register again."""
        held = self._replicas.get(replica)
        if held is not None:
            held.heard = time.monotonic()
        return held is not None

    async def deliver(self, message: Message) -> int:
        """Returns the number once the ticks are written. Raises StorageError if they are not; send them again."""
        await self._open()
        if message.replica in self._replicas:
            self._replicas[message.replica].heard = time.monotonic()
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((message, future))
        async with self._writing:  # all that came meanwhile are in one file
            waiting, self._waiting = self._waiting, []
            if waiting:
                await self._load_or_fail(waiting)
        return await future

    async def claim(self, replica: str, keys: Sequence[int]) -> set[int]:
        """Those of these requests that another replica counts; the others are its own."""
        found = {key for key in keys if self._claims.get(key, replica) != replica}
        for key in keys:
            self._claims.setdefault(key, replica)
        while len(self._claims) > _MOST_CLAIMS:
            self._claims.popitem(last=False)
        return found

    async def leave(self, replica: str) -> None:
        """All that it answered was delivered."""
        self._replicas.pop(replica, None)
        await asyncio.to_thread(self.store.remove_replica, replica)

    async def state_ended(self, found: Sequence[EndedReplica]) -> None:
        """What these replicas of a node had answered and not told is lost, and is counted as that."""
        await self._open()
        for ended in found:
            async with self._writing:
                await self._load()
                await self._state(ended)

    async def _open(self) -> None:
        async with self._writing:
            await self._load()
        if self._upkeep is None:
            self._upkeep = asyncio.get_running_loop().create_task(self._keep_up())

    async def _load(self) -> None:
        """Read what was written before, once, and after a failure; while nobody writes."""
        if self._applied is not None:
            return
        known = await asyncio.to_thread(self.store.read_replicas)
        applied = await asyncio.to_thread(self.store.find_applied, tuple(known))
        for replica, held in known.items():
            told = applied[replica].told if replica in applied else {}
            self._replicas.setdefault(replica, _Replica(held["node"], held["folder"], time.monotonic(), told))
        self._applied = applied

    async def _load_or_fail(self, waiting: Sequence[tuple[Message, "asyncio.Future[int]"]]) -> None:
        try:
            await self._load()
        except Exception as error:
            for _, future in waiting:
                _fail(future, error)
        else:
            await self._write(waiting)

    async def _write(self, waiting: Sequence[tuple[Message, "asyncio.Future[int]"]]) -> None:
        futures: dict[tuple[str, int], list[asyncio.Future[int]]] = {}
        by_day: dict[str, dict[tuple[str, int], Message]] = {}
        for message, future in waiting:  # one that is sent again, as nobody answered, may wait twice
            key = message.replica, message.number
            futures.setdefault(key, []).append(future)
            if message.number > self._known(message.replica).number:
                by_day.setdefault(message.day, {})[key] = message
        for day, held in by_day.items():
            latest = {
                message.replica: Applied(message.number, dict(message.told)) for message in held.values()
            }
            try:
                await asyncio.to_thread(self._write_day, day, list(held.values()), latest)
            except Exception as error:
                self._applied = None  # the file may be there nevertheless: look before the next one
                for key in held:
                    for future in futures.pop(key):
                        _fail(future, error)
                break
            assert self._applied is not None
            self._applied |= latest
            for message in held.values():
                if message.replica in self._replicas:
                    self._replicas[message.replica].told = message.told
        for (replica, number), several in futures.items():
            for future in several:
                if number <= self._known(replica).number:
                    _end(future, number)
                else:
                    _fail(future, StorageError(f"Counts in {self.store.root} could not be written"))

    def _known(self, replica: str) -> Applied:
        return (self._applied or {}).get(replica, Applied(0, {}))

    def _write_day(self, day: str, messages: Sequence[Message], applied: Mapping[str, Applied]) -> None:
        ticks = [tick for message in messages for tick in unpack(message.ticks)]
        self.store.write(day, ticks, applied)

    async def _state(self, ended: EndedReplica) -> None:
        known = self._known(ended.replica)
        lost = {path: rows - known.told.get(path, 0) for path, rows in ended.answered.items()}
        lost = {path: rows for path, rows in lost.items() if rows > 0}
        if lost:
            instant = ended.time
            start = int(instant // self._seconds) * self._seconds
            ticks = [
                Tick(
                    ended.places[path],
                    start,
                    self._seconds,
                    no_counts(),
                    answered=rows,
                    lost=rows,
                    first=instant,
                    last=instant,
                    replica=ended.replica,
                )
                for path, rows in lost.items()
            ]
            loss = Loss(
                ended.replica,
                ended.node,
                instant,
                sum(lost.values()),
                sum(known.told.values()),
                "its process was killed",
            )
            applied = Applied(known.number + 1, dict(ended.answered))
            await asyncio.to_thread(self.store.write_loss, loss)
            await asyncio.to_thread(self.store.write, day_of(start), ticks, {ended.replica: applied})
            self._applied = {**(self._applied or {}), ended.replica: applied}
            LOG.warning("%s", loss.describe())
        self._replicas.pop(ended.replica, None)
        await asyncio.to_thread(self.store.remove_replica, ended.replica)

    async def _keep_up(self) -> None:
        while True:
            await asyncio.sleep(_UPKEEP_S)
            for step in (self._look_for_silent, self._tidy):
                try:
                    await step()
                except Exception as error:
                    LOG.error("monitoring: %s: %s", step.__name__.strip("_"), describe_cause(error))

    async def _look_for_silent(self) -> None:
        now = time.monotonic()
        silent = {name: held for name, held in self._replicas.items() if now - held.heard > SILENT_S}
        for node, folder in sorted({(held.node, held.folder) for held in silent.values()}):
            if await self._is_alive(node):
                found = await self._find_ended(node, folder)
                await self.state_ended([ended for _, ended in found])
                await self._remove(node, [path for path, _ in found])
                continue
            for name, held in silent.items():
                if held.node == node and name in self._replicas:
                    await self._state_unknown(name, held)

    async def _state_unknown(self, name: str, held: _Replica) -> None:
        loss = Loss(name, held.node, time.time(), None, sum(held.told.values()), "its node was lost")
        await asyncio.to_thread(self.store.write_loss, loss)
        LOG.warning("%s", loss.describe())
        self._replicas.pop(name, None)
        await asyncio.to_thread(self.store.remove_replica, name)

    async def _tidy(self) -> None:
        now, today = time.monotonic(), day_of(time.time())
        self._idle = now if self._replicas else self._idle
        if now - self._idle > _IDLE_S:
            self._end()
        if now >= self._expires and self._days:
            self._expires = now + _EXPIRE_S
            await asyncio.to_thread(self.store.expire, day_of(time.time() - self._days * 86_400))
        days = [today]
        if now >= self._joins:
            self._joins = now + _JOIN_S
            days = await asyncio.to_thread(self.store.list_days)
        for day in days:
            files, is_over = await asyncio.to_thread(self.store.list_files, day), day < today
            if len(files) > 1 if is_over else sum(not file.joins for file in files) > _MOST_FILES:
                async with self._writing:
                    await asyncio.to_thread(self.store.compact, day, is_over=is_over)


def pack(ticks: Sequence[Tick]) -> bytes:
    stream = io.BytesIO()
    table = to_table(ticks)
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    return stream.getvalue()


def unpack(data: bytes) -> list[Tick]:
    return from_table(pa.ipc.open_stream(data).read_all())


def _fail(future: "asyncio.Future[int]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _end(future: "asyncio.Future[int]", number: int) -> None:
    with contextlib.suppress(asyncio.InvalidStateError):
        future.set_result(number)
