"""The methods of the gRPC services in the form in which Ray Serve calls them: by name, on a replica. Needs the extra
[grpc] only when one is called."""

import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from raymlops.serving.transport.asgi import DataPlane

UNARY = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelConfig",
    "ModelStatistics",
    "ModelInfer",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "TraceSetting",
    "LogSettings",
    *(
        f"{kind}SharedMemory{verb}"
        for kind in ("System", "Cuda")
        for verb in ("Status", "Register", "Unregister")
    ),
    "Check",
)
"""Methods of inference.GRPCInferenceService; the last is of grpc.health.v1.Health."""


class GrpcMethods:
    """Base class of a deployment that answers for `plane`, and relays calls for other applications with `relay`."""

    plane: DataPlane
    relay: Any = None

    def relay_calls(self, application: str) -> None:
        """From here on, relay calls for other applications."""
        if importlib.util.find_spec("tritonclient") is not None:
            from raymlops.serving.replica import grpc_relay

            self.relay = grpc_relay.Relay(self.plane, application)

    async def ModelStreamInfer(self, requests: Any, grpc_context: Any) -> AsyncIterator[Any]:  # noqa: N802
        from raymlops.serving.transport import grpc_service

        async for response in grpc_service.stream(
            self.plane, "ModelStreamInfer", requests, grpc_context, self.relay
        ):
            yield response

    async def Watch(self, request: bytes, grpc_context: Any) -> AsyncIterator[Any]:  # noqa: N802
        from raymlops.serving.transport import grpc_service

        async for response in grpc_service.watch(self.plane, request, grpc_context, self.relay):
            yield response

    async def answer_grpc(self, name: str, message: bytes, metadata: Any, peer: str) -> Any:
        """For another application's replica, see `grpc_relay.py`."""
        from raymlops.serving.replica import grpc_relay

        return await grpc_relay.answer_here(self.plane, name, message, metadata, peer)

    async def list_models(self) -> list[str]:
        """For another application's replica."""
        return list(self.plane.hosts.models)


class NoMessage:
    """Replaces the answer of a failed call, whose code is set: if the failure were raised, Serve would log it with a
    traceback, even if the caller caused it."""

    def SerializeToString(self) -> bytes:  # noqa: N802
        return b""


def _make_method(name: str) -> Callable[..., Awaitable[Any]]:
    async def method(self: GrpcMethods, request: bytes, grpc_context: Any) -> Any:
        from raymlops.serving.transport import grpc_service

        if self.relay is not None and (passed := await self.relay.answer(name, request, grpc_context)):
            return passed
        try:
            return await grpc_service.answer(self.plane, name, request, grpc_context)
        except Exception:
            return NoMessage()

    method.__name__ = name
    method.__qualname__ = f"GrpcMethods.{name}"
    return method


for _name in UNARY:
    setattr(GrpcMethods, _name, _make_method(_name))
