"""Limits of a replica's gRPC server, which Serve makes with options of its own. Knows gRPC's names for them, and where
Serve keeps them."""

import logging

from raymlops.serving.transport.connection_limits import ConnectionLimits

LOG = logging.getLogger("raymlops.serving")

_SLACK = 2**20
"""Bytes of an answer beside its tensors."""


def server_options(limits: ConnectionLimits) -> list[tuple[str, int]]:
    """A message counts as it is after it was decompressed; gRPC stops decompressing there."""
    return [
        ("grpc.max_receive_message_length", limits.body_bytes),
        ("grpc.max_send_message_length", limits.answer_bytes + _SLACK),
        ("grpc.max_concurrent_streams", 256),  # of a connection; HAProxy opens another one
        ("grpc.max_allowed_incoming_connections", limits.connections),
        ("grpc.server_handshake_timeout_ms", int(1000 * limits.receive_s)),
        # A peer that does not answer a ping is gone; one that sends no request keeps no connection.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.max_connection_idle_ms", 600_000),
    ]


def limit_grpc_servers(options: list[tuple[str, int]]) -> None:
    """Have the servers that Serve makes in this process from now on take these options."""
    from ray.serve._private import grpc_util  # private: there is no other way to these options

    if not isinstance(getattr(grpc_util, "DEFAULT_GRPC_SERVER_OPTIONS", None), list):
        LOG.error(
            "This Ray keeps its gRPC options elsewhere: messages over gRPC are limited by the data plane only"
        )
        return
    grpc_util.DEFAULT_GRPC_SERVER_OPTIONS[:] = options
