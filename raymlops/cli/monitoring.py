"""reference, drift."""

import json
import pathlib

import click

from raymlops.cli.terminal import echo
from raymlops.settings import Settings

_READER = click.option("--reader", help="A ray.data reader; default chosen by the file's suffix.")


@click.command()
@click.argument("version")
@click.argument("data")
@_READER
@click.option(
    "--time", metavar="COLUMN", help="A column with the time of each row, by which days are told apart."
)
@click.option(
    "--label",
    metavar="COLUMN",
    default="",
    help="The column that says what was right; default the one that the model was trained on.",
)
@click.option(
    "--answer",
    metavar="OUTPUT",
    default="",
    help="The output that labels are compared with, if there are several.",
)
@click.option("--why", default="", help="Reason; recorded.")
def reference(
    version: str, data: str, reader: str | None, time: str | None, label: str, answer: str, why: str
) -> None:
    """Keep with VERSION what its columns and answers are on DATA: rows that did not train it.

    DATA is a file, a folder, a URL, or a spec (.yaml), whose dataset is then read.

    \b
    raymlops reference models:/flights/3 validation.parquet
    raymlops reference models:/flights@champion october.csv --time time_hour
    """
    from raymlops.cli.prediction import read_table
    from raymlops.lifecycle.batch.watched_rows import LabelColumn
    from raymlops.lifecycle.govern.drift import describe_labels, make_reference

    table = read_table(data, reader, "reference")
    given = LabelColumn(label, answer)
    found, made = make_reference(
        version, table, Settings.from_env(), time=time, label=given, why=why, tell=_warn
    )
    echo(f"Reference of {found.uri}: {len(made.columns)} columns of {made.rows:,} rows")
    echo(describe_labels(made))
    for name, reason in made.left_out.items():
        echo(f"Not watched: {name}: {reason}")


@click.command()
@click.argument("version", required=False)
@click.argument("data", required=False)
@click.option("--against", metavar="DATA", help="Other data instead of the version's reference.")
@click.option(
    "--by", metavar="COLUMN", help="A column with the time of each row: a verdict for each day or hour."
)
@click.option("--every", type=click.Choice(["hour", "day"]), default="day", show_default=True)
@click.option(
    "--level",
    type=click.FloatRange(1e-6, 0.5),
    default=0.01,
    show_default=True,
    help="The share of verdicts on data without a change that may find one.",
)
@_READER
@click.option("--html", type=click.Path(dir_okay=False), help="Write a page to this file.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def drift(
    version: str | None,
    data: str | None,
    against: str | None,
    by: str | None,
    every: str,
    level: float,
    reader: str | None,
    html: str | None,
    as_json: bool,
) -> None:
    """Compare DATA with what VERSION was evaluated on: exit 1 if a column or an answer differs beyond chance.

    VERSION is models:/NAME@ALIAS, models:/NAME/3, or an ONNX file, which needs --against. Each row passes through the
    model, so that its answers are compared, too: of answers to rows without labels the quality is estimated, with
    labels it is measured. Without VERSION the columns of two tables are compared, before anything is trained.

    \b
    raymlops drift models:/flights@champion november.parquet
    raymlops drift models:/flights@champion november.parquet --by time_hour --html november.html
    raymlops drift model.onnx november.parquet --against october.parquet
    raymlops drift november.parquet --against october.parquet
    """
    from raymlops.cli.prediction import read_table
    from raymlops.lifecycle.batch.watched_rows import Period
    from raymlops.lifecycle.govern.drift import find_drift

    if data is None and version is not None and not version.startswith("models:/"):
        version, data = None, version  # of one argument, the data
    if data is None:
        raise click.UsageError("Missing argument 'DATA'.")
    period = Period(by, every) if by else None
    found = find_drift(
        version,
        read_table(data, reader, "drift"),
        Settings.from_env(),
        against=read_table(against, reader, "drift --against") if against else None,
        level=level,
        period=period,
        tell=(lambda line: None) if as_json else _warn,
    )
    if html:
        from raymlops.lifecycle.govern.drift_page import write_drift_page

        pathlib.Path(html).write_text(
            write_drift_page(found, version or str(against), data, period), encoding="utf-8"
        )
    if as_json:
        echo(json.dumps(found.to_json()))
    else:
        for line in found.describe(every if by else None):
            echo(line)
        if html:
            echo(f"Page    {html}")
    if found.differs:
        raise SystemExit(1)


def _warn(line: str) -> None:
    echo(line, err=True)
