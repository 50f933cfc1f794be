"""A search of 20 short trials that is tracked in MLflow on SQLite, against the same search untracked.

Both train the same trials on one running cluster, in turns. The tracked one includes the wait until everything that
its trials told is in the store. Counted beside it: calls of the tracking store, a trial.

    python -m benchmarks.tracking
"""

import argparse
import collections
import pathlib
import pickle
import tempfile
import time
from typing import Any

import ray

from benchmarks import rounds
from benchmarks.search import write_rows
from raymlops.lifecycle.cluster import join_cluster
from raymlops.settings import Settings
from raymlops.tracking import runs, store
from raymlops.training.learners import Job
from raymlops.training.packed import PackedSplit
from raymlops.training.search import run_search

_FEWER = 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of training a trial, about")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        folder = pathlib.Path(directory)
        epochs = write_rows(folder, options.seconds) * _FEWER
        settings = Settings.from_env({"RAYMLOPS_HOME": directory})
        client = Counted(store.connect(settings))
        experiment = store.ensure_experiment(client, "bench", settings).experiment_id  # type: ignore[arg-type]
        job = load_job(folder, options.trials, Settings.from_env())

        def tracked() -> float:
            name = f"tracked-{time.time_ns()}"
            run = runs.start_run(client, experiment, search=name, tags={}, parameters={})  # type: ignore[arg-type]
            observer = runs.TrialRuns(
                client,  # type: ignore[arg-type]
                experiment,
                run,
                spool=folder / name,
                tell=print,
                resumed=False,
            )

            def search() -> None:
                search_once(job, folder, name, [observer])
                assert observer.close() == 0

            client.counts.clear()
            return rounds.seconds(search)

        def untracked() -> float:
            return rounds.seconds(lambda: search_once(job, folder, f"untracked-{time.time_ns()}", []))

        untracked()  # the first search starts the processes that all of them use
        print(f"{options.trials} trials of {epochs} epochs (about {options.seconds:g} s each); seconds:")
        medians = rounds.alternate({"tracked": tracked, "untracked": untracked}, options.rounds)
        ray.shutdown()
    calls = {name: count / options.trials for name, count in client.counts.most_common()}
    print(
        f"calls a trial: {sum(calls.values()):.1f} ("
        + ", ".join(f"{n} {c:.1f}" for n, c in calls.items())
        + ")"
    )
    rounds.verdict(
        "tracked search to an untracked one", medians["tracked"] / medians["untracked"], 1.05, at_most=True
    )


class Counted:
    """A client of the tracking store that counts the calls of it."""

    def __init__(self, client: store.Client) -> None:
        self._client = client
        self.counts: collections.Counter[str] = collections.Counter()

    def __getattr__(self, name: str) -> Any:
        self.counts[name] += 1
        return getattr(self._client, name)


def load_job(folder: pathlib.Path, trials: int, settings: Settings) -> Job:
    """Of every tenth row, with ten times the epochs: as long a trial that has more to tell."""
    spec, packing, target, arrays = pickle.loads((folder / "rows.pickle").read_bytes())
    join_cluster(settings)
    fewer = {
        name: {key: values[::_FEWER].copy() for key, values in held.items()} for name, held in arrays.items()
    }
    splits = {name: PackedSplit(len(held["label"]), arrays=ray.put(held)) for name, held in fewer.items()}
    search = spec.search.model_copy(update={"trials": trials, "algorithm": "random"})
    training = spec.training.model_copy(update={"epochs": spec.training.epochs * _FEWER})
    spec = spec.model_copy(update={"search": search, "training": training})
    return Job(spec, packing, target, splits["train"], splits["validation"])


def search_once(job: Job, folder: pathlib.Path, name: str, observers: list[Any]) -> None:
    found = run_search(
        job, name=name, storage_path=str(folder / "storage"), concurrent=2, observers=observers
    )
    assert all(trial.error is None for trial in found.trials)


if __name__ == "__main__":
    main()
