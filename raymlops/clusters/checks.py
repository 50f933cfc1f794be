"""Finds problems of a cluster.yaml before `ray up` rents machines. Starts nothing."""

import copy
import ipaddress
import pathlib
import re
import sys
from collections.abc import Callable, Iterator

from raymlops import ray_internals, secret_texts
from raymlops.clusters import configuration
from raymlops.clusters.configuration import Config
from raymlops.clusters.findings import Finding
from raymlops.errors import SpecError

_CHECK = "cluster.yaml"
_MADE_BY = {".ray": "raymlops cluster token", ".mlflow": "mkdir -m 700 ~/.mlflow"}


def check_cluster(config: Config, *, ray_version: str, base: pathlib.Path = pathlib.Path()) -> list[Finding]:
    """All findings; relative mounts are resolved against `base`."""
    found = list(_schema(config))
    if found:  # the rules below need a valid schema
        return found
    rules: tuple[Callable[[Config], Iterator[Finding]], ...] = (
        _ours, _head, _authentication, _exposure, _workers, _spot, check_storage, _tracking, _secrets,
    )  # fmt: skip
    for rule in rules:
        found += rule(config)
    return [*found, *_images(config, ray_version), *_mounts(config, base)]


def _schema(config: Config) -> Iterator[Finding]:
    """Ray's own validation: its schema, after its defaults, and its rules for node types."""
    import jsonschema  # type: ignore[import-untyped]

    why = "`ray up` would refuse the file"
    if not isinstance(config.get("available_node_types"), dict) or not config.get("head_node_type"):
        yield Finding(
            _CHECK,
            "available_node_types or head_node_type is missing",
            why,
            "name the node types and the head's",
        )
        return
    try:
        ray_internals.validate_cluster_config(copy.deepcopy(config))
    except jsonschema.ValidationError as error:
        place = ".".join(str(part) for part in error.absolute_path) or "the file"
        yield Finding(_CHECK, f"{place}: {error.message[:200]}", why, f"change {place}")
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        AssertionError,
        RuntimeError,
        NotImplementedError,
    ) as error:
        yield Finding(_CHECK, " ".join(str(error).split())[:300], why, "change the key that it names")


def _ours(config: Config) -> Iterator[Finding]:
    try:
        metadata = configuration.metadata_of(config)
    except SpecError as error:
        yield Finding(
            _CHECK, str(error), "manifests cannot be made", "see metadata in the cluster.yaml of this project"
        )
        return
    if unknown := set(metadata.kubernetes.memory) - set(config["available_node_types"]):
        yield Finding(
            _CHECK, f"metadata.raymlops.kubernetes.memory names no node type: {', '.join(sorted(unknown))}",
            "these pods get no memory limit", "use the names of available_node_types", "warning",
        )  # fmt: skip


def _head(config: Config) -> Iterator[Finding]:
    head = config["available_node_types"][config["head_node_type"]]
    if head.get("resources", {}).get("CPU", 1):
        yield Finding(
            _CHECK, "the head runs tasks: its resources.CPU is not 0",
            "a training job that fills the head's memory stops the whole cluster",
            "set resources: {CPU: 0} for the head",
        )  # fmt: skip


def _authentication(config: Config) -> Iterator[Finding]:
    for command in configuration.start_commands(config):
        if "ray start" not in command:
            continue
        if "cluster environment" not in command and "RAY_AUTH_MODE=token" not in command:
            yield Finding(
                _CHECK, f"a start command does not set RAY_AUTH_MODE=token: {command[:60]}...",
                "anyone who reaches the cluster can run code on it",
                'put eval "$(raymlops cluster environment)" before ray start',
            )  # fmt: skip
    if not any(
        target.rstrip("/").endswith((".ray", "auth_token")) for target in config.get("file_mounts", {})
    ):
        yield Finding(
            _CHECK, "file_mounts does not copy the token", "Ray refuses to start on every node",
            "add /home/ray/.ray: ~/.ray, and run raymlops cluster token",
        )  # fmt: skip


def _exposure(config: Config) -> Iterator[Finding]:
    for command in config.get("head_start_ray_commands", []):
        found = re.search(r"--dashboard-host[= ](\S+)", command)
        if found and found[1] not in ("127.0.0.1", "localhost", "::1"):
            yield Finding(
                _CHECK, f"the dashboard listens on {found[1]}", "it submits jobs for anyone who reaches it",
                "use --dashboard-host=127.0.0.1, and `ray dashboard cluster.yaml` to see it",
            )  # fmt: skip
    rules = config["provider"].get("security_group", {}).get("IpPermissions", [])
    for rule in rules:
        ranges = [entry.get("CidrIp", "") for entry in rule.get("IpRanges", [])]
        opened = [
            entry for entry in ranges if entry and ipaddress.ip_network(entry, strict=False).prefixlen == 0
        ]
        if opened:
            only_ssh = rule.get("FromPort") == rule.get("ToPort") == 22
            yield Finding(
                _CHECK, f"the security group opens ports {rule.get('FromPort')}-{rule.get('ToPort')} to {opened[0]}",
                "any host on the internet can try to connect", "give the address range of your own network",
                "warning" if only_ssh else "error",
            )  # fmt: skip


def _workers(config: Config) -> Iterator[Finding]:
    workers = configuration.worker_types(config)
    if not any(kind.get("max_workers", config.get("max_workers", 2)) for kind in workers.values()):
        yield Finding(
            _CHECK, "no node type may have workers", "jobs wait forever, since the head runs no tasks",
            "raise max_workers of a node type",
        )  # fmt: skip
    least = sum(kind.get("min_workers", 0) for kind in workers.values())
    if least:
        yield Finding(
            _CHECK, f"{least} workers are kept running while idle", "you pay for them all the time",
            "set min_workers: 0", "warning",
        )  # fmt: skip


def _spot(config: Config) -> Iterator[Finding]:
    workers = configuration.worker_types(config)
    spot = {name: kind for name, kind in workers.items() if _is_spot(kind)}
    for name, kind in spot.items():
        others = [
            other
            for rest, other in workers.items()
            if rest not in spot and other["resources"] == kind["resources"]
        ]
        if not others:
            yield Finding(
                _CHECK, f"{name} is a spot type, and no on-demand type has the same resources",
                "jobs wait while no spot machine is available", f"add a type like {name} without spot", "warning",
            )  # fmt: skip
        elif all(other.get("priority", 0) >= kind.get("priority", 0) for other in others):
            yield Finding(
                _CHECK,
                f"{name} has no higher priority than the on-demand type with the same resources",
                "expensive nodes are started first",
                f"give {name} the higher priority",
                "warning",
            )


def _is_spot(kind: Config) -> bool:
    text = str(kind.get("node_config", {})).lower()
    return "spot" in text or "preemptible': true" in text


def check_storage(config: Config) -> Iterator[Finding]:
    """Checks that all nodes share one storage path."""
    storage = configuration.environment_of(config).get("RAYMLOPS_STORAGE", "")
    if not storage:
        yield Finding(
            _CHECK, "RAYMLOPS_STORAGE is not set for the nodes", "checkpoints stay on one node and are lost with it",
            "add --env RAYMLOPS_STORAGE=/mnt/... or a bucket's URI to docker.run_options",
        )  # fmt: skip
    elif "://" not in storage:
        options = " ".join(config.get("docker", {}).get("run_options", []))
        mounts = re.findall(r"(?:-v|--volume)[= ]\S+?:(/[^\s:]*)", options)
        if not any(storage == mount or storage.startswith(mount.rstrip("/") + "/") for mount in mounts):
            yield Finding(
                _CHECK, f"RAYMLOPS_STORAGE {storage} is inside the container",
                "nodes do not see each other's checkpoints",
                "mount the shared file system there: --volume /mnt/...:/mnt/...",
            )  # fmt: skip


def _tracking(config: Config) -> Iterator[Finding]:
    tracking = configuration.environment_of(config).get("MLFLOW_TRACKING_URI", "")
    if not tracking.startswith(("http://", "https://", "databricks")):
        yield Finding(
            _CHECK, f"MLFLOW_TRACKING_URI is {tracking or 'not set'!r}: a store on the head's disk",
            "runs and models are lost with the head",
            "start one with raymlops tracking-server, and give its http:// address",
        )  # fmt: skip
    elif re.match(r"https?://(localhost|127\.)", tracking):
        yield Finding(
            _CHECK,
            f"MLFLOW_TRACKING_URI {tracking} is a loopback address",
            "jobs on other nodes reach no server there",
            "give an address that all nodes can reach",
        )


def _secrets(config: Config) -> Iterator[Finding]:
    for name, value in configuration.environment_of(config).items():
        if re.search(r"(?i)password|secret|token$|access_key|api_?key", name) or secret_texts.holds_password(
            value
        ):
            yield Finding(
                _CHECK, f"docker.run_options holds a secret: {name}", "it is committed, and shown by docker inspect",
                "copy a file instead, such as ~/.mlflow/credentials in file_mounts",
            )  # fmt: skip


def _images(config: Config, ray_version: str) -> Iterator[Finding]:
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    kinds = config["available_node_types"].values()
    images = [
        config.get("docker", {}).get("image"),
        *(kind.get("docker", {}).get("worker_image") for kind in kinds),
    ]
    for image in dict.fromkeys(image for image in images if image):
        if not (found := re.fullmatch(r"rayproject/ray:([0-9.]+)-(py\d+)(?:-.+)?", image)):
            continue
        if found[1] != ray_version:
            yield Finding(
                _CHECK,
                f"{image} has Ray {found[1]}, this machine has {ray_version}",
                "Ray must have the same version everywhere",
                f"use rayproject/ray:{ray_version}-{found[2]}, or install Ray {found[1]} here",
            )
        if found[2] != python:
            yield Finding(
                _CHECK,
                f"{image} has {found[2]}, this machine has {python}",
                "objects pickled here cannot be read there",
                f"use rayproject/ray:{found[1]}-{python}",
                "warning",
            )


def _mounts(config: Config, base: pathlib.Path) -> Iterator[Finding]:
    for target, source in config.get("file_mounts", {}).items():
        path = pathlib.Path(source).expanduser()
        if not (path if path.is_absolute() else base / path).exists():
            fix = _MADE_BY.get(path.name, f"create {source}, or remove the mount")
            yield Finding(
                _CHECK, f"{source}, mounted at {target}, does not exist here", "`ray up` stops half-way", fix
            )
