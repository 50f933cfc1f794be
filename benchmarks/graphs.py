"""Compositions against one model, and against handles of Ray Serve by hand; many models in little memory.

    python -m benchmarks.graphs --seconds 4 --rounds 3

Everything is measured through HTTP, in turns, within one run; medians and ratios.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil

from benchmarks.rounds import verdict
from benchmarks.serving import Target, compare, make_body, median, running, show, standing_still
from benchmarks.wrk import Figures, measure_mix
from raymlops.settings import Settings, choose_authentication, export
from tests import toy_models
from tests.graph_models import make_mlp
from tests.serving_process import Served, free_port, separate_ports

CHAIN = ("embed", "refine", "judge")
NAMES = ("single", *CHAIN)
SHADOWED = ("shadowed", "shadowed-expensive")
"""By a model as short as the one that answers, and by one of some milliseconds."""


def make_chain(models: dict[str, pathlib.Path], **node: Any) -> dict[str, Any]:
    """Three models, each reading the one before."""
    sources = ["inputs.x", "embed.y", "refine.y"]
    nodes = {
        name: {"kind": "model", "model": str(models[name]), "inputs": {"x": source}, **node}
        for name, source in zip(CHAIN, sources, strict=True)
    }
    return {"nodes": nodes, "outputs": {"y": "judge.y"}}


def make_shadow(models: dict[str, pathlib.Path], mirror: str) -> dict[str, Any]:
    nodes = {
        "champion": {"kind": "model", "model": str(models["single"])},
        "challenger": {"kind": "model", "model": str(models[mirror])},
        "release": {"kind": "shadow", "primary": "champion", "mirror": "challenger"},
    }
    return {"nodes": nodes, "outputs": ["release"]}


def save_models(work: pathlib.Path) -> dict[str, pathlib.Path]:
    made = {name: make_mlp(i, outputs=20 if name in CHAIN[:2] else 1) for i, name in enumerate(NAMES)}
    made["expensive"] = make_mlp(9, width=200_000, outputs=1)  # some milliseconds
    return {name: toy_models.save(model, work / f"{name}.onnx") for name, model in made.items()}


@contextlib.contextmanager
def start_handles(work: pathlib.Path, models: dict[str, pathlib.Path]) -> Iterator[str]:
    """The same chain as anybody would write it with Ray Serve's handles, with the same fast settings."""
    port = free_port()
    script = pathlib.Path(__file__).parent / "peers" / "handles.py"
    url = f"http://127.0.0.1:{port}/v2/models/chain/infer"
    ports = separate_ports()
    command = [sys.executable, str(script), str(port), *(str(models[name]) for name in CHAIN)]
    with running(command, url, work, **ports):
        wait_for_answer(url, make_body(1, 20))
        yield url


def wait_for_answer(
    url: str, body: bytes, headers: dict[str, str] | None = None, seconds: float = 60
) -> None:
    """Until a server has answered ten times in a row: its replicas become known one after the other."""
    ends = time.monotonic() + seconds
    answered = 0
    while answered < 10:
        try:
            ask(url, body, headers)
            answered += 1
        except OSError:
            answered = 0
            if time.monotonic() > ends:
                raise
            time.sleep(0.3)


def run_placements(arguments: argparse.Namespace, work: pathlib.Path) -> None:
    models = save_models(work)
    chain = make_chain(models)
    light = {"cpus": 0.1}
    spec = {
        "name": "bench",
        "cpus": 0.5,
        "access_log": 0.0,
        "models": {"single": {"source": str(models["single"])}},
        "graphs": {
            "fused": {**chain, "merge": False},
            "merged": chain,
            "separate": make_chain(models, placement="separate", resources=light),
            "plain": {"nodes": {"a": {"kind": "model", "model": str(models["single"])}}, "outputs": ["a"]},
            "shadowed": make_shadow(models, "single"),
            "shadowed-expensive": make_shadow(models, "expensive"),
        },
    }
    (work / "ours").mkdir()
    body = make_body(1, 20)
    served = Served(work / "ours", spec)
    try:
        names = ["single", "fused", "merged", "plain", *SHADOWED]
        targets = [Target(name, f"{served.url}/v2/models/{name}/infer", body) for name in names]
        results = compare(targets, (1, 16), arguments.seconds, arguments.rounds)
        show("Three models of 20 features as one graph, in the ingress replica", results, "single")
        rate = {name: results[name, 16].rate for name in names}
        verdict("fused graph of three against one model", rate["fused"] / rate["single"], 0.8)
        verdict("merged chain of three against one model", rate["merged"] / rate["single"], 0.9)
        for name in SHADOWED:
            verdict(f"{name} against without", rate[name] / rate["plain"], 0.95)
            print(f"{name}:", read_stats(served.url, name)["shadows"])
        with start_handles(work, models) as url:
            ours = f"{served.url}/v2/models/separate/infer"
            assert np.allclose(ask(ours, body), ask(url, body), rtol=1e-5), "not the same chain"
            pair = [Target("separate", ours, body), Target("handles", url, body)]
            results = compare(pair, (1, 16), arguments.seconds, arguments.rounds)
        show("The same three in replicas of their own", results, "separate")
        ratio = results["separate", 16].rate / results["handles", 16].rate
        verdict("separate nodes against handles by hand", ratio, 1.0)
    finally:
        served.stop()


def run_weights(arguments: argparse.Namespace, work: pathlib.Path) -> None:
    """How long until every answer of two replicas comes from the other branch."""
    models = save_models(work)
    nodes: dict[str, Any] = {
        name: {"kind": "model", "model": str(models[source])}
        for name, source in (("old", "single"), ("new", "judge"))
    }
    nodes["canary"] = {"kind": "split", "weights": {"old": 1, "new": 0}}
    graph = {"nodes": nodes, "outputs": ["canary"]}
    (work / "weights").mkdir()
    served = Served(work / "weights", {"graphs": {"canary": graph}, "cpus": 0.2, "replicas": 2})
    try:
        address = re.search(r"RAY_ADDRESS=(\S+)", "".join(served.lines))
        assert address is not None
        export(choose_authentication())
        import ray

        from raymlops.serving.deploy import client
        from raymlops.serving.deploy.traffic import change_weights

        # As the commands join it: a cluster of one machine listens on loopback only.
        client.connect(dataclasses.replace(Settings.from_env(), ray_address=address[1]))
        body = make_body(1, 20)
        url = f"{served.url}/v2/models/canary/infer"
        for turn in range(arguments.rounds):
            branch = "new" if turn % 2 == 0 else "old"
            before = ask(url, body)
            began = time.perf_counter()
            thread = threading.Thread(
                target=change_weights, args=("raymlops", "canary", "canary", {branch: 1.0})
            )
            thread.start()
            changed = 0
            while changed < 50:  # by then both replicas have answered
                changed = changed + 1 if ask(url, body) != before else 0
            seconds = time.perf_counter() - began
            verdict(
                f"seconds until 2 replicas have other weights, round {turn + 1}", seconds, 2, at_most=True
            )
            thread.join()
        ray.shutdown()
    finally:
        served.stop()


def ask(url: str, body: bytes, headers: dict[str, str] | None = None) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, body, headers or {}), timeout=30) as response:
        return json.load(response)["outputs"][0]["data"]


def run_many(arguments: argparse.Namespace, work: pathlib.Path, count: int = 200, fit: int = 50) -> None:
    """Models of 1 MB, of which a quarter fits, asked for by Zipf's law, in two replicas."""
    folder = work / "zoo"
    folder.mkdir()
    for i in range(count):
        toy_models.save(make_mlp(i, width=6200, outputs=20), folder / f"m{i:03}.onnx")
    size = (folder / "m000.onnx").stat().st_size
    print(f"\n{count} models of {size / 1e6:.2f} MB, memory for {fit} in each of 2 replicas")
    spec = {"name": "zoo", "cpus": 0.5, "replicas": 2, "access_log": 0.0}
    spec["many"] = {"folder": str(folder), "memory_mb": fit * size / 1e6}
    ranks = np.arange(1, count + 1)
    names = np.random.default_rng(0).choice(count, size=20000, p=(1 / ranks) / (1 / ranks).sum())
    body = make_body(1, 20)
    mixes = {
        "raymlops": [(f"/v2/models/m{i:03}/infer", f"m{i:03}") for i in names],
        "multiplexed": [("/", f"m{i:03}") for i in names],
    }
    (work / "many").mkdir()
    served = Served(work / "many", spec)
    port = free_port()
    script = pathlib.Path(__file__).parent / "peers" / "multiplexed.py"
    ports = separate_ports()
    command = [sys.executable, str(script), str(port), str(folder), str(fit)]
    url = f"http://127.0.0.1:{port}/"
    try:
        with running(command, url, work, **ports) as peer:
            wait_for_answer(url, body, {"serve_multiplexed_model_id": "m000"})
            urls = {"raymlops": served.url, "multiplexed": url}
            path, name = mixes["raymlops"][0]
            header = {"serve_multiplexed_model_id": name}
            assert np.allclose(ask(served.url + path, body), ask(url, body, header), atol=1e-4), (
                "not the same"
            )
            runs: dict[tuple[str, int], list[Figures]] = {}
            others = {"raymlops": peer, "multiplexed": psutil.Process(served.process.pid)}
            for turn in range(arguments.rounds + 1):
                for name, mix in mixes.items():
                    with standing_still(others[name]):
                        figures = measure_mix(
                            urls[name], body, mix, connections=16, seconds=arguments.seconds
                        )
                    if turn:  # the first one fills the caches
                        runs.setdefault((name, 16), []).append(figures)
            results = {key: median(figures) for key, figures in runs.items()}
        for counted in read_caches(served):
            print("a replica:", ", ".join(f"{number:.0f} {name}" for name, number in counted.items()))
    finally:
        served.stop()
    show("Many models, Zipf traffic", results)
    verdict(
        "many models against @serve.multiplexed",
        results["raymlops", 16].rate / results["multiplexed", 16].rate,
        3.0,
    )


def read_caches(served: Served) -> Iterator[dict[str, float]]:
    """What the cache of each replica counted."""
    with urllib.request.urlopen(f"{served.url}/metrics", timeout=30) as response:
        text = response.read().decode()
    found: dict[str, dict[str, float]] = {}
    for name, replica, number in re.findall(
        r'^raymlops_many_(\w+?)(?:_total)?\{.*replica="(\w+)".*\} (\S+)$', text, re.MULTILINE
    ):
        found.setdefault(replica, {})[name] = float(number)
    yield from found.values()


def read_stats(url: str, name: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/v2/models/{name}/stats", timeout=30) as response:
        return json.load(response)["model_stats"][0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="medians are over these")
    parser.add_argument("--part", choices=("all", "placements", "many", "weights"), default="all")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory() as folder:
        parts = {"placements": run_placements, "many": run_many, "weights": run_weights}
        for name, part in parts.items():
            if arguments.part in (name, "all"):
                part(arguments, pathlib.Path(folder))


if __name__ == "__main__":
    main()
