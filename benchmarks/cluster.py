"""What a cluster costs: from `raymlops submit` to the first step, searches on 1, 2 and 4 nodes, tracking, scheduling.

    python -m benchmarks.cluster [submit] [nodes] [tracking] [growth] [scheduler]

Starts clusters of its own on this machine; nodes are raylets of it, with one CPU each to give away.
"""

import argparse
import concurrent.futures
import dataclasses
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import growth, rounds, submitting

ROOT = pathlib.Path(__file__).parents[1]
EPOCHS = 20
NODES = (1, 2, 4)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=["submit", "nodes", "tracking", "growth", "scheduler"])
    parser.add_argument("--trials", type=int, default=1000, help="no-op trials for the scheduler")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        name, count = options.side.split("=")
        {"nodes": run_nodes, "bare": run_bare_trials, "ours": run_our_trials}[name](
            options.folder, int(count)
        )
        return
    measures = {
        "submit": submitting.measure_submit,
        "nodes": measure_nodes,
        "tracking": measure_tracking,
        "growth": growth.measure_growth,
        "scheduler": measure_scheduler,
    }
    with tempfile.TemporaryDirectory(prefix="raymlops-bench-") as folder:
        for part in options.parts:
            measures[part](pathlib.Path(folder), options)


def on_a_side(folder: pathlib.Path, name: str, count: int) -> str:
    """Run one side in a process of its own; gives what it printed."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.cluster",
        "--side",
        f"{name}={count}",
        "--folder",
        str(folder),
    ]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


# Nodes


def measure_nodes(folder: pathlib.Path, options: argparse.Namespace) -> None:
    """A search on more and more nodes: of trials that compute, and of trials that only wait."""
    write_rows(folder)
    told = {nodes: on_a_side(folder, "nodes", nodes).splitlines()[-1].split() for nodes in NODES}
    print(f"\nSearches on nodes of one CPU each; this machine has {os.cpu_count()} cores:")
    print("  nodes  trials that compute: trials/min  ratio   trials that wait: trials/min  ratio")
    first = [float(value) for value in told[NODES[0]]]
    for nodes, values in told.items():
        computing, waiting = map(float, values)
        print(
            f"  {nodes:>5}  {computing:31.1f}  {computing / first[0]:4.2f}x"
            f"  {waiting:28.1f}  {waiting / first[1]:4.2f}x"
        )


def write_rows(folder: pathlib.Path, wanted: float = 4.0) -> None:
    """Packed rows of the flights, with as many epochs as make a trial last about `wanted` seconds."""
    from benchmarks import search

    if not (folder / "rows.pickle").exists():
        search.write_rows(folder, wanted)


def run_nodes(folder: pathlib.Path, nodes: int) -> None:
    """Prints trials a minute, of trials that compute and of trials that wait, each once its actors are warm."""
    from raymlops.settings import apply_process_defaults

    os.environ.update(RAY_AUTH_MODE="disabled", RAY_raylet_start_wait_time_s="240")
    apply_process_defaults()
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(nodes):
        cluster.add_node(num_cpus=1, wait=False)
    cluster.wait_for_nodes(240)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    job = to_job(folder)
    rates = [
        rate(lambda watch: search_ours(job, folder, 4 * nodes, nodes, [watch]), nodes),
        rate(lambda watch: search_waiting(folder, 8 * nodes, nodes, watch), nodes),
    ]
    print(*(f"{value:.2f}" for value in rates), flush=True)
    ray.shutdown()
    cluster.shutdown()


class Watch:
    """An observer that notes when trials end."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def trial_started(self, trial: str, parameters: Mapping[str, Any]) -> None: ...
    def trial_reported(self, trial: str, learned: Mapping[str, float]) -> None: ...
    def trial_ended(self, trial: str, error: str | None) -> None:
        self.ends.append(time.perf_counter())


def rate(run: Callable[[Watch], None], at_once: int) -> float:
    """Trials a minute from the end of the first trial of each node, by when its process is up."""
    watch = Watch()
    run(watch)
    first = watch.ends[at_once - 1]
    return 60 * (len(watch.ends) - at_once) / (watch.ends[-1] - first)


def to_job(folder: pathlib.Path, rows: int | None = None, **training: Any) -> Any:
    """The training of the flights' packed rows, or of the first few of them."""
    import ray

    from raymlops.training.learners import Job
    from raymlops.training.packed import PackedSplit

    spec, packing, target, arrays = pickle.loads((folder / "rows.pickle").read_bytes())
    splits = {}
    for name, values in arrays.items():
        kept = {key: value[:rows] for key, value in values.items()}
        splits[name] = PackedSplit(len(kept["label"]), arrays=ray.put(kept))
    spec = spec.model_copy(update={"training": spec.training.model_copy(update=training)})
    return Job(spec, packing, target, splits["train"], splits["validation"])


def search_ours(job: Any, folder: pathlib.Path, trials: int, at_once: int, observers: Sequence[Any]) -> None:
    from raymlops.training.search import run_search

    space = {"lr": job.spec.search.space["lr"]}
    update = {"trials": trials, "space": space, "algorithm": "random", "scheduler": "none"}
    spec = job.spec.model_copy(update={"search": job.spec.search.model_copy(update=update)})
    found = run_search(
        dataclasses.replace(job, spec=spec),
        name=f"bench-{time.time_ns()}",
        storage_path=str(folder / "storage"),
        concurrent=at_once,
        observers=observers,
    )
    assert len([trial for trial in found.trials if trial.error is None]) == trials


def search_waiting(folder: pathlib.Path, trials: int, at_once: int, watch: Watch, wait: float = 2.0) -> None:
    """Trials that sleep: what is left is what Tune and the nodes take, which cores do not limit."""
    from raymlops.training.trials import Notify

    def run(config: dict[str, Any]) -> None:
        from ray import tune

        time.sleep(wait)
        tune.report({"epoch": 1, "loss": 0.0})

    search_bare(run, folder, trials, at_once, callbacks=[Notify([watch])])


def search_bare(
    run: Callable[[dict[str, Any]], None],
    folder: pathlib.Path,
    trials: int,
    at_once: int,
    callbacks: list[Any],
) -> None:
    """Tune as it comes, with actors that are used again."""
    from ray import tune

    tune.Tuner(
        tune.with_resources(run, {"CPU": 1}),
        tune_config=tune.TuneConfig(
            metric="loss", mode="min", num_samples=trials, max_concurrent_trials=at_once, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            name=f"bare-{time.time_ns()}",
            storage_path=str(folder / "storage"),
            verbose=0,
            callbacks=callbacks,
        ),
    ).fit()


# Tracking


def measure_tracking(folder: pathlib.Path, options: argparse.Namespace) -> None:
    """What a report costs the search, and how long the store needs after it, with more trials at once."""
    from raymlops.settings import Settings
    from raymlops.tracking import runs, store

    settings = Settings.from_env({"RAYMLOPS_HOME": str(folder / "home"), "USER": "bench"})
    client = store.connect(settings)
    experiment = store.ensure_experiment(client, "bench", settings).experiment_id
    print(f"\nTracking into SQLite, {EPOCHS} epochs a trial:")
    print("  trials at once   a report costs the search   the store takes")
    for count in (1, 8, 32):
        parent = runs.start_run(client, experiment, search=f"bench-{count}", tags={}, parameters={})
        trials = runs.TrialRuns(
            client, experiment, parent, spool=folder / f"{count}.jsonl", tell=lambda line: None
        )

        def run(number: int, trials: runs.TrialRuns = trials) -> float:
            trials.trial_started(f"{number:05d}", {"lr": 0.1})
            spent = rounds.seconds(lambda: [
                trials.trial_reported(f"{number:05d}", {"epoch": epoch, "train_loss": 1.0, "accuracy": 0.5})
                for epoch in range(1, EPOCHS + 1)
            ])  # fmt: skip
            trials.trial_ended(f"{number:05d}", None)
            return spent

        began = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            told = sum(pool.map(run, range(count)))
        assert trials.close(600) == 0
        whole = time.perf_counter() - began
        reports = count * EPOCHS
        print(
            f"  {count:>14}   {1000 * told / reports:22.3f} ms   {reports / whole:6.0f} reports/s", flush=True
        )


# Scheduling


def measure_scheduler(folder: pathlib.Path, options: argparse.Namespace) -> None:
    """Trials of a training that does nothing: Tune as it comes, and our search with its checkpoints and its runs."""
    write_rows(folder)
    print("\nTrials of a no-op training, two at a time; ms a trial, start-up left out:")
    print("  trials   Tune alone   ours, with a checkpoint and an MLflow run each   ratio")
    for count in (options.trials // 10, options.trials):
        bare, ours = (float(on_a_side(folder, side, count).splitlines()[-1]) for side in ("bare", "ours"))
        print(f"  {count:>6}   {bare:10.1f}   {ours:46.1f}   {ours / bare:4.2f}x", flush=True)


def run_bare_trials(folder: pathlib.Path, trials: int) -> None:
    """Prints ms a trial."""
    start_two()
    from raymlops.training.trials import Notify

    def run(config: dict[str, Any]) -> None:
        from ray import tune

        tune.report({"epoch": 1, "loss": 0.0})

    print(60_000 / rate(lambda watch: search_bare(run, folder, trials, 2, [Notify([watch])]), 2))


def run_our_trials(folder: pathlib.Path, trials: int) -> None:
    """Prints ms a trial: one epoch of 64 rows, its checkpoint, and its run in MLflow."""
    start_two()
    from raymlops.settings import Settings
    from raymlops.tracking import runs, store

    settings = Settings.from_env({"RAYMLOPS_HOME": str(folder / f"ours-{trials}"), "USER": "bench"})
    client = store.connect(settings)
    experiment = store.ensure_experiment(client, "bench", settings).experiment_id
    parent = runs.start_run(client, experiment, search="bench", tags={}, parameters={})
    tracked = runs.TrialRuns(client, experiment, parent, spool=folder / f"{trials}.jsonl", tell=print)
    job = to_job(folder, rows=64, epochs=1)
    spent = 60_000 / rate(lambda watch: search_ours(job, folder, trials, 2, [tracked, watch]), 2)
    waited = rounds.seconds(tracked.close)
    print(f"the store needed {waited:.1f} s more", file=sys.stderr)
    print(spent)


def start_two() -> None:
    from raymlops.settings import apply_process_defaults

    apply_process_defaults()
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")


if __name__ == "__main__":
    main()
