"""`raymlops keys`: API keys of an endpoint, in a file that holds hashes only."""

import pathlib
import time

import click

_FILE = click.argument("file", type=click.Path(path_type=pathlib.Path))


@click.group()
def keys() -> None:
    """API keys of an endpoint: add, list, rotate and revoke in a file that holds hashes only.

    Replicas read a change within two seconds, without a restart.
    """


@keys.command()
@_FILE
@click.argument("name")
@click.option(
    "--role",
    "roles",
    multiple=True,
    default=("infer", "view"),
    show_default=True,
    help="infer, label, metrics, view, or admin, which allows everything; may be given several times.",
)
@click.option("--model", "models", multiple=True, help="Only for this model; may be given several times.")
@click.option(
    "--expires", default="", metavar="INSTANT", help="Time at which it expires, such as 2027-01-31T00:00:00Z."
)
def add(file: pathlib.Path, name: str, roles: tuple[str, ...], models: tuple[str, ...], expires: str) -> None:
    """Make a key called NAME and print it, only this once. Keys of that name are replaced."""
    from raymlops.serving.transport import key_files

    click.echo(key_files.add_key(file, name, roles, models, expires))


@keys.command("list")
@_FILE
def list_keys(file: pathlib.Path) -> None:
    """List name, roles, id, models and expiry of the keys in FILE."""
    from raymlops.serving.transport.api_keys import read_keys

    for key in read_keys(file):
        ended = " (has ended)" if key.ends <= time.time() else ""
        click.echo(
            f"{key.name}\t{','.join(key.roles)}\t{key.id}\t{','.join(key.models) or 'all models'}\t"
            f"{key.expires or 'no end'}{ended}"
        )


@keys.command()
@_FILE
@click.argument("name")
@click.option(
    "--overlap",
    default=24.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Hours for which the older keys of this name stay valid.",
)
def rotate(file: pathlib.Path, name: str, overlap: float) -> None:
    """Make a second key called NAME, with the roles and models of the first, and print it, only this once."""
    from raymlops.serving.transport import key_files

    click.echo(key_files.rotate_key(file, name, overlap * 3600))


@keys.command()
@_FILE
@click.argument("name", metavar="NAME|ID")
def revoke(file: pathlib.Path, name: str) -> None:
    """Revoke the keys called NAME, or the one with this ID."""
    from raymlops.serving.transport import key_files

    for key in key_files.revoke_key(file, name):
        click.echo(f"Revoked {key.name} {key.id}")
