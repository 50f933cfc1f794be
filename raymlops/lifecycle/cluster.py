"""Connects to the cluster of the settings, or starts one on this machine; applies the settings that every driver
needs."""

import sys
from collections.abc import Callable
from typing import Any

from raymlops.clusters import connection
from raymlops.data import sources
from raymlops.settings import Settings


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def join_cluster(settings: Settings, tell: Callable[[str], Any] = _tell) -> None:
    """Connect, once per process; `tell` is called with what the work waits for. Raises ResourceError if the address
    does not answer."""
    connection.join(settings, tell=tell)
    sources.configure()
