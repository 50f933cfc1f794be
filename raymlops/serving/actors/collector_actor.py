"""The collector of an application as an actor, and the calls to it. Imports no model, as its process stays small."""

import asyncio
import contextlib
import hashlib
import inspect
import pathlib
from collections.abc import Sequence
from typing import Any

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymlops.monitoring import tick_store, ticks
from raymlops.serving.actors import tick_collector
from raymlops.serving.actors.shared_actor import find_actor
from raymlops.serving.actors.tick_collector import Message, Sender, TickCollector
from raymlops.serving.actors.tick_delivery import remove_files
from raymlops.serving.endpoints.answered_rows import EndedReplica, find_ended

_PATIENCE_S = 30.0
"""For an answer of the collector, which waits for the store."""


class CollectorActor:
    """Calls the collector of an application, which is created if there is none."""

    def __init__(self, application: str, root: str) -> None:
        self._application, self._root = application, root
        self._actor = self._find()

    def register(self, sender: Sender) -> int:
        return int(self._call("register", sender))

    def beat(self, replica: str) -> bool:
        return bool(self._call("beat", replica))

    def deliver(self, message: Message) -> int:
        return int(self._call("deliver", message))

    def leave(self, replica: str) -> None:
        self._call("leave", replica)

    def state_ended(self, found: Sequence[EndedReplica]) -> None:
        self._call("state_ended", found)

    def _find(self) -> Any:
        name = _name_actor(self._application, self._root)
        return find_actor(_Collector, name, self._root, self._application)

    def claim(self, replica: str, keys: Sequence[int]) -> set[int]:
        return set(self._call("claim", replica, keys))

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return ray.get(getattr(self._actor, method).remote(*arguments), timeout=_PATIENCE_S)
        except ray.exceptions.ActorUnavailableError:  # it is being restarted
            raise
        except ray.exceptions.RayActorError:
            self._actor = self._find()
            raise


def _name_actor(application: str, root: str) -> str:
    """Changes with the code: an actor keeps the code with which it was created."""
    digest = hashlib.sha256(root.encode())
    for module in (tick_collector, tick_store, ticks):
        with contextlib.suppress(OSError):  # installed without sources
            digest.update(inspect.getsource(module).encode())
    return f"raymlops-monitoring-{application}-{digest.hexdigest()[:12]}"


class _Collector(TickCollector):
    """In its actor."""

    def __init__(self, root: str, application: str) -> None:
        super().__init__(root, application, _find_ended, _is_alive, _remove, _end)


def _end() -> None:
    ray.kill(ray.get_runtime_context().current_actor)


async def _find_ended(node: str, folder: str) -> list[tuple[str, EndedReplica]]:
    found: list[tuple[str, EndedReplica]] = await _on(node, _read_ended).remote(folder)
    return found


async def _remove(node: str, paths: Sequence[str]) -> None:
    await _on(node, remove_files).remote(paths)


def _on(node: str, function: Any) -> Any:
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(function).options(num_cpus=0, scheduling_strategy=strategy)


def _read_ended(folder: str) -> list[tuple[str, EndedReplica]]:
    return [(str(path), ended) for path, ended in find_ended(pathlib.Path(folder))]


async def _is_alive(node: str) -> bool:
    nodes = await asyncio.to_thread(ray.nodes)
    return any(one["NodeID"] == node and one["Alive"] for one in nodes)
