"""How long a request waits for the runs of nodes while a graph answers it; the node's own time does not include that.
Does not know graphs."""

import contextlib
import contextvars
from collections.abc import Iterator

_WAITED: contextvars.ContextVar[list[int] | None] = contextvars.ContextVar("waited", default=None)


@contextlib.contextmanager
def measured() -> Iterator[list[int]]:
    """Waiting time of this block and of the tasks that start in it: the only number of the list, in nanoseconds."""
    waited = [0]
    token = _WAITED.set(waited)
    try:
        yield waited
    finally:
        _WAITED.reset(token)


def add(ns: int) -> None:
    """Adds a wait of this length; without a block it does nothing."""
    waited = _WAITED.get()
    if waited is not None:
        waited[0] += ns
