"""Joins the cluster that the settings name, or starts one on this machine; sets what every pipeline's driver relies
on."""

import sys
from collections.abc import Callable
from typing import Any

from raymlops.clusters import connection
from raymlops.data import sources
from raymlops.settings import Settings


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def join_cluster(settings: Settings, tell: Callable[[str], Any] = _tell) -> None:
    """Connect, once a process; `tell` is told what the work waits for. Raises ResourceError when the address does not
    answer."""
    connection.join(settings, tell=tell)
    sources.configure()
