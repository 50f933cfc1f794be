"""Hostile shapes for every model that `onnx.backend.test` generates: axes of length 0 and 1, sizes that do not agree,
ranks that the operator does not expect. Run as a script, it asks each model in a process that may end, and prints what
became of them as JSON.

    python -m tests.hostile_shapes [SHARE [SEED]]
"""

import collections
import contextlib
import itertools
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper as h

from raymlops.errors import RaymlopsError
from raymlops.models.fatal_operators import examine
from raymlops.models.fatal_shapes import Shapes
from raymlops.models.session import open_session
from raymlops.models.value_flow import list_nodes
from tests.hostile_values import (
    Case,
    Feed,
    find_loadable,
    list_foreign_cases,
    list_onnx_cases,
    make_foreign,
    try_case,
)

PAIRS = 60
"""Attempts of a model with the shapes of several inputs changed."""
Shape = tuple[int, ...]


def bend(shape: Shape) -> list[Shape]:
    """Shapes that are not this one."""
    found = [(), (0,), (1,), (2,), (0, 0), (1, 0), (0, 1), (1,) * 9, (0,) * 5]
    found += [tuple(0 for _ in shape), tuple(1 for _ in shape)]
    found += [(1, *shape), (0, *shape), (2, *shape), (*shape, 1), (*shape, 0), (*shape, 2), (1, 1, *shape)]
    for axis, size in enumerate(shape):
        for other in (0, 1, size - 1, size + 1, 2 * size, 1000):
            found.append((*shape[:axis], max(other, 0), *shape[axis + 1 :]))
        found.append((*shape[:axis], *shape[axis + 1 :]))
    return [other for other in dict.fromkeys(found) if other != shape and np.prod(other) <= 2**20]


def reshape(array: np.ndarray[Any, Any], shape: Shape) -> np.ndarray[Any, Any]:
    """An array of this shape with the elements of another, over and over."""
    if array.size == 0:
        return np.zeros(shape, array.dtype)
    return np.ascontiguousarray(np.resize(array, shape))


def list_feeds(feed: Feed, draw: np.random.Generator) -> Iterator[Feed]:
    """One input bent, the same axis of all bent in the same way, and some pairs and more bent each in its own way."""
    bent = {name: [reshape(array, shape) for shape in bend(array.shape)] for name, array in feed.items()}
    yield feed
    for name, arrays in bent.items():
        for array in arrays:
            yield {**feed, name: array}
    if len(feed) < 2:
        return
    longest = max(array.ndim for array in feed.values())
    for axis, size, back in itertools.product(range(longest), (0, 1, 3), (False, True)):
        changed = dict(feed)
        for name, array in feed.items():
            place = array.ndim - 1 - axis if back else axis
            if 0 <= place < array.ndim:
                shape = (*array.shape[:place], size, *array.shape[place + 1 :])
                changed[name] = reshape(array, shape)
        yield changed
    names = list(feed)
    for _ in range(PAIRS):
        chosen = draw.choice(names, size=draw.integers(2, len(names) + 1), replace=False)
        yield {**feed, **{name: bent[name][draw.integers(len(bent[name]))] for name in chosen}}


def _floats(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(size=shape).astype("f4")


def _bytes(*shape: int) -> np.ndarray[Any, Any]:
    return np.ones(shape, "u1")


def list_fused_cases() -> Iterator[Case]:
    """Operators of com.microsoft that come from fusions and quantisation."""
    scale, zero = np.array(0.1, "f4"), np.array(1, "u1")
    yield make_foreign("FusedMatMul", {"a": _floats(2, 3, 4), "b": _floats(2, 4, 5)}, transA=0)
    yield make_foreign("FusedMatMul", {"a": _floats(2, 4, 3), "b": _floats(2, 5, 4)}, transA=1, transB=1)
    yield make_foreign("FusedMatMul", {"a": _floats(3, 2, 4), "b": _floats(3, 4, 5)}, transBatchA=1)
    yield make_foreign("TransposeMatMul", {"a": _floats(4, 3), "b": _floats(4, 5)}, transA=1)
    yield make_foreign(
        "FusedGemm", {"a": _floats(3, 4), "b": _floats(4, 5), "c": _floats(5)}, activation="Relu"
    )
    yield make_foreign("BiasGelu", {"x": _floats(2, 3), "b": _floats(3)})
    yield make_foreign("FastGelu", {"x": _floats(2, 3), "b": _floats(3)})
    yield make_foreign("Gelu", {"x": _floats(2, 3)})
    yield make_foreign("QuickGelu", {"x": _floats(2, 3)})
    yield make_foreign(
        "SkipLayerNormalization",
        {"x": _floats(2, 3, 4), "s": _floats(2, 3, 4), "g": _floats(4), "b": _floats(4)},
    )
    yield make_foreign(
        "SkipLayerNormalization",
        {"x": _floats(2, 3, 4), "s": _floats(1, 3, 4), "g": _floats(4), "b": _floats(4), "bias": _floats(4)},
    )
    yield make_foreign(
        "SkipSimplifiedLayerNormalization", {"x": _floats(2, 3, 4), "s": _floats(2, 3, 4), "g": _floats(4)}
    )
    yield make_foreign(
        "FusedConv", {"x": _floats(1, 2, 5, 5), "w": _floats(3, 2, 3, 3), "b": _floats(3)}, activation="Relu"
    )
    yield make_foreign(
        "DynamicQuantizeMatMul", {"a": _floats(3, 4), "b": _bytes(4, 5), "s": scale, "z": zero}
    )
    yield make_foreign(
        "MatMulIntegerToFloat",
        {"a": _bytes(3, 4), "b": _bytes(4, 5), "sa": scale, "sb": scale, "za": zero, "zb": zero},
    )
    yield make_foreign(
        "QLinearAdd",
        {
            "a": _bytes(3, 4),
            "as": scale,
            "az": zero,
            "b": _bytes(3, 4),
            "bs": scale,
            "bz": zero,
            "cs": scale,
            "cz": zero,
        },
    )
    yield make_foreign(
        "QLinearMul",
        {
            "a": _bytes(3, 4),
            "as": scale,
            "az": zero,
            "b": _bytes(4),
            "bs": scale,
            "bz": zero,
            "cs": scale,
            "cz": zero,
        },
    )
    yield make_foreign(
        "QLinearSigmoid", {"a": _bytes(3, 4), "as": scale, "az": zero, "cs": scale, "cz": zero}
    )
    yield make_foreign(
        "QLinearLeakyRelu", {"a": _bytes(3, 4), "as": scale, "az": zero, "cs": scale, "cz": zero}
    )
    yield make_foreign(
        "QLinearConcat",
        {
            "cs": scale,
            "cz": zero,
            "a": _bytes(3, 4),
            "as": scale,
            "az": zero,
            "b": _bytes(3, 4),
            "bs": scale,
            "bz": zero,
        },
        axis=1,
    )
    yield make_foreign(
        "QLinearGlobalAveragePool",
        {"a": _bytes(1, 2, 3, 3), "as": scale, "az": zero, "cs": scale, "cz": zero},
    )
    yield make_foreign(
        "QLinearGlobalAveragePool",
        {"a": _bytes(1, 3, 3, 2), "as": scale, "az": zero, "cs": scale, "cz": zero},
        channels_last=1,
    )
    yield make_foreign(
        "QLinearAveragePool",
        {"a": _bytes(1, 2, 4, 4), "as": scale, "az": zero, "cs": scale, "cz": zero},
        kernel_shape=[2, 2],
    )
    yield make_foreign(
        "QLinearAveragePool",
        {"a": _bytes(1, 4, 4, 2), "as": scale, "az": zero, "cs": scale, "cz": zero},
        kernel_shape=[2, 2],
        channels_last=1,
    )
    yield make_foreign(
        "QLinearSoftmax",
        {"a": _bytes(3, 4), "as": scale, "az": zero, "cs": scale, "cz": zero},
        opset=13,
        axis=-1,
    )
    yield make_foreign(
        "QLinearSoftmax",
        {"a": _bytes(3, 4, 2), "as": scale, "az": zero, "cs": scale, "cz": zero},
        opset=13,
        axis=1,
    )
    yield make_foreign(
        "QLinearWhere",
        {
            "c": np.ones((3, 4), bool),
            "a": _bytes(3, 4),
            "as": scale,
            "az": zero,
            "b": _bytes(3, 4),
            "bs": scale,
            "bz": zero,
            "cs": scale,
            "cz": zero,
        },
    )
    yield make_foreign(
        "QLinearReduceMean", {"a": _bytes(3, 4), "as": scale, "az": zero, "cs": scale, "cz": zero}, axes=[1]
    )
    yield make_foreign("NhwcMaxPool", {"x": _bytes(1, 4, 4, 2)}, kernel_shape=[2, 2])
    yield make_foreign(
        "QLinearConv",
        {
            "x": _bytes(1, 5, 5, 2),
            "xs": scale,
            "xz": zero,
            "w": _bytes(3, 2, 3, 3),
            "ws": scale,
            "wz": zero,
            "ys": scale,
            "yz": zero,
        },
        channels_last=1,
    )
    yield make_foreign(
        "QGemm", {"a": _bytes(3, 4), "as": scale, "az": zero, "b": _bytes(4, 5), "bs": scale, "bz": zero}
    )
    yield make_foreign(
        "DynamicQuantizeLSTM",
        {
            "x": _floats(2, 3, 2),
            "w": np.ones(
                (
                    1,
                    2,
                    12,
                ),
                "i1",
            ),
            "r": np.ones(
                (
                    1,
                    3,
                    12,
                ),
                "i1",
            ),
            "ws": _floats(1),
            "wz": np.ones((1,), "i1"),
            "rs": _floats(1),
            "rz": np.ones((1,), "i1"),
        },
        (3, 4, 5, 6, 7),
        hidden_size=3,
    )
    yield make_foreign("Inverse", {"x": _floats(2, 3, 3)})
    yield make_foreign("CDist", {"a": _floats(3, 4), "b": _floats(5, 4)}, metric="euclidean")
    yield make_foreign("GridSample", {"x": _floats(1, 2, 4, 4), "g": _floats(1, 3, 3, 2)})
    yield make_foreign(
        "BiasSoftmax", {"x": _floats(2, 3, 4), "b": _floats(2, 3, 4)}, axis=1, is_inner_broadcast=0
    )
    yield make_foreign("BiasDropout", {"x": _floats(2, 3), "b": _floats(3)})
    yield make_foreign(
        "MatMulNBits",
        {"a": _floats(2, 32), "b": _bytes(4, 2, 8), "s": _floats(8)},
        K=32,
        N=4,
        bits=4,
        block_size=16,
    )
    yield make_foreign(
        "DecoderMaskedMultiHeadAttention",
        {"q": _floats(1, 1, 8), "k": _floats(1, 1, 8), "v": _floats(1, 1, 8)},
        num_heads=2,
    )
    yield make_foreign(
        "QAttention",
        {"x": _bytes(2, 3, 8), "w": _bytes(8, 24), "b": _floats(24), "s": scale, "ws": scale},
        num_heads=2,
    )
    yield make_foreign(
        "Attention", {"x": _floats(2, 3, 8), "w": _floats(8, 24), "b": _floats(24)}, num_heads=2
    )
    yield make_foreign(
        "Attention",
        {"x": _floats(2, 3, 8), "w": _floats(8, 24), "b": _floats(24), "past": _floats(2, 2, 2, 5, 4)},
        (3,),
        num_heads=2,
        outputs=2,
    )
    yield make_foreign(
        "MultiHeadAttention",
        {"q": _floats(2, 3, 8), "k": _floats(2, 4, 8), "v": _floats(2, 4, 8), "bias": _floats(24)},
        num_heads=2,
    )
    yield make_foreign("MultiHeadAttention", {"q": _floats(2, 3, 2, 3, 4)}, num_heads=2)
    yield make_foreign(
        "MultiHeadAttention",
        {
            "q": _floats(2, 3, 8),
            "k": _floats(2, 3, 8),
            "v": _floats(2, 3, 8),
            "pk": _floats(2, 2, 5, 4),
            "pv": _floats(2, 2, 5, 4),
        },
        (3, 4, 5),
        num_heads=2,
        outputs=3,
    )
    yield make_foreign(
        "MoE",
        {"x": _floats(2, 4), "r": _floats(2, 2), "w": _floats(2, 4, 8), "w2": _floats(2, 8, 4)},
        (3,),
        k=1,
    )
    yield make_foreign("DequantizeLinear", {"x": _bytes(3, 4), "s": _floats(4), "z": _bytes(4)}, axis=1)
    yield make_foreign("QuantizeLinear", {"x": _floats(3, 4), "s": _floats(4), "z": _bytes(4)}, axis=1)
    yield make_foreign("ReduceSumInteger", {"x": _bytes(3, 4)}, axes=[1])
    yield make_foreign("MulInteger", {"a": _bytes(3, 4), "az": zero, "b": _bytes(3, 4), "bz": zero})
    yield make_foreign("MatMulInteger16", {"a": np.ones((3, 4), "i2"), "b": np.ones((4, 5), "i2")})
    yield make_foreign("Unique", {"x": _floats(5)}, outputs=3)
    yield make_foreign("ExpandDims", {"x": _floats(2, 3), "axis": np.array(1, "i4")})
    yield make_foreign("RemovePadding", {"x": _floats(2, 3, 4), "n": np.array([3, 2], "i4")}, outputs=4)
    yield make_foreign(
        "RelativePositionBias",
        {"t": _floats(32, 2), "q": np.array(3, "i8"), "k": np.array(3, "i8")},
        max_distance=8,
    )
    yield make_foreign(
        "GatedRelativePositionBias",
        {
            "q": _floats(2, 3, 8),
            "b": _floats(8),
            "r": _floats(1, 2, 3, 3),
            "w": _floats(4, 8),
            "wb": _floats(8),
            "e": _floats(1, 2, 1, 1),
        },
        num_heads=2,
    )
    yield make_foreign("Trilu", {"x": _floats(2, 3, 3)})
    yield make_foreign("TorchEmbedding", {"w": _floats(4, 5), "i": np.array([1, 2], "i8")})
    yield make_foreign(
        "AttnLSTM", {"x": _floats(2, 1, 2), "w": _floats(1, 12, 4), "r": _floats(1, 12, 3)}, hidden_size=3
    )


def free(model: onnx.ModelProto, *, ranked: bool) -> onnx.ModelProto:
    """The model with inputs of any size, or of any rank."""
    freed = onnx.ModelProto()
    freed.CopyFrom(model)
    for info in freed.graph.input:
        kind = info.type.tensor_type
        if info.type.WhichOneof("value") != "tensor_type":
            continue
        if ranked:
            for size in kind.shape.dim:
                size.Clear()
        else:
            kind.ClearField("shape")
    for info in freed.graph.output:
        if info.type.WhichOneof("value") == "tensor_type":
            info.type.tensor_type.ClearField("shape")
    del freed.graph.value_info[:]
    return freed


def find_false_shapes() -> Iterator[str]:
    """Shapes that are inferred of outputs and that an answer does not have. In a process that runs hostile shapes."""
    draw = np.random.default_rng(0)
    for name, model, feed in list_onnx_cases():
        data = find_loadable(free(model, ranked=True))
        if data is None or model.functions:
            continue
        asked = onnx.ModelProto.FromString(data)
        first = sum(1 for _ in list_nodes(asked.graph))
        names = [info.name for info in asked.graph.output if info.type.WhichOneof("value") == "tensor_type"]
        asked.graph.node.extend(h.make_node("Identity", [output], [f"{output} again"]) for output in names)
        shapes = Shapes(asked)
        known = {output: shapes.of(first + place, 0) for place, output in enumerate(names)}
        if not any(known.values()) or "attention" in name:
            continue
        session = open_session(data)
        for bent in itertools.islice(list_feeds(feed, draw), 200):
            with contextlib.suppress(RaymlopsError):
                answer = session.infer_within(bent, 2.0)
                for output, shape in known.items():
                    if shape is not None and not _agrees(shape, answer[output].shape, bent, shapes):
                        yield f"{name} {output}: {shape}, but {answer[output].shape}"


def _agrees(known: tuple[int | str | None, ...], shape: Shape, feed: Feed, shapes: Shapes) -> bool:
    if len(known) != len(shape):
        return False
    for size, answered in zip(known, shape, strict=True):
        if isinstance(size, int) and size != answered:
            return False
        if isinstance(size, str) and size in shapes.inputs and not answered:
            filled = all(
                feed[name].shape[axis] for name, axis in shapes.inputs[size] if axis < feed[name].ndim
            )
            if filled:
                return False
    return True


def main(share: float, seed: int) -> None:
    counts: collections.Counter[str] = collections.Counter()
    skipped: collections.Counter[str] = collections.Counter()
    deaths: list[str] = []
    operators: set[str] = set()
    draw = np.random.default_rng(seed)
    for name, model, feed in itertools.chain(list_foreign_cases(), list_fused_cases(), list_onnx_cases()):
        for ranked in (True, False):
            if draw.random() >= share:
                continue
            data = find_loadable(free(model, ranked=ranked))
            if data is None or examine(onnx.ModelProto.FromString(data)).refused:
                skipped["not taken" if data is None else "refused"] += 1
                continue
            operators.update(node.op_type for node in model.graph.node)
            feeds = list(list_feeds(feed, draw))
            for number, told in enumerate(try_case(data, feeds)):
                counts[told] += 1
                if told.startswith("died"):
                    shapes = {key: list(array.shape) for key, array in feeds[number].items()}
                    deaths.append(f"{name} {'ranked' if ranked else 'unranked'} {told}: {shapes}")
                    print(deaths[-1], file=sys.stderr, flush=True)
    print(json.dumps({"counts": counts, "deaths": deaths, "operators": len(operators), "skipped": skipped}))


if __name__ == "__main__":
    main(
        float(sys.argv[1]) if len(sys.argv) > 1 else 1.0,
        int(sys.argv[2]) if len(sys.argv) > 2 else int.from_bytes(os.urandom(4), "little"),
    )
