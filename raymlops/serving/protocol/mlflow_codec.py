"""MLflow's scoring protocol, `POST /invocations`: four JSON forms and CSV in, `{"predictions": ...}` out, as in
`mlflow models serve`. Parquet is not accepted: its reader trusts its input."""

import csv
import dataclasses
import io
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from raymlops.errors import InputError, MediaTypeError, SpecError, TooLargeError, shorten, unknown_name
from raymlops.serving.protocol import columns, json_tables
from raymlops.serving.protocol.columns import Column
from raymlops.serving.protocol.json_text import dump_json
from raymlops.serving.protocol.request_limits import RequestLimits, check_answer, check_rows, show
from raymlops.specs.document import read_json, read_yaml
from raymlops.tensors import Batch, Signature

FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")


@dataclasses.dataclass(frozen=True, slots=True)
class Scored:
    """A request: its rows as tensors. `by_row` says that it is answered row by row."""

    batch: Batch
    rows: int
    parameters: Mapping[str, Any]
    by_row: bool = False


def decode(body: bytes, content_type: str, known: Mapping[str, Column], limits: RequestLimits) -> Scored:
    """A request; `by_row` is set if it is a table. Raises InputError, TooLargeError, MediaTypeError."""
    if content_type == "text/csv":
        batch = json_tables.from_records(_read_csv(body, known, limits), known, limits)
        return Scored(batch, columns.check_rows(batch, known), {}, by_row=True)
    if content_type not in ("application/json", ""):
        raise MediaTypeError(
            f"Content-Type {shorten(content_type)!r} is not supported here; send application/json or text/csv"
        )
    document = json_tables.parse(body, ("instances", "inputs"), known, limits)
    if not isinstance(document, dict):
        raise InputError(f"The body must be a JSON object with one of {', '.join(FORMS)}")
    given = [form for form in FORMS if form in document]
    if len(given) != 1:
        raise InputError(f"Send exactly one of {', '.join(FORMS)}; got {', '.join(given) or 'none of them'}")
    parameters = document.get("params")
    if not isinstance(parameters, dict | None):
        raise InputError('"params" must be an object')
    for key in document:
        if key not in (*FORMS, "params"):
            raise InputError(unknown_name("key", key, (*FORMS, "params")))
    form = given[0]
    batch = _READERS[form](document[form], known, limits)
    rows = columns.check_rows(batch, known)
    check_rows(rows, limits)
    return Scored(batch, rows, parameters or {}, by_row=form.startswith("dataframe"))


def _read_csv(body: bytes, known: Mapping[str, Column], limits: RequestLimits) -> list[dict[str, Any]]:
    if body.count(b",") + body.count(b"\n") > limits.json_elements:
        raise TooLargeError(f"The CSV has over {limits.json_elements} cells; send fewer rows a request")
    try:
        reader = csv.DictReader(io.StringIO(body.decode("utf-8-sig")), strict=True)
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"The body is not CSV: {error}") from None
    header = list(reader.fieldnames or ())
    json_tables.check_unique(header)
    if long := next((number for number, row in enumerate(rows, 1) if None in row), None):
        raise InputError(f"Row {long} of the CSV has more than the {len(header)} cells of its header")
    taken = {name: column for name, column in known.items() if name in header or not column.optional}
    if json_tables.has_features(dict.fromkeys(header), known):
        taken = dict.fromkeys(header, known[json_tables.list_required(known)[0]])
    else:
        json_tables.refuse_misspelt(header, known)
    for name in taken:
        if name not in header:
            shown = ", ".join(map(show, sorted(header)[:20]))
            raise InputError(f"Column {name!r} is missing; the CSV has {shown or 'no header'}")
    json_tables.check_cells(len(rows), taken, limits)
    return [{name: _parse_cell(row[name], column) for name, column in taken.items()} for row in rows]


_MISSING = frozenset(("", "NA", "N/A", "n/a", "<NA>", "NULL", "null", "None", "NaN", "nan", "NaT"))
"""Texts that pandas writes and reads for a missing number or time."""


def _parse_cell(text: str | None, column: Column) -> Any:
    if column.conversion is not None and column.conversion.type != "string":
        return text or None
    if column.spec.datatype == "BYTES":
        return text or ""
    if text is None or (text in _MISSING and (column.takes_missing or not text)):
        return None
    if column.kind == "timestamp":
        whole = _MILLISECONDS.fullmatch(text)
        return int(whole[1]) if whole else text
    if column.spec.datatype == "BOOL":
        if text.lower() in ("true", "1", "false", "0"):
            return text.lower() in ("true", "1")
        raise InputError(f"Column {column.spec.name!r} must be true or false, got {text[:40]!r}")
    try:
        if "_" in text:
            raise ValueError("Python's own way to write numbers")
        if column.spec.datatype.startswith("FP"):
            return float(text)
        return int(text) if text.lstrip("+-").isdecimal() else float(text)  # 2.0 is also an integer
    except ValueError:
        raise InputError(f"Column {column.spec.name!r} must be a number, got {text[:40]!r}") from None


_MILLISECONDS = re.compile(r"(-?[0-9]{9,}|-[0-9]+)(\.0*)?")
"""Since 1970, as a float if others are missing; eight digits are a date, as in 20130701."""


def _from_split(value: Any, known: Mapping[str, Column], limits: RequestLimits) -> Batch:
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        raise InputError('"dataframe_split" must be an object with "columns" and "data"')
    for key in value:
        if key not in ("columns", "index", "data"):
            raise InputError(unknown_name('key of "dataframe_split":', key, ("columns", "index", "data")))
    names = value.get("columns", json_tables.list_required(known))
    if not isinstance(names, list) or not all(
        isinstance(row, list) and len(row) == len(names) for row in value["data"]
    ):
        raise InputError(
            f'"dataframe_split": each row of "data" must have one value a column of {show(names)}'
        )
    if not all(isinstance(name, str | int) for name in names):
        raise InputError(f'"dataframe_split": "columns" must be names, got {show(names)}')
    names = [str(name) for name in names]
    json_tables.check_unique(names)
    records = [dict(zip(names, row, strict=True)) for row in value["data"]]
    return json_tables.from_records(records, known, limits)


def _from_instances(value: Any, known: Mapping[str, Column], limits: RequestLimits) -> Batch:
    if not isinstance(value, list | np.ndarray):
        raise InputError(f'"instances" must be a list of rows, got {show(value)}')
    if len(value) and isinstance(value[0], dict):
        return json_tables.from_records(value, known, limits)
    return json_tables.from_tensor(value, known, limits)


_READERS = {
    "dataframe_split": _from_split,
    "dataframe_records": json_tables.from_records,
    "instances": _from_instances,
    "inputs": json_tables.from_inputs,
}


def encode(
    answer: Batch, asked: Scored, signature: Signature, limits: RequestLimits, answers_frames: bool = False
) -> bytes:
    """The body of the answer: outputs by name, or its rows if the model `answers_frames` and the request was a table.
    Raises InputError, TooLargeError."""
    check_answer(answer, dict.fromkeys((spec.name for spec in signature.outputs), False), limits)
    told = (
        json_tables.to_records(answer, asked.rows, signature)
        if answers_frames and asked.by_row
        else json_tables.to_columns(answer, signature)
    )
    return dump_json({"predictions": told})


def read_answers_frames(folder: pathlib.Path) -> bool:
    """Whether MLflow answers tables with tables for the model of a folder: if its MLmodel file has no signature, or
    one of columns. With a signature of tensors, as for models that raymlops registers, answers are by name; so are
    those of a model that MLflow did not log."""
    try:
        document, _ = read_yaml((folder / "MLmodel").read_text(encoding="utf-8"), "MLmodel")
        signature = (document.get("signature") or {}) if isinstance(document, dict) else {}
        inputs = read_json(signature.get("inputs") or "[]", "The signature in MLmodel")
        return not any(column.get("type") == "tensor" for column in inputs)
    except (OSError, UnicodeDecodeError, AttributeError, TypeError, SpecError):
        return False
