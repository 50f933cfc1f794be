"""The gRPC data plane on a socket of its own, with the messages and options of a replica and without Ray."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from raymlops.serving import grpc_plane
from raymlops.serving.connection_limits import ConnectionLimits
from raymlops.serving.grpc_options import server_options
from raymlops.serving.plane import DataPlane


class _Servicer:
    """Answers as Serve does: a failure has set its code when it is raised, and the answer leaves as bytes."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    def __getattr__(self, name: str) -> Any:
        async def answer(message: bytes, context: Any) -> bytes:
            with contextlib.suppress(Exception):
                response = await grpc_plane.answer(self._plane, name, message, context)
                return bytes(response.SerializeToString())
            return b""

        return answer


@contextlib.asynccontextmanager
async def serve_grpc(plane: DataPlane, **limits: Any) -> AsyncIterator[str]:
    """The address of a server that answers for the plane."""
    server = grpc.aio.server(options=server_options(ConnectionLimits(body_bytes=plane.body_limit, **limits)))
    grpc_plane.add_to_server(_Servicer(plane), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
