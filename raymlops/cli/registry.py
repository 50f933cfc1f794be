"""register and promote."""

import pathlib
import shlex

import click

from raymlops.settings import Settings


@click.command()
@click.argument("file", type=click.Path())
@click.option("--name", required=True, help="Name of the registered model.")
@click.option("--why", required=True, help="Reason for registering it; recorded with the version.")
def register(file: str, name: str, why: str) -> None:
    """Register an ONNX FILE of any origin as a model version.

    \b
    raymlops register model.onnx --name fraud --why "from the research team"
    """
    from raymlops.lifecycle.govern.register import register_file

    version, digest = register_file(pathlib.Path(file), name, why, Settings.from_env())
    click.echo(f"Registered models:/{name}/{version} (sha256 {digest[:12]})")
    click.echo(
        f"Next: raymlops gate {shlex.quote(f'models:/{name}/{version}')} --spec SPEC, "
        f"or raymlops promote {shlex.quote(name)} {version} --force"
    )


@click.command()
@click.argument("name")
@click.argument("version")
@click.option("--alias", default="champion", show_default=True, help="The alias to move.")
@click.option("--why", required=True, help="Reason for moving it; recorded.")
@click.option("--force", is_flag=True, help="Even if it did not pass the gate; the record says so.")
def promote(name: str, version: str, alias: str, why: str, force: bool) -> None:
    """Point an alias of model NAME at VERSION. Only a version that passed the gate becomes champion, unless --force
    is given.

    \b
    raymlops promote flights 3 --why "gate passed, agreed with operations"
    """
    from raymlops.lifecycle.govern.register import promote_version

    before = promote_version(name, version, alias, why, Settings.from_env(), force=force)
    moved = f"from version {before} " if before and before != version else ""
    click.echo(f"models:/{name}@{alias} moved {moved}to version {version}")
