"""Collects the counts of the replicas of applications, and asks them for new ones on request. One process for a whole
cluster, which also renders the texts, so that replicas can serve requests meanwhile. Does not import Ray.

A replica calls `report` in a loop; a call is answered when its numbers are wanted, or after a while. A replica's
counts grow during its life. A replica that has ended is shown as long as a scraper may need to see its last numbers,
and stays in the sums of its models as long as others serve them.
"""

import asyncio
import dataclasses
import time
import uuid
from collections.abc import Callable, Collection, Mapping

from raymlops.serving.endpoints import prometheus
from raymlops.serving.endpoints.prometheus import EDGE
from raymlops.serving.endpoints.statistics import ModelKey, Tree, merge
from raymlops.serving.endpoints.told_gauges import Gauge

HOLD_S = 2.0
"""Seconds between reports of a replica whose numbers nobody requests; the last numbers of a killed replica are as
old."""
SILENT_S = 3 * HOLD_S
"""After this a replica is not waited for, and its present values are no longer shown."""
GONE_S = 300.0
"""How long a replica's last numbers are shown."""
TOLD_S = 900.0
"""How long is shown what others than replicas told, and did not tell again."""
FORGOTTEN_S = 3600.0
"""An application that has not reported for so long no longer exists."""
WAIT_S = 1.0
"""The longest wait of a reader for the numbers of a busy replica; its last ones are used then."""
PAUSE_S = 0.1
"""Seconds between two rounds of asking all replicas, however many readers there are."""


@dataclasses.dataclass(slots=True)
class _Replica:
    trees: dict[ModelKey, Tree]
    seen: float
    round: int = 0
    """The latest round that its numbers answer."""


class _Application:
    """The replicas of one application, and the sums of those that have ended."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.replicas: dict[str, _Replica] = {}
        self.gone: dict[ModelKey, Tree] = {}
        self.told: dict[str, tuple[float, tuple[Gauge, ...]]] = {}
        """By who tells it, with the time."""
        self.heard = clock()
        self.round = 0
        self._asked = asyncio.Event()
        self._answered = asyncio.Event()
        self._round_now: asyncio.Task[None] | None = None
        self._next_round: asyncio.Task[None] | None = None
        self._ended = float("-inf")
        """When the last round did."""

    def take(self, name: str, trees: Mapping[ModelKey, Tree], round_: int) -> None:
        self.heard = now = self._clock()
        if name not in self.replicas:
            self.retire()  # nobody may ever ask, which would do it too
        replica = self.replicas.setdefault(name, _Replica({}, now))
        replica.trees.update(trees)
        replica.seen, replica.round = now, max(round_, replica.round)
        self._answered.set()

    async def hold(self, round_: int) -> int:
        """The round that the next report answers, once one is wanted."""
        if round_ == self.round:
            asked = self._asked
            try:
                async with asyncio.timeout(HOLD_S):
                    await asked.wait()
            except TimeoutError:
                pass
        return self.round

    async def refresh(self) -> None:
        """Return when each replica has reported after this call, or is no longer waited for."""
        if self._next_round is None:
            self._next_round = asyncio.ensure_future(self._ask(self._round_now))
        await asyncio.shield(self._next_round)

    async def _ask(self, before: "asyncio.Task[None] | None") -> None:
        """Starts a round after the previous one; all readers that come before it starts share it."""
        if before is not None:
            await asyncio.wait([before])
            await asyncio.sleep(self._ended + PAUSE_S - self._clock())
        self._round_now, self._next_round = self._next_round, None
        self.round += 1
        self._asked.set()
        self._asked = asyncio.Event()
        await self._wait_for_reports(self._clock() + WAIT_S)
        self._ended = self._clock()

    async def _wait_for_reports(self, ends: float) -> None:
        while self._clock() < ends and any(
            replica.round < self.round and self.is_reporting(replica) for replica in self.replicas.values()
        ):
            self._answered.clear()
            try:
                async with asyncio.timeout(max(0.0, ends - self._clock())):
                    await self._answered.wait()
            except TimeoutError:
                break

    def is_reporting(self, replica: _Replica) -> bool:
        return self._clock() - replica.seen < SILENT_S

    def retire(self) -> None:
        """Add the numbers of replicas that ended long ago to the sums of the models that are still served."""
        old = [name for name, replica in self.replicas.items() if self._clock() - replica.seen > GONE_S]
        for name in old:
            for key, tree in self.replicas.pop(name).trees.items():
                self.gone[key] = merge([self.gone[key], tree]) if key in self.gone else tree | {"now": {}}
        served = {key for replica in self.replicas.values() for key in replica.trees}
        if served:
            self.gone = {key: tree for key, tree in self.gone.items() if key in served}

    def sum_up(self, keys: Collection[ModelKey] | None) -> dict[ModelKey, Tree]:
        """Of all replicas there were, by model; `keys` are the wanted ones, None for all."""
        found: dict[ModelKey, list[Tree]] = {}
        for replica in self.replicas.values():
            heard = self.is_reporting(replica)
            for key, tree in replica.trees.items():
                if key != EDGE and (keys is None or key in keys):
                    found.setdefault(key, []).append(tree if heard else tree | {"now": {}})
        return {
            key: merge([*reversed(trees), *([self.gone[key]] if key in self.gone else [])])
            for key, trees in found.items()
        }

    def sum_up_replicas(self) -> Tree:
        """What the replicas that report counted of no model."""
        reporting = (replica for replica in self.replicas.values() if self.is_reporting(replica))
        return merge([replica.trees[EDGE] for replica in reporting if EDGE in replica.trees])

    def show(self) -> dict[str, Mapping[ModelKey, Tree]]:
        """By replica, for rendering."""
        return {
            name: replica.trees.copy()
            if self.is_reporting(replica)
            else {key: tree | {"now": {}, "told": {}} for key, tree in replica.trees.items()}
            for name, replica in self.replicas.items()
        }


class Aggregator:
    """The applications of a cluster. Lives on one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._applications: dict[str, _Application] = {}
        self.life = uuid.uuid4().hex
        """A new one after the process was restarted, which loses its state."""

    async def report(
        self, application: str, replica: str, life: str, round_: int, trees: Mapping[ModelKey, Tree]
    ) -> tuple[str, int]:
        """Accept a replica's counts of models since its last report to this `life`, or, if that is an empty text, of
        all. Returns the life and the round that the next report is for, once it is wanted; -1 if all are wanted."""
        known = self._find(application)
        if life and (life != self.life or replica not in known.replicas):
            return self.life, -1
        round_ = round_ if life else 0  # those of another life mean nothing here
        known.take(replica, trees, round_)
        return self.life, await known.hold(round_)

    async def leave(self, application: str, replica: str, life: str, trees: Mapping[ModelKey, Tree]) -> None:
        """The last report of a replica that ends."""
        known = self._find(application)
        if life == self.life and replica in known.replicas:
            known.take(replica, trees, known.round)
            known.replicas[replica].seen = self._clock() - SILENT_S

    async def tell(self, application: str, who: str, gauges: Collection[Gauge]) -> None:
        """Show these with the metrics of the application, in place of what the same one told before, for a while."""
        known = self._find(application)
        known.told[who] = (self._clock(), tuple(gauges))

    async def sum_up(
        self, application: str, keys: Collection[ModelKey] | None = None
    ) -> tuple[int, dict[ModelKey, Tree]]:
        """The number of replicas, and the counts of all there were, by model."""
        known = self._find(application)
        await known.refresh()
        known.retire()
        return sum(map(known.is_reporting, known.replicas.values())), known.sum_up(keys)

    async def read(self, application: str) -> tuple[list[str], dict[ModelKey, Tree]]:
        """The names of the replicas that report, and the counts of all there were, by model; those of the replicas
        themselves under EDGE."""
        known = self._find(application)
        await known.refresh()
        known.retire()
        names = [name for name, replica in known.replicas.items() if known.is_reporting(replica)]
        return names, known.sum_up(None) | {EDGE: known.sum_up_replicas()}

    async def render(self, application: str, accept: str) -> tuple[bytes, str]:
        """The metrics of an application as text, and its content type."""
        known = self._find(application)
        await known.refresh()
        known.retire()
        told = [
            gauge for at, gauges in known.told.values() if self._clock() - at < TOLD_S for gauge in gauges
        ]
        return await asyncio.to_thread(prometheus.render, application, known.show(), accept, told)

    def _find(self, application: str) -> _Application:
        for name, known in list(self._applications.items()):
            if self._clock() - known.heard > FORGOTTEN_S and name != application:
                del self._applications[name]
        if application not in self._applications:
            self._applications[application] = _Application(self._clock)
        return self._applications[application]
