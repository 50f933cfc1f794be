"""Verbs of serving: `serve` on this machine, `deploy` on a cluster and back, `keys` of an endpoint."""

import pathlib

import click

OVERRIDES = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")


@click.command()
@click.argument("file", type=click.Path(path_type=pathlib.Path))
@OVERRIDES
@click.option("--plain", is_flag=True, help="Run Ray Serve as it comes, without our fast settings.")
@click.option(
    "--check", "once", is_flag=True, help="Ask each model one question over HTTP, print it, and stop."
)
@click.option(
    "--key", default="", envvar="RAYMLOPS_KEY", show_envvar=True, help="API key that --check asks with."
)
def serve(file: pathlib.Path, overrides: tuple[str, ...], plain: bool, once: bool, key: str) -> None:
    """Serve the models of FILE on this machine until interrupted.

    FILE is a serving spec such as serve_configs/flights.yaml, an ONNX file, a folder with one, or a version
    such as models:/flights@champion; KEY=VALUE changes a value of the spec, as in port=9000.
    """
    from raymlops.serving import fast, serving_files
    from raymlops.settings import Settings, export

    settings = Settings.from_env()
    spec = serving_files.read_spec(file, overrides)
    export(
        fast.choose_environment(plain, affine=spec.many is not None)
    )  # before Ray is imported, which reads it once
    from raymlops.serving import running

    running.run(spec, settings, once=once, key=key, report=click.echo)
    if once:
        click.echo(f"Every model has answered, and serving has ended. Next: raymlops serve {file}")


@click.command()
@click.argument("file", type=click.Path(path_type=pathlib.Path))
@OVERRIDES
@click.option("--rollback", is_flag=True, help="Go back to what was deployed before the newest.")
@click.option(
    "--remove", is_flag=True, help="Take the application away; a head that starts again leaves it so."
)
@click.option("--plain", is_flag=True, help="Use Ray Serve as it comes if this starts it.")
@click.option(
    "--print", "only_print", is_flag=True, help="Print the config with pinned versions; deploy nothing."
)
@click.option("--timeout", default=300.0, show_default=True, help="Seconds until it must be healthy.")
def deploy(
    file: pathlib.Path,
    overrides: tuple[str, ...],
    rollback: bool,
    remove: bool,
    plain: bool,
    only_print: bool,
    timeout: float,
) -> None:
    """Deploy FILE on the cluster of RAY_ADDRESS with aliases pinned to versions, replica after replica."""
    from raymlops.serving import fast, serving_files
    from raymlops.settings import Settings, choose_authentication, export

    settings = Settings.from_env()
    spec = serving_files.read_spec(file, overrides)
    export(fast.choose_environment(plain, affine=spec.many is not None) | choose_authentication())
    if remove:
        from raymlops.serving import restoring

        restoring.remove(settings, spec.name)
        click.echo(f"{spec.name} is no longer served")
        return
    from raymlops.serving import history, sources

    past = history.History(settings, spec.name)
    config = past.previous() if rollback else history.make_config(sources.pin(spec, settings), settings)
    if only_print:
        click.echo(serving_files.write_config(config))
        return
    from raymlops.serving import deploying, releasing

    deploying.connect(settings)
    deploying.start_serve(spec)
    if not rollback:
        running = [found for found in deploying.running_configs() if found["name"] == spec.name]
        config, told = releasing.keep_weights(config, running[0] if running else None)
        for line in told:
            click.echo(line)
    deploying.replace(config, past.newest(), timeout, click.echo)
    if rollback:
        past.drop_newest()
    else:
        past.add(config)
    for name, model in config["args"]["models"].items():
        click.echo(f"{name}: {model['source']}, version {model['version']}, is serving")


@click.group()
def keys() -> None:
    """API keys of an endpoint: add, list and revoke in a file that holds hashes only."""


@keys.command()
@click.argument("file", type=click.Path(path_type=pathlib.Path))
@click.argument("name")
@click.option("--role", default="infer", show_default=True, help="infer, or admin, which may do everything.")
def add(file: pathlib.Path, name: str, role: str) -> None:
    """Make a key called NAME and print it, this once. A key of that name is replaced."""
    from raymlops.serving.keys import make_key, read_keys, write_keys

    token, key = make_key(name, role)
    existing = [old for old in read_keys(file) if old.name != name] if file.exists() else []
    write_keys(file, [*existing, key])
    click.echo(token)


@keys.command("list")
@click.argument("file", type=click.Path(path_type=pathlib.Path))
def list_keys(file: pathlib.Path) -> None:
    """Names and roles of the keys in FILE."""
    from raymlops.serving.keys import read_keys

    for key in read_keys(file):
        click.echo(f"{key.name}\t{key.role}")


@keys.command()
@click.argument("file", type=click.Path(path_type=pathlib.Path))
@click.argument("name")
def revoke(file: pathlib.Path, name: str) -> None:
    """Take the key called NAME out of force; replicas notice within two seconds."""
    from raymlops.errors import NotFoundError, unknown_name
    from raymlops.serving.keys import read_keys, write_keys

    existing = read_keys(file)
    if name not in [key.name for key in existing]:
        raise NotFoundError(unknown_name("key", name, [key.name for key in existing]))
    write_keys(file, [key for key in existing if key.name != name])
