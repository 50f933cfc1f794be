"""Checks this machine's installation and settings, which are passed in as values. Starts nothing."""

import importlib.metadata
import pathlib
import re
import tempfile
import urllib.parse
from collections.abc import Iterator, Mapping

from raymlops import secret_texts
from raymlops.clusters import tokens
from raymlops.clusters.findings import Finding

OLDEST_MLFLOW = (3, 17, 2)  # earlier releases have known vulnerabilities
_SERVE_FAST = ("RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED")


def installed_packages() -> dict[str, str]:
    """Lower-case name -> version of every installed distribution."""
    return {
        name.lower(): found.version
        for found in importlib.metadata.distributions()
        if (name := found.metadata["Name"]) is not None
    }


def check_packages(packages: Mapping[str, str]) -> Iterator[Finding]:
    if "onnxruntime" in packages and "onnxruntime-gpu" in packages:
        yield Finding(
            "packages", "onnxruntime and onnxruntime-gpu are both installed",
            "they install the same files, and the later one wins: GPUs are not found, or imports fail",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install -c constraints.txt onnxruntime-gpu",
        )  # fmt: skip
    if (mlflow := packages.get("mlflow")) and to_numbers(mlflow) < OLDEST_MLFLOW:
        yield Finding(
            "packages", f"mlflow {mlflow} is older than 3.17.2", "it has known vulnerabilities, one "
            "of which lets a client read any file",
            "pip install -c constraints.txt mlflow",
        )  # fmt: skip
    if (protobuf := packages.get("protobuf")) and to_numbers(protobuf) >= (7,):
        yield Finding(
            "packages", f"protobuf {protobuf} is too new", "converters to ONNX and the KServe inference client fail",
            "pip install -c constraints.txt protobuf",
        )  # fmt: skip
    for name in ("ray", "torch", "onnx", "mlflow"):
        if name not in packages:
            yield Finding(
                "packages",
                f"{name} is not installed",
                "the package does not work without it",
                "pip install -c constraints.txt -e .",
            )


def to_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def token_path(environment: Mapping[str, str]) -> pathlib.Path:
    """The token file that Ray reads."""
    named = environment.get("RAY_AUTH_TOKEN_PATH")
    home = pathlib.Path(environment.get("HOME") or pathlib.Path.home())
    return pathlib.Path(named).expanduser() if named else home / ".ray" / "auth_token"


def check_token(environment: Mapping[str, str], address: str | None) -> Iterator[Finding]:
    remote = address is not None and not tokens.is_loopback(host_of(address))
    if environment.get("RAY_AUTH_MODE", "").lower() == "disabled":
        yield Finding(
            "token", "RAY_AUTH_MODE=disabled", "anyone who reaches the cluster can run code on it",
            "unset RAY_AUTH_MODE; raymlops cluster token", "error" if remote else "warning",
        )  # fmt: skip
        return
    if environment.get("RAY_AUTH_TOKEN") and environment.get("RAY_AUTH_TOKEN_PATH"):
        yield Finding(
            "token", "RAY_AUTH_TOKEN and RAY_AUTH_TOKEN_PATH are both set", "the file is never read",
            "unset RAY_AUTH_TOKEN", "warning",
        )  # fmt: skip
    if environment.get("RAY_AUTH_TOKEN"):
        return
    if fault := tokens.describe_fault(token_path(environment)):
        yield Finding(
            "token", fault[0], "a cluster beyond this machine is refused, or open to everyone", fault[1],
            "error" if remote or environment.get("RAY_AUTH_MODE") == "token" else "warning",
        )  # fmt: skip


def check_settings(environment: Mapping[str, str], address: str | None) -> Iterator[Finding]:
    """Variables that contradict each other or turn off a safety or speed setting."""
    yield from _check_tracking(environment, address)
    fast = [environment.get(name, "") for name in _SERVE_FAST]
    if "1" in fast and fast != ["1", "1"]:
        yield Finding(
            "settings", f"only one of {' and '.join(_SERVE_FAST)} is 1", "each of them is slow without the other",
            'eval "$(raymlops cluster environment)"', "warning",
        )  # fmt: skip
    if environment.get("RAY_TRAIN_V2_ENABLED", "1") == "0":
        yield Finding(
            "settings",
            "RAY_TRAIN_V2_ENABLED=0",
            "trainings with several workers do not run",
            "unset RAY_TRAIN_V2_ENABLED",
        )
    if environment.get("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false").lower() in ("1", "true"):
        yield Finding(
            "settings", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION is true", "loading a model's folder could run code here",
            "unset MLFLOW_ALLOW_PICKLE_DESERIALIZATION",
        )  # fmt: skip
    hosts = {
        name: host_of(environment[name])
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
        if environment.get(name)
    }
    loopback = {tokens.is_loopback(host) for host in hosts.values()}
    if len(set(hosts.values())) > 1 and len(loopback) == 1:
        named = " and ".join(f"{name} names {host}" for name, host in hosts.items())
        yield Finding(
            "settings", named, "jobs go to one cluster and drivers to another", "unset one of them", "warning"
        )
    storage = environment.get("RAYMLOPS_STORAGE", "")
    remote = address is not None and not tokens.is_loopback(host_of(address))
    if (
        remote
        and storage
        and "://" not in storage
        and storage.startswith((environment.get("HOME", "/root") + "/", f"{tempfile.gettempdir()}/"))
    ):
        yield Finding(
            "settings", f"RAYMLOPS_STORAGE {storage} is a folder of this machine, and the cluster is at {address}",
            "other nodes write checkpoints to a folder of their own, where nothing finds them", "set "
            "RAYMLOPS_STORAGE to the shared storage",
        )  # fmt: skip


def _check_tracking(environment: Mapping[str, str], address: str | None) -> Iterator[Finding]:
    uri = environment.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith(("file:", "/", "./")):
        yield Finding(
            "settings", f"MLFLOW_TRACKING_URI {uri} is a file store",
            "it is slow, has no registry, and has known vulnerabilities",
            "unset MLFLOW_TRACKING_URI, or give sqlite:///FILE or http://SERVER",
        )  # fmt: skip
    if secret_texts.holds_password(uri):
        yield Finding(
            "settings", "MLFLOW_TRACKING_URI holds a password", "it is copied into logs and run pages",
            "write user and password to ~/.mlflow/credentials", "warning",
        )  # fmt: skip
    remote = address is not None and not tokens.is_loopback(host_of(address))
    if remote and uri.startswith("sqlite:"):
        yield Finding(
            "settings", f"MLFLOW_TRACKING_URI {uri} is a file here, and the cluster is at {address}",
            "jobs on the cluster log into another file", "start raymlops tracking-server and set its http:// address",
        )  # fmt: skip


def host_of(address: str) -> str:
    """`ray://host:1`, `http://host:1` and `host:1` -> host; `local` and `auto` are this machine."""
    if address in ("local", "auto"):
        return "127.0.0.1"
    parsed = urllib.parse.urlsplit(address if "://" in address else f"ray://{address}")
    return parsed.hostname or address
