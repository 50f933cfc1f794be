"""Requests and their answers as Arrow tables, a row for each row of a request. Writes no files.

Columns: `request_id`, `row` (the place within its request, from 0), `time` (of the answer, UTC), `model`, `version`,
`source` (what serves under that name), `log_id` (the id in logs, where the body of the request gave another), and
`inputs.NAME`, `outputs.NAME`, `parameters.NAME`.
"""

import datetime
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymlops.captures.selection import INPUTS, OUTPUTS, PARAMETERS, Selection, hash_column
from raymlops.observers import Event
from raymlops.tensor_columns import lists_of, nest
from raymlops.tensors import Array, Batch

TIME = pa.timestamp("us", "UTC")
COLUMNS = {
    "request_id": pa.string(),
    "row": pa.int32(),
    "time": TIME,
    "model": pa.string(),
    "version": pa.string(),
    "source": pa.string(),
    "log_id": pa.string(),
}
_PROTOCOL = frozenset({"binary_data_output", "timeout", "priority", "triton_enable_empty_final_response"})
"""Parameters that are about the transport."""
_MOST_PARAMETERS, _LONGEST, _MOST_NAMES = 64, 128, 256
"""Parameters of a request that are kept, characters of a name, and names of a model: any caller may send any."""
_LENGTHS = "_lengths"
"""Ending of the tensor that holds, for each row, the number of elements of another one."""
_NO_TIME = np.iinfo(np.int64).min


class Place(NamedTuple):
    """What a file is of."""

    model: str
    version: str
    day: str


def id_of(event: Event) -> str:
    """The id by which a caller knows its request."""
    return event.body_id or event.request_id


def make_tables(
    events: Sequence[Event],
    selection: Selection,
    sources: Mapping[str, str],
    kinds: Callable[[str], Mapping[str, str]],
    parameters: dict[str, set[str]],
) -> Iterator[tuple[Place, int, pa.Table]]:
    """Place, number of requests and table, for each structure of tensors that occurs. `kinds` are the types of a
    model's inputs in its contract, by name; `parameters` are the names that each model's requests had so far, to which
    new ones are added as long as there is room."""
    for (place, *_), found in _group(events).items():
        types = kinds(place.model)
        columns = _make_own(found, place, sources.get(place.model, ""))
        for kind, batches in (
            (INPUTS, [one.batch for one in found]),
            (OUTPUTS, [one.answer for one in found]),
        ):
            columns |= _make_tensors(kind, [one or {} for one in batches], found, selection, types)
        columns |= _make_parameters(found, selection, parameters.setdefault(place.model, set()))
        yield place, len(found), pa.table(columns)


def _group(events: Sequence[Event]) -> dict[tuple[Any, ...], list[Event]]:
    """Events whose tensors can be concatenated."""
    groups: dict[tuple[Any, ...], list[Event]] = {}
    for event in events:
        if not event.rows:
            continue
        day = datetime.datetime.fromtimestamp(event.time, datetime.UTC).date().isoformat()
        structure = tuple(
            (name, values.dtype.char, values.shape[1:], _is_by_row(values, event.rows), values.ndim)
            for batch in (event.batch, event.answer)
            for name, values in (batch or {}).items()
        )
        groups.setdefault((Place(event.model, event.version, day), *structure), []).append(event)
    return groups


def _make_own(events: Sequence[Event], place: Place, source: str) -> dict[str, pa.Array]:
    rows = sum(event.rows for event in events)
    times = [round(event.time * 1e6) for event in events]
    logged = [event.request_id if event.body_id not in ("", event.request_id) else None for event in events]
    own = {
        "request_id": _repeat([id_of(event) for event in events], events),
        "row": list(itertools.chain.from_iterable(range(event.rows) for event in events)),
        "time": _repeat(times, events),
        "model": [place.model] * rows,
        "version": [place.version] * rows,
        "source": [source] * rows,
        "log_id": _repeat(logged, events),
    }
    return {name: _to_array(values, COLUMNS[name]) for name, values in own.items()}


def _repeat(values: Sequence[Any], events: Sequence[Event]) -> list[Any]:
    return [value for value, event in zip(values, events, strict=True) for _ in range(event.rows)]


def _to_array(values: list[Any], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:  # ids may hold any code point
        repaired = [value and value.encode("utf-8", "replace").decode() for value in values]
        return pa.array(repaired, kind)


def _make_tensors(
    kind: str,
    batches: Sequence[Batch],
    events: Sequence[Event],
    selection: Selection,
    types: Mapping[str, str],
) -> dict[str, pa.Array]:
    columns = {}
    names = batches[0].keys()
    for name in names:
        if name.endswith(_LENGTHS) and name.removesuffix(_LENGTHS) in names:
            continue  # a list knows its length
        if not selection.keeps(kind, name):
            continue
        values = _join([batch[name] for batch in batches], batches, name, events)
        if kind == INPUTS:
            values = _restore_type(values, types.get(name, ""))
        if selection.hashes(kind, name):
            values = hash_column(values, selection.secret)
        columns[f"{kind}.{name}"] = values
    return columns


def _is_by_row(values: Array, rows: int) -> bool:
    return values.ndim > 0 and len(values) == rows


def _join(arrays: Sequence[Array], batches: Sequence[Batch], name: str, events: Sequence[Event]) -> pa.Array:
    """The tensors of all requests as one column."""
    lengths = [batch.get(name + _LENGTHS) for batch in batches]
    if all(one is not None and len(one) == event.rows for one, event in zip(lengths, events, strict=True)):
        return lists_of(np.concatenate(arrays), np.concatenate([one for one in lengths if one is not None]))
    if all(_is_by_row(values, event.rows) for values, event in zip(arrays, events, strict=True)):
        return nest(np.concatenate(arrays) if len(arrays) > 1 else arrays[0])
    # Without a value for each row, the whole tensor stands with the first one.
    whole = (
        nest(np.stack(arrays))
        if len({values.shape for values in arrays}) == 1
        else pa.concat_arrays([nest(values[None]) for values in arrays])
    )
    place = np.cumsum([0, *(event.rows for event in events)])
    firsts = np.zeros(place[-1], bool)
    firsts[place[:-1]] = True
    return whole.take(pa.array(np.cumsum(firsts) - 1, mask=~firsts))


def _restore_type(values: pa.Array, kind: str) -> pa.Array:
    """Values in the type of the contract, with nulls for missing ones, as a table of training has them."""
    if kind == "timestamp" and pa.types.is_int64(values.type):
        missing = pc.equal(values, _NO_TIME)
        return pc.if_else(missing, pa.scalar(None, pa.int64()), values).cast(pa.timestamp("ms", "UTC"))
    if kind == "string" and pa.types.is_string(values.type):
        return pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values)
    if kind in ("number", "integer", "boolean") and pa.types.is_floating(values.type):
        held = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
        try:
            return {"integer": lambda: held.cast(pa.int64()), "boolean": lambda: held.cast(pa.bool_())}.get(
                kind, lambda: held
            )()
        except pa.ArrowInvalid:  # an integer beyond 64 bits
            return held
    return values


def _make_parameters(events: Sequence[Event], selection: Selection, known: set[str]) -> dict[str, pa.Array]:
    names = dict.fromkeys(
        name
        for event in events
        for name in itertools.islice(event.parameters, _MOST_PARAMETERS)
        if name not in _PROTOCOL and len(name) <= _LONGEST and selection.keeps(PARAMETERS, name)
    )
    columns = {}
    for name in names:
        if name not in known and not selection.names(PARAMETERS, name):
            if len(known) >= _MOST_NAMES:
                continue
            known.add(name)
        values = _to_common_type(_repeat([event.parameters.get(name) for event in events], events))
        if selection.hashes(PARAMETERS, name):
            values = hash_column(values, selection.secret)
        columns[f"{PARAMETERS}.{name}"] = values
    return columns


def _to_common_type(values: list[Any]) -> pa.Array:
    """Whole numbers, numbers, booleans, or else text: callers may send any type, and another one each time."""
    types = {type(value) for value in values if value is not None}
    if types <= {int} and all(value is None or -(2**63) <= value < 2**63 for value in values):
        return pa.array(values, pa.int64())
    if types <= {int, float} and all(value is None or abs(value) < 2**1000 for value in values):
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    if types == {bool}:
        return pa.array(values, pa.bool_())
    texts = [value if isinstance(value, str | None) else json.dumps(value, default=str) for value in values]
    return _to_array(texts, pa.string())


def unify(schemas: Sequence[pa.Schema]) -> dict[str, pa.DataType]:
    """One type for each column of any of the files: the wider number, or else text."""
    types: dict[str, pa.DataType] = {}
    for schema in schemas:
        for field in schema:
            held = types.get(field.name, pa.null())
            types[field.name] = held if held == field.type else _widen(held, field.type)
    return types


def _widen(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    for one, other in ((first, second), (second, first)):
        if pa.types.is_null(one):
            return other
    try:
        table = pa.concat_tables(
            [pa.table({"": pa.nulls(0, one)}) for one in (first, second)], promote_options="permissive"
        )
        return table.schema.field(0).type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.string()


def cast_to(table: pa.Table, types: Mapping[str, pa.DataType]) -> pa.Table:
    """The table with these columns in these types; those that it lacks are null."""
    columns = {}
    for name, kind in types.items():
        if name not in table.column_names:
            columns[name] = pa.chunked_array([pa.nulls(table.num_rows, kind)])
        elif table[name].type == kind:
            columns[name] = table[name]
        else:
            try:
                columns[name] = table[name].cast(kind)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # nested, or bytes that are not text
                texts = [None if one is None else str(one) for one in table[name].to_pylist()]
                columns[name] = pa.chunked_array([pa.array(texts, pa.string()).cast(kind)])
    return pa.table(columns)
