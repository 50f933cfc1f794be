"""Small ONNX models and random graphs of them, for the tests of composition."""

import asyncio
import functools
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st

from raymlops.graphs.running import Implementation
from raymlops.models.session import Session, open_session
from raymlops.specs.document import validate_document
from raymlops.specs.graph import GraphSpec
from raymlops.tensors import Batch

WIDTH = 3
FLOAT, DOUBLE = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE


@functools.cache
def make_model(seed: int, inputs: tuple[str, ...] = ("x",), kind: int = FLOAT, width: int = WIDTH) -> bytes:
    """`y` = sigmoid of a random linear map of the inputs' sum; `sure` = its largest column; `label` = which
    one."""
    weights = np.random.default_rng(seed).normal(size=(width, WIDTH)).astype(np.float32)
    make = onnx.helper.make_node
    nodes = [
        make("Sum", list(inputs), ["sum"]),
        make("Cast", ["sum"], ["float"], to=FLOAT),
        make("MatMul", ["float", "weights"], ["product"]),
        make("Sigmoid", ["product"], ["y"]),
        make("ReduceMax", ["y", "axes"], ["sure"], keepdims=0),
        make("ArgMax", ["y"], ["label"], axis=1, keepdims=0),
    ]
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "random",
        [info(name, kind, ["rows", width]) for name in inputs],
        [
            info("y", FLOAT, ["rows", WIDTH]),
            info("sure", FLOAT, ["rows"]),
            info("label", onnx.TensorProto.INT64, ["rows"]),
        ],
        [
            onnx.numpy_helper.from_array(weights, "weights"),
            onnx.numpy_helper.from_array(np.array([1], dtype=np.int64), "axes"),
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


@functools.cache
def open_model(name: str) -> Session:
    """Models are named by what they are: `SEED` or `SEED,two` for one of two inputs."""
    return open_session(read_model(name))


def read_model(name: str) -> bytes:
    seed, _, shape = name.partition(",")
    return make_model(int(seed), ("a", "b") if shape == "two" else ("x",))


def run_afar(session: Session, seconds: float = 0.0) -> Implementation:
    """As another process would answer: later, and with copies."""

    async def run(batch: Batch) -> Batch:
        await asyncio.sleep(seconds)
        return pickle.loads(pickle.dumps(session.infer(pickle.loads(pickle.dumps(batch)))))

    return Implementation(run)


def count_calls(run: Callable[[Batch], Batch]) -> tuple[Implementation, list[int]]:
    rows: list[int] = []

    async def counted(batch: Batch) -> Batch:
        rows.append(len(next(iter(batch.values()))))
        return run(batch)

    return Implementation(counted, suspends=False), rows


def make_mlp(seed: int, features: int = 20, width: int = 64, outputs: int = 20) -> onnx.ModelProto:
    """x FP32[-1,features] -> y FP32[-1,outputs], through one hidden layer."""
    noise = np.random.default_rng(seed)
    weights = {"a": noise.normal(size=(features, width)), "b": noise.normal(size=(width, outputs))}
    make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [
            make("MatMul", ["x", "a"], ["h"]),
            make("Relu", ["h"], ["r"]),
            make("MatMul", ["r", "b"], ["s"]),
            make("Sigmoid", ["s"], ["y"]),
        ],
        "mlp",
        [info("x", FLOAT, ["rows", features])],
        [info("y", FLOAT, ["rows", outputs])],
        [onnx.numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)


INPUTS = [
    {"name": "x", "datatype": "FP32", "shape": [-1, WIDTH]},
    {"name": "size", "datatype": "INT64", "shape": [-1]},
    {"name": "user", "datatype": "BYTES", "shape": [-1]},
    {"name": "parts", "datatype": "FP32", "shape": [-1, WIDTH], "ragged": True},
]


@st.composite
def graphs(draw: Any, inner: bool = True) -> GraphSpec:
    """A valid graph of up to a dozen nodes of any kind, every one of them read."""
    nodes: dict[str, dict[str, Any]] = {}
    free: list[str] = []  # nodes with a tensor `y` of shape (rows, WIDTH) that others may read

    def read() -> str:
        return draw(st.sampled_from([*free, "inputs"])) if free else "inputs"

    def tensor(source: str) -> str:
        return "inputs.x" if source == "inputs" else f"{source}.y"

    def leaf(name: str, element: bool = False) -> str:
        seed = draw(st.integers(0, 5))
        if draw(st.booleans()):
            nodes[name] = {"kind": "model", "model": f"{seed}", "inputs": {"x": tensor(read())}}
        else:
            bound = {"a": tensor(read()), "b": tensor(read())}
            nodes[name] = {"kind": "model", "model": f"{seed},two", "inputs": bound}
        if element:
            nodes[name]["inputs"][next(iter(nodes[name]["inputs"]))] = "inputs.parts"
        return name

    kinds = [
        "model",
        "model",
        "model",
        "mean",
        "weighted",
        "switch",
        "cascade",
        "split",
        "shadow",
        "fallback",
    ]
    for i in range(draw(st.integers(1, 6))):
        name = f"n{i}"
        kind = draw(st.sampled_from([*kinds, "graph"] if inner else kinds))
        if kind == "model" or (kind in ("mean", "weighted") and not free):
            leaf(name)
        elif kind in ("mean", "weighted"):
            members = draw(st.lists(st.sampled_from(free), min_size=1, max_size=3))
            of = [f"{member}.y" for member in members]
            nodes[name] = {"kind": kind, "of": of if kind == "mean" else dict.fromkeys(of, 0.5 + i)}
        elif kind == "switch":
            threshold = draw(st.integers(-2, 2))
            cases = [
                {"when": f"inputs.size > {threshold}", "then": leaf(f"{name}a")},
                {"when": "inputs.user in [ann, bob]", "then": leaf(f"{name}b")},
            ]
            nodes[name] = {"kind": "switch", "cases": cases, "otherwise": leaf(f"{name}c")}
        elif kind == "cascade":
            steps = [leaf(f"{name}{letter}") for letter in "abc"[: draw(st.integers(2, 3))]]
            threshold = draw(st.floats(0.3, 1.0))
            nodes[name] = {"kind": "cascade", "steps": steps, "confidence": "sure", "threshold": threshold}
        elif kind == "split":
            weights = {leaf(f"{name}a"): 1, leaf(f"{name}b"): draw(st.integers(0, 3))}
            nodes[name] = {"kind": "split", "weights": weights, "by": "inputs.user"}
        elif kind == "shadow":
            nodes[name] = {"kind": "shadow", "primary": leaf(f"{name}a"), "mirror": leaf(f"{name}b")}
        elif kind == "fallback":
            leaf(f"{name}b")
            leaf(name)
            nodes[name]["fallback"] = f"{name}b"
        else:
            bindings = {port["name"]: f"inputs.{port['name']}" for port in INPUTS} | {"x": tensor(read())}
            below = draw(graphs(inner=False))
            nodes[name] = {
                "kind": "graph",
                "inputs": bindings,
                "graph": below.model_dump(exclude_unset=True),
            }
        free.append(name)
    outputs = {f"{name}_y": f"{name}.y" for name in free}
    if inner and draw(st.booleans()):
        nodes["pieces"] = {"kind": "each", "over": "inputs.parts", "run": leaf("piece", element=True)}
        outputs["pieces"] = "pieces.y"
    if not inner:
        outputs = {"y": f"{free[-1]}.y"} | outputs
    return validate_document(
        {"name": "random", "inputs": INPUTS, "nodes": nodes, "outputs": outputs}, GraphSpec
    )


@st.composite
def batches(draw: Any) -> Batch:
    rows = draw(st.integers(1, 9))
    noise = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lengths = noise.integers(0, 4, size=rows)
    return {
        "x": noise.normal(size=(rows, WIDTH)).astype(np.float32),
        "size": noise.integers(-3, 4, size=rows),
        "user": np.array(noise.choice(["ann", "bob", "cid", "dée"], size=rows), dtype=object),
        "parts": noise.normal(size=(lengths.sum(), WIDTH)).astype(np.float32),
        "parts_lengths": lengths.astype(np.int64),
    }
