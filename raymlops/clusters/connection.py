"""Connects to the Ray cluster of the settings, to one on this machine, or starts one here: the same way for every
verb.

Hides Ray's routine log lines from the terminal; errors and warnings still appear. Does not import Serve.
"""

import atexit
import gc
import logging
import re
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal

import ray

from raymlops import ray_internals
from raymlops.clusters import loopback
from raymlops.clusters.shortage import ShortageWatcher
from raymlops.errors import ResourceError
from raymlops.settings import Settings, apply_process_defaults, choose_authentication, export

Otherwise = Literal["start", "find"]


def join(
    settings: Settings,
    otherwise: Otherwise = "start",
    *,
    logs: bool = False,
    dashboard: bool = False,
    tell: Callable[[str], Any] | None = None,
) -> bool:
    """Connect this process, if it is not connected yet; true if that started a cluster.

    If the settings name no cluster, one is started here, or with `find` the cluster of this machine is joined. With
    `logs`, the output of workers is shown. `tell` is called, within seconds, with what this process waits for while
    others use it. Raises ResourceError when no cluster answers, or when it refuses this user's token.
    """
    if ray.is_initialized():
        return False
    address = settings.ray_address or ("local" if otherwise == "start" else "auto")
    apply_process_defaults()
    options: dict[str, Any] = {"namespace": "raymlops", "logging_level": logging.ERROR, "log_to_driver": logs}
    if address == "local":
        loopback.prepare_start()
        options["include_dashboard"] = None if dashboard else False
    export(choose_authentication())
    if address != "local":
        loopback.adapt_to(address)
    ray_internals.filter_output(filter_lines)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # `raymlops submit` uploads the working directory; workers here import the same installation.
            ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ResourceError(_explain(address, settings, error)) from None
    if tell is not None:
        ShortageWatcher(tell).start()
    if address == "local" and not logs:
        atexit.register(_leave)
    return address == "local"


def _leave() -> None:
    """End the cluster that was started for this process. Ray does so at exit too, after it has waited for the output of
    workers, which is not shown here, and for its autoscaler."""
    gc.freeze()  # else the interpreter goes through millions of objects of the libraries before it ends
    if ray.is_initialized():
        ray_internals.end_autoscaler()
        ray.shutdown()


def _explain(address: str, settings: Settings, error: Exception) -> str:
    cause = " ".join(str(error).split())[:300]
    if isinstance(error, ray.exceptions.AuthenticationError) or "AuthToken" in cause:
        return (
            f"The cluster at {address} refuses this user's token: put the cluster's token into "
            f"~/.ray/auth_token, or name its file in RAY_AUTH_TOKEN_PATH ({cause})"
        )
    if address == "local":
        return f"No cluster could be started on this machine: {cause}"
    where = f"at {address}" if address != "auto" else "on this machine, and RAY_ADDRESS names none"
    remedy = (
        "check RAY_ADDRESS, or unset it to use this machine"
        if settings.ray_address
        else "set RAY_ADDRESS, or start one with: raymlops cluster start, or raymlops serve FILE"
    )
    return f"No Ray cluster answers {where}: {cause}; {remedy}"


_ROUTINE_LINES = re.compile(r"(DEBUG|INFO) \d{4}-\d\d-\d\d |\s+• |\s*$")
"""Lines of Serve's routine log, and their continuation lines."""
_SERVE_ACTORS = ("ServeController", "ProxyActor", "HAProxyManager", "ServeReplica")
_HARMLESS = re.compile(
    r"Task ServeController\.\w+ failed\..*`ray\.kill`"
    # the command that deploys reports the last failure
    r"|Task build_serve_application failed\. There are \d+ retries"
)


def filter_lines(actor: str, lines: Iterable[str]) -> list[str]:
    """The lines of a cluster process's output that a user needs."""
    of_serve = actor.startswith(_SERVE_ACTORS)
    return [
        line for line in lines if not (of_serve and _ROUTINE_LINES.match(line)) and not _HARMLESS.search(line)
    ]
