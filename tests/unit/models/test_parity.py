import dataclasses

import numpy as np
import pytest

from raymlops.errors import ParityError
from raymlops.features import FittedTarget
from raymlops.models import parity
from raymlops.models.parity import Parity

BINARY = FittedTarget("y", "binary", "string", ("no", "yes"), threshold=0.5)
WORDS = FittedTarget("y", "multiclass", "string", ("a", "b", "c"))
PRICE = FittedTarget("y", "regression", "number", mean=1000.0, std=100.0)


def test_equal_answers_have_no_difference() -> None:
    scores = np.array([0.2, 0.5, 0.9], dtype=np.float32)
    answers = {"probability": scores, "label": np.array(["no", "yes", "yes"], dtype=object)}
    assert parity.compare(scores, answers, BINARY) == Parity(3, 0.0, 0)


def test_the_largest_difference_and_the_flipped_labels_are_told() -> None:
    expected = np.array([0.2, 0.499, 0.9], dtype=np.float32)
    answers = {
        "probability": np.array([0.2, 0.501, 0.9], dtype=np.float32),
        "label": np.array(["no", "yes", "yes"], dtype=object),
    }
    found = parity.compare(expected, answers, BINARY)
    assert found == Parity(3, pytest.approx(0.002, abs=1e-6), 1)


def test_a_label_at_another_threshold_is_judged_by_that_threshold() -> None:
    target = dataclasses.replace(BINARY, threshold=0.3)
    scores = np.array([0.29, 0.31], dtype=np.float32)
    answers = {"probability": scores, "label": np.array(["no", "yes"], dtype=object)}
    assert parity.compare(scores, answers, target).flipped == 0


def test_classes_are_compared_by_their_labels() -> None:
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]], dtype=np.float32)
    answers = {"probabilities": scores, "label": np.array(["b", "c"], dtype=object)}
    assert parity.compare(scores, answers, WORDS) == Parity(2, 0.0, 1)


def test_predictions_are_compared_relative_to_the_spread_of_the_target() -> None:
    answers = {"prediction": np.array([1000.0, 1101.0], dtype=np.float32)}
    found = parity.compare(np.array([0.0, 1.0], dtype=np.float32), answers, PRICE)
    assert found == Parity(2, pytest.approx(0.01), 0)


def test_a_nan_is_the_worst_difference() -> None:
    answers = {"prediction": np.array([np.nan], dtype=np.float32)}
    assert parity.compare(np.zeros(1), answers, PRICE).difference == float("inf")


def test_parts_merge_into_the_whole() -> None:
    assert Parity(2, 0.5, 1).merge(Parity(3, 0.25, 2)) == Parity(5, 0.5, 3)
    assert Parity().merge(Parity(1, 0.1, 0)) == Parity(1, 0.1, 0)


def test_over_the_limits_it_is_not_registered() -> None:
    parity.require(Parity(10, 1e-5, 0), limit=1e-4, flipped=0)
    with pytest.raises(ParityError, match=r"2\.00e-04 \(limit 1e-04\) and 0 labels"):
        parity.require(Parity(10, 2e-4, 0), limit=1e-4, flipped=0)
    with pytest.raises(ParityError, match="3 labels"):
        parity.require(Parity(10, 0.0, 3), limit=1e-4, flipped=2)
