"""What is usual at a time of the week, and how much rows of one hour and day hang together."""

import numpy as np

from raymlops.monitoring import windows
from raymlops.monitoring.baseline import Baseline, Thresholds
from raymlops.monitoring.expectation import Expectation, hours_of
from raymlops.monitoring.reference import Reference, make_reference
from raymlops.monitoring.replay import compare_hours
from raymlops.monitoring.season import Hours, sum_pairs

FIRST = 19_675  # a Wednesday, in days since 1970
Rows = dict[str, np.ndarray]


def draw_days(
    random: np.random.Generator, days: int, rows: int = 8, first: int = FIRST
) -> tuple[Rows, np.ndarray]:
    """Hour by hour; `load` is of the hour of the day, `weather` of the day, `plain` of nothing."""
    hour = np.repeat(np.arange(days * 24), rows)
    weather = random.normal(size=days)[hour // 24]
    values = {
        "load": np.sin(hour % 24 / 24 * 2 * np.pi) + 0.3 * random.normal(size=len(hour)),
        "weather": 2 * weather + random.normal(size=len(hour)),
        "plain": random.normal(size=len(hour)),
    }
    return values, (np.datetime64(first, "D") + hour.astype("timedelta64[h]")).astype("datetime64[us]")


def make(days: int = 60) -> Reference:
    values, times = draw_days(np.random.default_rng(0), days)
    return make_reference(values, {}, times=times)


def count_hours(reference: Reference, values: Rows, times: np.ndarray) -> dict[int, tuple[int, np.ndarray]]:
    hours = times.astype("datetime64[h]").astype(np.int64)
    return {
        int(hour): (
            int((hours == hour).sum()),
            reference.count({name: column[hours == hour] for name, column in values.items()}),
        )
        for hour in np.unique(hours)
    }


def find_test(reference: Reference, column: str, test: str) -> int:
    names = windows.Tests.of(reference.kinds).names
    return next(
        place
        for place, (number, name) in enumerate(names)
        if reference.columns[number].name == column and name == test
    )


def test_a_season_is_expected_and_what_hangs_together_in_a_day_counts_once() -> None:
    reference = make()
    expectation = Expectation.of(reference)
    assert expectation.timed
    shrink = dict(
        zip((one.name for one in reference.columns), expectation.season.shrink.tolist(), strict=True)
    )
    assert shrink["load"] < 10 < 100 < shrink["plain"]
    weather, plain = (
        expectation.dependence.correlations[-1, find_test(reference, name, "shift")]
        for name in ("weather", "plain")
    )
    assert 0.6 < weather < 0.95  # 4 of 5 parts of its variance
    assert plain < 0.02
    statistics = expectation.find_statistics(hours_of(reference))
    assert statistics[:, find_test(reference, "load", "shift")].max() < 6
    assert statistics[:, find_test(reference, "weather", "shift")].max() < 6


def test_pairs_of_rows_of_a_unit_are_counted_within_windows_only() -> None:
    rows, units = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0, 0, 1, 1])
    found = sum_pairs(rows, units, np.array([0, 1, 1]), np.array([2, 3, 4]))
    # windows of 1+2 of one unit, of 2 and 3 of two, of 2 and 3+4: other rows of its unit that a row has, on average
    assert np.allclose(found, [9 / 3 - 1, (4 + 9) / 5 - 1, (4 + 49) / 9 - 1])


def test_hours_of_a_table_are_judged_against_their_time_of_the_day() -> None:
    reference, random = make(), np.random.default_rng(1)
    thresholds = Thresholds("").complete(Baseline.of(reference), 8, 3600)
    values, times = draw_days(random, 6, first=FIRST + 7 * 12)
    quiet = compare_hours(reference, count_hours(reference, values, times), 0.01, thresholds)
    assert quiet is not None
    assert len(quiet) == 144
    assert not any(one.differs for _, one in quiet)
    changed = {**values, "load": values["load"] + 0.3 * (np.arange(len(times)) > len(times) // 2)}
    found = compare_hours(reference, count_hours(reference, changed, times), 0.01, thresholds)
    assert found is not None
    hours = [hour for hour, one in found if one.differs]
    assert hours
    assert min(hours) - (FIRST + 84) * 24 in range(72, 84)
    assert found[-1][1].findings[0].column.name == "load"
    # at another time of the day the same rows are no longer usual
    moved = compare_hours(
        reference, count_hours(reference, values, times + np.timedelta64(6, "h")), 0.01, thresholds
    )
    assert moved is not None
    assert sum(one.differs for _, one in moved) > 72


def test_summer_time_changes_nothing_by_the_clock_that_it_is_told_by() -> None:
    zone, winter, summer = "America/New_York", 19_723, 19_840  # January and late April of 2024
    values, times = draw_days(np.random.default_rng(0), 60, first=winter)
    reference = make_reference(values, {}, times=times + np.timedelta64(5, "h"))
    values, times = draw_days(np.random.default_rng(1), 7, first=summer)
    counts = count_hours(reference, values, times + np.timedelta64(4, "h"))
    place = find_test(reference, "load", "shift")
    largest = {}
    for clock in ("UTC", zone):
        expectation = Expectation.of_hours(hours_of(reference, zone=clock), windows.Tests.of(reference.kinds))
        ticks = Hours.at(
            np.stack([one for _, one in counts.values()]).astype(float),
            np.array([rows for rows, _ in counts.values()]),
            np.array(list(counts)) * 3600,
            clock,
        )
        largest[clock] = expectation.find_statistics(ticks)[:, place].max()
    assert largest[zone] < 5
    assert largest["UTC"] > largest[zone] + 1


def test_a_reference_of_few_days_has_no_season() -> None:
    assert compare_hours(make(days=5), {0: (1, np.zeros((3, 32), np.int64))}, 0.01) is None
