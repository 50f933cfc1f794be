"""Writes to a terminal what another recorded, as text: control characters, which could hide or change what was written
before, are shown escaped. Formats nothing."""

import unicodedata

import click


def echo(text: object, *, err: bool = False) -> None:
    """A line, or lines, as `click.echo`."""
    click.echo(escape(str(text)), err=err)


def escape(text: str) -> str:
    """The text with control, format and unassigned characters escaped, but for line feeds and tabs."""
    return "".join(sign if sign in "\n\t" or _is_plain(sign) else ascii(sign)[1:-1] for sign in text)


def _is_plain(sign: str) -> bool:
    return (sign.isascii() and sign.isprintable()) or unicodedata.category(sign) not in (
        "Cc",
        "Cf",
        "Cn",
        "Co",
        "Cs",
    )
