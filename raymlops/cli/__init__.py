"""The `raymlops` command: finds a verb, runs it, and turns failures into one sentence and an exit code.

Verbs are in the modules of this package, one per area, which are imported only when called, so that `--help` and
`check` answer at once.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from raymlops.cli.terminal import echo, renamed_told
from raymlops.errors import RaymlopsError, unknown_name
from raymlops.settings import apply_process_defaults

VERBS = {
    "init": ("raymlops.cli.init", "Write a spec for a table, from its columns"),
    "check": ("raymlops.cli.training", "Check a spec, and start nothing"),
    "schema": ("raymlops.cli.training", "Print the JSON schema of specs, for editors"),
    "train": ("raymlops.cli.training", "Train one model with the values of its spec"),
    "search": ("raymlops.cli.training", "Search for the best model, export it, register it"),
    "register": ("raymlops.cli.registry", "Register an ONNX file as a model version"),
    "convert": ("raymlops.cli.registry", "Register a saved model of another library as ONNX"),
    "promote": ("raymlops.cli.registry", "Move an alias such as champion to a version"),
    "evaluate": (
        "raymlops.cli.governance",
        "Measure a version on its test split or other data, with a report",
    ),
    "gate": ("raymlops.cli.governance", "Check whether a version may become champion"),
    "history": ("raymlops.cli.governance", "List who moved which alias, when and why, and verify the record"),
    "rollback": ("raymlops.cli.governance", "Move an alias back to the version that it named before"),
    "lineage": (
        "raymlops.cli.governance",
        "Show what a version was made from, or what was made from data or code",
    ),
    "diff": ("raymlops.cli.governance", "Show the differences between two versions"),
    "reproduce": ("raymlops.cli.governance", "Train a version again from its record, and compare"),
    "graph": ("raymlops.cli.graph", "Check a composition of models, and draw it"),
    "weights": ("raymlops.cli.graph", "Change the shares of a canary while it serves"),
    "serve": ("raymlops.cli.serving", "Serve models on this machine"),
    "deploy": ("raymlops.cli.serving", "Deploy models on a cluster, or roll back with --rollback"),
    "keys": ("raymlops.cli.keys", "Make, list, rotate and revoke API keys of an endpoint"),
    "predict": ("raymlops.cli.prediction", "Score files with a model or a graph, into Parquet"),
    "reference": ("raymlops.cli.monitoring", "Keep with a version what its columns and answers usually are"),
    "drift": (
        "raymlops.cli.monitoring",
        "Compare a table with what a version was evaluated on, or with another",
    ),
    "monitor": ("raymlops.cli.monitor", "Show how the models of an application are, live or as a page"),
    "alarms": ("raymlops.cli.alarms", "List alarms, and acknowledge, silence or close one"),
    "notify": ("raymlops.cli.notify", "Check whom events are told, and send a test message"),
    "capture": ("raymlops.cli.capture", "List, show, trace, delete and replay captured requests"),
    "labels": ("raymlops.cli.capture", "Store labels of captured requests"),
    "submit": ("raymlops.cli.submission", "Run a verb as a job of a cluster, and follow it"),
    "cluster": ("raymlops.cli.clusters", "Make, check, start and describe clusters"),
    "tracking-server": ("raymlops.cli.tracking_server", "Run a tracking server for a team"),
    "doctor": ("raymlops.cli.doctor", "Find what is wrong with a set-up, and how to fix it"),
}
"""Verb -> module with a click command of that name (dashes as underscores), and its line in the help."""


class Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(VERBS[cmd_name][0])
        command = getattr(module, cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            raise click.UsageError(unknown_name("command", args[0], VERBS))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in VERBS.items()])


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of a failure.")
@click.version_option(package_name="raymlops")
def raymlops(debug: bool) -> None:
    """From a dataset to a monitored HTTP endpoint on one Ray cluster.

    Write a spec (see jobs/specs/flights.yaml), then: raymlops search jobs/specs/flights.yaml
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 2 the caller can fix it, 1 it is our fault, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    apply_process_defaults()
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        with renamed_told():
            raymlops.main(arguments, prog_name="raymlops", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    except BrokenPipeError:  # the reader of the pipe, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        ours = not isinstance(error, RaymlopsError)
        echo(f"Error: {type(error).__name__}: {error}" if ours else f"Error: {error}", err=True)
        if ours:
            click.echo("This is a bug in raymlops; run again with --debug for the traceback.", err=True)
        sys.exit(1 if ours else error.exit_code)  # type: ignore[attr-defined]
    sys.exit(0)
