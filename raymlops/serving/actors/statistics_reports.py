"""The numbers of all replicas of an application, for whichever of them is asked: each reports its own to one actor of
the cluster, see `statistics_aggregator`. Counts nothing itself."""

import asyncio
import hashlib
import inspect
from collections.abc import Collection
from typing import Any

import ray
import ray.exceptions

from raymlops import __version__, histograms
from raymlops.serving.actors import statistics_aggregator
from raymlops.serving.actors.shared_actor import NAMESPACE, find_actor
from raymlops.serving.endpoints import prometheus, statistics
from raymlops.serving.endpoints.hosted import Hosts
from raymlops.serving.endpoints.statistics import ModelKey, Tree
from raymlops.serving.transport.asgi import LOG

_PATIENCE_S = 5.0
"""For the actor to answer; after that a replica tells its own numbers."""
REPORT_PAUSE_S = 0.02
"""Between two reports, if the first is answered at once."""


def _name_actor() -> str:
    """Another one for another program: an actor goes on with the one that it began with."""
    modules = (histograms, prometheus, statistics, statistics_aggregator)
    try:
        program = "".join(inspect.getsource(module) for module in modules)
    except OSError:  # installed without sources
        program = __version__
    return f"raymlops-statistics-{hashlib.sha256(program.encode()).hexdigest()[:12]}"


class ReplicaStatistics:
    """Of one replica; lives on its event loop."""

    def __init__(self, application: str, replica: str, hosts: Hosts) -> None:
        """`application` is its name in Serve, which no other has."""
        self._application, self._replica = application, replica
        self._hosts = hosts
        self._actor: Any = None
        self._life, self._round = "", 0
        self._stamps: dict[ModelKey, object] = {}

    async def report(self) -> None:
        """Once, which returns when the numbers are wanted again, or after a while. Raises RayError."""
        if self._actor is None:
            self._actor = await asyncio.to_thread(_find_actor)
            self._life = ""
        if not self._life:
            self._stamps.clear()
            self._round = 0  # rounds are those of a life
        stamps = self._stamps.copy()
        try:
            trees = self._hosts.trees(self._stamps)
            told = self._application, self._replica, self._life, self._round, trees
            life, round_ = await self._actor.report.remote(*told)
        except BaseException:
            self._stamps, self._actor = stamps, None  # it may be another one by then
            raise
        self._life, self._round = (life, round_) if round_ >= 0 else ("", 0)

    async def leave(self) -> None:
        """Report a last time, when all requests are answered."""
        if self._actor is not None:
            left = self._actor.leave.remote(
                self._application, self._replica, self._life, self._hosts.trees(self._stamps)
            )
            await asyncio.wait_for(left, 1.0)

    async def sum_up(self, keys: Collection[ModelKey] | None = None) -> tuple[int, dict[ModelKey, Tree]]:
        """How many replicas there are, and what all counted, by models. While the actor cannot be asked: this one's."""
        try:
            return await self._ask("sum_up", keys)  # type: ignore[no-any-return]
        except (ray.exceptions.RayError, TimeoutError) as error:
            LOG.error("the statistics of the other replicas are not known: %s", error)
            return 1, self._hosts.trees({})

    async def render(self, accept: str) -> tuple[bytes, str]:
        """The metrics of all replicas as text, and its content type. While the actor cannot be asked: this one's."""
        try:
            return await self._ask("render", accept)  # type: ignore[no-any-return]
        except (ray.exceptions.RayError, TimeoutError) as error:
            LOG.error("the metrics of the other replicas are not known: %s", error)
            trees = {self._replica: self._hosts.trees({})}
            return await asyncio.to_thread(prometheus.render, self._application, trees, accept)

    async def _ask(self, method: str, argument: Any) -> Any:
        """Raises RayError, TimeoutError."""
        if self._actor is None or not self._life:
            raise TimeoutError("this replica has not reported yet")
        return await asyncio.wait_for(
            getattr(self._actor, method).remote(self._application, argument), _PATIENCE_S
        )


class AsleepStatistics:
    """Of an application without replicas, as a proxy tells them."""

    def __init__(self, application: str) -> None:
        self._application = application

    async def sum_up(self, keys: Collection[ModelKey] | None = None) -> tuple[int, dict[ModelKey, Tree]]:
        return 0, {}

    async def render(self, accept: str) -> tuple[bytes, str]:
        """The last numbers of replicas that ended a short while ago, or none."""
        try:
            if not ray.is_initialized():  # which to ask for an actor would do
                raise ValueError("no cluster")
            actor = await asyncio.to_thread(ray.get_actor, _name_actor(), NAMESPACE)
            asked = actor.render.remote(self._application, accept)
            return await asyncio.wait_for(asked, _PATIENCE_S)
        except (ray.exceptions.RayError, TimeoutError, ValueError):  # the last where there is no such actor
            return prometheus.render(self._application, {}, accept)


def _find_actor() -> Any:
    return find_actor(statistics_aggregator.Aggregator, _name_actor(), max_concurrency=10_000)
