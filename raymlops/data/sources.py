"""Reads a table by its spec: spec -> ray Dataset, with joins, filter and derived columns. Does not check contracts."""

import contextlib
import glob
import importlib
import importlib.util
import logging
import pathlib
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pyarrow as pa
import pyarrow.csv
import ray.data
from fsspec.implementations.arrow import ArrowFSWrapper
from ray.data.expressions import monotonically_increasing_id

from raymlops import locations
from raymlops.captures.store import find_root
from raymlops.conversions.conversion import TYPES
from raymlops.data import (
    captured,
    column_expressions,
    csv_values,
    image_decoding,
    joins,
    json_values,
    row_keys,
)
from raymlops.errors import (
    ArtifactError,
    ColumnValueError,
    DataError,
    NotFoundError,
    SpecError,
    UserError,
    unknown_name,
)
from raymlops.settings import Settings
from raymlops.specs.dataset import CAPTURED, DatasetSpec, TableSpec

_CSV_OPTIONS = {
    "read_options": pyarrow.csv.ReadOptions,
    "parse_options": pyarrow.csv.ParseOptions,
    "convert_options": pyarrow.csv.ConvertOptions,
}


_IMAGES = 256
"""Rows of a block of decoded images."""


def configure() -> None:
    """Settings of Ray Data that every stage relies on; call once in a driver."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = (
        True  # statistics and training are reproducible only with ordered blocks
    )
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # else our errors arrive as text inside one of Ray's
    # Below critical, Ray prints tracebacks of errors that are raised anyway.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def read_dataset(spec: DatasetSpec, *, keyed: bool = False) -> ray.data.Dataset:
    """The table with its joins, filter and derived columns; lazy, except that small joined tables are
    read. With `keyed`, each row carries its key (`row_keys`), which splits go by."""
    dataset = read_table(spec)
    if spec.limit is not None:
        dataset = dataset.limit(spec.limit)
    if keyed:
        dataset = dataset.with_column(row_keys.POSITION, monotonically_increasing_id())
        dataset = dataset.map_batches(
            row_keys.add_keys, batch_format="pyarrow", batch_size=None, zero_copy_batch=True
        )
    for join in spec.joins:
        dataset = joins.join_table(dataset, read_table(join.table), join)
    if spec.where is not None or spec.derive:
        dataset = dataset.map_batches(
            derive_columns,
            batch_format="pyarrow",
            batch_size=None,
            zero_copy_batch=True,
            fn_kwargs={"where": spec.where, "derive": dict(spec.derive)},
        )
    if spec.images:
        dataset = dataset.map_batches(
            image_decoding.decode_columns,
            batch_format="pyarrow",
            batch_size=_IMAGES,
            zero_copy_batch=True,
            fn_kwargs={"images": dict(spec.images)},
        )
    return dataset


def read_table(spec: TableSpec) -> ray.data.Dataset:
    """One table read by a reader of ray.data. Raises NotFoundError, DataError or SpecError before any task starts."""
    options = {key: _to_csv_option(spec.reader, key, value) for key, value in spec.options.items()}
    if ":" in spec.reader:
        return _read_by_own(spec.reader, options)
    if spec.reader == CAPTURED:
        return captured.read_spec(spec.path, options, find_root(Settings.from_env().storage_path))
    read = getattr(ray.data, f"read_{spec.reader.removeprefix('read_')}")
    try:
        if spec.path is None:
            return read(**options)
        paths, filesystem = locate(spec.path)
        if spec.reader == "csv":
            options.setdefault("convert_options", pyarrow.csv.ConvertOptions(strings_can_be_null=True))
        if filesystem is not None:
            options["filesystem"] = filesystem
        style = options.get("partitioning")
        if isinstance(
            style, (str, dict)
        ):  # as YAML can express it: hive, or {style: dir, field_names: [label]}
            given = {"style": style} if isinstance(style, str) else style
            options["partitioning"] = ray.data.datasource.Partitioning(**given)
        with reading(spec):
            return read(paths, **options)
    except TypeError as error:
        raise SpecError(f"Reader {spec.reader!r} does not take these options: {error}") from None


def _read_by_own(reader: str, options: dict[str, Any]) -> ray.data.Dataset:
    dataset = load_attribute(reader)(**options)
    if not isinstance(dataset, ray.data.Dataset):
        raise SpecError(f"Reader {reader!r} returned {type(dataset).__name__}; expected a ray.data.Dataset")
    return dataset


def locate(path: str | tuple[str, ...]) -> tuple[list[str], Any]:
    """Paths in the form that a reader takes, and their filesystem, pyarrow's or fsspec's (None: pyarrow finds it).
    Raises if a path does not exist."""
    given = [path] if isinstance(path, str) else list(path)
    located = [_expand_package(one) for one in given]
    if any("::" in one or "://" in one for one in located):
        return _open_all(located)
    located = [file for one in located for file in _expand_pattern(one)]
    for one in located:
        file = pathlib.Path(one)
        _require(bool(one) and _exists(file), one)
        if not file.is_file() and not file.is_dir():
            raise DataError(f"{one!r} is neither a file nor a folder; write its rows to a file first")
        if file.is_file() and file.stat().st_size == 0:
            raise DataError(f"File {one!r} is empty; expected a table with at least one row")
    return located, None


def _expand_pattern(path: str) -> list[str]:
    """The files that a pattern such as data/*.csv matches, in order; the path itself if it is none."""
    if not glob.has_magic(path) or _exists(pathlib.Path(path)):
        return [path]
    found = sorted(glob.glob(path, recursive=True))
    _require(bool(found), path)
    return found


def _open_all(given: Sequence[str]) -> tuple[list[str], Any]:
    paths = []
    for one in given:
        try:
            filesystem, path = locations.open_location(one)
            _require(filesystem.exists(path), one)
        except OSError as error:
            raise DataError(f"Cannot read {one!r}: {locations.explain(error)}") from None
        paths.append(path)
    # Ray Data knows which errors of pyarrow's filesystems are transient, and retries.
    return paths, filesystem.fs if isinstance(filesystem, ArrowFSWrapper) else filesystem


def _exists(file: pathlib.Path) -> bool:
    try:
        return file.exists()
    except (OSError, ValueError):  # such as a name that is too long
        return False


def _require(exists: bool, path: str) -> None:
    if not exists:
        seen = "" if locations.is_remote(path) else f" (seen from {pathlib.Path.cwd()})"
        raise NotFoundError(f"No file or folder {path!r}; check dataset.path{seen}")


def _expand_package(path: str) -> str:
    return re.sub(r"package://([A-Za-z0-9_.]+)", lambda match: _find_package(match[1], path), path)


def _find_package(name: str, path: str) -> str:
    """The folder of an installed package. Imports nothing: finding a subpackage would import its parent."""
    first, *inner = name.split(".")
    try:
        found = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        found = None
    for folder in (found.submodule_search_locations if found else None) or ():
        place = pathlib.Path(folder, *inner)
        if all(inner) and place.is_dir():
            return str(place)
    raise NotFoundError(
        f"No package {name!r} for path {path!r}; install it: pip install {shlex.quote(first)}"
    )


def _to_csv_option(reader: str, key: str, value: Any) -> Any:
    if reader != "csv" or key not in _CSV_OPTIONS or not isinstance(value, dict):
        return value
    value = dict(value)
    if key == "convert_options":
        value.setdefault("strings_can_be_null", True)
        types = value.get("column_types", {})
        for column, name in types.items():
            if name not in TYPES:
                raise SpecError(f"column_types.{column}: {unknown_name('type', name, TYPES)}")
        value["column_types"] = {column: TYPES[name] for column, name in types.items()}
    try:
        return _CSV_OPTIONS[key](**value)
    except (TypeError, ValueError) as error:
        raise SpecError(f"dataset.options.{key}: {error}") from None


def load_attribute(path: str) -> Callable[..., Any]:
    """`module.path:name` -> the object. Raises SpecError if it cannot be imported."""
    module, _, name = path.partition(":")
    try:
        found = importlib.import_module(module)
    except Exception as error:  # of the user's own module
        raise SpecError(f"Cannot import {path!r}: {type(error).__name__}: {error}") from error
    if not hasattr(found, name):
        known = [key for key in vars(found) if not key.startswith("_")]
        raise SpecError(unknown_name(f"name in module {module!r}:", name, known))
    return cast("Callable[..., Any]", getattr(found, name))


def derive_columns(table: pa.Table, where: str | None, derive: dict[str, str]) -> pa.Table:
    """Filter by an expression, then add columns; expressions see only the columns that they name.

    Raises DataError if one cannot be evaluated.
    """
    if table.num_columns == 0:
        return table
    limit = column_expressions.LARGEST_TEXTS + 9 * table.nbytes
    if where is not None:
        table = table.filter(column_expressions.evaluate_condition(table, where, "where"))
    for name, expression in derive.items():
        room = max(0, limit - table.nbytes)  # for the texts of all columns together
        values = column_expressions.evaluate(table, expression, f"derive.{name}", room)
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, values)
        else:
            table = table.append_column(name, values)
    return table


@contextlib.contextmanager
def reading(spec: TableSpec) -> Iterator[None]:
    """Turn an error that Ray Data raises from a task into one sentence with the source and the root cause."""
    try:
        yield
    except Exception as error:
        cause = find_cause(error)
        # Ray's wrapper of one of these is also an instance of it, but its text has the worker's whole traceback.
        if isinstance(cause, ColumnValueError):
            raise ColumnValueError(str(cause), cause.column) from None
        if isinstance(cause, (UserError, ArtifactError)):
            raise type(cause)(_without_advice(str(cause))) from None
        if isinstance(cause, KeyError) and (twice := re.search(r'Field "(.*)" exists \d+ times', str(cause))):
            raise DataError(
                f"Column {twice[1]!r} occurs twice in {spec.path or spec.reader!r}; give each column a name of its own"
            ) from None
        text = _without_advice(str(cause))
        if isinstance(cause, TypeError) and "unexpected keyword" in text:
            raise SpecError(
                f"Reader {spec.reader!r} does not take these options: {text}; see dataset.options"
            ) from None
        of_reader = "Failed to read " in str(error)  # Ray's words, whatever the reader's own error is
        if of_reader or isinstance(cause, (pa.ArrowException, OSError, ValueError, UnicodeDecodeError)):
            found = _find_mistake(spec, text)
            is_plain = found != text or isinstance(cause, (pa.ArrowException, OSError, ValueError))
            kind, text = "" if is_plain else f"{type(cause).__name__}: ", " ".join(found.split())
            raise DataError(
                f"Cannot read {spec.path or spec.reader!r} as {spec.reader}: {kind}{_with_remedy(text)}"
            ) from error
        raise


def _without_advice(text: str) -> str:
    """The error text without the advice on retries that Ray Data adds to every error of a task."""
    return re.sub(r"\s*Failed to [\w ]+ after \d+/\d+ attempts? \(total backoff.*", "", text, flags=re.DOTALL)


REMEDY = "; mend that row"
_REMEDIES = (
    ("; ", ""),  # it has one
    ("Expected \\d+ columns", REMEDY + ", or set dataset.options.parse_options: delimiter, quote_char"),
    (
        "straddl",
        "; a row is longer than a block, or a quote is never closed: set dataset.options.read_options.block_size",
    ),
    ("UTF-?8|codec can't decode", "; set dataset.options.read_options.encoding, such as latin-1"),
    ("Empty CSV file", "; remove the empty file"),
    ("incompatible types", "; write the files anew with one type of the column"),
    ("inflate|decompress|[Cc]ompressed", "; copy the file again, or give it the ending of its compression"),
    ("", "; write or copy the file again, or set dataset.reader to what it is"),
)
"""Part of an error of a reader -> what to do; the first that occurs."""


def _with_remedy(text: str) -> str:
    text = text[:400].rstrip(".")
    return text + next(remedy for part, remedy in _REMEDIES if re.search(part, text))


def _find_mistake(spec: TableSpec, text: str) -> str:
    """The error text of a reader, or what is wrong in a file where that says more."""
    if spec.reader != "json":
        return _find_csv_mistake(spec, text)
    try:
        paths, filesystem = locate(spec.path or ())
    except UserError:
        return text
    if filesystem is not None:
        return text
    found = [
        file for one in map(pathlib.Path, paths) for file in ([one] if one.is_file() else one.rglob("*"))
    ]
    return json_values.find_mistake(sorted(found)[:200]) or text


def _find_csv_mistake(spec: TableSpec, text: str) -> str:
    """What is wrong in a local CSV file: Ray Data's error names the file, but not the reason."""
    named = re.search(r"Failed to read CSV file: (.+?)\. Please", text)
    if named is None:
        return text
    given = {key: value for key, value in spec.options.items() if key in _CSV_OPTIONS}
    try:
        options = {key: _to_csv_option("csv", key, value) for key, value in given.items()}
        with pyarrow.csv.open_csv(named[1], **options) as reader:
            for _ in reader:
                pass
    except pa.ArrowInvalid as error:
        csv_values.refuse_value(
            named[1],
            {key: options[key] for key in ("read_options", "parse_options") if key in options},
            str(error),
        )
        return str(error)
    except (OSError, SpecError):  # a remote file, or one that was read with another table's options
        return text
    return text


def find_cause(error: BaseException) -> BaseException:
    """The innermost exception that Ray wrapped."""
    while True:
        inner = getattr(error, "cause", None) or error.__cause__
        if not isinstance(inner, BaseException) or inner is error:
            return error
        error = inner
