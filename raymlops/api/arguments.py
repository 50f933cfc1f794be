"""Converts arguments from notebooks: specs made of Python values, and DataFrames. Starts nothing."""

import datetime
import os
import warnings
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pydantic
import yaml

from raymlops.errors import DataError, SpecError, unknown_name


def read_content(spec: Any) -> dict[str, Any]:
    """The content of a document as plain values; of a pydantic model, the fields that were set. Raises SpecError."""
    if isinstance(spec, pydantic.BaseModel):
        content = spec.model_dump(mode="json")
        return {key: value for key, value in content.items() if key in spec.model_fields_set}
    if not isinstance(spec, Mapping):
        raise SpecError(f"Expected a file, or a mapping of keys to values, got {type(spec).__name__}")
    return {str(key): _to_plain(value) for key, value in spec.items()}


def to_overrides(overrides: Mapping[str, Any] | None) -> list[str]:
    return [f"{key}={to_yaml(value)}" for key, value in (overrides or {}).items()]


def to_arrow(rows: pd.DataFrame | pa.Table, wanted: Collection[str]) -> pa.Table:
    """The columns that a model reads; other columns keep only their names, for messages. Raises DataError if `rows` is
    not a table, or a column holds values of several types."""
    if isinstance(rows, pa.Table):
        return rows
    if not isinstance(rows, pd.DataFrame):
        raise DataError(f"Expected a pandas DataFrame or an arrow table, got {type(rows).__name__}")
    columns: dict[str, Any] = {}
    for place, label in enumerate(rows.columns):
        name = str(label)
        if name not in wanted:
            columns.setdefault(name, pa.nulls(len(rows)))
            continue
        if name in columns:
            raise DataError(f"Column {name!r} occurs twice; give each column its own name")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # pandas passes time zones to pyarrow
                columns[name] = pa.Array.from_pandas(rows.iloc[:, place])
        except (pa.ArrowException, ValueError, TypeError) as error:
            cause = " ".join(str(error).split())[:200]
            raise DataError(f"Column {name!r} holds values of several types: {cause}") from None
    return pa.table(columns) if columns else pa.table({"": pa.nulls(len(rows))})


def select_columns(rows: pd.DataFrame | pa.Table, names: list[str]) -> pd.DataFrame:
    """Raises DataError for a missing column."""
    known = [str(name) for name in (rows.columns if isinstance(rows, pd.DataFrame) else rows.column_names)]
    for name in names:
        if name not in known:
            raise DataError(f"keep: {unknown_name('column', name, known)}")
    return rows[names] if isinstance(rows, pd.DataFrame) else rows.select(names).to_pandas()


def to_yaml(value: Any) -> str:
    return (
        yaml.safe_dump(_to_plain(value), default_flow_style=True, width=2**20).removesuffix("...\n").strip()
    )


def _to_plain(value: Any) -> Any:
    """As in YAML: paths as text, numpy's numbers and arrays as Python's. Raises SpecError."""
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _to_plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(inner) for inner in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return _to_plain(value.tolist())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, (str, bool, int, float, datetime.date)):
        return value
    raise SpecError(f"A spec holds text, numbers, lists and mappings, not {type(value).__name__} {value!r}")
