"""The page of a report and its parts, from the templates beside this module: one HTML document with embedded styles,
light and dark, without scripts but one that it names by its digest. All text is escaped; only `Markup` is taken as
HTML."""

import base64
import functools
import hashlib
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
    *,
    note: str = "",
    search: bool = False,
) -> str:
    """The document; `numbers` are the large ones at its head: (name, value, small print), `note` is small print below.
    With `search`, boxes of `write_search` search tables; without its script the page is the same but for them."""
    script = _read_script() if search else ""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template("report.html")
        .render(
            title=title,
            lead=lead,
            verdict=verdict,
            numbers=list(numbers),
            sections=[section for section in sections if section.content],
            note=note,
            script=Markup(script),  # noqa: S704  (a file of the package)
            policy=f"; script-src 'sha256-{digest}'" if script else "",
        )
    )


@functools.cache
def _read_script() -> str:
    return (pathlib.Path(__file__).parent / "templates" / "search.js").read_text(encoding="utf-8")


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


def write_badge(passed: bool | None, text: str) -> Markup:
    """A coloured word; None is neither good nor bad."""
    return _write("badge", passed, text)


def write_part(part: Section) -> Markup:
    """A part of a section, with a heading of its own; empty without content."""
    return _write("part", part) if part.content else NOTHING


def write_columns(*held: Markup) -> Markup:
    """Beside each other where there is space, without frames."""
    return _write("columns", [one for one in held if one])


def write_link(anchor: str, text: str) -> Markup:
    """To a part of the page."""
    return _write("link", anchor, text)


def write_code(text: str) -> Markup:
    """A command to copy."""
    return _write("code", text) if text else NOTHING


def write_scroll(content: Markup) -> Markup:
    """What is too wide for a phone, to be moved sideways; empty without content."""
    return _write("scroll", content) if content else NOTHING


def write_fold(summary: str, content: Markup) -> Markup:
    """Content under a line that opens it; empty without content."""
    return _write("fold", summary, content) if content else NOTHING


def write_search(anchor: str, what: str, shown: Markup, rest: Markup, folded: str) -> Markup:
    """A table, the rest of it folded under a line that says what is `folded`, and a box that searches both. `anchor` is
    unique on the page."""
    return _write("search", anchor, what, shown, rest, folded) if shown else NOTHING
