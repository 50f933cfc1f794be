"""Captured requests and their labels: list_captured, show_captured, trace, delete_person, replay, labels,
joined_labels."""

import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa

from raymlops.api.arguments import to_arrow
from raymlops.settings import Settings

if TYPE_CHECKING:
    import ray.data

    from raymlops.lifecycle.captures.deletion import Deletion
    from raymlops.lifecycle.captures.labelling import Labelled
    from raymlops.lifecycle.captures.reading import CapturedDay, Traced
    from raymlops.lifecycle.captures.replay import Replay


def list_captured(model: str = "", *, store: str = "") -> "list[CapturedDay]":
    """What is captured by model, day and version, below RAYMLOPS_STORAGE or in the folder `store`."""
    from raymlops.lifecycle.captures import reading

    return reading.list_captured(reading.find_store(Settings.from_env(), store), model)


def show_captured(
    model: str, *, since: str = "", until: str = "", version: str = "", limit: int = 10, store: str = ""
) -> pd.DataFrame:
    """The latest captured rows of a model; days are inclusive, as 2026-01-31. Raises NotFoundError."""
    from raymlops.lifecycle.captures import reading

    found = reading.find_store(Settings.from_env(), store)
    rows = reading.show_rows(found, model, since=since, until=until, version=version, limit=limit)
    frame: pd.DataFrame = rows.to_pandas()
    return frame


def trace(request_id: str, *, model: str = "", store: str = "") -> "list[Traced]":
    """Which version, made from which data and code, gave the answers to requests with this id.

    Raises NotFoundError if none was captured.
    """
    from raymlops.lifecycle.captures import reading

    settings = Settings.from_env()
    return reading.trace_request(reading.find_store(settings, store), request_id, settings, model=model)


def delete_person(
    person: str, why: str, *, model: str = "", column: str = "", store: str = ""
) -> "list[Deletion]":
    """Delete the captured rows of a person and their labels, on the record. Raises DataError, SpecError,
    NotFoundError."""
    from raymlops.lifecycle.captures import deletion, reading

    settings = Settings.from_env()
    found = reading.find_store(settings, store)
    return deletion.delete_person(found, person, why, settings, model=model, column=column)


def replay(
    model: str,
    version: str | os.PathLike[str],
    *,
    since: str = "",
    until: str = "",
    of: str = "",
    output: str = "",
    store: str = "",
) -> "Replay":
    """Score the captured requests of `model` (of a version, `of`) by another version or an ONNX file, and compare."""
    from raymlops.data.captured import Wanted
    from raymlops.lifecycle.captures import reading
    from raymlops.lifecycle.captures.replay import replay as run
    from raymlops.lifecycle.cluster import join_cluster
    from raymlops.runtime.sources import read_source

    settings = Settings.from_env()
    content = read_source(str(version), settings)
    found = reading.find_store(settings, store)
    join_cluster(settings)
    return run(found, model, content, Wanted(since, until, of), output=output)


def labels(
    model: str,
    data: str | os.PathLike[str] | pd.DataFrame | pa.Table,
    *,
    ids: str = "",
    key: Sequence[str] = (),
    label: str = "label",
    time: str = "",
    row: str = "",
    store: str = "",
) -> "Labelled":
    """Store labels of captured requests, from a file or a table: by the column `ids`, or by the columns of `key`.

    Raises NotFoundError, DataError.
    """
    from raymlops.captures.labels import LabelColumns, choose_columns
    from raymlops.lifecycle.captures import labelling, reading
    from raymlops.lifecycle.cluster import join_cluster

    settings = Settings.from_env()
    found = reading.find_store(settings, store)
    columns = LabelColumns(label, ids, tuple(key), time, row)
    if isinstance(data, (str, os.PathLike)):
        join_cluster(settings)
        return labelling.label_file(
            found, model, str(pathlib.Path(data) if "://" not in str(data) else data), columns
        )
    found.require_model(model)
    table = to_arrow(data, {str(name) for name in getattr(data, "columns", ())})
    if isinstance(data, pa.Table):
        table = data
    return labelling.store_table(found, model, table, choose_columns(table.column_names, columns))


def joined_labels(
    model: str,
    *,
    since: str = "",
    until: str = "",
    version: str = "",
    label: str = "label",
    unlabelled: bool = False,
    store: str = "",
) -> "ray.data.Dataset":
    """Captured rows with their labels, as a Ray Dataset: inputs, `predicted_NAME`, the label, `label_time` and
    `label_delay` in seconds. Raises NotFoundError, DataError."""
    from raymlops.data import captured
    from raymlops.lifecycle.captures import reading
    from raymlops.lifecycle.cluster import join_cluster

    settings = Settings.from_env()
    join_cluster(settings)
    found = reading.find_store(settings, store)
    wanted = captured.Wanted(since, until, version)
    return captured.joined_labels(found, model, wanted, label=label, unlabelled=unlabelled)
