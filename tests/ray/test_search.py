"""Searches of every kind on one small prepared table."""

import dataclasses
import pathlib
import re
from typing import Any

import pytest
import torch

from raymlops.errors import ResourceError, SpecError
from raymlops.lifecycle.train.prepare import Prepared, prepare
from raymlops.specs.document import validate_document
from raymlops.specs.experiment import ExperimentSpec
from raymlops.training import demand, worker
from raymlops.training.search import run_search
from raymlops.training.trials import SearchResult
from tests import experiments

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def prepared(ray_cluster: int, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    path = tmp_path_factory.mktemp("search") / "rows.parquet"
    experiments.write_table(experiments.signal_table(400), path)
    return prepare(experiments.spec_of("searches", {"path": str(path)}))


def changed(spec: ExperimentSpec, **parts: dict[str, Any]) -> ExperimentSpec:
    value = spec.model_dump(exclude_unset=True)
    for name, part in parts.items():
        value[name] = {**value.get(name, {}), **part}
    return validate_document(value, ExperimentSpec)


def search(
    prepared: Prepared, folder: pathlib.Path, name: str, **parts: dict[str, Any]
) -> tuple[SearchResult, experiments.Told]:
    spec = changed(prepared.spec, **parts)
    told = experiments.Told()
    job = dataclasses.replace(prepared.job, spec=spec)
    found = run_search(job, name=name, storage_path=str(folder), concurrent=2, observers=[told])
    return found, told


def assert_each_trial_once(found: SearchResult, told: experiments.Told) -> None:
    names = {trial.name for trial in found.trials}
    assert len(names) == len(found.trials)
    assert set(told.started) == names
    assert told.ended == dict.fromkeys(names)
    assert all(trial.checkpoint is not None and trial.error is None for trial in found.trials)


def test_a_grid_visits_every_point_once(prepared: Prepared, tmp_path: pathlib.Path) -> None:
    space = {"lr": {"choices": [0.01, 0.02]}, "network.options.hidden": {"choices": [8, 16]}}
    found, told = search(
        prepared, tmp_path, "grid",
        search={"algorithm": "grid", "trials": 1, "space": space}, training={"epochs": 1},
    )  # fmt: skip
    assert_each_trial_once(found, told)
    points = {(trial.parameters["lr"], trial.parameters["network.options.hidden"]) for trial in found.trials}
    assert points == {(0.01, 8), (0.01, 16), (0.02, 8), (0.02, 16)}
    for trial in found.trials:
        assert trial.checkpoint is not None
        weights = worker.load_state(trial.checkpoint)["best_network"]
        assert weights["body.0.weight"].shape[0] == trial.parameters["network.options.hidden"]


def test_optuna_with_asha_stops_poor_trials_early(prepared: Prepared, tmp_path: pathlib.Path) -> None:
    found, told = search(
        prepared, tmp_path, "asha",
        search={"algorithm": "optuna", "scheduler": "asha", "trials": 4, "grace_epochs": 1, "reduction": 2,
                "space": {"lr": {"low": 1e-6, "high": 0.05, "log": True}}},
        training={"epochs": 4, "patience": 4},
    )  # fmt: skip
    assert_each_trial_once(found, told)
    assert len(found.trials) == 4
    for epochs in told.reported.values():
        assert epochs == list(range(1, len(epochs) + 1))
    assert max(len(epochs) for epochs in told.reported.values()) == 4
    assert found.best.learned["best_roc_auc"] == max(t.learned["best_roc_auc"] for t in found.trials)


def test_population_based_training_copies_good_trials(prepared: Prepared, tmp_path: pathlib.Path) -> None:
    found, told = search(
        prepared, tmp_path, "pbt",
        search={"algorithm": "random", "scheduler": "pbt", "trials": 2, "perturb_epochs": 1,
                "space": {"lr": {"low": 1e-6, "high": 0.05, "log": True}}},
        training={"epochs": 3, "patience": 3},
    )  # fmt: skip
    assert set(told.started) == {trial.name for trial in found.trials}
    assert len(found.trials) == 2
    assert all(trial.checkpoint is not None for trial in found.trials)
    with pytest.raises(SpecError, match=r"search\.space names none"):
        search(
            prepared, tmp_path, "pbt-none", search={"scheduler": "pbt", "space": {}, "algorithm": "random"}
        )


def test_the_same_seeds_give_the_same_weights_in_two_searches(
    prepared: Prepared, tmp_path: pathlib.Path
) -> None:
    parts: dict[str, Any] = {
        "search": {"trials": 1, "algorithm": "random", "space": {}},
        "training": {"epochs": 1},
    }
    weights = []
    for name in ("first", "second"):
        found, _ = search(prepared, tmp_path, name, **parts)
        assert found.best.checkpoint is not None
        weights.append(worker.load_state(found.best.checkpoint)["best_network"])
    for name, values in weights[0].items():
        assert torch.equal(values, weights[1][name]), name


def test_trials_at_a_time_follow_from_the_cluster_and_the_spec(prepared: Prepared, ray_cluster: int) -> None:
    assert demand.check_demand(prepared.spec) == ray_cluster
    assert demand.check_demand(changed(prepared.spec, training={"workers": 2})) == ray_cluster // 2
    assert demand.check_demand(changed(prepared.spec, search={"concurrent": 1})) == 1
    over = changed(prepared.spec, training={"workers": ray_cluster + 1})
    with pytest.raises(ResourceError, match=re.escape(f"{ray_cluster + 1} CPUs ({ray_cluster + 1} workers)")):
        demand.check_demand(over)
    assert demand.check_demand(over, autoscaling=True) == over.search.trials  # the cluster grows to it
