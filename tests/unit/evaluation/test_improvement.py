"""A search says if it was still improving when it ended, and by how much."""

import pytest

from raymlops.evaluation.improvement import find_improvement

FLAT = [0.9] * 12
LEARNING = [0.9, 0.8, 0.7, 0.6, 0.5, 0.45, 0.41, 0.4]


def test_late_better_trials_are_told_with_their_gain() -> None:
    (said,) = find_improvement("roc_auc", [0.7, 0.72, 0.71, 0.72, 0.7, 0.75], FLAT, epochs=12)
    assert said == "The last 2 of 6 trials still improved roc_auc by 0.03000; raise search.trials"


def test_a_best_trial_that_was_still_learning_is_told() -> None:
    (said,) = find_improvement("log_loss", [0.5] * 6, LEARNING, epochs=8)
    assert (
        said
        == "The best trial still improved log_loss by 0.05000 in its last 2 of 8 epochs; raise training.epochs"
    )


@pytest.mark.parametrize(
    "values",
    [[], [0.8], [0.8, 0.9], [0.9, 0.7, 0.8], FLAT, [0.9, 0.9, 0.9001], [0.9, float("-inf"), float("nan")]],
)
def test_nothing_is_said_of_noise_of_few_trials_and_of_an_early_best(values: list[float]) -> None:
    assert find_improvement("roc_auc", values, FLAT, epochs=12) == ()


def test_smaller_is_better_for_an_error() -> None:
    assert find_improvement("rmse", [3.0, 2.0, 4.0], FLAT, epochs=12) == ()
    assert len(find_improvement("rmse", [3.0, 4.0, 2.0], FLAT, epochs=12)) == 1


def test_more_epochs_are_not_advised_where_a_training_would_not_take_them() -> None:
    stopped = [*LEARNING, 0.5, 0.5]  # by its patience
    assert find_improvement("log_loss", [], stopped, epochs=20) == ()
    assert find_improvement("log_loss", [], stopped, epochs=20, timed=True) == ()


def test_where_time_ended_a_search_more_time_is_advised() -> None:
    (said,) = find_improvement("log_loss", [], LEARNING, epochs=20, timed=True)
    assert said.endswith("in its last 2 of 8 epochs; raise search.max_minutes")
    (said,) = find_improvement("rmse", [3.0, 4.0, 2.0], FLAT, epochs=12, timed=True)
    assert said.endswith("raise search.max_minutes")


def test_more_trials_of_a_grid_are_not_advised() -> None:
    assert find_improvement("rmse", [3.0, 4.0, 2.0], FLAT, epochs=12, ordered=False) == ()
