"""Drivers, workers and tracking servers in processes of their own, which tests kill; and what MLflow then holds."""

import dataclasses
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import httpx
import psutil
import yaml
from mlflow import MlflowClient

from raymlops.settings import Settings
from raymlops.specs.experiment import ExperimentSpec
from tests.serving_process import free_port

WORKERS = ("ImplicitFunc", "RayTrainWorker")
"""Parts of the names of processes in which trials train."""


def write_spec(spec: ExperimentSpec, path: pathlib.Path) -> pathlib.Path:
    path.write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_none=True, exclude_defaults=True)))
    return path


def wait_until(holds: Callable[[], object], explain: Callable[[], str], seconds: float = 240) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, explain()
        time.sleep(0.1)


class Driver:
    """`raymlops VERB ...` with the cluster that it starts."""

    def __init__(self, settings: Settings, log: pathlib.Path, *arguments: str, **variables: str) -> None:
        self._log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "raymlops", *arguments],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={
                    "RAYMLOPS_HOME": str(settings.home),
                    "MLFLOW_TRACKING_URI": settings.tracking_uri,
                    "HOME": str(settings.home),
                    "PATH": "/usr/bin:/bin",
                    **variables,
                },
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def wait_for(self, holds: Callable[[], object]) -> None:
        """Until something holds, while the driver runs."""

        def check() -> object:
            assert self.process.poll() is None, self.said
            return holds()

        wait_until(check, lambda: self.said)

    def finish(self) -> None:
        assert self.process.wait(600) == 0, self.said

    def kill(self) -> None:
        """Driver and cluster at once, as a lost machine would end."""
        driver = psutil.Process(self.process.pid)
        for victim in [driver, *driver.children(recursive=True)]:
            try:
                victim.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        self.process.wait(30)

    def kill_worker(self, draw: random.Random) -> bool:
        """One of the processes in which trials train; false when there is none now."""
        workers = [
            child
            for child in psutil.Process(self.process.pid).children(recursive=True)
            if any(name in _title(child) for name in WORKERS)
        ]
        if workers:
            draw.choice(workers).kill()
        return bool(workers)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def checkpoints(settings: Settings, spec: ExperimentSpec) -> set[str]:
    """Names of those that lie in the storage now."""
    found = pathlib.Path(settings.storage_path).glob(f"{spec.name}-*/**/checkpoint_*")
    return {path.name for path in found}


def remove_recorded_checkpoints(settings: Settings, spec: ExperimentSpec) -> bool:
    """As if the driver had been killed after Tune removed them and before it recorded a newer one. False if there is no
    newer one; then nothing is done."""
    (search,) = pathlib.Path(settings.storage_path).glob(f"{spec.name}-*")
    state = json.loads(max(search.glob("experiment_state-*")).read_text())
    ((_, progress),) = state["trial_data"]
    written = re.findall(b"checkpoint_".hex() + "(?:3[0-9]){6}", progress)  # names in a pickle, as hex digits
    recorded = max(bytes.fromhex(name).decode() for name in written)
    found = sorted(search.glob("trial-*/checkpoint_*"))
    if found[-1].name <= recorded:
        return False
    for path in found:
        if path.name <= recorded:
            shutil.rmtree(path)
    return True


def train_through_kills(
    spec: ExperimentSpec, settings: Settings, folder: pathlib.Path, between: Callable[[], object] = bool
) -> Driver:
    """Train; kill a worker and later the driver, each after some checkpoints; call `between`; gives what the same
    command then did."""
    file = write_spec(spec, folder / "spec.yaml")

    seen: set[str] = set()
    first = Driver(settings, folder / "first", "train", str(file))
    first.wait_for(lambda: seen.update(checkpoints(settings, spec)) or len(seen) >= 3)
    assert first.kill_worker(random.Random(0))
    reached = len(seen)
    first.wait_for(lambda: seen.update(checkpoints(settings, spec)) or len(seen) >= reached + 3)
    first.kill()
    between()
    second = Driver(settings, folder / "second", "train", str(file))
    second.finish()
    return second


class TrackingServer:
    """MLflow over HTTP on a SQLite file, that can be killed and started again."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder, self._port = folder, free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        log = self._folder / "server.log"
        command = [
            sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{self._folder}/server.db",
            "--artifacts-destination", str(self._folder / "files"), "--host", "127.0.0.1", "--port",
            str(self._port), "--workers", "1",
        ]  # fmt: skip
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        wait_until(self._answers, log.read_text)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)


@dataclasses.dataclass
class Counts:
    """What MLflow holds of searches that should each be one run with `trials` children of `epochs` steps."""

    searches: int = 0
    trials: int = 0
    versions: int = 0
    duplicates: int = 0
    stuck: int = 0
    lost: int = 0
    doubled: int = 0
    missing: int = 0

    @property
    def faults(self) -> dict[str, int]:
        names = ("duplicates", "stuck", "lost", "doubled", "missing")
        return {name: getattr(self, name) for name in names if getattr(self, name)}


def count(
    settings: Settings, name: str, *, searches: int, trials: int, epochs: int, metric: str,
    others: Sequence[str] = ("train_loss",),
) -> Counts:  # fmt: skip
    """Look at every run, every step and every version of a model's experiment; `others` are more metrics of each
    epoch."""
    client = MlflowClient(settings.tracking_uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=5000)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    distinct = {(run.data.tags["mlflow.parentRunId"], run.info.run_name) for run in children}
    versions = client.search_model_versions(f"name='{name}'", max_results=1000)
    found = Counts(len(parents), len(distinct), len(versions))
    found.duplicates = len(children) - len(distinct) + max(0, len(parents) - searches)
    found.duplicates += len(versions) - len({version.run_id for version in versions})
    found.stuck = sum(run.info.status != "FINISHED" for run in runs)
    found.lost = searches * trials - len(distinct) + searches - len({one.run_id for one in versions})
    for run in children:
        for key in (*others, metric, f"best_{metric}"):
            steps = [point.step for point in client.get_metric_history(run.info.run_id, key)]
            found.doubled += len(steps) - len(set(steps))
            found.missing += len(set(range(1, epochs + 1)) - set(steps))
    return found
