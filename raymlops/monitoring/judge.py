"""Judges what was counted of a version: which families of tests, in all rows or in a segment, exceed the threshold of
the false alarms that a user picks, since when, and why. Reads no store and tells nobody.

The same counts give the same judgement, however they were summed.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from raymlops.monitoring import column_views, repeat_test, sentences
from raymlops.monitoring.baseline import MONTH_S, SEGMENTS, Baseline, Levels, Thresholds, share_rate
from raymlops.monitoring.cells import SUM
from raymlops.monitoring.comparison import Finding, find_findings
from raymlops.monitoring.deviates import Floats
from raymlops.monitoring.expectation import Expectation, Window
from raymlops.monitoring.judgement import (
    REPEATED_ROWS,
    Judgement,
    SegmentJudgement,
    StatisticalFamily,
    Verdict,
)
from raymlops.monitoring.quality import estimate_quality
from raymlops.monitoring.recent_counts import HOUR_S, RecentCounts, RepeatCounts
from raymlops.monitoring.repeat_test import Repeats
from raymlops.monitoring.season import Hours
from raymlops.monitoring.ticks import ALL_ROWS
from raymlops.monitoring.windows import SCALES

FALSE_DISCOVERIES = 0.1
"""Share of the columns that are named that may be named by chance (Benjamini and Hochberg, 1995)."""
_LEAST_DEVIATE = 2.5
"""Of a column that is named, or of a segment that is said to be affected."""
_ALIKE = 3.0
"""How far the deviate of a segment may lie from that of all rows, for its share of them, if it is as the others."""
PAGES: frozenset[str] = frozenset({"quality", "score", "labels"})
"""Families that wake a person; of the others a person is told by day."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is judged: a version, and how many false alarms a month it may raise."""

    model: str
    version: str
    false_alarms_per_month: float = 1.0


class _Clock(NamedTuple):
    """Ticks of one width, with the thresholds of each family at them."""

    seconds: int
    ticks: Mapping[str, Hours]
    """By segment, those that windows need."""
    looks: Mapping[str, int]
    """Of each segment's ticks the newest, at which is looked."""
    levels: Levels
    rate: float
    """False alarms a tick and family."""


class _Excess(NamedTuple):
    """The largest statistic of a family at the ticks at which was looked."""

    clock: _Clock
    segment: str
    family: StatisticalFamily
    end: int
    """The number of ticks up to it."""
    test: int
    deviate: float
    threshold: float
    seconds_by_chance: float


def judge(
    subject: Subject,
    baseline: Baseline,
    thresholds: Thresholds,
    counts: RecentCounts,
    at: float,
    since: float | None = None,
) -> Judgement:
    """At a time in seconds since 1970: of the ticks that ended after `since` (of the last, if it is not given) and by
    `at`, each with those before it. `thresholds` must be complete for these counts: see `complete`."""
    clocks = [
        _open_clock(subject, baseline, thresholds, counts, seconds, at, since)
        for seconds in list_widths(baseline, counts)
        if len(counts.ticks(ALL_ROWS, seconds, at))
    ]
    if not clocks:
        return _summarise(subject, baseline, counts, clocks, (), frozenset(), at)
    excesses: list[_Excess] = []
    watched: set[tuple[StatisticalFamily, str]] = set()
    for clock in clocks:
        for segment in clock.ticks:
            found = _find_excesses(baseline, clock, segment)
            watched |= {(one.family, segment) for one in found}
            excesses += [one for one in found if one.deviate > one.threshold]
    verdicts = _make_verdicts(subject, baseline, counts, excesses)
    bits = counts.list_repeats(at)
    repeats = repeat_test.measure(bits)
    found_repeats = _judge_repeats(subject, bits, repeats, clocks[0], since)
    if found_repeats is not None:
        verdicts = _join_quality(verdicts, found_repeats)
    judged = _summarise(subject, baseline, counts, clocks, verdicts, frozenset(watched), at)
    return dataclasses.replace(
        column_views.add_columns(judged, baseline, counts, clocks[0].levels.roots),
        repeats=repeat_test.draw_trend(bits, repeats),
    )


def list_widths(baseline: Baseline, counts: RecentCounts) -> tuple[int, ...]:
    """Seconds of the ticks that are judged: of as many rows as needed, and of hours where days are known."""
    fast = counts.choose_width()
    return (fast, HOUR_S) if baseline.whole.timed and fast < HOUR_S else (fast,)


def complete(thresholds: Thresholds, baseline: Baseline, counts: RecentCounts, at: float) -> Thresholds:
    """With all that judging these counts needs."""
    for seconds in list_widths(baseline, counts):
        rows = counts.ticks(ALL_ROWS, seconds, at).rows
        if len(rows):
            thresholds = thresholds.complete(baseline, float(np.median(rows)), seconds)
    return thresholds


def _open_clock(
    subject: Subject,
    baseline: Baseline,
    thresholds: Thresholds,
    counts: RecentCounts,
    seconds: int,
    at: float,
    since: float | None,
) -> _Clock:
    ticks, looks = {}, {}
    rows = 0.0
    for segment in baseline.parts:
        held = counts.ticks(segment, seconds, at)
        if segment == ALL_ROWS:
            rows = float(np.median(held.rows)) if len(held) else 0.0
        new = 1 if since is None else int((held.starts + seconds > since).sum())
        if len(held) and new:
            ticks[segment] = held.part(slice(-(SCALES[-1] + new), None))
            looks[segment] = new
    levels = thresholds.choose(rows, seconds)
    families = len(baseline.families) + bool(baseline.rows)
    clocks = len(list_widths(baseline, counts))
    rate = share_rate(subject.false_alarms_per_month, families, clocks, seconds)
    return _Clock(seconds, ticks, looks, levels, rate)


def _find_excesses(baseline: Baseline, clock: _Clock, segment: str) -> list[_Excess]:
    """The largest statistic of each family, beyond its threshold or not."""
    ticks, looks = clock.ticks[segment], clock.looks[segment]
    statistics = baseline.parts[segment].find_statistics(ticks, looks) / clock.levels.roots
    found = []
    for family, places in baseline.families.items():
        share = SEGMENTS if segment != ALL_ROWS else family
        threshold = clock.levels.find_threshold(share, clock.rate)
        own = statistics[:, list(places)]
        # of several as large ones the newest
        look = len(own) - 1 - int(own.max(axis=1)[::-1].argmax())
        test = int(own[look].argmax())
        deviate = float(own[look, test])
        rate = clock.levels.find_rate(share, deviate)
        found.append(
            _Excess(
                clock,
                segment,
                family,  # type: ignore[arg-type]
                len(ticks) - len(own) + look + 1,
                places[test],
                deviate,
                threshold,
                clock.seconds / max(rate, 1e-300),
            )
        )
    return found


def _make_verdicts(
    subject: Subject, baseline: Baseline, counts: RecentCounts, excesses: Sequence[_Excess]
) -> list[Verdict]:
    """Of each family and part one, of the clock that it exceeds by most. A segment has one of its own if what it shows
    is not in all rows, too."""
    best: dict[tuple[str, str], _Excess] = {}
    for one in excesses:
        known = best.get((one.segment, one.family))
        if known is None or one.deviate - one.threshold > known.deviate - known.threshold:
            best[one.segment, one.family] = one
    told: dict[str, set[int]] = {}
    verdicts = []
    for (segment, family), one in sorted(best.items()):  # all rows come first
        column = baseline.tests.names[one.test][0]
        if segment == ALL_ROWS:
            told.setdefault(family, set()).update(_list_columns(baseline, one))
        elif column in told.get(family, ()):
            continue
        verdicts.append(_make_verdict(subject, baseline, counts, one))
    # what is wrong with the data of a column is told once, and not as the cause of other differences, too
    faulty = {(one.segment, name) for one in verdicts if one.family == "quality" for name in one.columns}
    return [
        one
        for one in verdicts
        if one.family != "columns" or not faulty & {(one.segment, cause.column) for cause in one.causes[:1]}
    ]


def _list_columns(baseline: Baseline, excess: _Excess) -> set[int]:
    window, threshold = _open_window(baseline, excess)[:2]
    deviates = window.deviates / excess.clock.levels.roots
    return {
        column
        for (column, _), deviate in zip(baseline.tests.names, deviates.tolist(), strict=True)
        if deviate > threshold
    }


def open_window(
    expectation: Expectation, roots: Floats, ticks: Hours, end: int, test: int
) -> tuple[Window, float, int]:
    """Of the windows before tick `end` the one in which a test's statistic is largest, the deviate from which columns
    are named, and its first tick."""
    scales, deviates = expectation.find_scales(ticks, end)
    scale = int(scales[int(deviates[:, test].argmax())])
    window = expectation.find_window(ticks, end - scale, end)
    found = window.deviates / roots
    cut = min(max(find_cut(found), _LEAST_DEVIATE), float(found[test]) - 1e-9)
    return window, cut, end - scale


def _open_window(baseline: Baseline, excess: _Excess) -> tuple[Window, float, int]:
    ticks = excess.clock.ticks[excess.segment]
    roots = excess.clock.levels.roots
    return open_window(baseline.parts[excess.segment], roots, ticks, excess.end, excess.test)


def find_cut(deviates: Floats) -> float:
    """The deviate from which tests are named, so that at most one in ten of those named is so by chance."""
    chances = np.sort(special.ndtr(-np.asarray(deviates)))
    allowed = FALSE_DISCOVERIES * np.arange(1, len(chances) + 1) / max(len(chances), 1)
    held = np.flatnonzero(chances <= allowed)
    if not len(held):
        return float(np.inf)
    return float(-special.ndtri(max(float(chances[held[-1]]), 1e-300)))


def _make_verdict(subject: Subject, baseline: Baseline, counts: RecentCounts, excess: _Excess) -> Verdict:
    clock, reference = excess.clock, baseline.reference
    ticks = clock.ticks[excess.segment]
    window, threshold, first = _open_window(baseline, excess)
    since = float(ticks.starts[first])
    until = float(ticks.starts[excess.end - 1] + clock.seconds)
    rows = max(window.rows, 1.0)
    now = window.seen / rows
    now[:, SUM] += counts.sum_residuals(excess.segment, clock.seconds, since, until) / rows
    deviates, usual = window.deviates / clock.levels.roots, window.expected / rows

    def find(chosen: Floats) -> tuple[Finding, ...]:
        return find_findings(
            reference, chosen, threshold, now, usual, lambda one: _find_chance(clock, excess.family, one)
        )

    own = np.full(len(deviates), -np.inf)
    places = list(baseline.families[excess.family])
    own[places] = deviates[places]
    findings, listed = find(own), find(deviates)
    segments = (
        _describe_segments(baseline, excess, window, since, until) if excess.segment == ALL_ROWS else ""
    )
    return sentences.write_verdict(
        Verdict(
            family=excess.family,
            segment=excess.segment,
            severity="page" if excess.family in PAGES else "note",
            since=since,
            until=until,
            rows=round(window.rows),
            findings=findings,
            columns=tuple(dict.fromkeys(one.column.name for one in findings)),
            deviate=excess.deviate,
            threshold=excess.threshold,
            seconds_by_chance=excess.seconds_by_chance,
            sentence="",
            damage=_estimate_damage(baseline, excess, window),
        ),
        subject.model,
        subject.version,
        listed,
        segments,
        subject.false_alarms_per_month,
    )


def _estimate_damage(baseline: Baseline, excess: _Excess, window: Window) -> str:
    """What answers are worth that moved, estimated without labels; empty if nothing can be said."""
    if excess.family != "score" or excess.segment != ALL_ROWS:
        return ""
    estimates = estimate_quality(baseline.reference, window.seen)
    return "" if not estimates or estimates[0].is_silent else estimates[0].describe()


def _find_chance(clock: _Clock, family: str, deviate: float) -> float:
    """That chance alone exceeds a deviate in a month."""
    expected = clock.levels.find_rate(family, deviate) * MONTH_S / clock.seconds
    return float(-np.expm1(-expected))


def _describe_segments(baseline: Baseline, excess: _Excess, whole: Window, since: float, until: float) -> str:
    """Which segments show what all rows show, in a sentence; empty without segments."""
    roots, test = excess.clock.levels.roots, excess.test
    windows: dict[str, Window] = {}
    for segment, ticks in excess.clock.ticks.items():
        places = np.flatnonzero((ticks.starts >= since) & (ticks.starts < until))
        if segment != ALL_ROWS and len(places):
            windows[segment] = baseline.parts[segment].find_window(ticks, int(places[0]), int(places[-1]) + 1)
    if not windows:
        return ""
    deviates = {name: float(one.deviates[test] / roots[test]) for name, one in windows.items()}
    cut = max(find_cut(np.array(list(deviates.values()))), _LEAST_DEVIATE)
    affected = [name for name in sorted(deviates, key=lambda name: -deviates[name]) if deviates[name] >= cut]
    usual = float(whole.deviates[test] / roots[test])
    alike = {name: usual * (one.rows / max(whole.rows, 1.0)) ** 0.5 for name, one in windows.items()}
    if all(abs(deviates[name] - alike[name]) < _ALIKE + alike[name] / 4 for name in windows):
        return sentences.describe_segments(list(windows), len(windows))
    only = ""
    if affected:
        rest = whole.without(windows[affected[0]], baseline.tests)[test] / roots[test]
        only = affected[0] if rest < _LEAST_DEVIATE else ""
    return sentences.describe_segments(affected, len(windows), only)


def _judge_repeats(
    subject: Subject, bits: RepeatCounts, repeats: Repeats, clock: _Clock, since: float | None
) -> Verdict | None:
    """As one more test of the quality of the data; its deviates are normal."""
    looks = 1 if since is None else int((bits.starts >= since).sum())
    found = repeat_test.find_excess(repeats, looks)
    family = "quality"
    if found is None:
        return None
    threshold = max(
        (clock.levels.find_threshold(one, clock.rate) for one in clock.levels.families if one == family),
        default=5.0,
    )
    if found.deviate <= threshold:
        return None
    start, end = float(bits.starts[found.first]), float(bits.starts[found.last])
    chance = special.ndtr(-found.deviate)
    seconds = clock.seconds / max(float(chance), 1e-300)
    sentence = sentences.write_repeats(
        subject.model, subject.version, found.share, found.usual, start, found.rows
    )
    told = sentences.describe_chance(seconds, subject.false_alarms_per_month)
    return Verdict(
        family="quality",
        segment=ALL_ROWS,
        severity="page",
        since=start,
        until=end + 1,
        rows=found.rows,
        findings=(),
        columns=(REPEATED_ROWS,),
        deviate=found.deviate,
        threshold=threshold,
        seconds_by_chance=seconds,
        sentence=f"{sentence} {told}",
        chance=told,
    )


def _join_quality(verdicts: Sequence[Verdict], repeats: Verdict) -> list[Verdict]:
    """Repeated rows and other faults of the data are one incident."""
    known = next((one for one in verdicts if one.family == "quality" and one.segment == ALL_ROWS), None)
    if known is None:
        return [*verdicts, repeats]
    joined = dataclasses.replace(
        known, columns=(*known.columns, *repeats.columns), sentence=f"{known.sentence} {repeats.sentence}"
    )
    return [joined if one is known else one for one in verdicts]


def _summarise(
    subject: Subject,
    baseline: Baseline,
    counts: RecentCounts,
    clocks: Sequence[_Clock],
    verdicts: Sequence[Verdict],
    watched: frozenset[tuple[StatisticalFamily, str]],
    at: float,
) -> Judgement:
    hours = counts.ticks(ALL_ROWS, HOUR_S, at + HOUR_S)
    return Judgement(
        model=subject.model,
        version=subject.version,
        reference_rows=baseline.reference.rows,
        rows=int(hours.rows.sum()),
        start=float(hours.starts[0]) if len(hours) else at,
        at=at,
        verdicts=tuple(verdicts),
        watched=watched,
        segments=_judge_segments(baseline, clocks[0], verdicts) if clocks else (),
        thresholds={
            family: clock.levels.find_threshold(family, clock.rate)  # type: ignore[misc]
            for clock in clocks[:1]
            for family in baseline.families
        },
        notes=_list_notes(baseline),
    )


def _list_notes(baseline: Baseline) -> tuple[str, ...]:
    if baseline.whole.timed:
        return ()
    return (
        "The reference has no times of rows, so all hours and days are expected to be alike, and what is usual at "
        "night or on a weekend may raise an alarm; make it again with the column of the time: raymlops reference "
        "VERSION DATA --time COLUMN",
    )


def _judge_segments(
    baseline: Baseline, clock: _Clock, verdicts: Sequence[Verdict]
) -> tuple[SegmentJudgement, ...]:
    whole = clock.ticks.get(ALL_ROWS)
    if whole is None:
        return ()
    findings: dict[str, Finding] = {one.segment: one.findings[0] for one in verdicts if one.findings}
    begin, total = int(whole.starts[-SCALES[-1] :][0]), max(float(whole.rows[-SCALES[-1] :].sum()), 1.0)
    found = []
    for segment, ticks in clock.ticks.items():
        places = np.flatnonzero(ticks.starts >= begin)
        if segment == ALL_ROWS or not len(places):
            continue
        window = baseline.parts[segment].find_window(ticks, int(places[0]), len(ticks))
        deviates = window.deviates / clock.levels.roots
        test = int(deviates.argmax())
        found.append(
            SegmentJudgement(
                segment,
                round(window.rows),
                window.rows / total,
                len(baseline.rows[segment]) / max(len(baseline.reference.codes), 1),
                baseline.reference.columns[baseline.tests.names[test][0]].label,
                float(deviates[test]),
                findings.get(segment),
            )
        )
    return tuple(sorted(found, key=lambda one: (one.finding is None, -one.deviate)))
