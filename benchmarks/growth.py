"""What a trial costs after many others: the next suggestion, the decision to stop, the store. Needs no cluster."""

import argparse
import pathlib
import random
import time
from collections.abc import Callable
from typing import Any

from benchmarks import rounds

POINTS = (100, 300, 1000)


def measure_growth(folder: pathlib.Path, options: argparse.Namespace) -> None:
    """ms a trial, at the last 50 trials before each of the points."""
    kinds = {
        "Optuna's next suggestion": suggest_by_optuna(),
        "ASHA's decision": decide_by_asha(),
        "a run in SQLite, of 5 epochs": store_runs(folder),
    }
    print("\nWhat a trial costs after others, ms:")
    print(f"  {'trials before':<30}" + "".join(f"{point:>10,}" for point in POINTS))
    for name, add in kinds.items():
        print(f"  {name:<30}" + "".join(f"{cost:10.2f}" for cost in costs(add)), flush=True)


def costs(add: Callable[[int], None], sample: int = 50) -> list[float]:
    """Add trials until each point, and take the time of the last ones."""
    found = []
    done = 0
    for point in POINTS:
        for number in range(done, point - sample):
            add(number)
        found.append(
            1000 * rounds.seconds(lambda end=point: [add(n) for n in range(end - sample, end)]) / sample
        )  # type: ignore[misc]
        done = point
    return found


def suggest_by_optuna() -> Callable[[int], None]:
    import optuna
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = {
        "lr": tune.loguniform(1e-4, 1e-1),
        "decay": tune.loguniform(1e-5, 1e-1),
        "hidden": tune.choice([32, 64, 128]),
    }
    converted = OptunaSearch.convert_search_space(space)
    searcher = OptunaSearch(space=converted, metric="loss", mode="min", seed=0)
    draw = random.Random(0)

    def add(number: int) -> None:
        searcher.suggest(str(number))
        searcher.on_trial_complete(str(number), {"loss": draw.random()})

    return add


def decide_by_asha() -> Callable[[int], None]:
    from ray.tune.schedulers import ASHAScheduler

    scheduler = ASHAScheduler(time_attr="epoch", metric="loss", mode="min", max_t=20)
    draw = random.Random(0)

    class Told:
        def __init__(self, number: int) -> None:
            self.trial_id = str(number)

    def add(number: int) -> None:
        trial: Any = Told(number)
        scheduler.on_trial_add(None, trial)
        for epoch in range(1, 6):
            scheduler.on_trial_result(None, trial, {"epoch": epoch, "loss": draw.random()})

    return add


def store_runs(folder: pathlib.Path) -> Callable[[int], None]:
    from raymlops.settings import Settings
    from raymlops.tracking import runs, store

    settings = Settings.from_env({"RAYMLOPS_HOME": str(folder / "growth"), "USER": "bench"})
    client = store.connect(settings)
    experiment = store.ensure_experiment(client, "growth", settings).experiment_id
    parent = runs.start_run(client, experiment, search="growth", tags={}, parameters={})
    tracked = runs.TrialRuns(
        client, experiment, parent, spool=folder / "growth.jsonl", tell=lambda line: None
    )

    def add(number: int) -> None:
        trial = f"{number:05d}"
        tracked.trial_started(trial, {"lr": 0.1})
        for epoch in range(1, 6):
            tracked.trial_reported(trial, {"epoch": epoch, "train_loss": 1.0, "accuracy": 0.5})
        tracked.trial_ended(trial, None)
        while tracked.journal.waiting:
            time.sleep(0.0005)

    return add
