"""init: a spec from a table."""

import pathlib
import shlex
from typing import Any

import click

from raymlops.cli.terminal import echo
from raymlops.errors import SpecError
from raymlops.settings import Settings


@click.command()
@click.argument("data")
@click.option("--target", required=True, metavar="COLUMN", help="The column to predict.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False),
    help="Write the spec to this file, and a page beside it; default NAME.yaml; - for the screen.",
)
@click.option("--overwrite", is_flag=True, help="Replace an output that exists.")
@click.option("--name", help="Name of the model; default that of the data.")
@click.option(
    "--task",
    type=click.Choice(("binary", "multiclass", "regression")),
    help="Default by the values of the target.",
)
@click.option(
    "--reader", help="Default by the ending and the first bytes of the files: csv, parquet, json ..."
)
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the reader: --option 'parse_options={delimiter: \"|\"}'",
)
def init(
    data: str, target: str, output: str | None, overwrite: bool, options: tuple[str, ...], **asked: Any
) -> None:
    """Look at the table DATA, and write a spec that predicts COLUMN: its reader, a contract, a split, and features.

    Beside the spec, FILE.profile.html shows the table: distributions, missing values, relations to the target.

    DATA is a file, a folder, a pattern such as 'data/*.csv', or a URL. What the command is not sure of is marked
    `# unsure:` in the spec, and listed.

    \b
    raymlops init flights.parquet --target late
    raymlops init 'data/*.csv.gz' --target price --output jobs/specs/houses.yaml
    raymlops submit init s3://bucket/table --target y --output -
    """
    from raymlops.lifecycle.init import proposal

    name = asked["name"] or proposal.to_name(data)
    path = None if output == "-" else pathlib.Path(output or f"{name}.yaml")
    if path is not None and path.exists() and not overwrite:  # before minutes are spent
        raise SpecError(
            f"{str(path)!r} exists, and may have been edited; give another --output, or --overwrite"
        )
    if path is not None and path.exists() and pathlib.Path(data).exists() and path.samefile(data):
        raise SpecError(
            f"--output {str(path)!r} is DATA itself, which it would replace; give another --output"
        )
    page = None if path is None else path.with_suffix(".profile.html")
    if page is not None:
        asked["page"] = page.name
    found = proposal.propose(
        data, target, Settings.from_env(), options=_to_options(options), tell=_tell, **{**asked, "name": name}
    )
    if path is None or page is None:
        echo(found.text)
        return
    proposal.write_new(path, found.text, overwrite=overwrite)
    proposal.write_new(page, found.page, overwrite=True)  # made from the table alone
    _summarise(found, path, page)


def _to_options(texts: tuple[str, ...]) -> dict[str, Any]:
    from raymlops.specs.document import apply_override

    found: dict[str, Any] = {}
    for text in texts:
        if "=" not in text:
            raise SpecError(f"--option {text!r} is not of the form KEY=VALUE")
        apply_override(found, text)
    return found


def _tell(line: str) -> None:
    echo(line, err=True)


def _summarise(found: Any, path: pathlib.Path, page: pathlib.Path) -> None:
    table, target = found.profile, found.target
    used = len(found.spec.features.by_column())
    echo(
        f"{table.rows:,} rows, {len(table.columns):,} columns; {used:,} features -> {target.column}, {target.task}"
    )
    how = f"by {found.split.by}" + (f" of {found.split.column}" if found.split.column else "")
    echo(f"Split      {how}: {found.split.why}")
    for remark in found.unsure[:20]:
        echo(f"Unsure     {remark}")
    if len(found.unsure) > 20:
        echo(f"           and {len(found.unsure) - 20} more, in the spec")
    echo(f"Spec       {path}")
    echo(f"Profile    {page}")
    echo(f"Next       raymlops search {shlex.quote(str(path))}")
