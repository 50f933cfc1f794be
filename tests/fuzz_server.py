"""A data plane on two ports of 127.0.0.1, over HTTP as a replica serves it and over gRPC, in a process of its own:
python -m tests.fuzz_server. Prints the ports; ends with its input."""

import asyncio
import contextlib
import os
import pathlib
import socket
import sys
import tempfile
from typing import Any

import uvicorn

from raymlops.serving.endpoints.hosted import Hosts
from raymlops.serving.endpoints.model_host import host_model
from raymlops.serving.fastpath.middleware import OWN, FastMiddleware
from raymlops.serving.fastpath.uvicorn_protocol import UvicornProtocol
from raymlops.serving.protocol.request_limits import RequestLimits
from raymlops.serving.transport.asgi import DataPlane
from raymlops.serving.transport.connection_limits import ConnectionLimits
from raymlops.specs.serving import HostedModel
from tests import toy_models
from tests.grpc_server import serve_grpc

MODELS = ("doubler", "echo", "flights", "adder", "widener", "repeater")
BODY_LIMIT = 2_000_000


def make_plane(folder: pathlib.Path) -> DataPlane:
    hosted = {}
    for name in MODELS:
        path = toy_models.save(getattr(toy_models, name)(), folder / f"{name}.onnx")
        hosted[name] = host_model(name, path, HostedModel(source=str(path), version="1"))
    limits = RequestLimits(json_elements=100_000, rows=20_000, elements=2**20, answer_bytes=4_000_000)
    hosts = Hosts("fuzzed", hosted, limits, queue=1_000)
    return DataPlane(hosts, body_limit=BODY_LIMIT, log_share=0.0)


async def answer_nothing(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("Serve has no part in this")


async def serve(folder: pathlib.Path) -> None:
    plane = make_plane(folder)
    OWN.app, OWN.limits = plane, ConnectionLimits(body_bytes=BODY_LIMIT, receive_s=15, send_s=15)
    app = FastMiddleware(answer_nothing)
    config = uvicorn.Config(
        app, http=UvicornProtocol, lifespan="off", log_config=None, access_log=False, timeout_keep_alive=40
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0), backlog=1_024) as listener:
        async with serve_grpc(plane) as address:
            serving = asyncio.ensure_future(server.serve([listener]))
            print(listener.getsockname()[1], address.rpartition(":")[2], flush=True)
            await asyncio.to_thread(sys.stdin.read)
            server.should_exit = server.force_exit = True
            await serving


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        import uvloop  # as Serve's replicas

        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(serve(pathlib.Path(folder)))
    os._exit(0)


if __name__ == "__main__":
    main()
