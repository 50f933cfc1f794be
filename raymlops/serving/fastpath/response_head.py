"""Heads of HTTP responses as bytes; recurring ones are built only once. Knows uvicorn's status lines."""

from typing import Any

from raymlops.serving.fastpath.uvicorn_internals import STATUS_LINE
from raymlops.serving.protocol.headers import Headers
from raymlops.serving.transport.http import Response

_KEPT = 10_000
"""Number of cached heads; each model has few."""
KNOWN: dict[tuple[int, Headers], bytes] = {}


def render_head(response: Response) -> bytes:
    key = response.status, response.headers
    head = KNOWN.get(key)
    if head is None:
        head = STATUS_LINE[response.status] + render_fields(response.headers)
        # With more fields, some have values of the request.
        if len(response.headers) <= 2 and len(KNOWN) < _KEPT:
            KNOWN[key] = head
    return head


def render_fields(headers: Any) -> bytes:
    return b"".join(b"%s: %s\r\n" % pair for pair in headers)


class _Defaults:
    """uvicorn's date and server fields, which change every second."""

    def __init__(self) -> None:
        self._source: Any = None
        self._text = b""

    def render(self, headers: Any) -> bytes:
        if headers is not self._source:
            self._source, self._text = headers, render_fields(headers)
        return self._text


DEFAULTS = _Defaults()
