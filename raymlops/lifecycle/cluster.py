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


def join_cluster(settings: Settings, tell: Callable[[str], Any] = _tell, *, teams: bool = False) -> None:
    """Connect, once per process; `tell` is called with what the work waits for. Raises ResourceError if the address
    does not answer.

    A cluster that is started for `teams` of workers has a dashboard: Ray Train asks it whether a team is still
    controlled, and without an answer never returns the CPUs of a trial that its search stopped.
    """
    connection.join(settings, dashboard=teams, tell=tell)
    sources.configure()
