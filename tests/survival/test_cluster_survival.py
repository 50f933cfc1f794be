"""Trainings and searches that lose nodes: several raylets on this machine, one of them killed in the middle."""

import pathlib
import subprocess
import sys

import mlflow
import pytest

from tests.cluster_process import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SCRIPT = """
import os, sys, threading, time
os.environ.update(RAY_AUTH_MODE="disabled", RAYMLOPS_HOME=sys.argv[1], RAY_raylet_start_wait_time_s="240",
                  RAY_agent_register_timeout_ms="240000")
for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
    os.environ.pop(name, None)
from raymlops.settings import Settings, apply_process_defaults
apply_process_defaults()
import ray
from ray.cluster_utils import Cluster
from raymlops.cli.training import read_spec
from raymlops.pipelines.develop import Request, develop_model

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1, wait=False) for _ in range(3)]
cluster.wait_for_nodes(200)
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
settings = Settings.from_env()
spec = read_spec(sys.argv[2], tuple(sys.argv[4:]))
print("nodes", len([node for node in ray.nodes() if node["Alive"]]), flush=True)


class Killer:
    '''Kills a node that works, once a trial has reported its second epoch.'''

    done = False

    def trial_started(self, trial, parameters):
        print("started", trial, flush=True)

    def trial_reported(self, trial, learned):
        print("epoch", trial, int(learned["epoch"]), flush=True)
        if int(learned["epoch"]) >= 2 and not self.done:
            self.done = True
            threading.Thread(target=self.kill, daemon=True).start()

    def trial_ended(self, trial, error):
        print("ended", trial, error, flush=True)

    def kill(self):
        living = [actor for actor in ray._private.state.actors().values() if actor["State"] == "ALIVE"]
        working = [actor["Address"]["NodeID"] for actor in living if sys.argv[3] in actor["ActorClassName"]]
        print("working", sorted(actor["ActorClassName"] for actor in living), flush=True)
        node = next(node for node in nodes if node.node_id in working)
        cluster.remove_node(node, allow_graceful=False)
        print("killed", node.node_id[:8], flush=True)


import ray._private.state
outcome = develop_model(spec, settings, Request(name="survives", register=False), observers=[Killer()],
                        tell=lambda line: print(line, flush=True))
print("finished", outcome.run, outcome.search.best.learned["epoch"], flush=True)
os._exit(0)  # the killed raylet leaves threads that wait for it
"""


def run(folder: pathlib.Path, victim: str, *overrides: str) -> str:
    (folder / "survive.py").write_text(SCRIPT)
    command = [
        sys.executable,
        folder / "survive.py",
        folder / "home",
        ROOT / "jobs/specs/digits.yaml",
        victim,
        *overrides,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=550, check=False)
    assert "killed" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    assert "finished" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def histories(folder: pathlib.Path) -> tuple[list[str], list[list[int]]]:
    """Statuses of all runs, and the steps of each trial's loss as MLflow has them."""
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'home' / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    trials = [run for run in found if "mlflow.parentRunId" in run.data.tags]
    steps = [
        [metric.step for metric in client.get_metric_history(run.info.run_id, "train_loss")] for run in trials
    ]
    return [run.info.status for run in found], steps


def test_a_worker_node_killed_in_a_distributed_training_leaves_no_hole_and_no_double_step(
    tmp_path: pathlib.Path,
) -> None:
    epochs = 20
    log = run(
        tmp_path, "RayTrainWorker", "training.workers=2", f"training.epochs={epochs}", "training.patience=99",
        "search.trials=1",
        "search.scheduler=none",
    )  # fmt: skip
    statuses, steps = histories(tmp_path)
    assert statuses == ["FINISHED", "FINISHED"], log[-3000:]
    assert steps == [list(range(1, epochs + 1))], log[-3000:]


def test_a_node_killed_in_a_search_restarts_what_it_had_from_checkpoints(tmp_path: pathlib.Path) -> None:
    epochs = 20
    log = run(
        tmp_path, "ImplicitFunc", f"training.epochs={epochs}", "training.patience=99", "search.trials=3",
        "search.scheduler=none",
    )  # fmt: skip
    statuses, steps = histories(tmp_path)
    assert statuses == ["FINISHED"] * 4, log[-3000:]
    assert steps == [list(range(1, epochs + 1))] * 3, log[-3000:]
