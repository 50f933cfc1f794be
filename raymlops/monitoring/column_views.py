"""What a person is shown of each column beside the verdicts: shares of its cells, a number over time with the band of
chance, and the deviate of each hour. Decides nothing."""

import dataclasses

import numpy as np

from raymlops.monitoring.baseline import Baseline
from raymlops.monitoring.cells import NumberCells
from raymlops.monitoring.comparison import Finding, find_quantile, list_columns
from raymlops.monitoring.deviates import QUALITY_TESTS, Floats
from raymlops.monitoring.judgement import ColumnJudgement, Judgement, Trend
from raymlops.monitoring.recent_counts import HOUR_S, RecentCounts
from raymlops.monitoring.season import Hours
from raymlops.monitoring.ticks import ALL_ROWS

MOST_TRENDS = 100
"""Columns that are shown over time, the least likely."""
_NOW_S = 24 * 3600
"""Rows of the last so many seconds are those of now."""
_CHANCE = 3.0
"""Standard deviations of the band."""
_CELLS = {"missing": 0, "new": 1, "below": 1, "above": 18}


def add_columns(judged: Judgement, baseline: Baseline, counts: RecentCounts, roots: Floats) -> Judgement:
    """With all columns, the least likely first, and the rows of each hour."""
    hours = counts.ticks(ALL_ROWS, HOUR_S, judged.at + HOUR_S)
    if not len(hours):
        return judged
    reference, whole = baseline.reference, baseline.whole
    newest = float(hours.starts[-1]) + HOUR_S
    first = int(np.flatnonzero(hours.starts > newest - _NOW_S - 1)[0])
    window = whole.find_window(hours, first, len(hours))
    rows = max(window.rows, 1.0)
    listed = list_columns(
        reference, baseline.tests, window.deviates / roots, window.expected / rows, window.seen / rows
    )
    findings = {
        finding.column: finding
        for verdict in reversed(judged.verdicts)
        if verdict.segment == ALL_ROWS
        for finding in verdict.findings
    }
    statistics = whole.find_statistics(hours) / roots
    inflation = whole.find_inflation(hours)
    expected = whole.season.expect(hours.rows, hours.slots)
    places = {column: place for place, column in enumerate(reference.columns)}
    columns = []
    for number, shares in enumerate(
        sorted(listed, key=lambda one: (one.column not in findings, -one.deviate))
    ):
        place = places[shares.column]
        finding = findings.get(shares.column)
        tests = [test for test, (column, _) in enumerate(baseline.tests.names) if column == place]
        trend, deviates = _EMPTY, ()
        if number < MOST_TRENDS:
            spread = np.sqrt(
                inflation[:, tests].max(axis=1) * (1.0 / np.maximum(hours.rows, 1) + 1.0 / whole.rows)
            )
            trend = _draw_trend(baseline, hours, expected[:, place], place, spread, finding)
            deviates = tuple(statistics[:, tests].max(axis=1).tolist())
        columns.append(ColumnJudgement(shares, round(window.rows), finding, trend, deviates))
    return dataclasses.replace(judged, columns=tuple(columns), row_counts=_draw_rows(hours))


_EMPTY = Trend("", (), (), (), (), ())


def _draw_trend(
    baseline: Baseline,
    hours: Hours,
    expected: Floats,
    place: int,
    spread: Floats,
    finding: Finding | None,
) -> Trend:
    """The share of rows in the cell that a finding is about, of categories in the most frequent one; of other numbers
    the median. `spread` (hours,) is how far a share of one half lies off by chance, twice over."""
    column = baseline.reference.columns[place]
    cells, seen = column.cells, hours.counts[:, place]
    times = tuple(hours.starts.astype(float).tolist())
    if isinstance(cells, NumberCells) and not (finding and finding.test in QUALITY_TESTS):
        off = _CHANCE * spread / 2.0
        values, usual, low, high = (
            tuple(_find_median(cells, one, part) for one, part in zip(counts, parts, strict=True))
            for counts, parts in (
                (seen, np.full(len(seen), 0.5)),
                (expected, np.full(len(seen), 0.5)),
                (expected, np.clip(0.5 - off, 0.0, 1.0)),
                (expected, np.clip(0.5 + off, 0.0, 1.0)),
            )
        )
        return Trend("median", times, values, usual, low, high)
    cell = _choose_cell(seen, expected, finding)
    rows = np.maximum(hours.rows.astype(np.float64), 1.0)
    share, wanted = seen[:, cell] / rows, expected[:, cell] / rows
    off = _CHANCE * spread * np.sqrt(np.maximum(wanted * (1.0 - wanted), 1.0 / baseline.whole.rows))
    return Trend(
        f"share of rows that are {cells.describe(cell)}",
        times,
        tuple(share.tolist()),
        tuple(wanted.tolist()),
        tuple(np.maximum(wanted - off, 0.0).tolist()),
        tuple(np.minimum(wanted + off, 1.0).tolist()),
    )


def _choose_cell(seen: Floats, expected: Floats, finding: Finding | None) -> int:
    if finding is not None and finding.test in _CELLS:
        return _CELLS[finding.test]
    usual, now = expected.sum(axis=0), seen.sum(axis=0)
    if finding is None:
        return int(usual[1:].argmax()) + 1
    return int((np.abs(now - usual) / np.sqrt(usual + 1.0)).argmax())


def _find_median(cells: NumberCells, counts: Floats, part: float) -> float | None:
    found = find_quantile(cells, counts, float(part))
    return float(found) if np.isfinite(found) else None


def _draw_rows(hours: Hours) -> Trend:
    rows = tuple(hours.rows.astype(float).tolist())
    none: tuple[None, ...] = (None,) * len(rows)
    return Trend("rows", tuple(hours.starts.astype(float).tolist()), rows, none, none, none)
