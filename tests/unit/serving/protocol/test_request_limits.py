"""What one request may cost over REST, and that whatever a caller sends is answered by a status below 500."""

import asyncio
import gzip
import json
import pathlib
import time
import tracemalloc
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymlops.errors import InputError, NodeError, unknown_name
from raymlops.serving.protocol import open_inference
from raymlops.serving.protocol.json_text import dump_json, parse_json
from raymlops.serving.protocol.request_limits import RequestLimits
from raymlops.serving.transport.api_keys import KeyRing, make_key
from raymlops.serving.transport.asgi import DataPlane
from tests import toy_models
from tests.unit.serving.transport.test_asgi import Ask, infer_body, make_ask, make_plane

MODELS = {
    "doubler": toy_models.doubler(),
    "echo": toy_models.echo(),
    "flights": toy_models.flights(),
    "adder": toy_models.adder(),
    "widener": toy_models.widener(),
    "repeater": toy_models.repeater(),
}
LIMITS = RequestLimits(json_elements=20_000, rows=5_000, elements=100_000, answer_bytes=400_000)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> DataPlane:
    plane = make_plane(tmp_path_factory.mktemp("models"), MODELS, body_limit=1_000_000)
    plane.hosts.limits = LIMITS
    return plane


@pytest.fixture(scope="module")
def ask(plane: DataPlane) -> Ask:
    return make_ask(plane)


def infer(ask: Ask, model: str, *inputs: dict[str, Any], **more: Any) -> httpx.Response:
    return ask("POST", f"/v2/models/{model}/infer", json={"inputs": list(inputs), **more})


def tensor(name: str, shape: list[Any], data: Any, datatype: str = "FP32") -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


X = tensor("x", [1, 3], [1, 2, 3])


def test_an_output_is_sent_once(ask: Ask) -> None:
    asked = [{"name": "y"}] * 2000
    response = infer(ask, "doubler", X, outputs=asked)
    assert response.status_code == 400
    assert "twice" in response.json()["error"]
    assert infer(ask, "doubler", X, outputs=[{"name": "y"}]).status_code == 200
    assert infer(ask, "doubler", X, outputs=[]).json()["outputs"][0]["data"] == [2, 4, 6]
    for wrong in ("y", 0, {}, [None], [[]], [{"name": None}], [{"name": ["y"]}]):
        assert infer(ask, "doubler", X, outputs=wrong).status_code == 400, wrong


def test_an_answer_that_would_be_too_large_is_refused_before_the_run(plane: DataPlane, ask: Ask) -> None:
    rows = 150
    x = tensor("x", [rows], [1] * rows)
    runs = plane.hosts.models["widener"].statistics.runs
    response = infer(ask, "widener", x)
    assert response.status_code == 413
    assert "answer" in response.json()["error"]
    assert plane.hosts.models["widener"].statistics.runs == runs
    assert infer(ask, "widener", x, outputs=[{"name": "top"}]).status_code == 200
    assert infer(ask, "widener", tensor("x", [19], [1] * 19)).status_code == 200


def test_an_answer_whose_size_nobody_knew_is_refused_before_it_is_written(ask: Ask) -> None:
    for count, status in ((19_999, 200), (20_001, 413), (10_000_000, 413)):
        assert infer(ask, "repeater", tensor("count", [1], [count], "INT64")).status_code == status
    asked = {"outputs": [{"name": "y", "parameters": {"binary_data": True}}]}
    for count, status in ((90_000, 200), (200_000, 413)):
        assert infer(ask, "repeater", tensor("count", [1], [count], "INT64"), **asked).status_code == status


def test_rows_and_elements_have_their_limits(ask: Ask) -> None:
    assert infer(ask, "doubler", tensor("x", [5_001, 3], [1] * 15_003)).status_code == 413
    assert infer(ask, "doubler", tensor("x", [5_000, 3], [1] * 15_000)).status_code == 200
    assert infer(ask, "doubler", tensor("x", [200_000, 3], [1])).status_code == 413
    assert infer(ask, "doubler", tensor("x", [0, 3], [])).status_code == 200
    assert ask("POST", "/invocations/echo", json={"instances": ["a"] * 5_001}).status_code == 413


HUGE = 10**400
SHAPES = [
    [1] * 65, [2**62, 2**62], [0, 2**62], [2**63], [HUGE, 3], [-1, 3], [1.0, 3], ["1", 3], [None], [True, 3], [[1], 3],
    "1", None, {}, 3,
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: str(shape)[:20])
def test_a_shape_that_no_array_has_is_refused(ask: Ask, shape: Any) -> None:
    assert infer(ask, "doubler", {**X, "shape": shape}).status_code == 400


TIMEOUTS = [HUGE, -HUGE, -1, 1e400, float("nan"), "5", True, [5], {}]


@pytest.mark.parametrize("timeout", TIMEOUTS, ids=lambda timeout: str(timeout)[:10])
def test_a_timeout_of_any_kind_is_taken_or_refused(ask: Ask, timeout: Any) -> None:
    body = json.dumps({"inputs": [X], "parameters": {"timeout": timeout}})
    expected = (200, 400) if timeout in (HUGE, 1e400) else (400,)
    assert ask("POST", "/v2/models/doubler/infer", content=body).status_code in expected
    body = json.dumps({"inputs": [[1, 2, 3]], "params": {"timeout": timeout}})
    assert ask("POST", "/invocations/doubler", content=body).status_code in expected


@pytest.mark.parametrize("value", [0, 1, "false", None, []])
def test_a_flag_is_true_or_false(ask: Ask, value: Any) -> None:
    assert infer(ask, "doubler", X, parameters={"binary_data_output": value}).status_code == 400
    own = [{"name": "y", "parameters": {"binary_data": value}}]
    assert infer(ask, "doubler", X, outputs=own).status_code == 400


LONE = "\ud800"


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [{**X, "name": LONE}]},
        {"inputs": [{**X, "datatype": LONE}]},
        {"inputs": [X], "id": LONE},
        {"inputs": [X], "outputs": [LONE]},
        {"inputs": [{**X, LONE: 1}]},
        {"inputs": [{**X, "data": [LONE, 1, 2]}]},
        {"inputs": [{**X, "shape": [LONE]}]},
        {LONE: []},
    ],
    ids=range(8),
)
@pytest.mark.parametrize("path", ["/v2/models/doubler/infer", "/invocations/doubler"])
@pytest.mark.parametrize("beside", ["", ', "z": NaN'])
def test_half_a_character_is_answered(ask: Ask, body: Any, path: str, beside: str) -> None:
    text = json.dumps(body)[:-1] + beside + "}"
    response = ask("POST", path, content=text, headers={"X-Request-Id": b"\xff\xfe"})
    assert response.status_code == 400, response.text
    assert response.json()["error"]


@given(st.text(st.characters(), max_size=300))  # halves of surrogate pairs among them
def test_every_error_can_be_written(text: str) -> None:
    for error in (InputError(text), InputError(unknown_name(text, text, [text, "a"])), NodeError(text, text)):
        document = json.loads(dump_json(open_inference.describe_error(error, text)))
        assert document["status"] in (400, 500)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
)


@given(JSON, st.booleans())
def test_parsing_takes_and_refuses_as_the_standard_parser_does(value: Any, escaped: bool) -> None:
    text = json.dumps(value, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    try:
        found = parse_json(text, RequestLimits())
    except InputError:
        assert not _encodes(value) or "Infinity" in text.decode("utf-8", "replace")
        return
    assert json.dumps(found) == json.dumps(value) or any(c.isdigit() for c in text.decode())


def _encodes(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def test_lists_and_objects_count_as_what_they_hold() -> None:
    limits = RequestLimits(json_elements=1000)
    for text in ("[" + "{}," * 600 + "{}]", "[" + "[]," * 600 + "[]]", "[" + "[[[[1]]]]," * 250 + "1]"):
        with pytest.raises(Exception, match="over 1000 elements"):
            parse_json(text.encode(), limits)
    commas = json.dumps(["," * 2000, "[{" * 900])
    assert parse_json(commas.encode(), limits) == json.loads(commas)


def test_one_long_string_among_many_short_ones_costs_no_more_than_its_length(ask: Ask) -> None:
    data = [["a" * 200_000], *[["b"]] * 2_000]
    tracemalloc.start()
    assert infer(ask, "echo", tensor("text", [2_001], data, "BYTES")).status_code == 200
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


def test_rows_that_leave_out_their_columns_cost_what_they_become(ask: Ask) -> None:
    assert ask("POST", "/invocations/flights", json={"instances": [{}] * 3_000}).status_code in (200, 400)
    plenty = {"dataframe_records": [{"distance": 1.0}] * 4_999}
    assert ask("POST", "/invocations/flights", json=plenty).status_code == 200
    limits = RequestLimits(json_elements=14_000)
    with pytest.raises(Exception, match="14000 elements"):
        _decode(ask, plenty, limits)


def _decode(ask: Ask, body: Any, limits: RequestLimits) -> None:
    from raymlops.serving.protocol.columns import Column
    from raymlops.serving.protocol.mlflow_codec import decode
    from raymlops.tensors import TensorSpec

    known = {name: Column(TensorSpec(name, "FP32", (-1,)), "number") for name in ("distance", "a", "b")}
    decode(json.dumps(body).encode(), "application/json", known, limits)


def test_outputs_without_a_common_first_dimension_are_not_paired(ask: Ask) -> None:
    for rows in (1, 3):
        asked = {"instances": [float(row) for row in range(rows)]}
        response = ask("POST", "/v1/models/widener:predict", json=asked)
        assert response.status_code == 400
        assert "common first dimension" in response.json()["error"]
        apart = ask("POST", "/invocations/widener", json=asked).json()["predictions"]
        assert apart == {"wide": [[value] * 1000 for value in asked["instances"]], "top": rows - 1}
    both = {"INPUT0": [[1] * 16] * 2, "INPUT1": [[2] * 16] * 2}
    predictions = ask("POST", "/invocations/adder", json={"inputs": both}).json()["predictions"]
    assert [row[0] for row in predictions["OUTPUT0"]] == [3, 3]


def test_columns_of_records_keep_the_order_of_the_first_row(ask: Ask) -> None:
    rows = [{"a": 1, "b": 2, "c": 3}, {"c": 30, "a": 10, "b": 20}]
    response = ask("POST", "/invocations/doubler", json={"dataframe_records": rows})
    assert response.json()["predictions"] == {"y": [[2, 4, 6], [20, 40, 60]]}
    rows[1] = {"a": 1, "b": 2, "d": 3}
    assert ask("POST", "/invocations/doubler", json={"dataframe_records": rows}).status_code == 400
    split = {"columns": ["a", "a", "b"], "data": [[1, 2, 3]]}
    assert ask("POST", "/invocations/doubler", json={"dataframe_split": split}).status_code == 400


def test_a_compressed_body_of_several_streams_is_refused(ask: Ask) -> None:
    body = gzip.compress(json.dumps(infer_body([1, 2, 3], [1, 3])).encode())
    headers = {"Content-Encoding": "gzip"}
    for more in (gzip.compress(b" "), b"\0", b"abc"):
        response = ask("POST", "/v2/models/doubler/infer", content=body + more, headers=headers)
        assert response.status_code == 400


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "HEAD", "SPAM"])
def test_a_method_that_a_path_does_not_take_is_told_which_it_takes(ask: Ask, method: str) -> None:
    response = ask(method, "/v2/models/doubler/infer")
    assert response.status_code == 405
    assert response.headers["allow"] == "OPTIONS, POST"


def test_names_of_any_length_are_refused_at_once(plane: DataPlane, ask: Ask) -> None:
    long = "doubler" * 100_000
    began = time.process_time()
    for body in ({"inputs": [{**X, "name": long}]}, {"inputs": [X], "outputs": [long]}, {long: 1}):
        response = ask("POST", "/v2/models/doubler/infer", json=body)
        assert response.status_code == 400
        assert len(response.content) < 3_000
    assert len(ask("GET", "/" + "a" * 60_000).content) < 3_000
    assert time.process_time() - began < 5


class Body:
    """An ASGI body that counts what was read of it."""

    def __init__(self, *parts: bytes) -> None:
        self.parts, self.read = list(parts), 0

    async def receive(self) -> dict[str, Any]:
        if not self.parts:
            await asyncio.Event().wait()
        self.read += 1
        return {"type": "http.request", "body": self.parts.pop(0), "more_body": True}


async def start(plane: DataPlane, body: Body, *headers: tuple[bytes, bytes]) -> tuple[int, Body]:
    """The status that is answered before the body is whole."""
    status: list[int] = []

    async def send(message: Any) -> None:
        status.append(message.get("status", 0))

    path = "/v2/models/doubler/infer"
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": list(headers),
        "client": ("127.0.0.1", 1),
    }
    async with asyncio.timeout(20):
        await plane(scope, body.receive, send)
    return status[0], body


def test_without_a_key_no_body_is_read(tmp_path: pathlib.Path) -> None:
    _, key = make_key("app", ["infer", "view"])
    plane = make_plane(tmp_path, {"doubler": toy_models.doubler()}, keys=KeyRing([key]))
    status, body = asyncio.run(start(plane, Body(b"{")))
    assert (status, body.read) == (401, 0)


def test_a_request_takes_a_place_when_it_is_whole(plane: DataPlane) -> None:
    async def run() -> None:
        dripping = [asyncio.create_task(start(plane, Body(b"{"))) for _ in range(2 * plane.hosts.queue)]
        await asyncio.sleep(0.05)
        assert plane.hosts.pending == 0
        transport = httpx.ASGITransport(app=plane)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            response = await client.post("/v2/models/doubler/infer", json=infer_body([1, 2, 3], [1, 3]))
        assert response.status_code == 200
        for task in dripping:
            task.cancel()
        await asyncio.gather(*dripping, return_exceptions=True)

    asyncio.run(run())


def test_large_bodies_share_a_budget_and_give_it_back(tmp_path: pathlib.Path) -> None:
    plane = make_plane(tmp_path, {"doubler": toy_models.doubler()}, large_bodies_limit=150_000)
    large = json.dumps(infer_body([0.123456] * 3_000, [1_000, 3])).encode() + b" " * 100_000

    async def run() -> None:
        first = asyncio.create_task(start(plane, Body(b" " * 100_000)))
        await asyncio.sleep(0.05)
        transport = httpx.ASGITransport(app=plane)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            path = "/v2/models/doubler/infer"
            assert (await client.post(path, content=large)).status_code == 503
            assert (await client.post(path, json=infer_body([1, 2, 3], [1, 3]))).status_code == 200
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            assert (await client.post(path, content=large)).status_code == 200

    asyncio.run(run())


def test_what_is_remembered_of_paths_is_bounded_in_bytes(tmp_path: pathlib.Path) -> None:
    token, key = make_key("app", ["infer", "view"])
    plane = make_plane(tmp_path, {"doubler": toy_models.doubler()}, keys=KeyRing([key]))
    ask = make_ask(plane)
    for number in range(300):
        ask("GET", f"/v2/models/doubler/versions/{number}")
    assert not plane._known
    headers = {"Authorization": f"Bearer {token}"}
    ask("GET", f"/v2/models/doubler/versions/{'9' * 10_000}", headers=headers)
    assert not plane._known
    ask("GET", "/v2/models/doubler", headers=headers)
    assert len(plane._known) == 1


def test_the_cause_of_a_fault_of_ours_stays_in_the_log() -> None:
    for error in (NodeError("Node 'a' failed: KeyError: /secret/path", "a"), KeyError("/secret/path")):
        told = open_inference.describe_error(error, "id-1")
        assert "secret" not in told["error"]
        assert "id-1" in told["error"]
        assert told["status"] == 500
