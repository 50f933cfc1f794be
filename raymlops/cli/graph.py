"""`raymlops graph`: checks a composition of models and draws it."""

import pathlib

import click


@click.command()
@click.argument("file", type=click.Path(path_type=pathlib.Path))
@click.option("--svg", type=click.Path(path_type=pathlib.Path), help="Write a picture here as well.")
@click.option("--check", is_flag=True, help="Check only, and draw nothing.")
def graph(file: pathlib.Path, svg: pathlib.Path | None, check: bool) -> None:
    """Check a graph FILE whole, measure its models, and print it as Mermaid text.

    FILE is a graph, or a serving spec that has one under `graph`. Boxes tell where each node would run and
    why; why chains stay unmerged goes to standard error.
    """
    from raymlops.graphs.drawing import sketch, to_mermaid
    from raymlops.graphs.svg import to_svg
    from raymlops.serving.opening import open_graph
    from raymlops.specs.graph import read_graph

    opened = open_graph(read_graph(file))
    for chain, reason in opened.unmerged.items():
        click.echo(f"{chain} stays unmerged: {reason}", err=True)
    if check:
        click.echo(f"{file}: a valid graph of {len(opened.plan.steps)} nodes")
        return
    times = {path: leaf.measured.milliseconds for path, leaf in opened.leaves.items() if leaf.measured}
    chains = [[chain.prefix + name for name in chain.names] for chain in opened.chains]
    picture = sketch(opened.plan, opened.decisions, times, chains)
    click.echo(to_mermaid(picture), nl=False)
    if svg is not None:
        svg.write_text(to_svg(picture), encoding="utf-8")
        click.echo(f"Wrote {svg}", err=True)
