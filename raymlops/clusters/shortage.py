"""Reports in one sentence which resources this process waits for on a cluster, and who uses them. Decides nothing."""

import collections
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Mapping
from typing import Any

import ray

from raymlops import ray_internals

_POLL_S = 1.0
_PATIENCE = 2
"""Checks that must see the same shortage before it is reported; tasks that are merely queued are not reported."""


@dataclasses.dataclass(frozen=True)
class Usage:
    """One resource: its total, the amount in use, and who uses it, as far as that is known."""

    total: float
    used: float
    users: Mapping[str, float] = dataclasses.field(default_factory=dict)


def explain_waiting(wanted: Mapping[str, float], usage: Mapping[str, Usage]) -> str:
    """`wanted` are the resources of one task or actor that is not placed; empty if none of them is short."""
    lacking = [
        name
        for name, amount in wanted.items()
        if amount > 0
        and usage.get(name, Usage(0, 0)).total - usage.get(name, Usage(0, 0)).used < amount - 1e-9
    ]
    if not lacking:
        return ""
    texts = []
    for name in lacking:
        of = usage.get(name, Usage(0, 0))
        users = ", ".join(f"{user} ({amount:g})" for user, amount in sorted(of.users.items(), key=_by_amount))
        by = f" by {users}" if users else ""
        if of.total < wanted[name]:
            texts.append(f"{_show(name, wanted[name])}, and all nodes together have {_show(name, of.total)}")
        else:
            texts.append(f"{_show(name, wanted[name])}: {_show(name, of.used, of.total)} are used{by}")
    return f"Waits for {'; and for '.join(texts)}. Stop or shrink what uses it, or add a node"


def _by_amount(item: tuple[str, float]) -> tuple[float, str]:
    return -item[1], item[0]


def _show(name: str, amount: float, total: float | None = None) -> str:
    factor, unit = (2**-30, "GiB of memory") if name in ("memory", "object_store_memory") else (1.0, name)
    of = "" if total is None else f" of {total * factor:g}"
    return f"{amount * factor:g}{of} {unit}"


class ShortageWatcher:
    """A thread that reports each lasting shortage once, while no task of this process is placed."""

    def __init__(self, tell: Callable[[str], Any]) -> None:
        self._tell = tell
        self._said: set[str] = set()

    def start(self) -> None:
        threading.Thread(target=self._run, name="shortage", daemon=True).start()

    def _run(self) -> None:
        seen: collections.Counter[str] = collections.Counter()
        pause = threading.Event()
        while not pause.wait(_POLL_S) and ray.is_initialized():
            found = read_waiting()
            seen = collections.Counter({found: seen[found] + 1}) if found else collections.Counter()
            if found and seen[found] >= _PATIENCE and found not in self._said:
                self._said.add(found)
                self._tell(found)


def read_waiting() -> str:
    """The present shortage as a sentence; empty if there is none, if unknown processes use the rest, or if the
    cluster does not tell."""
    with contextlib.suppress(Exception):  # Ray has no public interface for its demands
        return _read_waiting()
    return ""


def _read_waiting() -> str:
    context = ray.get_runtime_context()
    status = ray_internals.read_cluster_status(context.gcs_address)
    demands = status.resource_demands.ray_task_actor_demand
    wanted: list[dict[str, float]] = [
        bundle.bundle for demand in demands for bundle in demand.bundles_by_count
    ]
    if not wanted:
        return ""
    users = _read_users(context.get_job_id())
    usage = {}
    for part in status.cluster_resource_usage:
        of = {name: held[part.resource_name] for name, held in users.items() if held.get(part.resource_name)}
        usage[part.resource_name] = Usage(part.total, part.used, of)
    known = sum(usage["CPU"].users.values()) if "CPU" in usage else 0
    if (
        "CPU" in usage and usage["CPU"].used - known > 1e-6
    ):  # some of this work is placed: the rest is only queued
        return ""
    return next(filter(None, (explain_waiting(one, usage) for one in wanted)), "")


def _read_users(job: str) -> dict[str, dict[str, float]]:
    """Resources held by live actors of other processes, by Serve application or class."""
    found: dict[str, dict[str, float]] = {}
    for actor in ray_internals.read_actors():
        if actor.job_id.hex() == job and not actor.is_detached:
            continue
        held = found.setdefault(_name(actor.name, actor.class_name), {})
        for resource, amount in actor.required_resources.items():
            held[resource] = held.get(resource, 0) + amount
    return found


def _name(name: str, kind: str) -> str:
    if name.startswith("SERVE_REPLICA::"):
        return f"application {name.removeprefix('SERVE_REPLICA::').split('#')[0]}"
    return kind or name
