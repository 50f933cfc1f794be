"""A small real model for tests: delayed flights, raw columns in, one ONNX graph, trained in a blink by numpy.

The defects that a gate must catch are options of `build_model`.
"""

import dataclasses
import json

import numpy as np
import onnx
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper

CARRIERS = ("AA", "B6", "DL", "UA", "WN")
HIDDEN = 64


def draw_flights(rows, seed=0, rate_shift=0.0):
    """Raw columns and 0/1 labels."""
    random = np.random.default_rng(seed)
    carrier = random.integers(0, len(CARRIERS), rows)
    hour = random.uniform(5, 23, rows)
    distance = random.lognormal(6.5, 0.7, rows)
    wind = random.gamma(2, 5, rows)
    odds = (
        -2.2 + rate_shift + 0.15 * (hour - 14) + np.sin(carrier * 2.0) + 0.05 * wind + 0.4 * (distance > 1200)
    )
    odds += 0.08 * (hour - 14) * (carrier == 2)
    labels = (random.random(rows) < 1 / (1 + np.exp(-odds))).astype(np.int64)
    names = np.array(CARRIERS, dtype=object)[carrier]
    names[random.random(rows) < 0.01] = ""
    wind[random.random(rows) < 0.05] = np.nan
    columns = {
        "hour": hour.astype(np.float32),
        "distance": distance.astype(np.float32),
        "wind": wind.astype(np.float32),
        "carrier": names,
    }
    return columns, labels


@dataclasses.dataclass(frozen=True)
class Weights:
    names: tuple
    mean: np.ndarray
    std: np.ndarray
    first: np.ndarray
    bias: np.ndarray
    last: np.ndarray


def encode(columns, names, mean, std):
    numbers = np.stack([columns[name].astype(np.float64) for name in names], axis=1)
    numbers = (np.where(np.isnan(numbers), mean, numbers) - mean) / std
    onehot = columns["carrier"][:, None] == np.array(CARRIERS, dtype=object)
    return np.concatenate([numbers, onehot], axis=1)


def fit(columns, labels, seed=0):
    """Random hidden units, then logistic regression on them by Newton steps."""
    random = np.random.default_rng(seed)
    names = tuple(name for name in columns if name != "carrier")
    numbers = np.stack([columns[name].astype(np.float64) for name in names], axis=1)
    mean, std = np.nanmean(numbers, axis=0), np.nanstd(numbers, axis=0)
    rows = encode(columns, names, mean, std)
    first = random.normal(size=(rows.shape[1], HIDDEN)) / 2
    bias = random.normal(size=HIDDEN)
    hidden = np.concatenate([np.maximum(rows @ first + bias, 0), np.ones((len(rows), 1))], axis=1)
    last = np.zeros(HIDDEN + 1)
    for _ in range(8):
        chance = 1 / (1 + np.exp(-hidden @ last))
        slope = hidden.T @ (chance - labels) + 0.5 * last
        curve = (hidden * (chance * (1 - chance))[:, None]).T @ hidden + 0.5 * np.eye(len(last))
        last = last - np.linalg.solve(curve, slope)
    return Weights(names, mean, std, first, bias, last)


def predict(weights, columns):
    """What the network answers, in float64."""
    rows = encode(columns, weights.names, weights.mean, weights.std)
    hidden = np.maximum(rows @ weights.first + weights.bias, 0)
    return 1 / (1 + np.exp(-(hidden @ weights.last[:-1] + weights.last[-1])))


def build_model(
    weights,
    *,
    opset=20,
    standardise=True,
    impute=True,
    swapped=False,
    scale=1.0,
    classes=("on time", "late"),
    required=(),
    deaf_to=None,
):
    """ONNX bytes of our shape. `scale` moves a factor between the two weights: the same function."""
    nodes, constants = [], []

    def constant(name, value, dtype=np.float32):
        constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def node(operator, inputs, output, **attributes):
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    constant("axis", [1], np.int64)
    for name in weights.names:
        node("Unsqueeze", [name, "axis"], f"{name}_column")
    node("Concat", [f"{name}_column" for name in weights.names], "raw", axis=1)
    filled = "raw"
    if impute:
        node("IsNaN", ["raw"], "missing")
        filled = node("Where", ["missing", constant("mean", weights.mean[None]), "raw"], "filled")
    if deaf_to is not None:  # the numbers of one carrier are lost
        node("Equal", ["carrier", constant("deaf", deaf_to, object)], "is_deaf")
        node("Unsqueeze", ["is_deaf", "axis"], "is_deaf_column")
        filled = node("Where", ["is_deaf_column", constant("usual", weights.mean[None]), filled], "heard")
    scaled = filled
    if standardise:
        node("Sub", [filled, constant("centre", weights.mean[None])], "centred")
        scaled = node("Div", ["centred", constant("std", weights.std[None])], "scaled")
    node(
        "LabelEncoder",
        ["carrier"],
        "code",
        domain="ai.onnx.ml",
        keys_strings=list(CARRIERS),
        values_int64s=list(range(len(CARRIERS))),
        default_int64=len(CARRIERS),
    )
    table = np.eye(len(CARRIERS) + 1, len(CARRIERS))
    node("Gather", [constant("table", table), "code"], "onehot")
    node("Concat", [scaled, "onehot"], "rows", axis=1)
    node("MatMul", ["rows", constant("first", weights.first * scale)], "product")
    node("Add", ["product", constant("bias", weights.bias * scale)], "biased")
    node("Relu", ["biased"], "hidden")
    node("MatMul", ["hidden", constant("last", weights.last[:-1, None] / scale)], "logit_column")
    node("Add", ["logit_column", constant("intercept", weights.last[-1:])], "logit")
    node("Squeeze", ["logit", "axis"], "flat")
    node("Neg" if swapped else "Identity", ["flat"], "signed")
    node("Sigmoid", ["signed"], "probability")
    node("GreaterOrEqual", ["probability", constant("half", 0.5)], "over")
    node("Cast", ["over"], "place", to=TensorProto.INT64)
    node(
        "LabelEncoder",
        ["place"],
        "label",
        domain="ai.onnx.ml",
        keys_int64s=[0, 1],
        values_strings=list(classes),
    )
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch"]) for n in weights.names]
    inputs.append(helper.make_tensor_value_info("carrier", TensorProto.STRING, ["batch"]))
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.STRING, ["batch"]),
        helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["batch"]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "flights", inputs, outputs, constants),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 2)],
        ir_version=10,
    )
    helper.set_model_props(
        model, {"raymlops.contract": json.dumps(describe(weights, classes=classes, required=required))}
    )
    return model.SerializeToString()


def describe(weights, classes=("on time", "late"), required=()):
    columns = [{"name": n, "kind": "number", "feature": "number", "shape": [-1]} for n in weights.names]
    columns.append({"name": "carrier", "kind": "string", "feature": "category", "shape": [-1]})
    columns = [{**column, "nullable": column["name"] not in required} for column in columns]
    return {
        "columns": columns,
        "target": {"name": "late", "task": "binary", "type": "string", "classes": list(classes)},
        "versions": {},
    }


def to_table(columns, labels):
    held = {name: pa.array(values, from_pandas=True) for name, values in columns.items()}
    return pa.table({**held, "late": np.array(["on time", "late"])[labels]})


def read_model(data):
    return onnx.load_from_string(data)
