"""notify: checks notify.yaml and tries its channels."""

import datetime
import json
import logging
import pathlib
import time
from typing import Any

import click

from raymlops.cli.terminal import echo
from raymlops.settings import Settings, read_environment

_FILE = click.option(
    "--file",
    "path",
    type=click.Path(path_type=pathlib.Path),
    help="The notify.yaml; default RAYMLOPS_NOTIFY, else notify.yaml in this folder, else under RAYMLOPS_HOME.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Machine-readable.")


@click.group()
def notify() -> None:
    """Check whom events are told, as notify.yaml says, and try it.

    \b
    raymlops notify check
    raymlops notify test --channel oncall
    """


@notify.command()
@_FILE
@_JSON
def check(path: pathlib.Path | None, as_json: bool) -> None:
    """Check notify.yaml, its variables and packages, and show what waits; exit 2 if a channel could not send.

    Contacts no receiver.
    """
    import dataclasses

    from raymlops.api.incidents import check_notify
    from raymlops.events.notify_file import find_notify

    path = path or find_notify(Settings.from_env(), pathlib.Path.cwd())
    found = check_notify(path)
    if as_json:
        held = [dataclasses.asdict(one) for one in found]
        echo(json.dumps({"file": str(path) if path else None, "channels": held}))
    else:
        echo(f"Read {path}" if path else "There is no notify.yaml: all events go to the log.")
        for one in found:
            _show(one)
    if any(one.problem for one in found):
        raise SystemExit(2)  # click would turn its own Exit into 0 here


def _show(one: Any) -> None:
    echo(f"{one.name:<16} {one.kind:<8} {one.problem or 'ready'}")
    if one.routed:
        echo(f"  gets      {', '.join(one.routed)}")
    if one.variables:
        echo(f"  reads     {', '.join(one.variables)}")
    if one.waiting and (one.waiting.messages or one.waiting.refused or one.waiting.dropped):
        oldest = _to_time(one.waiting.oldest) if one.waiting.oldest else ""
        since = f", the oldest since {oldest}" if oldest else ""
        echo(
            f"  spool     {one.waiting.messages} wait{since}; {one.waiting.refused} refused, "
            f"{one.waiting.dropped} dropped since the last delivery"
        )


def _to_time(at: float) -> str:
    return datetime.datetime.fromtimestamp(at).astimezone().isoformat(timespec="seconds")


@notify.command()
@click.option(
    "--channel", "channels", multiple=True, metavar="NAME", help="Only this channel; several times."
)
@_FILE
@_JSON
def test(channels: tuple[str, ...], path: pathlib.Path | None, as_json: bool) -> None:
    """Send a test message to every channel, or those of --channel, at once; exit 1 if one did not take it."""
    import dataclasses

    from raymlops.api.incidents import try_notify

    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s")  # for a channel that is the log
    found = try_notify(*channels, file=path)
    if as_json:
        echo(json.dumps([dataclasses.asdict(one) for one in found]))
    else:
        for one in found:
            echo(f"{one.channel:<16} {one.problem or 'delivered'} ({one.seconds:.2f} s)")
    if any(one.problem for one in found):
        raise SystemExit(1)  # click would turn its own Exit into 0 here


@notify.command()
@click.option("--wait", "wait_s", default=30.0, show_default=True, help="Seconds to try, in all.")
@_FILE
def send(wait_s: float, path: pathlib.Path | None) -> None:
    """Send now what waits in the spool of this machine; exit 1 if some of it still waits.

    Endpoints and other processes that run do so by themselves.
    """
    from raymlops.events import notify_file
    from raymlops.events.delivery import Notifier

    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s")
    settings = Settings.from_env()
    path = path or notify_file.find_notify(settings, pathlib.Path.cwd())
    notifier = Notifier(
        notify_file.read_notify(path), notify_file.find_spool(settings, path), read_environment()
    )
    started = time.monotonic()
    if not notifier.close(wait_s):
        echo(
            f"Some messages still wait after {time.monotonic() - started:.0f} s; see raymlops notify check",
            err=True,
        )
        raise SystemExit(1)  # click would turn its own Exit into 0 here
    echo("Nothing waits.")
