"""Charts over time beside lines, as inline SVG: stretches such as incidents, a map of columns by time, and a line with
its band of chance for a cell of a table. Times are seconds since 1970."""

import html
import itertools
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from raymlops.evaluation import charts

Values = Sequence[float | None]
_WIDTH, _LEFT, _RIGHT = 1100, 190, 10
_LEVELS = (0.5, 0.75, 1.0, 2.0)
"""Parts of the threshold at which the colour of a map changes."""


class Stretch(NamedTuple):
    """`kind` is a class of the style sheet; `href` where a click leads."""

    name: str
    start: float
    end: float
    kind: str
    title: str
    href: str


def draw_stretches(stretches: Sequence[Stretch], start: float, end: float, label: str) -> Markup:
    """A bar each, one below the other."""
    step = 24
    scale = _Time(start, end)
    bottom = 8 + step * len(stretches)
    parts = [scale.draw_ticks(bottom)]
    for place, one in enumerate(stretches):
        y = 8 + place * step
        low, high = scale.at(max(one.start, start)), scale.at(min(one.end, end))
        parts.append(
            f'<a href="{html.escape(one.href)}"><title>{html.escape(one.title)}</title>'
            f'<text class="name" x="{_LEFT - 8}" y="{y + 13}">{html.escape(charts.cut(one.name, 26))}</text>'
            f'<rect class="{one.kind}" x="{low:.1f}" y="{y}" width="{max(high - low, 4):.1f}" height="16" rx="4"/></a>'
        )
    return charts.to_svg("".join(parts), bottom + 24, label, _WIDTH, "group")


def draw_map(
    rows: Sequence[tuple[str, Values]], times: Sequence[float], end: float, threshold: float, label: str
) -> Markup:
    """A line a column, a cell a period, darker the less likely; beyond the threshold in the colour of what is wrong.
    Values that are None stay empty."""
    step = 18
    scale = _Time(times[0], end)
    bottom = 6 + step * len(rows)
    parts = [scale.draw_ticks(bottom)]
    edges = [scale.at(time) for time in (*times, end)]
    for place, (name, values) in enumerate(rows):
        y = 6 + place * step
        parts.append(
            f'<text class="name" x="{_LEFT - 8}" y="{y + 12}">{html.escape(charts.cut(name, 26))}'
            f"<title>{html.escape(name)}</title></text>"
        )
        levels = [None if one is None else _find_level(one, threshold) for one in values]
        x = 0
        for level, held in itertools.groupby(levels):
            size = len(list(held))
            if level is not None:
                low, high = edges[x], edges[x + size]
                parts.append(
                    f'<rect class="m{level}" x="{low:.1f}" y="{y}" width="{high - low:.1f}" height="{step - 3}"/>'
                )
            x += size
    return charts.to_svg("".join(parts), bottom + 24, label, _WIDTH)


def _find_level(value: float, threshold: float) -> int:
    return sum(value > part * threshold for part in _LEVELS)


def draw_small_line(
    values: Values, low: Values = (), high: Values = (), *, marked: bool = False, most: int = 48
) -> Markup:
    """A line before its band, 120 by 28, without axes; if `marked`, those of its points that lie outside are dots. Of
    more than `most` points those that lie outside are kept."""
    picked = _thin(values, low, high, most)
    held = [value for place in picked for line in (values, low, high) for value in line[place : place + 1]]
    known = [value for value in held if value is not None]
    if not known:
        return Markup()
    bottom, top = min(known), max(known)
    height, width = (top - bottom) or 1.0, 116 / max(len(picked) - 1, 1)

    def at(place: int, value: float) -> str:
        return f"{2 + place * width:.0f} {25 - 22 * (value - bottom) / height:.0f}"

    drawn = ""
    if low and high:
        band = [
            (place, one, other)
            for place, source in enumerate(picked)
            if (one := low[source]) is not None and (other := high[source]) is not None
        ]
        if len(band) > 1:
            there = "L".join(at(place, one) for place, one, _ in band)
            back = "L".join(at(place, other) for place, _, other in reversed(band))
            drawn += f'<path class="band s6" d="M{there}L{back}z"/>'
    path, dots, pen = "", "", "M"
    for place, source in enumerate(picked):
        value = values[source]
        if value is None:
            pen = "M"
            continue
        path += f"{pen}{at(place, value)}"
        path += "h.1" if pen == "M" else ""  # so that a point between two gaps is seen
        pen = "L"
        if marked and low and high and _lies_outside(value, low[source], high[source]):
            x, y = at(place, value).split()
            dots += f'<circle class="out" cx="{x}" cy="{y}" r="2.2"/>'
    return charts.to_small_svg(f'{drawn}<path class="line s1" d="{path}"/>{dots}')


def _lies_outside(value: float, low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and not low <= value <= high


def _thin(values: Values, low: Values, high: Values, most: int) -> list[int]:
    """Places, one of each of `most` stretches: one that lies outside, else the last with a value."""
    if len(values) <= most:
        return list(range(len(values)))
    found = []
    for part in range(most):
        places = range(part * len(values) // most, (part + 1) * len(values) // most)
        known = [place for place in places if values[place] is not None]
        outside = [
            place
            for place in known
            if low and high and _lies_outside(values[place] or 0.0, low[place], high[place])
        ]
        found.append((outside or known or list(places))[-1])
    return found


class _Time:
    """Converts times to pixels."""

    def __init__(self, start: float, end: float) -> None:
        self.start, self.end = start, max(end, start + 1.0)

    def at(self, time: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (time - self.start) / (self.end - self.start)

    def draw_ticks(self, bottom: float) -> str:
        return "".join(
            f'<line class="grid" x1="{self.at(tick):.1f}" y1="2" x2="{self.at(tick):.1f}" y2="{bottom}"/>'
            f'<text class="tick" text-anchor="middle" x="{self.at(tick):.1f}" y="{bottom + 16}">{text}</text>'
            for tick, text in charts.label_times(self.start, self.end, 9)
        )
