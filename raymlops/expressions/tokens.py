"""Rewrites an expression as Python syntax: pandas' `&` and `|`, and column names in backticks. Parses nothing."""

import re
import unicodedata

_TOKEN = re.compile(
    r"""(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
    r"""|(?P<column>`(?:[^`]|``)*`)|(?P<other>[^'"`&|]+)|(?P<sign>.)""",
    re.DOTALL,
)


def to_python(expression: str) -> tuple[str, dict[str, str]]:
    """The expression as Python text, with plain names in place of the columns in backticks, and the columns of these
    names."""
    if "\x00" in expression:
        raise ValueError("holds a null character")
    stem = "column_"
    while stem in expression:
        stem += "_"
    parts: list[str] = []
    columns: dict[str, str] = {}
    after_text = False
    for token in _TOKEN.finditer(expression):
        kind, text = str(token.lastgroup), token[0]
        if kind == "text" and after_text:
            raise ValueError("has two texts side by side; join them by +")
        if kind == "other":
            _check_characters(text)
            text = re.sub(r"\s+", " ", text)  # an expression may span several lines in YAML
        elif kind == "column":
            if len(text) < 3:
                raise ValueError("has backticks around no name")
            name = f"{stem}{len(columns)}"
            columns[name] = text[1:-1].replace("``", "`")
            text = f" {name} "  # spaces, so that it cannot merge with its neighbours
        elif kind == "sign":
            if text not in "&|":
                raise ValueError(f"has an opening {text} that is not closed")
            text = " and " if text == "&" else " or "
        parts.append(text)
        after_text = kind == "text" or (after_text and not text.strip())
    return "".join(parts), columns


def _check_characters(text: str) -> None:
    if unicodedata.normalize("NFKC", text) != text:
        raise ValueError("holds characters that only look like other ones; put such a name in backticks")
    for sign in text:
        if sign in "@#\\$;?" or (not sign.isprintable() and sign not in "\t\r\n"):
            raise ValueError(f"holds {sign!r}, which expressions do not have")
