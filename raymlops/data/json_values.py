"""Finds what is wrong in a JSON file: Ray Data's reader names neither column nor row. Reads local files only."""

import json
import pathlib
import re
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.json

_MISTAKE = re.compile(r"JSON parse error: (?:Column\((?P<column>.*)\) )?(?P<what>.*?)\.? in row (?P<row>\d+)")
_LARGEST = 2**28
"""Bytes of a file that is read again."""
_FORM = 'expected one object a row, as in [{"a": 1}, {"a": 2}], or as lines {"a": 1}'


def find_mistake(files: Iterable[pathlib.Path]) -> str:
    """A sentence on the first mistake, with the remedy; empty if none is found."""
    for file in files:
        if not file.is_file() or file.stat().st_size > _LARGEST:
            continue
        try:
            with pa.input_stream(str(file), compression="detect") as stream:
                data = stream.read()
        except (OSError, pa.ArrowException):
            continue
        found = _find_in_list(data) if data.lstrip()[:1] == b"[" else _find_in_lines(data)
        if found:
            return f"{file}: {found}"
    return ""


def _find_in_list(data: bytes) -> str:
    try:
        rows = json.loads(data)
    except ValueError as error:
        held = "" if b"\n[" not in data.strip() else f"; {_FORM}"
        return f"it is no JSON: {error}{held or '; write it again'}"
    other = next((place for place, row in enumerate(rows) if not isinstance(row, dict)), None)
    return "" if other is None else f"row {other + 1:,} is a {type(rows[other]).__name__}; {_FORM}"


def _find_in_lines(data: bytes) -> str:
    options = pyarrow.json.ReadOptions(block_size=max(2**20, len(data) + 1))  # rows are counted by block
    try:
        pyarrow.json.read_json(pa.BufferReader(data), read_options=options)
    except pa.ArrowInvalid as error:
        found = _MISTAKE.search(str(error))
        if found is None:
            return f"{str(error).removeprefix('JSON parse error: ')}; {_FORM}"
        row, column = int(found["row"]) + 1, (found["column"] or "").strip("/")
        if found["column"] == "":
            return f"row {row:,} is no object; {_FORM}"
        if not column:
            return f"row {row:,} is no JSON ({found['what']}); mend or remove it"
        name = column.replace("/[]", "")
        return f"column {name!r} {found['what']} in row {row:,}; give it one type, and one place, in each row"
    return ""
