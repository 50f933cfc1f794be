"""A drawing as a standalone SVG picture: boxes in columns by their dependencies, columns in bands as wide as a page.

Needs no other program. Layout: a column is as wide as its widest box. To its left is a channel in which lines turn,
then room for the labels of the lines that end there. Lines that pass a column have a gap between its boxes. A line
from the last column of a band to the first of the next one goes around, in its own lane.
"""

import dataclasses
import itertools
import textwrap
from collections.abc import Mapping, Sequence
from html import escape

from raymlops.graphs.drawing import CLASSES, Arrow, Box, Sketch, shorten_list

LINE, LABEL_LINE = 16, 11
"""Height of a line of text of 12 pixels, and of labels of 10."""
ROW_GAP, PADDING, MARGIN, BEND, LANE = 34.0, 10.0, 24.0, 64.0, 8.0
WRAP, LONGEST, MOST_LINES, MOST_LABELS = 34, 40, 16, 3
"""Characters in a line of a box and in a label; entries of a box and of a label."""
PAGE = 1700.0
"""Width in pixels up to which columns are placed side by side; a single wider column still has a band."""
_NARROW, _BROAD = "ijl.,:;|!'()[]/ ", "mwMW@%&"


def measure(text: str, size: float = 12, *, bold: bool = False) -> float:
    """An upper bound of the width of a text in pixels in the usual sans-serif fonts, of which DejaVu's is the
    widest."""
    units = sum(
        0.42 if letter in _NARROW else 1.02 if letter in _BROAD else 0.79 if letter.isupper() else 0.67
        if letter.isascii() else 1.05
        for letter in text
    )  # fmt: skip
    return size * units * (1.14 if bold else 1)


@dataclasses.dataclass
class _Placed:
    box: Box
    lines: tuple[str, ...]
    """Lines of text; empty where a line passes."""
    width: float
    height: float
    x: float = 0.0
    y: float = 0.0


@dataclasses.dataclass
class _Column:
    items: list[_Placed]
    band: int = 0
    labels: float = 0.0
    """Width of the labels to its left."""
    x: float = 0.0

    @property
    def width(self) -> float:
        return max(item.width for item in self.items)

    @property
    def height(self) -> float:
        return sum(item.height + ROW_GAP for item in self.items) - ROW_GAP


@dataclasses.dataclass
class _Layout:
    columns: list[_Column]
    placed: dict[str, _Placed]
    ways: dict[Arrow, list[str]]
    """Arrow -> what it passes: its two boxes, and between them a gap in every column."""
    column_of: dict[str, _Column]
    bottoms: list[float] = dataclasses.field(default_factory=list)
    """Sizes of the bands."""
    right: float = 0.0
    lanes: dict[tuple[Arrow, int], int] = dataclasses.field(default_factory=dict)
    """Lanes of the arrow segments that go from band to band."""

    def ends(self, arrow: Arrow, i: int) -> tuple[float, float, float, float]:
        """Where the i-th segment of a line starts and ends."""
        way = self.ways[arrow]
        start, end = self.placed[way[i]], self.placed[way[i + 1]]
        return start.x + start.width, self._leaving(start, arrow), end.x, self._coming(end, arrow)

    def _leaving(self, item: _Placed, arrow: Arrow) -> float:
        if not item.lines:
            return item.y + item.height / 2
        others = [found for _, found in sorted(self._beside(item, 1), key=lambda pair: pair[0])]
        return item.y + item.height * (1 + others.index(arrow)) / (len(others) + 1)

    def _coming(self, item: _Placed, arrow: Arrow) -> float:
        """Each line has room for its label above it."""
        if not item.lines:
            return item.y + item.height / 2
        others = [found for _, found in sorted(self._beside(item, -1), key=lambda pair: pair[0])]
        rooms = [_label_height(other) for other in others]
        above = (item.height - sum(rooms)) / 2
        return item.y + above + sum(rooms[: others.index(arrow) + 1]) - 4

    def _beside(self, item: _Placed, step: int) -> list[tuple[float, Arrow]]:
        found = []
        for arrow, way in self.ways.items():
            if item.box.id in way:
                i = way.index(item.box.id) + step
                if 0 <= i < len(way):
                    found.append((self.placed[way[i]].y, arrow))
        return found


def to_svg(picture: Sketch) -> str:
    title = textwrap.wrap(picture.title, 90) or [""]
    layout = _arrange(picture)
    _set_bands(layout)
    top = MARGIN + 20 * len(title)
    _position(layout, top)
    width = max(layout.right + MARGIN, *(measure(line, 15, bold=True) + 2 * MARGIN for line in title))
    height = layout.bottoms[-1] + MARGIN
    boxes = [item for item in layout.placed.values() if item.lines]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" font-family="sans-serif" font-size="12">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#555"/></marker></defs>',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>',
        *(
            f'<text x="{MARGIN}" y="{MARGIN + 20 * i:.1f}" font-size="15" font-weight="bold">{escape(line)}</text>'
            for i, line in enumerate(title)
        ),
        *(_draw_line(arrow, layout) for arrow in picture.arrows),
        *(_draw_box(item) for item in boxes),
        *(_draw_label(arrow, layout) for arrow in picture.arrows),
        "</svg>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _rank(picture: Sketch) -> dict[str, int]:
    """The longest path from the inputs to each box."""
    before: dict[str, list[str]] = {box.id: [] for box in picture.boxes}
    for arrow in picture.arrows:
        before[arrow.end].append(arrow.start)
    ranks: dict[str, int] = {}
    waiting = [box.id for box in picture.boxes]
    while waiting:  # not by recursion: a graph may be deeper than Python's stack
        name = waiting[-1]
        missing = [other for other in before[name] if other not in ranks]
        if missing:
            waiting += missing
            continue
        ranks[waiting.pop()] = 1 + max((ranks[other] for other in before[name]), default=-1)
    return ranks


def _make_item(box: Box, incoming: Sequence[Arrow], leaving: int) -> _Placed:
    name = box.id if box.group else box.lines[0]
    lines = tuple(
        line
        for text in shorten_list([name, *box.lines[1:]], MOST_LINES)
        for line in textwrap.wrap(text, WRAP, break_on_hyphens=False, max_lines=6, placeholder=" ...") or [""]
    )
    width = max(measure(line, bold=i == 0) for i, line in enumerate(lines)) + 2 * PADDING
    rooms = sum(_label_height(arrow) for arrow in incoming)
    return _Placed(box, lines, width, max(len(lines) * LINE + 2 * PADDING, rooms, 14.0 * leaving))


def _arrange(picture: Sketch) -> _Layout:
    """Columns by rank; within each, boxes near the mean height of their neighbours."""
    ranks = _rank(picture)
    columns: list[list[_Placed]] = [[] for _ in range(1 + max(ranks.values()))]
    for box in picture.boxes:
        incoming = [arrow for arrow in picture.arrows if arrow.end == box.id]
        leaving = sum(arrow.start == box.id for arrow in picture.arrows)
        columns[ranks[box.id]].append(_make_item(box, incoming, leaving))
    ways: dict[Arrow, list[str]] = {}
    for number, arrow in enumerate(picture.arrows):
        ways[arrow] = [arrow.start]
        for column in range(ranks[arrow.start] + 1, ranks[arrow.end]):
            free = _Placed(Box(f"\0{number}-{column}", (), "way"), (), 0, 4)
            columns[column].append(free)
            ways[arrow].append(free.box.id)
        ways[arrow].append(arrow.end)
    _order(columns, ways)
    made = [
        _Column(
            items, labels=max((_label_width(a) for a in picture.arrows if ranks[a.end] == i), default=0.0)
        )
        for i, items in enumerate(columns)
    ]
    placed = {item.box.id: item for column in columns for item in column}
    return _Layout(made, placed, ways, {item.box.id: column for column in made for item in column.items})


def _order(columns: list[list[_Placed]], ways: Mapping[Arrow, Sequence[str]]) -> None:
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    for way in ways.values():
        for start, end in itertools.pairwise(way):
            before.setdefault(end, []).append(start)
            after.setdefault(start, []).append(end)
    order = {item.box.id: i - len(column) / 2 for column in columns for i, item in enumerate(column)}
    for sweep in range(8):
        beside = before if sweep % 2 == 0 else after
        for items in columns if sweep % 2 == 0 else reversed(columns):
            items.sort(key=lambda item: _mean(beside.get(item.box.id, []), order))
            for i, item in enumerate(items):
                order[item.box.id] = i - len(items) / 2


def _mean(names: Sequence[str], order: Mapping[str, float]) -> float:
    return sum(order[name] for name in names) / len(names) if names else 0.0


def _set_bands(layout: _Layout) -> None:
    """Columns are placed side by side while they fit the page."""
    band, x = 0, 0.0
    for i, column in enumerate(layout.columns):
        wanted = column.width + (BEND + column.labels if i else 0)
        if x and x + wanted > PAGE:
            band, x = band + 1, 0.0
        column.band = band
        x += wanted
    for arrow, way in layout.ways.items():
        for i, (start, end) in enumerate(itertools.pairwise(way)):
            if layout.column_of[start].band != layout.column_of[end].band:
                crossing = layout.column_of[start].band
                lanes = [
                    lane
                    for (other, j), lane in layout.lanes.items()
                    if _band_of(layout, other, j) == crossing
                ]
                layout.lanes[arrow, i] = len(lanes)


def _band_of(layout: _Layout, arrow: Arrow, i: int) -> int:
    return layout.column_of[layout.ways[arrow][i]].band


def _position(layout: _Layout, top: float) -> None:
    for band, members in itertools.groupby(layout.columns, key=lambda column: column.band):
        columns = list(members)
        height = max(column.height for column in columns)
        x = MARGIN
        for i, column in enumerate(columns):
            lanes = sum(_band_of(layout, *piece) == band - 1 for piece in layout.lanes) if i == 0 else 0
            x += (LANE * lanes + column.labels + LANE if lanes else 0) if i == 0 else BEND + column.labels
            column.x = x
            y = top + (height - column.height) / 2
            for item in column.items:
                if not item.lines:
                    item.width = column.width
                item.x, item.y = x + (column.width - item.width) / 2, y
                y += item.height + ROW_GAP
            x += column.width
        leaving = sum(_band_of(layout, *piece) == band for piece in layout.lanes)
        layout.right = max(layout.right, x + LANE * (leaving + 2) * bool(leaving))
        layout.bottoms.append(top + height)
        top += height + ROW_GAP + LANE * (leaving + 2)


def _label_texts(arrow: Arrow) -> list[str]:
    texts = [text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..." for text in arrow.labels]
    return shorten_list(texts, MOST_LABELS)


def _label_width(arrow: Arrow) -> float:
    return max((measure(text, 10) for text in _label_texts(arrow)), default=0.0) + 24 * bool(arrow.labels)


def _label_height(arrow: Arrow) -> float:
    return LABEL_LINE * len(_label_texts(arrow)) + 10.0


def _draw_line(arrow: Arrow, layout: _Layout) -> str:
    """Curves from column to column; straight beside labels and from band to band."""
    drawn = ""
    for i in range(len(layout.ways[arrow]) - 1):
        x1, y1, x2, y2 = layout.ends(arrow, i)
        drawn += f"{'L' if drawn else 'M'}{x1:.1f} {y1:.1f} "
        column = layout.column_of[layout.ways[arrow][i + 1]]
        turned = column.x - column.labels
        if (arrow, i) in layout.lanes:
            drawn += _draw_detour(layout, arrow, i, y2) + f"L{x2:.1f} {y2:.1f} "
            continue
        right = layout.column_of[layout.ways[arrow][i]]
        from_x = right.x + right.width
        bend = (turned - from_x) / 2
        drawn += f"L{from_x:.1f} {y1:.1f} C{from_x + bend:.1f} {y1:.1f} {turned - bend:.1f} {y2:.1f} "
        drawn += f"{turned:.1f} {y2:.1f} L{x2:.1f} {y2:.1f} "
    dash = ' stroke-dasharray="5 4"' if arrow.dashed else ""
    return f'<path d="{drawn.strip()}" fill="none" stroke="#555"{dash} marker-end="url(#tip)"/>'


def _draw_detour(layout: _Layout, arrow: Arrow, i: int, y2: float) -> str:
    """Right of its band, below it, and left of the next one."""
    lane, band = layout.lanes[arrow, i], _band_of(layout, arrow, i)
    last = [column for column in layout.columns if column.band == band][-1]
    right = last.x + last.width + LANE * (lane + 1)
    below = layout.bottoms[band] + ROW_GAP / 2 + LANE * (lane + 1)
    left = MARGIN + LANE * lane
    return f"H{right:.1f} V{below:.1f} H{left:.1f} V{y2:.1f} "


def _draw_label(arrow: Arrow, layout: _Layout) -> str:
    """Above the end of the line, where lines into one box are separate."""
    _, _, x, y = layout.ends(arrow, len(layout.ways[arrow]) - 2)
    lines = [
        f'<text x="{x - 12:.1f}" y="{y - 4 - LABEL_LINE * i:.1f}" font-size="10" text-anchor="end" fill="#333" '
        f'stroke="white" stroke-width="3" paint-order="stroke">{escape(text)}</text>'
        for i, text in enumerate(reversed(_label_texts(arrow)))
    ]
    return "\n".join(lines)


def _draw_box(item: _Placed) -> str:
    fill, stroke = CLASSES[item.box.look]
    first = item.y + (item.height - LINE * len(item.lines)) / 2 + 12
    texts = [
        f'<text x="{item.x + PADDING:.1f}" y="{first + i * LINE:.1f}"'
        f"{' font-weight=' + chr(34) + 'bold' + chr(34) if i == 0 else ''}>{escape(line)}</text>"
        for i, line in enumerate(item.lines)
    ]
    return (
        f'<rect x="{item.x:.1f}" y="{item.y:.1f}" width="{item.width:.1f}" height="{item.height:.1f}" rx="6" '
        f'fill="{fill}" stroke="{stroke}"/>' + "".join(texts)
    )
