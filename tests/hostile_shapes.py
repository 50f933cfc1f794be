"""Hostile shapes for every model that `onnx.backend.test` generates: axes of length 0 and 1, sizes that do not agree,
ranks that the operator does not expect. Run as a script, it asks each model in a process that may end, and prints what
became of them as JSON.

    python -m tests.hostile_shapes [SHARE [SEED]]
"""

import collections
import itertools
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

from raymlops.models.fatal_operators import examine
from tests.hostile_values import Feed, find_loadable, list_foreign_cases, list_onnx_cases, try_case

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


def main(share: float, seed: int) -> None:
    counts: collections.Counter[str] = collections.Counter()
    skipped: collections.Counter[str] = collections.Counter()
    deaths: list[str] = []
    operators: set[str] = set()
    draw = np.random.default_rng(seed)
    for name, model, feed in itertools.chain(list_foreign_cases(), list_onnx_cases()):
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
