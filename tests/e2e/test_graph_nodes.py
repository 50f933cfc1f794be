"""Separate nodes on a real server: they answer as fused ones do, outlive a replica, and say when they are full."""

import concurrent.futures
import functools
import json
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import hypothesis
import numpy as np
import psutil
import pytest
import tritonclient.grpc
import tritonclient.http

from raymlops.graphs.validation import list_leaves
from raymlops.runtime.open_graph import OfflineGraph
from raymlops.specs.graph import GraphSpec
from raymlops.tensors import Batch
from tests import own_kinds, toy_models
from tests.graph_models import ask, batches, decode, encode, graphs, read_model
from tests.serving_process import Served, serve_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ROW = {"x": np.ones((1, 3), np.float32)}
ONGOING, QUEUED = 64, 8
"""Requests that one replica of a node takes at a time, and those that may wait for it, in the graph `full`."""


GRAPHS = 3


@functools.cache
def draw_graphs() -> list[tuple[GraphSpec, list[Batch]]]:
    """Random graphs of a few models and ever other kinds of nodes, the same ones every time, each with requests."""
    found: list[tuple[GraphSpec, list[Batch]]] = []

    @hypothesis.settings(max_examples=200, database=None, phases=[hypothesis.Phase.generate])
    @hypothesis.given(graphs(), hypothesis.strategies.lists(batches(), min_size=3, max_size=3))
    def collect(spec: GraphSpec, requests: list[Batch]) -> None:
        kinds = {node.kind for node in spec.nodes.values()}
        known = {node.kind for other, _ in found for node in other.nodes.values()}
        few = len(list(list_leaves(spec))) <= 6
        if len(found) < GRAPHS and few and len(kinds - known - {"model"}) >= 2:
            found.append((spec, requests))

    collect()
    return found


def place(spec: GraphSpec, folder: pathlib.Path, **changes: Any) -> dict[str, Any]:
    """The graph as a document whose models are files, with every leaf changed alike."""

    def change(document: Any) -> Any:
        if isinstance(document, list):
            return [change(inner) for inner in document]
        if not isinstance(document, dict):
            return document
        if document.get("kind") == "python":
            return document | changes
        if document.get("kind") != "model":
            return {key: change(inner) for key, inner in document.items()}
        path = folder / f"{document['model']}.onnx"
        path.write_bytes(read_model(document["model"]))
        return document | {"model": str(path)} | changes

    return change(spec.model_dump(mode="json", exclude_unset=True))  # type: ignore[no-any-return]


def make_gate(folder: pathlib.Path, **resources: Any) -> dict[str, Any]:
    folder.mkdir()
    node = {
        "kind": "python",
        "target": "tests.graph_models:Gate",
        "config": {"folder": str(folder)},
        "takes": [{"name": "x", "shape": [-1, 3]}],
        "outputs": [{"name": "pid", "datatype": "INT64"}],
        "resources": {"cpus": 0.05, **resources},
    }
    return {"inputs": [{"name": "x", "shape": [-1, 3]}], "nodes": {"gate": node}, "outputs": ["gate"]}


def make_witness() -> dict[str, Any]:
    node = {
        "kind": "python",
        "target": "tests.graph_models:Witness",
        "takes": [{"name": "x", "shape": [-1, 3]}],
        "outputs": [{"name": name, "datatype": "BYTES"} for name in ("id", "parent", "state")],
        "placement": "separate",
        "resources": {"cpus": 0.05},
    }
    return {"inputs": [{"name": "x", "shape": [-1, 3]}], "nodes": {"witness": node}, "outputs": ["witness"]}


def make_apart(folder: pathlib.Path) -> dict[str, Any]:
    path = toy_models.save(toy_models.doubler(), folder / "doubler.onnx")
    node = {"kind": "model", "model": str(path), "placement": "separate", "resources": {"cpus": 0.05}}
    return {"inputs": [{"name": "x", "shape": [-1, 3]}], "nodes": {"double": node}, "outputs": ["double"]}


def make_held(folder: pathlib.Path) -> dict[str, Any]:
    """A separate model, and beside the requests a node of a kind of the user's own, whose module is in the folder."""
    shutil.copy(own_kinds.__file__, folder / "own_kinds.py")
    held = {"kind": "own_kinds:Clip", "of": ["double.y"], "high": 1.5}
    apart = make_apart(folder)
    return {**apart, "nodes": {**apart["nodes"], "held": held}, "outputs": {"y": "held.y"}}


MODULE = """
import os, pathlib, time
import numpy as np
from answers import describe

class Picture:
    def run(self, batch):
        images = batch["image"]
        images += 0  # a node may write to what it is given, however that came
        size = np.full(len(images), images[0].size)
        return {"last": images[:, -1, -1, -1], "size": size, "copy": images, "told": describe(len(images))}

class Hanging:
    def __init__(self, folder):
        self._file = pathlib.Path(folder) / "sick"

    def check_health(self):
        if self._file.exists() and self._file.read_text() == str(os.getpid()):
            raise RuntimeError("sick")

    def run(self, batch):
        while not batch["x"].any():
            time.sleep(0.05)
        return {"pid": np.full(len(batch["x"]), os.getpid())}
"""
"""Of nodes in replicas of their own, beside the serving file."""
ANSWERS = "import numpy as np\n\ndef describe(rows):\n    return np.array(['seen'] * rows, object)\n"


def make_own(
    name: str, inputs: list[dict[str, Any]], outputs: dict[str, Any], **changes: Any
) -> dict[str, Any]:
    """A graph of one node of `MODULE`."""
    node = {
        "kind": "python",
        "target": f"own_nodes:{name}",
        "takes": inputs,
        "outputs": [{"name": key, **spec} for key, spec in outputs.items()],
        "resources": {"cpus": 0.05},
    }
    return {"nodes": {"own": node | changes.pop("node", {})}, "outputs": ["own"], **changes}


def make_own_graphs(folder: pathlib.Path) -> dict[str, Any]:
    (folder / "own_nodes.py").write_text(MODULE)
    (folder / "answers.py").write_text(ANSWERS)
    image = {"datatype": "UINT8", "shape": [-1, -1, -1, 3]}
    seen = {
        "last": {"datatype": "UINT8"},
        "size": {"datatype": "INT64"},
        "copy": image,
        "told": {"datatype": "BYTES"},
    }
    rows, pid = [{"name": "x", "shape": [-1, 3]}], {"pid": {"datatype": "INT64"}}
    return {
        "picture": make_own("Picture", [{"name": "image", **image}], seen),
        "held": make_held(folder),
        "hanging": make_own("Hanging", rows, pid, deadline_s=2, node={"config": {"folder": str(folder)}}),
    }


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("nodes")
    served_graphs: dict[str, Any] = {
        "full": make_gate(folder / "full", queue=QUEUED),
        "dying": make_gate(folder / "dying", replicas=2),
        "witness": make_witness(),
        "apart": make_apart(folder),
        **make_own_graphs(folder),
    }
    for i, (spec, _) in enumerate(draw_graphs()):
        served_graphs[f"fused{i}"] = place(spec, folder, placement="fused") | {"merge": False}
        served_graphs[f"merged{i}"] = place(spec, folder, placement="fused")
        served_graphs[f"separate{i}"] = place(spec, folder, placement="separate", resources={"cpus": 0.05})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_DEDUP_LOGS", "0")
        spec = {"graphs": served_graphs, "cpus": 0.1, "access_log": 1.0, "grpc_port": 1}
        yield from serve_for(folder, spec)


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=120) as client:
        yield client


def wait_until(find: Callable[[], Any], seconds: float = 60) -> Any:
    ends = time.monotonic() + seconds
    while not (found := find()):
        assert time.monotonic() < ends
        time.sleep(0.05)
    return found


@pytest.mark.parametrize("number", range(GRAPHS))
def test_a_random_graph_answers_the_same_fused_merged_separate_and_offline(
    client: httpx.Client, tmp_path: pathlib.Path, number: int
) -> None:
    spec, requests = draw_graphs()[number]
    offline = OfflineGraph(GraphSpec.model_validate(place(spec, tmp_path)))
    for batch in requests:
        expected = offline.infer(batch)
        for placed in ("fused", "merged", "separate"):
            answer = ask(client, f"{placed}{number}", batch)
            assert answer.keys() == expected.keys()
            for name, values in expected.items():
                np.testing.assert_allclose(answer[name], values, rtol=1e-5, atol=1e-6, err_msg=placed)


@pytest.mark.parametrize("placed", ["fused", "merged", "separate"])
@pytest.mark.parametrize("number", range(GRAPHS))
def test_requests_that_come_together_get_the_answers_of_their_own(
    client: httpx.Client, tmp_path: pathlib.Path, number: int, placed: str
) -> None:
    spec, requests = draw_graphs()[number]
    offline = OfflineGraph(GraphSpec.model_validate(place(spec, tmp_path)))
    expected = [offline.infer(batch) for batch in requests]
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        numbers = [i % len(requests) for i in range(64)]
        answers = threads.map(lambda i: ask(client, f"{placed}{number}", requests[i]), numbers)
        for i, answer in zip(numbers, answers, strict=True):
            for name, values in expected[i].items():
                np.testing.assert_allclose(answer[name], values, rtol=1e-5, atol=1e-6)


def test_the_random_graphs_are_of_many_kinds_and_all_their_leaves_are_separate(client: httpx.Client) -> None:
    kinds = {node.kind for spec, _ in draw_graphs() for node in spec.nodes.values()}
    assert len(kinds) >= 6
    for i, (spec, _) in enumerate(draw_graphs()):
        stats = client.get(f"/v2/models/separate{i}/stats").json()["model_stats"][0]
        assert [placed["place"] for placed in stats["placements"].values()] == ["separate"] * len(
            list(list_leaves(spec))
        )


def test_a_node_of_a_kind_of_ones_own_answers_and_is_counted(client: httpx.Client) -> None:
    x = np.array([[-1, 0.5, 3]], np.float32)
    assert ask(client, "held", {"x": x})["y"].tolist() == [[0, 1, 1.5]]
    nodes = client.get("/v2/models/held/stats").json()["model_stats"][0]["nodes"]
    assert nodes["held"]["failures"] == 0
    assert nodes["held"]["requests"] >= 1


def test_a_request_whose_replica_dies_is_not_sent_to_another_and_the_next_ones_are(
    served: Served, client: httpx.Client
) -> None:
    folder = served.folder / "dying"
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.post, "/v2/models/dying/infer", json=encode(ROW))
        (entered,) = wait_until(lambda: list(folder.glob("entered-*")))
        first = int(entered.name.partition("-")[2])
        psutil.Process(first).kill()
        (folder / "open").touch()
        told = waiting.result()
    assert (told.status_code, told.headers["retry-after"]) == (503, "1")
    assert "not sent to another" in told.json()["error"]
    assert [path.name for path in folder.glob("entered-*")] == [entered.name]
    for _ in range(20):
        assert ask(client, "dying", ROW)["pid"][0] != first


def test_a_full_node_is_named_with_503_and_those_inside_are_answered(
    served: Served, client: httpx.Client
) -> None:
    folder, count = served.folder / "full", ONGOING + QUEUED + 20

    def post(_: int) -> httpx.Response:
        return httpx.post(f"{served.url}/v2/models/full/infer", json=encode(ROW), timeout=120)

    with concurrent.futures.ThreadPoolExecutor(count) as threads:
        asked = [threads.submit(post, i) for i in range(count)]
        refused = wait_until(
            lambda: [one.result() for one in asked if one.done() and one.result().status_code == 503]
        )
        (folder / "open").touch()
        statuses = [found.result().status_code for found in asked]
    assert "Node 'gate'" in refused[0].json()["error"]
    assert "queue is full" in refused[0].json()["error"]
    assert int(refused[0].headers["retry-after"]) >= 1
    assert statuses.count(200) >= QUEUED  # those on their way to the replica count as waiting, too
    assert {200, 503} <= set(statuses) <= {200, 503, 504}  # a busy machine may let some wait too long
    assert decode(post(0))["pid"][0]


@pytest.fixture(scope="module")
def sick(served: Served, client: httpx.Client) -> int:
    """The process of a node whose check of health fails from here on."""
    process = int(ask(client, "hanging", ROW)["pid"][0])
    (served.folder / "sick").write_text(str(process))
    return process


@pytest.mark.parametrize("megabytes", [1, 4, 5, 22, 63])
def test_a_separate_node_takes_and_gives_what_a_body_can_hold(served: Served, megabytes: int) -> None:
    width = megabytes * 1_000_000 // 3000
    image = np.random.default_rng(megabytes).integers(0, 256, (1, 1000, width, 3), np.uint8)
    client = tritonclient.http.InferenceServerClient(f"127.0.0.1:{served.port}", network_timeout=120)
    tensor = tritonclient.http.InferInput("image", image.shape, "UINT8")
    tensor.set_data_from_numpy(image)
    check_picture(client.infer("picture", [tensor]), image)


def test_the_same_over_grpc(served: Served) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 1000, 7400, 3), np.uint8)
    client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{served.grpc_port}")
    tensor = tritonclient.grpc.InferInput("image", image.shape, "UINT8")
    tensor.set_data_from_numpy(image)
    check_picture(client.infer("picture", [tensor]), image)


def check_picture(found: Any, image: Any) -> None:
    assert found.as_numpy("last").tolist() == [image[0, -1, -1, -1]]
    assert found.as_numpy("size").tolist() == [image.size]
    assert np.array_equal(found.as_numpy("copy"), image)
    assert list(found.as_numpy("told")) == [b"seen"]  # by a module beside the serving file


@pytest.mark.parametrize(
    ("timeout_s", "told"),
    [
        (None, ["Node 'own'", "did not answer within"]),
        (0.3, ["'hanging' did not answer within the 0.3 s asked for: Node 'own' did not"]),
    ],
)
def test_a_separate_node_that_hangs_is_named_with_504_and_others_are_answered(
    client: httpx.Client, timeout_s: float | None, told: list[str]
) -> None:
    body = encode({"x": np.zeros((1, 3), np.float32)})
    if timeout_s:
        body["parameters"] = {"timeout": 1e6 * timeout_s}
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        hanging = [threads.submit(client.post, "/v2/models/hanging/infer", json=body) for _ in range(3)]
        for waiting in hanging:
            response = waiting.result()
            assert response.status_code == 504
            for part in told:
                assert part in response.json()["error"]
    assert ask(client, "hanging", ROW)["pid"][0]


def test_inputs_without_elements_are_refused_as_by_a_model(client: httpx.Client) -> None:
    for shape in ((1, 0, 5, 3), (1, 5, 0, 3), (0, 5, 5, 3)):
        response = client.post("/v2/models/picture/infer", json=encode({"image": np.zeros(shape, np.uint8)}))
        assert response.status_code == 400, response.text
        assert "out of bounds" not in response.text


def test_the_trace_of_a_request_reaches_separate_nodes_and_their_logs(
    served: Served, client: httpx.Client
) -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    headers = {"x-request-id": "call-17", "traceparent": parent, "tracestate": "vendor=a"}
    answer = ask(client, "witness", ROW, **headers)
    assert [answer[name][0] for name in ("id", "parent", "state")] == ["call-17", parent, "vendor=a"]

    def find_line() -> dict[str, Any] | None:
        lines = [re.search(r"\{.*\"node\".*\}", line) for line in served.lines]
        entries = [json.loads(found[0]) for found in lines if found]
        return next((entry for entry in entries if entry["request_id"] == "call-17"), None)

    entry = wait_until(find_line)
    assert entry["node"] == "witness/witness"
    assert entry["trace"] == parent
    assert (entry["rows"], entry["failure"]) == (1, "")


def test_a_trace_that_the_standard_forbids_goes_no_further(client: httpx.Client) -> None:
    wrong = {"traceparent": "00-" + "0" * 32 + "-00f067aa0ba902b7-01", "tracestate": "vendor=a"}
    answer = ask(client, "witness", ROW, **wrong)
    assert (answer["parent"][0], answer["state"][0]) == ("", "")
    assert answer["id"][0]


def test_a_replica_whose_node_is_unhealthy_is_replaced(client: httpx.Client, sick: int) -> None:
    def find_other() -> bool:
        response = client.post("/v2/models/hanging/infer", json=encode(ROW))
        return response.status_code == 200 and decode(response)["pid"][0] != sick

    wait_until(find_other, 120)
