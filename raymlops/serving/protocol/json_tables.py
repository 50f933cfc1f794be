"""Converts rows and columns of parsed JSON to a model's tensors, and outputs back to values for JSON. Handles no
bodies and no protocol."""

import difflib
import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from raymlops.errors import InputError, TooLargeError, unknown_name
from raymlops.graphs.plan import LENGTHS
from raymlops.serving.protocol import columns, json_numbers
from raymlops.serving.protocol.columns import Column
from raymlops.serving.protocol.json_text import check_elements, parse_json
from raymlops.serving.protocol.request_limits import RequestLimits, check_rows, count_elements, show
from raymlops.serving.protocol.rest_codec import to_json_list
from raymlops.tensors import Array, Batch, Signature, TensorSpec

ColumnsByName = Mapping[str, Column]


def parse(body: bytes, forms: Sequence[str], known: ColumnsByName, limits: RequestLimits) -> Any:
    """The JSON of a request in one of these forms; numbers of a large tensor are already an array, in the shape of
    its lists. Raises InputError, TooLargeError."""
    names = list_required(known) or list(known)[:1]
    # Otherwise looking for its keys would be wasted time.
    begins = any(f'"{form}"'.encode() in body[:64] for form in forms)
    if len(body) >= json_numbers.LARGE and len(names) == 1 and begins:
        check_elements(body, limits)
        document = json_numbers.read_tensor(body, forms, known[names[0]], limits.json_depth)
        if document is not None:
            return document
    return parse_json(body, limits)


def from_records(value: Any, known: ColumnsByName, limits: RequestLimits) -> Batch:
    """Rows as objects, column name -> value. Raises InputError, TooLargeError."""
    if not isinstance(value, list) or not value or not all(isinstance(row, dict) for row in value):
        raise InputError("Rows must be a list of objects, column name -> value, at least one")
    if has_features(value[0], known):
        # A model with one tensor of many features takes a frame's columns in the order of the first row.
        order = list(value[0])
        if any(row.keys() != value[0].keys() for row in value):
            raise InputError(f"The rows have different columns; the first has {show(order)}")
        features = [[row[name] for name in order] for row in value]
        return from_columns({list_required(known)[0]: features}, known, limits)
    named = set(itertools.chain.from_iterable(value))
    taken = {name: column for name, column in known.items() if name in named or not column.optional}
    check_cells(len(value), taken, limits)
    refuse_misspelt(named, known)
    for name, column in taken.items():
        if column.optional and column.spec.shape[:1] != (-1,):
            raise InputError(
                f"Input {column.spec} has no value for each row; send the inputs by name, as tensors"
            )
        for row in value:
            if name not in row:
                _require_missing(name, column, row, known)
    return from_columns({name: [row.get(name) for row in value] for name in taken}, known, limits)


def refuse_misspelt(named: Collection[str], known: ColumnsByName) -> None:
    """Extra columns are ignored, except one that is likely a misspelt optional input. Raises InputError."""
    left_out = [name for name, column in known.items() if column.optional and name not in named]
    for name in named if left_out else ():
        if name not in known and difflib.get_close_matches(name[:200], left_out, n=1, cutoff=0.8):
            raise InputError(unknown_name("column", name, known))


def has_features(row: Mapping[str, Any], known: ColumnsByName) -> bool:
    """Whether the columns of a row are the features of the model's only tensor."""
    required = list_required(known)
    if len(required) != 1 or len(row) < 2:
        return False
    name = required[0]
    return name not in row or (len(known[name].spec.shape) == 2 and not isinstance(row[name], list))


def list_required(known: ColumnsByName) -> list[str]:
    """Names of the required inputs, in order."""
    return [name for name, column in known.items() if not column.optional]


def _require_missing(name: str, column: Column, row: Mapping[str, Any], known: ColumnsByName) -> None:
    """Raises InputError unless a row may omit this column. It may not if another key of the row has no column: that
    is likely this one, misspelt."""
    wrong = next((given for given in row if given not in known), None)
    if wrong is not None:
        raise InputError(f"A row has no value for {name!r}: " + unknown_name("column", wrong, known))
    if column.optional or not column.takes_missing:
        shown = ", ".join(map(show, sorted(row)[:20])) or "none"
        raise InputError(f"A row has no value for {column.spec}; its columns are {shown}")


def from_positions(value: Any, known: ColumnsByName, limits: RequestLimits) -> Batch:
    """Rows as lists, with one value per column in the model's order. Raises InputError, TooLargeError."""
    names = list_required(known)
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(row, list) and len(row) == len(names) for row in value)
    ):
        raise InputError(
            f"Each row must be an object, or a list with one value for each of {', '.join(names)}"
        )
    check_cells(len(value), {name: known[name] for name in names}, limits)
    given = dict(zip(names, map(list, zip(*value, strict=True)), strict=True))
    return from_columns(given, known, limits)


def from_inputs(value: Any, known: ColumnsByName, limits: RequestLimits) -> Batch:
    """Tensors by name, or the only one that the model requires. Raises InputError, TooLargeError."""
    return (
        from_columns(value, known, limits) if isinstance(value, dict) else from_tensor(value, known, limits)
    )


def from_tensor(value: Any, known: ColumnsByName, limits: RequestLimits) -> Batch:
    """The only tensor that the model requires. Raises InputError, TooLargeError."""
    names = list_required(known) or list(known)[:1]
    if len(names) != 1:
        raise InputError(
            f"The model takes {len(names)} inputs, so each row must name them: {', '.join(names)}"
        )
    return from_columns({names[0]: value}, known, limits)


def from_columns(value: Mapping[str, Any], known: ColumnsByName, limits: RequestLimits) -> Batch:
    """Tensors by name. Raises InputError, TooLargeError."""
    batch: Batch = {}
    for name in value:
        if name not in known:
            raise InputError(unknown_name("input", name, known))
    for name, column in known.items():
        if name not in value:
            if column.optional:
                continue
            raise InputError(f"Input missing: {column.spec}")
        data = value[name]
        is_list = isinstance(data, list | np.ndarray)
        if not is_list and column.spec.shape:
            raise InputError(f"Input {column.spec} must be a list, got {show(data)}")
        if isinstance(data, np.ndarray):
            array = columns.check_whole(data, column)
        else:
            with np.errstate(over="raise"):
                array = columns.to_array(data if is_list else [data], column)
        array = _fit(array, column.spec, is_list)
        count_elements(array.shape, column.spec, limits)
        batch[name] = array
    return batch


def _fit(array: Array, spec: TensorSpec, is_list: bool) -> Array:
    """A column for a tensor of one feature, and a single value for one without dimensions."""
    if array.ndim == 1 and len(spec.shape) == 2 and spec.shape[1] == 1:
        return array.reshape(-1, 1)
    return array.reshape(()) if not spec.shape and not is_list else array


def check_unique(names: Sequence[str]) -> None:
    """Raises InputError."""
    if len(set(names)) != len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise InputError(f"Column {show(twice)} is given twice")


def check_cells(rows: int, known: ColumnsByName, limits: RequestLimits) -> None:
    """A row may omit missing values, so the batch may have more cells than were sent. Raises TooLargeError."""
    check_rows(rows, limits)
    if rows * len(known) > limits.json_elements:
        raise TooLargeError(
            f"{rows} rows of {len(known)} columns are over {limits.json_elements} elements; send fewer rows a "
            "request, or binary tensors"
        )


def to_columns(answer: Batch, signature: Signature) -> dict[str, Any]:
    """Output name -> nested lists. Elements counted by a second output become one list per row."""
    lists = {spec.name: _to_lists(answer[spec.name]) for spec in signature.outputs}
    for name in [name for name in lists if name + LENGTHS in lists]:
        if sum(lists[name + LENGTHS]) == len(lists[name]):
            lists[name] = _nest(lists[name], lists.pop(name + LENGTHS))
    return lists


def to_rows(answer: Batch, rows: int, signature: Signature) -> Any:
    """One output as a list of its rows; several as a list of objects.

    Raises InputError if outputs have no common first dimension: their values cannot be assigned to rows.
    """
    lists = to_columns(answer, signature)
    if len(signature.outputs) == 1:
        return next(iter(lists.values()))
    _require_rows(answer, {name: len(lists[name]) if answer[name].ndim else -1 for name in lists}, rows)
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def to_records(answer: Batch, rows: int, signature: Signature) -> list[dict[str, Any]]:
    """A list of objects with one value per field, as from a data frame: MLflow makes one from flat outputs. Raises
    InputError if they differ in length."""
    lists = {spec.name: to_json_list(answer[spec.name]) for spec in signature.outputs}
    _require_rows(answer, {name: len(values) for name, values in lists.items()}, rows)
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def _require_rows(answer: Batch, sizes: Mapping[str, int], rows: int) -> None:
    if len(set(sizes.values())) > 1 or -1 in sizes.values():
        shapes = ", ".join(f"{name} {list(answer[name].shape)}" for name in sizes)
        raise InputError(
            f"The outputs have no common first dimension for {rows} rows: {shapes}; they cannot be listed row by "
            "row: ask POST /v2/models/NAME/infer"
        )


def _nest(elements: list[Any], lengths: list[int]) -> list[Any]:
    """The elements of each row."""
    ends = list(itertools.accumulate(lengths, initial=0))
    return [elements[start:end] for start, end in itertools.pairwise(ends)]


def _to_lists(array: np.ndarray[Any, Any]) -> Any:
    if array.dtype == object:
        texts = np.empty(array.size, dtype=object)
        texts[:] = to_json_list(array)
        array = texts.reshape(array.shape)
    return array.tolist()
