"""What monitoring costs an endpoint: the same version served with `monitoring: on` and `off`, in turns, while the other
server stands still. CPU time of the replica a request, requests a second, and p99.

    python -m benchmarks.monitoring_cost --seconds 4 --rounds 5
"""

import argparse
import os
import pathlib
import statistics
import tempfile
from collections.abc import Callable

import numpy as np
import psutil

from benchmarks import wrk
from benchmarks.rounds import verdict
from benchmarks.serving import make_binary, make_body, standing_still
from benchmarks.wrk import Figures
from raymlops.lifecycle.govern.register import register_file
from raymlops.settings import Settings
from tests import toy_models
from tests.monitored_versions import add_reference, read_counts
from tests.serving_process import Served

COLUMNS, REFERENCE_ROWS, CONNECTIONS = 16, 2000, 16
KINDS: dict[str, Callable[[], tuple[bytes, dict[str, str]]]] = {
    "1 row, JSON": lambda: (make_body(1, COLUMNS), {}),
    "256 rows, binary": lambda: make_binary(256, COLUMNS),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5, help="medians are over these")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory() as folder:
        run(pathlib.Path(folder), arguments.seconds, arguments.rounds)


def run(folder: pathlib.Path, seconds: float, rounds: int) -> None:
    servers = {name: start(folder / name, name) for name in ("on", "off")}
    try:
        for kind, make in KINDS.items():
            body, headers = make()
            found: dict[str, list[tuple[float, Figures]]] = {"on": [], "off": []}
            for turn in range(-1, rounds):
                for name in ("on", "off") if turn % 2 else ("off", "on"):
                    other = servers["off" if name == "on" else "on"]
                    with standing_still(psutil.Process(other.process.pid)):
                        measured = measure(servers[name], body, headers, seconds)
                    if turn >= 0:
                        found[name].append(measured)
            show(kind, found)
            resident = {
                name: served.replicas()[0].memory_info().rss / 2**20 for name, served in servers.items()
            }
            print(
                f"memory of the replica, MiB: {', '.join(f'{name} {size:.0f}' for name, size in resident.items())}"
            )
        counts = read_counts(Settings.from_env(servers["on"].environment), "bench")
        print(f"counted: {counts}")
    finally:
        for served in servers.values():
            served.stop()


def start(folder: pathlib.Path, monitoring: str) -> Served:
    folder.mkdir(parents=True)
    settings = Settings.from_env({**os.environ, "RAYMLOPS_HOME": str(folder / "home")})
    file = toy_models.save(toy_models.mlp(COLUMNS), folder / "mlp.onnx")
    version, _ = register_file(file, "mlp", "a benchmark", settings)
    uri = f"models:/mlp/{version}"
    values = np.random.default_rng(0).normal(size=(REFERENCE_ROWS, COLUMNS)).astype(np.float32)
    add_reference(uri, {"x": values}, settings)
    spec = {
        "name": "bench",
        "cpus": 0.5,
        "models": {"mlp": {"source": uri}},
        "access_log": 0.0,
        "monitoring": {"tick_seconds": 10} if monitoring == "on" else "off",
    }
    return Served(folder, spec)


def measure(served: Served, body: bytes, headers: dict[str, str], seconds: float) -> tuple[float, Figures]:
    """CPU time of the replica in microseconds a request, and wrk's figures."""
    (replica,) = served.replicas()
    before = replica.cpu_times()
    figures = wrk.measure(
        f"{served.url}/v2/models/mlp/infer", body, connections=CONNECTIONS, seconds=seconds, headers=headers
    )
    after = replica.cpu_times()
    used = after.user + after.system - before.user - before.system
    return used / max(1.0, figures.rate * seconds) * 1e6, figures


def show(kind: str, found: dict[str, list[tuple[float, Figures]]]) -> None:
    print(
        f"\n{kind}, {CONNECTIONS} connections\n{'monitoring':12} {'us CPU/req':>10} {'req/s':>8} {'p99 ms':>8}"
    )
    for name, runs in found.items():
        cpu = statistics.median(cpu for cpu, _ in runs)
        rate = statistics.median(figures.rate for _, figures in runs)
        p99 = statistics.median(figures.p99 for _, figures in runs)
        print(f"{name:12} {cpu:10.1f} {rate:8.0f} {p99:8.2f}")
    ratios = [on / off for (on, _), (off, _) in zip(found["on"], found["off"], strict=True)]
    print(f"CPU of each round, on / off: {', '.join(f'{ratio:.3f}' for ratio in ratios)}")
    verdict(f"{kind}: CPU a request with monitoring", statistics.median(ratios), 1.03, at_most=True)


if __name__ == "__main__":
    main()
