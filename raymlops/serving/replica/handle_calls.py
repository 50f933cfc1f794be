"""Calls through a handle of Serve, whose failures become errors of ours. Chooses no replica and retries nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import ray.exceptions
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from raymlops.errors import OverloadedError, ProcessEndedError, RaymlopsError

Answer = TypeVar("Answer")
_ENDED = (
    "its replica ended while it had this request, which is not sent to another; send it again if that does "
    "no harm"
)


async def call_handle(remote: Callable[..., Awaitable[Answer]], *arguments: Any) -> Answer:
    """The deployment's answer; `remote` is a handle's method of this name.

    Raises OverloadedError if it accepts no call now, ProcessEndedError if Serve gave up a call that may have started,
    and what is raised there: an error of ours as it is, any other as Ray's RayTaskError. CancelledError only if the
    caller's own task is cancelled.
    """
    try:
        return await remote(*arguments)
    except DeploymentUnavailableError:
        raise OverloadedError("none of its replicas can answer") from None
    except BackPressureError as error:
        raise OverloadedError(f"its queue is full: {error.message}") from None
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        raise (cause if isinstance(cause, RaymlopsError) else error) from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # the caller has given up
            raise
        raise ProcessEndedError(_ENDED) from None  # Serve gave the call up, as when its deployment is removed
    except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError):
        # Calls that were not started Serve itself has given to another replica.
        raise ProcessEndedError(_ENDED) from None
