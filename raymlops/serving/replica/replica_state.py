"""Whether Ray Serve is about to end this process's replica: long-lived streams must then be closed, or the drain
waits for them until it times out. The only module that reads this from Serve's private replica."""

import logging
from collections.abc import Callable

import ray

LOG = logging.getLogger("raymlops.serving")


def find_draining() -> Callable[[], bool]:
    """A function that returns it; always False if this Ray keeps it elsewhere."""
    from ray._private.worker import global_worker

    actors = getattr(global_worker, "actors", {})
    actor_id = ray.get_runtime_context().get_actor_id()
    actor = next((held for key, held in actors.items() if key.hex() == actor_id), None)
    replica = getattr(actor, "_replica_impl", None)
    if not hasattr(replica, "_shutting_down"):
        LOG.error(
            "Ray %s does not show that a replica ends: streams stay open until it has ended", ray.__version__
        )
        return lambda: False
    return lambda: bool(replica._shutting_down)  # type: ignore[union-attr]
