"""Finds the value of a CSV file that is not of the type of its column: pyarrow's reader takes the type from the first
rows, and names neither the column nor the row. Reads local files only."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.csv

from raymlops.errors import ColumnValueError

_MISTAKE = re.compile(
    r"In CSV column #(\d+): .*?CSV conversion error to (\S+): invalid value '(.*)'", re.DOTALL
)
_TYPES = {
    "double": "number", "float": "number", "int64": "integer", "bool": "boolean", "date32": "timestamp",
    "time32": "timestamp", "timestamp": "timestamp",
}  # fmt: skip


def refuse_value(file: str, options: Mapping[str, Any], text: str) -> None:
    """Raises ColumnValueError if the error text of the reader is of a value; `options` are those of the reader, for
    reading and parsing."""
    found = _MISTAKE.search(text)
    if found is None or not pathlib.Path(file).is_file():
        return
    kind = next((ours for arrow, ours in _TYPES.items() if found[2].startswith(arrow)), "string")
    value = found[3]
    name, row = _find_row(file, options, int(found[1]), value)
    raise ColumnValueError(
        f"Column {name!r} of {file} has {value[:80]!r} in row {row:,}, which is no {kind} as the rows before are; set "
        f"contract.columns.{name}.type: {kind} to leave such rows out, dataset.options.convert_options.null_values: "
        f"[{value[:80]!r}] to take it for missing, or convert_options.column_types: {{{name}: string}} to read texts",
        column=name,
    )


def _find_row(file: str, options: Mapping[str, Any], number: int, value: str) -> tuple[str, int]:
    """The name of a column by its number, and the first row, from 1 on, that has the value; 0 if none has."""
    with pyarrow.csv.open_csv(file, **options) as reader:
        name = reader.schema.names[number]
    rows = 0
    as_text = pyarrow.csv.ConvertOptions(column_types={name: pa.string()}, include_columns=[name])
    with pyarrow.csv.open_csv(file, **options, convert_options=as_text) as reader:
        for batch in reader:
            found = pa.compute.index(batch[0], value).as_py()
            if found >= 0:
                return name, rows + int(found) + 1
            rows += batch.num_rows
    return name, 0
