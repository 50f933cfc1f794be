"""A detector, a crop and classifiers of the digits that come with scikit-learn, as ONNX, and images made of digits."""

import functools

import numpy as np
import onnx
from onnx import TensorProto, helper
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from examples.onnx_parts import make, tensor
from raymlops.tensors import Batch

CELLS, SIZE = 3, 8
"""An image has CELLS x CELLS places of SIZE x SIZE pixels, each with a digit or empty."""


def detect() -> onnx.ModelProto:
    """image FP32[-1,24,24] -> boxes INT64[n,1] the places with ink, counts INT64[-1] how many in each image."""
    nodes = [
        *_to_places("image"),
        helper.make_node("ReduceSum", ["places", "last"], ["ink"], keepdims=0),
        helper.make_node("Greater", ["ink", "few"], ["found"]),
        helper.make_node("NonZero", ["found"], ["where"]),
        helper.make_node("Gather", ["where", "second"], ["flat"], axis=0),
        helper.make_node("Unsqueeze", ["flat", "one"], ["boxes"]),
        helper.make_node("Cast", ["found"], ["whole"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["whole", "one"], ["counts"], keepdims=0),
    ]
    weights = {"last": [2], "few": np.float32(10), "second": 1, "one": [1]}
    return make(
        nodes,
        [tensor("image", TensorProto.FLOAT, "n", 24, 24)],
        [tensor("boxes", TensorProto.INT64, "found", 1), tensor("counts", TensorProto.INT64, "n")],
        weights | _SHAPES,
    )


def _to_places(name: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Reshape", [name, "grid"], ["cells"]),
        helper.make_node("Transpose", ["cells"], ["turned"], perm=[0, 1, 3, 2, 4]),
        helper.make_node("Reshape", ["turned", "rows"], ["places"]),
    ]


_SHAPES = {"grid": [-1, CELLS, SIZE, CELLS, SIZE], "rows": [-1, CELLS * CELLS, SIZE * SIZE]}


def crop() -> onnx.ModelProto:
    """image FP32[-1,24,24], box INT64[-1,1] -> pixels FP32[-1,64]."""
    nodes = [
        *_to_places("image"),
        helper.make_node("GatherND", ["places", "box"], ["pixels"], batch_dims=1),
    ]
    return make(
        nodes,
        [tensor("image", TensorProto.FLOAT, "n", 24, 24), tensor("box", TensorProto.INT64, "n", 1)],
        [tensor("pixels", TensorProto.FLOAT, "n", 64)],
        _SHAPES,
    )


@functools.cache
def classify(rows: int = 1000) -> onnx.ModelProto:
    """pixels FP32[-1,64] -> label INT64[-1], probability FP32[-1,10]; more rows teach it better."""
    digits = load_digits()
    network = LogisticRegression(max_iter=2000, C=0.01).fit(digits.data[:rows], digits.target[:rows])
    return make(
        [
            helper.make_node("Gemm", ["pixels", "w", "b"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probability"], axis=1),
            helper.make_node("ArgMax", ["probability"], ["label"], axis=1, keepdims=0),
        ],
        [tensor("pixels", TensorProto.FLOAT, "n", 64)],
        [tensor("label", TensorProto.INT64, "n"), tensor("probability", TensorProto.FLOAT, "n", 10)],
        {"w": network.coef_.T.astype(np.float32), "b": network.intercept_.astype(np.float32)},
    )


def draw_images(count: int, seed: int = 0) -> tuple[Batch, list[list[int]]]:
    """Images of digits that no classifier was taught, some empty; and the digits of each, in reading order."""
    noise = np.random.default_rng(seed)
    digits = load_digits()
    images = np.zeros((count, CELLS * SIZE, CELLS * SIZE), dtype=np.float32)
    held: list[list[int]] = []
    for i in range(count):
        places = np.sort(
            noise.choice(CELLS * CELLS, size=0 if i == 1 else noise.integers(1, 6), replace=False)
        )
        chosen = noise.integers(1500, len(digits.images), size=len(places))
        for place, digit in zip(places, chosen, strict=True):
            y, x = divmod(int(place), CELLS)
            images[i, y * SIZE : (y + 1) * SIZE, x * SIZE : (x + 1) * SIZE] = digits.images[digit]
        held.append(digits.target[chosen].tolist())
    return {"image": images}, held
