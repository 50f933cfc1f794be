"""A range between integers is of integers where a learner takes nothing else."""

from typing import Any

import pytest

from raymlops.features import FittedColumn, FittedFeatures
from raymlops.lifecycle.train import stages
from raymlops.specs.document import validate_document
from raymlops.specs.experiment import ExperimentSpec
from raymlops.training import candidates
from raymlops.training.learner_search import LearnerSearch
from tests.learner_rows import TARGETS


def spec_of(**parts: Any) -> ExperimentSpec:
    value = {
        "name": "toy",
        "dataset": {"path": "toy.csv"},
        "features": {"target": {"column": "y"}, "numbers": ["x"]},
        **parts,
    }
    return validate_document(value, ExperimentSpec)


@pytest.mark.parametrize(
    ("learner", "key", "whole"),
    [
        ("lightgbm", "num_leaves", True),
        ("lightgbm", "lambda_l2", False),
        ("xgboost", "max_depth", True),
        ("forest", "trees", True),
        ("realmlp", "frequency", False),
        ("realmlp", "width", True),
        ("network", "network.options.hidden", True),
        ("network", "epochs", True),
        ("network", "weight_decay", False),
    ],
)
def test_what_a_search_suggests_is_what_the_learner_takes(learner: str, key: str, whole: bool) -> None:
    for low, high in ((1, 16), (2, 3), (3.0, 12.0)):
        spec = spec_of(search={"learners": {learner: {key: {"low": low, "high": high}}}})
        (found,) = candidates.find_candidates(spec, 3000, "binary")
        (varied,) = (one for name, one in found.varied.items() if name.endswith(key))
        assert varied.integer is whole
    search = LearnerSearch((found,), metric="best_log_loss", mode="min", seed=0)
    for number in range(8):
        asked: Any = search.suggest(str(number))
        values = [value for name, value in asked.items() if name.endswith(key)]
        assert all(isinstance(value, int) is whole for value in values if number > 5)
        search.on_trial_complete(str(number), {"best_log_loss": 0.5, "time_total_s": 1.0})


def test_the_space_of_one_learner_too_and_what_is_said_stays() -> None:
    features = FittedFeatures((FittedColumn("x", "number", "number"),), TARGETS["binary"])
    space = {"num_leaves": {"low": 4, "high": 16}, "feature_fraction": {"low": 0.5, "high": 1}}
    space = {f"training.options.{key}": one for key, one in space.items()}
    spec = spec_of(training={"learner": "lightgbm"}, search={"space": space})
    chosen = {one.key: one.value for one in stages.decide(spec, features, {"train": 900, "validation": 90})}
    found = chosen["search.space"]
    assert found["training.options.num_leaves"]["integer"]
    assert not found["training.options.feature_fraction"]["integer"]
    said = {"lightgbm": {"num_leaves": {"low": 4, "high": 16, "integer": True}}}
    (one,) = candidates.find_candidates(spec_of(search={"learners": said}), 900, "binary")
    assert one.varied["training.options.num_leaves"].integer
