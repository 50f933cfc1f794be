"""Random ONNX graphs over the operators whose rows are known to stay apart, and over those that tie them.

Each node is tried on ONNX Runtime as it is added, so that every graph runs. What was rounded never meets a step, such
as Floor or ArgMax, where the last bit of a sum would decide.
"""

import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from raymlops.tensors import Batch

Array = np.ndarray[Any, Any]
ROWS = 3
OPSETS = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
_TYPES = {"f": np.float32, "i": np.int64, "b": np.bool_, "s": np.object_}


@dataclasses.dataclass
class Tensor:
    name: str
    value: Array
    rounded: bool = False
    steady: bool = True
    """Of the same rank, and not empty, for any number of rows."""

    @property
    def kind(self) -> str:
        return {"f": "f", "i": "i", "b": "b", "O": "s", "u": "u"}[self.value.dtype.kind]

    @property
    def rank(self) -> int:
        return self.value.ndim


class Builder:
    """One graph as it grows."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.noise = np.random.default_rng(seed)
        self.inputs: list[Tensor] = []
        self.pool: list[Tensor] = []
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.count = 0

    def name(self, letter: str) -> str:
        self.count += 1
        return f"{letter}{self.count}"

    def constant(self, value: Any, dtype: Any = None) -> str:
        name = self.name("c")
        self.constants[name] = np.asarray(value, dtype)
        return name

    def pick(self, kinds: str, least: int = 1, exact: bool = False) -> Tensor:
        fit = [t for t in self.pool if t.kind in kinds and t.rank >= least and not (exact and t.rounded)]
        if not fit:
            raise LookupError
        return self.random.choice(fit[-4:] if self.random.random() < 0.7 else fit)

    def axis(self, tensor: Tensor) -> int:
        """Seldom that of the rows, so that some graphs keep them apart."""
        if tensor.rank > 1 and self.random.random() < 0.85:
            return self.random.randrange(1, tensor.rank)
        return self.random.randrange(tensor.rank)

    def add(
        self, operator: str, inputs: Sequence[str], rounds: bool = False, outputs: int = 1, **attributes: Any
    ) -> None:
        domain = attributes.pop("domain", "")
        names = [self.name("t") for _ in range(outputs)]
        node = helper.make_node(
            operator, list(inputs), names, name=self.name("n"), domain=domain, **attributes
        )
        held = {tensor.name: tensor for tensor in self.pool}
        feed = {name: held[name].value for name in inputs if name in held}
        feed |= {name: held[name].value for name in _captured(node) if name in held}
        values = _run([node], self.constants, feed, names)
        if any(value.size > 4000 or value.size == 0 or value.dtype.kind not in "fibOu" for value in values):
            raise LookupError
        self.nodes.append(node)
        rounded = rounds or any(held[name].rounded for name in feed)
        steady = all(held[name].steady for name in feed) and (operator != "Squeeze" or len(inputs) > 1)
        self.pool += [Tensor(name, value, rounded, steady) for name, value in zip(names, values, strict=True)]


def make_graph(seed: int) -> tuple[onnx.ModelProto, list[Tensor]]:
    """A model with 1 to 3 inputs and 1 or 2 outputs; the tensors are its inputs with `ROWS` rows."""
    builder = Builder(seed)
    for _ in range(builder.random.randint(1, 3)):
        kind = builder.random.choice("ffffiibs")
        shape = (ROWS, *(builder.random.randint(1, 4) for _ in range(builder.random.choice([0, 1, 1, 2]))))
        tensor = Tensor(builder.name("x"), make_values(kind, shape, builder.noise, tame=True))
        builder.inputs.append(tensor)
        builder.pool.append(tensor)
    wanted = builder.random.randint(2, 9)
    tries = 0
    while len(builder.nodes) < wanted and tries < 60:
        tries += 1
        kept = len(builder.nodes), len(builder.pool)
        try:
            builder.random.choice(STEPS)(builder)
        except (LookupError, ValueError, onnxruntime.capi.onnxruntime_pybind11_state.Fail, *_REFUSED):
            del builder.nodes[kept[0] :], builder.pool[kept[1] :]
    made = builder.pool[len(builder.inputs) :] or builder.pool
    outputs = made[-builder.random.randint(1, 2) :]
    nodes = _live(builder.nodes, {tensor.name for tensor in outputs})
    if not nodes:
        nodes = [helper.make_node("Identity", [outputs[0].name], ["same"])]
        outputs = [Tensor("same", outputs[0].value)]
    used = {name for node in nodes for name in (*node.input, *_captured(node))}
    inputs = [tensor for tensor in builder.inputs if tensor.name in used]
    graph = helper.make_graph(
        nodes,
        f"random{seed}",
        [_info(tensor, free=True) for tensor in inputs],
        [_info(tensor, free=False) for tensor in outputs],
        [numpy_helper.from_array(value, name) for name, value in builder.constants.items() if name in used],
    )
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=9), inputs


def _live(nodes: Sequence[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """Those that an output needs: ONNX Runtime 1.31.1 dies opening some graphs that hold others."""
    kept: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.insert(0, node)
            wanted = wanted | set(node.input) | set(_captured(node))
    return kept


_REFUSED = tuple(
    getattr(onnxruntime.capi.onnxruntime_pybind11_state, name)
    for name in ("InvalidArgument", "InvalidGraph", "NotImplemented", "RuntimeException")
)


def make_values(kind: str, shape: Sequence[int], noise: np.random.Generator, tame: bool = False) -> Array:
    """Values of a tensor; unless `tame` with the extremes of the type among them."""
    size = int(np.prod(shape))
    if kind == "s":
        words = ["a", "b", "longer words", "a"] if tame else ["a", "", "ü€𝄞", "b" * 50, "a"]
        return noise.choice(np.array(words, object), size).reshape(shape)
    if kind == "b":
        return noise.integers(0, 2, size).astype(bool).reshape(shape)
    if kind == "i":
        values = noise.integers(-3, 4, size)
        if not tame:
            extreme = np.array([-(2**63), 2**63 - 1, 0, -1, 1, 2**40])
            values = np.where(noise.random(size) < 0.3, noise.choice(extreme, size), values)
        return values.astype(np.int64).reshape(shape)
    values = noise.integers(-4, 5, shape).astype(np.float32)
    if not tame:
        # One scale a row: sums of a row stay exact, and rows are wildly different.
        scales = noise.choice(np.array([1, 1e-42, 2.0**-30, 2.0**20], np.float32), shape[0])
        values *= scales.reshape(-1, *([1] * (len(shape) - 1)))
        strange = np.array([np.nan, np.inf, -np.inf, -0.0], np.float32)
        values = np.where(noise.random(shape) < 0.1, noise.choice(strange, shape), values)
    return values.astype(np.float32)


def are_equal(alone: Array, together: Array) -> bool:
    """To rounding, by the size of what the row holds."""
    if alone.shape != together.shape or alone.dtype != together.dtype:
        return False
    if alone.dtype.kind != "f":
        return bool(np.array_equal(alone, together))
    finite = np.abs(alone[np.isfinite(alone)])
    bound = 1e-4 * max(1.0, float(finite.max()) if finite.size else 1.0)
    return bool(np.allclose(alone, together, rtol=1e-4, atol=bound, equal_nan=True))


def _info(tensor: Tensor, free: bool) -> onnx.ValueInfoProto:
    kind = (
        helper.np_dtype_to_tensor_dtype(tensor.value.dtype) if tensor.kind != "s" else onnx.TensorProto.STRING
    )
    return helper.make_tensor_value_info(
        tensor.name, kind, ["rows", *tensor.value.shape[1:]] if free else None
    )


def _captured(node: onnx.NodeProto) -> list[str]:
    bodies = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return [name for body in bodies for inner in body.node for name in (*inner.input, *_captured(inner))]


def _run(
    nodes: Sequence[onnx.NodeProto], constants: dict[str, Array], feed: Batch, outputs: Sequence[str]
) -> list[Array]:
    needed = {name for node in nodes for name in (*node.input, *_captured(node))}
    graph = helper.make_graph(
        list(nodes),
        "one",
        [_info(Tensor(name, value), free=False) for name, value in feed.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items() if name in needed],
    )
    model = helper.make_model(graph, opset_imports=OPSETS, ir_version=9)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(value) for value in session.run(list(outputs), feed)]


def _elementwise(b: Builder) -> None:
    x = b.pick("f")
    name = b.random.choice(
        ["Abs", "Neg", "Relu", "Sigmoid", "Tanh", "Exp", "Softplus", "LeakyRelu", "Identity", "HardSigmoid"]
    )
    b.add(name, [x.name], rounds=name in ("Sigmoid", "Tanh", "Exp", "Softplus"))


def _step(b: Builder) -> None:
    x = b.pick("f", exact=True)
    b.add(b.random.choice(["Floor", "Round", "Ceil", "Sign", "IsNaN", "IsInf"]), [x.name])


def _binary(b: Builder) -> None:
    kind = b.random.choice("fffi")
    x = b.pick(kind)
    if b.random.random() < 0.5:
        other = b.pick(kind).name
    else:
        keep = b.random.randrange(x.rank + 1)
        shape = tuple(b.random.choice([1, size]) if place else 1 for place, size in enumerate(x.value.shape))[
            keep:
        ]
        if b.random.random() < 0.1:
            shape = x.value.shape
        other = b.constant(b.noise.integers(1, 4, shape), _TYPES[kind])
    names = [x.name, other]
    b.random.shuffle(names)
    b.add(b.random.choice(["Add", "Sub", "Mul", "Max", "Min"]), names)


def _compare(b: Builder) -> None:
    x = b.pick("fi", exact=True)
    other = b.constant(b.random.randint(-1, 2), x.value.dtype)
    b.add(b.random.choice(["Greater", "Less", "Equal"]), [x.name, other])


def _where(b: Builder) -> None:
    x = b.pick("f", exact=True)
    b.add("IsNaN", [x.name])
    other = b.pick("f").name if b.random.random() < 0.3 else b.constant(0, np.float32)
    b.add("Where", [b.pool[-1].name, other, x.name])


def _cast(b: Builder) -> None:
    x = b.pick("bi")
    b.add("Cast", [x.name], to=onnx.TensorProto.FLOAT)


def _reduce(b: Builder) -> None:
    x = b.pick("f")
    name = b.random.choice(
        ["ReduceSum", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceL2", "ReduceLogSumExp"]
    )
    axes = b.constant([b.axis(x)], np.int64)
    b.add(name, [x.name, axes], rounds=True, keepdims=b.random.randint(0, 1))


def _arg(b: Builder) -> None:
    x = b.pick("f", exact=True)
    b.add(b.random.choice(["ArgMax", "ArgMin"]), [x.name], axis=b.axis(x), keepdims=b.random.randint(0, 1))


def _softmax(b: Builder) -> None:
    x = b.pick("f")
    b.add(b.random.choice(["Softmax", "LogSoftmax"]), [x.name], rounds=True, axis=b.axis(x))


def _layer_norm(b: Builder) -> None:
    x = b.pick("f", 2)
    axis = b.random.randrange(1 if b.random.random() < 0.9 else 0, x.rank)
    scale = b.constant(b.noise.integers(1, 3, x.value.shape[axis:]), np.float32)
    b.add("LayerNormalization", [x.name, scale], rounds=True, axis=axis)


def _matmul(b: Builder) -> None:
    x = b.pick("f", 2)
    width = b.random.randint(1, 4)
    if b.random.random() < 0.8:
        b.add(
            "MatMul",
            [x.name, b.constant(b.noise.integers(-2, 3, (x.value.shape[-1], width)), np.float32)],
            rounds=True,
        )
    elif b.random.random() < 0.5:
        b.add(
            "MatMul",
            [b.constant(b.noise.integers(-2, 3, (width, x.value.shape[-2])), np.float32), x.name],
            rounds=True,
        )
    else:
        b.add("MatMul", [x.name, b.pick("f", 2).name], rounds=True)


def _gemm(b: Builder) -> None:
    x = b.pick("f", 2)
    turned = b.random.random() < 0.2
    depth = x.value.shape[0 if turned else 1]
    weight = b.constant(b.noise.integers(-2, 3, (depth, 3)), np.float32)
    bias = b.constant(b.noise.integers(-2, 3, (3,)), np.float32)
    b.add("Gemm", [x.name, weight, bias], rounds=True, transA=int(turned))


def _gather(b: Builder) -> None:
    if b.random.random() < 0.4:
        x = b.pick("f", 2)
        axis = b.axis(x)
        index = b.constant(b.noise.integers(0, x.value.shape[axis], b.random.choice([(), (2,)])), np.int64)
        b.add("Gather", [x.name, index], axis=axis)
        return
    x = b.pick("i")
    low, high = b.constant(-3, np.int64), b.constant(3, np.int64)
    b.add("Clip", [x.name, low, high])
    table = b.constant(b.noise.integers(-3, 4, (7, 2)), np.float32)
    b.add("Gather", [table, b.pool[-1].name], axis=0)


def _gather_elements(b: Builder) -> None:
    x = b.pick("f", 2, exact=True)
    axis = b.axis(x)
    b.add("ArgMax", [x.name], axis=axis, keepdims=1)
    b.add("GatherElements", [x.name, b.pool[-1].name], axis=axis)


def _reshape(b: Builder) -> None:
    x = b.pick("fib")
    inner = int(np.prod(x.value.shape[1:]))
    shapes = [
        [-1, inner],
        [0, -1],
        [-1],
        [1, -1, inner],
        [-1, 1, inner],
        [inner, -1],
        [ROWS, inner],
        [0, 1, -1],
    ]
    b.add("Reshape", [x.name, b.constant(b.random.choice(shapes), np.int64)])


def _reshape_by_shape(b: Builder) -> None:
    """As exporters do it: the number of rows is read from a tensor, and the others are appended."""
    x = b.pick("f", 2)
    b.add("Shape", [x.name])
    b.add("Gather", [b.pool[-1].name, b.constant([0], np.int64)], axis=0)
    rows = b.pool[-1].name
    del b.pool[-2:]
    name, joined, out = rows, b.name("t"), b.name("t")
    target = b.constant(b.random.choice([[-1], [1, -1], [int(np.prod(x.value.shape[1:]))]]), np.int64)
    concat = helper.make_node("Concat", [name, target], [joined], axis=0)
    node = helper.make_node("Reshape", [x.name, joined], [out])
    value = x.value.reshape([ROWS, *b.constants[target]])
    b.nodes += [concat, node]
    b.pool.append(Tensor(out, value, x.rounded))


def _expand(b: Builder) -> None:
    x = b.pick("f")
    b.add("Expand", [x.name, b.constant([b.random.randint(1, 2), *([1] * x.rank)], np.int64)])


def _transpose(b: Builder) -> None:
    x = b.pick("f", 2)  # ONNX Runtime 1.31.1 dies opening Transpose of INT64, Cast, MatMul
    order = list(range(x.rank))
    b.random.shuffle(order)
    b.add("Transpose", [x.name], perm=order)


def _squeeze(b: Builder) -> None:
    x = b.pick("fib")
    if b.random.random() < 0.6:
        b.add("Unsqueeze", [x.name, b.constant([b.random.randrange(x.rank + 1)], np.int64)])
    else:
        ones = [axis for axis, size in enumerate(x.value.shape) if size == 1]
        b.add("Squeeze", [x.name, b.constant([b.random.choice(ones)], np.int64)] if ones else [x.name])


def _flatten(b: Builder) -> None:
    x = b.pick("fi", 2)
    b.add("Flatten", [x.name], axis=b.random.randrange(x.rank))


def _concat(b: Builder) -> None:
    x = b.pick("f")
    same = [t for t in b.pool if t.kind == "f" and t.rank == x.rank]
    b.add("Concat", [x.name, b.random.choice(same).name], axis=b.axis(x))


def _slice(b: Builder) -> None:
    x = b.pick("fi")
    axis = b.axis(x)
    start, end = b.random.choice([(0, 2**63 - 1), (0, 1), (1, 2**63 - 1), (-1, 2**63 - 1)])
    names = [b.constant([number], np.int64) for number in (start, end, axis)]
    b.add("Slice", [x.name, *names])
    b.pool[-1].steady = x.steady and start == 0


def _split(b: Builder) -> None:
    x = b.pick("f")
    b.add("Split", [x.name], outputs=2, axis=b.axis(x), num_outputs=2)


def _pad(b: Builder) -> None:
    x = b.pick("f")
    pads = [0] * (2 * x.rank)
    pads[b.axis(x) + b.random.choice([0, x.rank])] = 1
    b.add("Pad", [x.name, b.constant(pads, np.int64)])


def _tile(b: Builder) -> None:
    x = b.pick("fi")
    repeats = [1] * x.rank
    repeats[b.axis(x)] = 2
    b.add("Tile", [x.name, b.constant(repeats, np.int64)])


def _top_k(b: Builder) -> None:
    x = b.pick("f", exact=True)
    b.add("TopK", [x.name, b.constant([1], np.int64)], outputs=2, axis=b.axis(x))


def _cumulative(b: Builder) -> None:
    x = b.pick("f")
    b.add("CumSum", [x.name, b.constant(b.axis(x), np.int64)], rounds=True, reverse=b.random.randint(0, 1))


def _one_hot(b: Builder) -> None:
    x = b.pick("i")
    axis = b.random.randrange(x.rank + 1)
    b.add("OneHot", [x.name, b.constant(4, np.int64), b.constant([0, 1], np.float32)], axis=axis)


def _trilu(b: Builder) -> None:
    b.add("Trilu", [b.pick("f", 2).name])


def _quantise(b: Builder) -> None:
    x = b.pick("f", exact=True)
    scale, zero = b.constant(0.5, np.float32), b.constant(3, np.uint8)
    if b.random.random() < 0.3:
        b.add("DynamicQuantizeLinear", [x.name], outputs=3)
        held = [tensor.name for tensor in b.pool[-3:]]
        b.add("DequantizeLinear", held)
        del b.pool[-4:-1]
        return
    b.add("QuantizeLinear", [x.name, scale, zero])
    b.add("DequantizeLinear", [b.pool[-1].name, scale, zero])
    del b.pool[-2]


def _einsum(b: Builder) -> None:
    x = b.pick("f", 2)
    if x.rank != 2 or not x.steady:  # ONNX Runtime 1.31.1 dies of an operand of another rank
        raise LookupError
    weight = b.constant(b.noise.integers(-2, 3, (x.value.shape[1], 2)), np.float32)
    b.add(
        "Einsum",
        [x.name, weight],
        rounds=True,
        equation=b.random.choice(["ij,jk->ik", "ij,jk->ki", "ij,jk->k"]),
    )


def _convolution(b: Builder) -> None:
    x = b.pick("f", 3)
    if x.rank != 3:
        raise LookupError
    weight = b.constant(b.noise.integers(-2, 3, (2, x.value.shape[1], 1)), np.float32)
    b.add("Conv", [x.name, weight], rounds=True)


def _pool(b: Builder) -> None:
    x = b.pick("f", 3)
    b.add(b.random.choice(["GlobalMaxPool", "GlobalAveragePool"]), [x.name], rounds=True)


def _label(b: Builder) -> None:
    x = b.pick("s")
    b.add(
        "LabelEncoder",
        [x.name],
        domain="ai.onnx.ml",
        keys_strings=["a", "b", ""],
        values_int64s=[1, 2, 0],
        default_int64=-1,
    )


def _table(b: Builder) -> None:
    x = b.pick("f", 2)
    width = x.value.shape[-1]
    weights = [float(number) for number in b.noise.integers(-2, 3, width)]
    b.add(
        "LinearRegressor",
        [x.name],
        rounds=True,
        domain="ai.onnx.ml",
        coefficients=weights,
        intercepts=[1.0],
        targets=1,
    )


def _if(b: Builder) -> None:
    x = b.pick("f")
    if b.random.random() < 0.5:
        condition = b.constant(bool(b.random.randint(0, 1)), np.bool_)
    else:
        b.add("ReduceMax", [x.name], keepdims=0, rounds=True)
        b.add("Greater", [b.pool[-1].name, b.constant(1, np.float32)])
        condition = b.pool[-1].name
        del b.pool[-2]
    bodies = {}
    for branch, operator in (("then_branch", "Neg"), ("else_branch", "Abs")):
        out = b.name("t")
        body = [helper.make_node(operator, [x.name], [out])]
        kind = helper.np_dtype_to_tensor_dtype(x.value.dtype)
        bodies[branch] = helper.make_graph(body, branch, [], [helper.make_tensor_value_info(out, kind, None)])
    b.add("If", [condition], **bodies)


def _loop(b: Builder) -> None:
    x = b.pick("f")
    turn, go, state, out = (b.name("t") for _ in range(4))
    going = b.name("t")
    body = helper.make_graph(
        [helper.make_node("Identity", [go], [going]), helper.make_node("Add", [state, x.name], [out])],
        "body",
        [
            helper.make_tensor_value_info(turn, onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info(go, onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info(state, onnx.TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info(going, onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info(out, onnx.TensorProto.FLOAT, None),
        ],
    )
    b.add(
        "Loop",
        [b.constant(2, np.int64), b.constant(True, np.bool_), b.pick("f").name],
        rounds=True,
        body=body,
    )


def _scan(b: Builder) -> None:
    x = b.pick("f", 2)
    if not x.steady:  # ONNX Runtime 1.31.1 dies of a scan over nothing
        raise LookupError
    axis = b.axis(x)
    b.add("ReduceSum", [x.name, b.constant([axis], np.int64)], keepdims=0, rounds=True)
    start = b.pool[-1].name
    state, seen, out, given = (b.name("t") for _ in range(4))
    sizes = [None] * (x.rank - 1)
    kind = onnx.TensorProto.FLOAT
    free = [helper.make_tensor_value_info(name, kind, sizes) for name in (state, seen, out, given)]
    body = helper.make_graph(
        [helper.make_node("Add", [state, seen], [out]), helper.make_node("Identity", [out], [given])],
        "body",
        free[:2],
        free[2:],
    )
    b.add(
        "Scan", [start, x.name], outputs=2, rounds=True, body=body, num_scan_inputs=1, scan_input_axes=[axis]
    )


def _recurrent(b: Builder) -> None:
    x = b.pick("f", 3)
    if x.rank != 3:
        raise LookupError
    name, gates = b.random.choice([("LSTM", 4), ("GRU", 3), ("RNN", 1)])
    width = x.value.shape[2]
    if b.random.random() < 0.8:
        b.add("Transpose", [x.name], perm=[1, 0, 2])
        x = b.pool[-1]
    weights = [b.constant(b.noise.integers(-1, 2, (1, gates * 2, size)), np.float32) for size in (width, 2)]
    b.add(name, [x.name, *weights], rounds=True, outputs=2, hidden_size=2)


def _resize(b: Builder) -> None:
    x = b.pick("f", 3)
    scales = [1.0] * x.rank
    scales[b.axis(x)] = 2.0
    b.add("Resize", [x.name, "", b.constant(scales, np.float32)], rounds=True, mode="nearest")


def _normalise(b: Builder) -> None:
    x = b.pick("f", 3)
    channels = x.value.shape[1]
    scale, bias = b.constant(np.ones(channels), np.float32), b.constant(np.zeros(channels), np.float32)
    if b.random.random() < 0.5:
        b.add("InstanceNormalization", [x.name, scale, bias], rounds=True)
    else:
        b.add("BatchNormalization", [x.name, scale, bias, bias, scale], rounds=True)


def _fill(b: Builder) -> None:
    """A constant for each row, as many as a tensor has."""
    x = b.pick("f", 2)
    shape, rows, out = b.name("t"), b.name("t"), b.name("t")
    take = helper.make_node("Shape", [x.name], [shape], start=0, end=1)
    fill = helper.make_node(
        "ConstantOfShape", [shape], [rows], value=numpy_helper.from_array(np.ones(1, np.float32))
    )
    b.nodes += [take, fill, helper.make_node("Unsqueeze", [rows, b.constant([1], np.int64)], [out])]
    b.pool.append(Tensor(out, np.ones((x.value.shape[0], 1), np.float32)))


STEPS: list[Callable[[Builder], None]] = [
    _elementwise, _elementwise, _step, _binary, _binary, _binary, _compare, _where, _cast, _cast, _reduce, _arg,
    _softmax, _layer_norm, _matmul, _matmul, _gemm, _gather, _gather_elements, _reshape, _reshape_by_shape, _expand,
    _transpose, _squeeze, _flatten, _concat, _slice, _split, _pad, _tile, _top_k, _cumulative, _one_hot, _trilu,
    _quantise, _einsum,
    _convolution, _pool, _label, _table, _if, _loop, _scan, _recurrent, _resize, _normalise, _fill,
]  # fmt: skip
