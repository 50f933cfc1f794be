"""The data plane over real sessions and a real HTTP client, without Ray and without sockets."""

import asyncio
import gzip
import json
import pathlib
import struct
import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from onnx import TensorProto

from raymlops.serving.endpoints.hosted import Hosts
from raymlops.serving.endpoints.model_host import host_model
from raymlops.serving.protocol.request_limits import RequestLimits
from raymlops.serving.transport.api_keys import ROLES, KeyRing, make_key
from raymlops.serving.transport.asgi import DataPlane
from raymlops.serving.transport.rate_limit import Bank, RateLimit
from raymlops.specs.serving import HostedModel
from raymlops.tensors import DATATYPES
from tests import toy_models

Ask = Callable[..., httpx.Response]


def make_plane(folder: pathlib.Path, models: dict[str, Any], **options: Any) -> DataPlane:
    hosted = {}
    for name, model in models.items():
        path = toy_models.save(model, folder / f"{name}.onnx")
        hosted[name] = host_model(name, path, HostedModel(source=str(path), version="3"))
    limits = RequestLimits(json_depth=32, json_elements=10_000)
    return DataPlane(Hosts("test", hosted, limits), **options)


def make_ask(plane: DataPlane) -> Ask:
    def ask(method: str, path: str, **request: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=plane)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **request)

        return asyncio.run(send())

    return ask


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> DataPlane:
    models = {"doubler": toy_models.doubler(), "echo": toy_models.echo(), "flights": toy_models.flights()}
    return make_plane(tmp_path_factory.mktemp("models"), models, body_limit=100_000)


@pytest.fixture(scope="module")
def ask(plane: DataPlane) -> Ask:
    return make_ask(plane)


def infer_body(data: Any, shape: list[int], **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "data": data}], **more}


def test_a_json_request_is_answered_with_its_id_and_version(ask: Ask) -> None:
    response = ask("POST", "/v2/models/doubler/infer", json=infer_body([1, 2, 3.5], [1, 3], id="a7"))
    assert response.status_code == 200
    assert response.json() == {
        "model_name": "doubler",
        "model_version": "3",
        "id": "a7",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 3], "data": [2.0, 4.0, 7.0]}],
    }
    assert response.headers["x-model-version"] == "doubler/3"
    assert response.headers["x-request-id"]


def test_nested_data_is_the_same_as_flat_data(ask: Ask) -> None:
    flat = ask("POST", "/v2/models/doubler/infer", json=infer_body([1, 2, 3, 4, 5, 6], [2, 3]))
    nested = ask("POST", "/v2/models/doubler/infer", json=infer_body([[1, 2, 3], [4, 5, 6]], [2, 3]))
    assert flat.json()["outputs"] == nested.json()["outputs"]


def test_binary_tensors_travel_both_ways(ask: Ask) -> None:
    array = np.arange(6, dtype="<f4").reshape(2, 3)
    entry = {"name": "x", "shape": [2, 3], "datatype": "FP32", "parameters": {"binary_data_size": 24}}
    text = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    response = ask(
        "POST", "/v2/models/doubler/infer", content=text + array.tobytes(),
        headers={"Inference-Header-Content-Length": str(len(text))},
    )  # fmt: skip
    length = int(response.headers["inference-header-content-length"])
    head = json.loads(response.content[:length])
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 24}
    np.testing.assert_array_equal(np.frombuffer(response.content[length:], "<f4").reshape(2, 3), 2 * array)


def test_strings_travel_as_binary_tensors(ask: Ask) -> None:
    words = ["", "Zürich", "a" * 1000]
    blob = b"".join(struct.pack("<I", len(w.encode())) + w.encode() for w in words)
    entry = {"name": "text", "shape": [3], "datatype": "BYTES", "parameters": {"binary_data_size": len(blob)}}
    text = json.dumps({"inputs": [entry], "outputs": [{"name": "same"}]}).encode()
    response = ask(
        "POST", "/v2/models/echo/infer", content=text + blob,
        headers={"Inference-Header-Content-Length": str(len(text))},
    )  # fmt: skip
    assert response.json()["outputs"][0]["data"] == words


def test_a_row_with_missing_values_is_answered_as_in_training(ask: Ask) -> None:
    row = {
        "inputs": [
            {"name": "distance", "shape": [2], "datatype": "FP32", "data": [None, 100]},
            {"name": "carrier", "shape": [2], "datatype": "BYTES", "data": ["AA", None]},
            {"name": "departure", "shape": [2], "datatype": "BYTES", "data": ["2013-07-01T12:00:00Z", None]},
        ]
    }
    outputs = ask("POST", "/v2/models/flights/infer", json=row).json()["outputs"]
    assert outputs[0]["data"] == ["late", "late"]
    assert outputs[1]["data"] == pytest.approx([0.9, 0.75])


RECORDS = [
    {"distance": None, "carrier": "AA", "departure": "2013-07-01T12:00:00Z"},
    {"distance": 5.0, "carrier": "AA", "departure": "2013-07-01 12:00"},
]
COLUMNS = ["distance", "carrier", "departure"]


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_records": RECORDS},
        {"dataframe_split": {"columns": COLUMNS, "data": [[r[c] for c in COLUMNS] for r in RECORDS]}},
        {"instances": RECORDS},
        {"inputs": {c: [r[c] for r in RECORDS] for c in COLUMNS}},
    ],
    ids=lambda body: next(iter(body)),
)
def test_every_json_shape_of_mlflow_gives_the_same_predictions(ask: Ask, body: dict[str, Any]) -> None:
    response = ask("POST", "/invocations/flights", json=body)
    assert response.status_code == 200, response.text
    assert response.json()["predictions"]["label"] == ["late", "on_time"]


def test_csv_is_taken_as_mlflow_does(ask: Ask) -> None:
    text = "carrier,distance,departure\nAA,,2013-07-01T12:00:00Z\nAA,5,2013-07-01T12:00:00Z\n"
    response = ask("POST", "/invocations/flights", content=text, headers={"Content-Type": "text/csv"})
    assert response.json()["predictions"]["label"] == ["late", "on_time"]


def x_input(**changes: Any) -> bytes:
    entry = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
    kept = {key: value for key, value in (entry | changes).items() if value is not None}
    return json.dumps({"inputs": [kept]}).encode()


WRONG = {
    "no json": b"{",
    "not an object": b"[]",
    "invalid utf-8": b'{"inputs": "\xff\xfe"}',
    "no inputs": b"{}",
    "inputs of another kind": b'{"inputs": {"x": 1}}',
    "deep json": b"[" * 100_000,
    "deep but balanced json": b'{"inputs":' + b"[" * 40 + b"]" * 40 + b"}",
    "huge integer": x_input(data=[10**400, 1, 1]),
    "integer of many digits": x_input(data=[77777, 1, 1]).replace(b"77777", b"9" * 9000),
    "strings for numbers": x_input(data=["1", "2", "3"]),
    "null without a meaning": x_input(data=[None, 2, 3]),
    "wrong count": x_input(data=[1, 2]),
    "wrong shape": x_input(data=[1, 2], shape=[1, 2]),
    "negative shape": x_input(shape=[-1, 3]),
    "huge shape": x_input(shape=[2**62, 2**62]),
    "boolean shape": x_input(shape=[True, 3]),
    "ragged data": x_input(data=[[1, 2], [3]]),
    "wrong name": x_input(name="X"),
    "unknown datatype": x_input(datatype="FLOAT"),
    "wrong datatype": x_input(datatype="INT64"),
    "twice the same input": json.dumps({"inputs": infer_body([1, 2, 3], [1, 3])["inputs"] * 2}).encode(),
    "no data": x_input(data=None),
    "unknown output": json.dumps(infer_body([1, 2, 3], [1, 3], outputs=[{"name": "z"}])).encode(),
    "id of another kind": json.dumps(infer_body([1, 2, 3], [1, 3], id=7)).encode(),
    "parameters of another kind": json.dumps(infer_body([1, 2, 3], [1, 3], parameters=[])).encode(),
}


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG.keys())
def test_a_malformed_request_is_refused_with_a_sentence(ask: Ask, body: bytes) -> None:
    response = ask("POST", "/v2/models/doubler/infer", content=body)
    assert response.status_code == 400, response.text
    document = response.json()
    assert set(document) == {"error", "status", "request_id"}
    assert len(document["error"]) > 20


def test_what_was_refused_counts_as_failed(ask: Ask) -> None:
    def failed() -> int:
        stats = ask("GET", "/v2/models/doubler/stats").json()["model_stats"][0]["inference_stats"]
        return int(stats["fail"]["count"])

    before = failed()
    ask("POST", "/v2/models/doubler/infer", json={"inputs": []})
    ask("POST", "/v2/models/doubler/infer", json=infer_body([1, 2, 3], [1, 3]))
    assert failed() == before + 1


@pytest.mark.parametrize(
    ("size", "sent", "length"),
    [
        (12, 11, None),
        (12, 13, None),
        (999_999, 12, None),
        (-1, 12, None),
        ("12", 12, None),
        (12, 12, 10**6),
        (12, 12, 3),
    ],
)
def test_a_binary_request_that_lies_about_its_sizes_is_refused(
    ask: Ask, size: Any, sent: int, length: int | None
) -> None:
    entry = {"name": "x", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": size}}
    text = json.dumps({"inputs": [entry]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(text) if length is None else length)}
    response = ask("POST", "/v2/models/doubler/infer", content=text + bytes(sent), headers=headers)
    assert response.status_code == 400, response.text


@pytest.mark.parametrize("blob", [struct.pack("<I", 99) + b"ab", b"\x01", struct.pack("<I", 2) + b"\xff\xff"])
def test_strings_that_lie_about_their_length_or_are_no_text_are_refused(ask: Ask, blob: bytes) -> None:
    entry = {"name": "text", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(blob)}}
    text = json.dumps({"inputs": [entry]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    assert ask("POST", "/v2/models/echo/infer", content=text + blob, headers=headers).status_code == 400


def test_a_body_over_the_cap_is_refused_while_it_streams(ask: Ask) -> None:
    def chunks() -> Any:
        for _ in range(100):
            yield b" " * 10_000

    async def stream() -> Any:
        for chunk in chunks():
            yield chunk

    assert ask("POST", "/v2/models/doubler/infer", content=stream()).status_code == 413
    assert ask("POST", "/v2/models/doubler/infer", content=b" " * 200_000).status_code == 413


def test_a_compressed_body_is_read_and_a_bomb_is_refused(ask: Ask) -> None:
    body = gzip.compress(json.dumps(infer_body([1, 2, 3], [1, 3])).encode())
    headers = {"Content-Encoding": "gzip"}
    assert ask("POST", "/v2/models/doubler/infer", content=body, headers=headers).status_code == 200
    bomb = gzip.compress(b" " * 50_000_000)
    assert ask("POST", "/v2/models/doubler/infer", content=bomb, headers=headers).status_code == 413
    assert ask("POST", "/v2/models/doubler/infer", content=body[:-9], headers=headers).status_code == 400
    assert (
        ask("POST", "/v2/models/doubler/infer", content=body, headers={"Content-Encoding": "br"}).status_code
        == 400
    )


def test_a_json_with_too_many_elements_is_refused_before_it_is_parsed(ask: Ask) -> None:
    body = json.dumps(infer_body([1] * 20_000, [1, 20_000])).encode()
    assert ask("POST", "/v2/models/doubler/infer", content=body).status_code == 413


def test_wrong_names_get_the_near_ones(ask: Ask) -> None:
    response = ask("GET", "/v2/models/dobuler")
    assert response.status_code == 404
    assert "did you mean 'doubler'" in response.json()["error"]
    assert ask("GET", "/v2/models/doubler/versions/9").status_code == 404
    assert ask("GET", "/nothing").status_code == 404
    assert ask("DELETE", "/v2/models/doubler").status_code == 405


def test_metadata_index_and_statistics_follow_the_protocol(ask: Ask) -> None:
    assert "binary_tensor_data" in ask("GET", "/v2").json()["extensions"]
    document = ask("GET", "/v2/models/doubler/versions/3").json()
    assert document["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
    assert ask("GET", "/v2/models/doubler/ready").status_code == 200
    assert {"name": "echo", "version": "3", "state": "READY", "reason": ""} in ask(
        "POST", "/v2/repository/index", json={"ready": True}
    ).json()
    before = ask("GET", "/v2/models/doubler/stats").json()["model_stats"][0]["inference_count"]
    asked = time.time() * 1000
    ask("POST", "/v2/models/doubler/infer", json=infer_body([0] * 6, [2, 3]))
    counted = ask("GET", "/v2/models/doubler/versions/3/stats").json()["model_stats"][0]
    after = counted["inference_count"]
    assert after == before + 2
    assert asked - 1 <= counted["last_inference"] <= time.time() * 1000
    pairs = next(batch for batch in counted["batch_stats"] if batch["batch_size"] == 2)
    assert pairs["compute_infer"]["count"] >= 1
    assert (
        sum(batch["batch_size"] * batch["compute_infer"]["count"] for batch in counted["batch_stats"])
        == after
    )
    labels = 'application="test",model="doubler",version="3"'
    assert f"nv_inference_count{{{labels}}} {after}.0\n" in ask("GET", "/metrics").text


def test_probes_and_documents_answer(ask: Ask) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/ping", "/health", "/version", "/openapi.json"):
        assert ask("GET", path).status_code == 200
    page = ask("GET", "/docs")
    assert "/v2/models/doubler/infer" in page.text
    assert page.headers["content-type"].startswith("text/html")


def test_every_example_of_the_openapi_document_is_answered(ask: Ask) -> None:
    document = ask("GET", "/openapi.json").json()
    asked = 0
    for path, methods in document["paths"].items():
        content = methods.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json")
        if content:
            response = ask("POST", path, json=content["example"])
            assert response.status_code == 200, (path, response.text)
            asked += 1
    assert asked == 10


TYPES = [name for name in DATATYPES if name != "FP16"]  # which travels only in binary


@pytest.mark.parametrize("datatype", TYPES)
def test_every_datatype_survives_the_way_there_and_back(tmp_path: pathlib.Path, datatype: str) -> None:
    ask = make_ask(make_plane(tmp_path, {"same": toy_models.dtypes(DATATYPES[datatype].onnx)}))
    data = [True, False] if datatype == "BOOL" else ["a", ""] if datatype == "BYTES" else [1, 2]
    body = {"inputs": [{"name": "x", "shape": [2], "datatype": datatype, "data": data}]}
    response = ask("POST", "/v2/models/same/infer", json=body)
    assert response.json()["outputs"][0]["data"] == data, response.text


def test_an_integer_outside_its_datatype_is_refused_not_wrapped(tmp_path: pathlib.Path) -> None:
    ask = make_ask(make_plane(tmp_path, {"same": toy_models.dtypes(TensorProto.INT8)}))
    for data in ([300], [1.5], [-129]):
        body = {"inputs": [{"name": "x", "shape": [1], "datatype": "INT8", "data": data}]}
        assert ask("POST", "/v2/models/same/infer", json=body).status_code == 400


PROBES = "/ /v2/health/live /v2/health/ready /ping /health /version"
GETS = "/v2 /v2/models /v2/models/stats /v1/models /docs /openapi.json"
ABOUT = "/v2/models/doubler /v2/models/doubler/ready /v2/models/doubler/stats /v2/models/doubler/config"
POSTS = (
    "/v2/repository/index /v2/models/doubler/infer /v2/models/doubler/versions/3/infer /invocations "
    "/v1/models/doubler:predict"
)
LOADS = "/v2/repository/models/doubler/load /v2/repository/models/doubler/unload"
VIEWS = (*GETS.split(), *(path for path in ABOUT.split() if not path.endswith("/ready")))
ROUTES = [
    *(("GET", path, "probe") for path in PROBES.split()),
    *(("GET", path, "view") for path in VIEWS),
    ("GET", "/v2/models/doubler/ready", "ready"),
    ("GET", "/v1/models/doubler", "ready"),
    ("POST", "/v2/repository/index", "view"),
    *(("POST", path, "infer") for path in POSTS.split() if path != "/v2/repository/index"),
    *(("POST", path, "admin") for path in LOADS.split()),
    ("GET", "/metrics", "metrics"),
]


@pytest.mark.parametrize(("method", "path", "role"), ROUTES)
def test_every_route_answers_every_kind_of_key_as_the_table_says(
    tmp_path: pathlib.Path, method: str, path: str, role: str
) -> None:
    made = {one: make_key(one, [one], ["doubler"] if one == "view" else []) for one in ROLES}
    other, other_key = make_key("other", ROLES, ["another"])
    ring = KeyRing([other_key, *(key for _, key in made.values())])
    user, admin = made["infer"][0], made["admin"][0]
    plane = make_plane(tmp_path, {"doubler": toy_models.doubler()}, keys=ring)
    ask = make_ask(plane)
    body = {} if method == "GET" else {"json": infer_body([1, 2, 3], [1, 3])}

    def status(token: str | None) -> int:
        headers = {"Authorization": f"Bearer {token}".encode("latin-1")} if token else {}
        return ask(method, path, headers=headers, **body).status_code

    admitted = (200, 400)  # 400: admitted, and the body is not this route's
    may = {"admin", role} | ({"infer", "view"} if role == "ready" else set())
    for one, (token, _) in made.items():
        assert status(token) in admitted if one in may or role == "probe" else status(token) == 403, one
    about_one = "doubler" in path or path in ("/invocations", "/metrics")
    assert status(other) == 403 if about_one else status(other) in admitted
    for token in (None, "nonsense", f"{user}x", "rmk_infer_", admin.replace("admin", "infer"), "rmk_admin_é"):
        assert status(token) == 401 if role != "probe" else status(token) == 200


def test_a_key_for_some_models_is_told_of_no_others(tmp_path: pathlib.Path) -> None:
    token, key = make_key("app", ["view"], ["one"])
    models = {"one": toy_models.doubler(), "secret": toy_models.doubler()}
    ask = make_ask(make_plane(tmp_path, models, keys=KeyRing([key])))
    for method, path in (
        ("GET", "/v2/models"), ("GET", "/v2/models/stats"), ("GET", "/docs"), ("GET", "/openapi.json"),
        ("POST", "/v2/repository/index"),
    ):  # fmt: skip
        answer = ask(method, path, headers={"X-API-Key": token})
        assert (answer.status_code, "one" in answer.text, "secret" in answer.text) == (200, True, False), path


def test_without_keys_everyone_may_infer_and_nobody_administer(ask: Ask) -> None:
    assert ask("POST", "/v2/repository/models/doubler/unload").status_code == 403
    assert ask("GET", "/metrics").status_code == 200


def test_a_key_over_its_rate_is_told_when_to_come_back(tmp_path: pathlib.Path) -> None:
    rate = RateLimit(1.0, Bank(1.0, 3.0).lease)
    ask = make_ask(make_plane(tmp_path, {"doubler": toy_models.doubler()}, rate=rate))
    statuses = [ask("GET", "/v2").status_code for _ in range(6)]
    assert statuses[:3] == [200] * 3
    assert 429 in statuses[3:]
    refused = ask("GET", "/v2")
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1


def test_a_full_replica_sheds_load_with_a_time_to_come_back(tmp_path: pathlib.Path) -> None:
    plane = make_plane(tmp_path, {"doubler": toy_models.doubler()})
    plane.hosts.queue = plane.hosts.pending = 4
    response = make_ask(plane)("POST", "/v2/models/doubler/infer", json=infer_body([1, 2, 3], [1, 3]))
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    assert make_ask(plane)("GET", "/v2/health/live").status_code == 200
    labels = 'application="test",model="doubler",status="overloaded",version="3"'
    counted = f"raymlops_request_duration_seconds_count{{{labels}}} 1.0\n"
    assert counted in make_ask(plane)("GET", "/metrics").text


def test_a_request_id_is_kept_from_end_to_end(ask: Ask) -> None:
    assert ask("GET", "/nothing", headers={"X-Request-ID": "abc"}).json()["request_id"] == "abc"
    assert ask("GET", "/v2", headers={"X-Request-ID": "abc"}).headers["x-request-id"] == "abc"
