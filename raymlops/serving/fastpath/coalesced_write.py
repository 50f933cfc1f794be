"""Sends the head of an HTTP response together with its body: uvicorn writes them separately, which costs two system
calls here, two packets, and twice the work for each proxy. Depends on uvicorn, not on Serve."""

from typing import Any

from raymlops.serving.fastpath.uvicorn_internals import RequestResponseCycle
from raymlops.serving.transport.http import Send

COPIED = 2**16
"""Bytes of a body that are copied behind their head; copying more costs more than a system call."""


class _HeldHead:
    """A transport whose first write waits for the second."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        if self._head is None:
            self._head = data
            return
        head, self._head = self._head, b""
        if head and len(data) <= COPIED:
            data = head + data
        elif head:
            self._transport.write(head)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def join_writes(method: str, send: Send) -> Send:
    """`send` of an ASGI application, for a request of this method; unchanged if the server is not uvicorn."""
    cycle = getattr(send, "__self__", None)
    # A response to HEAD has no second write.
    if method == "HEAD" or not isinstance(cycle, RequestResponseCycle):
        return send

    async def joined(message: Any) -> None:
        if message["type"] == "http.response.start":
            cycle.transport = _HeldHead(cycle.transport)  # type: ignore[assignment]
        await send(message)

    return joined
