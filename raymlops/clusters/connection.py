"""Joins the cluster that the settings name, or one of this machine, or starts one here: the same way for every verb.

Keeps what Ray says of itself from the terminal; what is wrong still reaches it. Knows no Serve.
"""

import logging
import re
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal

import ray

from raymlops.clusters import loopback
from raymlops.clusters.shortage import Watch
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
    """Connect this process, once; true where a cluster was started for it.

    Where the settings name none, one is started here, or with `find` that of this machine is joined. With `logs` what
    workers print is shown. What is waited for because others use it is told by `tell`, within seconds.
    Raises ResourceError when no cluster answers, or it does not take this user's token.
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
    _filter_logs()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Uploading the working directory is the submitter's decision; workers here import the same installation.
            ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ResourceError(_explain(address, settings, error)) from None
    if tell is not None:
        Watch(tell).start()
    return address == "local"


def _explain(address: str, settings: Settings, error: Exception) -> str:
    cause = " ".join(str(error).split())[:300]
    if isinstance(error, ray.exceptions.AuthenticationError) or "AuthToken" in cause:
        return (
            f"The cluster at {address} does not take the token of this user: put the cluster's into "
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


_OWN_WORDS = re.compile(r"(DEBUG|INFO) \d{4}-\d\d-\d\d |\s+• |\s*$")
"""Lines in which Serve tells of itself, and what belongs to them."""
_SERVES_OWN = ("ServeController", "ProxyActor", "HAProxyManager", "ServeReplica")
_HARMLESS = re.compile(
    r"Task ServeController\.\w+ failed\..*`ray\.kill`"
    r"|Task build_serve_application failed\. There are \d+ retries"  # the last one is told by who deploys
)


def keep_lines(actor: str, lines: Iterable[str]) -> list[str]:
    """Of what a process of the cluster printed, that which a user would miss."""
    own = actor.startswith(_SERVES_OWN)
    return [line for line in lines if not (own and _OWN_WORDS.match(line)) and not _HARMLESS.search(line)]


def _filter_logs() -> None:
    """Stand where Ray prints what workers print and what it has to say itself; with a Ray that has no such place all of
    it is shown."""
    from ray._private import worker

    show = getattr(worker, "print_to_stdstream", None)
    if show is None or hasattr(show, "replaced"):
        return

    def show_kept(data: dict[str, Any], *arguments: Any, **options: Any) -> None:
        kept = keep_lines(str(data.get("actor_name") or ""), data.get("lines") or [])
        if kept:
            show({**data, "lines": kept}, *arguments, **options)

    show_kept.replaced = show  # type: ignore[attr-defined]
    worker.print_to_stdstream = show_kept
