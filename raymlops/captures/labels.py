"""Labels: what was right about answers that were given earlier, as Parquet files beside the captured requests.

A label names its request by id, and its row (from 0) if the request had several; or by the values of key columns. A
file's name is a digest of its content, so that the same labels sent twice are stored once. Of several labels of one
row the last one counts, by its time, else by its arrival. Joins nothing.
"""

import dataclasses
import datetime
import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymlops.captures.parquet import encode
from raymlops.captures.rows import TIME
from raymlops.captures.selection import hash_column
from raymlops.captures.store import CaptureStore
from raymlops.conversions.conversion import Conversion
from raymlops.errors import DataError, shorten, unknown_name

LABEL, ARRIVED, ORDER = "label", "arrived", "time"
KEY = "key."
"""Before the names of key columns in a file of labels."""
_IDS = ("request_id", "row")
_OWN = ("id", "row", "label", "time")
"""Fields of a label in a body; others are its key."""


@dataclasses.dataclass(frozen=True)
class LabelColumns:
    """Columns of a table of labels. `id` or `key` name the request; empty `time` and `row` are absent."""

    label: str = LABEL
    id: str = ""
    key: tuple[str, ...] = ()
    time: str = ""
    row: str = ""


@dataclasses.dataclass(frozen=True)
class Stored:
    """What became of a table of labels."""

    labels: int
    """Labels that are stored now."""
    missing: int
    """Rows that were left out, since their label, id or key is missing."""
    is_new: bool
    """False if the same labels were there already."""
    ids: pa.Array
    """Ids of the labels; empty for labels by key."""


def choose_columns(names: Sequence[str], given: LabelColumns) -> LabelColumns:
    """The columns with the usual names where none is given: `request_id` or `id`, `row`, `time`, and `label` or the
    only one that is left. Raises DataError."""
    for column in (given.id, given.time, given.row, *given.key, given.label if given.label != LABEL else ""):
        if column and column not in names:
            raise DataError(f"Labels: {unknown_name('column', column, names)}")
    own = given.id or next((name for name in ("request_id", "id") if name in names and not given.key), "")
    if not own and not given.key:
        raise DataError(
            f"Labels need a column with the ids of requests (--id), or columns that name a row (--key); the columns "
            f"are {', '.join(map(repr, names))}"
        )
    row = given.row or ("row" if "row" in names and own and given.label != "row" else "")
    time = given.time or ("time" if "time" in names and "time" not in (*given.key, given.label, own) else "")
    label = given.label
    if label not in names:
        rest = [name for name in names if name not in (own, row, time, *given.key)]
        if len(rest) != 1:
            raise DataError(
                f"Labels: no column 'label'; say which it is with --label: {', '.join(map(repr, rest)) or 'none left'}"
            )
        label = rest[0]
    return LabelColumns(label, own, given.key, time, row)


def read_body(body: Any) -> pa.Table:
    """A table of the labels in a request: {"labels": [{"id": ..., "row": 0, "label": ..., "time": ...}, ...]}, or a
    list for each field. Fields beside these are the key of labels without an id. Raises DataError."""
    fields = _read_lists(body)
    unknown = [name for name in fields if name not in _OWN]
    if LABEL not in fields:
        raise DataError('Each label needs "label"')
    if "id" in fields and unknown:
        raise DataError(
            f"A label has an id or a key; got the id and {', '.join(repr(shorten(name, 40)) for name in unknown[:5])}"
        )
    if "id" not in fields and not unknown:
        raise DataError('Each label needs the "id" of its request, or fields that name its row')
    if len({len(values) for values in fields.values()}) > 1:
        told = ", ".join(f"{shorten(name, 40)} {len(values)}" for name, values in list(fields.items())[:8])
        raise DataError(f"The lists of labels have different lengths: {told}")
    return pa.table({name: _to_column(name, values) for name, values in fields.items()})


def _read_lists(body: Any) -> dict[str, list[Any]]:
    if not isinstance(body, dict):
        raise DataError('The body must be an object: {"labels": [{"id": "REQUEST_ID", "label": 1}]}')
    given = body.get("labels") if len(body) == 1 else None
    if given is None:
        if not body or not all(isinstance(values, list) for values in body.values()):
            raise DataError('Give {"labels": [...]}, or a list for each of "id", "label", "time" and "row"')
        return body
    if not isinstance(given, list):
        raise DataError('"labels" must be a list of objects')
    names: dict[str, None] = {}
    for place, one in enumerate(given):
        if not isinstance(one, dict):
            raise DataError(f"Label {place} is no object, but {_type_of(one)}")
        names |= dict.fromkeys(one)
        if len(names) > 64:
            raise DataError("Labels have over 64 different fields")
    return {name: [one.get(name) for one in given] for name in names}


def _to_column(name: str, values: list[Any]) -> pa.Array:
    """Values of one type: numbers, booleans or texts."""
    first: tuple[str, int] | None = None
    for place, value in enumerate(values):
        if value is None:
            continue
        kind = _type_of(value)
        if kind not in ("a number", "a boolean", "a text"):
            raise DataError(
                f"{shorten(name, 40)!r} of label {place} is {kind}; give a number, a boolean or a text"
            )
        if first is None:
            first = kind, place
        elif kind != first[0]:
            raise DataError(
                f"{shorten(name, 40)!r} of label {place} is {kind}, and of label {first[1]} {first[0]}; give one type"
            )
    try:
        return pa.array(values) if first is not None else pa.nulls(len(values))
    except (pa.ArrowException, OverflowError, UnicodeError) as error:
        raise DataError(f"{shorten(name, 40)!r} of the labels: {shorten(str(error))}") from None


def _type_of(value: Any) -> str:
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "null")


def store_labels(
    store: CaptureStore,
    model: str,
    table: pa.Table,
    columns: LabelColumns,
    hashed: Collection[str] = (),
    secret: bytes = b"",
    now: datetime.datetime | None = None,
) -> Stored:
    """Write labels, unless they are there already. Key columns that are hashed in the captures, `hashed`, are hashed
    here, too.

    Raises DataError for values that are no labels, ids or times, and StorageError.
    """
    found = _normalise(table, columns)
    for name in hashed:
        key = KEY + name
        if key in found.column_names and secret:
            place = found.column_names.index(key)
            found = found.set_column(place, key, hash_column(found[key], secret))
    missing = table.num_rows - found.num_rows
    ids = found["request_id"].combine_chunks() if columns.id else pa.array([], pa.string())
    if not found.num_rows:
        return Stored(0, missing, False, ids)
    digest = digest_of(found)
    if store.has_labels(model, digest):
        return Stored(found.num_rows, missing, False, ids)
    moment = now or datetime.datetime.now(datetime.UTC)
    found = found.append_column(ARRIVED, pa.array([moment] * found.num_rows, TIME))
    data = encode(found, {"raymlops.label": columns.label})
    store.write_labels(model, moment.date().isoformat(), digest, data)
    return Stored(found.num_rows, missing, True, ids)


def digest_of(table: pa.Table) -> str:
    """sha256 of the content, whatever the chunks in which it was read."""
    sink = pa.BufferOutputStream()
    whole = pa.table({name: pa.chunked_array([_compact(table[name])]) for name in table.column_names})
    with pa.ipc.new_stream(sink, whole.schema) as writer:
        writer.write_table(whole)
    return hashlib.sha256(sink.getvalue()).hexdigest()


def _compact(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays([*column.chunks, pa.array([], column.type)])


def _normalise(table: pa.Table, columns: LabelColumns) -> pa.Table:
    """Columns `request_id` and `row`, or `key.NAME`; `label`; and `time`, null where it is not known. In the order of
    the table, without rows whose label, id or key is missing."""
    made: dict[str, Any] = {}
    if columns.id:
        made["request_id"] = _to_ids(table[columns.id], columns.id)
        made["row"] = _to_rows(table[columns.row], columns.row) if columns.row else _zeros(table.num_rows)
    else:
        made |= {KEY + name: _require_plain(table[name], name) for name in columns.key}
    made[LABEL] = _require_plain(table[columns.label], columns.label)
    made[ORDER] = (
        _to_times(table[columns.time], columns.time) if columns.time else pa.nulls(table.num_rows, TIME)
    )
    whole = pa.table(made)
    for name in whole.column_names:
        if name != ORDER:
            whole = whole.filter(pc.invert(pc.is_null(whole[name], nan_is_null=True)))
    return whole


def _zeros(count: int) -> pa.Array:
    return pa.array(np.zeros(count, np.int32))


def _to_ids(values: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    values = _require_plain(values, name)
    if pa.types.is_floating(values.type) or pa.types.is_boolean(values.type):
        raise DataError(f"Column {name!r} holds {values.type}; ids of requests are texts")
    return values.cast(pa.string())


def _to_rows(values: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    try:
        rows = pc.fill_null(values.cast(pa.int32()), 0)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise DataError(f"Column {name!r} holds {values.type}; rows are whole numbers from 0") from None
    if len(rows) and pc.min(rows).as_py() < 0:
        raise DataError(f"Column {name!r} has {pc.min(rows).as_py()}; rows are whole numbers from 0")
    return rows


def _to_times(values: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    if not isinstance(values, pa.ChunkedArray):
        values = pa.chunked_array([values])
    converted = Conversion("timestamp").apply(values)
    if converted.failed.any():
        wrong = values[int(np.argmax(converted.failed))].as_py()
        raise DataError(
            f"Column {name!r}: {shorten(str(wrong), 80)!r} is no time; give ISO 8601, or milliseconds since 1970"
        )
    return converted.values.cast(TIME)


def _require_plain(values: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    kind = values.type
    if pa.types.is_dictionary(kind):
        values, kind = values.cast(kind.value_type), kind.value_type
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return values
    if pa.types.is_decimal(kind):
        return values.cast(pa.float64())
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return values.cast(pa.string())
    plain = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
        pa.types.is_string,
        pa.types.is_null,
    )
    if not any(is_one(kind) for is_one in plain):
        raise DataError(f"Column {name!r} holds {kind}; expected numbers, booleans or texts")
    return values


def key_of(names: Sequence[str]) -> tuple[str, ...]:
    """The columns by which a file of labels is joined: ids and rows, or its key."""
    return tuple(name for name in names if name.startswith(KEY)) or _IDS


def take_last(labels: pa.Table, by: Sequence[str]) -> pa.Table:
    """The last label of each row: by its time, those without one by their arrival, then by arrival and place."""
    moment = pc.coalesce(labels[ORDER], labels[ARRIVED])
    order = pa.table({"moment": moment, "arrived": labels[ARRIVED], "place": np.arange(labels.num_rows)})
    taken = pc.sort_indices(order, [(name, "descending") for name in order.column_names])
    frame = labels.select(list(by)).take(taken).to_pandas()
    return labels.take(taken).filter(pa.array(~frame.duplicated().to_numpy()))


def list_hashed(metadata: Mapping[bytes, bytes] | None) -> tuple[str, ...]:
    """Columns of a captured file that are hashed, such as `inputs.customer`."""
    return tuple(filter(None, (metadata or {}).get(b"raymlops.hashed", b"").decode().split("\n")))
