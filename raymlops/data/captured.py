"""Captured requests as a dataset of Ray Data: each request once, with its answer, and with labels if asked for.

Columns: the inputs by their names; `predicted_NAME` for outputs and `parameter_NAME` for parameters; `request_id`,
`request_row`, `request_time`, `request_version`, `request_source`; and, with labels, the label, `label_time` and
`label_delay` in seconds. Writes nothing.
"""

import concurrent.futures
import dataclasses
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from raymlops.captures import labels as label_files
from raymlops.captures.labels import ARRIVED, KEY, LABEL, ORDER
from raymlops.captures.rows import cast_to, unify
from raymlops.captures.selection import INPUTS, to_column
from raymlops.captures.store import CapturedFile, CaptureStore
from raymlops.data import joins
from raymlops.errors import DataError, SpecError, unknown_name
from raymlops.specs.dataset import JoinSpec, TableSpec

_THREADS = 16
_OWN = {
    "request_id": "request_id",
    "row": "request_row",
    "time": "request_time",
    "version": "request_version",
    "source": "request_source",
}
_LARGE = 256 * 2**20
"""Bytes of label files above which the last label of each row is found in parts, by a shuffle."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Which captured requests: of days and of a version, `since` and `until` inclusive, as 2026-01-31; empty is all."""

    since: str = ""
    until: str = ""
    version: str = ""


ALL = Wanted()


def read_captured(store: CaptureStore, model: str, wanted: Wanted = ALL) -> ray.data.Dataset:
    """The rows of captured requests in order of days; of tries of one request, with the same id and inputs, the first.

    Raises NotFoundError for a model of which nothing is captured, and DataError if that is so for these days.
    """
    store.require_model(model)
    files = store.list_files(model, since=wanted.since, until=wanted.until, version=str(wanted.version))
    if not files:
        parts = [f"{name} {value}" for name, value in dataclasses.asdict(wanted).items() if value]
        raise DataError(f"No captured requests of {model!r}{' with ' if parts else ''}{', '.join(parts)}")
    types = unify(read_schemas(store, files))
    names = _name_columns(types)
    kept = {name: kind for name, kind in types.items() if name in names}
    repeats = _find_repeats(store, files)
    arguments = {
        "store": store,
        "types": kept,
        "names": names,
        "repeats": ray.put(repeats) if len(repeats) else None,
    }
    return _over_files(files, _read_file, arguments)


def read_schemas(store: CaptureStore, files: Sequence[CapturedFile]) -> list[pa.Schema]:
    def read(file: CapturedFile) -> pa.Schema:
        with store.open(file.path) as opened:
            return opened.schema_arrow

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(read, files))


def _name_columns(names: Sequence[str] | Mapping[str, Any]) -> dict[str, str]:
    """Column of a file -> column of the dataset. Raises DataError if two would have one name."""
    named = dict(_OWN)
    for name in names:
        if "." in name:
            named[name] = to_column(name)
    taken: dict[str, str] = {}
    for name, column in named.items():
        if column in taken:
            raise DataError(
                f"{name!r} and {taken[column]!r} would both be column {column!r} of captured requests"
            )
        taken[column] = name
    return named


def _over_files(
    files: Sequence[CapturedFile], read: Callable[..., Iterator[pa.Table]], arguments: Mapping[str, Any]
) -> ray.data.Dataset:
    """The tables that `read` gives for each file, in order."""
    items = [{"path": file.path} for file in files]
    blocks = min(len(items), 512)
    return ray.data.from_items(items, override_num_blocks=blocks).map_batches(
        read, batch_format="pyarrow", batch_size=None, fn_kwargs=dict(arguments)
    )


def _read_file(
    paths: pa.Table,
    store: CaptureStore,
    types: Mapping[str, pa.DataType],
    names: Mapping[str, str],
    repeats: "ray.ObjectRef[pd.DataFrame] | None",
) -> Iterator[pa.Table]:
    dropped = ray.get(repeats) if repeats is not None else None
    for path in paths["path"].to_pylist():
        with store.open(path) as opened:
            for group in range(opened.num_row_groups):
                table = opened.read_row_group(group)
                if dropped is not None:
                    table = _drop_repeats(table, dropped[dropped["path"] == path])
                cast = cast_to(table, types)
                yield cast.rename_columns([names[name] for name in cast.column_names])


def _drop_repeats(table: pa.Table, dropped: pd.DataFrame) -> pa.Table:
    own = _answers_of(table)
    repeated = own.set_index(["request_id", "time"]).index.isin(
        dropped.set_index(["request_id", "time"]).index
    )
    return table.filter(pa.array(~repeated)) if repeated.any() else table


def _answers_of(table: pa.Table) -> pd.DataFrame:
    """Request and time of each row, which tell two answers apart."""
    return pd.DataFrame(
        {
            "request_id": table["request_id"].to_pandas(),
            "time": table["time"].cast(pa.int64()).to_numpy(),
        }
    )


def _find_repeats(store: CaptureStore, files: Sequence[CapturedFile]) -> pd.DataFrame:
    """File, request and time of answers that repeat an earlier one: the same id and the same inputs, as when a client
    tries again. First ids that occur several times are found, by their hashes (8 bytes a request); then those are
    compared by what they asked."""
    hashed = _over_files(files, _hash_ids, {"store": store})
    hashes = np.concatenate([np.zeros(0, np.uint64), *_take_column(hashed, "id")])
    values, counts = np.unique(hashes, return_counts=True)
    doubled = values[counts > 1]
    if not len(doubled):
        return pd.DataFrame()
    answers = _over_files(files, _describe_answers, {"store": store, "doubled": ray.put(doubled)})
    frames = [table.to_pandas() for table in ray.get(answers.to_arrow_refs()) if table.num_rows]
    if not frames:
        return pd.DataFrame()
    found = pd.concat(frames).sort_values(["time"], kind="stable")
    repeated: pd.DataFrame = found[found.duplicated(["request_id", "asked"])][["path", "request_id", "time"]]
    return repeated


def _take_column(dataset: ray.data.Dataset, name: str) -> list[npt.NDArray[Any]]:
    return [table[name].to_numpy() for table in ray.get(dataset.to_arrow_refs()) if table.num_columns]


def _hash_ids(paths: pa.Table, store: CaptureStore) -> Iterator[pa.Table]:
    """The hash of the id of each answer."""
    for path in paths["path"].to_pylist():
        with store.open(path) as opened:
            answers = _answers_of(opened.read(columns=["request_id", "time"])).drop_duplicates()
        hashes = pd.util.hash_array(answers["request_id"].to_numpy(object), categorize=False)
        yield pa.table({"id": pa.array(hashes, pa.uint64())})


def _describe_answers(
    paths: pa.Table, store: CaptureStore, doubled: "ray.ObjectRef[npt.NDArray[Any]]"
) -> Iterator[pa.Table]:
    """Request, time, and a hash of the inputs, of answers whose ids have these hashes."""
    wanted = ray.get(doubled)
    for path in paths["path"].to_pylist():
        with store.open(path) as opened:
            table = opened.read()
        hashes = pd.util.hash_array(table["request_id"].to_pandas().to_numpy(object), categorize=False)
        table = table.filter(pa.array(np.isin(hashes, wanted)))
        own = _answers_of(table)
        own["asked"] = _hash_rows(
            table.select([name for name in table.column_names if name.startswith(INPUTS)])
        )
        own["asked"] *= np.uint64(2) * table["row"].to_numpy().astype(np.uint64) + np.uint64(1)
        grouped = own.groupby(["request_id", "time"], as_index=False, sort=False)["asked"].sum()
        yield pa.Table.from_pandas(grouped.assign(path=path), preserve_index=False)


def _hash_rows(table: pa.Table) -> npt.NDArray[np.uint64]:
    """A hash of the values of each row; of columns that are all missing, none, since another file may lack them."""
    total = np.zeros(table.num_rows, np.uint64)
    for name in table.column_names:
        column = table[name]
        if column.null_count == len(column):
            continue
        values = column.to_pandas()
        if pa.types.is_nested(column.type):
            values = pd.Series([str(value) for value in column.to_pylist()], dtype=object)
        seed = pd.util.hash_array(np.array([name], dtype=object), categorize=False)[0]
        total += pd.util.hash_pandas_object(values, index=False).to_numpy() * (seed | np.uint64(1))
    return total


def joined_labels(
    store: CaptureStore,
    model: str,
    wanted: Wanted = ALL,
    *,
    label: str = LABEL,
    unlabelled: bool = False,
) -> ray.data.Dataset:
    """Captured rows with their last labels: column `label` (or another name), `label_time`, and `label_delay`, the
    seconds from the answer to the label. Rows without a label only if `unlabelled`.

    Raises NotFoundError, and DataError if there are no labels, or key columns that the captured rows lack.
    """
    files = store.list_labels(model)
    rows = read_captured(store, model, wanted)
    if not files:
        raise DataError(
            f"There are no labels of {model!r}; store some: raymlops labels {shlex.quote(model)} FILE"
        )
    columns = rows.columns() or []
    for name in (label, "label_time", "label_delay"):
        if name in columns:
            raise DataError(
                f"The captured requests of {model!r} have a column {name!r} already; give the labels another name "
                "(label: NAME), or drop it from what is captured"
            )
    groups = _group_by_key(store, files)
    for place, (key, found) in enumerate(groups.items()):
        rows = _join_group(rows, store, found, key, columns, place)
    return rows.map_batches(
        _settle,
        batch_format="pyarrow",
        batch_size=None,
        zero_copy_batch=True,
        fn_kwargs={"count": len(groups), "label": label, "unlabelled": unlabelled},
    )


def _group_by_key(
    store: CaptureStore, files: Sequence[CapturedFile]
) -> dict[tuple[str, ...], list[tuple[CapturedFile, pa.Schema]]]:
    """Files of labels by the columns that name a row."""
    groups: dict[tuple[str, ...], list[tuple[CapturedFile, pa.Schema]]] = {}
    for file, schema in zip(files, read_schemas(store, files), strict=True):
        groups.setdefault(label_files.key_of(schema.names), []).append((file, schema))
    return groups


def _join_group(
    rows: ray.data.Dataset,
    store: CaptureStore,
    found: Sequence[tuple[CapturedFile, pa.Schema]],
    key: tuple[str, ...],
    columns: Sequence[str],
    place: int,
) -> ray.data.Dataset:
    renamed = {name: _OWN.get(name, name.removeprefix(KEY)) for name in key}
    for name in renamed.values():
        if name not in columns:
            raise DataError(
                f"Labels by key: {unknown_name('column of the captured requests', name, columns)}"
            )
    types = unify([schema for _, schema in found])
    files = [file for file, _ in found]
    names = {name: renamed.get(name, f"__{name}_{place}") for name in types}
    labels = _over_files(files, _read_labels, {"store": store, "types": types})
    labels = _reduce(labels, key, sum(file.size for file in files))
    labels = labels.map_batches(
        _rename, batch_format="pyarrow", batch_size=None, zero_copy_batch=True, fn_kwargs={"names": names}
    )
    spec = JoinSpec(table=TableSpec(path=f"labels of {store.root}"), keys=tuple(renamed.values()), how="left")
    return joins.join_table(rows, labels, spec)


def _read_labels(
    paths: pa.Table, store: CaptureStore, types: Mapping[str, pa.DataType]
) -> Iterator[pa.Table]:
    for path in paths["path"].to_pylist():
        with store.open(path) as opened:
            yield cast_to(opened.read(), types)


def _reduce(labels: ray.data.Dataset, key: tuple[str, ...], size: int) -> ray.data.Dataset:
    """The last label of each row."""
    if size <= _LARGE:
        blocks = [table for table in ray.get(labels.to_arrow_refs()) if table.num_columns]
        return ray.data.from_arrow(label_files.take_last(pa.concat_tables(blocks), key))
    parts = int(size // (_LARGE // 8)) + 1
    marked = labels.map_batches(
        _mark, batch_format="pyarrow", batch_size=None, fn_kwargs={"key": key, "parts": parts}
    )
    return marked.groupby("__part").map_groups(
        _take_last_of_part, batch_format="pyarrow", fn_kwargs={"key": key}
    )


def _mark(labels: pa.Table, key: tuple[str, ...], parts: int) -> pa.Table:
    hashes = pd.util.hash_pandas_object(labels.select(list(key)).to_pandas(), index=False)
    return labels.append_column("__part", pa.array((hashes % parts).to_numpy().astype(np.int64)))


def _take_last_of_part(labels: pa.Table, key: tuple[str, ...]) -> pa.Table:
    return label_files.take_last(labels.drop_columns(["__part"]), key)


def _rename(table: pa.Table, names: Mapping[str, str]) -> pa.Table:
    return table.rename_columns([names[name] for name in table.column_names]) if table.num_columns else table


def _settle(table: pa.Table, count: int, label: str, unlabelled: bool) -> pa.Table:
    """Of labels by ids and by keys, the last one of each row."""
    if table.num_columns == 0:
        return table
    groups = [
        pa.table({name: table[f"__{name}_{place}"] for name in (LABEL, ORDER, ARRIVED)})
        for place in range(count)
    ]
    types = unify([one.schema for one in groups])
    chosen = cast_to(groups[0], types)
    for one in groups[1:]:
        other = cast_to(one, types)
        later = _is_later(other, chosen)
        chosen = pa.table({name: pc.if_else(later, other[name], chosen[name]) for name in types})
    moment = pc.coalesce(chosen[ORDER], chosen[ARRIVED])
    delay = pc.divide(
        pc.cast(pc.subtract(moment.cast(pa.int64()), table["request_time"].cast(pa.int64())), pa.float64()),
        1e6,
    )
    own = [name for name in table.column_names if not name.startswith("__")]
    made = table.select(own).append_column(label, chosen[LABEL])
    made = made.append_column("label_time", moment).append_column("label_delay", delay)
    return made if unlabelled else made.filter(pc.is_valid(chosen[LABEL]))


def _is_later(one: pa.Table, other: pa.Table) -> pa.ChunkedArray:
    first, second = (pc.coalesce(table[ORDER], table[ARRIVED]) for table in (one, other))
    later = pc.fill_null(pc.greater(first, second), False)
    return pc.and_(pc.is_valid(one[LABEL]), pc.or_(later, pc.is_null(other[LABEL])))


def read_spec(path: Any, options: Mapping[str, Any], root: str) -> ray.data.Dataset:
    """The dataset of `reader: captured`: `path` is a model's name below `root`, or a folder such as
    s3://bucket/captures/flights. Options: since, until, version, label (its column's name), labels (required, the
    default; optional; none)."""
    if not isinstance(path, str) or not path:
        raise SpecError(
            "reader captured needs path: the name of a served model, or the folder of its captures"
        )
    known = ("since", "until", "version", "label", "labels")
    for name in options:
        if name not in known:
            raise SpecError(f"Reader 'captured': {unknown_name('option', name, known)}")
    labels = options.get("labels", "required")
    if labels not in ("required", "optional", "none"):
        raise SpecError(unknown_name("labels", labels, ("required", "optional", "none")))
    folder, _, model = path.rstrip("/").rpartition("/")
    store = CaptureStore(folder or root)
    wanted = Wanted(*(str(options.get(name) or "") for name in ("since", "until", "version")))
    if labels == "none":
        return read_captured(store, model, wanted)
    label = str(options.get("label", LABEL))
    return joined_labels(store, model, wanted, label=label, unlabelled=labels == "optional")
