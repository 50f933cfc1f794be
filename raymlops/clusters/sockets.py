"""Lists the listening sockets of this machine that belong to this package or to Ray: address, port, purpose. Opens
and closes none."""

import contextlib
import dataclasses
import ipaddress
import os
import re
from collections.abc import Iterable

import psutil

from raymlops.clusters.findings import Finding

_PURPOSES: tuple[tuple[str, str], ...] = (
    (r"(^|/)haproxy(\s|$)", "HAProxy of Ray Serve"),
    (r"^ray::(\S*ProxyActor|HAProxyManager)", "proxy of Ray Serve"),
    (r"^ray::ServeController", "controller of Ray Serve"),
    (r"^ray::ServeReplica:([^:\s]+)", r"replica of \1"),
    (r"^ray::DashboardAgent", "Ray's agent"),
    (r"^ray::RuntimeEnvAgent", "Ray's runtime environment agent"),
    (r"^ray-dashboard|ray/dashboard/dashboard\.py", "Ray's dashboard and job server"),
    (r"ray/(autoscaler/)?\S*monitor\.py", "Ray's autoscaler"),
    (r"(^|/)gcs_server(\s|$)", "Ray's control store (GCS)"),
    (r"(^|/)raylet(\s|$)", "Ray's node manager"),
    (r"client[._]server|ray_client_server", "Ray's client server"),
    (r"^ray::", "Ray's worker"),
    (r"raymlops(\.\w+)*\s.*tracking-server|mlflow(\.\w+)*\s+(server|ui)|mlflow\.server", "MLflow"),
    (r"(-m |/)raymlops(\s|$)", "raymlops"),
)


@dataclasses.dataclass(frozen=True, order=True)
class Socket:
    """A listening socket."""

    purpose: str
    address: str
    port: int
    pid: int

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.address)


def is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback


def find_purpose(command: str) -> str | None:
    """What a process with this command line does; None if it is neither ours nor Ray's."""
    for pattern, purpose in _PURPOSES:
        if found := re.search(pattern, command):
            return found.expand(purpose)
    return None


def list_sockets(processes: Iterable[psutil.Process] | None = None) -> list[Socket]:
    """Listening sockets of these processes; by default, of all processes of this user."""
    sockets = set()
    for process in psutil.process_iter() if processes is None else processes:
        with contextlib.suppress(psutil.Error):
            if processes is None and process.uids().real != os.getuid():
                continue
            purpose = find_purpose(" ".join(process.cmdline()) or process.name())
            if purpose is None:
                continue
            for connection in process.net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN:
                    sockets.add(Socket(purpose, connection.laddr.ip, connection.laddr.port, process.pid))
    return sorted(sockets)


def to_lines(sockets: Iterable[Socket]) -> str:
    """A table: address and port, process, purpose."""
    rows = [(f"{s.address}:{s.port}", str(s.pid), s.purpose) for s in sockets]
    width = max((len(row[0]) for row in rows), default=0)
    return "\n".join(f"  {address:<{width}}  {pid:>7}  {purpose}" for address, pid, purpose in rows)


def check_sockets(sockets: Iterable[Socket]) -> list[Finding]:
    """A warning that lists the sockets that other machines can reach."""
    reached = [f"{s.address}:{s.port} ({s.purpose})" for s in sockets if not s.is_loopback]
    if not reached:
        return []
    return [
        Finding(
            "sockets",
            f"other machines can reach {', '.join(reached)}",
            (
                "anyone who reaches them can send requests; Ray's own ports require its token, those of Serve API "
                "keys if there are any"
            ),
            "serve on host 127.0.0.1, or set keys and tls and close the other ports in the firewall",
            "warning",
        )
    ]
