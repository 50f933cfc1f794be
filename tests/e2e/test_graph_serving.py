"""Every example of a composition, through HTTP on one server; weights that change, and models loaded on demand."""

import concurrent.futures
import copy
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http
import yaml

from examples import digits, tables
from examples import models as examples_models
from examples.ocr.lettering import draw_page
from raymlops.lifecycle.govern.register import promote_version, register_file
from raymlops.models.session import open_session
from raymlops.runtime.open_graph import OfflineGraph
from raymlops.serving.deploy.config_files import read_graphs
from raymlops.serving.transport.api_keys import make_key
from raymlops.serving.transport.key_files import write_keys
from raymlops.specs.graph import GraphSpec
from raymlops.tensors import Batch
from tests import toy_models
from tests.conftest import settings_in
from tests.graph_models import ask, make_mlp
from tests.serving_process import Served, serve_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted(ROOT.glob("serve_configs/*.yaml"))
EXAMPLES = [path for path in FILES if path.name.startswith("graph_")]
OCR = ROOT / "examples/ocr/serving.yaml"
TOKENS: dict[str, str] = {}


def make_models(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """What the files name, made by the documented command: path as it is named -> where it is. The champion of the
    main job, which takes minutes, is registered by hand."""
    settings = settings_in(folder / "home")
    file = toy_models.save(tables.flights(), folder / "flights.onnx")
    version, _ = register_file(file, "flights", "test", settings)
    promote_version("flights", version, "champion", "test", settings, force=True)
    command = [sys.executable, "-m", "examples.models", *map(str, FILES), str(OCR)]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "RAYMLOPS_HOME": str(folder / "home"), "PYTHONPATH": paths}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name: folder / name for name in examples_models.FILES} | {
        "models/expensive": folder / "models/expensive"
    }


def place(value: Any, files: dict[str, pathlib.Path]) -> Any:
    """An example with its models where this test has put them."""
    if isinstance(value, dict):
        return {key: place(inner, files) for key, inner in value.items()}
    if isinstance(value, list):
        return [place(inner, files) for inner in value]
    return str(files.get(value, value)) if isinstance(value, str) else value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    return make_models(folder)


@pytest.fixture(scope="module")
def served(folder: pathlib.Path, files: dict[str, pathlib.Path]) -> Iterator[Served]:
    """All that the files serve, from one application."""
    keys = []
    for name, roles in (("app", ("infer", "view")), ("ops", ("admin",))):
        TOKENS[name], key = make_key(name, roles)
        keys.append(key)
    write_keys(folder / "app_keys.yaml", keys)
    documents = {path.stem: place(yaml.safe_load(path.read_text()), files) for path in [*FILES, OCR]}
    graphs: dict[str, Any] = {}
    models: dict[str, Any] = {}
    for document in documents.values():
        graphs |= document.get("graphs", {})
        models |= document.get("models", {})
    models |= documents["flights"]["applications"][0]["args"]["models"]
    graphs["digits-cascade"]["nodes"]["large"]["resources"]["cpus"] = 0.1
    shutil.copy(OCR.with_name("ocr_nodes.py"), folder)
    graphs["ocr-apart"] = copy.deepcopy(graphs["ocr"])
    for name in ("regions", "recognise"):
        graphs["ocr-apart"]["nodes"][name] |= {"placement": "separate", "resources": {"cpus": 0.05}}
    size = files["models/customers/c0.onnx"].stat().st_size
    many = {"folder": str(folder / documents["many"]["many"]["folder"]), "memory_mb": 2.5 * size / 1e6}
    spec = {
        "graphs": graphs,
        "models": models,
        "cpus": 0.2,
        "keys": str(folder / "app_keys.yaml"),
        "many": many,
    }
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


@pytest.mark.parametrize("path", [*FILES, OCR], ids=lambda path: path.stem)
def test_each_file_says_by_what_command_it_runs_from_a_bare_clone(path: pathlib.Path) -> None:
    head = path.read_text().partition("name: ")[0]
    assert f"#   make serve SERVING={path.relative_to(ROOT)}\n" in head
    assert list(examples_models.find_named(path))


def test_every_model_of_the_files_answers(client: httpx.Client) -> None:
    schema = client.get("/openapi.json").json()["paths"]
    asked = {
        path: schema[path]["post"] for path in schema if path.endswith("/infer") and "versions" not in path
    }
    names = {path.split("/")[3] for path in asked}
    assert names >= {
        "flights",
        "small",
        "expensive",
        "c0",
        "chain",
        "digits",
        "one",
        "ocr",
        "flights-release",
    }
    for path, how in asked.items():
        example = how["requestBody"]["content"]["application/json"]["example"]
        response = client.post(path, json=example)
        assert response.status_code == 200, response.text


def test_one_model_as_a_graph_answers_as_the_model(client: httpx.Client) -> None:
    expected = open_session(tables.flights().SerializeToString()).infer(flights())
    answer = ask(client, "one", flights())
    np.testing.assert_allclose(answer["probability"], expected["probability"], rtol=1e-6)
    assert answer["label"].tolist() == expected["label"].tolist()


def test_an_ensemble_weighs_probabilities_and_counts_votes(client: httpx.Client) -> None:
    plain = open_session(tables.flights().SerializeToString()).infer(flights())
    wide = open_session(tables.flights(0.3).SerializeToString()).infer(flights())
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
    pixels = digits.load_digits().data[1500:1600].astype(np.float32)
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
    images, held = digits.draw_images(12)
    answer = ask(client, "digits", images)
    assert answer["label_lengths"].tolist() == [len(digits) for digits in held]
    flat = [digit for digits in held for digit in digits]
    assert np.mean(answer["label"] == flat) > 0.75  # as the small classifier does on whole digits
    assert answer["probability"].shape == (len(flat), 10)


@pytest.mark.parametrize(("height", "width", "words"), [(2580, 2584, 60), (333, 900, 7), (64, 64, 0)])
def test_a_page_is_read_the_same_fused_in_replicas_of_its_own_and_offline(
    served: Served, files: dict[str, pathlib.Path], height: int, width: int, words: int
) -> None:
    page = draw_page(height, width, words, seed=width)
    client = tritonclient.http.InferenceServerClient(f"127.0.0.1:{served.port}", network_timeout=60)
    tensor = tritonclient.http.InferInput("image", [1, height, width, 3], "UINT8")
    tensor.set_data_from_numpy(page.image[None])
    headers = {"Authorization": f"Bearer {TOKENS['app']}"}
    answers = [client.infer(name, [tensor], headers=headers) for name in ("ocr", "ocr-apart")]
    (spec,) = read_graphs(OCR)
    spec = GraphSpec.model_validate(place(spec.model_dump(exclude_unset=True), files))
    offline = OfflineGraph(spec).infer({"image": page.image[None]})
    assert offline["texts"].tolist() == list(page.words)
    assert np.array_equal(offline["boxes"], page.boxes)
    for answer in answers:
        assert [text.decode() for text in answer.as_numpy("texts")] == list(page.words)
        for name in offline.keys() - {"texts"}:
            assert np.array_equal(answer.as_numpy(name), offline[name])


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
    assert "flights-release canary: challenger=1, steady=0 are kept, as set while it served" in told
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
    return {entry["name"]: entry["state"] for entry in found if re.fullmatch(r"c\d", entry["name"])}


def test_models_are_loaded_on_demand_within_the_budget_and_steered_by_hand(client: httpx.Client) -> None:
    x = {"x": np.ones((2, 20), np.float32)}
    assert set(index(client)) == {f"c{i}" for i in range(6)}
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda i: ask(client, f"c{i % 6}", x), range(60)))
    for i, answer in enumerate(answers):
        expected = open_session(make_mlp(i % 6, outputs=1).SerializeToString()).infer(x)
        np.testing.assert_allclose(answer["y"], expected["y"], rtol=1e-5)
    assert list(index(client).values()).count("READY") == 2  # as the budget allows
    ops = {"Authorization": f"Bearer {TOKENS['ops']}"}
    assert client.post("/v2/repository/models/c3/unload", headers=ops).status_code == 200
    refused = client.post("/v2/models/c3/infer", json={"inputs": [
        {"name": "x", "datatype": "FP32", "shape": [1, 20], "data": [0.0] * 20}]})  # fmt: skip
    assert refused.status_code == 404
    assert "/v2/repository/models/c3/load" in refused.json()["error"]
    assert client.post("/v2/repository/models/c3/load", headers=ops).status_code == 200
    assert index(client)["c3"] == "READY"
    assert client.post("/v2/repository/models/c3/unload").status_code == 403
    wrong = client.post("/v2/repository/models/nobody/load", headers=ops)
    assert wrong.status_code == 404
