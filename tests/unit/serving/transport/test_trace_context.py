"""Which trace a request belongs to: the headers that OpenTelemetry takes, unchanged."""

import pytest
from opentelemetry.trace import INVALID_SPAN_CONTEXT, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from raymlops.serving.transport.trace_context import Trace

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    "parent",
    [
        f"00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-00",
        f"01-{TRACE}-{SPAN}-01-what-a-later-version-adds",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{'g' * 32}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        "nonsense",
        "",
    ],
)
def test_the_headers_that_open_telemetry_takes_are_taken(parent: str) -> None:
    context = TraceContextTextMapPropagator().extract({"traceparent": parent, "tracestate": "a=b"})
    theirs = get_current_span(context).get_span_context()
    ours = Trace("id", parent, "a=b")
    assert (ours.parent, ours.state) == (("", "") if theirs == INVALID_SPAN_CONTEXT else (parent, "a=b"))
