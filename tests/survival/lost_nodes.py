"""A training on several raylets of this machine that come and go by a plan, in a process of its own.

python -m tests.survival.lost_nodes FOLDER '{"nodes": 3, "plan": [[2, "kill", "RayTrainWorker"]], "training": {...}}'

A step of the plan is [epoch, action, argument]: done once a trial has reported so many epochs. Actions: `kill` a node
with an actor of that class, `drain` one with so many seconds' notice and kill it then, `add` so many nodes, `await` a
report of so many workers, `pace` the training by so many seconds a step.
"""

import json
import os
import pathlib
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from raymlops.training.networks import MLP


class Paced(MLP):
    """Takes as long a step as a file says, so that what is done to the nodes falls into the training."""

    def __init__(self, *, pace: str, **options: Any) -> None:
        super().__init__(**options)
        self._pace = pathlib.Path(pace)

    def forward(self, numeric: Tensor | None = None, category: Tensor | None = None) -> Tensor:
        if self.training:
            time.sleep(float(self._pace.read_text()))
        return super().forward(numeric, category)


class Plan:
    """Observes the trials, and does to the nodes what is planned for their epochs."""

    def __init__(self, steps: list[list[Any]], cluster: Any, nodes: list[Any], folder: pathlib.Path) -> None:
        self._steps, self._cluster, self._nodes, self._folder = steps, cluster, nodes, folder
        self._changed = threading.Condition()
        self._epoch, self._workers, self._to_add = 0, 0, 0
        threading.Thread(target=self._follow, daemon=True).start()

    def trial_started(self, trial: str, parameters: object) -> None:
        tell(f"started {trial}")

    def trial_ended(self, trial: str, error: str | None) -> None:
        tell(f"ended {trial} {error}")

    def trial_reported(self, trial: str, learned: Mapping[str, float]) -> None:
        tell(f"epoch {trial} {learned['epoch']:g} workers {learned.get('workers', 1):g}")
        while self._to_add:  # a node ends with the thread that started it, so that must be this one
            self._to_add -= 1
            self._nodes.append(self._cluster.add_node(num_cpus=1, wait=False))
        with self._changed:
            self._epoch = max(self._epoch, int(learned["epoch"]))
            self._workers = int(learned.get("workers", 1))
            self._changed.notify_all()

    def _follow(self) -> None:
        for epoch, action, argument in self._steps:
            with self._changed:
                self._changed.wait_for(lambda epoch=epoch: self._epoch >= epoch)
            tell(f"plan: {action} {argument}")
            try:
                getattr(self, f"_{action}")(argument)
            except BaseException:
                traceback.print_exc(file=sys.stdout)
                raise
        tell("plan is done")

    def _kill(self, actor: str) -> None:
        self._end(self._node_with(actor))

    def _drain(self, seconds: float) -> None:
        from raymlops.clusters import preemption

        node = self._node_with("RayTrainWorker", "ImplicitFunc")
        began = time.time()
        preemption.drain_node(self._cluster.address, node.node_id, seconds)
        while time.time() < began + seconds:
            if self._saved_since(began):
                tell(f"saved {time.time() - began:.1f} s after the notice of {seconds} s")
                break
            time.sleep(0.2)
        time.sleep(max(0.0, began + seconds - time.time()))
        self._end(node)

    def _saved_since(self, when: float) -> bool:
        """Whether there is a checkpoint from the middle of an epoch."""
        for file in (self._folder / "home" / "storage").rglob("checkpoint.pt"):
            try:
                if file.stat().st_mtime > when and torch.load(file, weights_only=True)["step"]:
                    return True
            except (OSError, RuntimeError, EOFError):
                continue  # being written, or taken away
        return False

    def _add(self, count: int) -> None:
        self._to_add += count

    def _await(self, workers: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._workers == workers)

    def _pace(self, seconds: float) -> None:
        set_pace(self._folder, seconds)

    def _node_with(self, *names: str) -> Any:
        from ray._private.state import actors

        living = [actor for actor in actors().values() if actor["State"] == "ALIVE"]
        places = {
            actor["Address"]["NodeID"]
            for actor in living
            if any(name in actor["ActorClassName"] for name in names)
        }
        return next(node for node in self._nodes if node.node_id in places)

    def _end(self, node: Any) -> None:
        self._nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)
        tell(f"killed {node.node_id[:8]}")


def tell(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def set_pace(folder: pathlib.Path, seconds: float) -> None:
    new = folder / "pace.new"
    new.write_text(str(seconds))
    new.replace(folder / "pace")


def main(folder: pathlib.Path, options: dict[str, Any]) -> None:
    os.environ.update(
        RAY_AUTH_MODE="disabled",
        RAYMLOPS_HOME=str(folder / "home"),
        RAY_raylet_start_wait_time_s="240",
        RAY_agent_register_timeout_ms="240000",
    )
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)
    from raymlops.settings import Settings, apply_process_defaults

    apply_process_defaults()
    import ray
    from ray.cluster_utils import Cluster

    from raymlops.lifecycle.train.develop import Request, develop_model
    from tests.experiments import signal_table, spec_of, write_table

    # A head without memory takes none of the processes that steer.
    head = {"num_cpus": 0, "include_dashboard": False, **options.get("head", {})}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1, wait=False) for _ in range(options["nodes"])]
    cluster.wait_for_nodes(200)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="CRITICAL")
    tell("cluster is up")
    set_pace(folder, options.get("pace", 0.02))
    spec = spec_of(
        "survivor",
        {"path": str(write_table(signal_table(2_000), folder / "rows.parquet"))},
        network={
            "name": "tests.survival.lost_nodes:Paced",
            "options": {"hidden": 16, "dropout": 0.0, "embedding_dropout": 0.0, "pace": str(folder / "pace")},
        },
        training={"batch_size": 64, "lr": 0.01, "patience": 999, **options["training"]},
        search={"algorithm": "random", "scheduler": "none", "trials": 1, **options.get("search", {})},
    )
    plan = Plan(options["plan"], cluster, nodes, folder)
    outcome = develop_model(
        spec, Settings.from_env(), Request(name="survives", register=False), observers=[plan], tell=tell
    )
    tell(f"finished with epoch {outcome.search.best.learned['epoch']:g}")
    print("reference", json.dumps(reference(spec, folder)), flush=True)
    os._exit(0)  # the killed raylets leave threads that wait for them


def reference(spec: Any, folder: pathlib.Path) -> list[float]:
    """The losses of the same training in one process that nothing happens to."""
    from raymlops.lifecycle.train.prepare import prepare
    from raymlops.training.learners.network import network_of
    from raymlops.training.loop import train_network
    from raymlops.training.streamed import open_rows

    set_pace(folder, 0)  # also of a training that ended before its plan
    job = prepare(spec).job
    device = torch.device("cpu")
    torch.manual_seed(spec.training.seed)
    losses: list[float] = []
    train_network(
        network_of(spec.network, job.packing, job.target),
        open_rows(job.train, device, largest=spec.training.workers),
        open_rows(job.validation, device),
        spec=spec.training,
        target=job.target,
        device=device,
        report=lambda learned, _: losses.append(learned["train_loss"]) is None,
    )
    return losses


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), json.loads(sys.argv[2]))
