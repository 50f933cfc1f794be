"""The actors that watch an application, one of each kind. Any replica creates them, without importing what they do: it
needs those libraries for nothing else."""

import importlib
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymlops.serving.actors.shared_actor import find_actor

ENSURED_S = 30.0
"""Seconds between two looks of a replica whether an actor is there."""


class WatchActor:
    """Starts an `ApplicationWatch` in its process."""

    name = ""
    """The actor's, with the application's after it."""
    target = ""
    """module:Class."""

    def __init__(self, application: str) -> None:
        module, _, kind = self.target.partition(":")
        self._watch = getattr(importlib.import_module(module), kind)(application)
        self._watch.start()

    def ping(self) -> None:
        """Returns while the actor lives."""


class OperationWatch(WatchActor):
    name = "raymlops-operations"
    target = "raymlops.serving.actors.operation_watch:OperationWatch"


class JudgeWatch(WatchActor):
    name = "raymlops-judge"
    target = "raymlops.serving.actors.judge_watch:JudgeWatch"


def find_watch(kind: type[WatchActor], application: str) -> Any:
    """The handle of the actor, which is created if there is none: with the environment of this process, and on its
    node, where the files of certificates, keys and notify.yaml are, unless that is lost."""
    node = ray.get_runtime_context().get_node_id()
    strategy = NodeAffinitySchedulingStrategy(node, soft=True)
    return find_actor(kind, f"{kind.name}-{application}", application, scheduling_strategy=strategy)
