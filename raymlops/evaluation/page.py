"""The page of a report and its parts, from the templates beside this module: one HTML document with embedded styles,
light and dark, without scripts. All text is escaped; only `Markup` is taken as HTML."""

import functools
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

NOTHING = Markup()


class Section(NamedTuple):
    """A part of the page; left out if it has no content."""

    anchor: str
    heading: str
    lead: str
    content: Markup


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _write(part: str, *values: Any) -> Markup:
    """A macro of parts.html."""
    written: Markup = getattr(_environment().get_template("parts.html").module, part)(*values)
    return written


def write_page(
    title: str,
    lead: str,
    verdict: Markup,
    numbers: Iterable[tuple[str, str, str]],
    sections: Iterable[Section],
) -> str:
    """The document; `numbers` are the large ones at its head: (name, value, small print)."""
    return (
        _environment()
        .get_template("report.html")
        .render(
            title=title,
            lead=lead,
            verdict=verdict,
            numbers=list(numbers),
            sections=[section for section in sections if section.content],
        )
    )


def write_card(title: str, lead: str, content: Markup) -> Markup:
    """A framed part of a section; empty without content."""
    return _write("card", title, lead, content) if content else NOTHING


def write_cards(*cards: Markup) -> Markup:
    """Cards beside each other; empty when all are."""
    held = NOTHING.join(cards)
    return _write("cards", held) if held else NOTHING


def write_table(
    head: Iterable[str], rows: Iterable[Iterable[str]], numbers: frozenset[int] = frozenset()
) -> Markup:
    """A table of texts; `numbers` are the columns that align right. Empty without rows."""
    body = [list(row) for row in rows]
    return _write("table", list(head), body, numbers) if body else NOTHING


def write_facts(facts: Mapping[str, str]) -> Markup:
    """Names and values, those that are empty left out; values may be long and break anywhere."""
    held = [(name, value) for name, value in facts.items() if value]
    return _write("facts", held) if held else NOTHING


def write_badge(passed: bool, text: str) -> Markup:
    """A coloured word."""
    return _write("badge", passed, text)
