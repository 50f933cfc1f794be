"""The gRPC data plane on a socket of its own, with the messages and options of a replica and without Ray."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection

from raymlops.serving.proxy.grpc_options import server_options
from raymlops.serving.replica.grpc_methods import UNARY, GrpcMethods
from raymlops.serving.transport import grpc_service
from raymlops.serving.transport.asgi import DataPlane
from raymlops.serving.transport.connection_limits import ConnectionLimits
from raymlops.serving.transport.grpc_answers import HEALTH, SERVICE, STREAMS


class _Servicer(GrpcMethods):
    """Answers as Serve does: by the methods of a replica, whose answers leave as bytes."""

    def __init__(self, plane: DataPlane) -> None:
        self.plane = plane

    def __getattribute__(self, name: str) -> Any:
        method = super().__getattribute__(name)
        if name in STREAMS:

            async def stream(request: Any, context: Any) -> AsyncIterator[bytes]:
                async for response in method(request, context):
                    yield response.SerializeToString()

            return stream
        if name in UNARY:

            async def answer(message: bytes, context: Any) -> bytes:
                return bytes((await method(message, context)).SerializeToString())

            return answer
        return method


@contextlib.asynccontextmanager
async def serve_grpc(plane: DataPlane, reflected: bool = False, **limits: Any) -> AsyncIterator[str]:
    """The address of a server that answers for the plane, and `reflected` tells its services."""
    server = grpc.aio.server(options=server_options(ConnectionLimits(body_bytes=plane.body_limit, **limits)))
    grpc_service.add_to_server(_Servicer(plane), server)
    if reflected:
        reflection.enable_server_reflection((SERVICE, HEALTH), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
