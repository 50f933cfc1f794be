"""The ranking of learners: its order, how sure it is, and what is kept of it."""

import numpy as np
import pytest

from raymlops import metrics
from raymlops.evaluation.learner_ranking import Answers, LearnerRanking, rank_learners

RANDOM = np.random.default_rng(3)
ROWS = 2_000
LOGITS = RANDOM.normal(size=ROWS)
LABELS = (RANDOM.random(ROWS) < 1 / (1 + np.exp(-LOGITS))).astype(np.int64)


def answer(name, noise, seed):
    logits = LOGITS + noise * np.random.default_rng(seed).normal(size=ROWS)
    chance = 1 / (1 + np.exp(-logits))
    return Answers(name, (f"of-{name}",), chance, -np.log(np.where(LABELS, chance, 1 - chance)), 1.5)


def rank(*answers, **more):
    return rank_learners(answers, LABELS, task="binary", metric="roc_auc", **more)


def test_the_least_loss_is_first_and_its_metric_has_an_interval() -> None:
    good = answer("good", 0.1, 1)
    found = rank(answer("bad", 2.0, 2), good)
    assert [line.name for line in found.lines] == ["good", "bad"]
    first, last = found.lines
    assert first.value.value == pytest.approx(
        metrics.measure("binary", LABELS, good.scores)["roc_auc"], abs=1e-6
    )
    assert last.value.high < first.value.low < first.value.value < first.value.high
    assert (first.behind, first.error, first.first) == (0, 0, 1)
    assert last.behind > 5 * last.error > 0
    assert "good is ahead of bad beyond doubt" in found.describe()


def test_learners_that_are_as_good_share_the_resamples_and_are_said_to_be_close() -> None:
    found = rank(answer("one", 0.3, 1), answer("other", 0.3, 2), answer("bad", 2.0, 3))
    one, other, bad = (line.first for line in found.lines)
    assert one + other == pytest.approx(1)
    assert other > 0.05
    assert bad == 0
    assert f"{found.lines[1].name} is within two standard errors" in found.describe()


def test_the_standard_error_is_that_of_the_paired_differences() -> None:
    good, bad = answer("good", 0.1, 1), answer("bad", 0.6, 2)
    line = rank(good, bad).lines[1]
    differences = bad.losses - good.losses
    assert line.error == pytest.approx(differences.std() / np.sqrt(ROWS))
    assert line.error < bad.losses.std() / np.sqrt(ROWS)


def test_rows_of_weight_zero_decide_nothing() -> None:
    weights = np.ones(ROWS)
    bad = answer("bad", 2.0, 2)
    weights[bad.losses > np.quantile(bad.losses, 0.4)] = 0
    found = rank(bad, answer("good", 0.1, 1), weights=weights, loss_weights=weights)
    assert found.lines[0].name == "bad"


def test_few_rows_several_classes_and_numbers_are_ranked_too() -> None:
    chances = np.array([[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.1, 0.2, 0.7]])
    labels = np.array([0, 1, 2])
    losses = -np.log(np.diag(chances))
    same = Answers("a", ("t",), chances, losses, 0.0)
    found = rank_learners([same, same], labels, task="multiclass", metric="log_loss", classes=3)
    assert found.lines[0].value.value == pytest.approx(losses.mean(), abs=1e-6)
    numbers = np.arange(40.0)
    given = [
        Answers(name, (), numbers + by, np.full(40, by**2), 0.0) for name, by in (("a", 2.0), ("b", 1.0))
    ]
    found = rank_learners(given, numbers, task="regression", metric="rmse")
    assert [line.value.value for line in found.lines] == pytest.approx([1, 2])


def test_it_is_read_as_it_was_stored() -> None:
    found = rank(answer("one", 0.3, 1), answer("other", 0.3, 2), folds=5)
    assert LearnerRanking.from_json(found.to_json()) == found
