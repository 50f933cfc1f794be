"""Writes scored rows as CSV or JSON lines, in Ray Data's tasks. Values that a format cannot hold are refused; nothing
is rounded."""

from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from ray.data.block import BlockAccessor
from ray.data.datasource import BlockBasedFileDatasink

from raymlops.errors import DataError


class TextFiles(BlockBasedFileDatasink):  # type: ignore[misc]
    """Files in a folder, one per block; `rows` is their number once all is written."""

    def __init__(self, folder: str, ending: str) -> None:
        super().__init__(folder, file_format=ending)
        self._write = WRITERS[ending]
        self.rows = 0

    def write_block_to_file(self, block: BlockAccessor, file: BinaryIO) -> None:
        self._write(block.to_arrow(), file)

    def on_write_complete(self, write_result: Any) -> None:
        self.rows = write_result.num_rows
        super().on_write_complete(write_result)


def require_flat(columns: Iterable[tuple[str, pa.DataType]]) -> None:
    """Raises DataError for columns that CSV cannot hold."""
    wrong = [
        f"{name!r} ({'lists' if pa.types.is_nested(kind) else kind})"
        for name, kind in columns
        if not _is_flat(kind)
    ]
    if wrong:
        raise DataError(
            f"CSV cannot hold {', '.join(wrong)}; choose --format jsonl or parquet; --keep says which columns of "
            "the table are kept"
        )


def _is_flat(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return not (pa.types.is_nested(kind) or isinstance(kind, pa.ExtensionType) or pa.types.is_binary(kind))


def write_csv(table: pa.Table, file: BinaryIO) -> None:
    require_flat((field.name, field.type) for field in table.schema)
    flat = pa.table(
        {
            name: column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
            for name, column in zip(table.column_names, table.columns, strict=True)
        }
    )
    pyarrow.csv.write_csv(flat, file)


def write_lines(table: pa.Table, file: BinaryIO) -> None:
    """NaN becomes null, as in answers over HTTP."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        while pa.types.is_nested(column.type) and not pa.types.is_struct(column.type):
            column = pc.list_flatten(column)
        if pa.types.is_floating(column.type) and pc.any(pc.is_inf(column)).as_py():
            raise DataError(
                f"JSON cannot hold the infinite numbers of column {name!r}; choose --format parquet"
            )
    options = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
    for row in table.to_pylist():
        try:
            file.write(orjson.dumps(row, default=_to_json, option=options))
        except orjson.JSONEncodeError as error:
            raise (error.__cause__ if isinstance(error.__cause__, DataError) else error) from None


def _to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise DataError("JSON cannot hold bytes that are not text; choose --format parquet") from None
    return value.tolist() if hasattr(value, "tolist") else str(value)


WRITERS: dict[str, Callable[[pa.Table, BinaryIO], None]] = {"csv": write_csv, "jsonl": write_lines}
