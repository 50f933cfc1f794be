"""Targets and weights of rows as training takes them: class numbers, standardised values, and the weight of each row.
Decides nothing: what a target is was fitted before (`fitting`)."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

from raymlops import expressions
from raymlops.conversions.conversion import Conversion
from raymlops.errors import DataError, unknown_name
from raymlops.features import FittedTarget


def read_weights(table: pa.Table, column: str) -> Any:
    """The weight of each row (float32). Raises DataError for a missing column and for other values than weights."""
    if column not in table.column_names:
        raise DataError(f"training.sample_weights: {unknown_name('column', column, table.column_names)}")
    try:
        values = np.asarray(table[column].cast(pa.float64()).to_numpy(), dtype=np.float64)
    except pa.ArrowException:
        raise DataError(
            f"training.sample_weights: column {column!r} is {table.schema.field(column).type}; expected numbers"
        ) from None
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        raise DataError(
            f"training.sample_weights: column {column!r} is null, negative or infinite in {int(wrong.sum()):,} rows of "
            f"a block, such as {values[wrong][0]}; set dataset.where: {column} >= 0"
        )
    return values.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class WeightColumn:
    """The column with the weights of rows whose values are as they were read."""

    name: str
    conversion: Conversion | None = None

    def read(self, table: pa.Table) -> Any:
        """The weight of each row (float32). Raises the same as `read_weights`."""
        if self.conversion is not None and self.name in table.column_names:
            converted = self.conversion.apply(table[self.name]).values
            table = table.set_column(table.column_names.index(self.name), self.name, converted)
        return read_weights(table, self.name)


def encode_target(column: pa.ChunkedArray, target: FittedTarget) -> Any:
    """The target in the form used for training: class numbers (int64), or standardised values (float32).

    Raises DataError for a class that training never saw.
    """
    if target.conversion is not None:
        column = _convert_target(column, target.conversion, target.name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if target.task == "regression":
        return target.standardise(to_numbers(column, target)).astype(np.float32)
    classes = pa.array([int(value) if isinstance(value, bool) else value for value in target.classes])
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int64())
    try:
        typed = column.cast(classes.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        samples = [str(value)[:40] for value in column.slice(0, 1000).unique().to_pylist()[:5]]
        raise DataError(
            f"Target {target.name!r} is {column.type}, such as {', '.join(samples)}; the classes are "
            f"{list(target.classes)}: write the target as in training, or convert it by dataset.derive"
        ) from None
    if column.null_count:
        raise DataError(
            f"Target {target.name!r} is null in {column.null_count:,} rows, which cannot be measured; leave them "
            f"out by dataset.where: {expressions.quote_name(target.name)}.notna()"
        )
    position = pa.compute.index_in(typed, value_set=classes)
    if position.null_count:
        unseen = column.filter(pa.compute.is_null(position)).unique().to_pylist()[:5]
        raise DataError(
            f"Target {target.name!r} has classes {unseen} that no training row has; known: "
            f"{list(target.classes)}: leave such rows out by dataset.where, or train with some of them"
        )
    return np.asarray(position.to_numpy(), dtype=np.int64)


def to_numbers(column: pa.ChunkedArray, target: FittedTarget) -> Any:
    """The values of a regression's target, in its own unit. Raises DataError for values that are no numbers."""
    return np.asarray(
        _convert_target(column, target.conversion or Conversion("number"), target.name)
        .cast(pa.float64())
        .to_numpy(),
        dtype=np.float64,
    )


def _convert_target(column: pa.ChunkedArray, rule: Conversion, name: str) -> pa.ChunkedArray:
    converted = rule.apply(column)
    if converted.failed.any():
        values = column.filter(pa.array(converted.failed)).unique().to_pylist()[:3]
        raise DataError(
            f"Target {name!r} has {int(converted.failed.sum()):,} values that do not convert by {str(rule)!r}, such as "
            f"{', '.join(map(str, values))}"
        )
    return converted.values
