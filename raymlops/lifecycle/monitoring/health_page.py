"""The page of an application's health: its state in a sentence, alarms on a time line, and of each model its score,
quality, columns, segments, repeats and traffic. One file, without anything from elsewhere."""

import os
import pathlib

from markupsafe import Markup

from raymlops.errors import SpecError
from raymlops.evaluation import charts, time_charts
from raymlops.evaluation.charts import Axis, Series
from raymlops.evaluation.page import (
    NOTHING,
    Section,
    write_badge,
    write_card,
    write_cards,
    write_facts,
    write_link,
    write_page,
    write_part,
    write_scroll,
    write_table,
)
from raymlops.evaluation.time_charts import Stretch
from raymlops.lifecycle.monitoring import incident_cards
from raymlops.lifecycle.monitoring.column_cards import show_columns, show_scores
from raymlops.monitoring.health import (
    Health,
    Metric,
    ModelHealth,
    count,
    find_last,
    keep_drawable,
    write_time,
)
from raymlops.monitoring.judgement import Trend

STATES = {
    "page": (False, "needs a person now"),
    "note": (None, "to read by day"),
    "unknown": (None, "not known"),
    "well": (True, "well"),
}
"""State -> whether it is good, and in words."""
MOST_MODELS = 12
"""That are shown in full; all are in the table."""
_MOST_SEGMENTS = 30


def replace_page(path: pathlib.Path, health: Health) -> None:
    """Write the page to a file, whole or not at all, for those who read it meanwhile. Raises SpecError."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(write_health_page(health), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise SpecError(f"The page cannot be written to {path}: {error.strerror}") from None


def write_health_page(health: Health) -> str:
    """The HTML document."""
    health = keep_drawable(health)
    shown = health.models[:MOST_MODELS]
    sections = [_list_sections(model, f"m{place}") for place, model in enumerate(shown)]
    return write_page(
        f"Health of {health.application}",
        health.describe(),
        write_badge(*STATES[health.state]),
        _list_tiles(health),
        (
            Section("alarms", "Alarms", "", _show_alarms(health)),
            Section("models", "Models", _describe_models(health), _show_models(health)),
            *(sections[0] if len(shown) == 1 else map(_join_sections, shown, sections)),
        ),
        note=f"{write_time(health.start)} to {write_time(health.at)}. All times are UTC.",
        search=True,
    )


def _list_tiles(health: Health) -> list[tuple[str, str, str]]:
    pages, opened = len(health.pages), len(health.open)
    rows = sum(one.rows for one in health.models)
    requests = sum(one.traffic.requests for one in health.models)
    failed = sum(one.traffic.failed for one in health.models)
    latencies = [one.traffic.p99_ms for one in health.models if one.traffic.p99_ms is not None]
    newest = f"the newest of {write_time(health.last)}" if health.last else "none in this period"
    found = [
        ("open alarms", f"{opened}", f"{count(pages, 'page')}, {count(opened - pages, 'note')}"),
        ("rows", f"{rows:,}", newest),
    ]
    if requests:
        found.append(("failed requests", f"{failed / requests:.2%}", f"of {requests:,}"))
    if latencies:
        slowest = "of the slowest model" if len(latencies) > 1 else "of answered requests"
        found.append(("latency, p99", f"{max(latencies):,.3g} ms", slowest))
    return found + [tile for model in health.models[:1] for tile in _list_quality_tiles(model)]


def _list_quality_tiles(model: ModelHealth) -> list[tuple[str, str, str]]:
    found = []
    for metric in model.metrics[:1]:
        usual = "" if metric.usual is None else f"{metric.usual:.3f} on its test rows"
        for word, trend in (("measured", metric.measured), ("estimated", metric.estimated)):
            last = find_last(trend)
            if last is not None:
                found.append((f"{metric.name}, {word}", f"{last:.3f}", usual))
    return found


def _show_alarms(health: Health) -> Markup:
    """Drawn only if there was one: the sentence at the head has said that there is none."""
    if not health.incidents:
        return NOTHING
    stretches = [
        Stretch(
            one.id,
            one.first.timestamp(),
            (one.closed or health.at).timestamp(),
            incident_cards.choose_colour(one, health.at),
            one.alarm.sentence,
            f"#{incident_cards.anchor_of(one)}" if one.open else "#closed",
        )
        for one in health.incidents[: incident_cards.MOST]
    ]
    label = f"{count(len(stretches), 'alarm')} between {write_time(health.start)} and {write_time(health.at)}"
    drawn = time_charts.draw_stretches(stretches, health.start.timestamp(), health.at.timestamp(), label)
    lead = f"{len(health.incidents) - len(health.closed)} open, {len(health.closed)} closed"
    return NOTHING.join(
        (
            write_card("", lead, write_scroll(drawn)),
            incident_cards.show_open(health),
            incident_cards.show_closed(health),
        )
    )


def _describe_models(health: Health) -> str:
    return (
        f"The first {MOST_MODELS} are shown below; give --model for others."
        if len(health.models) > MOST_MODELS
        else ""
    )


def _show_models(health: Health) -> Markup:
    """Of an application with several, or with one that is not compared."""
    if len(health.models) < 2 and len(health.watched) == len(health.models):
        return NOTHING
    rows = [
        (
            write_link(f"m{place}", one.name) if place < MOST_MODELS else one.name,
            _show_state(health, one),
            f"{one.rows:,}",
            f"{one.traffic.failed / one.traffic.requests:.2%}" if one.traffic.requests else "",
            write_time(one.last) if one.last else "none",
            one.unwatched or "; ".join(found.finding.describe() for found in one.differing[:2] if found.finding),
        )
        for place, one in enumerate(health.models)
    ]  # fmt: skip
    head = ("version", "state", "rows", "failed", "newest rows", "what differs")
    return write_card("", "", write_table(head, rows, frozenset({2, 3})))


def _show_state(health: Health, model: ModelHealth) -> Markup:
    own = [
        alarm.severity
        for alarm in (*(one.alarm for one in health.open), *health.unraised)
        if alarm.watched.model == model.model and alarm.watched.version in ("", model.version)
    ]
    if "page" in own:
        return write_badge(False, "page")
    if model.judgement is None:
        return write_badge(None, "not compared")
    return write_badge(None, "note") if own else write_badge(True, "well")


def _join_sections(model: ModelHealth, sections: list[Section]) -> Section:
    """Of one of several models: its sections as parts of one."""
    first, *rest = sections
    return Section(
        first.anchor, model.name, model.unwatched, NOTHING.join((first.content, *map(write_part, rest)))
    )


def _list_sections(model: ModelHealth, anchor: str) -> list[Section]:
    judgement = model.judgement
    facts = write_facts(_list_facts(model))
    return [
        Section(anchor, model.name, model.unwatched, write_card("", "", facts)),
        Section(
            f"{anchor}-quality", "Quality",
            "Measured from labels that came; estimated from the scores alone, which is right as long as a score means "
            "what it meant. Areas are intervals of 90%.",
            write_cards(*(_show_metric(one) for one in model.metrics)),
        ),
        Section(
            f"{anchor}-score", "Score",
            "What the model answers: bars are the newest rows, lines what is usual, grey what chance makes of it.",
            show_scores(model.scores, judgement) if judgement else NOTHING,
        ),
        Section(
            f"{anchor}-columns", "Columns",
            "What the model is given, the least likely first. The deviate says how unlikely rows are if nothing "
            "changed, in standard deviations.",
            show_columns(model.inputs, judgement, anchor) if judgement else NOTHING,
        ),
        Section(
            f"{anchor}-segments", "Segments",
            "Parts of the rows, each compared with its own usual; the least likely first.",
            _show_segments(model),
        ),
        Section(f"{anchor}-traffic", "Traffic", "", _show_traffic(model)),
        Section(f"{anchor}-left", "Not watched", "", write_card("", "", write_facts(model.left_out))),
    ]  # fmt: skip


def _list_facts(model: ModelHealth) -> dict[str, str]:
    judgement, traffic = model.judgement, model.traffic
    held = {"rows": f"{model.rows:,} in this period" if model.rows else "none in this period"}
    if judgement:
        differing = len(model.differing)
        held["columns"] = (
            f"{len(model.columns):,} compared, {differing:,} beyond chance" if model.columns else "none"
        )
        held["usual"] = f"{judgement.reference_rows:,} rows that did not train it"
        limits = ", ".join(f"{value:.1f} of {name}" for name, value in judgement.thresholds.items())
        held["alarm"] = f"deviates beyond {limits}" if limits else ""
        held["note"] = "; ".join(judgement.notes)
    if traffic.left_out:
        held["not counted"] = f"{traffic.left_out:,} rows: of a large load, a sample is counted"
    if traffic.lost:
        held["lost"] = (
            f"{traffic.lost:,} rows were answered and are in no count: a process ended, or a queue was full"
        )
    return held


def _show_metric(metric: Metric) -> Markup:
    drawn = _draw_metric(metric)
    facts = write_facts({"on its test rows": f"{metric.usual:.4f}" if metric.usual is not None else ""})
    return write_card(metric.name, ". ".join(metric.sentences), drawn or facts)


def _draw_metric(metric: Metric) -> Markup:
    lines = [
        Series(word, trend.times, trend.values, colour, low=trend.low, high=trend.high)
        for colour, word, trend in ((1, "measured", metric.measured), (2, "estimated", metric.estimated))
        if trend is not None and find_last(trend) is not None
    ]
    if not lines:
        return NOTHING
    if metric.usual is not None:
        times = [time for one in lines for time in one.x if time is not None]
        ends = (min(times), max(times))
        lines.append(Series("on its test rows", ends, (metric.usual,) * 2, 6, dashed=True))
    label = "; ".join((f"{metric.name} over time", *metric.sentences))
    return charts.draw_lines(lines, Axis("", time=True), Axis(metric.name), height=240, label=label)


def _show_segments(model: ModelHealth) -> Markup:
    differing = {one.shares.column.label for one in model.differing}
    rows = [
        (
            one.name,
            f"{one.rows:,}",
            f"{one.share:.1%}",
            f"{one.usual_share:.1%}",
            one.finding.describe()
            if one.finding
            else f"{'as all rows' if one.column in differing else 'within chance, furthest is'}: {one.column}",
            f"{one.deviate:.1f}",
        )
        for one in model.segments[:_MOST_SEGMENTS]
    ]
    head = ("segment", "rows", "of all rows", "usually", "what differs", "deviate")
    more = len(model.segments) - _MOST_SEGMENTS
    table = write_table(head, rows, frozenset({1, 2, 3, 5}))
    return write_card("", f"And {more} more, less unlikely." if more > 0 else "", table)


def _show_traffic(model: ModelHealth) -> Markup:
    trends = [*model.traffic.trends, *([model.judgement.repeats] if model.judgement else [])]
    return write_cards(
        *(write_card(one.label, "", _draw_trend(one)) for one in trends if one and find_last(one) is not None)
    )


def _draw_trend(trend: Trend) -> Markup:
    """From 0."""
    top = max((value for value in (*trend.values, *trend.high) if value is not None), default=0.0)
    banded = any(value is not None for value in trend.high)
    usual = [
        Series("usual, and chance", trend.times, trend.usual, 6, False, True, low=trend.low, high=trend.high)
    ]
    series = [*(usual if banded else []), Series("now" if banded else "", trend.times, trend.values, 1)]
    label = f"{trend.label}, last {find_last(trend):.4g}"
    axis = Axis("", range=(0.0, top * 1.08 or 1.0))
    return charts.draw_lines(series, Axis("", time=True), axis, height=200, label=label)
