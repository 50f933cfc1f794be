"""Checks blocks of rows against a contract: converts columns, masks and counts. Works on arrow tables, wherever they
come from."""

import dataclasses
import datetime
import json
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raymlops.conversions.conversion import BEYOND_FP32, find_beyond_fp32
from raymlops.data import row_keys
from raymlops.errors import DataError, to_one_line, unknown_name
from raymlops.specs.dataset import ColumnRule, ContractSpec

_SAMPLES = 5
KEPT = 1000
"""Rows that break the contract which are kept aside; all are counted."""
Mask = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Finding:
    """Rows that broke one rule, with sample values."""

    column: str
    rule: str
    rows: int
    samples: tuple[str, ...]
    row: int = 0
    """The first of them, from 1 on; 0 if it is not known."""

    def shift(self, rows: int) -> "Finding":
        """After so many rows of other blocks."""
        return dataclasses.replace(self, row=self.row + rows)

    def merge(self, other: "Finding") -> "Finding":
        samples = tuple(dict.fromkeys(self.samples + other.samples))[:_SAMPLES]
        return dataclasses.replace(self, rows=self.rows + other.rows, samples=samples)

    def __str__(self) -> str:
        first = f"; the first is row {self.row:,}" if self.row else ""
        samples = to_one_line(", ".join(self.samples))
        return (
            f"{to_one_line(self.column)}: {self.rows:,} rows break {self.rule!r} (such as {samples}{first})"
        )


@dataclasses.dataclass(frozen=True)
class Broken:
    """The rows of a block that broke one rule."""

    column: str
    rule: str
    rows: Mask


def check_block(table: pa.Table, contract: ContractSpec) -> tuple[pa.Table, Mask, list[Finding]]:
    """The block with its columns converted, a mask of the valid rows, and the findings.

    Raises DataError if a column of the contract is missing.
    """
    checked, broken = check_columns(table, contract)
    return checked, find_valid(table, broken), [to_finding(table, one) for one in broken]


def find_valid(table: pa.Table, broken: Sequence[Broken]) -> Mask:
    holds = np.ones(table.num_rows, dtype=bool)
    for one in broken:
        holds &= ~one.rows
    return holds


def check_columns(table: pa.Table, contract: ContractSpec) -> tuple[pa.Table, list[Broken]]:
    """The block with its columns converted, and the rules that some of its rows broke."""
    broken: list[Broken] = []
    if not contract.columns:
        return table, broken
    columns = dict(zip(table.column_names, table.columns, strict=True))
    for name, rule in contract.columns.items():
        if name not in columns:
            known = row_keys.drop_keys(table).column_names
            raise DataError(f"contract.columns: {unknown_name('column', name, known)}")
        column, checks = table[name], []
        if rule.conversion is not None:
            converted = rule.conversion.apply(column)
            column, checks = converted.values, [(str(rule.conversion), converted.failed)]
        elif pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        checks += _check_column(column, rule)
        broken += [Broken(name, what, failed) for what, failed in checks if failed.any()]
        columns[name] = column
    return pa.table(columns), broken


def check_range(table: pa.Table, columns: Collection[str], holds: Mask) -> list[Broken]:
    """Rows with numbers that are finite, but not as FP32, which models take; of those that hold."""
    broken, held = [], set(table.column_names)
    for name in columns:
        if name in held:
            beyond = holds & find_beyond_fp32(table[name])
            if beyond.any():
                broken.append(Broken(name, BEYOND_FP32, beyond))
    return broken


def refuse_beyond(findings: Sequence[Finding]) -> None:
    """Raises DataError if there are findings of `check_range`."""
    if findings:
        first = findings[0]
        rows = sum(finding.rows for finding in findings if finding.column == first.column)
        raise DataError(
            f"Column {first.column!r} has {first.samples[0]} in row {first.row:,}, and {rows:,} such values in all, "
            f"beyond the {BEYOND_FP32}, which models take; set "
            f"contract.columns.{first.column}.max to leave such rows out, or dataset.derive to scale the column"
        )


def refuse_implied(findings: Iterable[Finding], contract: ContractSpec, implied: Collection[str]) -> None:
    """Raises DataError for values of these columns that do not convert: their type follows from their feature, and no
    rule of the contract says that rows may be left out for it."""
    for finding in findings:
        rule = contract.columns.get(finding.column)
        if finding.column in implied and rule is not None and finding.rule == str(rule.conversion):
            shown = ", ".join(map(repr, finding.samples[:3]))
            raise DataError(
                f"Column {finding.column!r} is to be {finding.rule}, and {finding.rows:,} of its values are not, such "
                f"as {shown} (the first is row {finding.row:,}); set contract.columns.{finding.column}.type: "
                f"{rule.type} to leave such rows out, or name the texts of missing values in dataset.options (csv: "
                "convert_options.null_values)"
            )


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A row that broke rules, as it was read."""

    row: int
    reasons: tuple[str, ...]
    values: dict[str, Any]

    def shift(self, rows: int) -> "LeftOut":
        return dataclasses.replace(self, row=self.row + rows)

    def to_json(self) -> str:
        return json.dumps(
            {"row": self.row, "reasons": self.reasons, "values": self.values}, ensure_ascii=False
        )


def leave_out(table: pa.Table, broken: Sequence[Broken], most: int = KEPT) -> list[LeftOut]:
    """The rows that broke a rule, the first so many of a block; without images and lists."""
    rows = np.flatnonzero(~find_valid(table, broken))[:most]
    flat = [field.name for field in table.schema if not _is_nested(field.type)]
    table = table.select(flat)
    values = table.take(pa.array(rows)).to_pylist() if len(rows) else []
    return [
        LeftOut(
            int(row) + 1,
            tuple(f"{one.column}: {one.rule}" for one in broken if one.rows[row]),
            {name: _to_plain(value) for name, value in held.items()},
        )
        for row, held in zip(rows, values, strict=True)
    ]


def _is_nested(kind: pa.DataType) -> bool:
    return (
        pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType) or pa.types.is_large_binary(kind)
    )


def _to_plain(value: Any) -> Any:
    """For JSON; values that it cannot hold as text, cut short."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, (str, int)) else str(value)[:200]


def to_finding(table: pa.Table, broken: Broken) -> Finding:
    """For the report, with values as they were read."""
    samples = _sample(table[broken.column], broken.rows)
    return Finding(
        broken.column, broken.rule, int(broken.rows.sum()), samples, int(np.argmax(broken.rows)) + 1
    )


def _check_column(column: pa.ChunkedArray, rule: ColumnRule) -> list[tuple[str, Mask]]:
    missing = _nulls(column)
    checks: list[tuple[str, Mask]] = []
    if not rule.nulls:
        checks.append(("nulls not allowed", missing))
    for bound, compare, what in ((rule.min, pc.less, "min"), (rule.max, pc.greater, "max")):
        if bound is not None:
            broken = _to_mask(compare(column, _scalar(bound, column.type, what))) & ~missing
            checks.append((f"{what} {bound:g}" if isinstance(bound, float) else f"{what} {bound}", broken))
    if rule.allowed is not None:
        allowed = _to_values(rule, column.type)
        checks.append(
            (f"allowed {list(rule.allowed)[:8]}", ~_to_mask(pc.is_in(column, value_set=allowed)) & ~missing)
        )
    return checks


def _scalar(bound: float | str, kind: pa.DataType, what: str) -> pa.Scalar:
    try:
        if pa.types.is_timestamp(kind):
            moment = datetime.datetime.fromisoformat(str(bound))
            return pa.scalar(moment.replace(tzinfo=moment.tzinfo or datetime.UTC)).cast(kind)
        return pa.scalar(float(bound)) if pa.types.is_integer(kind) else pa.scalar(bound).cast(kind)
    except (ValueError, pa.ArrowException):
        raise DataError(
            f"contract: {what} {bound!r} cannot be compared with a column of type {kind}"
        ) from None


def _to_values(rule: ColumnRule, kind: pa.DataType) -> pa.Array:
    """The allowed values as values of the column are."""
    try:
        values = pa.chunked_array([pa.array(list(rule.allowed or ()))])
        if rule.conversion is not None and pa.types.is_string(values.type):
            values = rule.conversion.apply(values).values
        return values.cast(kind).combine_chunks()
    except (pa.ArrowException, TypeError):
        raise DataError(
            f"contract: allowed {list(rule.allowed or ())[:8]} cannot be compared with a column of type {kind}"
        ) from None


def _to_mask(values: pa.ChunkedArray) -> Mask:
    return np.asarray(pc.fill_null(values, False).to_numpy(zero_copy_only=False), dtype=bool)


def _nulls(column: pa.ChunkedArray) -> Mask:
    """True where a value is missing; NaN and infinities count as missing, since statistics cannot use
    them."""
    missing = _to_mask(pc.is_null(column, nan_is_null=True))
    if pa.types.is_floating(column.type):
        missing |= _to_mask(pc.is_inf(column))
    return missing


def _sample(column: pa.ChunkedArray, failed: Mask) -> tuple[str, ...]:
    values = column.take(pa.array(np.flatnonzero(failed)[:200])).to_pylist()
    return tuple(dict.fromkeys(str(value)[:40] for value in values))[:_SAMPLES]


def judge(findings: list[Finding], rows: int, failed: int, contract: ContractSpec) -> None:
    """Raises DataError if the contract makes the findings fatal."""
    share = failed / max(rows, 1)
    fatal = contract.on_failure == "fail" and failed > 0
    if fatal or share > contract.max_failed:
        limit = "on_failure is 'fail'" if fatal else f"contract.max_failed is {contract.max_failed:.1%}"
        lines = "; ".join(str(finding) for finding in findings)
        raise DataError(f"{failed:,} of {rows:,} rows ({share:.2%}) break the contract, and {limit}: {lines}")
