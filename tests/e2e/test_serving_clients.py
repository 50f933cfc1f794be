"""Stock clients against `raymlops serve`: Triton's over HTTP and gRPC, MLflow's shapes, keys that change meanwhile."""

import concurrent.futures
import html
import json
import os
import pathlib
import re
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import grpc as grpcio
import httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc
import tritonclient.http
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from prometheus_client.parser import text_string_to_metric_families as parse_metrics
from tritonclient.utils import InferenceServerException

from raymlops.serving.transport.api_keys import make_key
from raymlops.serving.transport.key_files import write_keys
from tests import stock_clients, toy_models
from tests.killing import wait_until
from tests.serving_process import Served, serve_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

MODELS = ("adder", "echo", "flights", "doubler", "quotient", "countdown", "slow")
APART = {"countdown"}
"""In a process of its own."""
BODY_MB = 4
PAGE = "https://app.example"
TOKENS: dict[str, str] = {}
SECOND = [pathlib.Path()]
"""Folder of the second application."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("serving")
    keys = []
    for name, roles in (("app", ("infer", "view")), ("ops", ("admin",))):
        TOKENS[name], key = make_key(name, roles)
        keys.append(key)
    write_keys(folder / "keys.yaml", keys)
    models = {
        name: {
            "source": str(toy_models.save(getattr(toy_models, name)(), folder / f"{name}.onnx")),
            "isolate": name in APART,
        }
        for name in MODELS
    }
    spec: dict[str, Any] = {"models": models, "grpc_port": 1, "cpus": 0.2, "keys": str(folder / "keys.yaml")}
    spec["limits"] = {"body_mb": BODY_MB}
    spec["cors"] = {"origins": [PAGE]}
    yield from serve_for(folder, spec)


@pytest.fixture(scope="module")
def http(served: Served) -> Iterator[Any]:
    client = tritonclient.http.InferenceServerClient(f"127.0.0.1:{served.port}")
    yield client
    client.close()


@pytest.fixture(scope="module")
def grpc(served: Served) -> Iterator[Any]:
    client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{served.grpc_port}")
    yield client
    client.close()


def auth(name: str = "app") -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKENS[name]}"}


def adder_inputs(module: Any, **options: Any) -> tuple[list[Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    a, b = np.arange(32, dtype=np.int32).reshape(2, 16), np.full((2, 16), 3, np.int32)
    inputs = []
    for name, array in (("INPUT0", a), ("INPUT1", b)):
        tensor = module.InferInput(name, [2, 16], "INT32")
        tensor.set_data_from_numpy(array, **options)
        inputs.append(tensor)
    return inputs, a, b


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_tritons_http_client_adds_numbers(http: Any, binary_in: bool, binary_out: bool) -> None:
    inputs, a, b = adder_inputs(tritonclient.http, binary_data=binary_in)
    outputs = [
        tritonclient.http.InferRequestedOutput(name, binary_data=binary_out)
        for name in ("OUTPUT0", "OUTPUT1")
    ]
    result = http.infer("adder", inputs, outputs=outputs, request_id="77", headers=auth())
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), a + b)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), a - b)
    assert result.get_response()["id"] == "77"


def test_tritons_http_client_compresses(http: Any) -> None:
    inputs, a, b = adder_inputs(tritonclient.http)
    for algorithm in ("gzip", "deflate"):
        result = http.infer("adder", inputs, request_compression_algorithm=algorithm, headers=auth())
        np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), a + b)


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_http_client_sends_strings(http: Any, binary: bool) -> None:
    words = np.array(["a", "Zürich", ""], dtype=object)
    tensor = tritonclient.http.InferInput("text", [3], "BYTES")
    tensor.set_data_from_numpy(words, binary_data=binary)
    result = http.infer("echo", [tensor], headers=auth())
    got = [v.decode() if isinstance(v, bytes) else v for v in result.as_numpy("same")]
    assert got == list(words)


def test_tritons_http_client_reads_metadata(http: Any) -> None:
    assert http.is_server_live()
    assert http.is_server_ready()
    assert http.is_model_ready("adder", headers=auth())
    assert http.get_server_metadata(headers=auth())["name"] == "raymlops"
    assert http.get_model_metadata("adder", headers=auth())["inputs"][0]["datatype"] == "INT32"
    assert {e["name"] for e in http.get_model_repository_index(headers=auth())} == set(MODELS)
    assert http.get_inference_statistics("adder", headers=auth())["model_stats"][0]["name"] == "adder"


def test_tritons_grpc_client_adds_numbers(grpc: Any) -> None:
    inputs, a, b = adder_inputs(tritonclient.grpc)
    outputs = [tritonclient.grpc.InferRequestedOutput("OUTPUT1")]
    headers = {"authorization": f"Bearer {TOKENS['app']}"}
    result = grpc.infer("adder", inputs, outputs=outputs, request_id="9", headers=headers)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), a - b)
    assert result.as_numpy("OUTPUT0") is None
    assert result.get_response().id == "9"


def test_tritons_grpc_client_sends_strings_and_reads_metadata(grpc: Any) -> None:
    headers = {"authorization": f"Bearer {TOKENS['app']}"}
    words = np.array([b"a", "Zürich".encode(), b""], dtype=object)
    tensor = tritonclient.grpc.InferInput("text", [3], "BYTES")
    tensor.set_data_from_numpy(words)
    assert list(grpc.infer("echo", [tensor], headers=headers).as_numpy("same")) == list(words)
    assert grpc.is_server_live()
    assert grpc.is_server_ready()
    assert grpc.is_model_ready("adder", headers=headers)
    assert grpc.get_model_metadata("adder", headers=headers).outputs[0].name == "OUTPUT0"
    assert len(grpc.get_model_repository_index(headers=headers).models) == len(MODELS)
    counted = grpc.get_inference_statistics("echo", headers=headers).model_stats[0]
    assert counted.inference_count >= 3
    assert (
        sum(part.batch_size * part.compute_infer.count for part in counted.batch_stats)
        == counted.inference_count
    )
    assert counted.inference_stats.success.count


@pytest.mark.parametrize(
    ("model", "key", "status"),
    [
        ("adder", None, "UNAUTHENTICATED"),
        ("ader", "app", "NOT_FOUND"),
        ("doubler", "app", "INVALID_ARGUMENT"),
    ],
)
def test_grpc_failures_have_their_codes(grpc: Any, model: str, key: str | None, status: str) -> None:
    inputs, _, _ = adder_inputs(tritonclient.grpc)
    headers = {"authorization": f"Bearer {TOKENS[key]}"} if key else {}
    with pytest.raises(InferenceServerException) as failure:
        grpc.infer(model, inputs, headers=headers)
    assert status in failure.value.status()
    assert len(failure.value.message()) > 10


@pytest.mark.parametrize(("share", "taken"), [(0.8, True), (1.2, False), (4, False)])
def test_a_request_may_be_as_large_over_grpc_as_over_http(
    http: Any, grpc: Any, share: float, taken: bool
) -> None:
    rows = int(share * BODY_MB * 2**20 / 12)
    for module, client, refusals in (
        (tritonclient.http, http, ("413", "over")),
        (tritonclient.grpc, grpc, ("RESOURCE_EXHAUSTED",)),
    ):
        tensor = module.InferInput("x", [rows, 3], "FP32")
        tensor.set_data_from_numpy(np.ones((rows, 3), np.float32))
        headers = {name.lower(): value for name, value in auth().items()}
        if not taken:
            with pytest.raises(InferenceServerException) as failure:
                client.infer("doubler", [tensor], headers=headers)
            told = f"{failure.value.status()} {failure.value.message()}"
            assert any(refusal in told for refusal in refusals), told
        else:
            outputs = [module.InferRequestedOutput("y")]
            assert client.infer("doubler", [tensor], outputs=outputs, headers=headers).as_numpy(
                "y"
            ).shape == (rows, 3)


def test_a_grpc_call_that_its_client_gives_up_gives_its_place_back(served: Served, grpc: Any) -> None:
    tensor = tritonclient.grpc.InferInput("x", [300, 512], "FP32")
    tensor.set_data_from_numpy(np.ones((300, 512), np.float32))
    headers = {"authorization": f"Bearer {TOKENS['app']}"}
    for _ in range(5):
        with pytest.raises(InferenceServerException, match="Deadline Exceeded"):
            grpc.infer("slow", [tensor], headers=headers, client_timeout=0.05)
    ends = time.monotonic() + 60
    pending = [1.0]
    while pending != [0.0] and time.monotonic() < ends:
        time.sleep(0.2)
        pending = [value for _, value in read_metric(served, "nv_inference_pending_request_count")]
    assert pending == [0.0]


def read_metric(served: Served, name: str) -> list[tuple[dict[str, str], float]]:
    """Labels and values of its series."""
    families = parse_metrics(httpx.get(f"{served.url}/metrics", headers=auth("ops")).text)
    samples = [sample for family in families for sample in family.samples]
    return [(sample.labels, sample.value) for sample in samples if sample.name == name]


def test_clients_that_send_slowly_take_no_place_of_others(served: Served) -> None:
    body = json.dumps({"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]})
    path = "/v2/models/doubler/infer"
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nX-Api-Key: {TOKENS['app']}\r\nContent-Length: 300000\r\n\r\n"
    slow = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(300)]
    for number, connection in enumerate(slow):
        connection.sendall(head.encode() + b" " * (1 if number % 2 else 200_000))
    for _ in range(5):
        assert httpx.post(f"{served.url}{path}", content=body, headers=auth()).status_code == 200
    for connection in slow:
        connection.close()


ROW = {"distance": None, "carrier": "UA", "departure": "2013-07-01T12:00:00Z"}


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_records": [ROW]},
        {"dataframe_split": {"columns": list(ROW), "data": [list(ROW.values())]}},
        {"instances": [ROW]},
        {"inputs": {name: [value] for name, value in ROW.items()}},
        "distance,carrier,departure\n,UA,2013-07-01T12:00:00Z\n",
    ],
)
def test_mlflows_shapes_are_answered(served: Served, body: Any) -> None:
    content = body if isinstance(body, str) else json.dumps(body)
    kind = "text/csv" if isinstance(body, str) else "application/json"
    response = httpx.post(
        f"{served.url}/invocations/flights", content=content, headers={"Content-Type": kind, **auth()}
    )
    assert response.json()["predictions"]["label"][0] == "late", response.text
    assert response.headers["x-model-version"] == "flights/1"


def test_a_page_of_another_origin_is_let_in_as_the_spec_says(served: Served) -> None:
    url, body = f"{served.url}/invocations/flights", {"dataframe_records": [ROW]}
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    before = httpx.options(url, headers={**asked, "Access-Control-Request-Headers": "authorization"})
    assert (before.status_code, before.headers["access-control-allow-origin"]) == (204, PAGE)
    for headers, status in ((auth(), 200), ({}, 401)):
        answer = httpx.post(url, json=body, headers={"Origin": PAGE, **headers})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, PAGE)
    assert httpx.options(url, headers={**asked, "Origin": "https://other.example"}).status_code == 403


@pytest.mark.parametrize("more", ["", "Expect: 100-continue\r\n"])
def test_a_body_that_is_said_to_be_too_large_is_refused_before_it_comes(served: Served, more: str) -> None:
    head = f"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {2**40}\r\n{more}\r\n"
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.settimeout(20)
        connection.sendall(head.encode())
        answer = b""
        while part := connection.recv(65536):  # until the connection is closed
            answer += part
    assert answer.startswith(b"HTTP/1.1 413")
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["status"] == 413


def test_keys_are_replaced_without_a_restart(served: Served) -> None:
    path: pathlib.Path = served.folder / "keys.yaml"
    before = path.read_bytes()
    token, key = make_key("new", ("infer", "view"))
    write_keys(path, [key])

    def status(value: str) -> int:
        return httpx.get(f"{served.url}/v2", headers={"X-API-Key": value}).status_code

    ends = time.monotonic() + 30
    while status(token) != 200 and time.monotonic() < ends:
        time.sleep(0.2)
    assert status(token) == 200
    assert status(TOKENS["app"]) == 401
    path.write_bytes(before)
    while status(TOKENS["app"]) != 200 and time.monotonic() < ends:
        time.sleep(0.2)
    assert status(TOKENS["app"]) == 200


def test_a_replica_lives_through_nonsense(served: Served) -> None:
    url = f"{served.url}/v2/models/doubler/infer"
    for body in (b"", b"{" * 100_000, b"\xff" * 1000, b"[" * 500_000, b"null", b'{"inputs":[1]}'):
        assert httpx.post(url, content=body, headers=auth()).status_code == 400
    assert httpx.get(f"{served.url}/v2/health/ready").status_code == 200


def ask(served: Served, model: str, **inputs: list[int]) -> httpx.Response:
    tensors = [
        {"name": name, "shape": [len(values)], "datatype": "INT64", "data": values}
        for name, values in inputs.items()
    ]
    url = f"{served.url}/v2/models/{model}/infer"
    return httpx.post(url, json={"inputs": tensors}, headers=auth(), timeout=60)


def test_a_division_that_would_end_a_process_is_answered_and_one_by_zero_refused(served: Served) -> None:
    (replica,) = served.replicas()
    answer = ask(served, "quotient", a=[-(2**63), 7, -7], b=[-1, -1, 2])
    assert answer.json()["outputs"][0]["data"] == [-(2**63), -7, -3]
    refused = ask(served, "quotient", a=[1], b=[0])
    assert (refused.status_code, "division by zero" in refused.text) == (400, True)
    assert served.replicas() == [replica]


def test_a_request_that_ends_the_process_of_its_model_is_told_so_and_the_next_is_answered(
    served: Served, grpc: Any
) -> None:
    (replica,) = served.replicas()

    def find_process() -> psutil.Process:
        (found,) = (
            child
            for child in replica.children(recursive=True)
            if "raymlops.models.isolated_process" in child.cmdline()
        )
        return found

    def end_process_when_busy() -> int:
        process = find_process()
        while process.cpu_percent(0.2) < 1:
            pass
        process.kill()
        return process.pid

    tensor = tritonclient.grpc.InferInput("x", [1], "INT64")
    tensor.set_data_from_numpy(np.array([2**62]))
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        asked = threads.submit(ask, served, "countdown", x=[2**62])
        first = end_process_when_busy()
        told = asked.result()
        assert (told.status_code, int(told.headers["retry-after"]) >= 1) == (503, True)
        assert "not run again" in told.json()["error"]
        assert ask(served, "countdown", x=[3]).json()["outputs"][0]["data"] == [3]
        asked = threads.submit(
            grpc.infer, "countdown", [tensor], headers={"authorization": auth()["Authorization"]}
        )
        assert end_process_when_busy() != first
        with pytest.raises(InferenceServerException, match="not run again") as failure:
            asked.result()
    assert "UNAVAILABLE" in failure.value.status()
    assert ask(served, "countdown", x=[3]).status_code == 200
    assert served.replicas() == [replica]
    ends = read_metric(served, "raymlops_process_ends_total")
    assert [value for labels, value in ends if labels["model"] == "countdown"] == [2]


def test_prometheus_names_are_tritons(served: Served) -> None:
    found = [labels for labels, _ in read_metric(served, "nv_inference_request_success")]
    assert {"adder": "1"}.items() <= {labels["model"]: labels["version"] for labels in found}.items()
    assert httpx.get(f"{served.url}/metrics", headers=auth()).status_code == 403


FIRST = frozenset(MODELS)
FOLDER = ("tripler", "adder")
"""Models of a folder that a second application serves; the first has one of that name, too."""


def make_target(model: str, *, loads: bool = False, models: frozenset[str] = FIRST) -> stock_clients.Target:
    def lower(name: str) -> dict[str, str]:
        return {key.lower(): value for key, value in auth(name).items()}

    return stock_clients.Target(model, lower("app"), lower("ops"), loads, models)


@pytest.mark.parametrize("kind", stock_clients.MODULES)
def test_every_method_of_tritons_clients_is_called_against_one_application(served: Served, kind: str) -> None:
    port = served.port if kind.startswith("http") else served.grpc_port
    told = stock_clients.call_all(kind, f"127.0.0.1:{port}", make_target("doubler"))
    assert sum(bool(refusal) for refusal in told.values()) == 6, told


def test_services_are_told_by_reflection_and_health_is_that_of_the_protocol(served: Served) -> None:
    with grpcio.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = set(database.get_services())
        assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= services
        pool = DescriptorPool(database)
        methods = pool.FindServiceByName("inference.GRPCInferenceService").methods_by_name
        assert {"ModelInfer", "ModelStreamInfer", "ModelConfig"} <= set(methods)
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
        watched = health.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        watched.cancel()
        with pytest.raises(grpcio.RpcError) as unknown:
            channel.unary_unary("/inference.GRPCInferenceService/Nope")(b"")
        assert unknown.value.code() is grpcio.StatusCode.UNIMPLEMENTED


def test_wrong_calls_over_grpc_leave_no_traceback_in_the_log(served: Served, grpc: Any) -> None:
    for _ in range(3):
        with pytest.raises(InferenceServerException, match="nobody"):
            grpc.is_model_ready("nobody", headers={"authorization": auth()["Authorization"]})
    time.sleep(1)
    assert not [line for line in served.lines if "nobody" in line or "user-set gRPC" in line]


@pytest.fixture(scope="module")
def both(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A second application beside the first, whose clients say nothing of applications."""
    folder = SECOND[0] = tmp_path_factory.mktemp("second")
    for name in FOLDER:
        toy_models.save(toy_models.doubler(), folder / "models" / f"{name}.onnx")
    spec = {
        "name": "second", "route": "/second", "many": {"folder": str(folder / "models")}, "cpus": 0.2,
        "keys": str(served.folder / "keys.yaml"), "port": served.port, "grpc_port": served.grpc_port,
    }  # fmt: skip
    path = folder / "second.yaml"
    path.write_text(json.dumps(spec))
    served.run("deploy", str(path))
    yield served
    served.run("deploy", str(path), "--remove")


@pytest.mark.parametrize("kind", stock_clients.MODULES)
def test_every_method_of_tritons_clients_is_called_against_two_applications(both: Served, kind: str) -> None:
    everything = FIRST | set(FOLDER)
    for model in ("doubler", "tripler"):
        loads = model == "tripler"
        if kind.startswith("http"):
            url = f"127.0.0.1:{both.port}{'/second' if loads else ''}"
            models = frozenset(FOLDER) if loads else FIRST
        else:
            url, models = f"127.0.0.1:{both.grpc_port}", everything
        told = stock_clients.call_all(kind, url, make_target(model, loads=loads, models=models))
        assert sum(bool(refusal) for refusal in told.values()) == (4 if loads else 6), told


def test_each_of_two_applications_tells_its_own_address_and_its_commands_are_answered(
    both: Served, tmp_path: pathlib.Path
) -> None:
    key = f"-s -o answer.bin -w '%{{http_code}}\\n' -H {shlex.quote('Authorization: ' + auth()['Authorization'])}"
    for route, models in (("", FIRST), ("/second", set(FOLDER))):
        url = f"{both.url}{route}"
        document = httpx.get(f"{url}/openapi.json", headers=auth()).json()
        assert document["servers"] == [{"url": route or "/"}]
        page = httpx.get(f"{url}/docs", headers=auth()).text
        commands = [html.unescape(shown) for shown in re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)]
        assert len(commands) >= 3 * len(models)
        assert all(f"http://127.0.0.1:{both.port}{route}/" in command for command in commands)
        lines = "\n".join(f"{command} {key}" for command in commands)
        done = subprocess.run(["bash"], input=lines, capture_output=True, text=True, cwd=tmp_path, check=True)
        told = dict(zip(commands, done.stdout.split(), strict=True))
        assert set(told.values()) == {"200"}, [one for one in told.items() if one[1] != "200"]
        hint = httpx.get(f"{url}/v2/model", headers=auth()).json()["error"]
        assert f"did you mean '{route}/v2/models'" in hint


def test_what_cannot_be_routed_by_its_name_reaches_its_application_all_the_same(
    both: Served, grpc: Any
) -> None:
    headers = {"authorization": auth()["Authorization"]}
    rows = np.ones((2000, 3), np.float32)
    tensor = tritonclient.grpc.InferInput("x", rows.shape, "FP32")
    tensor.set_data_from_numpy(rows)
    for model in ("doubler", "tripler"):
        for packed in ("gzip", "deflate", None):
            answer = grpc.infer(model, [tensor], headers=headers, compression_algorithm=packed)
            np.testing.assert_array_equal(answer.as_numpy("y"), 2 * rows)
    for packed in ("gzip", None):
        with pytest.raises(InferenceServerException, match=r"several applications: .*second"):
            grpc.infer("adder", [tensor], headers=headers, compression_algorithm=packed)
    named = {**headers, "application": "second"}
    assert grpc.infer("adder", [tensor], headers=named).as_numpy("y").shape == rows.shape
    with pytest.raises(InferenceServerException, match="nobody"):
        grpc.infer("nobody", [tensor], headers=headers)
    with pytest.raises(InferenceServerException, match="API key"):
        grpc.infer("tripler", [tensor], compression_algorithm="gzip")


def test_the_health_of_the_server_is_that_of_all_applications(both: Served, grpc: Any) -> None:
    headers = {"authorization": auth("ops")["Authorization"]}
    status = health_pb2.HealthCheckResponse
    with grpcio.insecure_channel(f"127.0.0.1:{both.grpc_port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        metadata = [("authorization", auth()["Authorization"])]
        watched = health.Watch(
            health_pb2.HealthCheckRequest(service="tripler"), metadata=metadata, timeout=60
        )
        assert next(watched).status == status.SERVING

        def ready() -> bool:
            time.sleep(1.1)  # what was found is told for a second
            ready = grpc.is_server_ready()
            assert (health.Check(health_pb2.HealthCheckRequest()).status == status.SERVING) is ready
            return bool(ready)

        assert ready()
        grpc.unload_model("tripler", headers=headers)
        assert not ready()
        assert next(watched).status == status.NOT_SERVING
        grpc.load_model("tripler", headers=headers)
        assert ready()
        assert next(watched).status == status.SERVING
        watched.cancel()


def test_a_folder_tells_what_it_cannot_serve_and_takes_up_what_comes(both: Served, grpc: Any) -> None:
    folder, url = SECOND[0] / "models", f"{both.url}/second"
    (folder / "broken.onnx").write_bytes(b"no model")
    (folder / "x\r\nset-cookie: a.onnx").write_bytes(b"no model")
    os.mkfifo(folder / "pipe.onnx")
    toy_models.save(toy_models.doubler(), folder / "late.v1.onnx")
    toy_models.save(toy_models.adder(), folder / "late.v2.onnx")
    headers = auth("ops")
    try:
        assert httpx.post(f"{url}/v2/repository/models/late.v2/load", headers=headers).status_code == 200
        assert httpx.get(f"{url}/v2/models/late.v2", headers=headers).json()["inputs"][0]["name"] == "INPUT0"
        failed = httpx.post(f"{url}/v2/repository/models/broken/load", headers=headers)
        assert (failed.status_code, "not an ONNX file" in failed.json()["error"]) == (422, True)
        with pytest.raises(InferenceServerException, match="not an ONNX file"):
            grpc.load_model("broken", headers={"authorization": headers["Authorization"]})

        def index() -> dict[str, tuple[str, str]]:
            entries = httpx.post(f"{url}/v2/repository/index", headers=headers).json()
            return {entry["name"]: (entry["state"], entry["reason"]) for entry in entries}

        wait_until(lambda: {"late.v1", "pipe"} <= set(index()), lambda: str(index()), 60)
        told = index()
        assert set(told) == {*FOLDER, "broken", "pipe", "late.v1", "late.v2"}
        assert told["late.v2"] == ("READY", "")
        assert told["pipe"] == ("UNAVAILABLE", "it is a pipe; a model is a file or a folder")
        wait_until(
            lambda: "is not served: the name" in "".join(both.lines), lambda: "".join(both.lines[-20:]), 60
        )
    finally:
        for path in folder.iterdir():
            if path.stem not in FOLDER:
                path.unlink()
    wait_until(lambda: set(index()) == set(FOLDER), lambda: str(index()), 60)


def test_a_model_that_is_added_to_a_folder_is_loaded_and_answers(both: Served, grpc: Any) -> None:
    name = "added"
    toy_models.save(toy_models.doubler(), SECOND[0] / "models" / f"{name}.onnx")
    admin, caller = ({"authorization": auth(key)["Authorization"]} for key in ("ops", "app"))
    grpc.load_model(name, headers=admin)
    tensor = tritonclient.grpc.InferInput("x", [1, 3], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 3), np.float32))
    np.testing.assert_array_equal(grpc.infer(name, [tensor], headers=caller).as_numpy("y"), 2)
