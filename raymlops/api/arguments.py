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
    if not isinstance(rows, (pa.Table, pd.DataFrame)):
        raise DataError(f"Expected a pandas DataFrame or an arrow table, got {type(rows).__name__}")
    names = _list_columns(rows)
    for name in wanted:
        if names.count(name) > 1:
            raise DataError(f"Column {name!r} occurs twice; give each column its own name")
    if isinstance(rows, pa.Table):
        return rows
    columns: dict[str, Any] = {}
    for place, name in enumerate(names):
        if name not in wanted:
            columns.setdefault(name, pa.nulls(len(rows)))
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # pandas passes time zones to pyarrow
                columns[name] = pa.Array.from_pandas(rows.iloc[:, place])
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            cause = " ".join(str(error).split())[:200]
            raise DataError(f"Column {name!r} holds values of several types: {cause}") from None
    return pa.table(columns) if columns else pa.table({"": pa.nulls(len(rows))})


def _list_columns(rows: pd.DataFrame | pa.Table) -> list[str]:
    """Names as a model sees them; labels of a DataFrame may be numbers."""
    return [str(name) for name in (rows.columns if isinstance(rows, pd.DataFrame) else rows.column_names)]


def select_columns(rows: pd.DataFrame | pa.Table, names: list[str]) -> pd.DataFrame:
    """Raises DataError for a missing column."""
    known = _list_columns(rows)
    for name in names:
        if name not in known:
            raise DataError(f"keep: {unknown_name('column', name, known)}")
    places = [place for name in names for place, own in enumerate(known) if own == name]
    return rows.iloc[:, places] if isinstance(rows, pd.DataFrame) else rows.select(places).to_pandas()


def to_yaml(value: Any) -> str:
    """Raises SpecError."""
    try:
        text = yaml.safe_dump(_to_plain(value), default_flow_style=True, width=2**20)
    except yaml.representer.RepresenterError as error:  # a class of one's own, as of an enum
        *_, refused = error.args
        raise _refuse(refused) from None
    return text.removesuffix("...\n").strip()


def _to_plain(value: Any) -> Any:
    """As in YAML: paths as text, numpy's numbers and arrays as Python's. Raises SpecError."""
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _to_plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(inner) for inner in value]
    if isinstance(value, pd.Timestamp):
        return value.to_pydatetime(warn=False)
    if isinstance(value, (np.generic, np.ndarray)):
        if value.dtype.kind in "mM" and value.dtype.name.endswith("[ns]"):
            value = value.astype(value.dtype.name.replace("[ns]", "[us]"))  # else `tolist` gives numbers
        return _to_plain(value.tolist())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, (str, bool, int, float, datetime.date)):
        return value
    raise _refuse(value)


def _refuse(value: Any) -> SpecError:
    return SpecError(f"A spec holds text, numbers, lists and mappings, not {type(value).__name__} {value!r}")
