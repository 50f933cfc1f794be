"""The columns of a model on a page: those that differ drawn large, a map of columns by time, and all of them as a table
that can be searched and stays readable with hundreds."""

from collections.abc import Sequence

from markupsafe import Markup

from raymlops.evaluation import charts, time_charts
from raymlops.evaluation.charts import Axis, Series
from raymlops.evaluation.page import (
    NOTHING,
    Section,
    write_card,
    write_cards,
    write_fold,
    write_link,
    write_part,
    write_scroll,
    write_search,
    write_table,
)
from raymlops.lifecycle.monitoring.column_charts import draw_column, draw_small_column
from raymlops.monitoring.health import count, find_last, is_outside
from raymlops.monitoring.judgement import ColumnJudgement, Judgement, Trend

_DRAWN, _DRAWN_WELL = 6, 2
"""Columns that are drawn large: those that differ, or the least likely where none does."""
_MAPPED = 30
OPEN = 30
"""Columns of the table that are not folded, and that can be seen large."""
_HEAD = ("column", "now, and usual as a line", "over time", "what differs", "deviate")


def show_scores(scores: Sequence[ColumnJudgement], judgement: Judgement) -> Markup:
    return NOTHING.join(_draw_large(one, judgement) for one in scores[:4])


def show_columns(columns: Sequence[ColumnJudgement], judgement: Judgement, anchor: str) -> Markup:
    """In the given order. `anchor` is unique on the page."""
    if not columns:
        return NOTHING
    differing = sum(one.finding is not None for one in columns)
    first = min(differing, _DRAWN) if differing else _DRAWN_WELL
    anchors = [f"{anchor}-c{place}" for place in range(min(len(columns), OPEN))]
    large = [
        write_part(Section(name, "", "", _draw_large(one, judgement)))
        for name, one in zip(anchors, columns, strict=False)
    ]
    more = write_fold(f"{count(len(large[first:]), 'more column')} drawn large", NOTHING.join(large[first:]))
    return NOTHING.join(
        (*large[:first], more, _show_map(columns[:_MAPPED], judgement), _show_table(columns, anchor, anchors))
    )


def _draw_large(one: ColumnJudgement, judgement: Judgement) -> Markup:
    """The distribution beside the trend."""
    beyond = one.finding is not None
    found = one.finding.describe().partition(": ")[2] if one.finding else "within chance"
    shares = draw_column(one.shares, one.rows, judgement.reference_rows, beyond=beyond)
    over_time = _draw_trend(one.trend, beyond) if find_last(one.trend) is not None else NOTHING
    name = one.shares.column.label
    return write_cards(
        write_card(name, f"{found}; deviate {one.shares.deviate:.1f}, {one.rows:,} rows", shares),
        write_card(f"{name} over time", one.trend.label, over_time),
    )


def _draw_trend(trend: Trend, beyond: bool) -> Markup:
    lines = list(zip(trend.values, trend.low, trend.high, strict=True))
    outside = [value if is_outside(value, low, high) else None for value, low, high in lines]
    series = [
        Series("usual, and chance", trend.times, trend.usual, 6, dashed=True, low=trend.low, high=trend.high),
        Series("now", trend.times, trend.values, 1),
    ]
    marked = sum(one is not None for one in outside)
    if beyond and marked:
        series.append(Series("beyond chance", trend.times, outside, 9, dots=True))
    label = f"{trend.label} over time; {marked} of {len(lines)} periods outside the band of chance"
    return charts.draw_lines(series, Axis("", time=True), Axis(""), height=220, label=label)


def _show_map(columns: Sequence[ColumnJudgement], judgement: Judgement) -> Markup:
    rows = [(one.shares.column.label, one.deviates) for one in columns if any(map(_is_known, one.deviates))]
    times = columns[0].trend.times
    if len(rows) < 2 or len(times) < 2:
        return NOTHING
    threshold = judgement.thresholds.get("columns") or max(judgement.thresholds.values(), default=4.0)
    drawn = time_charts.draw_map(
        rows, times, judgement.at, threshold, f"Deviates of {len(rows)} columns over time"
    )
    lead = f"Deviates of each period by itself: red beyond {threshold:.1f}, blue from half of it."
    return write_part(Section("", "When", "", write_card("", lead, write_scroll(drawn))))


def _is_known(value: float | None) -> bool:
    return value is not None


def _show_table(columns: Sequence[ColumnJudgement], anchor: str, anchors: Sequence[str]) -> Markup:
    """`anchors` are those of the columns that are drawn large, the first ones."""
    rest = columns[OPEN:]
    search = write_search(
        f"{anchor}-rows",
        f"{len(columns):,} columns",
        _write_rows(columns[:OPEN], anchors),
        _write_rows(rest, ()),
        f"{len(rest):,} more, less unlikely" if rest else "",
    )
    return write_part(Section("", "All columns", "", write_card("", "", search)))


def _write_rows(columns: Sequence[ColumnJudgement], anchors: Sequence[str]) -> Markup:
    rows = [
        (
            write_link(anchors[place], one.shares.column.label) if anchors else one.shares.column.label,
            draw_small_column(one.shares),
            time_charts.draw_small_line(
                one.trend.values, one.trend.low, one.trend.high, marked=one.finding is not None
            ),
            one.finding.describe().partition(": ")[2] if one.finding else "",
            f"{one.shares.deviate:.1f}",
        )
        for place, one in enumerate(columns)
    ]
    return write_table(_HEAD, rows, frozenset({4}))
