"""What a trial costs after many others: the next suggestion, the decision to stop, the search's state, the store.

Needs no cluster.
"""

import argparse
import functools
import json
import pathlib
import random
from collections.abc import Callable
from typing import Any

from benchmarks import rounds

POINTS = (100, 300, 1000)


def measure_growth(folder: pathlib.Path, options: argparse.Namespace) -> None:
    """ms a trial, at the last 50 trials before each of the points."""
    kinds = {
        "Optuna's next suggestion": one_by_one(suggest_by_optuna()),
        "ASHA's decision": one_by_one(decide_by_asha()),
        "a snapshot of the search": one_by_one(write_snapshots(folder)),
        "a run in SQLite, of 5 epochs": store_runs(folder),
    }
    print("\nWhat a trial costs after others, ms:")
    print(f"  {'trials before':<30}" + "".join(f"{point:>10,}" for point in POINTS))
    for name, add in kinds.items():
        print(f"  {name:<30}" + "".join(f"{cost:10.2f}" for cost in costs(add)), flush=True)


def costs(add: Callable[[range], None], sample: int = 50) -> list[float]:
    """Add trials until each point, and take the time of the last ones."""
    found = []
    done = 0
    for point in POINTS:
        add(range(done, point - sample))
        found.append(1000 * rounds.seconds(functools.partial(add, range(point - sample, point))) / sample)
        done = point
    return found


def one_by_one(add: Callable[[int], None]) -> Callable[[range], None]:
    def add_all(numbers: range) -> None:
        for number in numbers:
            add(number)

    return add_all


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


def write_snapshots(folder: pathlib.Path) -> Callable[[int], None]:
    """The state that Tune writes every 10 s or more, and at every second checkpoint of a trial: all trials so far."""
    from ray.train._internal.storage import StorageContext
    from ray.tune.experiment import Trial
    from ray.tune.utils.serialization import TuneFunctionEncoder

    storage = StorageContext(storage_path=str(folder), experiment_dir_name="snapshots")
    trials: list[Trial] = []
    learned = {"epoch": 5, **{f"metric_{number}": 0.12345 for number in range(20)}}

    def add(number: int) -> None:
        trial = Trial("noop", config={"lr": 0.1}, trial_id=f"{number:05d}", storage=storage, stub=True)
        trial.run_metadata.last_result = learned
        trials.append(trial)
        state = {"trial_data": [one.get_json_state() for one in trials]}
        (folder / "snapshot.json").write_text(json.dumps(state, cls=TuneFunctionEncoder, indent=2))

    return add


def store_runs(folder: pathlib.Path) -> Callable[[range], None]:
    from raymlops.settings import Settings
    from raymlops.tracking import runs, store

    settings = Settings.from_env({"RAYMLOPS_HOME": str(folder / "growth"), "USER": "bench"})
    client = store.connect(settings)
    experiment = store.ensure_experiment(client, "growth", settings).experiment_id
    parent = runs.start_run(client, experiment, search="growth", tags={}, parameters={})

    def add(numbers: range) -> None:
        spool = folder / "growth.jsonl"
        tracked = runs.TrialRuns(client, experiment, parent, spool=spool, tell=lambda line: None)
        for number in numbers:
            trial = f"{number:05d}"
            tracked.trial_started(trial, {"lr": 0.1})
            for epoch in range(1, 6):
                tracked.trial_reported(trial, {"epoch": epoch, "train_loss": 1.0, "accuracy": 0.5})
            tracked.trial_ended(trial, None)
        assert tracked.close(600) == 0

    return add
