"""Checks blocks of rows against a contract: casts, masks and counts. Works on arrow tables, wherever they
come from."""

import dataclasses
import datetime

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from raymlops.errors import DataError, unknown_name
from raymlops.specs.dataset import ColumnRule, ContractSpec

_SAMPLES = 5
TYPES: dict[str, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "timestamp": pa.timestamp("ms", tz="UTC"),
}
"""Name of a column type in a spec -> Arrow's type."""
Mask = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Finding:
    """Rows that broke one rule, with sample values."""

    column: str
    rule: str
    rows: int
    samples: tuple[str, ...]

    def merge(self, other: "Finding") -> "Finding":
        samples = tuple(dict.fromkeys(self.samples + other.samples))[:_SAMPLES]
        return dataclasses.replace(self, rows=self.rows + other.rows, samples=samples)

    def __str__(self) -> str:
        return f"{self.column}: {self.rows:,} rows break {self.rule!r} (such as {', '.join(self.samples)})"


def check_block(table: pa.Table, contract: ContractSpec) -> tuple[pa.Table, Mask, list[Finding]]:
    """The block with its columns cast, a mask of the valid rows, and the findings.

    Raises DataError if a column of the contract is missing.
    """
    holds = np.ones(table.num_rows, dtype=bool)
    findings: list[Finding] = []
    for name, rule in contract.columns.items():
        if name not in table.column_names:
            raise DataError(f"contract.columns: {unknown_name('column', name, table.column_names)}")
        original = table[name]
        column, broken = _cast(original, rule)
        for what, failed in [*broken, *_check_column(column, rule)]:
            if failed.any():
                findings.append(Finding(name, what, int(failed.sum()), _sample(original, failed)))
                holds &= ~failed
        table = table.set_column(table.column_names.index(name), name, column)
    return table, holds, findings


def _cast(column: pa.ChunkedArray, rule: ColumnRule) -> tuple[pa.ChunkedArray, list[tuple[str, Mask]]]:
    if rule.type is None or column.type == TYPES[rule.type]:
        return column, []
    wanted = TYPES[rule.type]
    if rule.type == "timestamp" and pa.types.is_timestamp(column.type) and column.type.tz is None:
        column = column.cast(pa.timestamp("ms"), safe=False)  # times without a zone are read as UTC
    try:
        return column.cast(wanted, safe=rule.type != "timestamp"), []
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        values = column.to_pandas()
        had = values.notna().to_numpy()
        cast = pa.chunked_array([pa.Array.from_pandas(_coerce(values, rule.type), type=wanted)])
        return cast, [(f"type {rule.type}", had & _nulls(cast))]


def _coerce(values: pd.Series, kind: str) -> pd.Series:
    if kind == "timestamp":
        return pd.to_datetime(values, errors="coerce", utc=True).dt.tz_convert(None).astype("datetime64[ms]")
    if kind == "boolean":
        words = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
        return values.astype(str).str.strip().str.lower().map(words)
    if kind == "string":
        return values.map(str, na_action="ignore")
    numbers = pd.to_numeric(values, errors="coerce")
    if kind == "integer":
        return numbers.where(numbers % 1 == 0).astype("Int64")
    return numbers


def _check_column(column: pa.ChunkedArray, rule: ColumnRule) -> list[tuple[str, Mask]]:
    missing = _nulls(column)
    checks: list[tuple[str, Mask]] = []
    if not rule.nulls:
        checks.append(("nulls not allowed", missing))
    for bound, compare, what in ((rule.min, pc.less, "min"), (rule.max, pc.greater, "max")):
        if bound is not None:
            broken = compare(column, _scalar(bound, column.type, what))
            checks.append(
                (f"{what} {bound:g}" if isinstance(bound, float) else f"{what} {bound}", _to_mask(broken))
            )
    if rule.allowed is not None:
        allowed = pa.array(list(rule.allowed)).cast(column.type)
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
