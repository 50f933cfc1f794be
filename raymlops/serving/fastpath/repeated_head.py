"""Remembers the head of a request that may be repeated byte by byte on its connection, with its parsed values. Parses
nothing: equal bytes have equal values."""

import dataclasses
from collections.abc import Mapping

from raymlops.serving.transport.http import Request

_END = b"\r\n\r\n"


@dataclasses.dataclass(frozen=True, slots=True)
class RepeatedHead:
    head: bytes
    size: int
    """Length of the whole message."""
    method: str
    path: str
    fields: Mapping[bytes, bytes]

    @classmethod
    def of(cls, data: bytes, request: Request) -> "RepeatedHead | None":
        """`data` began and ended with this request; None if they contain another one too."""
        end = data.find(_END) + len(_END)
        size = len(request.body)
        if len(data) - end != size or int(request.headers.get(b"content-length", 0)) != size:
            return None
        return cls(data[:end], len(data), request.method, request.path, request.headers)

    def begins(self, data: bytes) -> bool:
        """Whether these bytes are one message with this head and a body of the same length."""
        return len(data) == self.size and data.startswith(self.head)
