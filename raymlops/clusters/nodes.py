"""Collects a report from each node of a running cluster, and compares the reports. Changes nothing on the nodes."""

import shlex
import time
from collections.abc import Iterator, Mapping
from typing import Any

from raymlops.clusters.findings import Finding
from raymlops.clusters.machine_checks import OLDEST_MLFLOW, to_numbers

Report = dict[str, Any]
_COMPARED = (
    "python",
    "ray",
    "torch",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "mlflow",
    "numpy",
    "raymlops",
)
_PORTS = {
    8265: "the dashboard",
    10001: "Ray's client server",
    8404: "HAProxy's statistics",
    9101: "HAProxy's metrics",
}
_SKEW_S = 2.0


def report_node(storage: str, tracking: str) -> Report:
    """Runs on a node that may lack this package: only the standard library is imported at its top."""
    import importlib.metadata
    import importlib.util
    import os
    import platform
    import socket
    import time
    import urllib.request

    report: Report = {
        "host": socket.gethostname(),
        "time": time.time(),
        "python": platform.python_version(),
        "gpus": None,
    }
    names = {
        (found.metadata["Name"] or "").lower(): found.version for found in importlib.metadata.distributions()
    }
    report["packages"] = names
    report["importable"] = importlib.util.find_spec("raymlops") is not None
    # The node's own setting, not that of this process.
    report["token"] = bool(os.environ.get("RAY_AUTH_TOKEN")) or os.environ.get("RAY_AUTH_MODE") == "token"
    report["storage"] = try_storage(storage) if storage else None
    report["tracking"] = report["mlflow_server"] = None
    if tracking.startswith(("http://", "https://")):
        try:
            with urllib.request.urlopen(f"{tracking.rstrip('/')}/version", timeout=10) as answer:  # noqa: S310
                report["mlflow_server"] = answer.read(100).decode().strip()
        except OSError as error:
            report["tracking"] = str(error)
    if "torch" in names and os.path.exists("/dev/nvidiactl"):
        import torch

        report["gpus"] = torch.cuda.device_count()
        report["providers"] = []
        if importlib.util.find_spec("onnxruntime"):
            import onnxruntime

            report["providers"] = list(onnxruntime.get_available_providers())
    listening = set()
    for table, loopback in (
        ("/proc/net/tcp", "0100007F"),
        ("/proc/net/tcp6", "00000000000000000000000001000000"),
    ):
        if os.path.exists(table):
            with open(table) as file:
                rows = [line.split() for line in file.readlines()[1:]]
            listening |= {
                int(row[1].split(":")[1], 16)
                for row in rows
                if row[3] == "0A" and row[1].split(":")[0] != loopback
            }
    report["listening"] = sorted(listening)
    return report


def try_storage(storage: str) -> str | None:
    """Why writing to a path or URI fails here, or None; also runs on a node."""
    import os
    import uuid

    name = f".raymlops-doctor-{uuid.uuid4().hex}"
    try:
        if "://" in storage:
            import pyarrow.fs

            files, folder = pyarrow.fs.FileSystem.from_uri(storage)
            files.create_dir(folder)
            with files.open_output_stream(f"{folder}/{name}") as stream:
                stream.write(b"x")
            files.delete_file(f"{folder}/{name}")
            return None
        os.makedirs(storage, exist_ok=True)
        probe = os.path.join(storage, name)
        with open(probe, "wb") as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
        os.unlink(probe)
    except (ImportError, OSError, ValueError) as error:
        return " ".join(str(getattr(error, "strerror", None) or error).split())[:300]
    return None


def collect_reports(
    storage: str, tracking: str, timeout: float = 60
) -> tuple[dict[str, Report], list[Finding]]:
    """Node id -> report of each live node that answers, all asked in parallel; findings for those that do not."""
    import ray
    import ray.cloudpickle
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    import raymlops.clusters.nodes as here

    ray.cloudpickle.register_pickle_by_value(here)
    try:
        asked = {}
        for node in ray.nodes():
            if node["Alive"]:
                strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                task = ray.remote(num_cpus=0)(report_node).options(scheduling_strategy=strategy)
                asked[task.remote(storage, tracking)] = (node, time.time())
    finally:
        ray.cloudpickle.unregister_pickle_by_value(here)
    reports: dict[str, Report] = {}
    findings = []
    ends = time.monotonic() + timeout
    while asked:
        ready, _ = ray.wait(list(asked), num_returns=1, timeout=max(0.0, ends - time.monotonic()))
        if not ready:
            break
        node, sent = asked.pop(ready[0])
        try:
            report = ray.get(ready[0])
        except ray.exceptions.RayError as error:
            findings.append(_no_answer(node, str(error).strip().splitlines()[-1][:200]))
            continue
        # The node read its clock at some time between sending and receiving.
        report["skew"] = max(0.0, sent - report["time"], report["time"] - time.time())
        report["labels"], report["resources"] = node.get("Labels", {}), node["Resources"]
        reports[node["NodeID"]] = report
    findings += [_no_answer(node, f"no answer in {timeout:g} s") for node, _ in asked.values()]
    return reports, findings


def _no_answer(node: Mapping[str, Any], cause: str) -> Finding:
    name = f"node {node['NodeID'][:8]} at {node['NodeManagerAddress']}"
    return Finding(
        "nodes",
        f"{name} runs no task: {cause}",
        "tasks placed there fail",
        "run ray status; read that node's raylet.out",
    )


def compare_reports(reports: Mapping[str, Report], here: Mapping[str, str], tracking: str) -> list[Finding]:
    """Differences among the nodes, and between them and this machine (`here`: package -> version)."""
    found: list[Finding] = []
    for name in _COMPARED:
        versions = {
            node: report["python"] if name == "python" else report["packages"].get(name)
            for node, report in reports.items()
        }
        versions_at = {
            "here": here.get(name),
            **{f"node {node[:8]}": version for node, version in versions.items()},
        }
        if len(set(versions_at.values())) > 1:
            shown = ", ".join(f"{place} {version or 'none'}" for place, version in versions_at.items())
            found.append(Finding(
                "versions", f"{name} differs: {shown}", "one may be unable to read what the other writes",
                "pip install -c constraints.txt -e . on the nodes that differ",
                "error" if name in ("python", "ray") else "warning",
            ))  # fmt: skip
    for node, report in reports.items():
        found += _check_node(f"node {node[:8]} ({report['host']})", report, tracking)
    return found


def _check_node(name: str, report: Report, tracking: str) -> Iterator[Finding]:
    if not report["token"]:
        yield Finding(
            "token", f"{name} runs without token authentication", "anyone who reaches it can run code on it",
            "raymlops cluster token, and start Ray with RAY_AUTH_MODE=token",
        )  # fmt: skip
    if not report["importable"]:
        yield Finding(
            "packages", f"{name} does not have raymlops", "jobs bring the package along, but "
            "`raymlops deploy` does not",
            "pip install -c constraints.txt -e . there", "warning",
        )  # fmt: skip
    if report["storage"]:
        yield Finding(
            "storage", f"{name} cannot write to the storage: {report['storage']}", "its trials lose their checkpoints",
            "mount the shared storage there, or free space on it",
        )  # fmt: skip
    if report["tracking"]:
        yield Finding(
            "tracking", f"{name} cannot reach {tracking}: {report['tracking']}", "tasks there log nothing",
            f"curl {shlex.quote(f'{tracking}/version')} on that node; open its firewall",
        )  # fmt: skip
    server = report["mlflow_server"]
    if server and is_version(server) and to_numbers(server) < OLDEST_MLFLOW:
        yield Finding(
            "tracking", f"the MLflow server is {server}", "releases before 3.17.2 have known vulnerabilities",
            "upgrade it: pip install 'mlflow>=3.17.2', mlflow db upgrade",
        )  # fmt: skip
    if report["skew"] > _SKEW_S:
        yield Finding(
            "clock", f"the clock of {name} is {report['skew']:.0f} s off",
            "metrics and logs are out of order, and TLS may fail",
            "start chrony or systemd-timesyncd there", "warning",
        )  # fmt: skip
    yield from _check_gpus(name, report)
    for port, what in _PORTS.items():
        if port in report["listening"]:
            yield Finding(
                "ports", f"{what} listens beyond loopback on {name}, port {port}",
                "outsiders can read or change what they should not",
                f"bind it to 127.0.0.1, or close port {port} in the firewall", "warning",
            )  # fmt: skip


def _check_gpus(name: str, report: Report) -> Iterator[Finding]:
    claimed = report["resources"].get("GPU", 0)
    if report["gpus"] is not None and claimed > report["gpus"]:
        yield Finding(
            "gpus", f"{name} offers {claimed:g} GPUs, but torch sees {report['gpus']}",
            "trainings placed there run on the CPU or fail",
            "run nvidia-smi there; pip install -c constraints.txt torch, and a matching driver",
        )  # fmt: skip
    if report["gpus"] and "CUDAExecutionProvider" not in report.get("providers", ()):
        yield Finding(
            "gpus", f"ONNX Runtime on {name} has no CUDA provider", "models there run on the CPU",
            "pip uninstall -y onnxruntime; pip install --force-reinstall -c constraints.txt onnxruntime-gpu",
        )  # fmt: skip


def is_version(text: str) -> bool:
    return text[:1].isdigit()
