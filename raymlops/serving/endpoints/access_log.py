"""Writes a line of JSON for each logged request, over HTTP and gRPC alike, to the log that Ray collects."""

import json
import logging
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from raymlops.observers import Event

ACCESS = logging.getLogger("raymlops.access")


class AccessLog:
    """The observer of this name."""

    observes = "logged"

    def observe(self, events: Sequence[Event]) -> None:
        for event in events:
            ACCESS.info(json.dumps(_describe(event)))


def _describe(event: Event) -> dict[str, Any]:
    code = {"grpc_status": event.grpc_status} if event.grpc_status else {}
    return {
        "time": round(event.time, 3),
        "request_id": event.request_id,
        "method": event.method,
        "path": quote(event.path),
        "status": event.status,
        **code,
        "ms": round(event.ns / 1e6, 3),
        "model": event.model,
        "rows": event.rows,
        "bytes_in": event.bytes_in,
        "bytes_out": event.bytes_out,
        "key": event.key,
        "trace": event.trace,
    }
