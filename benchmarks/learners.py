"""A search of 20 one-worker trials of each learner, two at a time, against a two-process loop of Optuna and the library
alone on the same rows.

Both include their start-up: Ray's here, two interpreters' there. Every training runs all its rounds, and a search
varies only what does not change how long that takes. The library measures nothing until its training ends.

    python -m benchmarks.learners --learner lightgbm
"""

import argparse
import multiprocessing
import pathlib
import pickle
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import optuna

from benchmarks import rounds
from raymlops.features import FittedTarget, Packing
from raymlops.specs.document import validate_document
from raymlops.specs.experiment import ExperimentSpec

VARIED = {
    "lightgbm": ("lambda_l2", 0.01, 10.0),
    "xgboost": ("reg_lambda", 0.01, 10.0),
    "forest": ("max_features", 0.5, 0.6),
    "linear": ("C", 0.1, 1.0),
    "ebm": ("learning_rate", 0.03, 0.04),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "lightgbm": {"rounds": 300, "num_leaves": 31},
    "xgboost": {"rounds": 300, "max_depth": 6, "subsample": 1.0, "colsample_bytree": 1.0},
    "forest": {"trees": 100, "min_samples_leaf": 20},
    "linear": {"l1_ratio": 0.0},
    "ebm": {"rounds": 200, "outer_bags": 1, "interactions": 3, "max_bins": 256, "max_interaction_bins": 32},
}
PACKING = Packing(numeric=20, plain=20)
TARGET = FittedTarget("y", "binary", "integer", (0, 1), (0.5, 0.5))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--learner", choices=[*VARIED], default="lightgbm")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--side", choices=["ray", "loop"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        sides = {"ray": search_on_ray, "loop": search_in_loop}
        sides[options.side](options.learner, options.folder, options.trials)
        return
    with tempfile.TemporaryDirectory() as folder:
        splits = {"train": draw(options.rows, 1), "validation": draw(options.rows // 4, 2)}
        (pathlib.Path(folder) / "rows.pickle").write_bytes(pickle.dumps(splits))

        def run(side: str) -> float:
            command = [sys.executable, "-m", "benchmarks.learners", "--side", side, "--folder", folder]
            command += ["--learner", options.learner, "--trials", str(options.trials)]
            return rounds.seconds(lambda: subprocess.run(command, check=True))

        medians = rounds.alternate({"ray": lambda: run("ray"), "loop": lambda: run("loop")}, options.rounds)
    rounds.verdict(
        f"search over {options.learner}, start-up included, to a two-process loop of the library",
        medians["ray"] / medians["loop"],
        1.5,
        at_most=True,
    )


def draw(rows: int, seed: int) -> dict[str, Any]:
    """Packed rows of 20 numbers."""
    chance = np.random.default_rng(seed)
    x = chance.normal(size=(rows, 20)).astype(np.float32)
    label = x[:, 0] * x[:, 1] + x[:, 2] + chance.normal(size=rows) > 0
    return {"plain": x, "numeric": x, "label": label.astype(np.int64)}


def make_spec(learner: str, trials: int) -> ExperimentSpec:
    name, low, high = VARIED[learner]
    space = {f"training.options.{name}": {"low": low, "high": high, "log": True}}
    value = {
        "name": "bench",
        "defaults": "fixed",
        "dataset": {"path": "rows"},
        "features": {"target": {"column": "y"}, "numbers": ["x"]},
        "training": {"learner": learner, "options": OPTIONS[learner], "epochs": 24, "patience": 1000},
        "search": {"trials": trials, "scheduler": "none", "space": space},
    }
    return validate_document(value, ExperimentSpec)


def search_on_ray(learner: str, folder: pathlib.Path, trials: int) -> None:
    import ray

    from raymlops.lifecycle.cluster import join_cluster
    from raymlops.settings import Settings
    from raymlops.training.learners import Job
    from raymlops.training.packed import PackedSplit
    from raymlops.training.search import run_search

    held = pickle.loads((folder / "rows.pickle").read_bytes())
    join_cluster(Settings.from_env())
    train, validation = (
        PackedSplit(len(held[name]["label"]), arrays=ray.put(held[name])) for name in ("train", "validation")
    )
    found = run_search(
        Job(make_spec(learner, trials), PACKING, TARGET, train, validation),
        name=f"bench-{time.time_ns()}",
        storage_path=str(folder / "storage"),
        concurrent=2,
    )
    assert len([trial for trial in found.trials if trial.error is None]) == trials
    ray.shutdown()


def search_in_loop(learner: str, folder: pathlib.Path, trials: int) -> None:
    storage = f"sqlite:///{folder}/optuna-{time.time_ns()}.db"
    optuna.create_study(study_name="loop", storage=storage, direction="maximize")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(learner, folder, storage, trials // 2)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0


def _work(learner: str, folder: pathlib.Path, storage: str, trials: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    held = pickle.loads((folder / "rows.pickle").read_bytes())
    name, low, high = VARIED[learner]

    def objective(trial: optuna.Trial) -> float:
        options = {**OPTIONS[learner], name: trial.suggest_float(name, low, high, log=True)}
        return ALONE[learner](options, held["train"], held["validation"])

    optuna.load_study(study_name="loop", storage=storage).optimize(objective, n_trials=trials)


def _auc(rows: Any, scores: Any) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(rows["label"], scores))


def _lightgbm(options: dict[str, Any], train: Any, validation: Any) -> float:
    import lightgbm

    many = options.pop("rounds")
    given = {**options, "objective": "binary", "metric": "none", "num_threads": 1, "verbosity": -1}
    booster = lightgbm.train(given, lightgbm.Dataset(train["plain"], train["label"]), many)
    return _auc(validation, booster.predict(validation["plain"], num_threads=1))


def _xgboost(options: dict[str, Any], train: Any, validation: Any) -> float:
    import xgboost

    many = options.pop("rounds")
    data = xgboost.QuantileDMatrix(train["plain"], train["label"], nthread=1)
    booster = xgboost.train({**options, "objective": "binary:logistic", "nthread": 1}, data, many)
    return _auc(validation, booster.inplace_predict(validation["plain"]))


def _forest(options: dict[str, Any], train: Any, validation: Any) -> float:
    from sklearn.ensemble import ExtraTreesClassifier

    model = ExtraTreesClassifier(options.pop("trees"), random_state=0, **options)
    model.fit(train["plain"], train["label"])
    return _auc(validation, model.predict_proba(validation["plain"])[:, 1])


def _linear(options: dict[str, Any], train: Any, validation: Any) -> float:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=300, **options).fit(train["numeric"], train["label"])
    return _auc(validation, model.decision_function(validation["numeric"]))


def _ebm(options: dict[str, Any], train: Any, validation: Any) -> float:
    from interpret.glassbox import ExplainableBoostingClassifier

    model = ExplainableBoostingClassifier(
        max_rounds=options.pop("rounds"), n_jobs=1, random_state=0, **options
    )
    model.fit(train["plain"], train["label"])
    return _auc(validation, model.predict_proba(validation["plain"])[:, 1])


ALONE = {"lightgbm": _lightgbm, "xgboost": _xgboost, "forest": _forest, "linear": _linear, "ebm": _ebm}

if __name__ == "__main__":
    main()
