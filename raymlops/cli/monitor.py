"""monitor: shows the health of an application in the terminal, or writes it as a page."""

import datetime
import json
import pathlib
import sys
import time
from typing import TYPE_CHECKING

import click

from raymlops.cli.duration import Duration
from raymlops.cli.terminal import echo
from raymlops.errors import RaymlopsError
from raymlops.settings import Settings

if TYPE_CHECKING:
    from raymlops.monitoring.health import Health

_LOOK_S = 15.0


@click.command()
@click.argument("application", required=False)
@click.option("--html", metavar="FILE", type=click.Path(dir_okay=False), help="Write a page to this file.")
@click.option(
    "--every",
    type=Duration(),
    help="Look again after so long, such as 30s or 1h; with --html, until interrupted. In a terminal, 15s.",
)
@click.option("--last", type=Duration(), default="7d", show_default=True, help="The period that is shown.")
@click.option("--model", default="", help="Only this model, or this endpoint or node of a graph.")
@click.option(
    "--once", is_flag=True, help="Print once, also in a terminal; exit 1 if an alarm wakes a person."
)
@click.option(
    "--path", default="", metavar="FOLDER", help="The folder of counts, if monitoring.path names one."
)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable, once.")
def monitor(
    application: str | None,
    html: str | None,
    every: datetime.timedelta | None,
    last: datetime.timedelta,
    model: str,
    once: bool,
    path: str,
    as_json: bool,
) -> None:
    """Show how APPLICATION is: alarms, what its models see and answer against what is usual, quality, traffic.

    Printed once, to a file or a pipe, the exit code is 1 if an alarm is open that wakes a person. In a terminal the
    view is live, and ends with q.

    \b
    raymlops monitor flights
    raymlops monitor flights --html health.html
    raymlops monitor flights --html health.html --every 1h --last 30d
    raymlops monitor flights --once || echo "look at it"
    """
    from raymlops.lifecycle.monitoring.health import HealthReader, list_monitored

    if every and (once or as_json):
        raise click.UsageError("--every looks again and again; --once and --json look once")
    if not application:
        known = ", ".join(list_monitored(Settings.from_env(), path)) or "none yet"
        raise click.UsageError(f"Missing APPLICATION; there are counts or alarms of: {known}")
    reader = HealthReader(application, Settings.from_env(), path)
    if sys.stderr.isatty():
        echo(
            f"Reading the counts of {application}", err=True
        )  # the first time, thresholds are simulated for a minute

    def read() -> "Health":
        at = datetime.datetime.now(datetime.UTC)
        return reader.read(at - last, at, model)

    if not (html or once or as_json) and sys.stdin.isatty() and sys.stdout.isatty():
        from raymlops.cli.health_view import watch

        watch(read, every.total_seconds() if every else _LOOK_S)
        return
    while True:
        try:
            state = _tell(read(), html, as_json)
        except RaymlopsError as error:
            if every is None:
                raise
            echo(f"{error}; looks again in {every}", err=True)  # a store that is away comes back
        if every is None:
            raise SystemExit(1 if state == "page" else 0)
        time.sleep(every.total_seconds())


def _tell(health: "Health", html: str | None, as_json: bool) -> str:
    """Write the page, and print. Returns the state."""
    from raymlops.monitoring.health import to_json

    if html:
        from raymlops.lifecycle.monitoring.health_page import replace_page

        replace_page(pathlib.Path(html), health)
    if as_json:
        echo(json.dumps(to_json(health)))
    elif html:
        echo(f"{health.describe()}\nPage    {html}")
    else:
        from raymlops.cli.health_view import draw, make_console

        make_console().print(draw(health))
    return health.state
