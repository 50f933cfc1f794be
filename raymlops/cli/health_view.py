"""The health of an application in a terminal: the same as its page, as much as fits; plain text where there is none."""

import math
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raymlops.cli.terminal import escape
from raymlops.errors import RaymlopsError
from raymlops.events.incident import Incident
from raymlops.lifecycle.monitoring.health_page import STATES
from raymlops.monitoring.health import (
    Health,
    ModelHealth,
    count,
    find_last,
    is_outside,
    keep_drawable,
    write_span,
    write_time,
)
from raymlops.monitoring.judgement import Trend

_BARS = "▁▂▃▄▅▆▇█"
_POINTS = 24
_PIPE_WIDTH = 200
_STYLES = {"page": "bold red", "note": "yellow", "unknown": "yellow", "well": "green"}
_COLUMNS = 20
"""Of a model, where there is space for them."""


def make_console() -> Console:
    """Standard output: without colours, and wide enough for whole sentences, where it is no terminal."""
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(highlight=False, markup=False, emoji=False, width=width)


def draw(health: Health, lines: int = 10_000) -> RenderableType:
    """As much as fits in so many lines: alarms first, then what differs."""
    health = keep_drawable(health)
    head = Text.assemble(
        (escape(health.application), "bold"), "  ", (STATES[health.state][1], _STYLES[health.state]),
        f"  {write_time(health.start)} to {write_time(health.at)}",
    )  # fmt: skip
    alarms = _draw_alarms(health)
    fixed = 5 + len(alarms.rows) + 4 * len(health.models)
    each = min(_COLUMNS, max((lines - fixed) // max(len(health.models), 1), 1))
    parts: list[RenderableType] = [head, Text(escape(health.describe())), Text()]
    if alarms.rows:
        parts += [alarms, Text()]
    for model in health.models:
        parts += [_draw_model(model), *_draw_columns(model, each), Text()]
    return Group(*parts)


def _draw_alarms(health: Health) -> Table:
    table = Table.grid(padding=(0, 2))
    for one in (*health.open, *health.silenced):
        state = one.state(health.at)
        mark = (
            ("PAGE", "bold red")
            if one.alarm.severity == "page" and state != "silenced"
            else ("note", "yellow")
        )
        table.add_row(
            Text(*mark), escape(one.id), state, write_span(health.at - one.first), Text(_describe(one))
        )
    return table


def _describe(incident: Incident) -> str:
    sentence, damage = incident.alarm.sentence, incident.alarm.damage
    return escape(sentence if damage in sentence else f"{sentence} {damage}")


def _draw_model(model: ModelHealth) -> Text:
    traffic = model.traffic
    told = [count(model.rows, "row")]
    if traffic.requests:
        told.append(f"{traffic.failed / traffic.requests:.2%} of {traffic.requests:,} requests failed")
    if traffic.p99_ms is not None:
        told.append(f"p99 {traffic.p99_ms:,.3g} ms")
    for metric in model.metrics[:1]:
        for word, trend in (("measured", metric.measured), ("estimated", metric.estimated)):
            last = find_last(trend)
            usual = "" if metric.usual is None else f", usually {metric.usual:.3f}"
            told += [] if last is None else [f"{metric.name} {word} {last:.3f}{usual}"]
    if model.unwatched:
        told.append(model.unwatched)
    return Text.assemble((escape(model.name), "bold"), "  ", escape("; ".join(told)))


def _draw_columns(model: ModelHealth, most: int) -> list[RenderableType]:
    if not model.columns:
        return []
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, options in (
        ("column", {"overflow": "ellipsis", "max_width": 32}), ("over time", {}), ("now", {"justify": "right"}),
        ("usual", {"justify": "right"}), ("deviate", {"justify": "right"}), ("what differs", {}),
    ):  # fmt: skip
        table.add_column(name, **options)
    for one in model.columns[:most]:
        found = one.finding.describe().partition(": ")[2] if one.finding else ""
        table.add_row(
            Text(escape(one.shares.column.label), style="red" if one.finding else ""),
            _draw_trend(one.trend, marked=one.finding is not None),
            _show(find_last(one.trend)),
            _show(next((value for value in reversed(one.trend.usual) if value is not None), None)),
            f"{one.shares.deviate:.1f}",
            Text(escape(found)),
        )
    more = len(model.columns) - most
    return [table, *([Text(f"{more:,} more columns, less unlikely", style="dim")] if more > 0 else [])]


def _draw_trend(trend: Trend, *, marked: bool) -> Text:
    """The newest periods as bars, those beyond chance in red; the band of chance is within the scale, so that noise
    looks small."""
    first = max(len(trend.values) - _POINTS, 0)
    values = trend.values[first:]
    shown = (*values, *trend.low[first:], *trend.high[first:])
    known = [value for value in shown if value is not None and math.isfinite(value)]
    if find_last(trend) is None or not known:
        return Text()
    low, width = min(known), (max(known) - min(known)) or 1.0
    drawn = Text()
    for place, value in enumerate(values, first):
        if value is None or not math.isfinite(value):
            drawn.append(" ")
            continue
        outside = marked and is_outside(value, trend.low[place], trend.high[place])
        drawn.append(_BARS[round((len(_BARS) - 1) * (value - low) / width)], style="red" if outside else "")
    return drawn


def _show(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def watch(read: Callable[[], Health], every_s: float) -> None:
    """Shows the health until q or Ctrl-C. `read` is called anew after each interval; while it fails, as when a store is
    away, the last view stays."""
    console = make_console()
    hint = Text(f"q ends; looks again every {every_s:g} s", style="dim")
    with suppress(KeyboardInterrupt):
        shown, told = (
            draw(read(), console.height - 1),
            hint,
        )  # before the screen is cleared: it may take a minute
        with _keys() as wait, Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(Group(told, shown), refresh=True)
                if wait(every_s) in ("q", "Q"):
                    return
                try:
                    shown, told = draw(read(), console.height - 1), hint
                except RaymlopsError as error:
                    told = Text(escape(f"{error}; q ends, looks again every {every_s:g} s"), style="red")


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """A function that waits for a key for so many seconds; empty if there was none."""
    import termios  # not on Windows
    import tty

    before = termios.tcgetattr(sys.stdin)

    def wait(seconds: float) -> str:
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
        return sys.stdin.read(1) if ready else ""

    try:
        tty.setcbreak(sys.stdin)
        yield wait
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
