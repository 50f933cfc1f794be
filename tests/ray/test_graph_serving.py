"""Every example of a composition, through HTTP on one server; weights that change, and models loaded on demand."""

import concurrent.futures
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
import yaml

from raymlops.models.session import open_session
from raymlops.serving.key_files import write_keys
from raymlops.serving.keys import make_key
from raymlops.specs.document import read_document
from raymlops.specs.serving import ServingSpec
from raymlops.tensors import Batch
from tests import digits_models, toy_models
from tests.graph_models import ask, make_mlp
from tests.serving_process import Served, serve_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

EXAMPLES = sorted((pathlib.Path(__file__).parents[2] / "serve_configs").glob("graph_*.yaml"))
TOKENS: dict[str, str] = {}


def save_models(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """What the examples name -> a file."""
    other = toy_models.flights()
    for tensor in other.graph.initializer:
        if tensor.name == "low":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(0.3, np.float32), "low"))
    made = {
        "models:/flights@champion": toy_models.flights(),
        "models:/flights@challenger": other,
        "models:/flights-wide@champion": other,
        "models/digits_small.onnx": digits_models.classify(200),
        "models/digits_large.onnx": digits_models.classify(1500),
        "models/detect.onnx": digits_models.detect(),
        "models/crop.onnx": digits_models.crop(),
        "models/embed.onnx": make_mlp(1),
        "models/refine.onnx": make_mlp(2),
        "models/judge.onnx": make_mlp(3, outputs=1),
    }
    return {
        name: toy_models.save(model, folder / f"{i}.onnx") for i, (name, model) in enumerate(made.items())
    }


def place(value: Any, files: dict[str, pathlib.Path]) -> Any:
    """An example with its models where this test has put them."""
    if isinstance(value, dict):
        return {key: place(inner, files) for key, inner in value.items()}
    if isinstance(value, list):
        return [place(inner, files) for inner in value]
    return str(files.get(value, value)) if isinstance(value, str) else value


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, files: dict[str, pathlib.Path]) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("serving")
    zoo = folder / "zoo"
    zoo.mkdir()
    for i in range(6):
        toy_models.save(make_mlp(i, outputs=1), zoo / f"m{i}.onnx")
    keys = []
    for name, roles in (("app", ("infer", "view")), ("ops", ("admin",))):
        TOKENS[name], key = make_key(name, roles)
        keys.append(key)
    write_keys(folder / "keys.yaml", keys)
    graphs: dict[str, Any] = {}
    for example in EXAMPLES:
        graphs |= place(yaml.safe_load(example.read_text()), files)["graphs"]
    graphs["digits-cascade"]["nodes"]["large"]["resources"]["cpus"] = 0.1
    size = (zoo / "m0.onnx").stat().st_size
    many = {"folder": str(zoo), "memory_mb": 2.5 * size / 1e6}
    spec = {"graphs": graphs, "cpus": 0.2, "keys": str(folder / "keys.yaml"), "many": many}
    yield from serve_for(folder, spec)


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {TOKENS['app']}"}
    with httpx.Client(base_url=served.url, headers=headers, timeout=60) as client:
        yield client


def read_stats(client: httpx.Client, name: str) -> dict[str, Any]:
    return client.get(f"/v2/models/{name}/stats").json()["model_stats"][0]


def flights(rows: int = 4) -> Batch:
    return {
        "distance": np.linspace(100, 2000, rows).astype(np.float32),
        "carrier": np.array(["UA", "AA", "UA", "??"][:rows], dtype=object),
        "departure": np.full(rows, 1372680000000, np.int64),
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_a_valid_serving_spec(path: pathlib.Path) -> None:
    assert read_document(path, ServingSpec).graphs


def test_one_model_as_a_graph_answers_as_the_model(
    client: httpx.Client, files: dict[str, pathlib.Path]
) -> None:
    expected = open_session(files["models:/flights@champion"]).infer(flights())
    answer = ask(client, "one", flights())
    np.testing.assert_allclose(answer["probability"], expected["probability"], rtol=1e-6)
    assert answer["label"].tolist() == expected["label"].tolist()


def test_an_ensemble_weighs_probabilities_and_counts_votes(
    client: httpx.Client, files: dict[str, pathlib.Path]
) -> None:
    plain = open_session(files["models:/flights@champion"]).infer(flights())
    wide = open_session(files["models:/flights-wide@champion"]).infer(flights())
    answer = ask(client, "flights-ensemble", flights())
    expected = 0.4 * plain["probability"] + 0.6 * wide["probability"]
    np.testing.assert_allclose(answer["probability"], expected, rtol=1e-6)
    assert answer["label"].tolist() == wide["label"].tolist()


def test_times_written_as_text_reach_the_graph_as_they_reach_the_model(client: httpx.Client) -> None:
    inputs = [
        {"name": "distance", "datatype": "FP32", "shape": [1], "data": [None]},
        {"name": "carrier", "datatype": "BYTES", "shape": [1], "data": [None]},
        {"name": "departure", "datatype": "BYTES", "shape": [1], "data": ["2013-07-01T12:00:00Z"]},
    ]
    response = client.post("/v2/models/flights-ensemble/infer", json={"inputs": inputs})
    assert response.status_code == 200, response.text


def test_a_cascade_sends_unsure_rows_to_the_large_model_in_its_own_replica(
    client: httpx.Client, files: dict[str, pathlib.Path]
) -> None:
    pixels = digits_models.load_digits().data[1500:1600].astype(np.float32)
    answer = ask(client, "digits-cascade", {"pixels": pixels})
    small = open_session(files["models/digits_small.onnx"]).infer({"pixels": pixels})
    large = open_session(files["models/digits_large.onnx"]).infer({"pixels": pixels})
    sure = small["probability"].max(axis=1) >= 0.9
    assert 0 < sure.sum() < 100
    np.testing.assert_allclose(
        answer["probability"],
        np.where(sure[:, None], small["probability"], large["probability"]),
        rtol=1e-4,
        atol=1e-6,
    )
    placements = read_stats(client, "digits-cascade")["placements"]
    assert placements["large"]["place"] == "separate"
    assert placements["small"]["place"] == "fused"


def test_a_chain_is_merged_and_answers_as_its_parts(
    client: httpx.Client, files: dict[str, pathlib.Path]
) -> None:
    x = np.random.default_rng(0).normal(size=(5, 20)).astype(np.float32)
    answer = ask(client, "chain", {"x": x})
    for name in ("embed", "refine", "judge"):
        x = open_session(files[f"models/{name}.onnx"]).infer({"x": x})["y"]
    np.testing.assert_allclose(answer["y"], x, rtol=1e-5)
    assert list(read_stats(client, "chain")["nodes"]) == ["embed+refine+judge"]


def test_digits_are_found_cropped_and_classified_image_by_image(client: httpx.Client) -> None:
    images, held = digits_models.draw_images(12)
    answer = ask(client, "digits", images)
    assert answer["label_lengths"].tolist() == [len(digits) for digits in held]
    flat = [digit for digits in held for digit in digits]
    assert np.mean(answer["label"] == flat) > 0.75  # as the small classifier does on whole digits
    assert answer["probability"].shape == (len(flat), 10)


def test_a_release_keeps_callers_on_their_side_and_compares_in_the_shadow(client: httpx.Client) -> None:
    sides: dict[str, set[float]] = {}
    for _ in range(3):
        for i in range(60):
            answer = ask(client, "flights-release", flights(1), **{"X-Request-Key": f"caller{i}"})
            sides.setdefault(f"caller{i}", set()).add(round(float(answer["probability"][0]), 3))
    assert all(len(seen) == 1 for seen in sides.values())
    ends = time.monotonic() + 30
    while not read_stats(client, "flights-release")["shadows"]["steady"]["compared"]:
        assert time.monotonic() < ends
        ask(client, "flights-release", flights(1), **{"X-Request-Key": "caller0"})
        time.sleep(0.05)
    shadow = read_stats(client, "flights-release")["shadows"]["steady"]
    assert shadow["failed"] == 0
    assert shadow["different"] == shadow["compared"]  # the two models never agree
    assert 0.04 < shadow["largest"] < 0.06


def test_weights_change_without_a_restart_and_stay_with_the_next_deployment(
    served: Served, client: httpx.Client
) -> None:
    version = client.get("/v2/models/flights-release").json()["versions"]
    before = read_stats(client, "flights-release")["inference_count"]
    shares = ["steady=0", "challenger=1"]
    served.run("weights", "raymlops", "flights-release", "canary", *shares)
    assert read_stats(client, "flights-release")["weights"]["canary"] == {"steady": 0.0, "challenger": 1.0}
    answer = ask(client, "flights-release", flights(1), **{"X-Request-Key": "anybody"})
    assert answer["probability"][0] == pytest.approx(0.8)
    assert client.get("/v2/models/flights-release").json()["versions"] == version
    told = served.run("deploy", str(served.folder / "serving.yaml"))
    assert "flights-release canary: steady=0, challenger=1 stay, as set while it served" in told
    assert read_stats(client, "flights-release")["weights"]["canary"] == {"steady": 0.0, "challenger": 1.0}
    assert read_stats(client, "flights-release")["inference_count"] == before + 1  # the same replica


def test_a_graph_tells_what_it_takes_and_refuses_what_it_does_not(client: httpx.Client) -> None:
    described = client.get("/v2/models/chain").json()
    assert described["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 20]}]
    wrong = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}
    response = client.post("/v2/models/chain/infer", json=wrong)
    assert response.status_code == 400
    assert "but the model takes x: FP32[-1,20]" in response.json()["error"]


def index(client: httpx.Client) -> dict[str, str]:
    found = client.post("/v2/repository/index", json={}).json()
    return {entry["name"]: entry["state"] for entry in found if entry["name"].startswith("m")}


def test_models_are_loaded_on_demand_within_the_budget_and_steered_by_hand(client: httpx.Client) -> None:
    x = {"x": np.ones((2, 20), np.float32)}
    assert set(index(client)) == {f"m{i}" for i in range(6)}
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda i: ask(client, f"m{i % 6}", x), range(60)))
    for i, answer in enumerate(answers):
        expected = open_session(make_mlp(i % 6, outputs=1).SerializeToString()).infer(x)
        np.testing.assert_allclose(answer["y"], expected["y"], rtol=1e-5)
    assert list(index(client).values()).count("READY") == 2  # as the budget allows
    ops = {"Authorization": f"Bearer {TOKENS['ops']}"}
    assert client.post("/v2/repository/models/m3/unload", headers=ops).status_code == 200
    refused = client.post("/v2/models/m3/infer", json={"inputs": [
        {"name": "x", "datatype": "FP32", "shape": [1, 20], "data": [0.0] * 20}]})  # fmt: skip
    assert refused.status_code == 404
    assert "/v2/repository/models/m3/load" in refused.json()["error"]
    assert client.post("/v2/repository/models/m3/load", headers=ops).status_code == 200
    assert index(client)["m3"] == "READY"
    assert client.post("/v2/repository/models/m3/unload").status_code == 403
    wrong = client.post("/v2/repository/models/nobody/load", headers=ops)
    assert wrong.status_code == 404
