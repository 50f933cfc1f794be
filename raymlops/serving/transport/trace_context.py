"""Trace context of a request: its id, and its W3C trace headers as received. Records no spans itself.

https://www.w3.org/TR/trace-context/ : a service that takes no part in a trace passes its headers on unchanged.
OpenTelemetry's propagator takes 20 us to read the headers and 8 to write them, this 3 for both, and every request would
wait for it; a test checks that both accept the same headers.
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
    """The header `traceparent`; empty if there was none, or no valid one."""
    state: str = ""
    """The header `tracestate`; empty without a parent, which it belongs to."""
    logged: bool = False
    """True if every process that works on the request logs a line about it."""

    def __post_init__(self) -> None:
        if (self.parent or self.state) and not _PARENT.fullmatch(self.parent):
            object.__setattr__(self, "parent", "")
            object.__setattr__(self, "state", "")


_CURRENT: contextvars.ContextVar[Callable[[], Trace]] = contextvars.ContextVar("trace", default=Trace)


def follow(trace: Callable[[], Trace]) -> None:
    """From here on, everything that this task starts belongs to a request; `trace` is called only if it is needed."""
    _CURRENT.set(trace)


def current() -> Trace:
    """The trace context of the present request; Python nodes that call other services pass it on."""
    return _CURRENT.get()()
