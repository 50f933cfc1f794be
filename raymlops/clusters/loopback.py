"""Keeps a one-machine cluster on loopback, and joins such a cluster. Starts nothing.

By default Ray listens on every interface, guarded by its token only, except on macOS and Windows, where it assumes a
cluster of one machine. The variable that decides this is public and named after those two systems.
"""

import contextlib
import os
import socket
import urllib.parse

from raymlops import ray_internals
from raymlops.clusters import machine_checks, tokens
from raymlops.settings import read_environment

VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def prepare_start() -> None:
    """Call before this process starts a cluster: it then listens on loopback only, and its token file is readable by
    its owner only."""
    stay_on_loopback()
    # Ray would create one that everyone can read.
    environment = read_environment()
    if environment.get("RAY_AUTH_MODE") != "disabled" and not environment.get("RAY_AUTH_TOKEN"):
        tokens.make_token(machine_checks.token_path(environment))


def stay_on_loopback() -> None:
    """Make the Ray processes that this process starts listen on loopback only, unless the user has set the variable."""
    # Called just before Ray is started: when a command is entered, it is not yet known whether it starts Ray.
    if VARIABLE not in os.environ:
        os.environ[VARIABLE] = "0"
        _SET.add(VARIABLE)
    ray_internals.set_loopback_only(os.environ[VARIABLE] != "1")  # Ray read the variable at import


_SET: set[str] = set()
"""Restores the variable if this process set it, since the process may join another cluster later."""


def _leave_loopback() -> None:
    if VARIABLE in _SET:
        # Ray's default.
        os.environ.pop(VARIABLE, None)
        _SET.clear()
        ray_internals.set_loopback_only(None)


def adapt_to(address: str) -> None:
    """Call before this cluster is joined: for 127.0.0.1, Ray would look for a cluster at the machine's own address
    instead."""
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
    """The address of the local cluster that Ray would join by default; empty if there is none."""
    try:
        return ray_internals.find_running_cluster()
    except ConnectionError:
        return ""


def _answers_beyond_loopback(port: int) -> bool:
    try:
        # With the variable set, Ray takes the loopback address for this machine's own.
        with socket.create_connection((ray_internals.find_own_address(), port), timeout=2):
            return True
    except OSError:
        return False
