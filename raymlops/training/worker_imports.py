"""Has Ray's idle processes import the libraries of trainings before the trials need them. Trains nothing."""

import contextlib
import importlib
from collections.abc import Iterable

import ray

from raymlops.training.learners import LEARNERS

_MOST = 8
"""Processes, at most."""


def start_imports(learners: Iterable[str], processes: int) -> None:
    """Start it on a cluster of one node, and wait for nothing: trials get these processes. Learners of
    the user's own are not imported."""
    if sum(node["Alive"] for node in ray.nodes()) > 1:
        return
    modules = tuple(LEARNERS[name].partition(":")[0] for name in learners if name in LEARNERS)
    task = ray.remote(num_cpus=0, max_retries=0)(_import_all)
    for _ in range(min(processes, _MOST)):
        task.remote(modules)


def _import_all(modules: tuple[str, ...]) -> None:
    for name in ("raymlops.training.search", *modules):
        with contextlib.suppress(Exception):  # of a library that a trial will tell about
            importlib.import_module(name)
