"""Days that have a weather of their own are compared with a reference as days, not as independent rows."""

import numpy as np
import numpy.typing as npt
import pytest

from raymlops.monitoring import comparison
from raymlops.monitoring.reference import Reference, make_reference

Values = dict[str, npt.NDArray[np.generic]]
DAY_ROWS = 600


def make_days(days: int, seed: int) -> Values:
    """Each day is as warm as it is: its rows differ by a tenth of what days do."""
    random = np.random.default_rng(seed)
    rows = days * DAY_ROWS
    return {
        "warmth": np.repeat(random.normal(size=days), DAY_ROWS) + 0.1 * random.normal(size=rows),
        "amount": random.normal(size=rows),
        "kind": random.choice(["a", "b", "c"], rows, p=[0.6, 0.3, 0.1]).astype(object),
    }


@pytest.fixture(scope="module")
def reference() -> Reference:
    """A sample of 20,000 of 72,000 rows: its days have fewer rows than those to come."""
    times = np.datetime64("2026-01-01") + np.repeat(np.arange(120), DAY_ROWS) * np.timedelta64(1, "D")
    return make_reference(make_days(120, 0), {}, times=times)


def test_days_without_a_change_do_not_differ_more_often_than_asked(reference: Reference) -> None:
    maxima = comparison.simulate_maxima(reference, DAY_ROWS)
    differ = 0
    for seed in range(1, 61):
        counts = reference.count(make_days(1, seed))
        differ += comparison.compare(reference, counts, DAY_ROWS, level=0.1, maxima=maxima).differs
    assert differ <= 14  # 6 are expected; more than 14 in one of 600 such runs


def test_what_does_not_hang_together_in_a_day_is_seen_as_among_independent_rows(reference: Reference) -> None:
    day = make_days(1, 7)
    day["amount"] = np.where(np.arange(DAY_ROWS) % 20 == 0, np.nan, day["amount"])
    found = comparison.compare(reference, reference.count(day), DAY_ROWS)
    assert found.findings[0].column.name == "amount"
    assert "missing" in found.describe()


def test_weeks_are_judged_as_so_many_days(reference: Reference) -> None:
    week = make_days(7, 3)
    assert not comparison.compare(reference, reference.count(week), 7 * DAY_ROWS).differs
    week["warmth"] = week["warmth"] + 4.0
    assert comparison.compare(reference, reference.count(week), 7 * DAY_ROWS).differs
