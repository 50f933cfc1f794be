"""What another recorded is written to a terminal as text."""

import pytest

from raymlops.cli.terminal import escape


@pytest.mark.parametrize(
    "text", ["plain, é, 漢字 and 🙂", "two\nlines\tand a tab", "", "'quotes' \\ and {braces}"]
)
def test_text_stays_as_it_is(text: str) -> None:
    assert escape(text) == text


@pytest.mark.parametrize(
    "sign", ["\x1b", "\r", "\x07", "\x00", "\x7f", "\x9b", "\u202e", "\u200b", "\ufeff", "\ud800"]
)
def test_what_could_hide_or_change_a_line_is_shown_escaped(sign: str) -> None:
    shown = escape(f"a{sign}b")
    assert shown.isascii()
    assert shown.isprintable()
    assert shown.startswith("a\\")
