"""The ranking of a search's learners, from what their trials answered."""

import numpy as np
import pytest

from raymlops.features import FittedTarget
from raymlops.lifecycle.train.learner_board import measure_files, rank_bags
from raymlops.specs.training import TrainingSpec
from raymlops.training.blends import Bag, Bags, Member, Winner, to_single
from raymlops.training.trials import Trial

ROWS = 500
RANDOM = np.random.default_rng(5)
LABELS = RANDOM.integers(0, 2, ROWS).astype(np.float32)
TARGET = FittedTarget("y", "binary", "string", ("no", "yes"))


def bag(name: str, learner: str, noise: float) -> Bag:
    trial = Trial(name, {"training.learner": learner}, {"roc_auc": 0.5}, 2.0, "here")
    margins = (2 * LABELS - 1)[:, None] + noise * RANDOM.normal(size=(ROWS, 1))
    return Bag(trial, (trial,), margins)


def test_the_first_trial_of_each_learner_and_the_blend_are_ranked() -> None:
    bags = Bags((bag("a", "linear", 1), bag("b", "linear", 3), bag("c", "forest", 1)), LABELS, None)
    winner = Winner((Member(bags.bags[0].trial, 0.5), Member(bags.bags[2].trial, 0.5)))
    found = rank_bags(bags, winner, TrainingSpec(), TARGET, "roc_auc")
    assert found is not None
    assert found.lines[0].name == "blend"
    assert {line.trials for line in found.lines} == {("a", "c"), ("a",), ("c",)}
    assert found.lines[0].seconds == 4
    assert sum(line.first for line in found.lines) == pytest.approx(1)


def test_a_learner_whose_answers_are_not_finite_is_left_out_and_one_alone_has_no_ranking() -> None:
    broken = bag("c", "forest", 1)
    broken.margins[3] = np.nan
    bags = Bags((bag("a", "linear", 1), bag("b", "ebm", 1), broken), LABELS, None)
    found = rank_bags(bags, to_single(bags.bags[0].trial), TrainingSpec(), TARGET, "roc_auc")
    assert found is not None
    assert {line.name for line in found.lines} == {"linear", "ebm"}
    two = Bags((bags.bags[0], broken), LABELS, None)
    assert rank_bags(two, to_single(bags.bags[0].trial), TrainingSpec(), TARGET, "roc_auc") is None


def test_a_learner_whose_export_fails_does_not_lose_the_search() -> None:
    bags = Bags((bag("a", "linear", 1), bag("c", "forest", 2)), LABELS, None)
    found = rank_bags(bags, to_single(bags.bags[0].trial), TrainingSpec(), TARGET, "roc_auc")
    assert found is not None
    told: list[str] = []

    def fail(name: str) -> bytes:
        raise ZeroDivisionError(f"no file of {name}")

    measured = measure_files(found, to_single(bags.bags[0].trial), b"", fail, {}, told.append)
    assert [line.size for line in measured.lines] == [None, None]
    assert "The file of forest is not measured: no file of c" in told
