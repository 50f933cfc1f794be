"""A search whose driver is killed at random moments, and resumed: nothing doubled, nothing stuck, nothing lost.

python -m tests.survival.test_search_survival 10        # more kills than the test's, counts printed
"""

import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import psutil
import pytest
import yaml
from mlflow import MlflowClient

from raymlops.settings import Settings
from tests.conftest import settings_in
from tests.experiments import signal_table, spec_of, write_table

EPOCHS = 12
TRIALS = 6


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_killed_at_random_moments_ends_as_if_it_had_not_been(tmp_path: pathlib.Path) -> None:
    counts = survive(tmp_path, kills=2, draw=random.Random(0))
    assert counts == {"trials": TRIALS, "doubled": 0, "stuck": 0, "lost": 0, "versions": 1}


def survive(folder: pathlib.Path, *, kills: int, draw: random.Random) -> dict[str, int]:
    """Kill the search so many times, let it end, and count what MLflow holds."""
    table = write_table(signal_table(30_000), folder / "rows.parquet")
    spec = spec_of(
        "survivor",
        {"path": str(table)},
        training={"epochs": EPOCHS, "batch_size": 64, "patience": EPOCHS},
        search={
            "algorithm": "random",
            "scheduler": "none",
            "trials": TRIALS,
            "space": {"lr": {"low": 0.005, "high": 0.05, "log": True}},
        },
    )
    file = folder / "spec.yaml"
    file.write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_none=True, exclude_defaults=True)))
    settings = settings_in(folder / "home")
    for kill in range(kills):
        search = begin(file, settings, folder / f"log-{kill}", resume=kill > 0)
        wait_for(folder / f"log-{kill}", "Searching", search)
        time.sleep(draw.uniform(2, 12))
        end_all(search)
    search = begin(file, settings, folder / "log-last", resume=kills > 0)
    assert search.wait(600) == 0, (folder / "log-last").read_text()
    return count_runs(settings)


def begin(
    file: pathlib.Path, settings: Settings, log: pathlib.Path, *, resume: bool
) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "raymlops", "search", str(file), *(["--resume"] if resume else [])]
    with log.open("wb") as out:
        return subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={"RAYMLOPS_HOME": str(settings.home), "HOME": str(settings.home), "PATH": "/usr/bin:/bin"},
        )


def wait_for(log: pathlib.Path, text: str, search: "subprocess.Popen[bytes]") -> None:
    ends = time.monotonic() + 240
    while text not in log.read_text():
        assert search.poll() is None, log.read_text()
        assert time.monotonic() < ends, log.read_text()
        time.sleep(0.2)


def end_all(search: "subprocess.Popen[bytes]") -> None:
    """Kill the driver and the cluster that it started, as a lost machine would."""
    process = psutil.Process(search.pid)
    for victim in [process, *process.children(recursive=True)]:
        try:
            victim.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    search.wait(30)


def count_runs(settings: Settings) -> dict[str, int]:
    client = MlflowClient(settings.tracking_uri)
    experiment = client.get_experiment_by_name("survivor")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    doubled = len(parents) - 1 + len(children) - len({run.info.run_name for run in children})
    lost = 0
    for run in children:
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "train_loss")]
        doubled += len(steps) - len(set(steps))
        lost += EPOCHS - len(set(steps))
    stuck = sum(run.info.status == "RUNNING" for run in runs)
    versions = len(client.search_model_versions("name='survivor'"))
    return {"trials": len(children), "doubled": doubled, "stuck": stuck, "lost": lost, "versions": versions}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        print(survive(pathlib.Path(directory), kills=int(sys.argv[1]), draw=random.Random(1)))
