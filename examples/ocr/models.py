"""The two models of the example, as exports of a detector and a recogniser look: free sizes, and names of their own."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from examples.ocr.lettering import CELL, SCALE, draw_letters
from examples.onnx_parts import make, tensor

LONGEST = 8
"""Letters of a crop; what is no letter is class 36."""


def make_detector() -> onnx.ModelProto:
    """image UINT8[-1,-1,-1,3] -> heat FP32[-1,-1,-1]: how likely a field of SCALE x SCALE pixels is of a plate."""
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["numbers"], ["channels"], perm=[0, 3, 1, 2]),
        helper.make_node("ReduceMean", ["channels", "one"], ["grey"]),
        helper.make_node(
            "AveragePool",
            ["grey"],
            ["fields"],
            kernel_shape=[SCALE] * 2,
            strides=[SCALE] * 2,
            pads=[0, 0, SCALE - 1, SCALE - 1],  # the last fields may be cut
        ),
        helper.make_node("Sub", ["limit", "fields"], ["darker"]),
        helper.make_node("Mul", ["darker", "steep"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["map"]),
        helper.make_node("Squeeze", ["map", "one"], ["heat"]),
    ]
    return make(
        nodes,
        [tensor("image", TensorProto.UINT8, "batch", "height", "width", 3)],
        [tensor("heat", TensorProto.FLOAT, "batch", "rows", "columns")],
        {"one": [1], "limit": np.float32(200), "steep": np.float32(0.2)},
    )


def make_recogniser() -> onnx.ModelProto:
    """crops FP32[-1,8,64] of ink -> letters INT64[-1,8], score FP32[-1]."""
    known = np.concatenate([draw_letters().reshape(-1, CELL * CELL), np.zeros((1, CELL * CELL), np.float32)])
    nodes = [
        helper.make_node("Reshape", ["crops", "cells"], ["split"]),
        helper.make_node("Transpose", ["split"], ["turned"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["turned", "flat"], ["found"]),
        helper.make_node("MatMul", ["found", "templates"], ["matched"]),
        helper.make_node("Add", ["matched", "blank"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["likely"], axis=-1),
        helper.make_node("ArgMax", ["likely"], ["letters"], axis=-1, keepdims=0),
        helper.make_node("ReduceMax", ["likely", "last"], ["surest"], keepdims=0),
        helper.make_node("ReduceMean", ["surest", "last"], ["score"], keepdims=0),
    ]
    weights = {
        "cells": [-1, CELL, LONGEST, CELL],
        "flat": [-1, LONGEST, CELL * CELL],
        "last": [-1],
        # Agreement of ink and of paper: x t + (1 - x)(1 - t), without what is equal for all letters.
        "templates": (2 * known.T - 1).astype(np.float32),
        "blank": -known.sum(axis=1).astype(np.float32),
    }
    return make(
        nodes,
        [tensor("crops", TensorProto.FLOAT, "crops", CELL, CELL * LONGEST)],
        [tensor("letters", TensorProto.INT64, "crops", LONGEST), tensor("score", TensorProto.FLOAT, "crops")],
        weights,
    )
