"""check, schema, train and search."""

import json
import pathlib
import shlex
import time
from typing import Any

import click

from raymlops.settings import Settings
from raymlops.specs.code_references import OUR_READERS, find_own_names
from raymlops.specs.document import read_document
from raymlops.specs.experiment import ExperimentSpec, to_one_trial
from raymlops.specs.json_schema import make_schema

_OVERRIDES = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a value of the spec: --set search.trials=20, --set contract.columns.Solar.R.max=400; a name whose "
    "parts could be keys in quotes, as in contract.columns.'Solar.max'.max=400",
)


@click.command()
@click.argument("spec", type=click.Path())
@_OVERRIDES
@click.option(
    "--imports",
    is_flag=True,
    help="Also import the spec's own networks and readers, which runs their modules.",
)
def check(spec: str, overrides: tuple[str, ...], imports: bool) -> None:
    """Check SPEC and start nothing: unknown keys, wrong types, impossible values, expressions, networks.

    Modules that the spec names are not imported, unless --imports is given.

    \b
    raymlops check jobs/specs/flights.yaml
    """
    found = read_spec(spec, overrides, imports=imports)
    if imports:
        _import_readers(found)
    named = (*find_own_names(found).values(), found.dataset.reader)
    own = [name for name in named if ":" in name and name not in OUR_READERS]
    inputs = len(found.features.by_column())
    click.echo(
        f"{spec} is valid: model {found.name!r}, {inputs} features -> {found.features.target.column}, "
        f"{_describe_learner(found)}, {_describe_search(found)}"
    )
    if own and not imports:
        click.echo(f"Not imported, so not checked: {', '.join(own)}; --imports does that", err=True)


def _describe_learner(spec: ExperimentSpec) -> str:
    own = spec.training.learner
    if spec.search.learners is not None:
        from raymlops.training import candidates

        return f"learners {', '.join(candidates.list_names(spec))}"
    return f"network {spec.network.name}" if own == "network" else f"learner {own}"


def _describe_search(spec: ExperimentSpec) -> str:
    trials = spec.search.trials
    count = "as many trials as suit the table" if trials is None else f"{trials} trials"
    return f"{count} by {spec.search.algorithm}"


def _import_readers(spec: ExperimentSpec) -> None:
    from raymlops.data.sources import load_attribute

    for table in spec.dataset.tables:
        if ":" in table.reader:
            load_attribute(table.reader)


def read_spec(path: str, overrides: tuple[str, ...] = (), *, imports: bool = True) -> ExperimentSpec:
    """The spec of a file, with all checks that need neither data nor a cluster; its own network is checked only with
    `imports`."""
    from raymlops.training import candidates

    spec = read_document(path, ExperimentSpec, overrides)
    candidates.check(spec, imports=imports)
    return spec


@click.command()
@click.option("--output", type=click.Path(dir_okay=False), help="Write to this file instead of the screen.")
def schema(output: str | None) -> None:
    """Print the JSON schema of specs.

    Editors use it to complete and check: put `# yaml-language-server: $schema=raymlops.schema.json` atop a spec.
    """
    text = json.dumps(make_schema(), indent=1)
    if output:
        pathlib.Path(output).write_text(text + "\n", encoding="utf-8")
        click.echo(f"Wrote {output}")
    else:
        click.echo(text)


def _running(command: Any) -> Any:
    """The options that train and search share."""
    for option in (
        click.argument("spec", type=click.Path()),
        _OVERRIDES,
        click.option("--why", default="", help="Reason for this run; recorded with the model version."),
        click.option("--name", help="Name of the run; default the model's name and the time."),
        click.option("--quiet", is_flag=True, help="Print only the result and errors: for jobs."),
        click.option(
            "--no-register", is_flag=True, help="Keep the model as a file, and register no version."
        ),
        click.option("--trust", is_flag=True, help="Also resume from a state that no trusted key signed."),
        click.option(
            "--autoscaling", is_flag=True, help="Assume that the cluster can grow to meet the demand."
        ),
    )[::-1]:
        command = option(command)
    return command


@click.command()
@_running
@click.option("--resume", is_flag=True, help="Resume an interrupted search of this spec.")
def search(resume: bool, **options: Any) -> None:
    """Search for the best model of SPEC, export it to one ONNX file, verify the export, and register it.

    Reads the dataset once, runs the trials on the Ray cluster (RAY_ADDRESS, or one started here), logs each to
    MLflow, and registers the winner; the first version of a model becomes its champion, later ones challengers.

    \b
    raymlops search jobs/specs/flights.yaml
    raymlops search jobs/specs/flights.yaml --set search.trials=40 --why "weekly retrain"
    """
    from raymlops.lifecycle.train import launch

    path = options.pop("spec")
    spec = read_spec(path, options.pop("overrides"))
    lost = launch.find_search(spec, Settings.from_env(), options["name"], resume, _warn)
    _develop(spec, path, lost, or_anew=False, **options)


@click.command()
@_running
@click.option(
    "--fresh",
    is_flag=True,
    help=("Start over, even if an interrupted training of this spec could be resumed."),
)
def train(fresh: bool, **options: Any) -> None:
    """Train one model with the values of SPEC as they are, without a search; export and register it.

    The same command resumes an interrupted training from its last checkpoint, as long as spec and data are the same.

    \b
    raymlops train jobs/specs/digits.yaml --set training.lr=0.002
    """
    from raymlops.lifecycle.train import launch

    path = options.pop("spec")
    spec = to_one_trial(read_spec(path, options.pop("overrides")))
    lost = launch.find_training(spec, Settings.from_env(), options["name"], fresh, _warn)
    _develop(spec, path, lost, or_anew=True, **options)


def _warn(line: str) -> None:
    click.echo(line, err=True)


def _develop(
    spec: ExperimentSpec,
    path: str,
    lost: str | None,
    *,
    or_anew: bool,
    why: str,
    name: str | None,
    quiet: bool,
    no_register: bool,
    autoscaling: bool,
    trust: bool,
) -> None:
    from raymlops.lifecycle.train import launch

    settings, began = Settings.from_env(), time.monotonic()
    launch.join(settings, spec)  # Ray starts its workers during the import below, which takes seconds
    from raymlops.cli.progress import SearchProgress

    try:
        with SearchProgress.of(spec, quiet=quiet) as progress:
            outcome = launch.run(
                spec,
                settings,
                lost,
                observers=[progress],
                tell=progress.tell,
                name=name,
                why=why,
                autoscaling=autoscaling,
                register=not no_register,
                trusted=trust,
                or_anew=or_anew,
                began=began,
            )
    except KeyboardInterrupt:
        _explain_resuming(spec, path, settings, name, is_search=not or_anew)
        raise
    _summarise(spec, path, settings, outcome)


def _explain_resuming(
    spec: ExperimentSpec, path: str, settings: Settings, name: str | None, *, is_search: bool
) -> None:
    """How to go on with what was interrupted, if it had begun."""
    from raymlops.lifecycle.train import run_heartbeat

    lost = run_heartbeat.find_lost(settings.storage_path, spec, name, None)
    if lost is None:
        return
    if is_search:
        command = f"raymlops search {shlex.quote(str(path))} --resume"
        click.echo(
            f"Stopped {lost.name}; its trials are kept. Go on with: {command}, and the same --set", err=True
        )
    else:
        click.echo(f"Stopped {lost.name}; the same command goes on from its last checkpoint", err=True)


def _summarise(spec: ExperimentSpec, path: str, settings: Settings, outcome: Any) -> None:
    from rich.console import Console

    from raymlops.cli.progress import metric_lines, ranking_lines, result_table

    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.print()
    console.print(result_table(outcome.search))
    if outcome.learners is not None:
        for line in ranking_lines(outcome.learners):
            console.print(line)
    rows = outcome.proof.parity.rows
    console.print(f"\nTest split ({rows:,} rows):")
    for line in metric_lines(outcome.proof.metrics):
        console.print(line)
    found = outcome.proof.parity
    console.print(
        f"  ONNX against the trained model: largest difference {found.difference:.1e}, {found.flipped} labels flipped"
    )
    board = outcome.trusted.leaderboard if outcome.trusted else None
    if board is not None and board.lines:
        sample = "a sample of " if board.rows < rows else ""
        console.print(f"\nLeaderboard by {board.metric} on {sample}{board.rows:,} test rows:")
        for line in board.ranked():
            gain = f"  (gain on it {line.gain})" if line.gain else ""
            console.print(f"  {line.name:<9} {line.value}  {line.text}{gain}")
    spent = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in outcome.seconds.items())
    console.print(f"\nTime       {spent}")
    console.print(f"Model      {outcome.model}  (sha256 {outcome.digest[:12]})")
    if outcome.trusted:
        verdict = outcome.trusted.verdict
        console.print(f"Gate       {'passed' if verdict.passed else 'blocked'}: {len(verdict.checks)} checks")
        for failure in verdict.failures:
            console.print(f"           {failure}")
        console.print(f"Report     {outcome.trusted.report}")
    if outcome.version:
        console.print(f"Version    models:/{spec.name}/{outcome.version}  (@{outcome.alias})")
    console.print(f"Run        {outcome.run} in experiment {spec.name!r}")
    console.print(f"MLflow UI  mlflow ui --backend-store-uri {shlex.quote(settings.tracking_uri)}")
    if outcome.version:
        console.print(
            f"Next       raymlops predict {shlex.quote(f'models:/{spec.name}/{outcome.version}')} "
            f"{shlex.quote(str(path))} --output scores/"
        )
