"""MLflow's own request shapes for `POST /invocations`: four JSON forms and CSV in, `{"predictions": ...}`
out."""

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raymlops.errors import InputError, TooLargeError, shorten, unknown_name
from raymlops.graphs.plan import LENGTHS
from raymlops.serving import columns
from raymlops.serving.codec import to_json_list
from raymlops.serving.columns import Column
from raymlops.serving.json_text import dump_json, parse_json
from raymlops.serving.request_limits import RequestLimits, check_answer, check_rows, count_elements, show
from raymlops.tensors import Batch, Signature

FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")


def decode_invocations(
    body: bytes, content_type: str, known: Mapping[str, Column], limits: RequestLimits
) -> tuple[Batch, int, Mapping[str, Any]]:
    """The batch, its rows, and the request's parameters. Raises InputError, TooLargeError."""
    if content_type == "text/csv":
        batch = _from_records(_read_csv(body, known, limits), known, limits)
        return batch, columns.check_rows(batch, known), {}
    if content_type not in ("application/json", ""):
        raise InputError(
            f"Content-Type {shorten(content_type)!r} is not taken here; send application/json or text/csv"
        )
    document = parse_json(body, limits)
    if not isinstance(document, dict):
        raise InputError(f"The body must be a JSON object with one of {', '.join(FORMS)}")
    given = [form for form in FORMS if form in document]
    if len(given) != 1:
        raise InputError(f"Send exactly one of {', '.join(FORMS)}; got {', '.join(given) or 'none of them'}")
    parameters = document.get("params") or {}
    if not isinstance(parameters, dict):
        raise InputError('"params" must be an object')
    for key in document:
        if key not in (*FORMS, "params"):
            raise InputError(unknown_name("key", key, (*FORMS, "params")))
    batch = _READERS[given[0]](document[given[0]], known, limits)
    rows = columns.check_rows(batch, known)
    check_rows(rows, limits)
    return batch, rows, parameters


def _read_csv(body: bytes, known: Mapping[str, Column], limits: RequestLimits) -> list[dict[str, Any]]:
    if body.count(b",") + body.count(b"\n") > limits.json_elements:
        raise TooLargeError(f"The CSV has over {limits.json_elements} cells; send fewer rows a request")
    try:
        reader = csv.DictReader(io.StringIO(body.decode("utf-8-sig")), strict=True)
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"The body is not CSV: {error}") from None
    header = list(reader.fieldnames or ())
    _check_unique(header)
    for name in known:
        if name not in header:
            shown = ", ".join(map(show, sorted(header)[:20]))
            raise InputError(f"Column {name!r} is missing; the CSV has {shown or 'no header'}")
    _check_cells(len(rows), known, limits)
    return [{name: _parse_cell(row[name], column) for name, column in known.items()} for row in rows]


def _check_unique(names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise InputError(f"Column {show(twice)} is given twice")


def _check_cells(rows: int, known: Mapping[str, Column], limits: RequestLimits) -> None:
    """A row may leave out what may be missing: the cells of the batch are more than those that were sent."""
    check_rows(rows, limits)
    if rows * len(known) > limits.json_elements:
        raise TooLargeError(
            f"{rows} rows of {len(known)} columns are over {limits.json_elements} elements; send fewer rows a "
            "request, or binary tensors"
        )


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
        if "_" in text:
            raise ValueError("Python's own way to write numbers")
        return float(text) if column.spec.datatype.startswith("FP") else int(text)
    except ValueError:
        raise InputError(f"Column {column.spec.name!r} must be a number, got {text[:40]!r}") from None


def _from_split(value: Any, known: Mapping[str, Column], limits: RequestLimits) -> Batch:
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        raise InputError('"dataframe_split" must be an object with "columns" and "data"')
    names = value.get("columns", list(known))
    if not isinstance(names, list) or not all(
        isinstance(row, list) and len(row) == len(names) for row in value["data"]
    ):
        raise InputError(
            f'"dataframe_split": each row of "data" must have one value a column of {show(names)}'
        )
    if not all(isinstance(name, str | int) for name in names):
        raise InputError(f'"dataframe_split": "columns" must be names, got {show(names)}')
    names = [str(name) for name in names]
    _check_unique(names)
    return _from_records([dict(zip(names, row, strict=True)) for row in value["data"]], known, limits)


def _from_records(value: Any, known: Mapping[str, Column], limits: RequestLimits) -> Batch:
    if not isinstance(value, list) or not value or not all(isinstance(row, dict) for row in value):
        raise InputError("Rows must be a list of objects, column name -> value, at least one")
    if len(known) == 1 and len(value[0]) > 1:
        # A model with one tensor of many features takes a frame's columns in their order, which the first row gives.
        order = list(value[0])
        if any(row.keys() != value[0].keys() for row in value):
            raise InputError(f"The rows have different columns; the first has {show(order)}")
        return _from_named(
            {next(iter(known)): [[row[name] for name in order] for row in value]}, known, limits
        )
    _check_cells(len(value), known, limits)
    for name in known:
        for row in value:
            if name not in row and not known[name].takes_missing:
                raise InputError(unknown_name(f"columns given; {name!r} is missing:", name, row))
    return _from_named({name: [row.get(name) for row in value] for name in known}, known, limits)


def _from_instances(value: Any, known: Mapping[str, Column], limits: RequestLimits) -> Batch:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return _from_records(value, known, limits)
    return _from_tensor(value, known, limits)


def _from_inputs(value: Any, known: Mapping[str, Column], limits: RequestLimits) -> Batch:
    if isinstance(value, dict):
        return _from_named(value, known, limits)
    return _from_tensor(value, known, limits)


def _from_tensor(value: Any, known: Mapping[str, Column], limits: RequestLimits) -> Batch:
    if len(known) != 1:
        raise InputError(
            f"The model takes {len(known)} inputs, so each row must name them: {', '.join(known)}"
        )
    return _from_named({next(iter(known)): value}, known, limits)


def _from_named(value: Mapping[str, Any], known: Mapping[str, Column], limits: RequestLimits) -> Batch:
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
        count_elements(array.shape, column.spec, limits)
        batch[name] = array
    return batch


_READERS = {
    "dataframe_split": _from_split,
    "dataframe_records": _from_records,
    "instances": _from_instances,
    "inputs": _from_inputs,
}


def encode_invocations(answer: Batch, rows: int, signature: Signature, limits: RequestLimits) -> bytes:
    """The body of the answer to so many rows. Raises InputError, TooLargeError."""
    check_answer(answer, dict.fromkeys((spec.name for spec in signature.outputs), False), limits)
    return dump_json(encode_predictions(answer, rows, signature))


def encode_predictions(answer: Batch, rows: int, signature: Signature) -> dict[str, Any]:
    """One output as a list of rows; several as a list of objects, as MLflow does for frames.

    Elements that a second output counts are a list in each row. Raises InputError where other outputs have no common
    first dimension: there is no telling which of their values belong together.
    """
    lists = {spec.name: _rows(answer[spec.name]) for spec in signature.outputs}
    if len(lists) == 1:
        return {"predictions": next(iter(lists.values()))}
    for name in [name for name in lists if name + LENGTHS in lists]:
        if sum(lists[name + LENGTHS]) == len(lists[name]):
            lists[name] = _nest(lists[name], lists.pop(name + LENGTHS))
    sizes = {name: len(lists[name]) if answer[name].ndim else -1 for name in lists}
    if len(set(sizes.values())) > 1 or -1 in sizes.values():
        shapes = ", ".join(f"{name} {list(answer[name].shape)}" for name in lists)
        raise InputError(
            f"The outputs have no common first dimension for {rows} rows: {shapes}; /invocations answers row by row: "
            "ask POST /v2/models/NAME/infer"
        )
    return {"predictions": [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]}


def _nest(elements: list[Any], lengths: list[int]) -> list[Any]:
    """The elements of each row."""
    ends = list(itertools.accumulate(lengths, initial=0))
    return [elements[start:end] for start, end in itertools.pairwise(ends)]


def _rows(array: np.ndarray[Any, Any]) -> list[Any]:
    if array.ndim < 2:
        return to_json_list(array)
    if array.dtype == object:
        texts = np.empty(array.size, dtype=object)
        texts[:] = to_json_list(array)
        array = texts.reshape(array.shape)
    return array.tolist()  # type: ignore[no-any-return]
