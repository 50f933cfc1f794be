"""Limits of one connection, in bytes and seconds, as values. Independent of the protocol."""

import dataclasses

from raymlops.specs.serving import Limits

SECONDS_A_BYTE = 10 / 2**20
"""A slow line's rate: 100 kB per second."""


@dataclasses.dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """`receive_s` for a request to arrive and `send_s` for its answer to be read, both longer for large ones;
    `connections` of a replica; `headers` of a request, and `head_bytes` of them and its path; `pipelined` requests
    that may wait for the answer to the one before them."""

    body_bytes: int = 64 * 2**20
    answer_bytes: int = 64 * 2**20
    receive_s: float = 30.0
    send_s: float = 30.0
    connections: int = 4096
    headers: int = 100
    head_bytes: int = 2**16
    pipelined: int = 64

    @classmethod
    def of(cls, limits: Limits) -> "ConnectionLimits":
        return cls(
            body_bytes=int(limits.body_mb * 2**20),
            answer_bytes=int(limits.answer_mb * 2**20),
            receive_s=limits.receive_s,
            send_s=limits.send_s,
            connections=limits.connections,
        )

    def time_to_receive(self, received: int) -> float:
        """Seconds since the first byte that a request may take of which so many bytes have arrived."""
        return self.receive_s + received * SECONDS_A_BYTE

    def time_to_send(self, size: int) -> float:
        """Seconds in which so many bytes must be read."""
        return self.send_s + size * SECONDS_A_BYTE

    def framing(self, body: int) -> int:
        """Overhead in bytes of a chunked body of this size: chunk sizes, extensions, trailers."""
        return self.head_bytes + body // 4

    @property
    def interval(self) -> float:
        """Seconds between two checks of the connections."""
        return max(0.05, min(1.0, self.receive_s / 4, self.send_s / 4))
