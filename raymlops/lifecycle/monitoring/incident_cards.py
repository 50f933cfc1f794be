"""Alarms on a page: what a person needs of each that is open, and the closed ones as a table."""

import datetime
import shlex

from markupsafe import Markup

from raymlops.evaluation.page import (
    NOTHING,
    Section,
    write_badge,
    write_card,
    write_code,
    write_columns,
    write_facts,
    write_part,
    write_table,
)
from raymlops.events import incident as states
from raymlops.events.incident import Incident, Watched
from raymlops.monitoring.health import Health, count, join_names, write_span, write_time

MOST = 40
"""Alarms that are shown of each kind."""
_MOST_CAUSES, _MOST_ENTRIES = 8, 12


def anchor_of(incident: Incident) -> str:
    return f"alarm-{incident.number}"


def choose_colour(incident: Incident, at: datetime.datetime) -> str:
    """A class of the style sheet."""
    if not incident.open or incident.is_silent(at):
        return "quiet-bar"
    return "page-bar" if incident.alarm.severity == "page" else "note-bar"


def show_open(health: Health) -> Markup:
    """Pages first, silenced ones last."""
    opened = (*health.open, *health.silenced)
    return NOTHING.join(_show_one(one, health.at) for one in opened[:MOST])


def _show_one(incident: Incident, at: datetime.datetime) -> Markup:
    alarm, watched = incident.alarm, incident.alarm.watched
    held = write_facts(
        {
            "state": _describe_state(incident, at),
            "about": _describe_watched(watched),
            "since": f"{write_time(incident.first)}, {write_span(at - incident.first)} ago",
            "rows": f"{alarm.rows:,}" if alarm.rows else "",
            "columns": join_names(alarm.columns, 20),
            "damage": alarm.damage,
            "by chance": alarm.chance,
            "next": write_code(states.describe(incident, at)["next"]),
        }
    )
    title = f"{incident.id} {'wakes a person' if alarm.severity == 'page' else 'is a note'}"
    beside = _show_causes(incident) + _show_life(incident)
    card = write_card(title, alarm.sentence, write_columns(held, beside))
    return write_part(Section(anchor_of(incident), "", "", card))


def _describe_watched(watched: Watched) -> str:
    """`score of flights v4, segment origin=JFK`."""
    version = f" v{watched.version}" if watched.version else ""
    of = f" of {watched.model}{version}" if watched.model else ""
    return f"{watched.family}{of}" + (f", segment {watched.segment}" if watched.segment else "")


def _describe_state(incident: Incident, at: datetime.datetime) -> Markup | str:
    state = incident.state(at)
    if state == "silenced" and incident.silenced_until:
        return write_badge(None, f"silenced until {write_time(incident.silenced_until)}")
    if state == "acknowledged":
        return write_badge(None, f"acknowledged by {incident.acknowledged}")
    return write_badge(False if incident.alarm.severity == "page" else None, state)


def _show_causes(incident: Incident) -> Markup:
    """What explains it, the likeliest first, with the share of the change that goes when a column has its usual values
    where that was measured."""
    causes = incident.alarm.causes[:_MOST_CAUSES]
    measured = any(one.share is not None for one in causes)
    rows = [
        (
            one.column,
            one.sentence.removeprefix(f"{one.column}: "),
            *([f"{one.share:.0%}" if one.share is not None else ""] if measured else []),
        )
        for one in causes
    ]
    head = ("column", "what", *(["of the change"] if measured else []))
    return write_part(Section("", "What explains it", "", write_table(head, rows, frozenset({2}))))


def _show_life(incident: Incident) -> Markup:
    rows = [
        (write_time(entry.at), f"{entry.action} by {entry.who}", entry.why)
        for entry in incident.entries[-_MOST_ENTRIES:]
        if entry.action not in ("again", "clean")
    ]
    return write_part(Section("", "What was done", "", write_table(("time", "what", "why"), rows)))


def show_closed(health: Health) -> Markup:
    closed = health.closed
    rows = [
        (
            one.id,
            one.alarm.severity,
            write_time(one.first),
            write_span((one.closed or health.at) - one.first),
            one.alarm.sentence,
            one.entries[-1].why if one.entries else "",
        )
        for one in closed[:MOST]
    ]
    more = len(closed) - len(rows)
    lead = (
        f"And {count(more, 'earlier one')}: raymlops alarms --application {shlex.quote(health.application)}"
        if more > 0
        else ""
    )
    table = write_table(("alarm", "severity", "since", "for", "what", "how it ended"), rows)
    return write_part(Section("closed", "Closed", "", write_card("", lead, table)))
