"""Small ONNX models and random graphs of them, for the tests of composition."""

import asyncio
import functools
import os
import pathlib
import pickle
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import onnx
from hypothesis import strategies as st

from examples.tables import make_mlp
from raymlops.graphs.execution import Implementation
from raymlops.graphs.plan import Plan, Step
from raymlops.graphs.validation import list_leaves, validate
from raymlops.models.session import Session, open_session
from raymlops.runtime.open_graph import run_python, run_session
from raymlops.runtime.python_modules import load_python
from raymlops.serving.transport import trace_context
from raymlops.specs.document import validate_document
from raymlops.specs.graph import GraphSpec
from raymlops.specs.graph_nodes import ModelNode, PythonNode
from raymlops.tensors import DATATYPE_OF_NUMPY, DATATYPES, Batch

__all__ = ["make_mlp"]

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
        make("TopK", ["y", "axes"], ["top", "place"], axis=1),
        make("Squeeze", ["top", "axes"], ["sure"]),
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


def validate_graph(spec: GraphSpec) -> Plan:
    """The plan of a graph of models that are named as for `open_model`."""
    models = {path: node for path, node in list_leaves(spec) if isinstance(node, ModelNode)}
    return validate(spec, {path: open_model(node.model).signature for path, node in models.items()})


def implement(path: str, step: Step) -> Implementation:
    """What answers for a leaf, in this process."""
    if isinstance(step.node, PythonNode):
        return run_python(load_python(path, step.node))
    assert isinstance(step.node, ModelNode)
    return run_session(open_model(step.node.model))


def run_afar(here: Implementation) -> Implementation:
    """As another process would answer: later, and with copies."""

    async def run(batch: Batch) -> Batch:
        await asyncio.sleep(0)
        return pickle.loads(pickle.dumps(await here.run(pickle.loads(pickle.dumps(batch)))))

    return Implementation(run)


def count_calls(run: Callable[[Batch], Batch]) -> tuple[Implementation, list[int]]:
    rows: list[int] = []

    async def counted(batch: Batch) -> Batch:
        rows.append(len(next(iter(batch.values()))))
        return run(batch)

    return Implementation(counted, suspends=False), rows


class Scale:
    """A python node."""

    def __init__(self, factor: float) -> None:
        self._factor = np.float32(factor)

    def run(self, batch: Batch) -> Batch:
        return {"y": batch["x"] * self._factor}


class Gate:
    """A python node that says in a folder that it was entered, by which process, and answers when there is `open`."""

    def __init__(self, folder: str) -> None:
        self._folder = pathlib.Path(folder)

    async def run(self, batch: Batch) -> Batch:
        (self._folder / f"entered-{os.getpid()}").touch()
        while not (self._folder / "open").exists():  # noqa: ASYNC110 (another process makes it)
            await asyncio.sleep(0.02)
        return {"pid": np.full(len(batch["x"]), os.getpid())}


class Witness:
    """A python node that answers what came with its request."""

    def run(self, batch: Batch) -> Batch:
        trace = trace_context.current()
        told = {"id": trace.request_id, "parent": trace.parent, "state": trace.state}
        return {name: np.full(len(batch["x"]), text, object) for name, text in told.items()}


def encode(batch: Batch) -> dict[str, Any]:
    """A request of the Open Inference Protocol as JSON."""
    inputs = [
        {
            "name": tensor,
            "datatype": DATATYPE_OF_NUMPY[values.dtype].name,
            "shape": list(values.shape),
            "data": values.ravel().tolist(),
        }
        for tensor, values in batch.items()
    ]
    return {"inputs": inputs}


def decode(response: httpx.Response) -> Batch:
    assert response.status_code == 200, response.text
    return {
        output["name"]: np.array(output["data"], DATATYPES[output["datatype"]].numpy).reshape(output["shape"])
        for output in response.json()["outputs"]
    }


def ask(client: httpx.Client, name: str, batch: Batch, **headers: str) -> Batch:
    """What a served graph answers."""
    return decode(client.post(f"/v2/models/{name}/infer", json=encode(batch), headers=headers))


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
    labelled: list[str] = []  # those of them with a tensor `label`
    outputs: dict[str, str] = {}

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
        "timeout",
        "python",
        "stack",
        "vote",
    ]
    for i in range(draw(st.integers(1, 6))):
        name = f"n{i}"
        kind = draw(st.sampled_from([*kinds, "graph"] if inner else kinds))
        if kind == "model" or (kind in ("mean", "weighted", "stack", "vote") and not labelled):
            leaf(name)
        elif kind == "timeout":
            nodes[leaf(name)]["timeout_s"] = 600
        elif kind == "python":
            nodes[name] = {
                "kind": "python",
                "target": "tests.graph_models:Scale",
                "config": {"factor": draw(st.sampled_from([-1.0, 0.5, 2.0]))},
                "inputs": {"x": tensor(read())},
                "takes": [{"name": "x", "shape": [-1, WIDTH]}],
                "outputs": [{"name": "y", "shape": [-1, WIDTH]}],
            }
        elif kind == "stack":
            members = draw(st.lists(st.sampled_from(free), min_size=1, max_size=3))
            nodes[name] = {"kind": "stack", "of": [f"{member}.y" for member in members], "name": "joined"}
            outputs[f"{name}_joined"] = f"{name}.joined"
            continue
        elif kind == "vote":
            members = draw(st.lists(st.sampled_from(labelled), min_size=1, max_size=3))
            nodes[name] = {"kind": "vote", "of": [f"{member}.label" for member in members]}
            outputs[f"{name}_label"] = f"{name}.label"
            continue
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
        if kind not in ("mean", "weighted", "python", "graph") or nodes[name]["kind"] == "model":
            labelled.append(name)
    outputs |= {f"{name}_y": f"{name}.y" for name in free}
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
