"""`raymlops tracking-server`: MLflow for a team, on a database, with users and passwords."""

import importlib.util
import os
import pathlib
import shlex
import sys

import click

from raymlops.settings import Settings, read_environment


@click.command()
@click.option(
    "--database", required=True, help="postgresql://mlflow@db.internal/mlflow; its password is in ~/.pgpass."
)
@click.option("--artifacts", required=True, help="Folder or URI of the files, such as s3://bucket/mlflow.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=5000, show_default=True)
@click.option("--workers", default=4, show_default=True, help="Worker processes.")
@click.option(
    "--allowed-hosts",
    default="",
    help="Host names by which clients may call it, such as mlflow.internal:5000.",
)
def tracking_server(
    database: str, artifacts: str, host: str, port: int, workers: int, allowed_hosts: str
) -> None:
    """Run a tracking server for a team until interrupted.

    Its first user is made on the first start; name and password are in a file that MLflow's clients read as
    ~/.mlflow/credentials. Create its database once:

    \b
    sudo -u postgres createuser --pwprompt mlflow && sudo -u postgres createdb --owner mlflow mlflow
    echo db.internal:5432:mlflow:mlflow:PASSWORD >> ~/.pgpass && chmod 600 ~/.pgpass
    raymlops tracking-server --database postgresql://mlflow@db.internal/mlflow --artifacts s3://bucket/mlflow
    """
    from raymlops.errors import SpecError
    from raymlops.tracking import server

    bucket = artifacts.startswith("s3://")
    wanted = ("flask_wtf", "psycopg", *(("boto3",) if bucket else ()))
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        extras = "server,s3" if bucket else "server"
        raise SpecError(
            f"Not installed: {', '.join(missing)}; run: pip install {shlex.quote(f'raymlops[{extras}]')}"
        )
    plan = server.plan_server(
        Settings.from_env().home / "tracking-server", database=database, artifacts=artifacts, host=host, port=port,
        workers=workers, allowed_hosts=allowed_hosts,
    )  # fmt: skip
    where = pathlib.Path("~/.mlflow/credentials")
    click.echo(f"Server  http://{host}:{port}\nUser    in {plan.credentials}; clients read it at {where}")
    sys.stdout.flush()
    os.execve(plan.command[0], plan.command, {**read_environment(), **plan.environment})  # noqa: S606
