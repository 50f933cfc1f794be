"""Fitted features as ONNX: raw columns in, packed tensors out (numeric, category, image; plain, for trees).

This graph is the only implementation of the preprocessing: training runs it to pack its rows, and export puts it in
front of the network, so that the two cannot differ.
"""

import zlib
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from raymlops.features import (
    MISSING_INSTANT,
    NETWORK_TENSORS,
    VECTORS,
    FittedColumn,
    FittedFeatures,
    packing_of,
)
from raymlops.models.calendar import add_calendar
from raymlops.models.encoder_files import add_encoder
from raymlops.models.formulas import add_formula
from raymlops.models.session import Session
from raymlops.models.text_nodes import add_text, add_words, drop_last
from raymlops.onnx_builder import INNER, GraphBuilder, to_value_info
from raymlops.tensors import Batch, TensorSpec

_CYCLES = {"hour": 24.0, "weekday": 7.0, "day": 31.0, "month": 12.0, "dayofyear": 365.2425}


def build_encoder(features: FittedFeatures, tensors: Collection[str] = NETWORK_TENSORS) -> onnx.ModelProto:
    """The graph from raw columns to these packed tensors; those of width 0 are left out."""
    build = GraphBuilder()
    packing = packing_of(features).only(tensors)
    values = _reader(build, features.columns)
    outputs = []
    raw, vectors = "", ""
    if packing.numeric or packing.plain:
        raw = _read_numbers(build, features.of_kind("number"), values)
        vectors = _join_vectors(build, features, values)
    if packing.numeric:
        parts = _encode_numbers(build, features.of_kind("number"), raw)
        for column in features.of_kind("timestamp"):
            parts += _encode_timestamp(build, column)
        parts += _scale_vectors(build, features.of_kind(*VECTORS), vectors)
        build.concat(parts, name=f"{INNER}numeric")
        outputs.append(TensorSpec(f"{INNER}numeric", "FP32", (-1, packing.numeric)))
    if packing.plain:
        parts = [_leave_numbers(build, raw)] if raw else []
        for column in features.of_kind("timestamp"):
            parts += _leave_timestamp(build, column)
        parts += [vectors] if vectors else []
        build.concat(parts, name=f"{INNER}plain")
        outputs.append(TensorSpec(f"{INNER}plain", "FP32", (-1, packing.plain)))
    if packing.categories:
        build.concat(
            [_encode_category(build, column, values) for column in features.of_kind("category")],
            name=f"{INNER}category",
        )
        outputs.append(TensorSpec(f"{INNER}category", "INT64", (-1, len(packing.categories))))
    if packing.image:
        build.concat(
            [_encode_image(build, column) for column in features.of_kind("image")], name=f"{INNER}image"
        )
        outputs.append(TensorSpec(f"{INNER}image", "FP32", (-1, *packing.image)))
    inputs = [to_value_info(spec) for spec in features.inputs]
    return build.to_model("encoder", inputs, [to_value_info(spec) for spec in outputs])


def run_encoder(session: Session, batch: Batch) -> Batch:
    """Packed tensors, by the names of the network's inputs."""
    return {name.removeprefix(INNER): values for name, values in session.infer(batch).items()}


def build_formulas(inputs: tuple[FittedColumn, ...], formulas: dict[str, str]) -> onnx.ModelProto:
    """The graph from raw columns to the values of expressions, each FP32 (rows,) under its feature's name."""
    build = GraphBuilder()
    values = _reader(build, inputs)
    outputs = []
    for name, expression in formulas.items():
        found = add_formula(build, expression, values)
        build.add("Identity", found, name=name)
        outputs.append(to_value_info(TensorSpec(name, "FP32", (-1,))))
    return build.to_model("formulas", [to_value_info(column.spec) for column in inputs], outputs)


TEXT_CODES = ("words", "neighbours", "count")
"""What `build_codes` gives of a text: see `add_words`."""


def build_codes(features: FittedFeatures) -> onnx.ModelProto:
    """The graph from raw columns to what is measured in a second pass: for the column number n of kind `means` the ids
    of its values, `ids_n`, of kind `encoded` its `numbers_n`, and of a text `words_n`, `neighbours_n` and `count_n`
    (see `add_words`)."""
    build = GraphBuilder()
    values = _reader(build, features.columns)
    outputs = []

    def give(name: str, tensor: str, *shape: int) -> None:
        build.add("Identity", tensor, name=INNER + name)
        outputs.append(to_value_info(TensorSpec(INNER + name, "INT64", (-1, *shape))))

    for number, column in enumerate(features.of_kind(*VECTORS)):
        if column.kind == "means":
            give(f"ids_{number}", _find_ids(build, column, values))
        elif column.kind == "encoded":
            build.add("Identity", add_encoder(build, column, number), name=f"{INNER}numbers_{number}")
            outputs.append(to_value_info(TensorSpec(f"{INNER}numbers_{number}", "FP32", (-1, -1))))
        else:
            for name, tensor in zip(TEXT_CODES, add_words(build, column), strict=True):
                shape = () if name == "count" else (-1,)
                give(f"{name}_{number}", drop_last(build, tensor), *shape)
    return build.to_model("codes", [to_value_info(spec) for spec in features.inputs], outputs)


_Reader = Callable[[str], str]


def _reader(build: GraphBuilder, columns: tuple[FittedColumn, ...]) -> _Reader:
    """Names the tensor of a raw column in the form that expressions take: FP32, or INT64 for a timestamp; cast only
    once."""
    kinds = {column.name: column for column in columns if not column.expression}
    cast: dict[str, str] = {}

    def read(name: str) -> str:
        if kinds[name].spec.datatype == "FP32" or kinds[name].type == "timestamp":
            return name
        if name not in cast:
            cast[name] = build.cast(name, TensorProto.FLOAT)
        return cast[name]

    return read


def _value_of(build: GraphBuilder, column: FittedColumn, values: _Reader) -> str:
    """The feature's values as FP32 (rows,): of its expression, or of its column."""
    return add_formula(build, column.expression, values) if column.expression else values(column.name)


def _read_numbers(build: GraphBuilder, columns: tuple[FittedColumn, ...], values: _Reader) -> str:
    """All number columns as one matrix (rows, columns): few wide operators are faster than many narrow ones."""
    if not columns:
        return ""
    return build.concat([build.column(_value_of(build, column, values)) for column in columns])


def _leave_numbers(build: GraphBuilder, raw: str) -> str:
    """As they are, with infinite values missing."""
    return build.add("Where", build.add("IsInf", raw), _missing_number(build), raw)


def _missing_number(build: GraphBuilder) -> str:
    return build.constant(np.array([np.nan], dtype=np.float32), "missing_number")


def _encode_numbers(build: GraphBuilder, columns: tuple[FittedColumn, ...], raw: str) -> list[str]:
    if not columns:
        return []
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
    """Piecewise-linear encoding (Gorishniy, Rubachev, Babenko 2022): one value per bin, the part of it that lies
    below the feature's value."""
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


def _row(build: GraphBuilder, values: list[float], name: str) -> str:
    return build.constant(np.array([values], dtype=np.float32), name)


def _join_vectors(build: GraphBuilder, features: FittedFeatures, values: _Reader) -> str:
    """The numbers of all columns that give several, (rows, numbers); empty if there are none."""
    parts = [
        _ADD_VECTOR[column.kind](build, column, values, number)
        for number, column in enumerate(features.of_kind(*VECTORS))
    ]
    return build.concat(parts) if parts else ""


def _add_means(build: GraphBuilder, column: FittedColumn, values: _Reader, number: int) -> str:
    table = np.array([column.prior, *column.means], dtype=np.float32)
    return build.add("Gather", build.constant(table, "means"), _find_ids(build, column, values), axis=0)


_ADD_VECTOR: dict[str, Callable[[GraphBuilder, FittedColumn, _Reader, int], str]] = {
    "means": _add_means,
    "text": lambda build, column, values, number: add_text(build, column),
    "encoded": lambda build, column, values, number: add_encoder(build, column, number),
}


def _scale_vectors(build: GraphBuilder, columns: tuple[FittedColumn, ...], vectors: str) -> list[str]:
    if not columns:
        return []
    centre, spread = (
        [value for one in columns for value in getattr(one, name)] for name in ("centre", "spread")
    )
    scaled = build.add(
        "Div", build.add("Sub", vectors, _row(build, centre, "mean")), _row(build, spread, "std")
    )
    limit = build.constant(np.float32(_MOST_DEVIATIONS), "limit")
    return [build.add("Min", build.add("Max", scaled, build.add("Neg", limit)), limit)]


_MOST_DEVIATIONS = 4.0


def _encode_category(build: GraphBuilder, column: FittedColumn, values: _Reader) -> str:
    return build.column(_find_ids(build, column, values))


def _find_ids(build: GraphBuilder, column: FittedColumn, values: _Reader) -> str:
    """(rows,) INT64, 0 for values that are not known."""
    ids = list(range(1, len(column.values) + 1))
    if column.buckets:
        ids = [zlib.crc32(str(value).encode()) % column.buckets + 1 for value in column.values]
    if column.type == "string":
        keys: dict[str, Any] = {"keys_strings": [str(value) for value in column.values]}
        tensor = column.name
    else:
        keys = {"keys_int64s": [int(value) for value in column.values]}
        tensor = _value_of(build, column, values) if column.expression else column.name
        if column.expression or column.spec.datatype in ("FP32", "FP64"):
            dtype = np.float32 if column.expression else column.spec.dtype
            if column.expression:
                tensor = build.add("Floor", tensor)
            zero = build.constant(np.zeros(1, dtype=dtype), "zero")
            missing = build.add("Or", build.add("IsNaN", tensor), build.add("IsInf", tensor))
            number = build.cast(build.add("Where", missing, zero, tensor), TensorProto.INT64)
            nowhere = build.constant(np.array([MISSING_INSTANT], dtype=np.int64), "nowhere")
            tensor = build.add("Where", missing, nowhere, number)
        elif column.spec.datatype == "BOOL":
            tensor = build.cast(tensor, TensorProto.INT64)
    if not ids:  # every value was rare, so all are unknown; LabelEncoder does not accept an empty table
        keys = {"keys_strings": [""]} if column.type == "string" else {"keys_int64s": [MISSING_INSTANT]}
        ids = [0]
    return build.add("LabelEncoder", tensor, domain="ai.onnx.ml", **keys, values_int64s=ids, default_int64=0)


def _read_timestamp(build: GraphBuilder, column: FittedColumn) -> tuple[str, str]:
    """Which values are missing, and all of them with those filled."""
    missing = build.add(
        "Equal", column.name, build.constant(np.array([MISSING_INSTANT], dtype=np.int64), "missing")
    )
    instant = build.add(
        "Where", missing, build.constant(np.array([round(column.fill)], dtype=np.int64), "fill"), column.name
    )
    return missing, instant


def _add_elapsed(build: GraphBuilder, instant: str, column: FittedColumn) -> str:
    exact = build.add(
        "Sub", build.cast(instant, TensorProto.DOUBLE), build.constant(np.array([column.mean]), "mean")
    )
    scaled = build.add("Div", exact, build.constant(np.array([column.std]), "std"))
    return build.cast(scaled, TensorProto.FLOAT)


def _leave_timestamp(build: GraphBuilder, column: FittedColumn) -> list[str]:
    """Its parts as numbers that follow the calendar, missing where it is."""
    missing, instant = _read_timestamp(build, column)
    return [
        build.column(
            build.add(
                "Where",
                missing,
                _missing_number(build),
                _add_elapsed(build, instant, column)
                if part == "elapsed"
                else add_calendar(build, instant, part, column.zone),
            )
        )
        for part in column.parts
    ]


def _encode_timestamp(build: GraphBuilder, column: FittedColumn) -> list[str]:
    missing, instant = _read_timestamp(build, column)
    tensors: list[str] = []
    for part in column.parts:
        if part == "elapsed":
            tensors.append(build.column(_add_elapsed(build, instant, column)))
            continue
        angle = build.add(
            "Mul",
            add_calendar(build, instant, part, column.zone),
            build.constant(np.array([2 * np.pi / _CYCLES[part]], np.float32), "turn"),
        )
        tensors += [build.column(build.add("Sin", angle)), build.column(build.add("Cos", angle))]
    if column.indicator:
        tensors.append(build.column(build.cast(missing, TensorProto.FLOAT)))
    return tensors


def _encode_image(build: GraphBuilder, column: FittedColumn) -> str:
    """(rows, height, width[, channels]) -> (rows, channels, height, width), scaled."""
    tensor = build.add("Div", column.name, build.constant(np.array(column.scale, dtype=np.float32), "scale"))
    if len(column.shape) == 2:
        return build.column(tensor)
    return build.add("Transpose", tensor, perm=[0, 3, 1, 2])
