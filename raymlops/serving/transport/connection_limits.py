"""What one connection may hold, and for how long, as values. Knows no protocol."""

import dataclasses

from raymlops.specs.serving import Limits

SECONDS_A_BYTE = 10 / 2**20
"""What a slow line takes: 100 kB a second."""


@dataclasses.dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """`receive_s` for a request to arrive and `send_s` for its answer to be read, both longer for large ones;
    `connections` of a replica; `headers` of a request, and `head_bytes` of them and its path; `pipelined` requests that
    may wait for the answer to the one before them."""

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
        """Seconds from the first byte on, for a request of which so many bytes are here."""
        return self.receive_s + received * SECONDS_A_BYTE

    def time_to_send(self, size: int) -> float:
        """Seconds for so many bytes to be read."""
        return self.send_s + size * SECONDS_A_BYTE

    def framing(self, body: int) -> int:
        """Bytes around a chunked body of this size: sizes of chunks, extensions, trailers."""
        return self.head_bytes + body // 4

    @property
    def interval(self) -> float:
        """Seconds between two looks at the connections."""
        return max(0.05, min(1.0, self.receive_s / 4, self.send_s / 4))
