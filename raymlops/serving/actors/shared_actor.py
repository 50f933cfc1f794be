"""An actor that all replicas of an application share and that outlives them. It needs no CPU, is restarted on any
node when its own is lost, without its state, and is created again if it has ended for good."""

import asyncio
from typing import Any

import ray

NAMESPACE = "raymlops"


def find_actor(kind: type, name: str, *arguments: Any, **options: Any) -> Any:
    """The handle of the actor of this name, created as `kind(*arguments)` if there is none; waits for the cluster."""
    actor: Any = ray.remote(num_cpus=0, max_restarts=-1)(kind)
    return actor.options(
        name=name, get_if_exists=True, lifetime="detached", namespace=NAMESPACE, **options
    ).remote(*arguments)


class SharedActor:
    """Calls the actor of this name, created as `kind(*arguments)` if there is none."""

    def __init__(self, kind: type, name: str, *arguments: Any) -> None:
        self._kind, self._name, self._arguments = kind, name, arguments
        self._actor = self._find()

    def _find(self) -> Any:
        return find_actor(self._kind, self._name, *self._arguments)

    async def call(self, method: str, *arguments: Any) -> Any:
        """The method's result. Raises RayActorError while the actor is unreachable; calls are not repeated."""
        try:
            return await getattr(self._actor, method).remote(*arguments)
        except ray.exceptions.ActorUnavailableError:  # it is being restarted
            raise
        except ray.exceptions.RayActorError:
            self._actor = await asyncio.to_thread(self._find)
            raise
