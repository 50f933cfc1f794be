"""How much of the time of a search is kept for folds."""

import pytest

from raymlops.training.search_time import FOLDS_START_S, SearchTime


def test_what_the_folds_of_the_best_take_is_kept_and_nothing_where_there_are_none() -> None:
    assert SearchTime(60, folds=5, places=2).keep([1.0, 1.0]) == FOLDS_START_S + 5
    assert SearchTime(60).keep([1.0, 1.0]) == 0


@pytest.mark.parametrize(
    ("costs", "kept"), [([2.0, 2.0, 100.0], 13.0), ([100.0, 1.0], 5.5), ([100.0], 0.0), ([], 0.0)]
)
def test_folds_that_would_take_more_than_half_of_the_time_are_left_to_trials(
    costs: list[float], kept: float
) -> None:
    assert SearchTime(60, folds=5, places=2).keep(costs) == kept
