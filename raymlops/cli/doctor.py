"""`raymlops doctor`: finds problems of a set-up before they cost hours."""

import pathlib
import platform
import shlex
import sys
from typing import Any

import click

from raymlops.settings import Settings, choose_authentication, export, read_environment


@click.command()
@click.argument("spec", required=False, type=click.Path())
@click.option(
    "--cluster", "address", help="Address of a running cluster, whose nodes are checked. Default RAY_ADDRESS."
)
@click.option(
    "--file",
    "file",
    default="cluster.yaml",
    show_default=True,
    type=click.Path(),
    help="Checked if it exists.",
)
@click.option("--over", "overlays", multiple=True, type=click.Path(), help="Merge this overlay into --file.")
def doctor(spec: str | None, address: str | None, file: str, overlays: tuple[str, ...]) -> None:
    """Check this machine, cluster.yaml, a running cluster and SPEC; print each problem and the command that fixes it.

    \b
    raymlops doctor
    raymlops doctor --cluster 10.0.0.4:6379 jobs/specs/flights.yaml
    """
    from raymlops.clusters import findings, machine_checks, sockets

    environment = read_environment()
    address = address or Settings.from_env().ray_address
    packages = machine_checks.installed_packages()
    found = [
        *machine_checks.check_packages(packages),
        *machine_checks.check_token(environment, address),
        *machine_checks.check_settings(environment, address),
        *_check_tracking(Settings.from_env()),
        *_check_buckets(Settings.from_env()),
    ]
    listened = sockets.list_sockets()
    if listened:
        click.echo(f"Listening here:\n{sockets.to_lines(listened)}")
    found += sockets.check_sockets(listened)
    kinds = None
    checked = ["this machine"]
    if pathlib.Path(file).is_file():
        found += _check_file(file, overlays)
        checked.append(file)
    if address:
        export(choose_authentication())
        reports, more = _ask_cluster(address, {**packages, "python": platform.python_version()})
        found += more
        checked.append(f"{len(reports)} nodes at {address}")
        # without all nodes' reports, a demand cannot be judged
        kinds = _to_kinds(reports) if reports else None
    if spec:
        found += _check_spec(spec, kinds, file, overlays)
        checked.append(spec)
    if found:
        click.echo(findings.to_lines(found))
    errors = sum(finding.level == "error" for finding in found)
    click.echo(f"Checked {', '.join(checked)}: {errors} errors, {len(found) - errors} warnings")
    sys.exit(2 if errors else 0)


def _check_tracking(settings: Settings) -> list[Any]:
    from raymlops.clusters.findings import Finding
    from raymlops.errors import StorageError
    from raymlops.tracking import store

    try:
        store.connect(settings)
    except StorageError as error:
        return [
            Finding(
                "tracking",
                str(error),
                "no run is recorded",
                "curl " + shlex.quote(f"{store.hide_password(settings.tracking_uri)}/version"),
            )
        ]
    return []


def _check_buckets(settings: Settings) -> list[Any]:
    """Whether this machine reaches tracking store and storage. A storage folder is checked on the nodes: it may be
    mounted only there."""
    from raymlops import locations
    from raymlops.clusters.findings import Finding
    from raymlops.errors import StorageError
    from raymlops.tracking import store
    from raymlops.training import storage

    found = []
    try:
        if locations.is_remote(settings.storage_path):
            storage.require_writable(settings.storage_path)
    except StorageError as error:
        found.append(
            Finding("storage", str(error), "no search can start or resume", "echo $RAYMLOPS_STORAGE")
        )
    try:
        store.require_artifacts(settings)
    except StorageError as error:
        found.append(Finding("tracking", str(error), "no model is registered", "echo $RAYMLOPS_ARTIFACTS"))
    return found


def _check_file(file: str, overlays: tuple[str, ...]) -> list[Any]:
    import ray

    from raymlops.clusters import checks, configuration
    from raymlops.clusters.findings import Finding
    from raymlops.errors import UserError

    try:
        config = configuration.read_cluster(file, overlays)
    except UserError as error:
        return [Finding("cluster.yaml", str(error), "`ray up` cannot read it", f"fix {file}")]
    return checks.check_cluster(config, ray_version=ray.__version__, base=pathlib.Path(file).parent)


def _ask_cluster(address: str, here: dict[str, str]) -> tuple[dict[str, Any], list[Any]]:
    import dataclasses

    from raymlops.clusters import nodes
    from raymlops.clusters.findings import Finding
    from raymlops.errors import ResourceError
    from raymlops.lifecycle.cluster import join_cluster

    settings = dataclasses.replace(Settings.from_env(), ray_address=address)
    try:
        join_cluster(settings)
    except ResourceError as error:
        return {}, [
            Finding(
                "nodes", str(error), "no job can run", "ray status; check the address and RAY_AUTH_TOKEN_PATH"
            )
        ]
    reports, found = nodes.collect_reports(settings.storage_path, settings.tracking_uri)
    return reports, [*found, *nodes.compare_reports(reports, here, settings.tracking_uri)]


def _to_kinds(reports: dict[str, Any]) -> list[Any]:
    from raymlops.clusters.capacity import NodeKind

    return [NodeKind(node[:8], report["resources"], 1, report["labels"]) for node, report in reports.items()]


def _check_spec(spec: str, kinds: Any, file: str, overlays: tuple[str, ...]) -> list[Any]:
    from raymlops.cli.training import read_spec
    from raymlops.clusters import capacity, configuration
    from raymlops.clusters.findings import Finding
    from raymlops.errors import UserError

    try:
        training = read_spec(spec).training
    except UserError as error:
        return [Finding("spec", str(error), "no job accepts it", f"raymlops check {shlex.quote(spec)}")]
    demand = training.demand
    where = "on the running cluster"
    if kinds is None or capacity.explain_shortage(demand, kinds) is not None:
        if not pathlib.Path(file).is_file():
            if kinds is None:
                return []
        else:
            kinds, where = (
                capacity.kinds_of(configuration.read_cluster(file, overlays)),
                f"with the node types of {file}",
            )
    shortage = capacity.explain_shortage(demand, kinds)
    if shortage is None:
        return []
    fix = "lower training.workers or training.cpus_per_worker, change training.labels, or add a node type for them"
    return [Finding("demand", f"{spec} can never be met {where}: {shortage}", "its trials wait forever", fix)]
