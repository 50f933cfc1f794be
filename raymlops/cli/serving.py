"""Serving: `serve` on this machine, `deploy` to a cluster and back. `keys` has its own module."""

import functools
import pathlib
import secrets
import shlex

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
    from raymlops.serving.deploy import config_files, conflicts
    from raymlops.serving.fastpath import ray_serve_env
    from raymlops.serving.haproxy import wrapper
    from raymlops.settings import Settings, export

    settings = Settings.from_env()
    spec = config_files.read_spec(file, [*overrides, *(["open=true"] if opened else [])])
    export(
        ray_serve_env.choose_environment(
            plain,
            affine=spec.many is not None,
            buffer_kb=spec.limits.proxy_buffer_kb,
            home=settings.home,
        )
    )  # before Ray is imported, which reads it only once
    if settings.ray_address is None:
        export(conflicts.choose_inner_ports())
    # Replicas take a client's address only from a proxy that shows this secret.
    export({wrapper.TOKEN_VARIABLE: secrets.token_urlsafe(32)})
    from raymlops.serving.deploy import local_serve

    local_serve.run(spec, settings, once=once, key=key, report=click.echo)
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
    from raymlops.serving.deploy import config_files
    from raymlops.serving.fastpath import ray_serve_env
    from raymlops.settings import Settings, choose_authentication, export

    settings = Settings.from_env()
    spec = config_files.read_spec(file, [*overrides, *(["open=true"] if opened else [])])
    chosen = ray_serve_env.choose_environment(plain, affine=spec.many is not None, home=settings.home)
    export(chosen | choose_authentication())
    tell = functools.partial(click.echo, err=True)
    if remove:
        from raymlops.serving.deploy import restore

        restore.remove(settings, spec.name, spec.drain_s, tell)
        click.echo(f"{spec.name} is no longer served")
        return
    from raymlops.runtime import sources
    from raymlops.serving.deploy import history, spec_trial
    from raymlops.serving.proxy import exposure

    past = history.History(settings, spec.name, trusted=trust)
    config = None
    if not rollback:
        exposure.require_keys(spec)
        pinned = sources.pin(spec, settings)
        spec_trial.try_models(pinned, settings)
        config = history.make_config(pinned, settings)
    if only_print:
        click.echo(config_files.write_config(config or past.previous()))
        return
    from raymlops.serving.deploy import client, conflicts, rollout

    client.connect(settings, tell=tell)
    if config is not None:
        client.require_place(spec, config)
    client.start_serve(spec)
    if config is None:
        config = rollout.roll_back(past, timeout, trust=trust, report=click.echo)
    else:
        for line in conflicts.describe_shared_models(config, client.running_configs()):
            tell(line)
        config = rollout.roll_out(config, past, timeout, report=click.echo)
    for line in rollout.describe(config):
        click.echo(f"{line} is serving")
