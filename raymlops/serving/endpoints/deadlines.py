"""Deadline of a request, for the code of this task and the processes that it calls. Cancels nothing itself."""

import contextlib
import contextvars
import dataclasses
import time
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True, slots=True)
class Deadline:
    when: float
    """In seconds of `time.monotonic()`."""
    is_asked: bool = False
    """Whether the caller set it, not the spec: then it holds for this request alone."""


_CURRENT: contextvars.ContextVar[Deadline | None] = contextvars.ContextVar("deadline", default=None)


@contextlib.contextmanager
def bound(seconds: float, *, is_asked: bool = False) -> Iterator[None]:
    """Within this block, calls to other processes have at most so many seconds, or fewer if an outer block says so."""
    present, wanted = _CURRENT.get(), time.monotonic() + seconds
    if present is not None and present.when <= wanted:
        yield
        return
    token = _CURRENT.set(Deadline(wanted, is_asked or bool(present and present.is_asked)))
    try:
        yield
    finally:
        _CURRENT.reset(token)


def count_remaining() -> float | None:
    """Seconds left, 0 or less after the deadline; None without a deadline."""
    present = _CURRENT.get()
    return None if present is None else present.when - time.monotonic()


def is_asked() -> bool:
    """Whether the caller of this request set a deadline."""
    present = _CURRENT.get()
    return present is not None and present.is_asked
