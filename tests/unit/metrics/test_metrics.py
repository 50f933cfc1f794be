"""The metrics agree with scikit-learn, ties and weights included."""

import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from raymlops import metrics

BINARY, MULTICLASS, REGRESSION = metrics.METRICS.values()
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
        "roc_auc": sklearn.metrics.roc_auc_score,
        "average_precision": sklearn.metrics.average_precision_score,
        "log_loss": sklearn.metrics.log_loss,
        "brier": sklearn.metrics.brier_score_loss,
    }
    for name, theirs in expected.items():
        assert BINARY[name](LABELS, scores, weights) == pytest.approx(
            theirs(LABELS, scores, sample_weight=weights), abs=1e-10
        )


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
def test_class_metrics_agree_with_scikit_learn(weights):
    guess = CHANCES.argmax(axis=1)
    assert MULTICLASS["accuracy"](CLASSES, CHANCES, weights) == pytest.approx(
        sklearn.metrics.accuracy_score(CLASSES, guess, sample_weight=weights)
    )
    assert MULTICLASS["macro_f1"](CLASSES, CHANCES, weights) == pytest.approx(
        sklearn.metrics.f1_score(CLASSES, guess, average="macro", sample_weight=weights)
    )
    assert MULTICLASS["log_loss"](CLASSES, CHANCES, weights) == pytest.approx(
        sklearn.metrics.log_loss(CLASSES, CHANCES, sample_weight=weights)
    )
    assert MULTICLASS["roc_auc"](CLASSES, CHANCES, weights) == pytest.approx(
        sklearn.metrics.roc_auc_score(CLASSES, CHANCES, multi_class="ovr", sample_weight=weights)
    )


def test_macro_f1_is_the_same_for_names_as_for_indexes():
    names = np.array(["ant", "bee", "cat", "dog"])
    named = sklearn.metrics.f1_score(names[CLASSES], names[CHANCES.argmax(axis=1)], average="macro")
    assert named == pytest.approx(MULTICLASS["macro_f1"](CLASSES, CHANCES))


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
def test_regression_metrics_agree_with_scikit_learn(weights):
    expected = {
        "rmse": sklearn.metrics.root_mean_squared_error,
        "mae": sklearn.metrics.mean_absolute_error,
        "r2": sklearn.metrics.r2_score,
    }
    for name, theirs in expected.items():
        assert REGRESSION[name](TARGET, GUESS, weights) == pytest.approx(
            theirs(TARGET, GUESS, sample_weight=weights)
        )


def test_calibration_error_of_rates_that_hold_is_nothing_and_of_a_shift_is_the_shift():
    chances = np.repeat([0.25, 0.75], 400)
    labels = np.concatenate([np.arange(400) % 4 == 0, np.arange(400) % 4 != 0]).astype(int)
    assert BINARY["calibration_error"](labels, chances) == pytest.approx(0)
    assert BINARY["calibration_error"](labels, chances + 0.1) == pytest.approx(0.1)


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=40),
)
@settings(max_examples=200, deadline=None)
def test_an_integer_weight_is_the_same_as_repeated_rows(rows):
    labels, scores, counts = (np.array(column) for column in zip(*rows, strict=True))
    scores = scores / 5
    for name, metric in BINARY.items():
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


def test_a_metric_improves_in_the_direction_that_is_listed():
    for task, table in metrics.METRICS.items():
        scores = CHANCES if task == "multiclass" else SCORES if task == "binary" else GUESS
        labels = {"binary": LABELS, "multiclass": CLASSES, "regression": TARGET}[task]
        for name, metric in table.items():
            if name != "calibration_error":  # of no use as a skill: rates that say nothing are calibrated
                mixed = scores[np.random.default_rng(1).permutation(ROWS)]
                assert metrics.gain(name, metric(labels, scores), metric(labels, mixed)) > 0, (task, name)


def test_a_score_that_is_not_finite_leaves_no_metric():
    for broken in (math.nan, math.inf):
        scores = np.array([0.1, broken, 0.3])
        for task in ("binary", "regression"):
            assert all(
                math.isnan(value) for value in metrics.measure(task, np.arange(3) % 2, scores).values()
            )


def test_a_constant_target_has_no_r2_however_it_is_rounded():
    for constant in (0.1, 1e9 + 0.3, 0.0):
        assert math.isnan(REGRESSION["r2"](np.full(7, constant), np.arange(7.0))), constant


@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(2, 5), st.booleans(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_generated_rows_agree_with_scikit_learn(seed, rows, classes, tied, weighted):
    """With ties, with classes that no row has, in float32 as networks score, and with weights."""
    random = np.random.default_rng(seed)
    weights = random.random(rows) + 0.01 if weighted else None
    chances = random.random((rows, classes)).astype(np.float32)
    chances = (np.round(chances, 1) if tied else chances) + np.float32(1e-3)
    chances = chances / chances.sum(axis=1, keepdims=True)
    labels = random.integers(0, random.integers(1, classes + 1), rows)  # often not all classes
    exact = chances.astype(np.float64) / chances.astype(np.float64).sum(axis=1, keepdims=True)
    found = metrics.measure("multiclass", labels, chances, weights)
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(labels, chances.argmax(axis=1), sample_weight=weights),
        "macro_f1": sklearn.metrics.f1_score(
            labels, chances.argmax(axis=1), average="macro", sample_weight=weights
        ),
        "log_loss": sklearn.metrics.log_loss(labels, exact, labels=np.arange(classes), sample_weight=weights),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name
    positive = (labels == 0).astype(int)
    found = metrics.measure("binary", positive, chances[:, 0], weights)
    assert found["brier"] == pytest.approx(
        np.average((chances[:, 0].astype(np.float64) - positive) ** 2, weights=weights)
    )
    assert found["accuracy"] == pytest.approx(
        sklearn.metrics.accuracy_score(positive, chances[:, 0] >= 0.5, sample_weight=weights)
    )
    if 0 < positive.sum() < rows:
        for name, theirs in (
            ("roc_auc", sklearn.metrics.roc_auc_score),
            ("average_precision", sklearn.metrics.average_precision_score),
        ):
            value = theirs(positive, chances[:, 0], sample_weight=weights)
            assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name
    else:
        assert math.isnan(found["roc_auc"])
