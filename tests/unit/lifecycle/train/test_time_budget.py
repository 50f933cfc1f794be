"""What trials and folds may take of `search.max_minutes`."""

import time

import pytest

from raymlops.errors import SpecError
from raymlops.lifecycle.train.time_budget import TimeBudget


def test_without_max_minutes_nothing_is_limited() -> None:
    budget = TimeBudget(None).with_reserve(1e9)
    assert budget.left is None
    assert budget.left_to_train is None
    assert budget.grant_trials() is None
    assert budget.allows(1e9)


def test_trials_end_early_enough_for_the_stages_after_them() -> None:
    budget = TimeBudget(600, time.monotonic() - 100).with_reserve(preparing=20)
    granted = budget.grant_trials()
    assert granted is not None
    assert granted < 600 - 100 - 1.5 * 20
    assert budget.allows(400)
    assert not budget.allows(475)


def test_a_large_estimate_leaves_trials_half_of_the_time() -> None:
    budget = TimeBudget(60, time.monotonic() - 20).with_reserve(preparing=1000)
    granted = budget.grant_trials()
    assert granted is not None
    assert 15 < granted <= 20


def test_a_time_that_is_over_before_the_first_trial_is_told_with_its_remedy() -> None:
    budget = TimeBudget(6, time.monotonic() - 30).with_reserve(preparing=25)
    with pytest.raises(
        SpecError, match=r"search\.max_minutes: 0\.1 minutes .* after 3\d s; .* 4[89] s; allow more"
    ):
        budget.grant_trials()
