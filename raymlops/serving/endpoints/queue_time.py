"""How long a request waits for the runs of nodes while a graph answers it, which its own time does not tell. Knows no
graph."""

import contextlib
import contextvars
from collections.abc import Iterator

_WAITED: contextvars.ContextVar[list[int] | None] = contextvars.ContextVar("waited", default=None)


@contextlib.contextmanager
def measured() -> Iterator[list[int]]:
    """What this block, and the tasks that begin in it, wait: the one number of the list, in nanoseconds."""
    waited = [0]
    token = _WAITED.set(waited)
    try:
        yield waited
    finally:
        _WAITED.reset(token)


def add(ns: int) -> None:
    """So long a wait has ended; without a block nobody asks."""
    waited = _WAITED.get()
    if waited is not None:
        waited[0] += ns
