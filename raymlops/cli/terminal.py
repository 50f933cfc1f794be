"""Writes to a terminal text that others recorded: control characters, which could hide or change earlier output, are
shown escaped. Also prints warnings about old names of keys and flags. Formats nothing."""

import contextlib
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click

from raymlops.errors import RenamedWarning


def echo(text: object, *, err: bool = False) -> None:
    """A line, or lines, like `click.echo`."""
    click.echo(escape(str(text)), err=err)


def escape(text: str) -> str:
    """The text with control, format and unassigned characters escaped, except line feeds and tabs."""
    return "".join(sign if sign in "\n\t" or _is_plain(sign) else ascii(sign)[1:-1] for sign in text)


def _is_plain(sign: str) -> bool:
    return (sign.isascii() and sign.isprintable()) or unicodedata.category(sign) not in (
        "Cc",
        "Cf",
        "Cn",
        "Co",
        "Cs",
    )


def take_old_flags(names: Mapping[str, str]) -> dict[str, Any]:
    """Settings of a command that also accepts flags by their old names: old -> new, both without dashes."""

    def find_new(flag: str) -> str:
        if flag in names:
            text = f"--{flag} is now called --{names[flag]}; the old name is still accepted, but write the new one"
            warnings.warn(text, RenamedWarning, stacklevel=2)
        return names.get(flag, flag)

    rename: Callable[[str], str] = find_new
    return {"token_normalize_func": rename}


@contextlib.contextmanager
def renamed_told() -> Iterator[None]:
    """In this context, warnings about old names are lines for the user; all others are unchanged."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_line(message: Any, category: type[Warning], *rest: Any, **more: Any) -> None:
            if issubclass(category, RenamedWarning):
                echo(f"Warning: {message}", err=True)
            else:
                show(message, category, *rest, **more)

        warnings.showwarning = show_line
        yield
