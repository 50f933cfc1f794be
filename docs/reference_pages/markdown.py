"""Markdown of tables and of text that must stay as it is."""

import re
from collections.abc import Collection, Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; what stands in a cell may have any character."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """On one line. What stands in backticks, and what a link leads to, is as it is; elsewhere nothing is markup."""
    parts = re.split(r"(`[^`]*`|\]\([^)]*\))", " ".join(text.split()))
    return "".join(part if part[:1] in ("`", "]") else _escape(part) for part in parts)


def _escape(text: str) -> str:
    return re.sub(r"([|*_])", r"\\\1", text).replace("<", "&lt;")


def code(text: object) -> str:
    return f"`{text}`"


def sentence(text: str, names: Collection[str] = ()) -> str:
    """With a capital at the beginning, unless that is one of `names` or looks like code, and a full stop at the end."""
    text = " ".join(text.split())
    if not text:
        return ""
    first = text.split()[0].rstrip(",;")
    start = text[0] if first in names or not re.fullmatch(r"[a-z]+('s)?", first) else text[0].upper()
    return start + text[1:] + ("" if text.endswith((".", "!", "?", ":")) else ".")
