"""A sketch as a standalone SVG picture: boxes in columns by what they wait for. Needs no other program."""

import dataclasses
import itertools
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from raymlops.graphs.drawing import CLASSES, Arrow, Box, Sketch

LETTER, LINE = 6.7, 16
"""Width of a letter and height of a line at 12 pixels, roughly those of any sans-serif."""
ROW_GAP, PADDING, MARGIN, LABEL = 34, 10, 24, 5.6
BEND = 64.0
"""Width in which a line may turn between two columns, beside its label."""
WRAP = 34
"""Letters in a line of a box."""


@dataclasses.dataclass
class _Placed:
    box: Box
    lines: tuple[str, ...]
    width: float
    height: float
    x: float = 0.0
    y: float = 0.0


@dataclasses.dataclass
class _Layout:
    columns: list[list[_Placed]]
    placed: dict[str, _Placed]
    ways: dict[Arrow, list[str]]
    """Arrow -> what it passes: its two boxes, and between them a free place in every column."""

    def ends(self, arrow: Arrow, i: int) -> tuple[float, float, float, float]:
        """Where the i-th piece of a line starts and ends: spread over the sides of boxes, by height of the
        others."""
        way = self.ways[arrow]
        start, end = self.placed[way[i]], self.placed[way[i + 1]]
        leaving = sorted(self._beside(start, 1), key=lambda item: item[0])
        coming = sorted(self._beside(end, -1), key=lambda item: item[0])
        down = start.height * (1 + [found for _, found in leaving].index(arrow)) / (len(leaving) + 1)
        up = end.height * (1 + [found for _, found in coming].index(arrow)) / (len(coming) + 1)
        return start.x + start.width, start.y + down, end.x, end.y + up

    def _beside(self, item: _Placed, step: int) -> list[tuple[float, Arrow]]:
        found = []
        for arrow, way in self.ways.items():
            if item.box.id in way:
                i = way.index(item.box.id) + step
                if 0 <= i < len(way):
                    found.append((self.placed[way[i]].y, arrow))
        return found


def to_svg(picture: Sketch) -> str:
    layout = _arrange(picture)
    width, height = _position(layout.columns, picture)
    boxes = [item for item in layout.placed.values() if item.lines]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" font-family="sans-serif" font-size="12">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#555"/></marker></defs>',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>',
        f'<text x="{MARGIN}" y="{MARGIN}" font-size="15" font-weight="bold">{escape(picture.title)}</text>',
        *_draw_groups(boxes),
        *(_draw_line(arrow, layout) for arrow in picture.arrows),
        *(_draw_box(item) for item in boxes),
        *(_draw_label(arrow, layout) for arrow in picture.arrows),
        "</svg>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _rank(picture: Sketch) -> dict[str, int]:
    """The longest way from the inputs to each box."""
    before: dict[str, list[str]] = {box.id: [] for box in picture.boxes}
    for arrow in picture.arrows:
        before[arrow.end].append(arrow.start)
    ranks: dict[str, int] = {}

    def rank(name: str) -> int:
        if name not in ranks:
            ranks[name] = 1 + max((rank(other) for other in before[name]), default=-1)
        return ranks[name]

    for box in picture.boxes:
        rank(box.id)
    return ranks


def _arrange(picture: Sketch) -> _Layout:
    """Columns by rank; in each, boxes near the mean height of those that they read and that read them."""
    ranks = _rank(picture)
    columns: list[list[_Placed]] = [[] for _ in range(1 + max(ranks.values()))]
    for box in picture.boxes:
        lines = tuple(
            line for text in box.lines for line in textwrap.wrap(text, WRAP, break_on_hyphens=False) or [""]
        )
        width = max(len(line) for line in lines) * LETTER + 2 * PADDING
        columns[ranks[box.id]].append(_Placed(box, lines, width, len(lines) * LINE + 2 * PADDING))
    ways: dict[Arrow, list[str]] = {}
    for number, arrow in enumerate(picture.arrows):
        ways[arrow] = [arrow.start]
        for column in range(ranks[arrow.start] + 1, ranks[arrow.end]):
            free = _Placed(Box(f"\0{number}-{column}", (), "way"), (), 0, 4)
            columns[column].append(free)
            ways[arrow].append(free.box.id)
        ways[arrow].append(arrow.end)
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    for way in ways.values():
        for start, end in itertools.pairwise(way):
            before.setdefault(end, []).append(start)
            after.setdefault(start, []).append(end)
    order = {item.box.id: i - len(column) / 2 for column in columns for i, item in enumerate(column)}
    for sweep in range(8):
        beside = before if sweep % 2 == 0 else after
        for column_items in columns if sweep % 2 == 0 else reversed(columns):
            column_items.sort(key=lambda item: _mean(beside.get(item.box.id, []), order))
            for i, item in enumerate(column_items):
                order[item.box.id] = i - len(column_items) / 2
    return _Layout(columns, {item.box.id: item for column in columns for item in column}, ways)


def _mean(names: Sequence[str], order: Mapping[str, float]) -> float:
    return sum(order[name] for name in names) / len(names) if names else 0.0


def _position(columns: list[list[_Placed]], picture: Sketch) -> tuple[float, float]:
    heights = [sum(item.height + ROW_GAP for item in column) - ROW_GAP for column in columns]
    tallest = max(heights)
    x = float(MARGIN)
    rank = {item.box.id: i for i, column in enumerate(columns) for item in column}
    for i, (column, height) in enumerate(zip(columns, heights, strict=True)):
        widest = max(item.width for item in column)
        y = 2 * MARGIN + 10 + (tallest - height) / 2
        for item in column:
            if not item.lines:
                item.width = widest
            item.x, item.y = x + (widest - item.width) / 2, y
            y += item.height + ROW_GAP
        labels = [_label_width(arrow) for arrow in picture.arrows if rank[arrow.end] == i + 1]
        x += widest + BEND + max(labels, default=0.0)
    return max(item.x + item.width for item in columns[-1]) + MARGIN, tallest + 3 * MARGIN + 10


def _label_width(arrow: Arrow) -> float:
    return max((len(text) for text in arrow.labels), default=0) * LABEL + 24 * bool(arrow.labels)


def _draw_line(arrow: Arrow, layout: _Layout) -> str:
    """Curves from column to column; the end is straight for as long as its label, which stands above it."""
    drawn = ""
    last = len(layout.ways[arrow]) - 2
    for i in range(last + 1):
        x1, y1, x2, y2 = layout.ends(arrow, i)
        turned = x2 - _label_width(arrow) if i == last else x2
        bend = max(30.0, (turned - x1) / 2)
        drawn += f"{'L' if drawn else 'M'}{x1:.1f} {y1:.1f} "
        drawn += f"C{x1 + bend:.1f} {y1:.1f} {turned - bend:.1f} {y2:.1f} {turned:.1f} {y2:.1f} "
        drawn += f"L{x2:.1f} {y2:.1f} " if turned < x2 else ""
    dash = ' stroke-dasharray="5 4"' if arrow.dashed else ""
    return f'<path d="{drawn.strip()}" fill="none" stroke="#555"{dash} marker-end="url(#tip)"/>'


def _draw_label(arrow: Arrow, layout: _Layout) -> str:
    """Above the end of the line, where lines into one box lie apart; white below, so that it can be read."""
    _, _, x, y = layout.ends(arrow, len(layout.ways[arrow]) - 2)
    lines = [
        f'<text x="{x - 12:.1f}" y="{y - 4 - 11 * i:.1f}" font-size="10" text-anchor="end" fill="#333" '
        f'stroke="white" stroke-width="3" paint-order="stroke">{escape(text)}</text>'
        for i, text in enumerate(reversed(arrow.labels))
    ]
    return "\n".join(lines)


def _draw_box(item: _Placed) -> str:
    fill, stroke = CLASSES[item.box.look]
    texts = [
        f'<text x="{item.x + PADDING:.1f}" y="{item.y + PADDING + 12 + i * LINE:.1f}"'
        f"{' font-weight=' + chr(34) + 'bold' + chr(34) if i == 0 else ''}>{escape(line)}</text>"
        for i, line in enumerate(item.lines)
    ]
    return (
        f'<rect x="{item.x:.1f}" y="{item.y:.1f}" width="{item.width:.1f}" height="{item.height:.1f}" rx="6" '
        f'fill="{fill}" stroke="{stroke}"/>' + "".join(texts)
    )


def _draw_groups(items: Iterable[_Placed]) -> list[str]:
    groups: dict[str, list[_Placed]] = {}
    for item in items:
        if item.box.group:
            groups.setdefault(item.box.group, []).append(item)
    drawn = []
    for name, members in groups.items():
        x, y = min(m.x for m in members) - 12, min(m.y for m in members) - 22
        right, bottom = max(m.x + m.width for m in members) + 12, max(m.y + m.height for m in members) + 12
        drawn.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{right - x:.1f}" height="{bottom - y:.1f}" rx="8" '
            f'fill="none" stroke="#999" stroke-dasharray="2 3"/>'
            f'<text x="{x + 6:.1f}" y="{y + 13:.1f}" font-size="10" fill="#666">{escape(name)}</text>'
        )
    return drawn
