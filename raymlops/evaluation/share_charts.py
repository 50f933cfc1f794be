"""Charts of where the rows of a column lie, now against usually, as inline SVG: bins of numbers, categories, and both
small for a cell of a table."""

import html
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from raymlops.evaluation import charts

_WIDTH, _HEIGHT = 460, 220
_LEFT, _TOP, _BOTTOM = 44, 12, 34
_APART = 52
"""Width of the place of a cell that is no bin."""
_MOST_CATEGORIES = 12


class Cell(NamedTuple):
    """Shares of rows in a cell; `low` to `high` is what chance gives now where nothing changed. `apart` are those
    beside the bins: missing, below and above the range; `beyond` are those to be marked."""

    name: str
    usual: float
    now: float
    low: float
    high: float
    apart: bool = False
    beyond: bool = False

    def describe(self) -> str:
        beyond = ", beyond chance" if self.beyond else ""
        return f"{self.name}: {self.now:.3%} of rows, usually {self.usual:.3%}{beyond}"


def draw_bins(cells: Sequence[Cell], bounds: Sequence[str], label: str) -> Markup:
    """Bars of now before the band of chance around usual. `bounds` are the texts of the ends of the bins, one more than
    there are bins."""
    bins = sum(not one.apart for one in cells)
    wide = (_WIDTH - _LEFT - 8 - _APART * (len(cells) - bins)) / max(bins, 1)
    top = max((max(one.usual, one.now, one.high) for one in cells), default=0.0) or 1.0
    bottom = _HEIGHT - _BOTTOM

    def at(share: float) -> float:
        return bottom - (bottom - _TOP) * min(share / (top * 1.05), 1.0)

    parts = [
        f'<line class="grid" x1="{_LEFT}" y1="{at(tick):.1f}" x2="{_WIDTH - 8}" y2="{at(tick):.1f}"/>'
        f'<text class="tick" text-anchor="end" x="{_LEFT - 6}" y="{at(tick) + 4:.1f}">{text}</text>'
        for tick, text in charts.label_shares(top)
    ]
    x, starts = float(_LEFT), []
    for one in cells:
        width = _APART if one.apart else wide
        bar = min(width * 0.86, 26 if one.apart else width)
        middle = x + width / 2
        if one.apart:
            parts.append(_write_tick(middle, one.name))
        else:
            starts.append(x)
        parts.append(_draw_bar(one, middle - bar / 2, bar, at))
        x += width
    if starts:
        ends = [*starts, starts[-1] + wide]
        step = max(1, -(-len(ends) // 5))
        # the last bound is always there; one right before it would overlap it
        shown = [*range(0, len(ends) - step // 2 - 1, step), len(ends) - 1]
        parts += [
            _write_tick(
                ends[place], bounds[place], "start" if not place else "end" if place == bins else "middle"
            )
            for place in shown
        ]
    return charts.to_svg("".join(parts), _HEIGHT, label)


def _draw_bar(one: Cell, x: float, width: float, at: "charts.Scale") -> str:
    beyond = " out" if one.beyond else ""
    return (
        f"<g><title>{html.escape(one.describe())}</title>"
        f'<rect class="bar s1{beyond}" x="{x:.1f}" y="{at(one.now):.1f}" width="{width:.1f}" '
        f'height="{max(at(0) - at(one.now), 0):.1f}"/>'
        f'<rect class="chance-band" x="{x:.1f}" y="{at(one.high):.1f}" width="{width:.1f}" '
        f'height="{max(at(max(one.low, 0.0)) - at(one.high), 1):.1f}"/>'
        f'<line class="usual" x1="{x:.1f}" x2="{x + width:.1f}" y1="{at(one.usual):.1f}" y2="{at(one.usual):.1f}"/></g>'
    )


def _write_tick(x: float, text: str, anchor: str = "middle") -> str:
    place = f'text-anchor="{anchor}" x="{x:.1f}" y="{_HEIGHT - 16}"'
    return f'<text class="tick" {place}>{html.escape(text)}</text>'


def draw_categories(cells: Sequence[Cell], label: str) -> Markup:
    """A bar of now over one of usual for each, those that changed most first, the rest joined."""
    ordered = sorted(cells, key=lambda one: (not one.beyond, -max(one.usual, one.now)))
    shown, rest = ordered[:_MOST_CATEGORIES], ordered[_MOST_CATEGORIES:]
    if rest:
        usual, now, low, high = (
            float(sum(values)) for values in zip(*(one[1:5] for one in rest), strict=True)
        )
        shown.append(Cell(f"{len(rest)} others", usual, now, low, high))
    top = max((max(one.usual, one.now, one.high) for one in shown), default=0.0) or 1.0
    left, step = 150, 26

    def at(share: float) -> float:
        return left + 200 * share / top

    parts = []
    for place, one in enumerate(shown):
        y = 6 + place * step
        low, high = at(max(one.low, 0.0)), at(one.high)
        parts.append(
            f"<g><title>{html.escape(one.describe())}</title>"
            f'<text class="name" x="{left - 8}" y="{y + 14}">{html.escape(charts.cut(one.name, 20))}</text>'
            f'<rect class="bar s1{" out" if one.beyond else ""}" x="{left}" y="{y + 3}" '
            f'width="{max(at(one.now) - left, 1 if one.now else 0):.1f}" height="14"/>'
            f'<rect class="chance-band" x="{low:.1f}" y="{y}" width="{max(high - low, 1):.1f}" height="20"/>'
            f'<line class="usual" x1="{at(one.usual):.1f}" x2="{at(one.usual):.1f}" y1="{y}" y2="{y + 20}"/>'
            f'<text class="value" x="{max(at(one.now), high) + 6:.1f}" y="{y + 14}">{one.now:.1%}</text></g>'
        )
    return charts.to_svg("".join(parts), 12 + step * len(shown), label)


def draw_small(usual: Sequence[float], now: Sequence[float]) -> Markup:
    """Bars of now under a line of usual, without axes."""
    top = max([*usual, *now], default=0.0)
    if not top > 0:
        return Markup()
    width = 120 / len(usual)

    def at(share: float) -> float:
        return 27 - 25 * share / top

    bars = "".join(
        f"M{place * width:.1f} 28V{at(share):.1f}h{width * 0.86:.1f}V28z"
        for place, share in enumerate(now)
        if share > 0
    )
    line = "".join(
        f"{'L' if place else 'M'}{place * width:.1f} {at(share):.1f}h{width * 0.86:.1f}"
        for place, share in enumerate(usual)
    )
    return charts.to_small_svg(f'<path class="bar s1" d="{bars}"/><path class="usual" d="{line}"/>')
