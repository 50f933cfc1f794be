"""By when a request must be answered, for what works on it in this task and for the processes that it asks. Ends
nothing itself."""

import contextlib
import contextvars
import dataclasses
import time
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True, slots=True)
class Deadline:
    when: float
    """Of `time.monotonic()`, in seconds."""
    is_asked: bool = False
    """Whether the caller named it, and not the spec: then it holds for this request alone."""


_CURRENT: contextvars.ContextVar[Deadline | None] = contextvars.ContextVar("deadline", default=None)


@contextlib.contextmanager
def bound(seconds: float, *, is_asked: bool = False) -> Iterator[None]:
    """Within, what is asked elsewhere has at most so many seconds, or fewer where that was said before."""
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
    """Seconds that are left, 0 or less where the time is over; None without a deadline."""
    present = _CURRENT.get()
    return None if present is None else present.when - time.monotonic()


def is_asked() -> bool:
    """Whether the caller of this request named a deadline."""
    present = _CURRENT.get()
    return present is not None and present.is_asked
