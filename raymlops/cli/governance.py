"""evaluate, gate, history, rollback, lineage, diff and reproduce."""

import json
from typing import Any

import click

from raymlops.cli.terminal import echo
from raymlops.settings import Settings

_JSON = click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
_SPEC = click.option(
    "--spec", "spec_file", type=click.Path(), help="Spec to use instead of the version's own."
)
_TRUST = click.option(
    "--trust",
    is_flag=True,
    help="Run what the version's record names (readers, networks, packages), and show it.",
)
_DATA = click.option("--data", help="Other rows: a path that is read like the spec's dataset.")


@click.command()
@click.argument("version")
@_DATA
@_SPEC
@_TRUST
@_JSON
def evaluate(version: str, data: str | None, spec_file: str | None, trust: bool, as_json: bool) -> None:
    """Evaluate VERSION on the test split of its spec, or on other data, and write its report.

    \b
    raymlops evaluate models:/flights/3
    raymlops evaluate models:/flights@champion --data december.parquet
    """
    trusted = _measure(version, data, spec_file, trust, as_json, store=data is None)
    if as_json:
        importance = trusted.importance.to_json() if trusted.importance else None
        held = {**trusted.evaluation.to_json(), "own_rows": dict(trusted.own_rows), "importance": importance}
        echo(json.dumps(held))
        return
    _show_evaluation(trusted.evaluation)
    if trusted.importance is not None:
        _show_importance(trusted.importance)
    echo(f"Report  {trusted.report}")


@click.command()
@click.argument("version")
@_DATA
@_SPEC
@_TRUST
@_JSON
def gate(version: str, data: str | None, spec_file: str | None, trust: bool, as_json: bool) -> None:
    """Judge whether VERSION may become champion: exit 1 when a check blocks it. Moves no alias.

    \b
    raymlops gate models:/flights@challenger && raymlops promote flights 4 --why "gate passed"
    """
    trusted = _measure(version, data, spec_file, trust, as_json, store=data is None)
    if as_json:
        echo(json.dumps(trusted.verdict.to_json()))
    else:
        echo(str(trusted.verdict))
        echo(f"Report  {trusted.report}")
    if not trusted.verdict.passed:
        raise SystemExit(1)  # click would turn its own Exit into 0 here


def _measure(
    version: str, data: str | None, spec_file: str | None, trust: bool, quiet: bool, *, store: bool
) -> Any:
    from raymlops.lifecycle.train import launch
    from raymlops.specs.document import read_document
    from raymlops.specs.experiment import ExperimentSpec

    return launch.evaluate(
        version,
        Settings.from_env(),
        data=data,
        spec=read_document(spec_file, ExperimentSpec) if spec_file else None,
        trusted=trust,
        store=store,
        tell=(lambda line: None) if quiet else _warn,
        warn=_warn,
    )


def _warn(line: str) -> None:
    echo(line, err=True)


def _show_evaluation(evaluation: Any) -> None:
    from raymlops.evaluation.contents import name_metric

    echo(f"{evaluation.rows:,} rows, {evaluation.nonfinite:,} without a finite answer")
    for name, interval in evaluation.metrics.items():
        echo(f"  {name_metric(name):<20} {interval}")
    if evaluation.threshold is not None:
        chosen = evaluation.threshold
        echo(f"  {'threshold':<20} {chosen.value:.3g}, cost a row {chosen.cost}")
    for part in evaluation.slices:
        first = next(iter(part.metrics))
        echo(
            f"  {part.column}={part.value}: {name_metric(first)} {part.metrics[first]} on {part.rows:,} rows"
        )


def _show_importance(found: Any) -> None:
    echo(f"Increase of the {found.loss} of {found.rows:,} rows when one column is permuted:")
    for one in found.columns[:5]:
        echo(f"  {one.column:<20} {one.value:.4g} [{one.low:.4g}, {one.high:.4g}]")


@click.command()
@click.argument("model", required=False)
@click.option(
    "--sign",
    is_flag=True,
    help=(
        "Sign versions that were made before versions were signed, or signed by keys that are not trusted."
    ),
)
@click.option("--version", help="With --sign: only this version.")
@click.option(
    "--repair", is_flag=True, help="Finish what a stopped writer left, or restart a damaged record."
)
@click.option("--why", help="With --sign or --repair: the reason, which is recorded.")
@click.option("--key", is_flag=True, help="Print your own public key, for RAYMLOPS_TRUSTED_KEYS of others.")
@_JSON
def history(
    model: str | None,
    sign: bool,
    version: str | None,
    repair: bool,
    why: str | None,
    key: bool,
    as_json: bool,
) -> None:
    """List who moved which alias of MODEL, when and why; exit 1 if the record or a version was tampered with.

    \b
    raymlops history flights
    raymlops history flights --sign --why "made before versions were signed; looked at by ann"
    raymlops history flights --repair --why "the writer's machine was lost"
    """
    from raymlops.lifecycle.govern import promotion

    settings = Settings.from_env()
    if key:
        from raymlops.attestation import load_signing_key

        echo(load_signing_key(settings).line)
        return
    if model is None:
        raise click.UsageError("Give the name of a registered model.")
    if (sign or repair) and (not why or (sign and repair)):
        raise click.UsageError("Give --why with one of --sign and --repair.")
    if version and not sign:
        raise click.UsageError("--version goes with --sign.")
    if repair and why:
        for line in promotion.repair_record(model, why, settings) or ["Nothing was broken."]:
            echo(f"REPAIRED  {line}", err=True)
    if sign and why:
        signed = promotion.sign_versions(model, why, settings, version or "")
        echo(f"Signed: {', '.join(f'version {one}' for one in signed) or 'nothing was unsigned'}", err=True)
    _show_record(promotion.read_record(model, settings), as_json)


def _show_record(record: Any, as_json: bool) -> None:
    import dataclasses

    if as_json:
        entries = [{**dataclasses.asdict(entry), "sha256": entry.digest} for entry in record.entries]
        echo(json.dumps({"entries": entries, "problems": record.problems, "notes": record.notes}))
    else:
        for entry in record.entries:
            echo(str(entry))
        lines = [f"NOTE  {note}" for note in record.notes]
        lines += [f"PROBLEM  {problem}" for problem in record.problems] or ["The record is valid."]
        echo("\n".join(lines))
    if record.problems:
        raise SystemExit(1)  # click would turn its own Exit into 0 here


@click.command()
@click.argument("model")
@click.option("--alias", default="champion", show_default=True, help="The alias to roll back.")
@click.option("--why", required=True, help="Why; recorded.")
def rollback(model: str, alias: str, why: str) -> None:
    """Move an alias of MODEL back to the version that it named before."""
    from raymlops.lifecycle.govern.promotion import roll_back

    entry = roll_back(model, why, Settings.from_env(), alias)
    echo(f"models:/{model}@{alias} moved back from version {entry.before} to version {entry.version}")


@click.command()
@click.argument("version", required=False)
@click.option("--data", default="", help="Instead: list versions made from the data with this fingerprint.")
@click.option("--commit", default="", help="Instead: list versions made by the code of this commit.")
@_JSON
def lineage(version: str | None, data: str, commit: str, as_json: bool) -> None:
    """Show what VERSION was made from, or which versions were made from some data or code.

    \b
    raymlops lineage models:/flights/3
    raymlops lineage --data 9f0a1b2c
    """

    from raymlops.lifecycle.govern.lineage import find_versions, trace_version

    settings = Settings.from_env()
    if (version is None) == (not data and not commit):
        raise click.UsageError("Give a version, or --data or --commit.")
    if version is not None:
        facts = trace_version(version, settings)
        lines = [f"{name:<18} {value}" for name, value in facts.items() if value]
        echo(json.dumps(facts) if as_json else "\n".join(lines))
        return
    found = find_versions(settings, data=data, commit=commit)
    if as_json:
        echo(json.dumps(dict(found)))
        return
    for uri, tags in found:
        echo(f"{uri}  {tags.get('raymlops.when', '')}  {tags.get('raymlops.why', '')}")
    if not found:
        echo("No version was made from it.")


@click.command()
@click.argument("first")
@click.argument("second")
@_JSON
def diff(first: str, second: str, as_json: bool) -> None:
    """Show the differences between two versions: spec, parameters, data, code, metrics."""
    import dataclasses

    from raymlops.lifecycle.govern.lineage import compare_versions

    changes = compare_versions(first, second, Settings.from_env())
    if as_json:
        echo(json.dumps([dataclasses.asdict(change) for change in changes]))
        return
    for change in changes:
        echo(f"{change.part}: {change.name}: {change.first or '(none)'} -> {change.second or '(none)'}")
    if not changes:
        echo("Nothing differs.")


@click.command()
@click.argument("version")
@click.option(
    "--environment",
    type=click.Choice(["current", "rebuild"]),
    default="current",
    show_default=True,
    help="Train with the packages and code that are installed here, or with those of the record.",
)
@_TRUST
def reproduce(version: str, environment: str, trust: bool) -> None:
    """Train VERSION again from its record, and compare metrics and ONNX bytes; exit 1 if they differ."""
    from raymlops.lifecycle.govern.reproduce import reproduce_rebuilt, reproduce_version

    if environment == "rebuild":
        raise SystemExit(reproduce_rebuilt(version, Settings.from_env(), echo, trusted=trust))
    found = reproduce_version(version, Settings.from_env(), echo, trusted=trust)
    for line in found.packages[:20]:
        echo(f"  {line}")
    if found.commit[0] != found.commit[1]:
        echo(f"Code: recorded {found.commit[0][:12]}, here {found.commit[1][:12]}")
    for name, (then, now) in found.metrics.items():
        echo(f"  {name:<20} {then:.10g} then, {now:.10g} now")
    echo(f"ONNX bytes: {'equal' if found.same_bytes else 'not equal'}")
    echo(f"Largest difference of a metric: {found.largest:.2e}")
    if not found.exact:
        echo(
            "Equal bytes were not to be expected: several workers, a GPU, other packages, or other code "
            "(`--environment rebuild` uses those of the record)."
        )
    echo(f"{found.uri} is {'' if found.agrees else 'NOT '}reproduced")
    if not found.agrees:
        raise SystemExit(1)  # click would turn its own Exit into 0 here
