"""`raymlops graph` checks a composition of models and draws it; `raymlops weights` changes its shares."""

import pathlib
import shutil
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from raymlops.runtime.open_graph import Opened


@click.command()
@click.argument("file", type=click.Path(path_type=pathlib.Path))
@click.option("--svg", type=click.Path(path_type=pathlib.Path), help="Also write a picture to this file.")
@click.option("--check", is_flag=True, help="Check only; draw nothing.")
@click.option(
    "--as",
    "form",
    type=click.Choice(["text", "mermaid"]),
    help="Output format; default text in a terminal, mermaid if written to a file or another program.",
)
def graph(file: pathlib.Path, svg: pathlib.Path | None, check: bool, form: str | None) -> None:
    """Check a graph FILE, measure its models, and print it: in a terminal as text, else as Mermaid.

    FILE is a graph, or a serving spec with `graphs`. Boxes show where each node would run and why; reasons why chains
    are not merged go to standard error.
    """
    from raymlops.runtime.open_graph import open_graph
    from raymlops.runtime.sources import make_locate
    from raymlops.serving.deploy.config_files import read_graphs
    from raymlops.settings import Settings

    graphs = read_graphs(file)
    if len(graphs) > 1 and svg is not None:
        raise click.UsageError(f"{file} has several graphs; a picture shows only one")
    for spec in graphs:
        form = form or ("text" if sys.stdout.isatty() else "mermaid")
        _draw(open_graph(spec, make_locate(Settings.from_env())), svg, check, form)


def _draw(opened: "Opened", svg: pathlib.Path | None, check: bool, form: str) -> None:
    from raymlops.graphs.drawing import to_mermaid
    from raymlops.graphs.svg import to_svg
    from raymlops.graphs.text_drawing import to_text

    for chain, reason in opened.unmerged.items():
        click.echo(f"{chain} is not merged: {reason}", err=True)
    if check:
        click.echo(f"{opened.plan.spec.name}: a valid graph of {len(opened.plan.steps)} nodes")
        return
    picture = opened.sketch()
    width = shutil.get_terminal_size().columns
    click.echo(to_text(picture, width) if form == "text" else to_mermaid(picture), nl=False)
    if svg is not None:
        svg.write_text(to_svg(picture), encoding="utf-8")
        click.echo(f"Wrote {svg}", err=True)


@click.command()
@click.argument("application")
@click.argument("graph")
@click.argument("split")
@click.argument("shares", nargs=-1, required=True, metavar="BRANCH=SHARE...")
def weights(application: str, graph: str, split: str, shares: tuple[str, ...]) -> None:
    """Change the shares of a SPLIT of GRAPH in APPLICATION on the cluster of RAY_ADDRESS, without a restart.

    A share is a weight relative to those of the other branches: with old=3 and new=1, new gets a quarter. Branches
    that are not named keep their weights. With a percentage, as in new=10%, the branches that are not named divide
    the other 90% in their present proportion.

    \b
    raymlops weights release flights-release canary challenger=10%
    raymlops weights release flights-release canary challenger=0
    raymlops weights release flights-release canary steady=1 challenger=1
    """
    from raymlops.serving.deploy import launch
    from raymlops.settings import Settings

    wanted = launch.read_shares(shares)
    changed = launch.change_weights(application, graph, split, wanted, Settings.from_env())
    total = sum(changed.values())
    told = ", ".join(f"{branch}={weight:g} ({weight / total:.1%})" for branch, weight in changed.items())
    click.echo(f"{graph} {split}: {told}")
