"""Reads a table that no spec describes yet: finds the options of its reader, and confirms them by a pass over all rows.

The types of a CSV file are inferred from its first megabyte, as by every reader; where a later row contradicts them,
the table is read again as text, and the types are those that all rows keep.
"""

import codecs
import dataclasses
import io
import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.csv

from raymlops.conversions.conversion import TYPES
from raymlops.data import sources
from raymlops.data.profiling import csv_dialect, summaries, table_scan, time_columns
from raymlops.data.profiling.csv_dialect import NULLS, Dialect
from raymlops.data.profiling.files import TableFiles
from raymlops.errors import ColumnValueError, DataError, SpecError
from raymlops.specs.dataset import TableSpec
from raymlops.table_profile import ColumnProfile, TableProfile

_ROW_BYTES = 40
_UNPACKED = 5
"""Bytes per byte of a compressed file, about."""
_ATTEMPTS = 5
_NUMERIC = ("integer", "number", "boolean", "nothing")
_TYPE_NAMES = {
    "integer": "integer", "number": "number", "boolean": "boolean", "text": "string", "timestamp": "timestamp",
}  # fmt: skip
_CODES = re.compile(r"0\d+|\d{17,}")
"""Digits that are no number: those before them, or most of them, would be lost."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """A table that was read in full, and how."""

    table: TableSpec
    profile: TableProfile
    sample: pa.Table
    unsure: tuple[str, ...] = ()


def read_profile(files: TableFiles, options: Mapping[str, Any]) -> Reading:
    """Find how it is read, and profile it; `options` are those that the caller gave. Raises DataError for what no
    option reads, with the remedy."""
    source = files.path if isinstance(files.path, str) else files.path[0]
    if files.reader != "csv":
        table = TableSpec(reader=files.reader, path=files.path, options=_join(files.options, options))
        profile, sample = _scan(table, source, max(1, files.size // _ROW_BYTES), frozenset())
        _require_columns(profile)
        return Reading(table, profile, sample)
    return _read_csv(files, options, source)


def _require_columns(profile: TableProfile) -> None:
    if all(column.kind in ("other", "nothing") for column in profile.columns):
        held = ", ".join(f"{column.name[:40]}: {column.stored[:60]}" for column in profile.columns[:5])
        raise DataError(
            f"{profile.source} has no column of numbers, texts or times ({held}); expected a value in each row and "
            'column: JSON has one object a row, as in [{"a": 1}, {"a": 2}], which pandas writes by '
            "to_json(orient='records')"
        )


def _join(own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a reader; those that were given count before those that were found."""
    joined = dict(own)
    for key, value in given.items():
        inner = joined.get(key)
        joined[key] = {**inner, **value} if isinstance(inner, dict) and isinstance(value, Mapping) else value
    return joined


def _scan(
    table: TableSpec, source: str, expected: int, apart: frozenset[str]
) -> tuple[TableProfile, pa.Table]:
    with sources.reading(table):
        dataset = sources.read_table(table)
        found = table_scan.scan_table(dataset, source, expected=expected, apart=apart)
    profile, sample = table_scan.finish(found, source)
    return time_columns.find_times(profile, sample), sample


def _read_csv(files: TableFiles, given: Mapping[str, Any], source: str) -> Reading:
    head = files.head
    if "parse_options" in given or "read_options" in given:
        head = _decode_as_asked(head, given)
    dialect = _find_dialect(head, files, given, source)
    texts = _read_head(dialect, head, files.whole, given, as_text=True)
    typed = _read_head(dialect, head, files.whole, given)
    forced = {name: "string" for name in typed.column_names if _holds_codes(texts, typed, name)}
    rows_ahead = max(1, len(head) // max(typed.num_rows, 1))
    expected = files.size * (_UNPACKED if files.compression else 1) // rows_ahead
    apart = frozenset(_find_apart(typed))
    as_text = dict(forced)
    for _ in range(_ATTEMPTS):
        table = _to_table(files, dialect, given, as_text)
        try:
            profile, sample = _scan(table, source, expected, apart)
            break
        except DataError as error:
            dialect, as_text = _adapt(dialect, as_text, typed, error)
    else:
        profile, sample = _scan(table, source, expected, apart)
    final = _settle(files, dialect, given, typed, profile, forced, head, changed=as_text != forced)
    return Reading(final, profile, sample, dialect.unsure)


def _decode_as_asked(head: bytes, given: Mapping[str, Any]) -> bytes:
    """In UTF-8, so that the rest of the dialect can be found."""
    encoding = (given.get("read_options") or {}).get("encoding", "utf-8")
    try:
        codecs.lookup(str(encoding))
    except LookupError:
        raise SpecError(
            f"--option read_options: Unknown encoding {encoding!r}; such as latin-1 or utf-16"
        ) from None
    return head.decode(encoding, errors="replace").encode() if encoding != "utf-8" else head


def _find_dialect(head: bytes, files: TableFiles, given: Mapping[str, Any], source: str) -> Dialect:
    separator = (given.get("parse_options") or {}).get("delimiter")
    found = csv_dialect.find_dialect(head, whole=files.whole, source=source, separator=separator)
    read = given.get("read_options") or {}
    if "column_names" in read or "autogenerate_column_names" in read:
        numbered = bool(read.get("autogenerate_column_names"))
        names = read.get("column_names") or (found.names if numbered or found.header else None)
        if names is None:  # the first line names the columns, though it looks like data
            found = csv_dialect.find_dialect(
                head, whole=files.whole, source=source, separator=separator, header=True
            )
        else:
            found = dataclasses.replace(found, names=tuple(names), header=False, renamed=False, unsure=())
    return found


def _to_table(
    files: TableFiles,
    dialect: Dialect,
    given: Mapping[str, Any],
    types: Mapping[str, str],
    nulls: tuple[str, ...] = (),
) -> TableSpec:
    options = _join(_join(files.options, dialect.to_options()), given)
    convert = dict(options.get("convert_options") or {})
    if nulls:
        convert.setdefault("null_values", [*NULLS, *nulls])
    if types:
        convert["column_types"] = {**types, **convert.get("column_types", {})}
    if convert:
        options["convert_options"] = convert
    return TableSpec(reader="csv", path=files.path, options=options)


def _read_head(
    dialect: Dialect,
    head: bytes,
    whole: bool,
    given: Mapping[str, Any],
    *,
    as_text: bool = False,
    nulls: tuple[str, ...] = (),
) -> pa.Table:
    """The first rows, with the types that a reader infers."""
    options = _join(dialect.to_options(), given)
    read = dict(options.get("read_options") or {})
    if dialect.encoding in ("utf-16-le", "utf-16-be", "utf-16", "utf-32") and not whole:
        head = head[: len(head) - len(head) % 4]
    text = head.decode(read.pop("encoding", None) or "utf-8", errors="replace")
    if not whole:
        text = text[: text.rfind("\n") + 1] or text
    convert = dict(options.get("convert_options") or {})
    convert.setdefault("strings_can_be_null", True)
    types = convert.pop("column_types", {})
    convert["column_types"] = (
        dict.fromkeys(dialect.names, pa.string())
        if as_text
        else {name: TYPES[kind] for name, kind in types.items() if kind in TYPES}
    )
    if nulls:
        convert.setdefault("null_values", [*NULLS, *nulls])
    try:
        return pyarrow.csv.read_csv(
            io.BytesIO(text.encode()),
            read_options=pyarrow.csv.ReadOptions(**read, block_size=2**26),
            parse_options=pyarrow.csv.ParseOptions(
                **(options.get("parse_options") or {}), invalid_row_handler=lambda row: "skip"
            ),
            convert_options=pyarrow.csv.ConvertOptions(**convert),
        )
    except TypeError as error:
        raise SpecError(f"--option: the reader does not take it: {error}; see dataset.options") from None
    except (pa.ArrowException, ValueError) as error:
        raise DataError(
            f"Cannot read {dialect.names[:3]} ...: {' '.join(str(error).split())[:300]}"
        ) from None


def _holds_codes(texts: pa.Table, typed: pa.Table, name: str) -> bool:
    """Whether a column that would be read as numbers has codes: zeros at the front, or more digits than a number."""
    if not (pa.types.is_integer(typed[name].type) or pa.types.is_floating(typed[name].type)):
        return False
    values = texts[name].drop_null().unique().to_pylist()[:5000]
    return any(_CODES.fullmatch(value) for value in values) and all(value.isdigit() for value in values)


def _find_apart(rows: pa.Table) -> list[str]:
    """Columns that tell rows apart: whole numbers and texts that repeat in almost none of the first rows."""
    found = []
    for name in rows.column_names:
        kind = summaries.kind_of(rows[name].type)
        if kind in ("integer", "text") and rows.num_rows > 20:
            column = rows[name].drop_null()
            if len(column) and len(column.unique()) > 0.99 * len(column):
                found.append(name)
    return found


def _adapt(
    dialect: Dialect, as_text: dict[str, str], typed: pa.Table, error: DataError
) -> tuple[Dialect, dict[str, str]]:
    """What to try next after an error of the reader. Raises it, with a remedy, if there is nothing."""
    text = str(error)
    if "UTF8" in text or "utf-8" in text:
        if dialect.encoding == "utf-8":
            return dataclasses.replace(dialect, encoding="cp1252"), as_text
        if dialect.encoding == "cp1252":
            return dataclasses.replace(dialect, encoding="latin-1"), as_text
    if dialect.encoding == "cp1252" and ("charmap" in text or "codec" in text):
        return dataclasses.replace(dialect, encoding="latin-1"), as_text
    if isinstance(error, ColumnValueError) or "conversion error" in text:
        named = error.column if isinstance(error, ColumnValueError) else _column_of(text, typed)
        numeric = [
            field.name
            for field in typed.schema
            if summaries.kind_of(field.type) in _NUMERIC or field.name == named
        ]
        wider = {**as_text, **dict.fromkeys(numeric, "string")}
        if wider != as_text:
            return dialect, wider
        everything = dict.fromkeys(typed.column_names, "string")
        if everything != as_text:
            return dialect, everything
    if not dialect.multiline and re.search(r"Expected \d+ columns|straddl", text):
        return dataclasses.replace(dialect, multiline=True), as_text
    if re.search(r"Expected \d+ columns", text):
        raise DataError(
            f"{text.partition(sources.REMEDY)[0]}{sources.REMEDY}, or tell how the file is written, such as --option "
            f"'parse_options={{delimiter: \";\"}}' or --option 'parse_options={{quote_char: false}}'"
        ) from None
    raise error


def _column_of(text: str, typed: pa.Table) -> str:
    found = re.search(r"In CSV column #(\d+)", text)
    place = int(found[1]) if found else -1
    return typed.column_names[place] if 0 <= place < typed.num_columns else ""


def _settle(
    files: TableFiles,
    dialect: Dialect,
    given: Mapping[str, Any],
    typed: pa.Table,
    profile: TableProfile,
    forced: Mapping[str, str],
    head: bytes,
    *,
    changed: bool,
) -> TableSpec:
    """The options with which a reader finds the types that all rows keep."""
    words = tuple(
        sorted({word for column in profile.columns for word in _missing_words(column)} - set(NULLS))
    )
    if words:
        typed = _read_head(dialect, head, files.whole, given, nulls=words)
    types = dict(forced)
    for column in profile.columns:
        if column.name not in typed.column_names or column.name in types or column.kind not in _TYPE_NAMES:
            continue
        first = summaries.kind_of(typed[column.name].type)
        several = changed and (len(files.files) > 1 or not files.whole) and column.kind in ("number", "text")
        if first != column.kind or " | " in column.stored or (several and first != "text"):
            types[column.name] = _TYPE_NAMES[column.kind]
    return _to_table(files, dialect, given, types, words)


def _missing_words(column: ColumnProfile) -> tuple[str, ...]:
    """Of a column of numbers."""
    if column.text is None or column.kind not in ("integer", "number"):
        return ()
    return tuple(word for word in column.text.absent)
