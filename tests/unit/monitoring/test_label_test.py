"""Labels that came are compared with those of the reference at such scores."""

import numpy as np
import pytest

from raymlops.monitoring.calibration import Calibration, Labelled, Labels
from raymlops.monitoring.label_test import judge_labels
from raymlops.monitoring.reference import make_reference

DAY = 86_400
FIRST = 1_700_006_400


def draw(random: np.random.Generator, rows: int, change: str = "") -> Labels:
    score = random.beta(2, 5, rows)
    rate = {"": score, "fewer": score / 2, "random": np.full(rows, score.mean())}[change]
    return Labels.of_answers("binary", "score", "late", score, (random.random(rows) < rate).astype(float))


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    labels = draw(np.random.default_rng(0), 10_000)
    held = make_reference({"score": labels.scores[:, 0] if labels.scores.ndim > 1 else labels.scores},
                          {"score": "score"}, labels=labels).calibration  # fmt: skip
    assert held is not None
    return held


def make_days(calibration: Calibration, seed: int, change: str = "", days: int = 12) -> dict[int, Labelled]:
    random = np.random.default_rng(seed)
    return {
        FIRST + DAY * day: calibration.count(draw(random, 300, change if day >= days - 4 else ""))
        for day in range(days)
    }


def test_labels_as_before_are_no_alarm(calibration: Calibration) -> None:
    found = [judge_labels(calibration, make_days(calibration, seed), "flights", "4") for seed in range(1, 41)]
    assert sum(one is not None for one in found) <= 3
    assert judge_labels(calibration, {}, "flights", "4") is None


@pytest.mark.parametrize(("change", "what"), [("fewer", "other shares"), ("random", "ranks them less well")])
def test_labels_that_no_longer_fit_their_scores_page_with_what_was_measured(
    calibration: Calibration, change: str, what: str
) -> None:
    found = judge_labels(calibration, make_days(calibration, 1, change), "flights", "4")
    assert found is not None
    assert (found.family, found.severity) == ("labels", "page")
    assert what in found.sentence
    assert "Measured, roc_auc is" in found.sentence
    assert found.since >= FIRST + 4 * DAY
    assert found.to_alarm("flights", "4").watched.family == "labels"
