"""Serving: `serve` on this machine, `deploy` to a cluster and back. `keys` has its own module."""

import functools
import pathlib
import shlex
from typing import Any

import click

OVERRIDES = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
_OPEN = click.option(
    "--open",
    "opened",
    is_flag=True,
    help="Allow a host beyond loopback without API keys: anyone who reaches it can send requests.",
)


@click.command()
@click.argument("file", type=click.Path(path_type=pathlib.Path))
@OVERRIDES
@click.option("--plain", is_flag=True, help="Use Ray Serve's default settings, not the faster ones.")
@_OPEN
@click.option(
    "--check", "once", is_flag=True, help="Send each model one request over HTTP, print the answer, and stop."
)
@click.option(
    "--key", default="", envvar="RAYMLOPS_KEY", show_envvar=True, help="API key for the requests of --check."
)
def serve(
    file: pathlib.Path, overrides: tuple[str, ...], plain: bool, opened: bool, once: bool, key: str
) -> None:
    """Serve the models of FILE on this machine until interrupted.

    FILE is a serving spec such as serve_configs/flights.yaml, an ONNX file, a folder with one, or a version
    such as models:/flights@champion; KEY=VALUE changes a value of the spec, as in port=9000.
    """
    from raymlops.serving.deploy import config_files, launch
    from raymlops.settings import Settings

    spec = config_files.read_spec(file, [*overrides, *(["open=true"] if opened else [])])
    launch.run(spec, Settings.from_env(), plain=plain, once=once, key=key, report=click.echo)
    if once:
        click.echo(
            f"Every model has answered, and serving has ended. Next: raymlops serve {shlex.quote(str(file))}"
        )


@click.command()
@click.argument("file", type=click.Path(path_type=pathlib.Path))
@OVERRIDES
@click.option("--rollback", is_flag=True, help="Go back to the deployment before the newest one.")
@click.option(
    "--remove", is_flag=True, help="Remove the application; a restarted head does not serve it again."
)
@click.option("--plain", is_flag=True, help="Use Ray Serve's default settings if this command starts it.")
@_OPEN
@click.option(
    "--print", "only_print", is_flag=True, help="Print the config with pinned versions; deploy nothing."
)
@click.option("--timeout", default=300.0, show_default=True, help="Seconds to wait until it is healthy.")
@click.option("--trust", is_flag=True, help="Roll back to what no trusted key signed; what it runs is shown.")
def deploy(
    file: pathlib.Path,
    overrides: tuple[str, ...],
    rollback: bool,
    remove: bool,
    plain: bool,
    opened: bool,
    only_print: bool,
    timeout: float,
    trust: bool,
) -> None:
    """Deploy FILE on the cluster of RAY_ADDRESS with aliases pinned to versions, replacing replicas one by one."""
    from raymlops.serving.deploy import config_files, launch
    from raymlops.settings import Settings

    settings = Settings.from_env()
    spec = config_files.read_spec(file, [*overrides, *(["open=true"] if opened else [])])
    tell = functools.partial(click.echo, err=True)
    if remove:
        launch.remove(spec, settings, tell)
        click.echo(f"{spec.name} is no longer served")
    elif only_print:
        config = (
            launch.read_previous(spec, settings, trusted=trust)
            if rollback
            else launch.make_config(spec, settings)
        )
        click.echo(config_files.write_config(config))
    else:
        options: dict[str, Any] = {"plain": plain, "timeout_s": timeout, "report": click.echo, "tell": tell}
        if rollback:
            config = launch.roll_back(spec, settings, trusted=trust, **options)
        else:
            config = launch.deploy(spec, settings, **options)
        from raymlops.serving.deploy.rollout import describe

        for line in describe(config):
            click.echo(f"{line} is serving")
