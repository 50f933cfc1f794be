"""Lists and shows captured requests, and traces one to the version, the data and the code that answered it. Changes
nothing, and starts no cluster."""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raymlops.captures.rows import cast_to, unify
from raymlops.captures.selection import is_in_share
from raymlops.captures.store import CapturedFile, CaptureStore, find_root
from raymlops.errors import NotFoundError, RaymlopsError
from raymlops.settings import Settings

_THREADS = 16
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class CapturedDay:
    """What is captured of a version on a day."""

    model: str
    day: str
    version: str
    files: int
    rows: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Traced:
    """A captured request: its rows, with all their columns; `lineage` has the facts of each version that answered."""

    model: str
    version: str
    source: str
    time: str
    rows: list[dict[str, Any]]
    lineage: dict[str, dict[str, str]]


def find_store(settings: Settings, path: str = "") -> CaptureStore:
    """The store below a path, or that of the storage path."""
    return CaptureStore(path or find_root(settings.storage_path))


def list_captured(store: CaptureStore, model: str = "") -> list[CapturedDay]:
    """By model, day and version. Raises NotFoundError for a model of which nothing is captured."""
    if model:
        store.require_model(model)
    files = [file for name in ([model] if model else store.list_models()) for file in store.list_files(name)]
    counted: dict[tuple[str, str, str], list[int]] = {}
    rows = map_files(store, files, lambda opened: int(opened.metadata.num_rows))
    for file, count in zip(files, rows, strict=True):
        sums = counted.setdefault((file.model, file.day, file.version), [0, 0, 0])
        sums[:] = [sums[0] + 1, sums[1] + (count or 0), sums[2] + file.size]
    return [CapturedDay(*place, *sums) for place, sums in counted.items()]


def map_files(
    store: CaptureStore, files: Sequence[CapturedFile], call: Callable[[pq.ParquetFile], T]
) -> list[T | None]:
    """The call's result for each file, in order; None for one that was deleted meanwhile."""

    def run(file: CapturedFile) -> T | None:
        try:
            with store.open(file.path) as opened:
                return call(opened)
        except FileNotFoundError:
            return None

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(run, files))


def show_rows(
    store: CaptureStore, model: str, *, since: str = "", until: str = "", version: str = "", limit: int = 10
) -> pa.Table:
    """The latest captured rows, the latest first. Raises NotFoundError."""
    store.require_model(model)
    files = store.list_files(model, since=since, until=until, version=version)
    tables: list[pa.Table] = []
    days: set[str] = set()
    for file in reversed(files):
        if sum(table.num_rows for table in tables) >= limit and file.day not in days:
            break
        days.add(file.day)
        tables += [one for one in map_files(store, [file], lambda opened: opened.read()) if one is not None]
        if len(tables) > 1:  # of the days that are read, the latest rows
            tables = [_take_latest(tables, limit)]
    if not tables:
        raise NotFoundError(f"Nothing is captured of {model!r} on these days and of this version")
    return _take_latest(tables, limit)


def _take_latest(tables: Sequence[pa.Table], limit: int) -> pa.Table:
    whole = _concat(tables)
    return whole.take(pc.sort_indices(whole, [("time", "descending"), ("row", "ascending")])[:limit])


def _concat(tables: Sequence[pa.Table]) -> pa.Table:
    types = unify([table.schema for table in tables])
    return pa.concat_tables([cast_to(table, types) for table in tables])


def trace_request(
    store: CaptureStore,
    request_id: str,
    settings: Settings,
    *,
    model: str = "",
    since: str = "",
    until: str = "",
) -> list[Traced]:
    """Every answer to requests with this id: which version gave it, and from what that version was made.

    Raises NotFoundError for a request that was not captured, with what was looked at.
    """
    if model:
        store.require_model(model)
    models = [model] if model else store.list_models()
    files = [file for name in models for file in store.list_files(name, since=since, until=until)]

    def find(opened: pq.ParquetFile) -> pa.Table:
        ids = opened.read(columns=["request_id", "log_id"])
        wanted = pc.or_kleene(pc.equal(ids["request_id"], request_id), pc.equal(ids["log_id"], request_id))
        wanted = pc.fill_null(wanted, False)
        return opened.read().filter(wanted) if pc.any(wanted).as_py() else None

    found = [table for table in map_files(store, files, find) if table is not None]
    if not found:
        raise NotFoundError(_explain_absence(store, request_id, models, files))
    answers: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in sorted(_concat(found).to_pylist(), key=lambda row: (row["time"], row["row"])):
        answers.setdefault((row["model"], row["version"], row["source"], row["time"].isoformat()), []).append(
            row
        )
    return [
        Traced(name, version, source, time, rows, _trace_source(source, settings))
        for (name, version, source, time), rows in answers.items()
    ]


def _explain_absence(
    store: CaptureStore, request_id: str, models: Sequence[str], files: Sequence[CapturedFile]
) -> str:
    told = f"Request {request_id!r} was not captured"
    if not files:
        return f"{told}: nothing is captured in {store.root}; a serving spec captures with: capture: {{share: 1}}"
    metadata = map_files(store, files[-1:], lambda opened: dict(opened.schema_arrow.metadata or {}))[0] or {}
    share = float(metadata.get(b"raymlops.share", b"1"))
    days = sorted({file.day for file in files})
    looked = f"{len(files)} files of {', '.join(models)}, {days[0]} to {days[-1]}, do not have it"
    if not is_in_share(request_id, share):
        return f"{told}: {looked}; the share is {share:g}, and this id is not in it"
    wait = metadata.get(b"raymlops.file_s", b"60").decode()
    return (
        f"{told}: {looked}. It had no rows, was not answered with 200, not sent here, is older than what is kept, or "
        f"is not yet written, which takes up to {float(wait):g} s"
    )


def _trace_source(source: str, settings: Settings) -> dict[str, dict[str, str]]:
    """Facts of each version in the source of an answer; of a file there are none but its digest."""
    from raymlops.lifecycle.govern.lineage import trace_version  # imports MLflow

    lineage: dict[str, dict[str, str]] = {}
    for one in filter(None, source.split(", ")):
        if not one.startswith("models:/"):
            lineage[one] = {
                "file": one,
                "note": "not a version of the registry: nothing is recorded of its data",
            }
            continue
        try:
            lineage[one] = trace_version(one, settings)
        except RaymlopsError as error:
            lineage[one] = {"version": one, "note": str(error)}
    return lineage
