"""Keeps a cluster of this machine alone on loopback, and joins such a cluster. Starts nothing.

Ray listens on every interface by itself, with its token as the only guard, except where it takes a cluster to be of
one machine, as on macOS and Windows. The variable that decides it is public, and named after those two.
"""

import contextlib
import os
import socket
import urllib.parse

from raymlops.clusters import machine_checks, tokens
from raymlops.settings import read_environment

VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def prepare_start() -> None:
    """Before this process starts a cluster: it listens on loopback, and its token is readable by its owner only."""
    stay_on_loopback()
    # Ray would make one, and leave it readable for everyone.
    environment = read_environment()
    if environment.get("RAY_AUTH_MODE") != "disabled" and not environment.get("RAY_AUTH_TOKEN"):
        tokens.make_token(machine_checks.token_path(environment))


def stay_on_loopback() -> None:
    """What this process starts of Ray listens on loopback only, unless the user has set the variable otherwise."""
    # Read and set where Ray is about to be started, which is not known when the command is entered.
    if VARIABLE not in os.environ:
        os.environ[VARIABLE] = "0"
        _SET.add(VARIABLE)
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = os.environ[VARIABLE] == "1"  # Ray has read it when it was imported


_SET: set[str] = set()
"""Holds the variable when it was this process that set it, which may join another cluster later."""


def _leave_loopback() -> None:
    if VARIABLE in _SET:
        from ray._private import ray_constants

        # As Ray has it where nobody says otherwise.
        os.environ.pop(VARIABLE, None)
        _SET.clear()
        ray_constants.ENABLE_RAY_CLUSTER = not ray_constants.IS_WINDOWS_OR_OSX


def adapt_to(address: str) -> None:
    """Before this cluster is joined: Ray would look for one at 127.0.0.1 at the address of the machine instead."""
    if address == "auto":
        address = _find_running()
    parsed = urllib.parse.urlsplit(address if "//" in address else f"//{address}")
    with contextlib.suppress(ValueError):
        host, port = parsed.hostname or "", parsed.port
        if port and host in ("127.0.0.1", "localhost", "::1") and not _answers_beyond_loopback(port):
            stay_on_loopback()
            return
    _leave_loopback()


def _find_running() -> str:
    """The address of the cluster of this machine that Ray would join by itself; empty where there is none."""
    from ray._private import services

    try:
        return services.get_ray_address_from_environment("auto", None) or ""
    except ConnectionError:
        return ""


def _answers_beyond_loopback(port: int) -> bool:
    from ray._common.network_utils import node_ip_address_from_perspective

    try:
        # Ray's own address of this machine is that of loopback once it is to stay there.
        with socket.create_connection((node_ip_address_from_perspective(), port), timeout=2):
            return True
    except OSError:
        return False
