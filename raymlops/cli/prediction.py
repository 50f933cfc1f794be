"""predict."""

import pathlib
from typing import TYPE_CHECKING

import click

from raymlops.cli.terminal import take_old_flags
from raymlops.settings import Settings

if TYPE_CHECKING:
    from raymlops.specs.dataset import DatasetSpec
    from raymlops.specs.graph import GraphSpec


@click.command(context_settings=take_old_flags({"batch-rows": "max-rows"}))
@click.argument("model")
@click.argument("data")
@click.option("--output", required=True, type=click.Path(), help="A new folder for the files.")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["parquet", "csv", "jsonl"]),
    default="parquet",
    show_default=True,
    help="File format; CSV cannot hold lists.",
)
@click.option(
    "--reader", help="A ray.data reader; default chosen by the file's suffix, or the reader of --spec."
)
@click.option(
    "--keep",
    multiple=True,
    metavar="COLUMN",
    help="Input columns to keep beside the predictions; default all.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Processes that predict; default as many as the cluster can run.",
)
@click.option(
    "--max-rows", type=click.IntRange(1), default=8192, show_default=True, help="Rows per session.run."
)
@click.option(
    "--max-failed",
    type=click.FloatRange(0, 1),
    default=0.05,
    show_default=True,
    help="Share of rows with values that do not convert above which it is an error; such rows are kept in "
    "OUTPUT/_left_out.",
)
@click.option(
    "--no-monitoring",
    is_flag=True,
    help="Do not count the rows; those of a version with a reference are counted as the application `predict`.",
)
@click.option("--quiet", is_flag=True, help="Print only the result and errors.")
def predict(
    model: str,
    data: str,
    output: str,
    file_format: str,
    reader: str | None,
    keep: tuple[str, ...],
    workers: int | None,
    max_rows: int,
    max_failed: float,
    no_monitoring: bool,
    quiet: bool,
) -> None:
    """Score DATA with MODEL and write the predictions to files.

    MODEL is models:/NAME@ALIAS, models:/NAME/3, an ONNX file, or a graph (.yaml). DATA is a file, a folder or a URL,
    or a spec (.yaml), whose dataset is then read with its joins and derived columns.

    \b
    raymlops predict models:/flights@champion jobs/specs/flights.yaml --output scores/
    raymlops predict model.onnx new.parquet --output scores/ --keep id --format csv
    raymlops predict examples/ocr/serving.yaml pages.parquet --output texts/ --keep page
    """
    from raymlops.lifecycle import preflight
    from raymlops.lifecycle.batch.counted_rows import find_watched, write_counts
    from raymlops.lifecycle.batch.predict import Scoring, predict_files, require_empty
    from raymlops.lifecycle.cluster import join_cluster
    from raymlops.runtime.sources import read_source

    settings = Settings.from_env()
    content = (
        read_one_graph(model, settings) if model.endswith((".yaml", ".yml")) else read_source(model, settings)
    )
    table = read_table(data, reader, "predict")
    preflight.require_files(table.tables)
    require_empty(output)
    watched = None if no_monitoring else find_watched(model, settings)
    join_cluster(settings)
    scoring = Scoring(
        keep=keep or None,
        workers=workers or (1, 1024),
        max_rows=max_rows,
        watched=watched[0] if watched else None,
    )

    def tell(line: str) -> None:
        if line and not quiet:
            click.echo(line, err=True)

    rows = predict_files(
        table,
        content,
        output,
        scoring,
        tell=tell,
        file_format=file_format,
        max_failed=max_failed,
        counted=(lambda ticks: tell(write_counts(ticks, watched[1], settings))) if watched else None,
    )
    wrote = (
        f"Wrote {rows:,} rows to {output}"
        if rows
        else f"Nothing is written to {output}: no row of {data} was scored"
    )
    click.echo(wrote if rows >= 0 else f"Wrote {output}")


def read_table(data: str, reader: str | None, verb: str) -> "DatasetSpec":
    """A file, a folder or a URL as a dataset; of a spec (.yaml), its dataset. Raises SpecError."""
    from raymlops.file_endings import guess_reader
    from raymlops.specs.dataset import DatasetSpec
    from raymlops.specs.document import validate_document

    if data.endswith((".yaml", ".yml")):
        from raymlops.cli.training import read_spec

        return read_spec(data, imports=False).dataset
    given = {"reader": reader or guess_reader(data) or "parquet", "path": data}
    return validate_document(given, DatasetSpec, source=verb)


def read_one_graph(file: str, settings: Settings) -> "GraphSpec":
    """The only graph of a file, with its aliases pinned to versions."""
    from raymlops.errors import SpecError
    from raymlops.runtime.sources import pin_graph
    from raymlops.serving.deploy.config_files import read_graphs

    graphs = read_graphs(pathlib.Path(file))
    if len(graphs) > 1:
        raise SpecError(f"{file} has {len(graphs)} graphs; give a file with one")
    return pin_graph(graphs[0], settings)
