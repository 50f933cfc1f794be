"""Deletes the captured requests of one person, and their labels, on the record. Rewrites the files that hold them."""

import dataclasses
import datetime
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from raymlops.captures import labels as label_files
from raymlops.captures.parquet import encode
from raymlops.captures.selection import (
    KINDS,
    hash_text,
    is_named,
    name_secret,
    require_secret,
    to_column,
    to_text,
)
from raymlops.captures.store import CapturedFile, CaptureStore
from raymlops.errors import DataError, RaymlopsError, SpecError
from raymlops.lifecycle.captures.reading import map_files
from raymlops.settings import Settings, read_environment

Mask = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Deletion:
    """What was deleted of a model; `wait_s` is how long a request may still be unwritten, and come back after it."""

    model: str
    column: str
    rows: int
    labels: int
    files: int
    wait_s: float
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Found:
    """A file with a column of persons: its name in the file, and the value to look for there."""

    file: CapturedFile
    column: str
    value: str


def delete_person(
    store: CaptureStore,
    person: str,
    why: str,
    settings: Settings,
    *,
    model: str = "",
    column: str = "",
) -> list[Deletion]:
    """Remove all rows of a person, of one model or of all; `column` names it where the serving spec named none. Nothing
    is changed if a file cannot be searched.

    Raises NotFoundError; DataError if no file says which column identifies a person; SpecError without the secret of
    hashed values.
    """
    if model:
        store.require_model(model)
    plans = []
    for name in [model] if model else store.list_models():
        files = store.list_files(name)
        found = list(_find_columns(store, files, person, column))
        if found or model:
            plans.append((name, files, found))
    if not any(found for _, _, found in plans):
        raise DataError(
            "No captured file says which column identifies a person; name it: --column inputs.NAME (a serving spec "
            "does with capture.person)"
        )
    return [_delete(store, name, files, found, person, why, settings) for name, files, found in plans]


def _find_columns(
    store: CaptureStore, files: Sequence[CapturedFile], person: str, column: str
) -> list[_Found]:
    schemas = map_files(store, files, lambda opened: opened.schema_arrow)
    secrets = read_environment()
    found = []
    for file, schema in zip(files, schemas, strict=True):
        if schema is None:
            continue
        metadata = schema.metadata or {}
        own = _choose(schema.names, column) or (
            "" if column else metadata.get(b"raymlops.person", b"").decode()
        )
        if not own or own not in schema.names:
            continue
        value = person
        if own in label_files.list_hashed(metadata):
            variable = metadata.get(b"raymlops.secret", b"").decode()
            secret = require_secret(variable, secrets.get(variable), f"Column {own!r}")
            if name_secret(secret) != metadata.get(b"raymlops.secret_id", b"").decode():
                raise SpecError(
                    f"{own!r} of {file.model!r} of {file.day} was hashed with another secret than the one in "
                    f"{variable}; set it to the one of that day"
                )
            value = hash_text(person, secret)
        found.append(_Found(file, own, value))
    return found


def _choose(names: Sequence[str], column: str) -> str:
    for name in names:
        kind, _, rest = name.partition(".")
        if column and kind in KINDS and is_named((column,), kind, rest):
            return name
    return ""


def _delete(
    store: CaptureStore,
    model: str,
    files: Sequence[CapturedFile],
    found: Sequence[_Found],
    person: str,
    why: str,
    settings: Settings,
) -> Deletion:
    removed: set[tuple[str, int]] = set()
    sources: set[str] = set()
    rewritten, wait = 0, 0.0
    for one in found:
        rows, told = _remove_rows(store, one)
        wait = max(wait, float(told.get("raymlops.file_s", "60")))
        rewritten += bool(rows)
        removed |= {(row["request_id"], row["row"]) for row in rows}
        sources |= {part for row in rows for part in row["source"].split(", ")}
    values = {(to_column(one.column), one.value) for one in found}
    values |= {(name, person) for name, _ in values}
    labels, label_rewrites = _remove_labels(store, model, removed, values)
    columns = ", ".join(sorted({one.column for one in found}))
    record = {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "who": settings.user,
        "why": why,
        "column": columns,
        "rows": len(removed),
        "labels": labels,
        "files": rewritten + label_rewrites,
    }
    store.write_deletion(model, record)
    skipped = len(files) - len(found)
    notes = (
        [f"{skipped} of {len(files)} files have no column of persons, and were left alone"] if skipped else []
    )
    notes += _record(sources, f"{why} ({len(removed)} captured rows of one person)", settings)
    return Deletion(model, columns, len(removed), labels, rewritten + label_rewrites, wait, tuple(notes))


def _remove_rows(store: CaptureStore, one: _Found) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The rows that were removed from a file, and its metadata."""

    def find(opened: pq.ParquetFile) -> tuple[Any, Mask, dict[str, str]]:
        told = {key.decode(): value.decode() for key, value in (opened.schema_arrow.metadata or {}).items()}
        column = opened.read(columns=[one.column]).column(0)
        mask = np.array([to_text(value) == one.value for value in column.to_pylist()], bool)
        return (opened.read() if mask.any() else None), mask, told

    found = map_files(store, [one.file], find)[0]
    if found is None or found[0] is None:
        return [], found[2] if found else {}
    table, mask, told = found
    _rewrite(store, one.file, table, mask)
    rows: list[dict[str, Any]] = (
        table.filter(pa.array(mask)).select(["request_id", "row", "source"]).to_pylist()
    )
    return rows, told


def _rewrite(store: CaptureStore, file: CapturedFile, table: pa.Table, removed: Mask) -> None:
    if removed.all():
        store.remove(file.path)
    else:
        store.replace(file.path, encode(table.filter(pa.array(~removed))))


def _remove_labels(
    store: CaptureStore, model: str, removed: set[tuple[str, int]], values: set[tuple[str, str]]
) -> tuple[int, int]:
    """Labels of the removed rows, and those whose key has the person. Returns the numbers of labels and of files."""
    count = files = 0
    for file in store.list_labels(model):
        table = map_files(store, [file], lambda opened: opened.read())[0]
        if table is None:
            continue
        mask = np.zeros(table.num_rows, bool)
        if "request_id" in table.column_names:
            ids = zip(table["request_id"].to_pylist(), table["row"].to_pylist(), strict=True)
            mask |= np.fromiter((one in removed for one in ids), bool, table.num_rows)
        for name, value in values:
            if label_files.KEY + name in table.column_names:
                texts = table[label_files.KEY + name].to_pylist()
                mask |= np.fromiter((to_text(text) == value for text in texts), bool, table.num_rows)
        if mask.any():
            # An empty file stays: the same labels sent again are then still known.
            store.replace(file.path, encode(table.filter(pa.array(~mask))))
            count, files = count + int(mask.sum()), files + 1
    return count, files


def _record(sources: set[str], why: str, settings: Settings) -> list[str]:
    """An entry in the signed history of each model of the registry whose answers were deleted; notes of those where
    that failed."""
    names = sorted({one.split("/")[1].partition("@")[0] for one in sources if one.startswith("models:/")})
    return [note for name in names for note in _try_append(name, why, settings)]


def _try_append(name: str, why: str, settings: Settings) -> list[str]:
    from raymlops.tracking import history_writer, store  # imports MLflow

    append: Callable[..., object] = history_writer.append
    try:
        change = history_writer.Change("delete", "", why, settings.user)
        append(store.connect(settings), name, settings, change)
    except RaymlopsError as error:
        return [f"the history of {name!r} has no entry of it: {error}"]
    return []
