"""Two hosts on a wire, as network namespaces: a head that listens beyond loopback takes only those with its token."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.cluster_process import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HEAD, WORKER = "10.98.0.1", "10.98.0.2"
RAY = str(pathlib.Path(sys.executable).parent / "ray")


class Host:
    """A network namespace with an address on the wire; its processes have their own loopback and ports."""

    def __init__(self, name: str, address: str, folder: pathlib.Path) -> None:
        self.name, self.address, self.home = name, address, folder / name
        self.home.mkdir()
        # Sockets lie in it, and their paths may not be long.
        self.temporary = tempfile.mkdtemp(prefix="ray-")
        self.running: list[subprocess.Popen[bytes]] = []
        self.log = folder / f"{name}.log"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY", "MLFLOW_"))}
        self.environment = {
            **kept,
            "HOME": str(self.home),
            "RAYMLOPS_HOME": str(folder / "shared"),
            "RAY_raylet_start_wait_time_s": "240",
            "RAY_agent_register_timeout_ms": "240000",
            "RAY_AUTH_MODE": "token",
        }

    def command(self, *arguments: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, *arguments]

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), env={**self.environment, **variables}, cwd=ROOT, capture_output=True, text=True,
            timeout=200, check=False,
        )  # fmt: skip

    def raymlops(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "raymlops", *arguments)

    def start(self, *arguments: str) -> None:
        with self.log.open("ab") as log:
            self.running.append(subprocess.Popen(
                self.command(*arguments), env=self.environment, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            ))  # fmt: skip

    def wait_for(self, text: str, seconds: float = 200) -> None:
        ends = time.monotonic() + seconds
        while text not in self.log.read_text():
            assert self.running[-1].poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < ends, self.log.read_text()[-3000:]
            time.sleep(0.3)

    def stop(self) -> None:
        for process in self.running:
            if process.poll() is None:
                for one in [
                    *psutil.Process(process.pid).children(recursive=True),
                    psutil.Process(process.pid),
                ]:
                    one.kill()
            process.wait()
        shutil.rmtree(self.temporary, ignore_errors=True)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    """A head's host and a worker's, joined by a wire."""
    if shutil.which("ip") is None:
        pytest.skip("no ip: network namespaces cannot be made (Debian: apt-get install iproute2)")
    names = [f"ray{os.getpid()}{side}" for side in "hw"]
    steps = [f"netns add {name}" for name in names]
    steps.append(f"link add eth0 netns {names[0]} type veth peer name eth0 netns {names[1]}")
    for name, address in zip(names, (HEAD, WORKER), strict=True):
        steps += [f"-n {name} address add {address}/24 dev eth0"]
        steps += [f"-n {name} link set {link} up" for link in ("lo", "eth0")]
    folder = tmp_path_factory.mktemp("hosts")
    made: list[Host] = []
    try:
        for step in steps:
            done = subprocess.run(["ip", *step.split()], capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"network namespaces cannot be made here: ip {step}: {done.stderr.strip()}")
        made = [Host(name, address, folder) for name, address in zip(names, (HEAD, WORKER), strict=True)]
        yield made[0], made[1]
    finally:
        for host in made:
            host.stop()
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def test_a_head_beyond_loopback_takes_only_those_with_its_token(hosts: tuple[Host, Host]) -> None:
    head, worker = hosts
    start = ("cluster", "start", f"--host={HEAD}", "--cpus=1", f"--temp-dir={head.temporary}")

    refused = head.raymlops(*start)
    assert (refused.returncode, "Will not listen on 10.98.0.1" in refused.stderr) == (2, True), refused.stderr
    assert head.raymlops("cluster", "token").returncode == 0  # what the refusal says to run
    head.start(sys.executable, "-m", "raymlops", *start)
    head.wait_for("Ray runtime started")

    join = (RAY, "start", f"--address={HEAD}:6379", f"--node-ip-address={WORKER}", "--num-cpus=1", "--block",
            "--disable-usage-stats", f"--temp-dir={worker.temporary}")  # fmt: skip
    without = worker.run(*join)
    assert without.returncode != 0
    assert "token" in without.stdout + without.stderr
    wrong = worker.run(*join, RAY_AUTH_TOKEN="x" * 64)
    assert wrong.returncode != 0
    (worker.home / ".ray").mkdir()
    shutil.copy(head.home / ".ray" / "auth_token", worker.home / ".ray" / "auth_token")
    worker.start(*join)
    worker.wait_for("Ray runtime started")


def test_the_doctor_sees_both_hosts_and_what_is_exposed(hosts: tuple[Host, Host]) -> None:
    _, worker = hosts
    seen = worker.raymlops("doctor", "--cluster", f"{HEAD}:6379", "--file", "none.yaml")
    assert f"2 nodes at {HEAD}:6379" in seen.stdout, seen.stdout + seen.stderr
    assert "runs without token" not in seen.stdout
    assert seen.stdout.count("listens beyond loopback") == 1  # the head has it, and the worker has nothing
    assert "Ray's client server listens beyond loopback" in seen.stdout
    ask = f"import urllib.request; urllib.request.urlopen('http://{HEAD}:8265', timeout=5)"
    dashboard = worker.run(sys.executable, "-c", ask)
    assert "refused" in dashboard.stderr
