"""The way from `raymlops submit` to the first epoch of a search, split into parts."""

import argparse
import dataclasses
import pathlib
import re
import subprocess
import sys
import threading
import time
from typing import Any

import psutil

ROOT = pathlib.Path(__file__).parents[1]


@dataclasses.dataclass
class Moments:
    """When things happened, in seconds since 1970, as different processes and MLflow wrote it down."""

    typed: float
    sent: float = 0.0
    driver: float = 0.0
    parts: dict[str, float] = dataclasses.field(default_factory=dict)


def measure_submit(folder: pathlib.Path, options: argparse.Namespace) -> None:
    """Parts of the way to the first epoch of a search; the second round finds its package on the cluster."""
    from tests.cluster_process import Head

    head = Head(folder / "head", pathlib.Path(sys.executable), "--num-cpus=2")
    found: list[dict[str, float]] = []
    try:
        for turn in range(options.rounds):
            moments = submit_once(head, f"bench-{turn}")
            found.append(split(head, f"bench-{turn}", moments))
    finally:
        head.stop()
    print(f"\nFrom `raymlops submit` to the first epoch, seconds, {options.rounds} jobs one after the other:")
    for part in found[0]:
        print(f"  {part:<62}" + "".join(f"{values[part]:8.2f}" for values in found))
    print(f"  {'the whole':<62}" + "".join(f"{sum(values.values()):8.2f}" for values in found), flush=True)


def submit_once(head: Any, name: str) -> Moments:
    """Type the command, and note when the job was taken, when its driver began, and the parts that it tells of."""
    script = "jobs/search.py"
    command = [sys.executable, "-P", "-m", "raymlops", "submit", "search", "jobs/specs/digits.yaml", "--name", name,
               "--set", "training.epochs=1", "--set", "search.trials=2"]  # fmt: skip
    moments = Moments(time.time())
    process = subprocess.Popen(
        command, env=head.environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )

    def watch() -> None:
        while not moments.driver and process.poll() is None:
            for one in psutil.Process(head.process.pid).children(recursive=True):
                try:
                    line = one.cmdline()
                except psutil.Error:
                    continue
                if script in line and "-c" not in line:
                    moments.driver = one.create_time()
            time.sleep(0.1)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    assert process.stderr is not None
    for line in process.stderr:
        if match := re.search(r"packed in ([\d.]+) s, sent in ([\d.]+) s", line):
            moments.sent = time.time()
            moments.parts = {"pack": float(match[1]), "send": float(match[2])}
    assert process.wait() == 0
    watcher.join()
    return moments


def split(head: Any, name: str, moments: Moments) -> dict[str, float]:
    """The parts between the moments; those of the driver and of its trials are in MLflow."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{head.environment['RAYMLOPS_HOME']}/mlflow.db")
    experiment = client.get_experiment_by_name("digits").experiment_id
    (parent,) = client.search_runs([experiment], f"tags.`raymlops.search` = '{name}'")
    trials = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    first = min(trials, key=lambda run: run.info.start_time)
    (epoch, *_) = client.get_metric_history(first.info.run_id, "train_loss")
    metrics = parent.data.metrics
    searching, started = parent.info.start_time / 1000, first.info.start_time / 1000
    ours = moments.sent - moments.typed - moments.parts["pack"] - moments.parts["send"]
    imports = searching - moments.driver - metrics["seconds_start"] - metrics["seconds_data"]
    return {
        "ours: start the command, check files, spec, storage, demand": ours,
        "ours: pack the files": moments.parts["pack"],
        "Ray: upload, accept": moments.parts["send"],
        "Ray: start the job's driver": moments.driver - moments.sent,
        "both: the driver joins the cluster, and imports": imports,
        "both: open the store, look at the nodes": metrics["seconds_start"],
        "both: read, check, fit and pack the data": metrics["seconds_data"],
        "both: until the first trial's process is up, with its imports": started - searching,
        "ours: its first epoch, and its checkpoint": epoch.timestamp / 1000 - started,
    }
