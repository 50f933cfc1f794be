"""Trainings and searches that lose nodes and get new ones: several raylets on this machine, by a plan."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import mlflow
import pytest

from tests.cluster_process import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WORKER = "RayTrainWorker"
CONTROLLER = "TrainController"
TRIAL = "ImplicitFunc"


@dataclasses.dataclass(frozen=True)
class Survived:
    """What was left of it in MLflow: statuses of all runs, and for each trial the curves of its loss and of its
    workers, as (step, value)."""

    log: str
    statuses: list[str]
    losses: list[list[tuple[int, float]]]
    workers: list[list[float]]
    expected: list[float]
    """The losses of the same training that nothing happened to."""


def survive(folder: pathlib.Path, nodes: int, plan: list[tuple[int, str, Any]], **options: Any) -> Survived:
    options = {"nodes": nodes, "plan": plan, **options}
    done = subprocess.run(
        [sys.executable, "-m", "tests.survival.lost_nodes", folder, json.dumps(options)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT, capture_output=True, text=True, timeout=550, check=False,
    )  # fmt: skip
    assert "reference" in done.stdout, done.stdout[-4000:] + done.stderr[-3000:]
    print(done.stdout)
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'home' / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("survivor").experiment_id])
    trials = [run.info.run_id for run in found if "mlflow.parentRunId" in run.data.tags]
    return Survived(
        done.stdout,
        [run.info.status for run in found],
        [[(p.step, p.value) for p in client.get_metric_history(trial, "train_loss")] for trial in trials],
        [[p.value for p in client.get_metric_history(trial, "workers")] for trial in trials],
        json.loads(done.stdout.rpartition("reference ")[2]),
    )


def assert_as_if_nothing_had_happened(
    found: Survived, epochs: int, trials: int = 1, rel: float = 1e-3
) -> None:
    """One run a trial, all FINISHED; each step once; and the losses are those of an undisturbed training."""
    assert "plan is done" in found.log, found.log
    assert found.statuses == ["FINISHED"] * (trials + 1), found.log
    for curve in found.losses:
        assert [step for step, _ in curve] == list(range(1, epochs + 1)), found.log
    if trials == 1:
        assert [loss for _, loss in found.losses[0]] == pytest.approx(found.expected, rel=rel)


@pytest.mark.parametrize("victim", [WORKER, CONTROLLER])
def test_a_node_killed_in_a_distributed_training_leaves_no_hole_and_no_double_step(
    tmp_path: pathlib.Path, victim: str
) -> None:
    # Train asks the dashboard whether its controller lives, and takes the places of its workers back if not.
    head = {"memory": 2**19, "include_dashboard": True} if victim == CONTROLLER else {}
    plan: list[tuple[int, str, Any]] = [(3, "kill", victim)]
    found = survive(tmp_path, 3, plan, head=head, training={"workers": 2, "epochs": 10})
    assert_as_if_nothing_had_happened(found, 10)


def test_a_node_killed_in_a_search_restarts_what_it_had_from_checkpoints(tmp_path: pathlib.Path) -> None:
    space = {"lr": {"low": 0.005, "high": 0.05, "log": True}}
    found = survive(
        tmp_path, 3, [(3, "kill", TRIAL)], training={"epochs": 20}, search={"trials": 3, "space": space}
    )
    assert_as_if_nothing_had_happened(found, 20, trials=3)


@pytest.mark.parametrize("resident_bytes", [2**31, 0], ids=["resident", "streamed"])
def test_elastic_training_goes_on_with_what_is_left_and_takes_up_what_joins(
    tmp_path: pathlib.Path, resident_bytes: int
) -> None:
    plan = [
        (3, "pace", 0.2), (3, "kill", WORKER), (4, "await", 2), (4, "add", 1), (4, "await", 3), (4, "pace", 0.0),
    ]  # fmt: skip
    training = {
        "workers": 3, "min_workers": 1, "resize_s": 5, "epochs": 60, "resident_bytes": resident_bytes,
    }  # fmt: skip
    found = survive(tmp_path, 3, plan, training=training)
    # Teams add up in another order than one worker, and a rounding may tip a unit that is just at zero: from there
    # on the curves part a little. A row that is seen twice parts them at once, and by more.
    assert_as_if_nothing_had_happened(found, 60, rel=1e-2)
    assert [loss for _, loss in found.losses[0][:12]] == pytest.approx(found.expected[:12], rel=1e-5)
    sizes = [
        int(size)
        for size, before in zip(found.workers[0], [0, *found.workers[0]], strict=False)
        if size != before
    ]
    assert sizes == [3, 2, 3]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_node_that_is_reclaimed_saves_within_its_notice(tmp_path: pathlib.Path, workers: int) -> None:
    plan = [(1, "drain", 20), (1, "pace", 0.0)]
    found = survive(tmp_path, workers + 1, plan, pace=0.5, training={"workers": workers, "epochs": 8})
    assert "s after the notice" in found.log, found.log
    assert_as_if_nothing_had_happened(found, 8)
