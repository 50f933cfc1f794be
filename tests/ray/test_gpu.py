"""What only a GPU can show: sessions, trials, teams and served graphs that run on one."""

import concurrent.futures
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from examples import digits
from raymlops.errors import InputError
from raymlops.lifecycle.train.develop import Request, develop_model
from raymlops.models.session import SessionOptions, open_session
from raymlops.settings import Settings
from raymlops.specs.experiment import ExperimentSpec
from raymlops.tensors import Batch
from tests import experiments, toy_models
from tests.graph_models import ask, make_mlp
from tests.serving_process import Served, serve_for

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use"),
]

ON_GPU = SessionOptions.for_device("cuda", ["0"])


def draw_flights(rows: int) -> Batch:
    draw = np.random.default_rng(rows)
    return {
        "distance": np.where(draw.random(rows) < 0.5, np.nan, 100).astype(np.float32),
        "carrier": draw.choice(["UA", "AA"], rows).astype(object),
        "departure": draw.integers(-5, 5, rows),
    }


@pytest.mark.parametrize("rows", [1, 7, 500])
def test_a_session_answers_on_the_gpu_as_on_the_cpu(rows: int) -> None:
    draw = np.random.default_rng(rows)
    for model, feed in (
        (make_mlp(0, width=256), {"x": draw.normal(size=(rows, 20)).astype(np.float32)}),
        (digits.classify(200), {"pixels": draw.random((rows, 64)).astype(np.float32)}),
        (toy_models.flights(), draw_flights(rows)),  # strings, which stay on the CPU
    ):
        data = model.SerializeToString()
        here, there = open_session(data), open_session(data, ON_GPU)
        assert there.providers[0] == "CUDAExecutionProvider"
        expected = here.infer(feed)
        for outputs in (None, [next(iter(expected))]):
            answer = there.infer(feed, outputs)
            assert list(answer) == list(expected)[: len(answer)]
            for name, values in answer.items():
                if values.dtype.kind == "f":
                    np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-5)
                else:
                    assert (values == expected[name]).all()


def test_threads_that_share_a_session_on_the_gpu_get_their_own_answers() -> None:
    session = open_session(make_mlp(0).SerializeToString(), ON_GPU)
    feeds = [np.full((i % 9 + 1, 20), i / 100, np.float32) for i in range(200)]
    alone = [session.infer({"x": feed})["y"] for feed in feeds]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        together = threads.map(lambda feed: session.infer({"x": feed})["y"], feeds)
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5)


def test_wrong_tensors_are_the_callers_fault_on_the_gpu_too() -> None:
    session = open_session(make_mlp(0).SerializeToString(), ON_GPU)
    for feed in ({}, {"x": np.zeros((1, 19), np.float32)}, {"x": np.zeros((1, 20))}, {"z": np.zeros(1)}):
        with pytest.raises(InputError, match=r"'x'|'z'"):
            session.infer(feed)
    assert session.infer({"x": np.zeros((1, 20), np.float32)})["y"].shape == (1, 20)


def learn(
    name: str,
    folder: pathlib.Path,
    settings: Settings,
    network: dict[str, Any] | None = None,
    search: dict[str, Any] | None = None,
    **training: Any,
) -> tuple[Any, list[str]]:
    """The main job on a table of a signal."""
    path = experiments.write_table(experiments.signal_table(3000), folder / "rows.parquet")
    options = {"epochs": 4, "batch_size": 64, "lr": 0.02, "use_gpu": True, **training}
    parts = {key: value for key, value in (("network", network), ("search", search)) if value is not None}
    spec: ExperimentSpec = experiments.spec_of(name, {"path": str(path)}, training=options, **parts)
    said: list[str] = []
    told = experiments.Told()
    outcome = develop_model(spec, settings, Request(why="a test"), observers=[told], tell=said.append)
    assert told.ended == dict.fromkeys(told.started)
    return outcome, said


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("training", "at_a_time"),
    [({}, 1), ({"gpus_per_worker": 0.5}, 2), ({"workers": 2, "min_workers": 1, "resize_s": 600}, 1)],
    ids=["whole", "shared", "team"],
)
def test_the_main_job_trains_on_the_gpu_and_its_model_answers_on_the_cpu(
    tmp_path: pathlib.Path, settings: Settings, training: dict[str, Any], at_a_time: int, request: Any
) -> None:
    outcome, said = learn(f"gpu-{request.node.callspec.id}", tmp_path, settings, **training)
    assert any(f"{at_a_time} at a time" in line for line in said)
    assert outcome.proof.metrics["roc_auc"] > 0.85
    assert outcome.proof.parity.difference < 1e-4
    assert outcome.proof.parity.flipped == 0
    assert outcome.version == "1"


@pytest.mark.usefixtures("ray_cluster")
def test_learners_that_train_on_the_gpu_are_blended_from_folds_into_a_file_for_the_cpu(
    tmp_path: pathlib.Path, settings: Settings
) -> None:
    search = {"learners": ["network", "realmlp", "tabm"], "trials": 3, "folds": 2}
    outcome, said = learn("gpu-learners", tmp_path, settings, network={}, search=search, epochs=2)
    tried = {trial.parameters["training.learner"] for trial in outcome.search.trials}
    assert tried == {"network", "realmlp", "tabm"}
    assert not any(trial.error for trial in outcome.search.trials)
    assert any("folds" in line for line in said)
    assert outcome.proof.metrics["roc_auc"] > 0.85
    assert outcome.proof.parity.difference < 1e-4
    assert outcome.proof.parity.flipped == 0


def on_the_gpu() -> set[int]:
    """Processes that hold its memory."""
    command = ["nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"]
    return {int(line) for line in subprocess.check_output(command, text=True).split()}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("serving")
    files = {
        name: str(toy_models.save(model, folder / f"{name}.onnx"))
        for name, model in (
            ("first", make_mlp(1)), ("second", make_mlp(2)), ("flights", toy_models.flights())
        )
    }  # fmt: skip
    chain = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 20]}],
        "nodes": {
            "one": {"kind": "model", "model": files["first"], "inputs": {"x": "inputs.x"}},
            "two": {"kind": "model", "model": files["second"], "inputs": {"x": "one.y"}},
        },
        "outputs": {"y": "two.y"},
    }
    on_gpu = {"placement": "separate", "resources": {"cpus": 0.1, "gpus": 0.25}}
    apart = {**chain, "nodes": {name: node | on_gpu for name, node in chain["nodes"].items()}}
    spec = {
        "models": {"first": {"source": files["first"]}, "flights": {"source": files["flights"]},
                   "here": {"source": files["first"], "device": "cpu"}},
        "graphs": {"fused": chain, "apart": apart},
        "cpus": 0.5,
        "gpus": 0.25,
    }  # fmt: skip
    yield from serve_for(folder, spec)


@pytest.mark.timeout(400)
def test_models_and_graphs_share_the_gpu_by_fractions(served: Served) -> None:
    draw = np.random.default_rng(0)
    first, second = (open_session(make_mlp(seed).SerializeToString()) for seed in (1, 2))
    with httpx.Client(base_url=served.url, timeout=60) as client:
        for rows in (1, 5, 64):
            feed = {"x": draw.normal(size=(rows, 20)).astype(np.float32)}
            middle = first.infer(feed)
            for name in ("first", "here"):
                np.testing.assert_allclose(ask(client, name, feed)["y"], middle["y"], rtol=1e-4, atol=1e-5)
            for name in ("fused", "apart"):
                expected = second.infer({"x": middle["y"]})["y"]
                np.testing.assert_allclose(ask(client, name, feed)["y"], expected, rtol=1e-4, atol=1e-5)
    holders = on_the_gpu() & {process.pid for process in served.replicas()}
    assert len(holders) == 3  # the ingress and each of the two separate nodes
