"""A stack weighs models by what each adds, and its slopes are those of its losses."""

from typing import Any

import numpy as np
import pytest

from raymlops.features import FittedTarget
from raymlops.specs.training import TrainingSpec
from raymlops.training import blends
from raymlops.training.row_losses import make_loss
from raymlops.training.stacking import fit_stack
from tests.unit.training.test_blends import TARGETS, labels_of, noisy

COUNTS = FittedTarget("y", "regression", "number", mean=3.0, std=2.0)
LOGS = FittedTarget("y", "regression", "number", mean=1.0, std=0.5, transform="log", low=0.0, high=3.0)


@pytest.mark.parametrize(
    ("target", "loss"),
    [
        (TARGETS["binary"], None), (TARGETS["multiclass"], None), (COUNTS, "mse"), (COUNTS, "mae"),
        (COUNTS, "quantile"), (COUNTS, "poisson"), (LOGS, "mse"),
    ],
)  # fmt: skip
def test_the_slope_of_a_loss_is_what_a_small_step_changes(target: FittedTarget, loss: Any) -> None:
    chance = np.random.default_rng(3)
    labels = chance.integers(0, 2, 50) if target.task != "regression" else chance.uniform(-1, 2, 50)
    found = make_loss(TrainingSpec(loss=loss, quantile=0.3), target, labels)
    margins = chance.uniform(-0.9, 2.1, (50, target.outputs))
    slopes = found.slope(margins)
    for output in range(target.outputs):
        step = np.zeros_like(margins)
        step[:, output] = 1e-6
        expected = (found(margins + step) - found(margins - step)) / 2e-6
        np.testing.assert_allclose(slopes[:, output], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("task", TARGETS)
def test_a_stack_is_no_worse_on_fresh_rows_than_the_best_of_its_models_and_leaves_out_useless_ones(
    task: str,
) -> None:
    labels = labels_of(task, rows=1500)
    useless = noisy(task, np.random.default_rng(1).permutation(labels), 1.0, 5)
    margins = np.stack([noisy(task, labels, 0.8, 1), noisy(task, labels, 1.6, 2), useless])
    weights = fit_stack(margins, make_loss(TrainingSpec(), TARGETS[task], labels))
    assert weights[2] == 0
    assert weights[0] > weights[1] > 0
    fresh = np.random.default_rng(8).permutation(labels)
    unseen = np.stack([noisy(task, fresh, 0.8, 11), noisy(task, fresh, 1.6, 12)])
    loss = make_loss(TrainingSpec(), TARGETS[task], fresh)
    assert loss(np.tensordot(weights[:2], unseen, axes=1)).mean() < min(loss(one).mean() for one in unseen)


def test_of_few_rows_a_stack_stays_near_the_plain_mean_and_rows_without_weight_do_not_count() -> None:
    labels = labels_of("binary", rows=40)
    margins = np.stack([noisy("binary", labels, 1.0, seed) for seed in range(3)])
    loss = make_loss(TrainingSpec(), TARGETS["binary"], labels)
    assert np.abs(fit_stack(margins, loss) - 1 / 3).max() < 0.3
    half = np.arange(40) < 20
    spoiled = margins.copy()
    spoiled[:, ~half] *= -5
    np.testing.assert_allclose(
        fit_stack(spoiled, loss, half.astype(float)),
        fit_stack(margins[:, half], make_loss(TrainingSpec(), TARGETS["binary"], labels[half])),
        atol=1e-4,
    )


def test_the_kind_of_blend_with_the_least_loss_on_rows_that_chose_nothing_is_taken() -> None:
    labels = labels_of("binary")
    margins = np.stack([noisy("binary", labels, noise, seed) for seed, noise in enumerate((1, 1.2, 2))])
    judged = blends.judge_blend(
        margins, lambda rows: make_loss(TrainingSpec(), TARGETS["binary"], labels[rows])
    )
    assert {judged.kind, *judged.others} == set(blends.SELECTIONS)
    assert judged.blend <= min(judged.others.values())
