"""The repository of a folder's models in all replicas of an application: what one replica is asked to load or unload,
the others follow within seconds, and all serve the same file under a name. Opens no model."""

import asyncio
import time
from collections.abc import Awaitable, Iterable, Mapping
from typing import Any, Protocol

import ray.exceptions

from raymlops.errors import OverloadedError
from raymlops.serving.actors.shared_actor import SharedActor
from raymlops.serving.endpoints.lazy_models import LazyModels
from raymlops.serving.endpoints.statistics import Tree
from raymlops.specs.serving import ServingSpec

PATIENCE_S = 5.0
"""Longest wait for the actor that connects the replicas."""
_DEPLOYMENTS = 4
"""Deployments whose agreed files are remembered: two, while one replaces the other."""


class RepositoryState:
    """What the replicas agree on. An actor that outlives them; after a loss, they tell it again."""

    def __init__(self) -> None:
        self._closed: set[str] = set()
        self._version = 0
        self._digests: dict[str, dict[str, str]] = {}
        """Deployment -> name -> sha256 of the file that its replicas serve."""

    def change(self, name: str, closed: bool) -> int:
        """The version that all replicas know at least."""
        (self._closed.add if closed else self._closed.discard)(name)
        self._version += 1
        return self._version

    def restore(self, version: int, closed: Iterable[str]) -> None:
        """Adopt a replica's state, if it is newer than the one here."""
        if version > self._version:
            self._version, self._closed = version, set(closed)

    def agree(
        self, deployment: str, digests: Mapping[str, str], gone: Iterable[str] = (), take: bool = False
    ) -> None:
        """The first replica determines which file is served under a name; later only one that was asked to `take`
        another."""
        agreed = self._digests.pop(deployment, {})
        self._digests[deployment] = agreed  # the latest deployment wins
        while len(self._digests) > _DEPLOYMENTS:
            del self._digests[next(iter(self._digests))]
        for name in gone:
            agreed.pop(name, None)
        for name, digest in digests.items():
            if take or name not in agreed:
                agreed[name] = digest

    def read(self, deployment: str) -> tuple[int, list[str], dict[str, str]]:
        """Version, names that were unloaded explicitly, and the files by their names."""
        return self._version, sorted(self._closed), dict(self._digests.get(deployment, {}))


class State(Protocol):
    """Calls the methods of a RepositoryState in another process."""

    def call(self, method: str, *arguments: Any) -> Awaitable[Any]: ...


class SharedRepository:
    """Loads and unloads models of this replica, tells the other replicas, and follows them."""

    def __init__(self, many: LazyModels, state: State, deployment: str, refresh_s: float) -> None:
        """`deployment` separates replicas of one deployment from those of the next; the folder is scanned every
        `refresh_s` seconds, 0 is only on request."""
        self._many = many
        self._state = state
        self._deployment = deployment
        self._refresh_s = refresh_s
        self._told: dict[str, str] = {}
        """Digests that the others know."""

    @property
    def unavailable(self) -> Mapping[str, str]:
        return self._many.unavailable

    async def load(self, name: str) -> None:
        """Use the present file, and load it into memory. Raises NotFoundError, ArtifactError, ResourceError,
        OverloadedError."""
        digest = await self._many.take(name)
        await self._call("agree", self._deployment, {name: digest}, (), True)
        self._told[name] = digest
        self._many.version = await self._call("change", name, False)
        await self._many.open(name)

    async def unload(self, name: str) -> None:
        self._many.version = await self._call("change", self._many.check(name), True)
        await self._many.unload(name)

    async def refresh(self) -> None:
        await self._many.refresh()

    async def follow(self) -> None:
        """Scan the folder if it is due, and follow the other replicas."""
        if self._refresh_s and time.monotonic() - self._many.looked >= self._refresh_s:
            await self._many.refresh()
        await self._tell()
        version, closed, digests = await self._call("read", self._deployment)
        if version < self._many.version or any(
            name not in digests for name in self._told
        ):  # it was lost, with its state
            await self._call("restore", self._many.version, sorted(self._many.closed))
            self._told.clear()
            return
        await self._many.agree(digests)
        self._many.follow(version, closed)

    async def _tell(self) -> None:
        """Tell the others which models this replica found or no longer finds."""
        served = self._many.digests
        fresh = {name: digest for name, digest in served.items() if self._told.get(name) != digest}
        gone = [name for name in self._told if name not in served and name not in self._many.unavailable]
        if fresh or gone:
            await self._call("agree", self._deployment, fresh, gone)
            self._told.update(fresh)
            for name in gone:
                del self._told[name]

    async def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return await asyncio.wait_for(self._state.call(method, *arguments), PATIENCE_S)
        except (ray.exceptions.RayError, TimeoutError) as error:
            raise OverloadedError(
                f"The other replicas cannot be reached now ({type(error).__name__}); try again in a moment"
            ) from None

    def to_tree(self) -> Tree:
        return self._many.to_tree()


def share_repository(spec: ServingSpec, many: LazyModels) -> SharedRepository:
    """The repository of a replica of this application, which shares an actor with the others."""
    assert spec.many is not None
    state = SharedActor(RepositoryState, f"raymlops-repository-{spec.name}")
    return SharedRepository(many, state, spec.many.listing, spec.many.refresh_s)
