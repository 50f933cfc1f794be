"""The page of a comparison: the verdict, the columns that differ, the quality of the answers, and all columns then and
now."""

import math

from markupsafe import Markup

from raymlops.evaluation import charts
from raymlops.evaluation.page import (
    NOTHING,
    Section,
    write_badge,
    write_card,
    write_cards,
    write_facts,
    write_page,
    write_table,
)
from raymlops.lifecycle.batch.watched_rows import Period
from raymlops.lifecycle.govern.drift import Drift, name_period
from raymlops.lifecycle.monitoring.column_charts import draw_column, draw_small_column
from raymlops.monitoring.cells import NumberCells
from raymlops.monitoring.comparison import Comparison
from raymlops.monitoring.quality import Quality

_DRAWN = 6
"""Columns that are drawn large."""
_PERIODS = 400
_ESTIMATES = (
    "An estimate takes the labels that the reference has at such scores. It is right where only the rows changed, and "
    "cannot be where equal rows came to have other labels, which no score tells: its interval is as wide as the "
    "errors that it made on parts of the reference. Labels settle it."
)


def write_drift_page(drift: Drift, version: str, data: str, period: Period | None) -> str:
    """The HTML document."""
    first = _choose_worst(drift)
    rows = sum(one.rows for _, one in drift.periods)
    changed = sum(one.differs or drift.labels_differ(start) for start, one in drift.periods)
    unit = period.unit if period else ""
    verdict = write_badge(not drift.differs, "differs" if drift.differs else "no difference beyond chance")
    return write_page(
        f"{data} compared with {version}",
        drift.describe(unit or None)[1 if not unit else 0],
        verdict,
        (
            ("rows", f"{rows:,}", f"reference of {drift.reference.rows:,}"),
            ("columns", f"{len(drift.reference.columns):,}", f"{len(drift.reference.left_out):,} not watched"),
            (f"{unit}s", f"{changed} of {len(drift.periods)}", "differ")
            if unit
            else ("columns that differ", f"{len(first.findings) if first else 0:,}", ""),
            ("level", f"{drift.level:.2g}", "share of verdicts without a change that find one"),
        ),
        (
            Section("time", "Over time", "", _show_periods(drift, unit)),
            Section("findings", "What differs", _name(drift, first, unit), _show_findings(first)),
            Section(
                "drawn", "Then and now",
                "Bars are these rows, lines what is usual, grey what chance makes of it; the least likely first.",
                _draw_columns(first),
            ),
            Section("quality", "How good the answers are", _ESTIMATES, _show_quality(drift, unit)),
            Section("columns", "All columns", "", _show_columns(first)),
            Section(
                "left_out", "Not watched", "",
                write_card("", "", write_facts(drift.reference.left_out)) if drift.reference.left_out else NOTHING,
            ),
        ),
    )  # fmt: skip


def _choose_worst(drift: Drift) -> Comparison | None:
    """The period that differs most."""
    found = [one for _, one in drift.periods]
    return max(found, key=lambda one: one.largest, default=None)


def _name(drift: Drift, chosen: Comparison | None, unit: str) -> str:
    if not unit or chosen is None:
        return ""
    start = next(start for start, one in drift.periods if one is chosen)
    return f"Of the {unit} that differs most: {name_period(start, unit)}."


def _show_periods(drift: Drift, unit: str) -> Markup:
    if not unit or len(drift.periods) < 2:
        return NOTHING
    shown = drift.periods[-_PERIODS:]
    series = [
        charts.Series(
            "largest deviate",
            [_seconds(start, unit) for start, _ in shown],
            [one.largest for _, one in shown],
            1,
        ),
        charts.Series(
            "threshold", [_seconds(start, unit) for start, _ in shown], [one.threshold for _, one in shown], 2
        ),
    ]
    lines = [
        (name_period(start, unit), f"{one.rows:,}", one.findings[0].describe())
        for start, one in shown
        if one.differs
    ]
    return write_cards(
        write_card(
            "How unlikely the rows are",
            "The largest of all tests, in standard deviations; above the threshold it is not chance.",
            charts.draw_lines(series, charts.Axis("UTC", time=True), charts.Axis("deviate")),
        ),
        write_card(
            f"{unit.title()}s that differ", "", write_table((unit, "rows", "first finding"), lines, frozenset({1}))
        ),
    )  # fmt: skip


def _show_quality(drift: Drift, unit: str) -> Markup:
    start = drift.worst
    found = drift.answers.get(start) if start is not None else None
    cards = []
    if drift.score is not None:
        bars = drift.score.shares[:_DRAWN]
        content = charts.draw_bars([name for name, _ in bars], [100 * share for _, share in bars], "%")
        lead = (
            "Share of the change of the mean score that goes away once a column has its usual distribution again: "
            f"{drift.score.describe()}."
        )
        cards.append(write_card("What moved the score", lead, content if bars else Markup(" ")))
    if found is not None:
        shown = (*found.measured, *found.estimates)
        lines = [
            (one.metric, one.kind, _number(one.value), _interval(one), _number(one.usual), f"{one.rows:,}")
            for one in shown
        ]
        head = ("metric", "", "now", "90% interval", "reference", "rows")
        labels = found.describe_labels() if start is not None and drift.labels_differ(start) else ""
        notes = [labels, *dict.fromkeys(_explain(one) for one in shown)]
        lead = ". ".join(note[0].upper() + note[1:] for note in notes if note)
        cards.append(write_card("Quality", lead, write_table(head, lines, frozenset({2, 4, 5}))))
        cards.append(write_card("Quality over time", "", _draw_quality(drift, unit)))
    return write_cards(*cards)


def _draw_quality(drift: Drift, unit: str) -> Markup:
    """The first metric by period."""
    shown = [
        (start, drift.answers[start]) for start, _ in drift.periods[-_PERIODS:] if start in drift.answers
    ]
    if not unit or len(shown) < 2:
        return NOTHING
    series = []
    for colour, name in enumerate(("measured", "estimates"), start=1):
        firsts = [(start, getattr(one, name)[0]) for start, one in shown if getattr(one, name)]
        held = [(start, one) for start, one in firsts if not one.is_silent]
        if held:
            points = [_seconds(start, unit) for start, _ in held], [one.value for _, one in held]
            series.append(charts.Series(name.removesuffix("s"), *points, colour))
    metric = shown[0][1].estimates[0].metric
    return (
        charts.draw_lines(series, charts.Axis("UTC", time=True), charts.Axis(metric)) if series else NOTHING
    )


def _explain(one: Quality) -> str:
    return f"no {one.kind}, as {one.why}" if one.why and one.is_silent else one.why


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3g}"


def _interval(one: Quality) -> str:
    return "" if one.is_silent else f"{one.low:.3g} to {one.high:.3g}"


def _seconds(start: int, unit: str) -> float:
    """Since 1970."""
    return float(start) * (86_400 if unit == "day" else 3_600)


def _show_findings(chosen: Comparison | None) -> Markup:
    if chosen is None or not chosen.findings:
        return NOTHING
    rows = [
        (one.column.label, one.column.role, one.test, one.describe().partition(": ")[2], f"{one.deviate:.1f}")
        for one in chosen.findings
    ]
    return write_card(
        "", "", write_table(("column", "role", "test", "what", "deviate"), rows, frozenset({4}))
    )


def _draw_columns(chosen: Comparison | None) -> Markup:
    if chosen is None:
        return NOTHING
    differing = {one.column for one in chosen.findings}
    return write_cards(
        *(
            write_card(
                one.column.label,
                f"largest deviate {one.deviate:.1f}",
                draw_column(one, chosen.rows, chosen.reference_rows, beyond=one.column in differing),
            )
            for one in chosen.columns[:_DRAWN]
        )
    )


def _show_columns(chosen: Comparison | None) -> Markup:
    if chosen is None:
        return NOTHING
    rows = [
        (
            one.column.label,
            one.column.role,
            "number" if isinstance(one.column.cells, NumberCells) else "category",
            draw_small_column(one),
            f"{one.deviate:.1f}",
        )
        for one in chosen.columns
    ]
    return write_card(
        "",
        "",
        write_table(("column", "role", "kind", "now, and usual as a line", "deviate"), rows, frozenset({4})),
    )
