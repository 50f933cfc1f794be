"""What follows a request through processes: its id, and its W3C trace context as it came. Records no spans itself.

https://www.w3.org/TR/trace-context/ : who takes no part in a trace hands its headers on unchanged.
"""

import contextvars
import dataclasses
import re
from collections.abc import Callable

_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


@dataclasses.dataclass(frozen=True, slots=True)
class Trace:
    request_id: str = ""
    parent: str = ""
    """The header `traceparent`; empty when there was none, or none that the standard allows."""
    state: str = ""
    """The header `tracestate`."""
    logged: bool = False
    """True if every process that works on the request writes a line about it."""

    def __post_init__(self) -> None:
        if self.parent and not _PARENT.fullmatch(self.parent):
            object.__setattr__(self, "parent", "")
            object.__setattr__(self, "state", "")


_CURRENT: contextvars.ContextVar[Callable[[], Trace]] = contextvars.ContextVar("trace", default=Trace)


def follow(trace: Callable[[], Trace]) -> None:
    """From here on, whatever this task starts belongs to a request; `trace` is called only where it is needed."""
    _CURRENT.set(trace)


def current() -> Trace:
    """Of the request that is worked on; python nodes that call other services hand it on."""
    return _CURRENT.get()()
