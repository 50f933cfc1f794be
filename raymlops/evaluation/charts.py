"""Charts as inline SVG: lines, dots with intervals, bars, histograms, counts. Colours are the page's.

Every function returns the text of one <svg> element, or of a table, from numbers; none reads files.
"""

import dataclasses
import html
import itertools
import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

Points = Sequence[float | None]
_WIDTH, _HEIGHT = 460, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 14, 12, 42


@dataclasses.dataclass(frozen=True)
class Series:
    """A line or a set of dots; `colour` is 1 to 8 of the page's. `sizes` are radii of dots in pixels."""

    name: str
    x: Points
    y: Points
    colour: int = 1
    dots: bool = False
    dashed: bool = False
    faint: bool = False
    sizes: Sequence[float] | None = None
    titles: Sequence[str] | None = None


@dataclasses.dataclass(frozen=True)
class Axis:
    """A label and a range, by default that of the data. `whole` puts ticks at integers only."""

    label: str
    range: tuple[float, float] | None = None
    whole: bool = False


def draw_lines(
    series: Sequence[Series], x: Axis, y: Axis, diagonal: bool = False, legend: bool = True
) -> Markup:
    """Lines and dots over two axes; `diagonal` draws the line of chance or of perfect calibration."""
    plane = _Plane(
        _range_of(x, [value for one in series for value in one.x]),
        _range_of(y, [value for one in series for value in one.y]),
    )
    parts = [plane.draw_axes(x, y)]
    if diagonal:
        low = max(plane.x[0], plane.y[0])
        high = min(plane.x[1], plane.y[1])
        parts.append(
            f'<line class="chance" x1="{plane.at_x(low):.1f}" y1="{plane.at_y(low):.1f}" '
            f'x2="{plane.at_x(high):.1f}" y2="{plane.at_y(high):.1f}"/>'
        )
    parts += [_draw_series(one, plane) for one in series]
    named = [one for one in series if one.name]
    return _svg("".join(parts)) + (_legend(named) if legend and len(named) > 1 else Markup())


def _draw_series(one: Series, plane: "_Plane") -> str:
    places = [
        (place, plane.at_x(x), plane.at_y(y))
        for place, (x, y) in enumerate(zip(one.x, one.y, strict=True))
        if x is not None and y is not None and math.isfinite(x) and math.isfinite(y)
    ]
    if not one.dots:
        kind = f"line s{one.colour}{' dashed' if one.dashed else ''}{' faint' if one.faint else ''}"
        path = " ".join(f"{x:.1f},{y:.1f}" for _, x, y in places)
        return f'<polyline class="{kind}" points="{path}"><title>{html.escape(one.name)}</title></polyline>'
    return "".join(
        f'<circle class="dot s{one.colour}" cx="{x:.1f}" cy="{y:.1f}" '
        f'r="{one.sizes[place] if one.sizes else 4:.1f}">'
        f"<title>{html.escape(one.titles[place] if one.titles else one.name)}</title></circle>"
        for place, x, y in places
    )


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
            f'<text class="name" x="150" y="{y + 13}">{html.escape(_cut(name, 20))}</text>'
            f'<rect class="bar s1" x="158" y="{y}" width="{max(length, 1):.1f}" height="18" rx="3">'
            f"<title>{html.escape(name)}: {value:.3g}{unit}{between}</title></rect>{whisker}"
            f'<text class="value" x="{164 + end:.1f}" y="{y + 13}">{value:.2g}{unit}</text>'
        )
    return _svg("".join(rows), height=16 + 26 * len(names))


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
        parts.append(f'<text class="name" x="{left - 10}" y="{y + 4}">{html.escape(_cut(name, 20))}</text>')
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
    return _svg("".join(parts), height=bottom + 42)


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
    return _svg("".join(parts)) + (_legend(named) if len(named) > 1 else Markup())


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
    return Markup(f'<svg class="small" viewBox="0 0 120 28" role="img">{drawn}</svg>')  # noqa: S704


def draw_counts(table: Sequence[Sequence[int]], names: Sequence[str]) -> Markup:
    """Counts by label (rows) and prediction (columns), shaded by the share of the row."""
    head = "".join(f"<th>{html.escape(_cut(name, 14))}</th>" for name in names)
    body = ""
    for name, row in zip(names, table, strict=True):
        total = sum(row) or 1
        cells = "".join(
            f'<td style="--share:{count / total:.3f}"><b>{count:,}</b><small>{count / total:.1%}</small></td>'
            for count in row
        )
        body += f"<tr><th>{html.escape(_cut(name, 14))}</th>{cells}</tr>"
    many = " many" if len(names) > 5 else ""
    corner = '<th class="corner">label \\ predicted</th>'
    table_of = f'<table class="confusion{many}"><tr>{corner}{head}</tr>{body}</table>'
    return Markup(f'<div class="scroll">{table_of}</div>')  # noqa: S704  (its names are escaped)


class _Plane:
    """Converts data coordinates to pixels."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.x, self.y = x, y

    def at_x(self, value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - self.x[0]) / (self.x[1] - self.x[0])

    def at_y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - self.y[0]) / (self.y[1] - self.y[0])

    def draw_axes(self, x: Axis, y: Axis) -> str:
        bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
        parts = []
        for tick, text in _label(_ticks(*self.x, 6, x.whole)):
            at = self.at_x(tick)
            parts.append(
                f'<line class="grid" x1="{at:.1f}" y1="{_TOP}" x2="{at:.1f}" y2="{bottom}"/>'
                f'<text class="tick" text-anchor="middle" x="{at:.1f}" y="{bottom + 16}">{text}</text>'
            )
        for tick, text in _label(_ticks(*self.y, 5, y.whole)):
            at = self.at_y(tick)
            parts.append(
                f'<line class="grid" x1="{_LEFT}" y1="{at:.1f}" x2="{right}" y2="{at:.1f}"/>'
                f'<text class="tick" text-anchor="end" x="{_LEFT - 7}" y="{at + 4:.1f}">{text}</text>'
            )
        middle = (_LEFT + right) / 2
        across = (_TOP + bottom) / 2
        parts.append(
            f'<text class="label" text-anchor="middle" x="{middle}" y="{_HEIGHT - 6}">'
            f"{html.escape(x.label)}</text>"
            f'<text class="label" text-anchor="middle" transform="translate(12 {across}) rotate(-90)">'
            f"{html.escape(y.label)}</text>"
        )
        return "".join(parts)


def _svg(content: str, height: int = _HEIGHT) -> Markup:
    """`content` is what is drawn; its texts are escaped where they are written."""
    return Markup(f'<svg viewBox="0 0 {_WIDTH} {height}" role="img">{content}</svg>')  # noqa: S704


def _legend(series: Sequence[Series]) -> Markup:
    items = "".join(
        f'<li class="s{one.colour}{" dashed" if one.dashed else ""}">{html.escape(one.name)}</li>'
        for one in series
    )
    return Markup(f'<ul class="legend">{items}</ul>')  # noqa: S704  (its names are escaped)


def _range_of(axis: Axis, values: Sequence[float | None]) -> tuple[float, float]:
    if axis.range is not None:
        return axis.range
    held = [value for value in values if value is not None and math.isfinite(value)]
    return _widen(min(held, default=0.0), max(held, default=1.0))


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


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
