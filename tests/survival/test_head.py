"""A head that is killed, and started again by the same command: what it served and searched goes on."""

import pathlib
import shutil
import sys
import time
from collections.abc import Iterator

import httpx
import mlflow
import numpy as np
import pytest
import yaml
from mlflow.entities import Run

from raymlops.training.worker import load_state
from tests import toy_models
from tests.cluster_process import ROOT, Head
from tests.experiments import signal_table, spec_of, write_table
from tests.serving_process import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EPOCHS = 6
TRIALS = 5
QUESTION = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}


class Scene:
    """A head that serves a pinned version of `toy`, and searches; then it is killed and started again."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder, self.serve_port = folder, free_port()
        start = (sys.executable, "-P", "-m", "raymlops", "cluster", "start", "--cpus=2")
        self.head = Head(folder / "head", pathlib.Path(sys.executable), start=start)
        self.serve_url = f"http://127.0.0.1:{self.serve_port}/v2/models/toy/infer"

    def raymlops(self, *arguments: str, cwd: pathlib.Path = ROOT) -> str:
        done = self.head.run(*arguments, cwd=cwd, RAY_ADDRESS=self.head.address)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def deploy_first_version(self) -> None:
        """Version 1 doubles and is deployed by its alias; then the alias moves on to version 2, which triples."""
        for factor in (2, 3):
            model = toy_models.doubler()
            model.graph.initializer[0].raw_data = np.array(factor, "<f4").tobytes()
            file = toy_models.save(model, self.folder / f"{factor}.onnx")
            self.raymlops("register", str(file), "--name", "toy", "--why", "a test")
            if factor == 2:
                self.raymlops("promote", "toy", "1", "--force", "--why", "a test")
                self.raymlops("deploy", str(self.write_serving()))
        self.raymlops("promote", "toy", "2", "--force", "--why", "a test")

    def write_serving(self) -> pathlib.Path:
        path = self.folder / "serving.yaml"
        models = {"toy": {"source": "models:/toy@champion"}}
        path.write_text(yaml.safe_dump({"models": models, "port": self.serve_port, "cpus": 0.2}))
        return path

    def write_work(self) -> pathlib.Path:
        """A folder to submit: the job's script, and a spec with trials one after the other."""
        work = self.folder / "work"
        shutil.copytree(ROOT / "jobs", work / "jobs", ignore=shutil.ignore_patterns("specs"))
        table = write_table(signal_table(30_000), self.folder / "rows.parquet")
        spec = spec_of(
            "survivor",
            {"path": str(table)},
            training={"epochs": EPOCHS, "batch_size": 64, "patience": EPOCHS},
            search={
                "algorithm": "random", "scheduler": "none", "trials": TRIALS, "concurrent": 1,
                "space": {"lr": {"low": 0.005, "high": 0.05, "log": True}},
            },
        )  # fmt: skip
        values = spec.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        (work / "spec.yaml").write_text(yaml.safe_dump(values))
        return work

    def ask(self) -> float:
        answer = httpx.post(self.serve_url, json=QUESTION, timeout=30)
        assert answer.status_code == 200, answer.text
        return float(answer.json()["outputs"][0]["data"][0])

    def wait_for_answer(self, seconds: float = 240) -> float:
        ends = time.monotonic() + seconds
        while True:
            try:
                return self.ask()
            except (httpx.TransportError, AssertionError):
                if time.monotonic() > ends:
                    print(self.head.log.read_text()[-3000:])
                    raise
                time.sleep(1)

    def trials(self) -> list[Run]:
        client = mlflow.MlflowClient(f"sqlite:///{self.head.environment['RAYMLOPS_HOME']}/mlflow.db")
        experiment = client.get_experiment_by_name("survivor")
        found = client.search_runs([experiment.experiment_id]) if experiment else []
        return [run for run in found if "mlflow.parentRunId" in run.data.tags]

    def finished(self) -> set[str]:
        """Numbers of trials, as 00003."""
        return {run.info.run_name[-5:] for run in self.trials() if run.info.status == "FINISHED"}

    def histories(self) -> dict[str, list[dict[str, float]]]:
        """Trial -> what it wrote down of each epoch, its speed among it, which no second training would repeat."""
        found = {}
        storage = pathlib.Path(self.head.environment["RAYMLOPS_HOME"]) / "storage"
        for folder in storage.glob("survivor-*/trial-*"):
            newest = sorted(folder.glob("checkpoint_*/checkpoint.pt"))[-1:]
            found |= {
                folder.name.removeprefix("trial-")[:5]: load_state(path.parent)["history"] for path in newest
            }
        return found

    def steps_of(self, run: Run) -> list[int]:
        client = mlflow.MlflowClient(f"sqlite:///{self.head.environment['RAYMLOPS_HOME']}/mlflow.db")
        return [point.step for point in client.get_metric_history(run.info.run_id, "train_loss")]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    started = Scene(tmp_path_factory.mktemp("scene"))
    yield started
    started.head.stop()


def test_a_killed_head_serves_again_what_was_pinned_and_a_search_goes_on(scene: Scene) -> None:
    scene.deploy_first_version()
    assert scene.ask() == 2
    work = scene.write_work()
    sent = scene.raymlops("submit", "--working-dir", str(work), "--no-wait", "search", "spec.yaml")
    ends = time.monotonic() + 300
    while len(scene.finished()) < 2:
        assert time.monotonic() < ends, scene.head.get(f"/api/jobs/{sent.strip()}/logs").text[-3000:]
        time.sleep(0.5)

    killed = scene.head.kill()
    before, learned = scene.finished(), scene.histories()
    with pytest.raises(httpx.TransportError):
        scene.ask()
    scene.head.start()

    assert scene.wait_for_answer() == 2  # nobody deployed it, and the alias names version 2 by now
    scene.raymlops("submit", "--working-dir", str(work), "search", "spec.yaml", "--resume")
    runs = scene.trials()
    after = scene.finished()
    print(
        f"killed {killed} processes after {len(before)} of {TRIALS} trials; {len(runs)} runs, {len(after)} finished"
    )
    assert len(runs) == len(after) == TRIALS
    assert {len(learned[trial]) for trial in before} == {EPOCHS}
    again = scene.histories()
    assert {trial: again[trial] for trial in before} == {trial: learned[trial] for trial in before}
    assert [scene.steps_of(run) for run in runs] == [list(range(1, EPOCHS + 1))] * TRIALS
    assert scene.ask() == 2


def test_what_was_taken_away_does_not_come_back(scene: Scene) -> None:
    scene.raymlops("deploy", str(scene.folder / "serving.yaml"), "--remove")
    assert "Nothing was deployed" in scene.raymlops("cluster", "restore")
