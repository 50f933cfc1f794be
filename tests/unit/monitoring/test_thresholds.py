"""Streams without a change raise as many alarms as a threshold promises."""

import numpy as np

from raymlops.monitoring import cells, thresholds, windows
from raymlops.monitoring.reference import make_reference


def test_the_rate_of_alarms_is_the_nominal_one_on_fresh_streams() -> None:
    random = np.random.default_rng(0)

    def draw(rows: int) -> dict[str, np.ndarray]:
        return {
            "number": random.normal(size=rows),
            "kind": random.choice(["a", "b", "c", "d"], rows).astype(object),
        }

    reference = make_reference(draw(5000), {})
    tests = windows.Tests.of(reference.kinds)
    streams = thresholds.simulate_rows(reference.codes, tests, 50, 40, random)
    tail = thresholds.fit_tail([one.max(axis=1) for one in streams])
    ticks, wanted = 600, 2.0
    threshold = tail.find_threshold(wanted / ticks)
    alarms = 0
    for _ in range(20):
        fresh = make_reference(draw(5000), {})
        counts = np.stack([cells.count(fresh.encode(draw(50))) for _ in range(ticks)]).astype(float)
        expected = np.broadcast_to(cells.count(fresh.codes) / 5000 * 50, counts.shape)
        statistic = windows.find_statistics(counts, expected, tests, 5000).max(axis=1)
        alarms += thresholds.find_events(statistic, threshold)
    assert 0.5 * wanted * 20 < alarms < 1.6 * wanted * 20


def test_windows_are_differences_of_cumulative_counts() -> None:
    ticks = np.arange(20, dtype=float).reshape(10, 2)
    held = windows.accumulate(ticks)
    for scale in (1, 2, 4, 8):
        found = windows.sum_windows(held, scale)
        assert (found == [ticks[start : start + scale].sum(axis=0) for start in range(11 - scale)]).all()
