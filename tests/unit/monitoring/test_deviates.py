"""The tests of counts exceed a deviate as rarely as a normal variable does, whatever the sizes of both samples."""

import numpy as np
import pytest
from scipy import stats

from raymlops.monitoring import deviates

WINDOWS = 4000


@pytest.mark.parametrize(
    ("rows", "reference_rows"), [(30, 300), (500, 1000), (2000, 20_000), (20_000, 10_000)]
)
def test_without_a_change_deviates_are_as_rare_as_normal_ones(rows: int, reference_rows: int) -> None:
    random = np.random.default_rng(rows)
    shares = np.concatenate([[0.03, 0.0], np.full(16, 0.97 / 16), [0.0]])
    observed = random.multinomial(rows, shares, WINDOWS).astype(float)
    reference = random.multinomial(reference_rows, shares, WINDOWS) / reference_rows
    found = deviates.test_numbers(observed, reference * rows, reference_rows)
    for level in (1.5, 2.5):
        usual = stats.norm.sf(level)
        spread = 4 * np.sqrt(usual / WINDOWS)
        assert ((found > level).mean(axis=0) < 1.35 * usual + spread).all(), (
            level,
            (found > level).mean(axis=0),
        )
    shift, shape = (found[:, deviates.NUMBER_TESTS.index(name)] for name in ("shift", "shape"))
    for two_sample in (shift, shape):  # and not rarer either: a test that never speaks finds nothing
        assert (two_sample > 1.5).mean() > 0.6 * stats.norm.sf(1.5)


def test_each_fault_is_seen_by_the_test_that_is_for_it() -> None:
    rows, reference_rows = 1000, 20_000
    usual = np.concatenate([[0.0, 0.0], np.full(16, 1 / 16), [0.0]]) * rows
    faults = {
        "missing": usual * 0.99 + np.eye(19)[0] * 10,
        "below": usual * 0.995 + np.eye(19)[1] * 5,
        "above": usual * 0.995 + np.eye(19)[18] * 5,
        "shift": usual * np.concatenate([[0, 0], np.linspace(0.7, 1.3, 16), [0]]),
        "spread": usual * np.concatenate([[0, 0], np.abs(np.linspace(-1, 1, 16)) + 0.47, [0]]),
        "shape": usual * np.concatenate([[0, 0], [0.5, 1.5] * 8, [0]]),
    }
    for name, observed in faults.items():
        found = deviates.test_numbers(observed * rows / observed.sum(), usual, reference_rows)
        assert deviates.NUMBER_TESTS[int(found.argmax())] == name
        assert found.max() > 5


def test_new_categories_count_against_what_the_reference_cannot_exclude() -> None:
    usual = np.zeros(32)
    usual[3:6] = 1 / 3
    observed = usual * 100
    observed[deviates.NEW] = 1
    few = deviates.test_categories(observed, usual * 101, 200)
    many = deviates.test_categories(observed, usual * 101, 100_000)
    place = deviates.CATEGORY_TESTS.index("new")
    assert few[place] < 1 < 3 < many[place]  # 200 reference rows say little about a share of 1 %


def test_nothing_is_said_without_rows_and_everything_is_finite() -> None:
    usual = np.concatenate([[0.0, 0.0], np.full(16, 1 / 16), [0.0]])
    assert (deviates.test_numbers(np.zeros(19), usual * 0, 100) == 0).all()
    for observed in np.eye(19):
        for rows in (1.0, 1e3, 1e9):
            found = deviates.test_numbers(observed * rows, usual * rows, 1e5)
            assert np.isfinite(found).all()
