"""capture and labels."""

import dataclasses
import json
from typing import Any

import click

from raymlops.cli.terminal import echo
from raymlops.settings import Settings

_JSON = click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
_STORE = click.option(
    "--store", default="", help="Folder of captures; default captures below RAYMLOPS_STORAGE."
)
_SINCE = click.option("--since", default="", metavar="DAY", help="First day, such as 2026-01-31 (UTC).")
_UNTIL = click.option("--until", default="", metavar="DAY", help="Last day.")
_OF_VERSION = click.option(
    "--of", "version", default="", metavar="VERSION", help="Only answers of this version."
)


@click.group()
def capture() -> None:
    """Captured requests and answers: list, show, trace, delete, and ask another version.

    An endpoint captures where its spec says so, such as: capture: {share: 0.1, days: 30}
    """


@capture.command("list")
@click.argument("model", required=False, default="")
@_STORE
@_JSON
def list_captured(model: str, store: str, as_json: bool) -> None:
    """List what is captured by model, day and version."""
    from raymlops.lifecycle.captures import reading

    opened = reading.find_store(Settings.from_env(), store)
    found = reading.list_captured(opened, model)
    if as_json:
        echo(json.dumps([dataclasses.asdict(one) for one in found]))
        return
    for one in found:
        echo(
            f"{one.model}  {one.day}  version {one.version}  {one.rows:,} rows  {one.files} files  "
            f"{one.bytes / 2**20:.1f} MB"
        )
    if not found:
        echo(f"Nothing is captured in {opened.root}.")


@capture.command()
@click.argument("model")
@_SINCE
@_UNTIL
@_OF_VERSION
@click.option("--limit", type=click.IntRange(1, 100_000), default=10, show_default=True, help="Rows to show.")
@_STORE
def show(model: str, since: str, until: str, version: str, limit: int, store: str) -> None:
    """Show the latest captured rows of MODEL, a JSON object for each."""
    from raymlops.lifecycle.captures import reading

    opened = reading.find_store(Settings.from_env(), store)
    rows = reading.show_rows(opened, model, since=since, until=until, version=version, limit=limit)
    for row in rows.to_pylist():
        echo(_to_json(row))


@capture.command()
@click.argument("request_id")
@click.option("--model", default="", help="Look only at this model.")
@_SINCE
@_UNTIL
@_STORE
@_JSON
def trace(request_id: str, model: str, since: str, until: str, store: str, as_json: bool) -> None:
    """Show which version, made from which data and code, gave the answer to request REQUEST_ID.

    \b
    raymlops capture trace 4f1d2a6b8c9e0f31
    """
    from raymlops.lifecycle.captures import reading

    settings = Settings.from_env()
    opened = reading.find_store(settings, store)
    found = reading.trace_request(opened, request_id, settings, model=model, since=since, until=until)
    if as_json:
        echo(_to_json([dataclasses.asdict(one) for one in found]))
        return
    for one in found:
        echo(
            f"{one.model} version {one.version} answered at {one.time}; it serves {one.source or 'unknown files'}"
        )
        for row in one.rows:
            echo(f"  row {row['row']}  {_to_json(_content_of(row))}")
        for source, facts in one.lineage.items():
            lines = [f"  {name:<18} {value}" for name, value in facts.items() if value]
            echo("\n".join([source, *lines]))


@capture.command()
@click.option("--person", required=True, help="Value of the column that identifies a person.")
@click.option("--why", default="on request", show_default=True, help="Reason; recorded.")
@click.option("--model", default="", help="Only of this model.")
@click.option("--column", default="", help="The column, where the serving spec names none: inputs.NAME.")
@_STORE
@_JSON
def delete(person: str, why: str, model: str, column: str, store: str, as_json: bool) -> None:
    """Delete the captured rows of a person and their labels, on the record. Files that hold them are rewritten."""
    from raymlops.lifecycle.captures.deletion import delete_person
    from raymlops.lifecycle.captures.reading import find_store

    settings = Settings.from_env()
    opened = find_store(settings, store)
    done = delete_person(opened, person, why, settings, model=model, column=column)
    if as_json:
        echo(json.dumps([dataclasses.asdict(one) for one in done]))
        return
    for one in done:
        echo(
            f"{one.model}: deleted {one.rows:,} rows and {one.labels:,} labels by {one.column or 'no column'}, "
            f"{one.files} files rewritten"
        )
        for note in one.notes:
            echo(f"  Note: {note}")
    wait = max((one.wait_s for one in done), default=0)
    echo(
        f"Requests of the last {wait:g} s may not be written yet; if there were any of this person, run it again then."
    )


@capture.command()
@click.argument("model")
@click.option(
    "--version",
    "other",
    required=True,
    help="models:/NAME/3, models:/NAME@ALIAS, an ONNX file, or a graph (.yaml).",
)
@_SINCE
@_UNTIL
@_OF_VERSION
@click.option("--output", default="", help="A new folder for both answers of each row, as Parquet.")
@_STORE
@_JSON
def replay(
    model: str, other: str, since: str, until: str, version: str, output: str, store: str, as_json: bool
) -> None:
    """Score the captured requests of MODEL by another version, and compare the answers.

    \b
    raymlops capture replay flights --version models:/flights@challenger --since 2026-01-01
    """
    from raymlops.cli.prediction import read_one_graph
    from raymlops.data.captured import Wanted
    from raymlops.lifecycle.captures import reading
    from raymlops.lifecycle.captures.replay import replay as run
    from raymlops.lifecycle.cluster import join_cluster
    from raymlops.runtime.sources import read_source

    settings = Settings.from_env()
    is_graph = other.endswith((".yaml", ".yml"))
    content = read_one_graph(other, settings) if is_graph else read_source(other, settings)
    opened = reading.find_store(settings, store)
    opened.require_model(model)
    join_cluster(settings)
    found = run(opened, model, content, Wanted(since, until, version), output=output)
    if as_json:
        echo(json.dumps(dataclasses.asdict(found)))
        return
    echo(f"{found.rows:,} captured rows of {model}, scored by {other}")
    for one in found.outputs:
        share = one.changed / one.rows if one.rows else 0
        told = "" if one.mean is None else f"; mean difference {one.mean:.3g}, largest {one.largest:.3g}"
        echo(f"  {one.output}: {one.changed:,} of {one.rows:,} rows differ ({share:.1%}){told}")
    for names, where in ((found.only_captured, "the captured answers"), (found.only_new, other)):
        if names:
            echo(f"  Only in {where}: {', '.join(names)}")


@click.command()
@click.argument("model")
@click.argument("file")
@click.option("--id", "ids", default="", metavar="COLUMN", help="Ids of requests; default request_id or id.")
@click.option(
    "--key", default="", metavar="COLUMNS", help="Instead: columns A,B whose values name a captured row."
)
@click.option("--label", default="label", show_default=True, metavar="COLUMN", help="The label.")
@click.option(
    "--time", default="", metavar="COLUMN", help="When the label became known; default time, if it exists."
)
@click.option(
    "--row", default="", metavar="COLUMN", help="Row of the request, from 0; default row, if it exists."
)
@click.option("--reader", default="", help="A ray.data reader; default chosen by the file's suffix.")
@_STORE
@_JSON
def labels(
    model: str,
    file: str,
    ids: str,
    key: str,
    label: str,
    time: str,
    row: str,
    reader: str,
    store: str,
    as_json: bool,
) -> None:
    """Store the labels in FILE for captured requests of MODEL. The same file twice changes nothing; of several labels
    of a row the last one counts. Where MODEL is monitored, its answers are judged by them: an alarm is told.

    \b
    raymlops labels flights labels.parquet
    raymlops labels flights late.csv --key flight,date --label late --time landed
    """
    from raymlops.captures.labels import LabelColumns
    from raymlops.lifecycle.captures import labelling, reading
    from raymlops.lifecycle.cluster import join_cluster
    from raymlops.lifecycle.monitoring.labelled_judge import judge_endpoint

    settings = Settings.from_env()
    opened = reading.find_store(settings, store)
    opened.require_model(model)
    join_cluster(settings)
    keys = tuple(name.strip() for name in key.split(",") if name.strip())
    found = labelling.label_file(opened, model, file, LabelColumns(label, ids, keys, time, row), reader)
    judged = judge_endpoint(opened, model, settings)
    if as_json:
        told = {"labels": found.stored.labels, "missing": found.stored.missing, "new": found.stored.is_new}
        alarms = [one.id for one in judged.alarms]
        echo(json.dumps({**told, "unknown": found.unknown, "column": found.columns.label, "alarms": alarms}))
        return
    for line in found.describe(model):
        echo(line)
    for alarm in judged.alarms:
        echo(f"Alarm {alarm.id}: {alarm.alarm.sentence}")
    for problem in judged.problems:
        echo(problem)


def _content_of(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if "." in name and value is not None}


def _to_json(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)
