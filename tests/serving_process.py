"""Starts `raymlops serve` or `deploy` as a user does, in processes of their own, and stops them again."""

import contextlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import yaml

from raymlops.serving.deploy.conflicts import is_free

READY = "Documentation and examples"


_given: set[int] = set()
# Processes that run tests beside each other, as `pytest -n 2` does, give ports of their own.
_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_PROCESS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def free_port() -> int:
    """A port that nobody listens on, and that neither the system (ports above 32767, say) nor Ray (10002 to 19999) nor
    port_range gives to somebody else until the caller listens there; given to nobody else in this process."""
    ports = range(29_200 + _PROCESS, 32_700, _PROCESSES)
    for port in random.sample(ports, len(ports)):
        if port not in _given and is_free("127.0.0.1", port):
            _given.add(port)
            return port
    raise OSError("All ports from 29200 to 32699 are in use")


def port_range() -> dict[str, str]:
    """Ports of replicas that other clusters of this machine do not take, unless by a rare chance."""
    first = random.randrange(20_000 + 100 * _PROCESS, 29_000, 100 * _PROCESSES)
    return {
        f"RAY_SERVE_DIRECT_INGRESS_{end}_{kind}_PORT": str(first + shift + (0 if end == "MIN" else 49))
        for kind, shift in (("HTTP", 0), ("GRPC", 50))
        for end in ("MIN", "MAX")
    }


def separate_ports() -> dict[str, str]:
    """Two clusters on one machine must not meet on HAProxy's own ports, nor may one's HAProxy find another's replica
    on a port that was given up."""
    own = (
        "RAY_SERVE_HAPROXY_STATS_PORT", "RAY_SERVE_HAPROXY_METRICS_PORT",
        # Where HAProxy sends what no replica is there for; that of another cluster would answer.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT", "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
    )  # fmt: skip
    return {**{name: str(free_port()) for name in own}, **port_range()}


class CommandError(Exception):
    """A `raymlops` command failed; the text is what it said."""


class Served:
    """A running `raymlops serve`; `url` is its address. Its output gathers in `lines`."""

    def __init__(
        self, folder: pathlib.Path, spec: dict[str, Any], *options: str, seconds: float = 150
    ) -> None:
        self.port, self.grpc_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        path = folder / "serving.yaml"
        ports = {"port": self.port} | ({"grpc_port": self.grpc_port} if spec.get("grpc_port") else {})
        path.write_text(yaml.safe_dump({**spec, **ports}))
        self.environment = {
            **os.environ,
            "RAYMLOPS_HOME": str(folder / "home"),
            **separate_ports(),
        }
        command = [sys.executable, "-m", "raymlops", "--debug", "serve", str(path), *options]
        self.process = subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self._wait(seconds)
        except BaseException:
            self.stop()
            raise

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    def _wait(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while not any(READY in line for line in self.lines):
            if self.process.poll() is not None or time.monotonic() > ends:
                raise RuntimeError("serving did not start:\n" + "".join(self.lines[-40:]))
            time.sleep(0.2)

    def run(self, *arguments: str) -> str:
        """Another `raymlops` command against this cluster; gives its output. Raises CommandError."""
        line = next(line for line in self.lines if "RAY_ADDRESS=" in line)
        address = line.split("RAY_ADDRESS=")[1].split()[0]
        command = [sys.executable, "-m", "raymlops", "--debug", *arguments]
        environment = {**self.environment, "RAY_ADDRESS": address}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CommandError(
                f"raymlops {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-6000:]}"
            )
        return done.stdout

    def replicas(self) -> list[psutil.Process]:
        """The processes of this cluster that answer requests."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::ServeReplica"):
                    found.append(process)
        return found

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(5)
        if self.process.stdout is not None:
            self.process.stdout.close()


def serve_for(folder: pathlib.Path, spec: dict[str, Any], *options: str) -> Iterator[Served]:
    """A fixture's body."""
    served = Served(folder, spec, *options)
    yield served
    served.stop()
