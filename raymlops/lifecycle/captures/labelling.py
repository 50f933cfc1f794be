"""Stores a file's labels beside the captured requests, and says how many of them have one. Trains nothing."""

import dataclasses

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from raymlops.captures.labels import LabelColumns, Stored, choose_columns, list_hashed, store_labels
from raymlops.captures.selection import require_secret, to_column
from raymlops.captures.store import CaptureStore
from raymlops.data import sources
from raymlops.errors import DataError
from raymlops.file_endings import guess_reader
from raymlops.lifecycle.captures.reading import map_files
from raymlops.settings import read_environment
from raymlops.specs.dataset import TableSpec


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Labels that were stored; `unknown` of them name requests that are not captured, None for labels by key."""

    stored: Stored
    columns: LabelColumns
    unknown: int | None

    def describe(self, model: str) -> list[str]:
        """In sentences."""
        stored, by = self.stored, self.columns.id or ", ".join(self.columns.key)
        state = "Stored" if stored.is_new else "Had already"
        lines = [f"{state} {stored.labels:,} labels of {model} (column {self.columns.label!r}, by {by})"]
        if stored.missing:
            lines.append(f"Left out {stored.missing:,} rows whose label, id or key is missing")
        if self.unknown:
            lines.append(
                f"{self.unknown:,} of them are of requests that are not captured, or not yet; they are kept, and join "
                "once they are"
            )
        return lines


def label_file(
    store: CaptureStore, model: str, file: str, columns: LabelColumns, reader: str = ""
) -> Labelled:
    """Read a file of labels (any that Ray Data reads) and store them. Raises NotFoundError, DataError, StorageError."""
    spec = TableSpec(reader=reader or guess_reader(file) or "parquet", path=file)
    store.require_model(model)
    with sources.reading(spec):
        names = sources.read_table(spec).columns() or []
        chosen = choose_columns(names, columns)
        if spec.reader == "csv" and chosen.id:  # an id of digits is no number
            spec = spec.model_copy(
                update={"options": {"convert_options": {"column_types": {chosen.id: "string"}}}}
            )
        blocks = [one for one in ray.get(sources.read_table(spec).to_arrow_refs()) if one.num_columns]
    if not blocks:
        raise DataError(f"{file!r} has no rows; expected labels")
    return store_table(store, model, pa.concat_tables(blocks, promote_options="permissive"), chosen)


def store_table(store: CaptureStore, model: str, table: pa.Table, columns: LabelColumns) -> Labelled:
    """The same of a table in memory, whose columns `choose_columns` chose."""
    files = store.list_files(model)
    hashed: tuple[str, ...] = ()
    secret = b""
    if columns.key and files:
        metadata = map_files(store, files[-1:], lambda one: dict(one.schema_arrow.metadata or {}))[0] or {}
        keys = [name for name in map(to_column, list_hashed(metadata)) if name in columns.key]
        if keys:
            variable = metadata.get(b"raymlops.secret", b"").decode()
            secret = require_secret(variable, read_environment().get(variable), f"Key column {keys[0]!r}")
            hashed = tuple(keys)
    stored = store_labels(store, model, table, columns, hashed, secret)
    unknown = None
    if columns.id:

        def read_ids(opened: pq.ParquetFile) -> pa.Array:
            return pc.unique(opened.read(columns=["request_id"])["request_id"])

        known = [one for one in map_files(store, files, read_ids) if one is not None]
        seen = pa.chunked_array(known, pa.string()) if known else pa.chunked_array([], pa.string())
        unknown = len(stored.ids) - int(pc.sum(pc.is_in(stored.ids, value_set=seen)).as_py() or 0)
    return Labelled(stored, columns, unknown)
