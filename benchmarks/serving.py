"""Serving against its peers on one machine: requests a second and latencies, alternating, medians, ratios
within one run.

    python -m benchmarks.serving --peers --seconds 4 --rounds 3

Peers are installed into a venv of their own under --work, once. Every server is one process with one ONNX
Runtime
thread; ours has HAProxy in front, as it is deployed.
"""

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import psutil
from tritonclient.http import InferenceServerClient, InferInput

from benchmarks import wrk
from benchmarks.rounds import verdict
from benchmarks.wrk import Figures
from raymlops.features import table_to_batch
from raymlops.models.session import open_session
from raymlops.settings import Settings
from raymlops.tensors import Batch, Signature
from tests import toy_models
from tests.serving_process import Served, free_port

PEERS = pathlib.Path(__file__).parent / "peers"
CONNECTIONS = (1, 16, 64)
PARTS = ("single", "large", "batching", "flights")
WITH = {"granian": ("uvloop", "httptools", "orjson")}
"""What a peer is given beside ONNX Runtime."""


@dataclasses.dataclass(frozen=True)
class Target:
    name: str
    url: str
    body: bytes
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


def make_body(rows: int, columns: int) -> bytes:
    values = np.random.default_rng(1).normal(size=rows * columns).round(4).tolist()
    tensor = {"name": "x", "shape": [rows, columns], "datatype": "FP32", "data": values}
    return json.dumps({"inputs": [tensor]}).encode()


def make_binary(rows: int, columns: int) -> tuple[bytes, dict[str, str]]:
    array = np.random.default_rng(1).normal(size=(rows, columns)).astype("<f4")
    size = {"binary_data_size": array.nbytes}
    tensor = {"name": "x", "shape": [rows, columns], "datatype": "FP32", "parameters": size}
    text = json.dumps({"inputs": [tensor]}).encode()
    return text + array.tobytes(), {"Inference-Header-Content-Length": str(len(text))}


@contextlib.contextmanager
def standing_still(process: psutil.Process) -> Iterator[None]:
    """A server and all that it started are stopped: an idle cluster of Ray takes a tenth of two cores."""
    tree = [process, *process.children(recursive=True)]
    for member in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.suspend()
    try:
        yield
    finally:
        for member in reversed(tree):
            with contextlib.suppress(psutil.NoSuchProcess):
                member.resume()
        time.sleep(1)  # what was due meanwhile is done before anything is measured


@contextlib.contextmanager
def running(
    command: Sequence[str], url: str, folder: pathlib.Path, **environment: str
) -> Iterator[psutil.Process]:
    """A peer in a process of its own, ready to answer."""
    name = url.rsplit(":", 1)[1].split("/")[0]
    with (folder / f"{name}.log").open("wb") as log:
        env = {**os.environ, **environment}
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=env, cwd=folder, start_new_session=True
        )
        try:
            wait_for(url, process)
            yield psutil.Process(process.pid)
        finally:
            started = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 15)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
            for left in psutil.wait_procs(started, timeout=5)[1]:  # Serve's HAProxy is in no group of ours
                with contextlib.suppress(psutil.NoSuchProcess):
                    left.kill()


def wait_for(url: str, process: subprocess.Popen[bytes], seconds: float = 90) -> None:
    base = "/".join(url.split("/")[:3])
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if process.poll() is not None:
            raise RuntimeError(f"the server of {url} ended with {process.returncode}")
        try:
            urllib.request.urlopen(base, timeout=1).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.3)
    raise RuntimeError(f"no answer from {url} within {seconds:g} s")


def install_peer(work: pathlib.Path, name: str) -> pathlib.Path:
    """The folder of a peer's executables; each has its own venv, since together they do not resolve."""
    venv = work / f"peer-{name}"
    if not (venv / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        pins = PEERS.with_suffix(".txt").read_text().split()
        wanted = [pin for pin in pins if pin.startswith((name, "onnxruntime", "numpy", *WITH.get(name, ())))]
        pip = [str(venv / "bin/pip"), "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, *wanted], check=True)
        (venv / "installed").touch()
    return venv / "bin"


@contextlib.contextmanager
def start_peers(
    work: pathlib.Path, model: pathlib.Path, body: bytes, *, only: str = ""
) -> Iterator[list[Target]]:
    """MLServer, LitServe and BentoML on the same model; or one of them."""
    start = {"mlserver": command_mlserver, "litserve": command_litserve, "bentoml": command_bentoml}
    titles = {"mlserver": "MLServer", "litserve": "LitServe", "bentoml": "BentoML"}
    variables = {"PYTHONPATH": str(PEERS), "BENCH_MODEL": str(model), "BENTOML_DO_NOT_TRACK": "1"}
    targets = []
    with contextlib.ExitStack() as stack:
        for name in [only] if only else start:
            port, binaries = free_port(), install_peer(work, name)
            command, path = start[name](binaries, port, model, work)
            url = f"http://127.0.0.1:{port}{path}"
            searched = f"{binaries}:{os.environ['PATH']}"
            stack.enter_context(running(command, url, work, PATH=searched, **variables))
            targets.append(Target(titles[name], url, body))
        yield targets


def command_mlserver(
    binaries: pathlib.Path, port: int, model: pathlib.Path, work: pathlib.Path
) -> tuple[list[str], str]:
    """How to start it, and the path that it answers on."""
    folder = work / "mlserver"
    folder.mkdir(exist_ok=True)
    ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    settings = {**ports, "parallel_workers": 0, "debug": False, "host": "127.0.0.1"}
    (folder / "settings.json").write_text(json.dumps(settings))
    entry = {"name": "mlp", "implementation": "mlserver_model.OnnxModel", "parameters": {"uri": str(model)}}
    (folder / "model-settings.json").write_text(json.dumps(entry))
    return [str(binaries / "mlserver"), "start", str(folder)], "/v2/models/mlp/infer"


def command_litserve(
    binaries: pathlib.Path, port: int, model: pathlib.Path, work: pathlib.Path
) -> tuple[list[str], str]:
    return [str(binaries / "python"), str(PEERS / "litserve_app.py"), str(model), str(port)], "/predict"


def command_bentoml(
    binaries: pathlib.Path, port: int, model: pathlib.Path, work: pathlib.Path
) -> tuple[list[str], str]:
    serve = [str(binaries / "bentoml"), "serve", "bentoml_service:Mlp", "--working-dir", str(PEERS)]
    return [*serve, "--port", str(port)], "/predict"


@contextlib.contextmanager
def start_bare(work: pathlib.Path, model: pathlib.Path) -> Iterator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}/v2/models/mlp/infer"
    with running([sys.executable, str(PEERS / "bare.py"), str(model), str(port)], url, work):
        yield url


@contextlib.contextmanager
def start_ceilings(work: pathlib.Path, model: pathlib.Path, body: bytes) -> Iterator[list[Target]]:
    """What answers without any check: Granian's RSGI, and a bare protocol that joins runs."""
    python = install_peer(work, "granian")
    ports = [free_port() for _ in range(2)]
    urls = [f"http://127.0.0.1:{port}/v2/models/mlp/infer" for port in ports]
    rust = [str(python / "granian"), "--interface", "rsgi", "--loop", "uvloop", "--host", "127.0.0.1"]
    commands = [
        [
            *rust,
            "--port",
            str(ports[0]),
            "--workers",
            "1",
            "--no-ws",
            "--working-dir",
            str(PEERS),
            "granian_app:app",
        ],
        [str(python / "python"), str(PEERS / "raw_protocol.py"), str(model), str(ports[1])],
    ]
    with contextlib.ExitStack() as stack:
        for command, url in zip(commands, urls, strict=True):
            variables = {"PYTHONPATH": str(PEERS), "BENCH_MODEL": str(model)}
            stack.enter_context(running(command, url, work, **variables))
        names = ("Granian RSGI + ORT", "raw protocol + ORT")
        yield [Target(name, url, body) for name, url in zip(names, urls, strict=True)]


def compare(
    targets: Sequence[Target], connections: Sequence[int], seconds: float, rounds: int
) -> dict[tuple[str, int], Figures]:
    """Medians of rounds in which the targets take turns, every other round in reverse; each is warmed up first."""
    for target in targets:
        wrk.measure(target.url, target.body, connections=4, seconds=1, headers=target.headers)
    runs: dict[tuple[str, int], list[Figures]] = {}
    for turn in range(rounds):
        for count in connections:
            for target in targets if turn % 2 == 0 else targets[::-1]:
                figures = wrk.measure(
                    target.url, target.body, connections=count, seconds=seconds, headers=target.headers
                )
                runs.setdefault((target.name, count), []).append(figures)
    return {key: median(figures) for key, figures in runs.items()}


def median(figures: Sequence[Figures]) -> Figures:
    return Figures(
        statistics.median(f.rate for f in figures),
        statistics.median(f.p50 for f in figures),
        statistics.median(f.p99 for f in figures),
        sum(f.failed for f in figures),
    )


def show(title: str, results: dict[tuple[str, int], Figures], base: str = "raymlops") -> None:
    """A table; the last column is how many times faster ours is."""
    print(
        f"\n{title}\n{'server':22} {'conn':>4} {'req/s':>8} {'p50 ms':>8} "
        f"{'p99 ms':>8} {'failed':>6} {'ours/it':>8}"
    )
    for (name, count), figures in results.items():
        ours = results.get((base, count))
        ratio = f"{ours.rate / figures.rate:8.2f}" if ours else ""
        print(
            f"{name:22} {count:4} {figures.rate:8.0f} {figures.p50:8.2f} "
            f"{figures.p99:8.2f} {figures.failed:6} {ratio}"
        )


def serve(folder: pathlib.Path, models: dict[str, Any], **options: Any) -> Served:
    folder.mkdir(parents=True, exist_ok=True)
    spec = {"name": "bench", "cpus": 0.5, "models": models, "access_log": 0.0, **options}
    return Served(folder, spec)


def run_models(arguments: argparse.Namespace, work: pathlib.Path) -> None:
    """Every comparison that needs our server, on one start of it."""
    mlp = toy_models.save(toy_models.mlp(), work / "mlp.onnx")
    wide = toy_models.save(toy_models.mlp(1024, 4, 1), work / "wide.onnx")
    expensive = toy_models.save(toy_models.mlp(20, 1400, 8), work / "expensive.onnx")
    parts = PARTS if arguments.part == "all" else (arguments.part,)
    models: dict[str, Any] = {
        "mlp": {"source": str(mlp)},
        "wide": {"source": str(wide)},
        "joined": {"source": str(expensive)},
        "alone": {"source": str(expensive), "batching": {"mode": "off"}},
    }
    if "flights" in parts:
        flights_model, rows = make_flights(work)
        models["flights"] = {"source": str(flights_model)}
    served = serve(work / "ours", models)
    try:
        if "single" in parts:
            run_single(arguments, work, served, mlp)
        if "large" in parts:
            run_large(arguments, work, served, wide)
        if "batching" in parts:
            run_batching(arguments, served)
        if "flights" in parts:
            run_flights(arguments, served, flights_model, rows)
    finally:
        served.stop()


def run_single(
    arguments: argparse.Namespace, work: pathlib.Path, served: Served, model: pathlib.Path
) -> None:
    body = make_body(1, 20)
    with contextlib.ExitStack() as stack:
        bare = stack.enter_context(start_bare(work, model))
        targets = [
            Target("raymlops", f"{served.url}/v2/models/mlp/infer", body),
            Target("bare uvicorn + ORT", bare, body),
        ]
        if arguments.ceilings or arguments.peers:
            targets += stack.enter_context(start_ceilings(work, model, body))
        if arguments.peers:
            targets += stack.enter_context(start_peers(work, model, body))
        results = compare(targets, CONNECTIONS, arguments.seconds, arguments.rounds)
    show("One row of 20 features as JSON", results)
    for count, wanted in zip(CONNECTIONS, (0.9, 0.9, 0.75), strict=True):
        granian = results.get(("Granian RSGI + ORT", count))
        if granian:
            verdict(f"against Granian at {count}", results["raymlops", count].rate / granian.rate, wanted)


def run_large(arguments: argparse.Namespace, work: pathlib.Path, served: Served, model: pathlib.Path) -> None:
    binary, headers = make_binary(256, 1024)
    text = make_body(256, 1024)
    with contextlib.ExitStack() as stack:
        bare = stack.enter_context(start_bare(work, model))
        url = f"{served.url}/v2/models/wide/infer"
        targets = [
            Target("raymlops", url, binary, headers),
            Target("bare uvicorn + ORT", bare, binary, headers),
            Target("raymlops, JSON", url, text),
        ]
        if arguments.peers:
            targets += stack.enter_context(start_peers(work, model, text, only="mlserver"))
        results = compare(targets, (1, 4), arguments.seconds, arguments.rounds)
    show("1 MiB of floats: binary, against the same numbers as JSON", results)
    for count in (1, 4):
        peer = results.get(("MLServer", count))
        if peer:
            ratio = results["raymlops, JSON", count].rate / peer.rate
            verdict(f"JSON against MLServer at {count}", ratio, 1.5)


def run_batching(arguments: argparse.Namespace, served: Served) -> None:
    body = make_body(1, 20)
    targets = [
        Target("raymlops", f"{served.url}/v2/models/joined/infer", body),
        Target("batching off", f"{served.url}/v2/models/alone/infer", body),
    ]
    show("A model of about 5 ms a row", compare(targets, (1, 16), arguments.seconds, arguments.rounds))


def make_flights(folder: pathlib.Path) -> tuple[pathlib.Path, Batch]:
    """The model of jobs/specs/flights.yaml, and raw rows of its test split that miss nothing."""
    import ray  # not before the benchmark of graphs, which shares this module, has set how Ray authenticates

    from benchmarks import flights
    from raymlops.lifecycle.cluster import join_cluster

    join_cluster(Settings.from_env())
    prepared = flights.prepare_flights()
    path = folder / "flights.onnx"
    path.write_bytes(flights.export_model(prepared))
    rows = flights.take_rows(prepared).drop_null().slice(0, 100)
    ray.shutdown()
    return path, table_to_batch(rows, prepared.features)


def run_flights(arguments: argparse.Namespace, served: Served, model: pathlib.Path, rows: Batch) -> None:
    """Rows a second of raw columns over HTTP, against the session alone; JSON and binary."""
    session = open_session(model)
    print(f"\nFlights, {len(rows)} raw columns\n{'':22} {'rows':>5} {'rows/s':>9} {'of session':>10}")
    for count in (1, 100):
        batch = {name: values[:count] for name, values in rows.items()}
        alone = count * rate_of(lambda batch=batch: session.infer(batch))  # type: ignore[misc]
        print(f"{'session alone':22} {count:5} {alone:9.0f}")
        for kind, binary in (("JSON", False), ("binary", True)):
            body, headers = encode(session.signature, batch, binary=binary)
            target = Target("", f"{served.url}/v2/models/flights/infer", body, headers)
            figures = compare([target], (16,), arguments.seconds, arguments.rounds)["", 16]
            rate = figures.rate * count
            print(f"{f'raymlops, {kind}, 16 conn.':22} {count:5} {rate:9.0f} {rate / alone:10.3f}")
            verdict(f"{kind}, {count} rows, of the session", rate / alone, 0.5)


def rate_of(call: Callable[[], object], seconds: float = 1.0) -> float:
    """Calls a second."""
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        call()
        count += 1
    return count / (time.perf_counter() - started)


def encode(signature: Signature, batch: Batch, *, binary: bool) -> tuple[bytes, dict[str, str]]:
    """A request as the stock client writes it: body and headers."""
    inputs = []
    for spec in signature.inputs:
        values = batch[spec.name]
        tensor = InferInput(spec.name, list(values.shape), spec.datatype)
        tensor.set_data_from_numpy(values, binary_data=binary)
        inputs.append(tensor)
    body, length = InferenceServerClient.generate_request_body(inputs)
    return body, {} if length is None else {"Inference-Header-Content-Length": str(length)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", action="store_true", help="also MLServer, LitServe and BentoML")
    parser.add_argument(
        "--ceilings",
        action="store_true",
        help="also Granian and a raw protocol, unchecked; --peers has them, too",
    )
    parser.add_argument("--part", choices=("all", *PARTS), default="all")
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="medians are over these")
    parser.add_argument(
        "--work", type=pathlib.Path, help="folder for peers and models; default a temporary one"
    )
    arguments = parser.parse_args()
    versions = {name: importlib.metadata.version(name) for name in ("raymlops", "ray", "uvicorn")}
    print(f"{versions}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or pathlib.Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        run_models(arguments, work)


if __name__ == "__main__":
    main()
