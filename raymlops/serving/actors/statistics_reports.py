"""Gives any replica the numbers of all replicas of its application: each reports its own to one actor of the cluster,
see `statistics_aggregator`. Counts nothing itself."""

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
from raymlops.serving.endpoints import prometheus, statistics, told_gauges
from raymlops.serving.endpoints.hosted import Hosts
from raymlops.serving.endpoints.statistics import ModelKey, Tree
from raymlops.serving.transport.asgi import LOG

_PATIENCE_S = 5.0
"""Time for the actor to answer; after that a replica returns its own numbers."""
REPORT_PAUSE_S = 0.02
"""Seconds between two reports, if the first is answered at once."""


def _name_actor() -> str:
    """Changes with the code: an actor keeps the code with which it was created."""
    modules = (histograms, prometheus, statistics, told_gauges, statistics_aggregator)
    try:
        program = "".join(inspect.getsource(module) for module in modules)
    except OSError:  # installed without sources
        program = __version__
    return f"raymlops-statistics-{hashlib.sha256(program.encode()).hexdigest()[:12]}"


class ReplicaStatistics:
    """The reports of one replica; lives on its event loop."""

    def __init__(self, application: str, replica: str, hosts: Hosts) -> None:
        """`application` is its name in Serve, which is unique."""
        self._application, self._replica = application, replica
        self._hosts = hosts
        self._actor: Any = None
        self._life, self._round = "", 0
        self._stamps: dict[ModelKey, object] = {}

    async def report(self) -> None:
        """Reports once; returns when the numbers are wanted again, or after a while. Raises RayError."""
        if self._actor is None:
            self._actor = await asyncio.to_thread(find_aggregator)
            self._life = ""
        if not self._life:
            self._stamps.clear()
            self._round = 0  # round numbers are those of one life
        stamps = self._stamps.copy()
        try:
            trees = self._hosts.trees(self._stamps)
            told = self._application, self._replica, self._life, self._round, trees
            life, round_ = await self._actor.report.remote(*told)
        except BaseException:
            self._stamps, self._actor = stamps, None  # it may have changed by then
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
        """The number of replicas, and the counts of all, by model. While the actor cannot be reached: this one's."""
        try:
            return await self._ask("sum_up", keys)  # type: ignore[no-any-return]
        except (ray.exceptions.RayError, TimeoutError) as error:
            LOG.error("the statistics of the other replicas are not available: %s", error)
            return 1, self._hosts.trees({})

    async def render(self, accept: str) -> tuple[bytes, str]:
        """The metrics of all replicas as text, and its content type. While the actor cannot be reached: this one's."""
        try:
            return await self._ask("render", accept)  # type: ignore[no-any-return]
        except (ray.exceptions.RayError, TimeoutError) as error:
            LOG.error("the metrics of the other replicas are not available: %s", error)
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
    """The metrics of an application without replicas, for a proxy."""

    def __init__(self, application: str) -> None:
        self._application = application

    async def sum_up(self, keys: Collection[ModelKey] | None = None) -> tuple[int, dict[ModelKey, Tree]]:
        return 0, {}

    async def render(self, accept: str) -> tuple[bytes, str]:
        """The last numbers of replicas that ended a short while ago; empty if there are none."""
        try:
            if not ray.is_initialized():  # asking for an actor would start or join a cluster
                raise ValueError("no cluster")
            actor = await asyncio.to_thread(ray.get_actor, _name_actor(), NAMESPACE)
            asked = actor.render.remote(self._application, accept)
            return await asyncio.wait_for(asked, _PATIENCE_S)
        # the last numbers if there is no such actor
        except (ray.exceptions.RayError, TimeoutError, ValueError):
            return prometheus.render(self._application, {}, accept)


def find_aggregator() -> Any:
    """The handle of the actor, which is created if there is none."""
    return find_actor(statistics_aggregator.Aggregator, _name_actor(), max_concurrency=10_000)
