"""A table's hours judged one after another, as a live stream would have been: against what is usual at their time, each
with those before it."""

from collections.abc import Mapping

import numpy as np

from raymlops.monitoring.baseline import Baseline, Levels, Thresholds
from raymlops.monitoring.cells import SUM, Counts
from raymlops.monitoring.comparison import Comparison, Finding, find_findings, list_columns
from raymlops.monitoring.deviates import Floats
from raymlops.monitoring.judge import open_window
from raymlops.monitoring.recent_counts import HOUR_S, find_cells
from raymlops.monitoring.reference import Reference
from raymlops.monitoring.season import Hours


def compare_hours(
    reference: Reference,
    ticks: Mapping[int, tuple[int, Counts]],
    level: float,
    thresholds: Thresholds | None = None,
) -> list[tuple[int, Comparison]] | None:
    """Each hour since 1970 with its rows and counts (columns, 32); None if the reference does not have the times of
    enough days. `level` is the share of replays without a change in which any hour may be found to differ;
    `thresholds` are those of the reference, if they are known: else they are simulated for some seconds."""
    baseline = Baseline.of(reference)
    held = sorted((hour, *tick) for hour, tick in ticks.items() if tick[0])
    if not baseline.whole.timed or not held:
        return None
    counts = np.stack([one for _, _, one in held]).astype(np.float64)
    hours = Hours.at(
        counts * find_cells(reference),
        np.array([rows for _, rows, _ in held], np.int64),
        np.array([hour * HOUR_S for hour, _, _ in held], np.int64),
    )
    levels = (thresholds or Thresholds("")).complete(baseline, 0.0, HOUR_S).choose(0.0, HOUR_S)
    statistics = baseline.whole.find_statistics(hours) / levels.roots
    return [
        (hour, _compare(baseline, levels, hours, counts, statistics[place], place, level))
        for place, (hour, _, _) in enumerate(held)
    ]


def _compare(
    baseline: Baseline,
    levels: Levels,
    hours: Hours,
    counts: Floats,
    statistics: Floats,
    place: int,
    level: float,
) -> Comparison:
    rate = -np.log1p(-min(level, 0.999)) / len(hours) / len(baseline.families)
    best = {
        family: (float(statistics[list(tests)].max()), levels.find_threshold(family, rate))
        for family, tests in baseline.families.items()
    }
    # the family that is furthest beyond its threshold, or nearest to it
    family = max(best, key=lambda name: best[name][0] - best[name][1])
    largest, threshold = best[family]

    def find_chance(deviate: float) -> float:
        expected = levels.find_rate(family, deviate) * len(hours) * len(baseline.families)
        return float(-np.expm1(-expected))

    own = baseline.whole.find_window(hours, place, place + 1)
    rows = max(own.rows, 1.0)
    findings: tuple[Finding, ...] = ()
    if largest > threshold:
        test = max(baseline.families[family], key=lambda one: float(statistics[one]))
        window, cut, first = open_window(baseline.whole, levels.roots, hours, place + 1, test)
        held = max(window.rows, 1.0)
        now = window.seen / held
        now[:, SUM] += (counts - hours.counts)[first : place + 1, :, SUM].sum(axis=0) / held
        found = window.deviates / levels.roots
        findings = find_findings(baseline.reference, found, cut, now, window.expected / held, find_chance)
    return Comparison(
        round(own.rows),
        baseline.reference.rows,
        findings,
        len(baseline.reference.columns),
        len(baseline.tests.names),
        threshold,
        largest,
        find_chance(largest),
        level,
        list_columns(
            baseline.reference,
            baseline.tests,
            own.deviates / levels.roots,
            own.expected / rows,
            own.seen / rows,
        ),
    )
