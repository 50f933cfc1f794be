"""Charts as inline SVG: lines, dots with intervals, bars, histograms, counts. Colours are the page's.

Every function returns the text of one <svg> element, or of a table, from numbers; none reads files.
"""

import dataclasses
import datetime
import html
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup

Points = Sequence[float | None]
Scale = Callable[[float], float]
"""From a value to pixels."""
_WIDTH, _HEIGHT = 460, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 14, 12, 42


@dataclasses.dataclass(frozen=True)
class Series:
    """A line or a set of dots; `colour` is 1 to 8 of the page's. `sizes` are radii of dots in pixels; `low` and `high`
    bound an area behind a line."""

    name: str
    x: Points
    y: Points
    colour: int = 1
    dots: bool = False
    dashed: bool = False
    faint: bool = False
    sizes: Sequence[float] | None = None
    titles: Sequence[str] | None = None
    low: Points = ()
    high: Points = ()


@dataclasses.dataclass(frozen=True)
class Axis:
    """A label and a range, by default that of the data. `whole` puts ticks at integers only; `time` says that values
    are seconds since 1970, and that a line ends where a value is missing."""

    label: str
    range: tuple[float, float] | None = None
    whole: bool = False
    time: bool = False


def draw_lines(
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    diagonal: bool = False,
    legend: bool = True,
    height: int = _HEIGHT,
    label: str = "",
) -> Markup:
    """Lines and dots over two axes; `diagonal` draws the line of chance or of perfect calibration. `label` is what a
    screen reader says of it."""
    plane = _Plane(
        _range_of(x, [value for one in series for value in one.x]),
        _range_of(y, [value for one in series for value in (*one.y, *one.low, *one.high)]),
        height,
    )
    parts = [plane.draw_axes(x, y)]
    parts += [_draw_area(one, plane) for one in series if one.low]
    if diagonal:
        low = max(plane.x[0], plane.y[0])
        high = min(plane.x[1], plane.y[1])
        parts.append(
            f'<line class="chance" x1="{plane.at_x(low):.1f}" y1="{plane.at_y(low):.1f}" '
            f'x2="{plane.at_x(high):.1f}" y2="{plane.at_y(high):.1f}"/>'
        )
    parts += [_draw_series(one, plane, x.time) for one in series]
    named = [one for one in series if one.name]
    drawn = to_svg("".join(parts), height, label)
    return drawn + (draw_legend(named) if legend and len(named) > 1 else Markup())


def _draw_series(one: Series, plane: "_Plane", gaps: bool) -> str:
    places = [
        (place, plane.at_x(x), plane.at_y(y))
        for place, (x, y) in enumerate(zip(one.x, one.y, strict=True))
        if x is not None and y is not None and math.isfinite(x) and math.isfinite(y)
    ]
    if not one.dots:
        kind = f"line s{one.colour}{' dashed' if one.dashed else ''}{' faint' if one.faint else ''}"
        title = f"<title>{html.escape(one.name)}</title>" if one.name else ""
        drawn = ""
        for part in _split(places) if gaps else [places]:
            if gaps and len(part) == 1:  # between two gaps
                (_, x, y), *_ = part
                drawn += f'<circle class="dot s{one.colour}" cx="{x:.1f}" cy="{y:.1f}" r="3">{title}</circle>'
                continue
            path = " ".join(f"{x:.1f},{y:.1f}" for _, x, y in part)
            drawn += f'<polyline class="{kind}" points="{path}">{title}</polyline>'
        return drawn
    return "".join(
        f'<circle class="dot s{one.colour}" cx="{x:.1f}" cy="{y:.1f}" '
        f'r="{one.sizes[place] if one.sizes else 4:.1f}">'
        f"<title>{html.escape(one.titles[place] if one.titles else one.name)}</title></circle>"
        for place, x, y in places
    )


def _split(places: Sequence[tuple[int, float, float]]) -> list[list[tuple[int, float, float]]]:
    """Stretches of consecutive places."""
    found: list[list[tuple[int, float, float]]] = []
    for one in places:
        if found and found[-1][-1][0] == one[0] - 1:
            found[-1].append(one)
        else:
            found.append([one])
    return found


def _draw_area(one: Series, plane: "_Plane") -> str:
    held = [
        (place, plane.at_x(x), (plane.at_y(low), plane.at_y(high)))
        for place, (x, low, high) in enumerate(zip(one.x, one.low, one.high, strict=True))
        if x is not None and low is not None and high is not None and math.isfinite(high - low)
    ]
    drawn = ""
    for part in _split([(place, x, 0.0) for place, x, _ in held]):
        bounds = {place: between for place, _, between in held}
        if len(part) == 1:  # an area needs a width
            part = [(part[0][0], part[0][1] - 2, 0.0), (part[0][0], part[0][1] + 2, 0.0)]
        there = " ".join(f"{x:.1f},{bounds[place][1]:.1f}" for place, x, _ in part)
        back = " ".join(f"{x:.1f},{bounds[place][0]:.1f}" for place, x, _ in reversed(part))
        drawn += f'<polygon class="band s{one.colour}" points="{there} {back}"/>'
    return drawn


def draw_bars(
    names: Sequence[str],
    values: Sequence[float],
    unit: str = "",
    intervals: Sequence[tuple[float, float]] = (),
) -> Markup:
    """Horizontal bars from zero, in the given order, with the (low, high) of each if given."""
    top = max([*values, *(high for _, high in intervals), 1e-12])
    rows = []
    for place, (name, value) in enumerate(zip(names, values, strict=True)):
        y, length = 8 + place * 26, 250 * max(value, 0.0) / top
        low, high = intervals[place] if intervals else (value, value)
        end = max(length, 250 * high / top)
        whisker = (
            f'<line class="whisker" x1="{158 + 250 * max(low, 0.0) / top:.1f}" y1="{y + 9}" '
            f'x2="{158 + end:.1f}" y2="{y + 9}"/>'
            if high > low
            else ""
        )
        between = f" [{low:.3g}, {high:.3g}]" if high > low else ""
        rows.append(
            f'<text class="name" x="150" y="{y + 13}">{html.escape(cut(name, 20))}</text>'
            f'<rect class="bar s1" x="158" y="{y}" width="{max(length, 1):.1f}" height="18" rx="3">'
            f"<title>{html.escape(name)}: {value:.3g}{unit}{between}</title></rect>{whisker}"
            f'<text class="value" x="{164 + end:.1f}" y="{y + 13}">{value:.2g}{unit}</text>'
        )
    return to_svg("".join(rows), height=16 + 26 * len(names))


def draw_intervals(
    rows: Sequence[tuple[str, float, float, float]], label: str, reference: float | None = None
) -> Markup:
    """A dot with its interval for each (name, value, low, high), and a line at the value of all rows."""
    held = [value for row in rows for value in row[1:] if math.isfinite(value)]
    low, high = _widen(min(held, default=0.0), max(held, default=1.0))
    left, right, step = 150, _WIDTH - 16, 24

    def at(value: float) -> float:
        return left + (right - left) * (value - low) / (high - low)

    bottom = 10 + step * len(rows)
    parts = [
        f'<line class="grid" x1="{at(t):.1f}" y1="4" x2="{at(t):.1f}" y2="{bottom}"/>'
        f'<text class="tick" text-anchor="middle" x="{at(t):.1f}" y="{bottom + 16}">{text}</text>'
        for t, text in _label(_ticks(low, high, 5))
    ]
    if reference is not None and low <= reference <= high:
        parts.append(
            f'<line class="chance" x1="{at(reference):.1f}" y1="4" x2="{at(reference):.1f}" y2="{bottom}"/>'
        )
    for place, (name, value, down, up) in enumerate(rows):
        y = 20 + place * step
        parts.append(f'<text class="name" x="{left - 10}" y="{y + 4}">{html.escape(cut(name, 20))}</text>')
        if not math.isfinite(value):
            continue
        if math.isfinite(down) and math.isfinite(up):
            parts.append(f'<line class="whisker" x1="{at(down):.1f}" y1="{y}" x2="{at(up):.1f}" y2="{y}"/>')
        parts.append(
            f'<circle class="dot s1" cx="{at(value):.1f}" cy="{y}" r="4.5">'
            f"<title>{html.escape(name)}: {value:.4g} [{down:.4g}, {up:.4g}]</title></circle>"
        )
    middle = (left + right) / 2
    parts.append(
        f'<text class="label" text-anchor="middle" x="{middle}" y="{bottom + 34}">{html.escape(label)}</text>'
    )
    return to_svg("".join(parts), height=bottom + 42)


def draw_histograms(
    middles: Points, groups: Sequence[tuple[str, Points]], x: Axis, mark: tuple[float, str], share: str
) -> Markup:
    """Shares of rows in equal cells, one colour per group, overlaid; `mark` is a vertical line with its text.

    `share` says what the shares refer to.
    """
    shares = []
    for name, counts in groups:
        filled = [count or 0.0 for count in counts]
        total = sum(filled) or 1.0
        shares.append((name, [count / total for count in filled]))
    top = max([value for _, values in shares for value in values] + [1e-9])
    plane = _Plane(x.range or (0.0, 1.0), (0.0, top * 1.05))
    width = (plane.at_x(plane.x[1]) - plane.at_x(plane.x[0])) / max(len(middles), 1)
    parts = [plane.draw_axes(x, Axis(share))]
    for colour, (name, values) in enumerate(shares, start=1):
        for middle, value in zip(middles, values, strict=True):
            if middle is not None and value > 0:
                height = plane.at_y(0) - plane.at_y(value)
                parts.append(
                    f'<rect class="area s{colour}" x="{plane.at_x(middle) - width / 2:.1f}" '
                    f'y="{plane.at_y(value):.1f}" width="{width - 0.6:.1f}" height="{height:.1f}">'
                    f"<title>{html.escape(name)}: {value:.1%}</title></rect>"
                )
    at = plane.at_x(mark[0])
    parts.append(
        f'<line class="mark" x1="{at:.1f}" y1="{_TOP}" x2="{at:.1f}" y2="{plane.at_y(0):.1f}"/>'
        f'<text class="tick" x="{at + 5:.1f}" y="{_TOP + 10}">{html.escape(mark[1])}</text>'
    )
    named = [Series(name, [], [], colour, dots=True) for colour, (name, _) in enumerate(shares, 1)]
    return to_svg("".join(parts)) + (draw_legend(named) if len(named) > 1 else Markup())


def draw_small(counts: Sequence[float]) -> Markup:
    """Bars without axes, for a cell of a table."""
    top = max(counts, default=0.0)
    if not top > 0:
        return Markup()
    width = 120 / len(counts)
    path = "".join(
        f"M{place * width:.1f} 28V{28 - 27 * count / top:.1f}h{width * 0.9:.1f}V28z"
        for place, count in enumerate(counts)
        if count > 0
    )
    drawn = f'<path class="bar s1" d="{path}"/>'
    return to_small_svg(drawn)


def draw_counts(table: Sequence[Sequence[int]], names: Sequence[str]) -> Markup:
    """Counts by label (rows) and prediction (columns), shaded by the share of the row."""
    head = "".join(f"<th>{html.escape(cut(name, 14))}</th>" for name in names)
    body = ""
    for name, row in zip(names, table, strict=True):
        total = sum(row) or 1
        cells = "".join(
            f'<td style="--share:{count / total:.3f}"><b>{count:,}</b><small>{count / total:.1%}</small></td>'
            for count in row
        )
        body += f"<tr><th>{html.escape(cut(name, 14))}</th>{cells}</tr>"
    many = " many" if len(names) > 5 else ""
    corner = '<th class="corner">label \\ predicted</th>'
    table_of = f'<table class="confusion{many}"><tr>{corner}{head}</tr>{body}</table>'
    return Markup(f'<div class="scroll">{table_of}</div>')  # noqa: S704  (its names are escaped)


class _Plane:
    """Converts data coordinates to pixels."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], height: int = _HEIGHT) -> None:
        self.x, self.y, self.height = x, y, height

    def at_x(self, value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - self.x[0]) / (self.x[1] - self.x[0])

    def at_y(self, value: float) -> float:
        tall = self.height - _TOP - _BOTTOM
        return self.height - _BOTTOM - tall * (value - self.y[0]) / (self.y[1] - self.y[0])

    def draw_axes(self, x: Axis, y: Axis) -> str:
        bottom, right = self.height - _BOTTOM, _WIDTH - _RIGHT
        parts = []
        for tick, text in label_times(*self.x) if x.time else _label(_ticks(*self.x, 6, x.whole)):
            at = self.at_x(tick)
            parts.append(
                f'<line class="grid" x1="{at:.1f}" y1="{_TOP}" x2="{at:.1f}" y2="{bottom}"/>'
                f'<text class="tick" text-anchor="middle" x="{at:.1f}" y="{bottom + 16}">{text}</text>'
            )
        for tick, text in _label(_ticks(*self.y, 5 if self.height >= _HEIGHT else 4, y.whole)):
            at = self.at_y(tick)
            parts.append(
                f'<line class="grid" x1="{_LEFT}" y1="{at:.1f}" x2="{right}" y2="{at:.1f}"/>'
                f'<text class="tick" text-anchor="end" x="{_LEFT - 7}" y="{at + 4:.1f}">{text}</text>'
            )
        middle = (_LEFT + right) / 2
        across = (_TOP + bottom) / 2
        parts.append(
            f'<text class="label" text-anchor="middle" x="{middle}" y="{self.height - 6}">'
            f"{html.escape(x.label)}</text>"
            f'<text class="label" text-anchor="middle" transform="translate(12 {across}) rotate(-90)">'
            f"{html.escape(y.label)}</text>"
        )
        return "".join(parts)


def to_svg(
    content: str, height: int = _HEIGHT, label: str = "", width: int = _WIDTH, role: str = "img"
) -> Markup:
    """`content` is what is drawn; its texts are escaped where they are written. `role` is `group` if it has links."""
    named = f' aria-label="{html.escape(label)}"' if label else ""
    return Markup(f'<svg viewBox="0 0 {width} {height}" role="{role}"{named}>{content}</svg>')  # noqa: S704


def to_small_svg(content: str) -> Markup:
    """120 by 28, for a cell of a table. Screen readers pass over it: what it shows is beside it in words."""
    return Markup(f'<svg class="small" viewBox="0 0 120 28" aria-hidden="true">{content}</svg>')  # noqa: S704


def draw_legend(series: Sequence[Series]) -> Markup:
    items = "".join(
        f'<li class="s{one.colour}{" dashed" if one.dashed else ""}">{html.escape(one.name)}</li>'
        for one in series
    )
    return Markup(f'<ul class="legend">{items}</ul>')  # noqa: S704  (its names are escaped)


def _range_of(axis: Axis, values: Sequence[float | None]) -> tuple[float, float]:
    if axis.range is not None:
        return axis.range
    held = [value for value in values if value is not None and math.isfinite(value)]
    low, high = min(held, default=0.0), max(held, default=1.0)
    if axis.time:
        return (low, high) if high > low else (low - 43_200.0, high + 43_200.0)
    return _widen(low, high)


def _widen(low: float, high: float) -> tuple[float, float]:
    space = (high - low) * 0.06 or abs(high) * 0.05 or 0.5
    return low - space, high + space


def _ticks(low: float, high: float, count: int, whole: bool = False) -> list[float]:
    """Round numbers within the range."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    if whole:
        step = max(1.0, round(step))
    first = math.ceil(low / step - 1e-9) * step
    return [float(tick) for tick in np.arange(first, high + step * 1e-6, step)]


def _label(ticks: Sequence[float]) -> list[tuple[float, str]]:
    """Each tick with its text, with as many digits as the distance of ticks needs."""
    step = min((b - a for a, b in itertools.pairwise(ticks)), default=1.0)
    digits = next((d for d in range(9) if abs(round(step, d) - step) < step * 1e-3), 9)
    top = max(map(abs, ticks), default=0.0)
    if top >= 1e6 or digits > 5:
        return [(tick, f"{tick:.3g}") for tick in ticks]
    return [(tick, "0" if abs(tick) < step * 1e-6 else f"{tick:,.{digits}f}") for tick in ticks]


def label_shares(top: float) -> list[tuple[float, str]]:
    """Round shares from 0 to `top` as percentages."""
    return [(tick / 100, f"{text}%") for tick, text in _label(_ticks(0.0, 100 * top, 4))]


_STEPS_S = (
    60,
    300,
    900,
    1800,
    3600,
    7200,
    10_800,
    21_600,
    43_200,
    *(86_400 * days for days in (1, 2, 7, 14, 30, 91)),
)


def label_times(low: float, high: float, count: int = 6) -> list[tuple[float, str]]:
    """Round times between two, in seconds since 1970, at most `count`, each with its text: the hour, or the day at
    midnight, UTC."""
    step = next((one for one in _STEPS_S if (high - low) / one <= count), 365 * 86_400)
    first = math.ceil(low / step) * step
    ticks = [float(tick) for tick in np.arange(first, high + 1e-6, step)]
    return [(tick, _label_time(tick)) for tick in ticks]


def _label_time(tick: float) -> str:
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=tick)
    return f"{moment:%H:%M}" if tick % 86_400 else f"{moment.day} {moment:%b}"


def cut(text: str, length: int) -> str:
    """At most so many characters."""
    return text if len(text) <= length else text[: length - 1] + "…"
