"""The metrics agree with scikit-learn, ties and weights included."""

import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from raymlops import metrics

RNG = np.random.default_rng(7)
ROWS = 3000
LABELS = RNG.integers(0, 2, ROWS)
SCORES = np.clip(LABELS * 0.2 + RNG.random(ROWS) * 0.8, 0, 1)
TIED = np.round(SCORES, 1)
WEIGHTS = RNG.random(ROWS) * 3
CLASSES = RNG.integers(0, 4, ROWS)
LOGITS = RNG.normal(size=(ROWS, 4)) + (np.arange(4) == CLASSES[:, None])
CHANCES = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
TARGET = RNG.normal(size=ROWS) * 10
GUESS = TARGET + RNG.normal(size=ROWS)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("scores", [SCORES, TIED, np.full(ROWS, 0.5)], ids=["distinct", "tied", "constant"])
def test_binary_metrics_agree_with_scikit_learn(scores, weights):
    expected = {
        metrics.roc_auc: sklearn.metrics.roc_auc_score,
        metrics.average_precision: sklearn.metrics.average_precision_score,
        metrics.log_loss: sklearn.metrics.log_loss,
        metrics.brier: sklearn.metrics.brier_score_loss,
    }
    for ours, theirs in expected.items():
        assert ours(LABELS, scores, weights) == pytest.approx(
            theirs(LABELS, scores, sample_weight=weights), abs=1e-10
        )


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
def test_class_metrics_agree_with_scikit_learn(weights):
    guess = CHANCES.argmax(axis=1)
    assert metrics.accuracy(CLASSES, guess, weights) == pytest.approx(
        sklearn.metrics.accuracy_score(CLASSES, guess, sample_weight=weights)
    )
    assert metrics.macro_f1(CLASSES, guess, weights) == pytest.approx(
        sklearn.metrics.f1_score(CLASSES, guess, average="macro", sample_weight=weights)
    )
    assert metrics.multiclass_log_loss(CLASSES, CHANCES, weights) == pytest.approx(
        sklearn.metrics.log_loss(CLASSES, CHANCES, sample_weight=weights)
    )
    assert metrics.multiclass_roc_auc(CLASSES, CHANCES, weights) == pytest.approx(
        sklearn.metrics.roc_auc_score(CLASSES, CHANCES, multi_class="ovr", sample_weight=weights)
    )


def test_macro_f1_takes_names_as_well_as_indexes():
    names = np.array(["ant", "bee", "cat", "dog"])
    guess = CHANCES.argmax(axis=1)
    assert metrics.macro_f1(names[CLASSES], names[guess]) == metrics.macro_f1(CLASSES, guess)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
def test_regression_metrics_agree_with_scikit_learn(weights):
    expected = {
        metrics.rmse: sklearn.metrics.root_mean_squared_error,
        metrics.mae: sklearn.metrics.mean_absolute_error,
        metrics.r2: sklearn.metrics.r2_score,
    }
    for ours, theirs in expected.items():
        assert ours(TARGET, GUESS, weights) == pytest.approx(theirs(TARGET, GUESS, sample_weight=weights))


def test_calibration_error_of_rates_that_hold_is_nothing_and_of_a_shift_is_the_shift():
    chances = np.repeat([0.25, 0.75], 400)
    labels = np.concatenate([np.arange(400) % 4 == 0, np.arange(400) % 4 != 0]).astype(int)
    assert metrics.expected_calibration_error(labels, chances) == pytest.approx(0)
    assert metrics.expected_calibration_error(labels, chances + 0.1) == pytest.approx(0.1)


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=40),
)
@settings(max_examples=200, deadline=None)
def test_an_integer_weight_is_the_same_as_repeated_rows(rows):
    labels, scores, counts = (np.array(column) for column in zip(*rows, strict=True))
    scores = scores / 5
    for name, metric in metrics.BINARY.items():
        weighted = metric(labels, scores, counts)
        repeated = metric(np.repeat(labels, counts), np.repeat(scores, counts))
        assert weighted == pytest.approx(repeated, nan_ok=True), name


@pytest.mark.parametrize("task", list(metrics.METRICS))
def test_no_rows_give_nan_and_no_error(task):
    scores = np.zeros((0, 3)) if task == "multiclass" else np.zeros(0)
    assert all(math.isnan(value) for value in metrics.measure(task, np.zeros(0, dtype=int), scores).values())


def test_one_class_leaves_the_ranking_metrics_undefined():
    values = metrics.measure("binary", np.zeros(3), np.array([0.1, 0.2, 0.3]))
    assert math.isnan(values["roc_auc"])
    assert math.isnan(values["average_precision"])
    assert values["brier"] == pytest.approx((0.01 + 0.04 + 0.09) / 3)


def test_gain_is_positive_when_a_metric_improves_in_its_own_direction():
    assert metrics.gain("roc_auc", 0.8, 0.7) == pytest.approx(0.1)
    assert metrics.gain("log_loss", 0.3, 0.4) == pytest.approx(0.1)
