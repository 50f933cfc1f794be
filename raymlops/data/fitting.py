"""Fits features to the training rows: one pass for statistics, then one decision per column."""

import collections
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from raymlops import expressions
from raymlops.conversions.conversion import EXACT, Conversion
from raymlops.data import scan, statistics
from raymlops.errors import DataError, unknown_name
from raymlops.features import MISSING_INSTANT, FittedColumn, FittedFeatures, FittedTarget
from raymlops.specs.dataset import ContractSpec
from raymlops.specs.features import (
    CategoryFeature,
    EncodedFeature,
    FeaturesSpec,
    ImageFeature,
    NumberFeature,
    TargetSpec,
    TextFeature,
    TimestampFeature,
)
from raymlops.tensors import Batch

_MOST_CLASSES = 1000


Formulas = Callable[[pa.Table], Batch]
"""Evaluates feature expressions on a block: feature -> FP32 values, NaN where missing."""


def find_inputs(schema: pa.Schema, spec: FeaturesSpec, contract: ContractSpec) -> tuple[FittedColumn, ...]:
    """The raw columns that expressions read. Raises DataError if one is missing or of a wrong type."""
    found: dict[str, FittedColumn] = {}
    for feature, expression in spec.expressions().items():
        instants = expressions.instants_in(expression)
        for name in expressions.columns_in(expression):
            if name not in schema.names:
                raise DataError(f"features.{feature}: {unknown_name('column', name, schema.names)}")
            rule = contract.columns.get(name)
            kind: Any = (rule and rule.type) or type_of(schema.field(name).type, name)
            if (kind == "timestamp") != (name in instants) or kind in ("string", "image"):
                takes = "a timestamp" if name in instants else "numbers or booleans"
                raise DataError(
                    f"features.{feature}: {expression!r} takes {takes} as {name!r}, which is {kind}"
                )
            nullable, conversion = (rule.nulls, rule.conversion) if rule else (True, None)
            found[name] = FittedColumn(name, "input", kind, nullable=nullable, conversion=conversion)
    return tuple(found.values())


def measure_columns(
    dataset: ray.data.Dataset,
    spec: FeaturesSpec,
    formulas: Formulas | None = None,
    fold: Callable[..., Iterator[Any]] = scan.fold,
) -> dict[str, Any]:
    """Column -> Statistics, in one pass; the target under `target:number` and `target:category`, and
    types under `types`."""
    kinds = {name: feature.kind for name, feature in spec.by_column().items()}
    computed = tuple(spec.expressions())
    total: dict[str, Any] = {}
    types: dict[str, str] = {}
    for part in fold(
        dataset, measure_block, kinds=kinds, target=spec.target, computed=computed, formulas=formulas
    ):
        for name, kind in part.pop("types", {}).items():
            types[name] = max(kind, types.get(name, kind), key=_BREADTH.index)
        total = statistics.merge_all(total, part)
    return {**total, "types": types}


def measure_block(
    table: pa.Table,
    kinds: dict[str, str],
    target: TargetSpec,
    computed: tuple[str, ...],
    formulas: Formulas | None,
) -> dict[str, Any]:
    if table.num_rows == 0:
        return {}
    raw = {name: kind for name, kind in kinds.items() if name not in computed}
    for name in (target.column, *raw):
        if name not in table.column_names:
            role = "features.target.column" if name == target.column else "features"
            raise DataError(f"{role}: {unknown_name('column', name, table.column_names)}")
    types = {name: type_of(table.schema.field(name).type, name) for name in (target.column, *raw)}
    measured: dict[str, Any] = {"types": types}
    for name, kind in raw.items():
        if pa.types.is_null(table.schema.field(name).type):
            # a block of nulls only, from a reader that infers types: other blocks have the type
            del types[name]
        else:
            _require_kind(name, kind, types[name])
        as_kind = kind if kind != "encoded" else _MEASURED_AS.get(types.get(name, "string"), "number")
        measured[name] = statistics.measure_column(table[name], as_kind)
    for name, values in (formulas(table) if formulas else {}).items():
        number = kinds[name] == "number"
        types[name] = "number" if number else "integer"
        measure: Any = statistics.measure_numbers if number else statistics.measure_whole
        measured[name] = measure(values.astype(np.float64))
    measured.update(_measure_target(table[target.column], types[target.column], target))
    return measured


def _measure_target(column: pa.ChunkedArray, kind: str, spec: TargetSpec) -> dict[str, Any]:
    """Statistics as numbers, as categories, or as both if either task is possible."""
    measured: dict[str, Any] = {}
    if kind in ("number", "integer", "boolean"):
        numbers: Any = statistics.measure_column(column, "number")
        measured["target:number"] = numbers
        if spec.transform != "none":
            applied = FittedTarget(
                spec.column, "regression", "number", transform=spec.transform, exponent=spec.exponent
            )
            raw = np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)
            values = applied.apply(raw[~np.isnan(raw)])
            measured["target:transformed"] = statistics.measure_numbers(
                np.where(np.isfinite(values), values, np.nan)
            )
        # Integers that a reader, seeing nulls, turned into floats.
        if kind == "number" and numbers.whole and numbers.max - numbers.min < _MOST_CLASSES:
            values = np.asarray(column.to_numpy(), dtype=np.float64)
            measured["target:category"] = statistics.measure_whole(values)
    if kind in ("string", "integer", "boolean"):
        measured["target:category"] = statistics.measure_column(column, "category")
    return measured


def type_of(kind: pa.DataType, column: str) -> str:
    """The arrow type as one of ours. Raises DataError for lists, structs and the like."""
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind):
        return "integer"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "timestamp"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
        return "string"
    if pa.types.is_null(kind):
        return "number"
    if isinstance(kind, pa.BaseExtensionType) or pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return "image"
    raise DataError(
        f"Column {column!r} is {kind}; a feature must be numbers, strings, booleans, timestamps or images: "
        "leave it out, or derive one of these by dataset.derive"
    )


_BREADTH = ("boolean", "integer", "number", "timestamp", "image", "string")
"""Types, each able to hold what an earlier one holds where blocks of a column have several."""


_TYPES_OF_KIND = {
    "number": ("number", "integer", "boolean"),
    "category": ("string", "integer", "boolean"),
    "timestamp": ("timestamp",),
    "image": ("image",),
    "text": ("string",),
    "encoded": ("string", "number", "integer", "boolean", "image"),
}
_MEASURED_AS = {"string": "text", "image": "image"}
"""Type of an encoded column -> the kind whose statistics are kept; else those of numbers."""


def _require_kind(name: str, kind: str, found: str) -> None:
    if found not in _TYPES_OF_KIND[kind]:
        wanted = " or ".join(_TYPES_OF_KIND[kind])
        raise DataError(
            f"Column {name!r} is {found}, and a {kind} feature takes {wanted}; "
            f"change its kind, or set contract.columns.{name}.type to convert it"
        )


def fit_features(
    measured: dict[str, Any],
    spec: FeaturesSpec,
    contract: ContractSpec,
    inputs: tuple[FittedColumn, ...] = (),
) -> FittedFeatures:
    """Decide each column's encoding. Raises DataError for a column without information, or a target with one class."""
    columns = []
    for name, feature in spec.by_column().items():
        found = measured[name]
        if isinstance(feature, CategoryFeature):
            feature = _settle_category(feature, spec, found)
        if found.rows == found.missing:
            raise DataError(
                f"Column {name!r} is null in all {found.rows:,} training rows; leave it out of features"
            )
        nullable = contract.columns[name].nulls if name in contract.columns else True
        column = _FIT[feature.kind](name, feature, found, measured["types"][name], nullable)
        columns.append(
            dataclasses.replace(
                column,
                expression=getattr(feature, "expression", ""),
                conversion=column.conversion or _conversion_of(name, contract),
            )
        )
    named = {column.name for column in columns if not column.expression}
    clash = sorted(
        {column.name for column in columns if column.expression} & {column.name for column in inputs}
    )
    if clash:
        raise DataError(
            f"features.columns: {clash[0]!r} names both an expression and a raw column; rename the expression"
        )
    columns += [column for column in inputs if column.name not in named]
    target = fit_target(measured, spec.target)
    return FittedFeatures(
        tuple(columns), dataclasses.replace(target, conversion=_conversion_of(target.name, contract))
    )


def _conversion_of(name: str, contract: ContractSpec) -> Conversion | None:
    return contract.columns[name].conversion if name in contract.columns else None


def _fit_number(
    name: str, feature: NumberFeature, found: statistics.Numbers, kind: Any, nullable: bool
) -> FittedColumn:
    edges: tuple[float, ...] = ()
    if feature.bins:
        edges = tuple(
            dict.fromkeys(found.quantiles(np.linspace(0, 1, feature.bins + 1)).astype(np.float32).tolist())
        )
    return FittedColumn(
        name,
        "number",
        kind,
        nullable=nullable,
        indicator=found.missing > 0,
        fill=found.mean,
        mean=found.mean,
        std=found.std or 1.0,
        clip=feature.clip,
        edges=edges if len(edges) > 1 else (),
    )


def _settle_category(
    feature: CategoryFeature, spec: FeaturesSpec, found: statistics.Categories
) -> CategoryFeature:
    """With what the spec leaves open."""
    encoding, many = feature.encoding, spec.means_above
    if encoding == "auto":
        encoding = "means" if many and not feature.expression and len(found.counts) > many else "values"
    return feature.model_copy(
        update={
            "encoding": encoding,
            "max_values": feature.max_values or (10_000 if encoding == "values" else 50_000),
            "min_count": feature.min_count or (spec.least_count if encoding == "values" else 2),
        }
    )


def _fit_category(
    name: str, feature: CategoryFeature, found: statistics.Categories, kind: Any, nullable: bool
) -> FittedColumn:
    conversion = None
    # A float64, which holds integers that may be missing, would make one of two large ones.
    if kind == "integer" and any(isinstance(value, int) and abs(value) >= EXACT for value in found.counts):
        kind, conversion = "string", Conversion("string")
    if kind == "string" and any(not isinstance(value, str) for value in found.counts):
        counts: collections.Counter[str | int] = collections.Counter()
        for value, count in found.counts.items():
            counts[str(value)] += count
        found = dataclasses.replace(found, counts=dict(counts))
    least = feature.min_count or 1
    ranked = [value for value, count in found.ranked()[: feature.max_values] if count >= least]
    if feature.encoding == "means" and found.missing:  # which have a mean of their own
        ranked.append("" if kind == "string" else MISSING_INSTANT)
    return FittedColumn(
        name,
        "means" if feature.encoding == "means" else "category",
        kind,
        nullable=nullable,
        values=_in_order(list(dict.fromkeys(ranked))),
        buckets=feature.buckets if feature.encoding == "hash" else 0,
        conversion=conversion,
    )


_MOST_SPELLINGS = 50_000


def _fit_text(
    name: str, feature: TextFeature, found: statistics.Texts, kind: Any, nullable: bool
) -> FittedColumn:
    """With the words of which n-grams may be chosen: spellings that differ in case or punctuation are one."""
    ids: dict[str, int] = {}
    spellings = []
    for spelling, count in found.words.ranked()[:_MOST_SPELLINGS]:
        word = _EDGES.sub("", str(spelling).casefold())
        if word and count >= 2:
            spellings.append((str(spelling), ids.setdefault(word, len(ids) + 1)))
    values, numbers = zip(*spellings, strict=True) if spellings else ((), ())
    return FittedColumn(name, "text", kind, nullable=nullable, values=tuple(values), ids=tuple(numbers))


def _fit_encoded(
    name: str, feature: EncodedFeature, found: statistics.Statistics, kind: Any, nullable: bool
) -> FittedColumn:
    shape: tuple[int, ...] = ()
    if isinstance(found, statistics.Images):
        shape, nullable = _require_shape(name, found), False
    return FittedColumn(
        name, "encoded", kind, nullable=nullable, shape=shape, scale=feature.scale, encoder=feature.encoder
    )


_EDGES = re.compile(r"^[\W_]+|[\W_]+$")
"""What is not part of a word at its ends."""


_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?", re.ASCII)


def _in_order(ranked: Sequence[str | int]) -> tuple[str | int, ...]:
    """Numbers, such as hours, and texts that are numbers, by their size: trees split the ids of a category at a
    threshold. Others with the most frequent first."""
    if all(_NUMBER.fullmatch(str(value)) for value in ranked):
        return tuple(sorted(ranked, key=lambda value: (float(value), str(value))))
    return tuple(ranked)


def _fit_timestamp(
    name: str, feature: TimestampFeature, found: statistics.Numbers, kind: Any, nullable: bool
) -> FittedColumn:
    return FittedColumn(
        name,
        "timestamp",
        kind,
        nullable=nullable,
        indicator=found.missing > 0,
        fill=found.mean,
        mean=found.mean,
        std=found.std or 1.0,
        parts=tuple(feature.parts),
        zone=feature.zone,
    )


def _fit_image(
    name: str, feature: ImageFeature, found: statistics.Images, kind: Any, nullable: bool
) -> FittedColumn:
    shape = _require_shape(name, found)
    return FittedColumn(name, "image", kind, nullable=False, shape=shape, scale=feature.scale)


def _require_shape(name: str, found: statistics.Images) -> tuple[int, ...]:
    if not found.shape:
        raise DataError(
            f"Column {name!r} has images of several shapes; give the reader one size: options.size"
        )
    return found.shape


_FIT: dict[str, Any] = {
    "number": _fit_number,
    "category": _fit_category,
    "timestamp": _fit_timestamp,
    "image": _fit_image,
    "text": _fit_text,
    "encoded": _fit_encoded,
}


def fit_target(measured: dict[str, Any], spec: TargetSpec) -> FittedTarget:
    """Task and classes of the target. Raises DataError if there is only one class or value."""
    kind: Any = measured["types"][spec.column]
    numbers: statistics.Numbers | None = measured.get("target:number")
    counts: statistics.Categories | None = measured.get("target:category")
    if kind in ("timestamp", "image"):
        raise DataError(f"Target {spec.column!r} is {kind}; expected numbers, strings or booleans")
    if kind == "number" and numbers is not None:
        whole = numbers.whole and numbers.max - numbers.min < _MOST_CLASSES
        if whole and spec.task in ("binary", "multiclass"):
            kind = "integer"
        else:
            counts = None
    missing = (counts or numbers).missing  # type: ignore[union-attr]
    if missing:
        name = expressions.quote_name(spec.column)
        is_number = counts is None
        raise DataError(
            f"Target {spec.column!r} is null{' or infinite' * is_number} in {missing:,} training rows; set "
            f"dataset.where: {name}.notna(){f' and abs({name}) < 1e38' * is_number}"
        )
    task = spec.task if spec.task != "auto" else _guess_task(kind, counts)
    if task != "regression" and spec.transform != "none":
        raise DataError(
            f"features.target.transform: {spec.transform} is for regression, and {spec.column!r} has classes; leave it "
            "out, or set features.target.task: regression"
        )
    if task == "regression":
        if numbers is None:
            raise DataError(
                f"Target {spec.column!r} is {kind}; regression needs numbers: convert it by contract.columns."
                f"{spec.column}.type: number, or leave features.target.task out for classes"
            )
        if numbers.std == 0:
            raise DataError(
                f"Target {spec.column!r} is constant in the training rows; regression needs numbers that vary"
            )
        return _fit_number_target(spec, kind, numbers, measured.get("target:transformed"))
    if counts is None:
        raise DataError(
            f"Target {spec.column!r} is {kind}, which cannot be a class; set features.target.task: regression"
        )
    return _fit_classes(spec, kind, counts, task)


def _fit_number_target(
    spec: TargetSpec, kind: Any, numbers: statistics.Numbers, changed: statistics.Numbers | None
) -> FittedTarget:
    if spec.transform == "none":
        return FittedTarget(spec.column, "regression", kind, mean=numbers.mean, std=numbers.std)
    if changed is None or changed.missing:
        raise DataError(
            f"features.target.transform: log takes values above -1, and the smallest of {spec.column!r} is "
            f"{numbers.min:.6g}; use power, which keeps the sign"
        )
    std = changed.std or 1.0
    return FittedTarget(
        spec.column, "regression", kind, mean=changed.mean, std=std, transform=spec.transform,
        exponent=spec.exponent, low=changed.min - std, high=changed.max + std,
    )  # fmt: skip


def _guess_task(kind: str, counts: statistics.Categories | None) -> Any:
    if kind == "number" or counts is None or (kind == "integer" and len(counts.counts) > 50):
        return "regression"
    return "multiclass" if len(counts.counts) > 2 else "binary"


def _fit_classes(spec: TargetSpec, kind: Any, counts: statistics.Categories, task: Any) -> FittedTarget:
    classes: list[Any] = sorted(counts.counts)
    if len(classes) < 2:
        raise DataError(
            f"Target {spec.column!r} has one class only ({classes}) in the training rows; expected "
            "two or more: give rows of another class, or choose another target"
        )
    if len(classes) > _MOST_CLASSES or (task == "binary" and len(classes) != 2):
        limit = "two" if task == "binary" else f"at most {_MOST_CLASSES}"
        raise DataError(
            f"Target {spec.column!r} has {len(classes)} classes; a {task} task takes {limit}: change "
            "features.target.task, or leave classes out by dataset.where"
        )
    if task == "binary" and spec.positive is not None:
        positive = int(spec.positive) if isinstance(spec.positive, bool) else spec.positive
        if positive not in classes:
            raise DataError(f"features.target.positive is {spec.positive!r}, but the classes are {classes}")
        classes.sort(key=lambda value: value == positive)
    total = sum(counts.counts.values())
    shares = tuple(counts.counts[value] / total for value in classes)
    named = tuple(bool(value) if kind == "boolean" else value for value in classes)
    return FittedTarget(spec.column, task, kind, named, shares, threshold=spec.threshold)
