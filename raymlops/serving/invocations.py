"""MLflow's own request shapes for `POST /invocations`: four JSON forms and CSV in, `{"predictions": ...}`
out."""

import csv
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from raymlops.errors import InputError, unknown_name
from raymlops.serving import columns
from raymlops.serving.codec import JsonLimits, parse_json, to_json_list
from raymlops.serving.columns import Column
from raymlops.tensors import Batch, Signature

FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")


def decode_invocations(
    body: bytes, content_type: str, known: Mapping[str, Column], limits: JsonLimits
) -> tuple[Batch, Mapping[str, Any]]:
    """The batch and the request's parameters. Raises InputError."""
    if content_type == "text/csv":
        return _from_records(_read_csv(body, known), known), {}
    if content_type not in ("application/json", ""):
        raise InputError(
            f"Content-Type {content_type!r} is not taken here; send application/json or text/csv"
        )
    document = parse_json(body, limits)
    if not isinstance(document, dict):
        raise InputError(f"The body must be a JSON object with one of {', '.join(FORMS)}")
    given = [form for form in FORMS if form in document]
    if len(given) != 1:
        raise InputError(f"Send exactly one of {', '.join(FORMS)}; got {', '.join(given) or 'none of them'}")
    parameters = document.get("params") or {}
    for key in document:
        if key not in (*FORMS, "params"):
            raise InputError(unknown_name("key", key, (*FORMS, "params")))
    return _READERS[given[0]](document[given[0]], known), parameters


def _read_csv(body: bytes, known: Mapping[str, Column]) -> list[dict[str, Any]]:
    try:
        reader = csv.DictReader(io.StringIO(body.decode("utf-8-sig")), strict=True)
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"The body is not CSV: {error}") from None
    header = set(reader.fieldnames or ())
    for name in known:
        if name not in header:
            raise InputError(
                f"Column {name!r} is missing; the CSV has {', '.join(sorted(header)) or 'no header'}"
            )
    return [{name: _parse_cell(row[name], column) for name, column in known.items()} for row in rows]


def _parse_cell(text: str | None, column: Column) -> Any:
    if column.spec.datatype == "BYTES" or column.kind == "timestamp":
        return text or ""
    if not text:
        return None
    if column.spec.datatype == "BOOL":
        if text.lower() in ("true", "1", "false", "0"):
            return text.lower() in ("true", "1")
        raise InputError(f"Column {column.spec.name!r} must be true or false, got {text[:40]!r}")
    try:
        return float(text) if column.spec.datatype.startswith("FP") else int(text)
    except ValueError:
        raise InputError(f"Column {column.spec.name!r} must be a number, got {text[:40]!r}") from None


def _from_split(value: Any, known: Mapping[str, Column]) -> Batch:
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        raise InputError('"dataframe_split" must be an object with "columns" and "data"')
    names = value.get("columns", list(known))
    if not isinstance(names, list) or not all(
        isinstance(row, list) and len(row) == len(names) for row in value["data"]
    ):
        raise InputError(
            f'"dataframe_split": each row of "data" must have one value a column of {str(names)[:80]}'
        )
    return _from_records([dict(zip(map(str, names), row, strict=True)) for row in value["data"]], known)


def _from_records(value: Any, known: Mapping[str, Column]) -> Batch:
    if not isinstance(value, list) or not value or not all(isinstance(row, dict) for row in value):
        raise InputError("Rows must be a list of objects, column name -> value, at least one")
    if len(known) == 1 and len(value[0]) > 1:
        # A model with one tensor of many features takes a frame's columns in their order.
        return _from_named({next(iter(known)): [list(row.values()) for row in value]}, known)
    for name in known:
        for row in value:
            if name not in row and not known[name].takes_missing:
                raise InputError(unknown_name(f"columns given; {name!r} is missing:", name, row))
    return _from_named({name: [row.get(name) for row in value] for name in known}, known)


def _from_instances(value: Any, known: Mapping[str, Column]) -> Batch:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return _from_records(value, known)
    return _from_tensor(value, known)


def _from_inputs(value: Any, known: Mapping[str, Column]) -> Batch:
    return _from_named(value, known) if isinstance(value, dict) else _from_tensor(value, known)


def _from_tensor(value: Any, known: Mapping[str, Column]) -> Batch:
    if len(known) != 1:
        raise InputError(
            f"The model takes {len(known)} inputs, so each row must name them: {', '.join(known)}"
        )
    return _from_named({next(iter(known)): value}, known)


def _from_named(value: Mapping[str, Any], known: Mapping[str, Column]) -> Batch:
    batch: Batch = {}
    for name in value:
        if name not in known:
            raise InputError(unknown_name("input", name, known))
    for name, column in known.items():
        if name not in value:
            raise InputError(f"Input missing: {column.spec}")
        data = value[name] if isinstance(value[name], list) else [value[name]]
        with np.errstate(over="ignore"):
            array = columns.to_array(data, column)
        if array.ndim == 1 and len(column.spec.shape) == 2 and column.spec.shape[1] == 1:
            array = array.reshape(-1, 1)
        batch[name] = columns.check_shape(array, column)
    columns.check_rows(batch, known)
    return batch


_READERS = {
    "dataframe_split": _from_split,
    "dataframe_records": _from_records,
    "instances": _from_instances,
    "inputs": _from_inputs,
}


def encode_predictions(answer: Batch, signature: Signature) -> dict[str, Any]:
    """One output as a list of rows; several as a list of objects, as MLflow does for frames."""
    lists = {spec.name: _rows(answer[spec.name]) for spec in signature.outputs}
    if len(lists) == 1:
        return {"predictions": next(iter(lists.values()))}
    return {"predictions": [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=False)]}


def _rows(array: np.ndarray[Any, Any]) -> list[Any]:
    if array.ndim < 2:
        return to_json_list(array)
    return array.tolist()  # type: ignore[no-any-return]
