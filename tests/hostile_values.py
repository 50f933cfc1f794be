"""Hostile values for every model that `onnx.backend.test` generates, and for operators of com.microsoft: least and
greatest integers, indices far outside, sizes of 2**40, NaN, infinities, long texts. Run as a script, it asks each model
in a process that may end, and prints what became of them as JSON.

    python -m tests.hostile_values [SHARE]
"""

import collections
import contextlib
import copy
import itertools
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx.backend.test.case.node import collect_testcases

from raymlops.errors import RaymlopsError
from raymlops.models.fatal_operators import examine
from raymlops.models.session import Session, SessionOptions, open_session

Feed = dict[str, np.ndarray[Any, Any]]
Case = tuple[str, onnx.ModelProto, Feed]
MEMORY = 2**29
OPSETS = (26, 24, 22, 21, 18, 17, 13, 11, 10, 9)
"""Versions to try for a model that is newer than ONNX Runtime knows."""
TELLS = struct.Struct("<q16s")
"""Number of an attempt, and what became of it; empty when it begins."""


def spoil(array: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    """The array with hostile values: everywhere, in the first element, in the last."""
    values: list[Any]
    match array.dtype.kind:
        case "i" | "u":
            limits = np.iinfo(array.dtype)
            asked = [limits.min, limits.min + 1, -(2**31), -11, -3, -2, -1, *range(12), 16, 31, 65, 1000]
            asked += [100_000, 2**31 - 1, 2**31, 2**33, 2**40, 2**62, limits.max]
            values = [value for value in asked if limits.min <= value <= limits.max]
        case "f":
            values = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 6e4, -6e4]
            values += [] if array.dtype == np.float16 else [1e10, -1e10, 1e38, 2.0**31]
        case "b":
            values = [True, False]
        case _:
            values = ["", "x" * 100_000, "\0", "é" * 7]
    for value in values:
        yield np.full_like(array, value)
        for place in (0, -1) if array.size > 1 else ():
            changed = array.copy()
            changed.flat[place] = value
            yield changed


def list_feeds(feed: Feed) -> Iterator[Feed]:
    """One input spoilt, and pairs of integer inputs that are fatal only together."""
    for name, array in feed.items():
        for values in spoil(array):
            yield {**feed, name: values}
    numbers = [name for name, array in feed.items() if array.dtype.kind in "iu"]
    for first, second in itertools.permutations(numbers, 2):
        limits = np.iinfo(feed[second].dtype)
        for one, other in itertools.product((0, -1, 1), (limits.min, limits.max)):
            if one >= np.iinfo(feed[first].dtype).min:
                yield {
                    **feed,
                    first: np.full_like(feed[first], one),
                    second: np.full_like(feed[second], other),
                }


def list_onnx_cases() -> Iterator[Case]:
    for case in sorted(collect_testcases(None), key=lambda case: str(case.name)):
        if case.model is None or not case.data_sets or any(isinstance(v, list) for v in case.data_sets[0][0]):
            continue
        arrays = [np.asarray(value) for value in case.data_sets[0][0]]
        names = [info.name for info in case.model.graph.input]
        yield case.name, case.model, dict(zip(names, arrays, strict=False))


def make_foreign(operator: str, feed: Feed, skip: tuple[int, ...] = (), **attributes: Any) -> Case:
    """A model of one operator of com.microsoft; inputs at the places `skip` are left out."""
    kinds = {np.dtype(name): kind for name, kind in _KINDS.items()}
    names = list(feed)
    for place in skip:
        names.insert(place, "")
    outputs = attributes.pop("outputs", 1)
    node = h.make_node(
        operator, names, [f"y{n}" for n in range(outputs)], domain="com.microsoft", **attributes
    )
    inputs = [
        h.make_tensor_value_info(name, kinds[array.dtype], [None] * array.ndim)
        for name, array in feed.items()
    ]
    graph = h.make_graph([node], "g", inputs, [onnx.ValueInfoProto(name=f"y{n}") for n in range(outputs)])
    opsets = [h.make_opsetid("", 17), h.make_opsetid("com.microsoft", 1)]
    return f"com.microsoft.{operator}", h.make_model(graph, opset_imports=opsets, ir_version=9), feed


_KINDS = {
    "?": T.BOOL, "f4": T.FLOAT, "u1": T.UINT8, "i1": T.INT8, "i2": T.INT16, "i4": T.INT32, "i8": T.INT64, "O": T.STRING
}  # fmt: skip


def list_foreign_cases() -> Iterator[Case]:
    normal = np.random.default_rng(0).normal

    def floats(*shape: int) -> np.ndarray[Any, Any]:
        return normal(size=shape).astype("f4")

    def whole(*values: Any, kind: str = "i4") -> np.ndarray[Any, Any]:
        return np.array(values, kind)

    ids, ones = whole([1, 2, 3]), np.ones((2, 4), "i4")
    cache = {"k": floats(1, 1, 32), "v": floats(1, 1, 32), "pk": floats(1, 4, 8, 8), "pv": floats(1, 4, 8, 8)}
    lengths = {"lengths": whole(4), "total": np.array(5, "i4")}
    three = {"q": floats(2, 3, 8), "k": floats(2, 4, 8), "v": floats(2, 4, 8)}
    attended = {"x": floats(2, 3, 8), "w": floats(8, 24), "b": floats(24)}
    yield make_foreign(
        "CropAndResize",
        {
            "x": floats(2, 3, 8, 8),
            "rois": whole([0, 0, 1, 1], kind="f4"),
            "b": whole(0),
            "size": whole(3, 3),
        },
    )
    yield make_foreign(
        "EmbedLayerNormalization",
        {
            "ids": ids,
            "segments": whole([0, 1, 0]),
            "words": floats(10, 8),
            "places": floats(5, 8),
            "kinds": floats(2, 8),
            "gamma": floats(8),
            "beta": floats(8),
            "mask": np.ones((1, 3), "i4"),
        },
        outputs=2,
    )
    yield make_foreign("GatherND", {"x": floats(4, 5), "i": whole([1, 2], kind="i8")})
    yield make_foreign(
        "GatherBlockQuantized",
        {"x": np.ones((10, 32), "u1"), "i": whole(1, 2, kind="i8"), "s": floats(10, 2)},
        bits=8,
        block_size=16,
        gather_axis=0,
        quantize_axis=1,
    )
    yield make_foreign(
        "GroupQueryAttention",
        {"q": floats(1, 1, 32), **cache, **lengths},
        outputs=3,
        num_heads=4,
        kv_num_heads=4,
    )
    for mask in (whole(3, 2), ones, np.arange(8, dtype="i4")):
        yield make_foreign("MultiHeadAttention", {**three, "mask": mask}, (3,), num_heads=2)
    for mask in (whole(3, 2), ones[:, :3], whole(3, 2, 0, 0), whole(3, 2, 0, 1, 2, 2, 3, 4)):
        yield make_foreign("Attention", {**attended, "mask": mask}, num_heads=2)
    turned = {"cos": floats(10, 4), "sin": floats(10, 4)}
    for places in (whole([0, 1, 2], [0, 1, 2], kind="i8"), whole(2, kind="i8")):
        yield make_foreign("RotaryEmbedding", {"x": floats(2, 3, 8), "places": places, **turned})
    yield make_foreign(
        "NGramRepeatBlock",
        {"ids": whole([1, 2, 1, 2], [3, 1, 2, 1], kind="i8"), "scores": floats(2, 10)},
        ngram_size=2,
    )
    yield make_foreign("ExpandDims", {"x": floats(2, 3), "axis": np.array(0, "i4")})
    yield make_foreign("Pad", {"x": floats(2, 3), "pads": whole(1, 1, 1, 1, kind="i8")})
    yield make_foreign("Range", {name: np.array(n, "i8") for name, n in (("a", 0), ("b", 5), ("c", 1))})
    yield make_foreign("Trilu", {"x": floats(3, 3), "k": np.array(1, "i8")})
    yield make_foreign(
        "WordConvEmbedding",
        {"s": whole([1, 2, 3, 0, 0]), "w": floats(6, 1, 3, 4), "b": floats(6), "c": floats(10, 4)},
        embedding_size=6,
        conv_window_size=3,
        char_embedding_size=4,
    )
    yield make_foreign(
        "MaxpoolWithMask", {"x": floats(1, 1, 4, 4), "m": np.ones((1, 1, 4, 4), "i4")}, kernel_shape=[2, 2]
    )
    yield make_foreign("MurmurHash3", {"x": whole(1, 2, 3)})
    yield make_foreign(
        "ConvTransposeWithDynamicPads",
        {"x": floats(1, 1, 3, 3), "w": floats(1, 1, 2, 2), "p": whole(0, 0, 0, 0, kind="i8")},
    )
    yield make_foreign(
        "BifurcationDetector",
        {
            "s": whole(1, 5, 3, 4, kind="i8"),
            "c": whole(2, kind="i8"),
            "m": np.array(0, "i8"),
            "p": whole(1, 5, 3, 4, 2, kind="i8"),
        },
        outputs=2,
    )
    yield make_foreign(
        "Tokenizer",
        {"x": np.array(["a b", "c"], object)},
        mark=0,
        mincharnum=1,
        pad_value="#",
        separators=[" "],
    )


def find_loadable(model: onnx.ModelProto) -> bytes | None:
    """The model as ONNX Runtime takes it, with an older opset if need be."""
    model = copy.deepcopy(model)
    model.ir_version = min(model.ir_version, 10)
    for opset in (None, *OPSETS):
        if opset is not None:
            model.opset_import[0].version = opset
        with contextlib.suppress(RaymlopsError):
            open_session(model.SerializeToString())
            return model.SerializeToString()
    return None


def ask(session: Session, feed: Feed) -> str:
    try:
        session.infer_within(feed, 2.0) if session.by_value else session.infer(feed)
    except RaymlopsError as error:
        return type(error).__name__
    except Exception as error:
        return type(error).__name__
    return "answered"


def ask_all(data: bytes, feeds: list[Feed], first: int, tell: int) -> None:
    """In a process that may end: tell before and after each attempt."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    session = open_session(data, SessionOptions(memory=MEMORY))
    for number in range(first, len(feeds)):
        os.write(tell, TELLS.pack(number, b""))
        signal.alarm(20)
        os.write(tell, TELLS.pack(number, ask(session, feeds[number]).encode()[:16]))


def try_case(data: bytes, feeds: list[Feed]) -> Iterator[str]:
    """What became of each attempt; a process that ended is followed by another."""
    first = 0
    while first < len(feeds):
        hear, tell = os.pipe()
        child = os.fork()
        if not child:
            os.close(hear)
            try:
                ask_all(data, feeds, first, tell)
            finally:
                os._exit(0)
        os.close(tell)
        with open(hear, "rb") as told:
            while message := told.read(TELLS.size):
                first, word = TELLS.unpack(message)
                if word.strip(b"\0"):
                    yield word.strip(b"\0").decode()
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            yield f"died of {signal.Signals(os.WTERMSIG(status)).name}"
        first += 1


def main(share: float) -> None:
    counts: collections.Counter[str] = collections.Counter()
    deaths: list[str] = []
    operators: set[str] = set()
    skipped: collections.Counter[str] = collections.Counter()
    draw = np.random.default_rng(int.from_bytes(os.urandom(4), "little"))
    for name, model, feed in itertools.chain(list_foreign_cases(), list_onnx_cases()):
        data = find_loadable(model)
        if data is None or examine(onnx.ModelProto.FromString(data)).refused:
            skipped["not taken" if data is None else "refused"] += 1
            continue
        operators.update(node.op_type for node in model.graph.node)
        feeds = [spoilt for spoilt in list_feeds(feed) if draw.random() < share]
        for number, told in enumerate(try_case(data, feeds)):
            counts[told] += 1
            if told.startswith("died"):
                deaths.append(
                    f"{name} {told}: { {n: v.ravel()[:4].tolist() for n, v in feeds[number].items()} }"
                )
    print(json.dumps({"counts": counts, "deaths": deaths, "operators": len(operators), "skipped": skipped}))


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)
