"""Fitted features as ONNX: raw columns in, packed tensors out (numeric, category, image).

This graph is the only implementation of the preprocessing. Training packs its rows by running it, and
export puts it in front of the network, so the two cannot differ.
"""

import collections
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from raymlops.features import MISSING_INSTANT, FittedColumn, FittedFeatures, packing_of
from raymlops.tensors import DATATYPES, TensorSpec

OPSET = 20
ML_OPSET = 2
IR_VERSION = 10  # ONNX Runtime takes at most 13, and models that are to be merged need equal ones

_DAY = 86_400_000
_HOUR = 3_600_000
_CYCLES = {"hour": 24.0, "weekday": 7.0, "day": 31.0, "month": 12.0, "dayofyear": 365.2425}


class GraphBuilder:
    """Collects nodes and constants, and names what they give."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._names: collections.Counter[str] = collections.Counter()

    def constant(self, value: Any, name: str = "constant") -> str:
        tensor = numpy_helper.from_array(np.asarray(value), self._fresh(name))
        self.constants.append(tensor)
        return str(tensor.name)

    def add(
        self, operator: str, *inputs: str, name: str | None = None, domain: str = "", **attributes: Any
    ) -> str:
        output = name or self._fresh(operator.lower())
        self.nodes.append(
            helper.make_node(operator, list(inputs), [output], name=output, domain=domain, **attributes)
        )
        return output

    def _fresh(self, stem: str) -> str:
        self._names[stem] += 1
        return f"{stem}_{self._names[stem]}"

    def column(self, tensor: str) -> str:
        """(rows,) -> (rows, 1)"""
        return self.add("Unsqueeze", tensor, self._axis())

    def _axis(self) -> str:
        if not any(constant.name == "axis_1" for constant in self.constants):
            self.constants.append(numpy_helper.from_array(np.array([1], dtype=np.int64), "axis_1"))
        return "axis_1"

    def cast(self, tensor: str, kind: int) -> str:
        return self.add("Cast", tensor, to=kind)

    def concat(self, tensors: list[str], name: str | None = None) -> str:
        """Joins (rows, *) tensors side by side."""
        if len(tensors) == 1 and name is None:
            return tensors[0]
        return self.add("Concat", *tensors, name=name, axis=1)

    def to_model(
        self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.constants)
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)],
            ir_version=IR_VERSION,
        )


def build_encoder(features: FittedFeatures) -> onnx.ModelProto:
    """The graph from raw columns to packed tensors; it has only the outputs whose width is over 0."""
    build = GraphBuilder()
    packing = packing_of(features)
    outputs = []
    if packing.numeric:
        parts = _encode_numbers(build, features.of_kind("number"))
        for column in features.of_kind("timestamp"):
            parts += _encode_timestamp(build, column)
        build.concat(parts, name="numeric")
        outputs.append(TensorSpec("numeric", "FP32", (-1, packing.numeric)))
    if packing.categories:
        build.concat(
            [_encode_category(build, column) for column in features.of_kind("category")], name="category"
        )
        outputs.append(TensorSpec("category", "INT64", (-1, len(packing.categories))))
    if packing.image:
        build.concat([_encode_image(build, column) for column in features.of_kind("image")], name="image")
        outputs.append(TensorSpec("image", "FP32", (-1, *packing.image)))
    inputs = [to_value_info(spec) for spec in features.inputs]
    return build.to_model("encoder", inputs, [to_value_info(spec) for spec in outputs])


def to_value_info(spec: TensorSpec) -> onnx.ValueInfoProto:
    """A tensor spec as ONNX declares it; the first unknown dimension is called `batch`."""
    shape = [
        "batch" if size == -1 and axis == 0 else (None if size == -1 else size)
        for axis, size in enumerate(spec.shape)
    ]
    return helper.make_tensor_value_info(spec.name, DATATYPES[spec.datatype].onnx, shape)


def _encode_numbers(build: GraphBuilder, columns: tuple[FittedColumn, ...]) -> list[str]:
    """All number columns as one matrix: few wide operators cost less than many narrow ones."""
    if not columns:
        return []
    raw = build.concat([build.column(_as_float(build, column)) for column in columns])  # (rows, columns)
    unusable = build.add("Or", build.add("IsNaN", raw), build.add("IsInf", raw))
    filled = build.add("Where", unusable, _row(build, [column.fill for column in columns], "fill"), raw)
    centred = build.add("Sub", filled, _row(build, [column.mean for column in columns], "mean"))
    scaled = build.add("Div", centred, _row(build, [column.std for column in columns], "std"))
    limits = [column.clip for column in columns]
    below = build.add("Min", scaled, _row(build, limits, "limit"))
    parts = [build.add("Max", below, _row(build, [-limit for limit in limits], "limit"))]
    parts += _encode_bins(build, columns, filled)
    flagged = [position for position, column in enumerate(columns) if column.indicator]
    if flagged:
        chosen = build.add(
            "Gather", unusable, build.constant(np.array(flagged, dtype=np.int64), "flagged"), axis=1
        )
        parts.append(build.cast(chosen, TensorProto.FLOAT))
    return parts


def _encode_bins(build: GraphBuilder, columns: tuple[FittedColumn, ...], filled: str) -> list[str]:
    """Piecewise-linear encoding (Gorishniy, Rubachev, Babenko 2022): each bin is how far the value is
    through it."""
    positions = np.concatenate(
        [
            np.full(max(0, len(column.edges) - 1), position, dtype=np.int64)
            for position, column in enumerate(columns)
        ]
    )
    if not len(positions):
        return []
    low = np.concatenate(
        [np.array(column.edges[:-1], dtype=np.float32) for column in columns if column.edges]
    )
    high = np.concatenate(
        [np.array(column.edges[1:], dtype=np.float32) for column in columns if column.edges]
    )
    repeated = build.add("Gather", filled, build.constant(positions, "bin_columns"), axis=1)
    through = build.add(
        "Div",
        build.add("Sub", repeated, build.constant(low, "bin_low")),
        build.constant(high - low, "bin_width"),
    )
    zero, one = build.constant(np.float32(0), "zero"), build.constant(np.float32(1), "one")
    return [build.add("Clip", through, zero, one)]


def _as_float(build: GraphBuilder, column: FittedColumn) -> str:
    return column.name if column.spec.datatype == "FP32" else build.cast(column.name, TensorProto.FLOAT)


def _row(build: GraphBuilder, values: list[float], name: str) -> str:
    return build.constant(np.array([values], dtype=np.float32), name)


def _encode_category(build: GraphBuilder, column: FittedColumn) -> str:
    ids = list(range(1, len(column.values) + 1))
    if column.type == "string":
        keys: dict[str, Any] = {"keys_strings": [str(value) for value in column.values]}
        tensor = column.name
    else:
        keys = {"keys_int64s": [int(value) for value in column.values]}
        tensor = column.name
        if column.spec.datatype in ("FP32", "FP64"):
            zero = build.constant(np.zeros(1, dtype=column.spec.dtype), "zero")
            missing = build.add("Or", build.add("IsNaN", tensor), build.add("IsInf", tensor))
            number = build.cast(build.add("Where", missing, zero, tensor), TensorProto.INT64)
            nowhere = build.constant(np.array([MISSING_INSTANT], dtype=np.int64), "nowhere")
            tensor = build.add("Where", missing, nowhere, number)
        elif column.spec.datatype == "BOOL":
            tensor = build.cast(tensor, TensorProto.INT64)
    if not ids:  # every value was rare: all are unknown, and LabelEncoder takes no empty table
        keys = {"keys_strings": [""]} if column.type == "string" else {"keys_int64s": [MISSING_INSTANT]}
        ids = [0]
    encoded = build.add(
        "LabelEncoder", tensor, domain="ai.onnx.ml", **keys, values_int64s=ids, default_int64=0
    )
    return build.column(encoded)


def _encode_timestamp(build: GraphBuilder, column: FittedColumn) -> list[str]:
    missing = build.add(
        "Equal", column.name, build.constant(np.array([MISSING_INSTANT], dtype=np.int64), "missing")
    )
    instant = build.add(
        "Where", missing, build.constant(np.array([round(column.fill)], dtype=np.int64), "fill"), column.name
    )
    tensors: list[str] = []
    for part in column.parts:
        if part == "elapsed":
            exact = build.add(
                "Sub",
                build.cast(instant, TensorProto.DOUBLE),
                build.constant(np.array([column.mean]), "mean"),
            )
            scaled = build.add("Div", exact, build.constant(np.array([column.std]), "std"))
            tensors.append(build.column(build.cast(scaled, TensorProto.FLOAT)))
            continue
        angle = build.add(
            "Mul",
            _time_part(build, instant, part),
            build.constant(np.array([2 * np.pi / _CYCLES[part]], np.float32), "turn"),
        )
        tensors += [build.column(build.add("Sin", angle)), build.column(build.add("Cos", angle))]
    if column.indicator:
        tensors.append(build.column(build.cast(missing, TensorProto.FLOAT)))
    return tensors


def _time_part(build: GraphBuilder, instant: str, part: str) -> str:
    """A part of the UTC calendar as float, from milliseconds since 1970."""

    def whole(number: int) -> str:
        return build.constant(np.array([number], dtype=np.int64), "whole")

    in_day = build.add("Mod", instant, whole(_DAY))  # the sign of the divisor: right before 1970 too
    if part == "hour":
        hours = build.cast(in_day, TensorProto.FLOAT)
        return build.add("Div", hours, build.constant(np.array([_HOUR], dtype=np.float32), "hour"))
    days = build.add("Div", build.add("Sub", instant, in_day), whole(_DAY))
    if part == "weekday":  # 1970-01-01 was a Thursday
        return build.cast(build.add("Mod", build.add("Add", days, whole(3)), whole(7)), TensorProto.FLOAT)
    # The civil calendar by whole numbers: Howard Hinnant, "chrono-compatible low-level date algorithms"
    # (2013), whose year begins in March. Five eras of 400 years are added so that nothing divided is
    # negative.
    shifted = build.add("Add", days, whole(719468 + 146097 * 5))
    of_era = build.add("Mod", shifted, whole(146097))
    less = build.add("Sub", of_era, build.add("Div", of_era, whole(1460)))
    less = build.add("Add", less, build.add("Div", of_era, whole(36524)))
    less = build.add("Sub", less, build.add("Div", of_era, whole(146096)))
    year = build.add("Div", less, whole(365))
    leaps = build.add("Sub", build.add("Div", year, whole(4)), build.add("Div", year, whole(100)))
    of_year = build.add("Sub", of_era, build.add("Add", build.add("Mul", year, whole(365)), leaps))
    if (
        part == "dayofyear"
    ):  # counted from 1 January; a leap day shifts it by one, which a cycle does not feel
        return build.cast(
            build.add("Mod", build.add("Add", of_year, whole(59)), whole(365)), TensorProto.FLOAT
        )
    month = build.add("Div", build.add("Add", build.add("Mul", of_year, whole(5)), whole(2)), whole(153))
    if part == "month":
        return build.cast(build.add("Mod", build.add("Add", month, whole(2)), whole(12)), TensorProto.FLOAT)
    before = build.add("Div", build.add("Add", build.add("Mul", month, whole(153)), whole(2)), whole(5))
    return build.cast(build.add("Sub", of_year, before), TensorProto.FLOAT)


def _encode_image(build: GraphBuilder, column: FittedColumn) -> str:
    """(rows, height, width[, channels]) -> (rows, channels, height, width), scaled."""
    tensor = build.add("Div", column.name, build.constant(np.array(column.scale, dtype=np.float32), "scale"))
    if len(column.shape) == 2:
        return build.column(tensor)
    return build.add("Transpose", tensor, perm=[0, 3, 1, 2])
