"""Makes the files beside this one, with the code that stands in another folder: see README.md.

    python tests/kept/make.py FOLDER_WITH_THE_OLDER_CODE

It trains two versions, moves an alias, deploys twice on a cluster of its own, kills a search, and asks what each
answers; some three minutes. The private key that signed is not kept; its public one is.
"""

import json
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnx
import psutil
import yaml

KEPT = pathlib.Path(__file__).parent
KINDS = {"x": "number", "z": "number", "word": "category", "when": "timestamp"}
SEARCH = {
    "algorithm": "random", "scheduler": "none", "trials": 2, "concurrent": 1,
    "space": {"lr": {"low": 0.005, "high": 0.05, "log": True}},
}  # fmt: skip


def write_rows(path: pathlib.Path, rows: int = 400) -> None:
    draw = np.random.default_rng(7)
    x, z = draw.normal(size=(2, rows)).round(4)
    word = draw.choice(["red", "green", "blue"], rows)
    when = np.datetime64("2023-01-01T00:00:00") + draw.integers(0, 365 * 86_400, rows)
    late = np.where(2 * x - z + (word == "red") > 0.5, "yes", "no")
    lines = [
        f"{number},{a if draw.random() > 0.05 else ''},{b},{c},{d}Z,{e}"
        for number, (a, b, c, d, e) in enumerate(zip(x, z, word, when, late, strict=True))
    ]
    path.write_text("\n".join(["id,x,z,word,when,late", *lines]) + "\n")


def write_model(path: pathlib.Path, seed: int, inputs: tuple[str, ...] = ("x",)) -> None:
    """`y` = sigmoid of a random linear map of the inputs' sum, 3 -> 3; `sure` its largest; `label` which one."""
    weights = np.random.default_rng(seed).normal(size=(3, 3)).astype(np.float32)
    make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [
            make("Sum", list(inputs), ["sum"]),
            make("MatMul", ["sum", "weights"], ["product"]),
            make("Sigmoid", ["product"], ["y"]),
            make("ReduceMax", ["y", "axes"], ["sure"], keepdims=0),
            make("ArgMax", ["y"], ["label"], axis=1, keepdims=0),
        ],
        "linear",
        [info(name, onnx.TensorProto.FLOAT, ["rows", 3]) for name in inputs],
        [
            info("y", onnx.TensorProto.FLOAT, ["rows", 3]),
            info("sure", onnx.TensorProto.FLOAT, ["rows"]),
            info("label", onnx.TensorProto.INT64, ["rows"]),
        ],
        [
            onnx.numpy_helper.from_array(weights, "weights"),
            onnx.numpy_helper.from_array(np.array([1]), "axes"),
        ],
    )
    opsets = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


class Older:
    """The `raymlops` command of the older code, in a folder of its own."""

    def __init__(self, code: pathlib.Path, root: pathlib.Path) -> None:
        self.root = root
        self.environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(root),
            "USER": "ann",
            "RAYMLOPS_HOME": str(root / "home"),
            "RAY_TMPDIR": str(root / "ray"),
            "PYTHONPATH": str(code),
        }

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        print("raymlops", *arguments, flush=True)
        return subprocess.Popen(
            [sys.executable, "-m", "raymlops", "--debug", *arguments],
            cwd=self.root, env={**self.environment, **variables}, text=True,
            stdout=subprocess.PIPE, stderr=sys.stderr,
        )  # fmt: skip

    def run(self, *arguments: str, **variables: str) -> str:
        process = self.start(*arguments, **variables)
        said = process.communicate()[0]
        assert process.returncode == 0, said
        return said


def make_versions(older: Older) -> None:
    """Two of them, evaluated, promoted, and one back on the record."""
    spec = {
        "name": "kept",
        "dataset": {"reader": "csv", "path": "rows.csv"},
        "features": {
            "target": {"column": "late", "task": "binary"},
            "columns": {name: {"kind": kind} for name, kind in KINDS.items()},
        },
        "network": {"options": {"hidden": 8, "dropout": 0.0}},
        "training": {"epochs": 2, "batch_size": 64, "lr": 0.03},
        "evaluation": {"slices": ["word"], "bootstrap": 200},
        "gate": {"bootstrap": 200},
        "search": SEARCH,
    }
    (older.root / "spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    older.run("train", "spec.yaml", "--why", "the first", "--quiet")
    older.run("train", "spec.yaml", "--set", "training.lr=0.02", "--why", "the second", "--quiet")
    older.run("evaluate", "models:/kept/2")
    older.run("promote", "kept", "2", "--why", "to go back later", "--force")
    older.run(
        "predict",
        "models:/kept/2",
        "rows.csv",
        "--output",
        "scores",
        "--format",
        "csv",
        "--keep",
        "id",
    )
    lines = [path.read_text().splitlines() for path in sorted((older.root / "scores").glob("*.csv"))]
    (older.root / "scores.csv").write_text(
        "\n".join([lines[0][0], *(row for one in lines for row in one[1:])]) + "\n"
    )


def score_a_graph(older: Older) -> None:
    for name in ("graph.yaml", "inner.yaml", "kept_nodes.py"):
        shutil.copy(KEPT / name, older.root)
    draw = np.random.default_rng(1)
    rows = [
        {
            "row": number,
            "x": draw.normal(size=3).round(3).tolist(),
            "size": int(draw.integers(-3, 4)),
            "user": str(draw.choice(["ann", "bob", "cid", "dée"])),
            "parts": draw.normal(size=(int(draw.integers(1, 4)), 3)).round(3).tolist(),
        }
        for number in range(12)
    ]
    (older.root / "graph_rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    options = ("--output", "graph", "--format", "jsonl", "--keep", "row")
    older.run("predict", "graph.yaml", "graph_rows.jsonl", *options)
    answers = "".join(path.read_text() for path in sorted((older.root / "graph").glob("*.jsonl")))
    (older.root / "graph_answers.jsonl").write_text(answers)


def cut_a_search(older: Older) -> None:
    """Killed with its cluster after some epochs of its first trial."""
    spec = yaml.safe_load((older.root / "spec.yaml").read_text())
    spec |= {"name": "cut", "training": {"epochs": 12, "batch_size": 4, "lr": 0.03, "patience": 12}}
    (older.root / "cut.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    process = older.start("search", "cut.yaml", "--name", "cut-off")
    while len(list((older.root / "home/storage/cut-off").glob("*/checkpoint_*"))) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(3)  # Tune writes its own state every second or so
    driver = psutil.Process(process.pid)
    for victim in [driver, *driver.children(recursive=True)]:
        victim.send_signal(signal.SIGKILL)
    process.wait()


def make_models(root: pathlib.Path) -> None:
    (root / "customers").mkdir()
    for seed, name in enumerate(("one", "two", "large")):
        write_model(root / f"{name}.onnx", seed)
    write_model(root / "sum.onnx", 3, ("a", "b"))
    for seed in (4, 5):
        write_model(root / f"customers/c{seed}.onnx", seed)


def deploy_twice(older: Older) -> None:
    """On a cluster of its own, so that there is one to go back to."""
    from tests.serving_process import free_port, separate_ports

    older.environment |= separate_ports()
    spec = {
        "name": "kept",
        "port": free_port(),
        "cpus": 0.2,
        "models": {"kept": {"source": "models:/kept/1"}},
    }
    (older.root / "deployed.yaml").write_text(yaml.safe_dump(spec))
    process = older.start("serve", "deployed.yaml", "name=other", "route=/other")
    assert process.stdout is not None
    line = next(line for line in process.stdout if "RAY_ADDRESS=" in line)
    try:
        address = line.split("RAY_ADDRESS=")[1].split()[0]
        older.run("deploy", "deployed.yaml", RAY_ADDRESS=address)
        older.run("deploy", "deployed.yaml", "models.kept.source=models:/kept/2", RAY_ADDRESS=address)
    finally:
        process.terminate()
        process.communicate(timeout=60)


def keep(root: pathlib.Path) -> None:
    """What users keep, with the paths of this machine written as @ROOT@ where they are not signed."""
    database = sqlite3.connect(root / "home/mlflow.db")
    (KEPT / "mlflow.sql").write_text(
        "\n".join(database.iterdump()).replace(str(root), "@ROOT@") + "\n", encoding="utf-8"
    )
    mark = root / "home/storage/cut-off/raymlops.mark"
    mark.write_text(json.dumps({**json.loads(mark.read_text()), "host": "a-machine", "beat": 0.0}))
    for path in (root / "home/storage").glob("kept-2*"):
        shutil.rmtree(path)  # of trainings that came to their end
    for name in ("artifacts", "storage"):
        shutil.rmtree(KEPT / "home" / name, ignore_errors=True)
        shutil.copytree(root / "home" / name, KEPT / "home" / name)
    for pattern in ("*.yaml", "*.csv", "*.jsonl", "*.onnx", "key.pub"):
        for path in root.glob(pattern):
            shutil.copy(path, KEPT)
    shutil.copytree(root / "customers", KEPT / "customers", dirs_exist_ok=True)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="kept-", dir="/tmp") as folder:
        root = pathlib.Path(folder)
        subprocess.run(["git", "clone", "-q", sys.argv[1], root / "code"], check=True)
        older = Older(root / "code", root)
        write_rows(older.root / "rows.csv")
        make_models(older.root)
        make_versions(older)
        score_a_graph(older)
        deploy_twice(older)
        cut_a_search(older)
        (older.root / "key.pub").write_text(older.run("history", "--key"))
        keep(root)


if __name__ == "__main__":
    main()
