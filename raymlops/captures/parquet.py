"""Tables as Parquet files in memory, with what a reader must know of a file among its metadata."""

import io
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq


def encode(table: pa.Table, told: Mapping[str, str] | None = None) -> bytes:
    """A file with `told` added to its metadata."""
    added = {key.encode(): value.encode() for key, value in (told or {}).items()}
    metadata = {**(table.schema.metadata or {}), **added}
    output = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata or None), output, compression="zstd")
    return output.getvalue()
