"""A search of 20 one-worker trials, two at a time, against a two-process Optuna loop over the same trainings.

Both start from packed rows on disk and include their start-up: Ray's here, two interpreters' there.

    python -m benchmarks.search
"""

import argparse
import multiprocessing
import pathlib
import pickle
import subprocess
import sys
import tempfile
import time

import optuna
import torch

from benchmarks import flights, rounds
from raymlops.specs.experiment import ExperimentSpec, with_parameters
from raymlops.training.learners import Job
from raymlops.training.learners.network import network_of
from raymlops.training.loop import train_network
from raymlops.training.rows import ResidentRows

PARAMETERS = {"lr": (0.002, 0.01), "weight_decay": (1e-5, 1e-1)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of training a trial, about")
    parser.add_argument("--side", choices=["ray", "loop"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        {"ray": search_on_ray, "loop": search_in_loop}[options.side](options.folder, options.trials)
        return
    with tempfile.TemporaryDirectory() as folder:
        epochs = write_rows(pathlib.Path(folder), options.seconds)
        print(
            f"{options.trials} trials of {epochs} epochs (about {options.seconds:g} s each), two at a time; seconds:"
        )

        def run(side: str) -> float:
            command = [sys.executable, "-m", "benchmarks.search", "--side", side, "--folder", folder]
            return rounds.seconds(
                lambda: subprocess.run([*command, "--trials", str(options.trials)], check=True)
            )

        medians = rounds.alternate({"ray": lambda: run("ray"), "loop": lambda: run("loop")}, options.rounds)
    rounds.verdict(
        "search, start-up included, to a two-process loop",
        medians["ray"] / medians["loop"],
        1.5,
        at_most=True,
    )


def write_rows(folder: pathlib.Path, wanted: float) -> int:
    """Packed rows and the spec, with as many epochs as make a trial last about `wanted` seconds. Gives the epochs."""
    import ray

    from raymlops.lifecycle.cluster import join_cluster
    from raymlops.settings import Settings

    join_cluster(Settings.from_env())
    prepared = flights.prepare_flights("search.scheduler=none", "training.patience=1000")
    job = prepared.job
    arrays = {name: ray.get(getattr(job, name).arrays) for name in ("train", "validation")}
    spec, packing, target = job.spec, job.packing, job.target
    ray.shutdown()
    rows = {name: ResidentRows(values, torch.device("cpu")) for name, values in arrays.items()}
    torch.set_num_threads(1)
    began = time.perf_counter()
    _train(
        spec.model_copy(update={"training": spec.training.model_copy(update={"epochs": 2})}),
        packing,
        target,
        rows,
    )
    epochs = max(1, round(wanted / ((time.perf_counter() - began) / 2)))
    spec = spec.model_copy(update={"training": spec.training.model_copy(update={"epochs": epochs})})
    (folder / "rows.pickle").write_bytes(pickle.dumps((spec, packing, target, arrays)))
    return epochs


def _train(spec: ExperimentSpec, packing: object, target: object, rows: dict[str, ResidentRows]) -> float:
    torch.manual_seed(spec.training.seed)
    learned: dict[str, float] = {}

    def report(metrics: dict[str, float], snapshot: object) -> bool:
        learned.update(metrics)
        return True

    train_network(
        network_of(spec.network, packing, target),  # type: ignore[arg-type]
        rows["train"],
        rows["validation"],
        spec=spec.training,
        target=target,  # type: ignore[arg-type]
        device=torch.device("cpu"),
        report=report,
    )
    return learned["best_roc_auc"]


def search_on_ray(folder: pathlib.Path, trials: int) -> None:
    import ray

    from raymlops.lifecycle.cluster import join_cluster
    from raymlops.settings import Settings
    from raymlops.training.packed import PackedSplit
    from raymlops.training.search import run_search

    spec, packing, target, arrays = pickle.loads((folder / "rows.pickle").read_bytes())
    join_cluster(Settings.from_env())
    splits = {
        name: PackedSplit(len(values["label"]), arrays=ray.put(values)) for name, values in arrays.items()
    }
    spec = spec.model_copy(update={"search": spec.search.model_copy(update={"trials": trials})})
    spec = spec.model_copy(update={"search": spec.search.model_copy(update={"space": {
        name: spec.search.space[name] for name in PARAMETERS}})})  # fmt: skip
    found = run_search(
        Job(spec, packing, target, splits["train"], splits["validation"]),
        name=f"bench-{time.time_ns()}",
        storage_path=str(folder / "storage"),
        concurrent=2,
    )
    assert len([trial for trial in found.trials if trial.error is None]) == trials
    ray.shutdown()


def search_in_loop(folder: pathlib.Path, trials: int) -> None:
    storage = f"sqlite:///{folder}/optuna-{time.time_ns()}.db"
    optuna.create_study(study_name="loop", storage=storage, direction="maximize")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(folder, storage, trials // 2)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0


def _work(folder: pathlib.Path, storage: str, trials: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    spec, packing, target, arrays = pickle.loads((folder / "rows.pickle").read_bytes())
    rows = {name: ResidentRows(values, torch.device("cpu")) for name, values in arrays.items()}

    def objective(trial: optuna.Trial) -> float:
        parameters = {
            name: trial.suggest_float(name, *bounds, log=True) for name, bounds in PARAMETERS.items()
        }
        return _train(with_parameters(spec, parameters), packing, target, rows)

    optuna.load_study(study_name="loop", storage=storage).optimize(objective, n_trials=trials)


if __name__ == "__main__":
    main()
