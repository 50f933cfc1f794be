"""Memory of 8 concurrent trials of a learner on the same rows, to that of one trial.

The rows (16 numbers, 4 categories) lie once in the object store; the trials are actors that train on them, as those of
a search. Counted are the rows in the store, once, and what the private memory of the trials' processes (USS) is above
that of the same processes after a training on a hundred rows, which is that of their libraries. Peaks, in MiB.

    python -m benchmarks.trial_memory --learner lightgbm
"""

import argparse
import os
import pathlib
import re
import threading
from typing import Any

import numpy as np
import ray

from benchmarks import rounds
from raymlops.features import FittedTarget, Packing
from raymlops.specs.document import validate_document
from raymlops.specs.experiment import ExperimentSpec
from raymlops.tensors import Batch
from raymlops.training import learners
from raymlops.training.learners import Job, Run
from raymlops.training.packed import LABEL, PackedSplit

OPTIONS: dict[str, dict[str, Any]] = {
    "lightgbm": {"rounds": 6},
    "xgboost": {"rounds": 6},
    "linear": {"C": 1.0, "iterations": 5},
    "forest": {"trees": 2, "min_samples_leaf": 1000},
    "ebm": {"rounds": 4, "outer_bags": 1, "interactions": 0},
    "realmlp": {"steps": 40},
}
"""A short training: the most is held while the rows are taken in."""
NUMBERS, CATEGORIES = 16, (20, 20, 100, 1000)
TARGET = FittedTarget("y", "binary", "integer", (0, 1), (0.5, 0.5))
PACKING = Packing(numeric=NUMBERS, categories=CATEGORIES, plain=NUMBERS)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--learner", choices=["network", *OPTIONS], action="append")
    parser.add_argument("--rows", type=int, default=10**6)
    parser.add_argument("--trials", type=int, default=8)
    options = parser.parse_args()
    ray.init(address="local", num_cpus=options.trials, include_dashboard=False, log_to_driver=False,
             object_store_memory=2 * 2**30)  # fmt: skip
    for learner in options.learner or ["network", *OPTIONS]:
        rows = draw_rows(options.rows)
        rows = {
            name: rows[name]
            for name in (*learners.read_by(learners.find_learner(learner)), LABEL)
            if name in rows
        }
        store = sum(values.nbytes for values in rows.values()) / 2**20
        job = make_job(learner, rows)
        few = make_job(learner, {name: values[:100] for name, values in rows.items()})
        del rows
        one, many = (store + measure(few, job, trials) for trials in (1, options.trials))
        print(f"{learner}: rows {store:,.0f} MiB; with one trial {one:,.0f}, with {options.trials} {many:,.0f}; "
              f"private to a trial {one - store:,.0f}", flush=True)  # fmt: skip
        rounds.verdict(
            f"memory of {options.trials} trials of {learner} to one", many / one, 1.3, at_most=True
        )


def draw_rows(rows: int) -> Batch:
    draw = np.random.default_rng(0)
    numbers = draw.normal(size=(rows, NUMBERS)).astype(np.float32)
    ids = np.stack([draw.integers(0, size, rows) for size in CATEGORIES], axis=1)
    label = (numbers[:, 0] + ids[:, 0] / 20 + draw.normal(size=rows) > 0.5).astype(np.int64)
    return {"numeric": numbers, "plain": numbers, "category": ids, LABEL: label}


def make_job(learner: str, rows: Batch) -> Job:
    spec = validate_document(
        {
            "name": "memory",
            "dataset": {"path": "none.parquet"},
            "features": {"target": {"column": "y"}, "numbers": ["x"]},
            "training": {
                "learner": learner,
                "options": OPTIONS.get(learner, {}),
                "epochs": 1,
                "batch_size": 4096,
            },
        },
        ExperimentSpec,
    )
    splits = (
        PackedSplit(len(part[LABEL]), arrays=ray.put(part))
        for part in (rows, {name: values[: len(values) // 10] for name, values in rows.items()})
    )
    return Job(spec, PACKING, TARGET, *splits)


@ray.remote(num_cpus=1)
class TrialActor:
    """Trains as a trial does, and samples the private memory of its own process."""

    def train(self, jobs: list[Job]) -> float:
        """MiB at most."""
        peak, ended = 0.0, threading.Event()

        def watch() -> None:
            nonlocal peak
            while not ended.wait(0.05):
                peak = max(peak, private_mib())

        watcher = threading.Thread(target=watch)
        watcher.start()
        for job in jobs:
            learners.fit(Run(job, job.spec, lambda metrics, snapshot: True))
        ended.set()
        watcher.join()
        return peak


def private_mib() -> float:
    """Of this process: what no other shares."""
    text = pathlib.Path(f"/proc/{os.getpid()}/smaps_rollup").read_text(encoding="utf-8")
    return sum(int(size) for size in re.findall(r"Private_\w+:\s+(\d+) kB", text)) / 1024


def measure(few: Job, job: Job, trials: int) -> float:
    """MiB of all trials together beyond that of their libraries, if all are at their peaks at once."""
    actors = [TrialActor.remote() for _ in range(trials)]
    ready = ray.get([actor.train.remote([few]) for actor in actors])
    peaks = ray.get([actor.train.remote([job]) for actor in actors])
    for actor in actors:
        ray.kill(actor)
    return sum(max(0.0, peak - before) for peak, before in zip(peaks, ready, strict=True))


if __name__ == "__main__":
    main()
