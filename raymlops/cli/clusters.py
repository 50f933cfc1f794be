"""`raymlops cluster`: tokens, settings, configuration files, start and restore of clusters. `submit` and `doctor`
have their own modules."""

import dataclasses
import os
import pathlib
import shlex
import subprocess
import sys
from typing import Any

import click

from raymlops.cli.preemption import drain, watch_preemption
from raymlops.settings import Settings, choose_authentication, export, read_environment

_FILE = click.option(
    "--file",
    "file",
    default="cluster.yaml",
    show_default=True,
    type=click.Path(),
    help="The cluster's configuration.",
)
_SEND = click.option(
    "--send", "sent", multiple=True, metavar="FILE", help="Copy this file although it looks like a secret."
)
_START_S = 300
"""Seconds to wait for a head to answer."""
_OVERLAYS = click.argument("overlays", nargs=-1, type=click.Path())


@click.group()
def cluster() -> None:
    """A cluster's token, settings, configuration and start."""


cluster.add_command(drain)
cluster.add_command(watch_preemption)
# older cluster.yaml files call it by these names
for _old, _verb in (("leave", drain), ("heed", watch_preemption)):
    cluster.add_command(click.Command(_old, callback=_verb.callback, params=_verb.params, hidden=True))


@cluster.command()
def token() -> None:
    """Make the token that the processes of a cluster show each other, mode 0600, unless there is one."""
    from raymlops.clusters import machine_checks, tokens

    path = machine_checks.token_path(read_environment())
    made = tokens.make_token(path)
    click.echo(f"{'Made' if made else 'Kept'} {path}; set RAY_AUTH_MODE=token where a cluster is used")


@cluster.command()
@click.option("--plain", is_flag=True, help="Use Ray Serve's default settings.")
def environment(plain: bool) -> None:
    """Print what to export before Ray starts: eval "$(raymlops cluster environment)"."""
    for name, value in cluster_environment(plain, home=Settings.from_env().home).items():
        click.echo(f"export {name}={shlex.quote(value)}")


def cluster_environment(
    plain: bool = False, cores: int | None = None, home: pathlib.Path | None = None
) -> dict[str, str]:
    """The variables of every process of a cluster; with `home`, for this machine only, see `serving.fast`."""
    from raymlops.serving.fastpath import ray_serve_env

    # In this mode Ray refuses to start without a token.
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_enable_autoscaler_v2": "1",
        **ray_serve_env.choose_environment(plain, cores, home=home),
    }


@cluster.command(context_settings={"ignore_unknown_options": True})
@click.argument("ray_options", nargs=-1, type=click.UNPROCESSED)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address at which other machines join.")
@click.option("--port", default=6379, show_default=True)
@click.option(
    "--dashboard-port", default=8265, show_default=True, help="Port to which jobs are submitted, on loopback."
)
@click.option("--cpus", type=int, help="CPUs to offer; default all.")
def start(ray_options: tuple[str, ...], host: str, port: int, dashboard_port: int, cpus: int | None) -> None:
    """Start a cluster on this machine, with token authentication, until interrupted.

    Applications that `raymlops deploy` put on it earlier, if it was killed, are served again. Further options are
    passed to `ray start`.

    \b
    raymlops cluster start
    raymlops submit search jobs/specs/digits.yaml        (in another terminal)
    """
    from raymlops.clusters import loopback, machine_checks, tokens
    from raymlops.serving.deploy import history

    path = machine_checks.token_path(read_environment())
    tokens.require_token(path, host)
    tokens.make_token(path)
    ray = pathlib.Path(sys.executable).parent / "ray"
    environment = {**cluster_environment(home=Settings.from_env().home), **read_environment()}
    # Jobs are started as `python`: make it this interpreter, whichever comes first in the shell's PATH.
    environment["PATH"] = f"{ray.parent}{os.pathsep}{environment.get('PATH', '')}"
    click.echo(f"Jobs      http://127.0.0.1:{dashboard_port}")
    if tokens.is_loopback(host):
        # Otherwise Ray listens on every interface, guarded by its token only.
        environment.setdefault(loopback.VARIABLE, "0")
        click.echo(
            "Workers   none: all ports are on loopback; --host ADDRESS lets other machines join\nRay's own "
            f"commands here, such as `ray status`, need: export {loopback.VARIABLE}=0"
        )
    else:
        click.echo(f"Workers   ray start --address={shlex.quote(f'{host}:{port}')}")
    if history.list_applications(Settings.from_env()):
        restoring = [sys.executable, "-P", "-m", "raymlops", "cluster", "restore", f"--address={host}:{port}"]
        subprocess.Popen([*restoring, f"--patience={_START_S}"], env=environment)
    sys.stdout.flush()
    # With a host that others reach, Ray listens on every interface; the token keeps others out. Ports of workers and of
    # the agent are chosen by the system, so that two clusters on a machine do not collide.
    command = [str(ray), "start", "--head", "--block", "--disable-usage-stats", f"--node-ip-address={host}",
               f"--port={port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}",
               "--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0",
               *([f"--num-cpus={cpus}"] if cpus is not None else []), *ray_options]  # fmt: skip
    os.execve(ray, command, environment)  # noqa: S606


@cluster.command()
@click.option("--address", help="The cluster; default RAY_ADDRESS, or the one on this machine.")
@click.option("--patience", default=60.0, show_default=True, help="Seconds until the cluster must answer.")
@click.option("--timeout", default=0.0, help="Seconds to wait until each is healthy; default: do not wait.")
@click.option("--trust", is_flag=True, help="Also restore what no trusted key signed; what it runs is shown.")
def restore(address: str | None, patience: float, timeout: float, trust: bool) -> None:
    """Serve again what `raymlops deploy` put on a cluster before its head was lost, at the versions pinned then.

    They are read from the storage path. The head's start commands of cluster.yaml and `raymlops cluster start` call
    this.
    """
    settings = Settings.from_env()
    settings = dataclasses.replace(settings, ray_address=address or settings.ray_address)
    export(
        {**cluster_environment(), **choose_authentication()}
    )  # before Ray is imported, which reads it only once
    from raymlops.serving.deploy.restore import restore as restore_applications

    names = restore_applications(
        settings, patience_s=patience, timeout_s=timeout, trusted=trust, report=click.echo
    )
    click.echo(f"Serving again: {', '.join(names)}" if names else "Nothing was deployed before")


def _read(file: str, overlays: tuple[str, ...]) -> dict[str, Any]:
    from raymlops.clusters import configuration

    return configuration.read_cluster(file, overlays)


@cluster.command()
@_OVERLAYS
@_FILE
def check(overlays: tuple[str, ...], file: str) -> None:
    """Check the configuration, with OVERLAYS merged into it, and rent nothing."""
    _require_sound(_read(file, overlays), file)
    click.echo(f"{' + '.join([file, *overlays])} is valid")


def _require_sound(config: dict[str, Any], file: str) -> None:
    import ray

    from raymlops.clusters import checks, findings
    from raymlops.errors import SpecError

    found = checks.check_cluster(config, ray_version=ray.__version__, base=pathlib.Path(file).parent)
    if found:
        click.echo(findings.to_lines(found), err=True)
    if any(finding.level == "error" for finding in found):
        raise SpecError(f"{file} cannot be started as it is; fix the errors above")


@cluster.command()
@_OVERLAYS
@_FILE
@_SEND
def render(overlays: tuple[str, ...], file: str, sent: tuple[str, ...]) -> None:
    """Print the configuration with OVERLAYS merged into it, for `ray up`; files that look like secrets are excluded.

    \b
    raymlops cluster render clusters/gcp.yaml > gcp.yaml
    """
    from raymlops.clusters import configuration

    click.echo(configuration.write_cluster(_hold_back(_read(file, overlays), sent)), nl=False)


def _hold_back(config: dict[str, Any], sent: tuple[str, ...]) -> dict[str, Any]:
    from raymlops.clusters import mounts

    changed, held = mounts.exclude_secrets(config, sent=sent)
    if held:
        click.echo(mounts.describe(held), err=True)
    return changed


@cluster.command()
@_OVERLAYS
@_FILE
@_SEND
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def up(overlays: tuple[str, ...], file: str, sent: tuple[str, ...], yes: bool) -> None:
    """Make the token, check the configuration with OVERLAYS merged into it, and start it with `ray up`.

    \b
    raymlops cluster up clusters/gcp.yaml
    """
    from raymlops.clusters import configuration, machine_checks, tokens

    tokens.make_token(machine_checks.token_path(read_environment()))
    pathlib.Path("~/.mlflow").expanduser().mkdir(
        mode=0o700, exist_ok=True
    )  # it is mounted, even if it is empty
    config = _read(file, overlays)
    _require_sound(config, file)
    rendered = Settings.from_env().home / "clusters" / f"{config['cluster_name']}.yaml"
    rendered.parent.mkdir(parents=True, exist_ok=True)
    rendered.write_text(configuration.write_cluster(_hold_back(config, sent)), encoding="utf-8")
    export({"RAY_AUTH_MODE": "token"})
    click.echo(f"Jobs   ray dashboard {shlex.quote(str(rendered))}, then raymlops submit VERB")
    click.echo(f"Stop   ray down {shlex.quote(str(rendered))}")
    sys.stdout.flush()
    ray = str(pathlib.Path(sys.executable).parent / "ray")
    os.execv(ray, [ray, "up", str(rendered), *(["--yes"] if yes else [])])  # noqa: S606


@cluster.command()
@click.argument("kind", type=click.Choice(["cluster", "job", "service"]))
@click.argument("rest", nargs=-1, metavar="[VERB ARGUMENTS... | SERVE_CONFIG]")
@_FILE
@click.option(
    "--over", "overlays", multiple=True, type=click.Path(), help="Merge this overlay into the configuration."
)
def manifest(kind: str, rest: tuple[str, ...], file: str, overlays: tuple[str, ...]) -> None:
    """Print KubeRay's RayCluster, RayJob or RayService, made from the configuration.

    \b
    raymlops cluster manifest cluster | kubectl apply -f -
    raymlops cluster manifest job search jobs/specs/digits.yaml -- --autoscaling
    raymlops deploy serve_configs/flights.yaml --print > serve.yaml
    raymlops cluster manifest service serve.yaml
    """
    import ray

    from raymlops.clusters import configuration, manifests
    from raymlops.clusters.submission import Job, require_no_secrets
    from raymlops.errors import SpecError
    from raymlops.specs.document import read_yaml

    config = _read(file, overlays)
    configuration.metadata_of(config)
    # KubeRay sets the mode of authentication together with the token.
    variables = {key: value for key, value in cluster_environment(cores=8).items() if key != "RAY_AUTH_MODE"}
    if kind == "cluster":
        made = manifests.to_ray_cluster(config, ray.__version__, variables)
    elif not rest:
        raise SpecError(
            f"cluster manifest {kind} needs {'a verb' if kind == 'job' else 'a Serve config'} after it"
        )
    elif kind == "job":
        job = Job(rest[0], rest[1:])
        require_no_secrets(job)  # manifests are stored and shown: no secrets
        made = manifests.to_ray_job(config, ray.__version__, variables, job.entrypoint)
    else:
        text = pathlib.Path(rest[0]).read_text(encoding="utf-8")
        applications, _ = read_yaml(text, rest[0])
        if not isinstance(applications, dict):
            raise SpecError(
                f"{rest[0]} holds {type(applications).__name__}; expected a Serve config, a mapping"
            )
        if "applications" not in applications:
            applications = {"applications": [applications]}
        made = manifests.to_ray_service(config, ray.__version__, variables, applications)
    click.echo(manifests.write_manifest(made), nl=False)
