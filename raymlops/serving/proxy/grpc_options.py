"""Limits of a replica's gRPC server, which Serve creates with options of its own. Knows gRPC's names of these
options, and where Serve keeps them."""

from raymlops.serving import serve_internals
from raymlops.serving.transport.connection_limits import ConnectionLimits

_SLACK = 2**20
"""Bytes of an answer in addition to its tensors."""


def server_options(limits: ConnectionLimits) -> list[tuple[str, int]]:
    """The limit counts decompressed bytes; gRPC stops decompressing there."""
    return [
        ("grpc.max_receive_message_length", limits.body_bytes),
        ("grpc.max_send_message_length", limits.answer_bytes + _SLACK),
        ("grpc.max_concurrent_streams", 256),  # of a connection; HAProxy opens a new one
        ("grpc.max_allowed_incoming_connections", limits.connections),
        ("grpc.server_handshake_timeout_ms", int(1000 * limits.receive_s)),
        # A peer that does not answer a ping is gone; an idle peer keeps no connection.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.max_connection_idle_ms", 600_000),
    ]


def limit_grpc_servers(options: list[tuple[str, int]]) -> None:
    """Make the gRPC servers that Serve creates in this process from now on use these options."""
    serve_internals.set_grpc_options(options)
