"""A drawing as text for a terminal: a paragraph for each box, and what it reads, with lines no wider than the
terminal."""

import textwrap

from raymlops.graphs.drawing import Arrow, Sketch, shorten_list

MOST_LABELS = 8


def to_text(picture: Sketch, width: int = 80) -> str:
    """`width` is in characters, at least 20."""
    width = max(20, width)
    lines = _wrap(picture.title, width, "", "  ")
    names = {box.id: box.id if box.group else box.lines[0] for box in picture.boxes}
    for box in picture.boxes:
        lines += ["", *_wrap(names[box.id], width, "", "  ")]
        for text in shorten_list(box.lines[1:], MOST_LABELS * 2):
            lines += _wrap(text, width, "    ", "      ")
        for arrow in picture.arrows:
            if arrow.end == box.id:
                lines += _wrap(_describe(arrow, names[arrow.start]), width, "  ", "      ")
    return "\n".join(lines) + "\n"


def _describe(arrow: Arrow, start: str) -> str:
    labels = ", ".join(shorten_list(arrow.labels, MOST_LABELS))
    return f"{'<~' if arrow.dashed else '<-'} {start}{': ' if labels else ''}{labels}"


def _wrap(text: str, width: int, first: str, further: str) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=further, break_on_hyphens=False
    ) or [first.rstrip()]
