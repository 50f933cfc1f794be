"""alarms: lists incidents, shows one, and records what people do about it."""

import datetime
import functools
import json
from typing import Any

import click

from raymlops.cli.duration import Duration
from raymlops.cli.terminal import echo
from raymlops.settings import Settings
from raymlops.specs.monitoring import CHECKS

_JSON = click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
_ID = click.argument("identity", metavar="ID")


@click.group(invoke_without_command=True)
@click.option("--open", "only_open", is_flag=True, help="Only those that are not closed.")
@click.option("--application", help="Only those of this application.")
@_JSON
@click.pass_context
def alarms(context: click.Context, only_open: bool, application: str | None, as_json: bool) -> None:
    """List alarms, the newest first; exit 1 if one is open and not silenced.

    \b
    raymlops alarms --open || echo "look at it"
    raymlops alarms show flights/231
    raymlops alarms check flights
    raymlops alarms ack flights/231 --why "known: the feed of the weather is late"
    raymlops alarms silence flights/231 --for 12h
    """
    if context.invoked_subcommand is not None:
        return
    from raymlops.events import incident as states
    from raymlops.events.incidents import read_all

    at = datetime.datetime.now(datetime.UTC)
    found = [
        one
        for one in read_all(Settings.from_env())
        if (one.open or not only_open) and application in (None, one.application)
    ]
    if as_json:
        echo(json.dumps([states.describe(one, at) for one in found], default=str))
    else:
        for one in found:
            _show_line(one, at)
        if not found:
            echo("No alarm is open." if only_open else "There are no alarms.")
    if states.count_open(found, at):
        raise SystemExit(1)  # click would turn its own Exit into 0 here


def _show_line(one: Any, at: datetime.datetime) -> None:
    mark = "PAGE" if one.alarm.severity == "page" else "note"
    echo(f"{one.id:<20} {one.state(at):<12} {mark}  since {_to_local(one.first)}  {one.alarm.sentence}")


@alarms.command()
@click.argument("application")
@_JSON
def check(application: str, as_json: bool) -> None:
    """Check now how APPLICATION operates: errors, latency, replicas, certificate, keys, storage, and the like.

    Raises, updates and closes its alarms; an application that is served does so by itself. Exit 1 if one is open and
    not silenced.
    """
    from raymlops.events import incident as states
    from raymlops.serving.deploy.launch import check_operations

    found = check_operations(application, Settings.from_env(), tell=functools.partial(echo, err=True))
    at = datetime.datetime.now(datetime.UTC)
    if as_json:
        echo(
            json.dumps(
                {
                    "checks": list(found.judged.checks),
                    "open": [states.describe(one, at) for one in found.open],
                    "closed": [one.id for one in found.closed],
                    "unrecorded": found.unrecorded,
                },
                default=str,
            )
        )
    else:
        _show_checked(found, at)
    if states.count_open(found.open, at) or (found.unrecorded and found.judged.alarms):
        raise SystemExit(1)  # click would turn its own Exit into 0 here


def _show_checked(found: Any, at: datetime.datetime) -> None:
    for one in found.open:
        _show_line(one, at)
    for one in found.closed:
        echo(f"{one.id} is closed: {one.alarm.sentence}")
    if found.unrecorded:
        echo(f"{found.unrecorded}. What was found is not recorded:", err=True)
        for alarm in found.judged.alarms:
            echo(alarm.sentence)
    if not found.open and not found.judged.alarms:
        echo("No operational alarm is open.")
    unknown = [name for name in CHECKS if name not in found.judged.checks]
    if unknown:
        echo(f"Not checked, since figures are missing: {', '.join(unknown)}", err=True)


@alarms.command()
@_ID
@_JSON
def show(identity: str, as_json: bool) -> None:
    """Show an alarm: its numbers, causes, damage, and what was done about it."""
    from raymlops.events import incident as states
    from raymlops.events.incidents import open_incident

    incidents, number = open_incident(identity, Settings.from_env())
    found = incidents.find(number)
    at = datetime.datetime.now(datetime.UTC)
    facts, life = states.describe(found, at), states.list_entries(found)
    if as_json:
        echo(json.dumps(facts | {"entries": life}, default=str))
        return
    echo(f"{facts['id']}  {facts['state']}  {facts['severity']}\n\n{facts['sentence']}\n")
    for name in ("model", "version", "family", "check", "segment", "rows", "damage", "chance"):
        if facts[name]:
            echo(
                f"{name:<10} {facts[name]:,}" if isinstance(facts[name], int) else f"{name:<10} {facts[name]}"
            )
    echo(f"{'first':<10} {_to_local(found.first)}\n{'last':<10} {_to_local(found.last)}")
    if found.alarm.columns:
        echo(f"{'columns':<10} {', '.join(found.alarm.columns)}")
    for name, value in found.alarm.numbers.items():
        echo(f"{name:<24} {value:.6g}")
    for place, cause in enumerate(found.alarm.causes, 1):
        share = f" {cause.share:.0%} of the change" if cause.share is not None else ""
        echo(f"cause {place:<4} {cause.column}{share} {cause.sentence}".rstrip())
    echo("")
    for entry in found.entries:
        if entry.action not in ("again", "clean"):
            until = f" until {_to_local(entry.until)}" if entry.until else ""
            echo(
                f"{_to_local(entry.at)}  {entry.action}{until} by {entry.who}{': ' if entry.why else ''}{entry.why}"
            )
    if found.open and found.clean:
        echo(f"Clean judgements since the last alarm: {found.clean}")
    if found.alarm.next:
        echo(f"Next: {found.alarm.next}")


@alarms.command()
@_ID
@click.option("--why", required=True, help="What you know of it; recorded, and told to others.")
def ack(identity: str, why: str) -> None:
    """Acknowledge an alarm: you look after it. It stays open until judgements are clean."""
    from raymlops.api.incidents import acknowledge_alarm

    echo(f"{identity} is acknowledged by {acknowledge_alarm(identity, why).acknowledged}")


@alarms.command()
@_ID
@click.option("--for", "lasting", type=Duration(), help="How long, such as 90m, 12h or 3d.")
@click.option(
    "--until", metavar="TIME", help="Until when, such as 2026-07-01T08:00; local time without a zone."
)
@click.option("--why", default="", help="Why; recorded.")
def silence(identity: str, lasting: datetime.timedelta | None, until: str | None, why: str) -> None:
    """Tell no updates of an alarm until a time, and leave it out of the exit code of `alarms`. Its end is told."""
    from raymlops.api.incidents import silence_alarm

    end = _find_end(lasting, until)
    silence_alarm(identity, end, why)
    echo(f"{identity} is silenced until {_to_local(end)}")


@alarms.command()
@_ID
@click.option("--why", required=True, help="Why it is over; recorded, and told to others.")
def close(identity: str, why: str) -> None:
    """Close an alarm. What is still wrong at the next judgement raises another; `silence` prevents that."""
    from raymlops.api.incidents import close_alarm

    close_alarm(identity, why)
    echo(f"{identity} is closed")


def _find_end(lasting: datetime.timedelta | None, until: str | None) -> datetime.datetime:
    if (lasting is None) == (until is None):
        raise click.UsageError("Give one of --for and --until.")
    if lasting is not None:
        return datetime.datetime.now(datetime.UTC) + lasting
    try:
        return datetime.datetime.fromisoformat(until or "").astimezone()
    except (ValueError, OverflowError):
        raise click.UsageError(f"--until {until!r} is not a time such as 2026-07-01T08:00") from None


def _to_local(at: datetime.datetime) -> str:
    return at.astimezone().isoformat(sep=" ", timespec="minutes")
