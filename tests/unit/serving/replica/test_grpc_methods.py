"""Every method of the services over gRPC on a real socket: what is answered, and that nothing fails without a code that
says whose fault it is."""

import asyncio
import json
import logging
import pathlib
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import yaml
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from raymlops.errors import ProcessEndedError
from raymlops.serving.endpoints.access_log import ACCESS
from raymlops.serving.endpoints.graph import host_graph, prepare_graph
from raymlops.serving.endpoints.hosted import Hosts
from raymlops.serving.endpoints.lazy_models import LazyModels
from raymlops.serving.replica.grpc_methods import UNARY
from raymlops.serving.transport.api_keys import KeyRing, make_key
from raymlops.serving.transport.asgi import DataPlane
from raymlops.serving.transport.grpc_answers import METHODS, STREAMS
from raymlops.settings import Settings
from raymlops.specs.graph import GraphSpec
from raymlops.specs.serving import ManyModels
from tests import toy_models
from tests.graph_models import make_mlp
from tests.grpc_server import serve_grpc
from tests.unit.serving.transport.test_asgi import make_plane

SERVICES = {
    "inference.GRPCInferenceService": pb.DESCRIPTOR.services_by_name["GRPCInferenceService"],
    "grpc.health.v1.Health": health_pb2.DESCRIPTOR.services_by_name["Health"],
}
ALL = [(service, method) for service, described in SERVICES.items() for method in described.methods]
STREAMED = [method.name for _, method in ALL if method.client_streaming or method.server_streaming]
SERVING = health_pb2.HealthCheckResponse.ServingStatus


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> DataPlane:
    models = {"doubler": toy_models.doubler(), "echo": toy_models.echo()}
    return make_plane(tmp_path_factory.mktemp("models"), models)


def doubler(value: float = 1.0, **fields: Any) -> Any:
    request = pb.ModelInferRequest(model_name="doubler", **fields)
    request.inputs.add(name="x", datatype="FP32", shape=[1, 3])
    request.raw_input_contents.append(np.full(3, value, "<f4").tobytes())
    return request


def on_channel(plane: DataPlane, use: Callable[[grpc.aio.Channel], Any]) -> Any:
    async def run() -> Any:
        async with serve_grpc(plane) as address, grpc.aio.insecure_channel(address) as channel:
            return await use(channel)

    return asyncio.run(run())


async def call(
    channel: Any, service: str, method: str, message: bytes, **options: Any
) -> tuple[Any, Any, Any]:
    """Code, message or details, and trailers."""
    ask = channel.unary_unary(f"/{service}/{method}")(message, timeout=30, **options)
    try:
        answer = await ask
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details(), dict(error.trailing_metadata() or ())
    return grpc.StatusCode.OK, answer, dict(await ask.trailing_metadata() or ())


def infer(plane: DataPlane, request: Any, **options: Any) -> tuple[Any, Any, Any]:
    service = "inference.GRPCInferenceService"
    given = request.SerializeToString()
    got: tuple[Any, Any, Any] = on_channel(
        plane, lambda channel: call(channel, service, "ModelInfer", given, **options)
    )
    return got


def test_every_method_of_both_services_is_there() -> None:
    names = {method.name for _, method in ALL}
    assert set(METHODS) == set(UNARY)
    assert set(METHODS) | set(STREAMS) == names
    assert set(STREAMED) == set(STREAMS)


BLAMED = {
    "OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED",
    "PERMISSION_DENIED",
}  # fmt: skip
"""What no caller can make is INTERNAL, UNKNOWN or UNAVAILABLE."""


@settings(max_examples=15, deadline=None)
@given(
    message=st.binary(max_size=60), words=st.lists(st.sampled_from(["doubler", "echo", "x", ""]), max_size=3)
)
def test_no_message_to_any_method_fails_without_a_code_that_blames_the_caller(
    plane: DataPlane, message: bytes, words: list[str]
) -> None:
    texts = b"".join(bytes([8 * n + 2, len(w)]) + w.encode() for n, w in enumerate(words, 1))

    async def ask_all(channel: Any) -> list[Any]:
        return [
            (method.name, await call(channel, service, method.name, given))
            for service, method in ALL
            if method.name not in STREAMED
            for given in (b"", message, texts)
        ]

    for name, (code, told, _) in on_channel(plane, ask_all):
        assert code.name in BLAMED, (name, code, told)
        assert code is grpc.StatusCode.OK or len(told) > 10, (name, code, told)


@settings(max_examples=15, deadline=None)
@given(messages=st.lists(st.binary(max_size=60), min_size=1, max_size=5))
def test_no_message_of_a_stream_ends_it(plane: DataPlane, messages: list[bytes]) -> None:
    async def ask(channel: Any) -> list[Any]:
        opened = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(timeout=30)
        answers = []
        for message in [*messages, doubler(id="last").SerializeToString()]:
            await opened.write(message)
            answers.append(pb.ModelStreamInferResponse.FromString(await opened.read()))
        await opened.done_writing()
        assert await opened.read() is grpc.aio.EOF
        return answers

    *wrong, last = on_channel(plane, ask)
    assert all(len(answer.error_message) > 10 for answer in wrong)
    assert (last.error_message, last.infer_response.id) == ("", "last")


def test_a_method_that_there_is_not_is_unimplemented(plane: DataPlane) -> None:
    for service in (*SERVICES, "inference.Another"):
        code, _, _ = on_channel(plane, lambda channel, service=service: call(channel, service, "Nope", b""))
        assert code is grpc.StatusCode.UNIMPLEMENTED


def stub(plane: DataPlane, use: Callable[[Any], Any]) -> Any:
    return on_channel(plane, lambda channel: use(service_pb2_grpc.GRPCInferenceServiceStub(channel)))


def test_settings_are_told_and_changes_and_shared_memory_refused(plane: DataPlane) -> None:
    async def use(client: Any) -> None:
        assert (await client.TraceSetting(pb.TraceSettingRequest())).settings["trace_level"].value == ["OFF"]
        assert (await client.LogSettings(pb.LogSettingsRequest())).settings["log_info"].bool_param
        assert not (await client.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest())).regions
        await client.CudaSharedMemoryUnregister(pb.CudaSharedMemoryUnregisterRequest())
        trace = pb.TraceSettingRequest(model_name="doubler")
        trace.settings["trace_level"].value.append("TIMESTAMPS")
        log = pb.LogSettingsRequest()
        log.settings["log_verbose_level"].uint32_param = 1
        memory = pb.SystemSharedMemoryRegisterRequest(name="mine", key="/mine", byte_size=64)
        for method, request in (
            ("TraceSetting", trace),
            ("LogSettings", log),
            ("SystemSharedMemoryRegister", memory),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match=r"cannot be|be registered") as refused:
                await getattr(client, method)(request)
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.aio.AioRpcError, match="nobody"):
            await client.TraceSetting(pb.TraceSettingRequest(model_name="nobody"))

    stub(plane, use)


def test_metadata_and_configuration_are_those_of_http(plane: DataPlane) -> None:
    async def http(path: str) -> Any:
        transport = httpx.ASGITransport(app=plane)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return (await client.get(path)).json()

    for method, path in (("ModelMetadata", ""), ("ModelConfig", "/config")):
        request = getattr(pb, f"{method}Request")(name="doubler")
        answer = stub(plane, lambda client, method=method, request=request: getattr(client, method)(request))
        told = json_format.MessageToDict(answer, preserving_proto_field_name=True)
        told = told.get("config", told)
        wanted = asyncio.run(http(f"/v2/models/doubler{path}"))
        assert told["name"] == wanted["name"] == "doubler"
        for side in ("inputs", "input", "outputs", "output"):
            for tensor, same in zip(told.get(side, ()), wanted.get(side, ()), strict=True):
                assert {**tensor, "shape": [], "dims": []} == {**same, "shape": [], "dims": []}
                sizes = tensor.get("shape") or tensor.get("dims")
                assert [int(size) for size in sizes] == (same.get("shape") or same.get("dims"))


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_a_tensor_in_shared_memory_is_refused_and_not_answered_with_another(
    plane: DataPlane, side: str
) -> None:
    request = doubler()
    if side == "outputs":
        request.outputs.add(name="y")
    getattr(request, side)[0].parameters["shared_memory_region"].string_param = "mine"
    code, told, _ = infer(plane, request)
    assert (code, "shared memory" in told) == (grpc.StatusCode.INVALID_ARGUMENT, True)


def test_classes_are_refused_and_not_answered_with_scores(plane: DataPlane) -> None:
    request = doubler()
    request.outputs.add(name="y").parameters["classification"].int64_param = 2
    code, told, _ = infer(plane, request)
    assert (code, "classification" in told) == (grpc.StatusCode.INVALID_ARGUMENT, True)


def test_a_folder_of_models_is_loaded_and_unloaded_and_others_say_why_not(tmp_path: pathlib.Path) -> None:
    for name in ("m0", "m1"):
        toy_models.save(make_mlp(1), tmp_path / f"{name}.onnx")
    many = LazyModels(ManyModels(folder=str(tmp_path)))
    token, key = make_key("ops", ["admin", "view", "infer"])
    admin = {"metadata": [("x-api-key", token)]}

    async def use(client: Any) -> None:
        async def index(ready: bool) -> dict[str, str]:
            models = (await client.RepositoryIndex(pb.RepositoryIndexRequest(ready=ready), **admin)).models
            return {model.name: model.state for model in models}

        await client.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="m1"), **admin)
        assert await index(True) == {"m1": "READY"}
        assert set(await index(False)) == {"m0", "m1"}
        # As KServe's messages have it, whose first field is the model.
        await client.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(repository_name="m1"), **admin)
        assert not (await client.ModelReady(pb.ModelReadyRequest(name="m1"), **admin)).ready
        assert await index(True) == {}
        own = pb.RepositoryModelLoadRequest(model_name="m1")
        own.parameters["config"].string_param = "{}"
        for request, said in ((own, "config"), (pb.RepositoryModelLoadRequest(model_name="m9"), "m9")):
            with pytest.raises(grpc.aio.AioRpcError, match=said):
                await client.RepositoryModelLoad(request, **admin)
        with pytest.raises(grpc.aio.AioRpcError) as stranger:
            await client.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="m1"))
        assert stranger.value.code() is grpc.StatusCode.UNAUTHENTICATED

    async def refuse(client: Any) -> None:
        with pytest.raises(grpc.aio.AioRpcError, match="fixed set") as refused:
            await client.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="doubler"), **admin)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    stub(DataPlane(Hosts("test", many.hosted, repository=many), KeyRing([key])), use)
    stub(make_plane(tmp_path / "fixed", {"doubler": toy_models.doubler()}, keys=KeyRing([key])), refuse)


def test_health_is_that_of_the_server_or_of_a_model_and_is_watched(plane: DataPlane) -> None:
    hosted = plane.hosts.models["echo"]

    async def use(channel: Any) -> None:
        client = health_pb2_grpc.HealthStub(channel)

        async def check(service: str) -> int:
            return int((await client.Check(health_pb2.HealthCheckRequest(service=service))).status)

        for service in ("", "inference.GRPCInferenceService", "doubler"):
            assert await check(service) == SERVING.Value("SERVING")
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await check("nobody")
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        watched = client.Watch(health_pb2.HealthCheckRequest(service="echo"))
        assert (await watched.read()).status == SERVING.Value("SERVING")
        hosted.ready = False
        assert (await watched.read()).status == SERVING.Value("NOT_SERVING")
        assert await check("") == SERVING.Value("NOT_SERVING")
        hosted.ready = True
        assert (await watched.read()).status == SERVING.Value("SERVING")
        assert plane.watchers == 1
        watched.cancel()
        stranger = client.Watch(health_pb2.HealthCheckRequest(service="nobody"))
        assert (await stranger.read()).status == SERVING.Value("SERVICE_UNKNOWN")
        plane.is_draining = lambda: True  # or the drain would wait for it
        assert (await stranger.read()).status == SERVING.Value("NOT_SERVING")
        assert await stranger.read() is grpc.aio.EOF

    try:
        on_channel(plane, use)
    finally:
        hosted.ready = True
        plane.is_draining = lambda: False
    assert plane.watchers == 0


def test_the_health_of_a_model_asks_a_key_and_that_of_the_server_none(tmp_path: pathlib.Path) -> None:
    token, key = make_key("probe", ["infer"], ["doubler"])
    plane = make_plane(tmp_path, {"doubler": toy_models.doubler()}, keys=KeyRing([key]))

    def check(service: str, *metadata: tuple[str, str]) -> str:
        given = health_pb2.HealthCheckRequest(service=service).SerializeToString()
        code, _, _ = on_channel(
            plane, lambda channel: call(channel, "grpc.health.v1.Health", "Check", given, metadata=metadata)
        )
        return str(code.name)

    assert check("") == "OK"
    assert check("doubler") == check("nobody") == "UNAUTHENTICATED"
    assert check("doubler", ("x-api-key", token)) == "OK"
    assert check("nobody", ("x-api-key", token)) == "PERMISSION_DENIED"


async def streamed(client: Any, requests: Iterable[Any], **options: Any) -> list[Any]:
    async def send() -> AsyncIterator[Any]:
        for request in requests:
            yield request

    return [answer async for answer in client.ModelStreamInfer(send(), **options)]


def test_a_stream_is_answered_in_order_and_a_failure_in_its_place(plane: DataPlane) -> None:
    wrong = doubler(2, id="b")
    wrong.inputs[0].datatype = "INT64"
    final = doubler(3, id="c")
    final.parameters["triton_enable_empty_final_response"].bool_param = True
    answers = stub(plane, lambda client: streamed(client, [doubler(1, id="a"), wrong, final]))
    assert [answer.infer_response.id for answer in answers] == ["a", "b", "c"]
    assert [bool(answer.error_message) for answer in answers] == [False, True, False]
    assert "INT64" in answers[1].error_message
    assert [np.frombuffer(a.infer_response.raw_output_contents[0], "<f4")[0] for a in (answers[0], answers[2])] == [
        2, 6,
    ]  # fmt: skip
    assert answers[2].infer_response.parameters["triton_final_response"].bool_param
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        stub(plane, lambda client: streamed(client, [wrong], metadata=[("triton_grpc_error", "true")]))
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_an_open_stream_does_not_hold_up_a_replica_that_ends(plane: DataPlane) -> None:
    async def use(client: Any) -> None:
        opened = client.ModelStreamInfer()
        await opened.write(doubler(1, id="a"))
        assert (await opened.read()).infer_response.id == "a"
        plane.is_draining = lambda: True
        with pytest.raises(grpc.aio.AioRpcError, match="open the stream again") as ended:
            await opened.read()
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE

    try:
        stub(plane, use)
    finally:
        plane.is_draining = lambda: False


def test_a_stream_without_a_key_ends_before_its_first_message(tmp_path: pathlib.Path) -> None:
    _, key = make_key("app", ["infer"])
    plane = make_plane(tmp_path, {"doubler": toy_models.doubler()}, keys=KeyRing([key]))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        stub(plane, lambda client: streamed(client, []))
    assert failure.value.code() is grpc.StatusCode.UNAUTHENTICATED


CANARY = """
nodes:
  old: {kind: python, target: "tests.unit.serving.replica.test_grpc_methods:Constant", config: {value: 1},
        inputs: {x: inputs.x}, outputs: [{name: y, datatype: FP32, shape: [-1, 3]}]}
  new: {kind: python, target: "tests.unit.serving.replica.test_grpc_methods:Constant", config: {value: 2},
        inputs: {x: inputs.x}, outputs: [{name: y, datatype: FP32, shape: [-1, 3]}]}
  canary: {kind: split, weights: {old: 0.5, new: 0.5}}
inputs: [{name: x, datatype: FP32, shape: [-1, 3]}]
outputs: {y: canary.y}
"""


class Constant:
    def __init__(self, value: float) -> None:
        self._value = value

    def run(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"y": np.full_like(batch["x"], self._value)}


def test_a_request_key_keeps_a_caller_on_its_branch_over_both_protocols() -> None:
    settings = Settings.from_env()
    spec = GraphSpec.model_validate(yaml.safe_load(CANARY))
    graph = host_graph("canary", prepare_graph(spec, settings), {}, settings)
    plane = DataPlane(Hosts("test", {"canary": graph}))
    words = [f"caller{n}" for n in range(20)]
    body = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}

    async def over_http() -> list[float]:
        transport = httpx.ASGITransport(app=plane)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answers = [
                await client.post("/v2/models/canary/infer", json=body, headers={"X-Request-Key": word})
                for word in words
            ]
        return [answer.json()["outputs"][0]["data"][0] for answer in answers]

    async def over_grpc(client: Any) -> list[float]:
        request = doubler()
        request.model_name = "canary"
        answers = []
        for word in words * 2:
            metadata = [("x-request-key", word)]
            answers.append(await client.ModelInfer(request, metadata=metadata))
            answers += [
                answer.infer_response for answer in await streamed(client, [request], metadata=metadata)
            ]
        return [float(np.frombuffer(answer.raw_output_contents[0], "<f4")[0]) for answer in answers]

    expected = asyncio.run(over_http())
    assert set(expected) == {1.0, 2.0}
    assert stub(plane, over_grpc) == [branch for branch in expected * 2 for _ in range(2)]


def test_the_access_log_tells_calls_as_it_tells_requests(
    plane: DataPlane, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plane, "log_share", 1.0)
    monkeypatch.setattr(ACCESS, "propagate", True)
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    with caplog.at_level(logging.INFO, ACCESS.name):
        metadata = [("x-request-id", "mine"), ("traceparent", parent)]
        code, _, trailers = infer(plane, doubler(), metadata=metadata)
        assert (code, trailers["x-request-id"]) == (grpc.StatusCode.OK, "mine")
        assert trailers["x-model-version"] == "doubler/3"
        infer(plane, pb.ModelInferRequest(model_name="nobody"))
    first, second = (json.loads(record.message) for record in caplog.records if record.name == ACCESS.name)
    assert first["path"] == "/inference.GRPCInferenceService/ModelInfer"
    assert (first["request_id"], first["trace"], first["model"], first["rows"]) == (
        "mine",
        parent,
        "doubler",
        1,
    )
    assert (first["status"], first["grpc_status"]) == (200, "OK")
    assert first["bytes_in"] == doubler().ByteSize()
    assert first["bytes_out"] > 12
    assert (second["status"], second["grpc_status"]) == (404, "NOT_FOUND")


def test_callers_are_told_when_to_come_back_and_not_to_repeat_what_was_begun(
    plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plane.hosts, "queue", 0)
    code, _, trailers = infer(plane, doubler())
    assert (code, int(trailers["retry-after"])) == (grpc.StatusCode.UNAVAILABLE, 1)
    monkeypatch.undo()
    runs = []

    async def end(*_: Any, **__: Any) -> Any:
        runs.append(1)
        raise ProcessEndedError("its process ended")

    monkeypatch.setattr(plane.hosts.models["doubler"].endpoint, "infer", end)
    policy = {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4, "initialBackoff": "0.01s", "maxBackoff": "0.1s", "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }  # fmt: skip

    async def run() -> None:
        options = [("grpc.service_config", json.dumps(policy))]
        async with (
            serve_grpc(plane) as address,
            grpc.aio.insecure_channel(address, options=options) as channel,
        ):
            code, _, _ = await call(
                channel, "inference.GRPCInferenceService", "ModelInfer", doubler().SerializeToString()
            )
            assert code is grpc.StatusCode.UNAVAILABLE

    asyncio.run(run())
    assert len(runs) == 1
