"""The health of an application in a terminal and in a pipe."""

import dataclasses
import io

import click
import pytest
from rich.console import Console

from raymlops.cli.duration import Duration
from raymlops.cli.health_view import draw
from raymlops.monitoring.health import Health
from tests import health_samples


def show(health: Health, lines: int = 10_000) -> str:
    console = Console(file=io.StringIO(), width=160, highlight=False, markup=False, emoji=False)
    console.print(draw(health, lines))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def changed() -> Health:
    return health_samples.make_health(changed=True)


def test_alarms_come_first_and_then_the_columns_that_differ(changed: Health) -> None:
    lines = show(changed).splitlines()
    assert lines[0].startswith("flights  needs a person now")
    assert [line.split()[0] for line in lines if line.startswith(("PAGE", "note"))] == ["PAGE", "note"]
    columns = [
        line.split()[0]
        for line in lines[next(n for n, one in enumerate(lines) if "what differs" in one) + 1 :]
        if line
    ]
    assert columns[:2] == ["temp", "probability"] or columns[:2] == ["probability", "temp"]
    assert any("66,000 rows; 0.20% of 49,500 requests failed; p99 11.4 ms" in line for line in lines)
    assert "\x1b" not in "".join(lines)


def test_a_small_terminal_shows_what_matters_most(changed: Health) -> None:
    lines = show(changed, 16).splitlines()
    assert len(lines) <= 22  # long sentences take a line more
    assert any(line.startswith("temp") for line in lines)
    assert any("more columns, less unlikely" in line for line in lines)


def test_control_characters_of_others_are_escaped(changed: Health) -> None:
    alarm = dataclasses.replace(
        changed.incidents[0].alarm, sentence="\x1b[2Jhidden [bold]x[/bold]", damage="\x07"
    )
    incident = dataclasses.replace(changed.incidents[0], alarm=alarm)
    model = dataclasses.replace(changed.models[0], unwatched="\x1b]0;title", model="[red]m")
    text = show(dataclasses.replace(changed, application="\x9b5m", models=(model,), incidents=(incident,)))
    assert not {"\x1b", "\x07", "\x9b"} & set(text)
    assert "hidden [bold]x[/bold]" in text


def test_without_models_there_is_a_sentence(changed: Health) -> None:
    assert "No rows were counted in this period" in show(
        dataclasses.replace(changed, models=(), incidents=())
    )


@pytest.mark.parametrize("text", ["", "0h", "5", "h", "-1h", "1.5h", "1w", "9999999d", "99999d", "1h "])
def test_a_length_of_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"is not of the form|is more than"):
        Duration().convert(text, None, None)
