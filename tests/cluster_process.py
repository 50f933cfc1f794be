"""Starts clusters as a user does, in processes of their own with their own home and token, and stops them again."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Iterator, Mapping, Sequence

import httpx
import psutil

from raymlops.cli.clusters import cluster_environment
from raymlops.clusters import tokens
from tests.commands_in_turn import Done, run_in_turn
from tests.serving_process import free_port, separate_ports

ROOT = pathlib.Path(__file__).parents[1]
ENTRY = "import sys; from ray.scripts.scripts import main; sys.argv[0] = 'ray'; main()"


_PORTS = (
    "ray-client-server", "dashboard-agent-listen", "dashboard-agent-grpc", "metrics-export", "runtime-env-agent",
    "node-manager", "object-manager",
)  # fmt: skip


class Head:
    """A head node with a dashboard on loopback; `environment` is for those who talk to it.

    It is started by `ray start` of an interpreter, or with `start` by another command that takes the same options.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        python: pathlib.Path,
        *options: str,
        port: int | None = None,
        variables: Mapping[str, str] | None = None,
        seconds: float = 240,
        start: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.seconds = folder, seconds
        self.port, self.dashboard_port = port or free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.dashboard_port}"
        self.address = f"127.0.0.1:{self.port}"
        self.token_path = folder / "home" / ".ray" / "auth_token"
        tokens.make_token(self.token_path)
        # Sockets lie in it, and their paths may not be long.
        self.temporary = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))},
            **cluster_environment(cores=2, home=folder / "raymlops"),
            **separate_ports(),
            "HOME": str(folder / "home"),
            "RAYMLOPS_HOME": str(folder / "raymlops"),
            "RAY_API_SERVER_ADDRESS": self.url,
            "RAY_raylet_start_wait_time_s": str(seconds),
            "RAY_agent_register_timeout_ms": str(round(seconds * 1000)),
            "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
            **(variables or {}),
        }
        plain = (
            str(python), "-c", ENTRY, "start", "--head", "--block", "--disable-usage-stats",
            "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--min-worker-port=0", "--max-worker-port=0",
        )  # fmt: skip
        self.command = [
            *(start or plain), f"--port={self.port}", f"--dashboard-port={self.dashboard_port}",
            f"--temp-dir={self.temporary.name}",
            # A port that Ray has to find is waited for by the raylet, which gives up on a busy machine.
            *(f"--{name}-port={free_port()}" for name in _PORTS), *options,
        ]  # fmt: skip
        self.log = folder / "head.log"
        self.start()

    def start(self) -> None:
        """Start it, again after `kill`, by the same command."""
        for _ in range(3):  # a raylet gives up where the machine is busy for half a minute
            with self.log.open("wb") as log:
                self.process = subprocess.Popen(
                    self.command,
                    env=self.environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    cwd=self.folder,
                )
            if self._wait(self.seconds):
                return
            self._end()
        raise RuntimeError(f"the head did not start:\n{self.log.read_text()[-3000:]}")

    def kill(self) -> int:
        """End all of its processes at once, as a machine that is lost; gives how many there were."""
        family = [
            psutil.Process(self.process.pid),
            *psutil.Process(self.process.pid).children(recursive=True),
        ]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        psutil.wait_procs(family, timeout=30)
        return len(family)

    def _wait(self, seconds: float) -> bool:
        """Until the node has joined and the job server answers; false when it ends before."""
        ends = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < ends:
            log = self.log.read_text()
            if "Failed to start the dashboard" in log:
                return False
            with contextlib.suppress(httpx.TransportError):
                if "Ray runtime started" in log and self.get("/api/jobs/").status_code == 200:
                    return True
            time.sleep(0.5)
        return False

    def get(self, path: str, token: str | None = None) -> httpx.Response:
        token = self.token_path.read_text() if token is None else token
        return httpx.get(
            self.url + path, headers={"Authorization": f"Bearer {token}"} if token else {}, timeout=20
        )

    def run(
        self, *arguments: str, cwd: pathlib.Path = ROOT, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """`raymlops ARGUMENTS` of this installation, as a user of this cluster."""
        command = [sys.executable, "-P", "-m", "raymlops", *arguments]
        environment = {**self.environment, **variables}
        return subprocess.run(
            command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=280, check=False
        )

    def run_in_turn(self, *commands: Sequence[str], **variables: str) -> list[Done]:
        """The same of several commands, in one process of this repository's folder."""
        return run_in_turn(commands, ROOT, {**self.environment, **variables})

    def stop(self) -> None:
        self._end()
        self.temporary.cleanup()

    def _end(self) -> None:
        """End every process of this cluster, and no other: those that descend from its head."""
        family: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        _, alive = psutil.wait_procs(family, timeout=5)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def make_bare_python(folder: pathlib.Path) -> pathlib.Path:
    """An interpreter with every installed package but ours, which is an editable one."""
    venv.create(folder, with_pip=False, symlinks=True)
    (version,) = (folder / "lib").iterdir()
    (version / "site-packages" / "stack.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = folder / "bin" / "python"
    found = subprocess.run(
        [python, "-c", "import ray; import raymlops"], capture_output=True, text=True, check=False, cwd=folder
    )
    assert "No module named 'raymlops'" in found.stderr, found.stderr
    return python


def head_for(folder: pathlib.Path, python: pathlib.Path, *options: str) -> Iterator[Head]:
    """A fixture's body."""
    head = Head(folder, python, *options)
    yield head
    head.stop()
