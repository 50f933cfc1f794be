"""The files behind a path, folder, pattern or URL: which reader takes them, how they are compressed, and their first
bytes. Reads no rows."""

import dataclasses
import os
import pathlib
import re
import zipfile
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.fs

from raymlops import locations
from raymlops.data import sources
from raymlops.errors import DataError, NotFoundError, unknown_name
from raymlops.file_endings import COMPRESSION_OF_ENDING, READER_OF_ENDING, is_hidden, split_ending

HEAD_BYTES = 2**20
_KNOWN_TO_RAY = ("gz", "bz2", "zst", "lz4", "br")
"""Endings by which Ray Data finds the compression itself."""
_TABLES = ("csv", "json", "parquet", "avro")
_MAGIC = (
    (b"PAR1", "parquet"),
    (b"Obj\x01", "avro"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bz2"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"PK\x03\x04", "zip"),
    (b"\xfd7zXZ", "xz"),
    (b"ARROW1", "feather"),
    (b"ORC", "orc"),
    (b"SQLite format 3", "sqlite"),
    (b"\x89HDF", "hdf5"),
    (b"\xd0\xcf\x11\xe0", "excel"),
    (b"%PDF", "pdf"),
)
_ADVICE = {
    "xz": "unpack it first (xz -d), or compress it with gzip or zstd",
    "7z": "unpack it first",
    "tar": "unpack it first (tar xf), and give the folder",
    "feather": "write it as Parquet first: pandas.read_feather(FILE).to_parquet('data.parquet')",
    "orc": "write it as Parquet first: pandas.read_orc(FILE).to_parquet('data.parquet')",
    "sqlite": "give dataset.reader: sql with a connection of your own, or export the table to CSV",
    "hdf5": "write it as Parquet first: pandas.read_hdf(FILE).to_parquet('data.parquet')",
    "excel": "save the sheet as CSV, or: pandas.read_excel(FILE).to_parquet('data.parquet')",
    "pdf": "expected a table",
    "pickle": "write it as Parquet first, in a program that you trust with it",
    "stata": "write it as Parquet first: pandas.read_stata(FILE).to_parquet('data.parquet')",
    "sas": "write it as Parquet first: pandas.read_sas(FILE).to_parquet('data.parquet')",
    "spss": "write it as Parquet first: pandas.read_spss(FILE).to_parquet('data.parquet')",
    "arff": "write it as Parquet first: pandas.DataFrame(scipy.io.arff.loadarff(FILE)[0]).to_parquet('data.parquet')",
    "r": "write it as CSV in R: write.csv(data, 'data.csv', row.names = FALSE)",
}
_ADVICE_BY_ENDING = {
    "xz": "xz",
    "7z": "7z",
    "tar": "tar",
    "tgz": "tar",
    "feather": "feather",
    "arrow": "feather",
    "orc": "orc",
    "db": "sqlite",
    "sqlite": "sqlite",
    "h5": "hdf5",
    "hdf5": "hdf5",
    "xls": "excel",
    "xlsx": "excel",
    "ods": "excel",
    "pdf": "pdf",
    "pkl": "pickle",
    "pickle": "pickle",
    "dta": "stata",
    "sas7bdat": "sas",
    "xpt": "sas",
    "sav": "spss",
    "arff": "arff",
    "rds": "r",
    "rda": "r",
    "rdata": "r",
}


@dataclasses.dataclass(frozen=True)
class TableFiles:
    """The files of a table, and how they are read."""

    reader: str
    path: str | tuple[str, ...]
    """As `dataset.path` has it."""
    options: dict[str, Any]
    files: tuple[str, ...]
    size: int
    """Bytes of all files, as stored."""
    head: bytes = b""
    """The first bytes of the first file, unpacked; of text formats only."""
    whole: bool = False
    """Whether `head` is all of the first file."""
    compression: str = ""


def find_files(path: str, reader: str | None = None) -> TableFiles:
    """Raises NotFoundError if nothing is there, and DataError for what no reader takes, with the remedy."""
    if reader is not None and (":" in reader or reader not in ("csv", "json", "parquet")):
        return TableFiles(reader, path, {}, (path,), 0)
    if "::" not in path and path.lower().endswith(".zip"):
        path = _enter_archive(path)
    located, filesystem = sources.locate(path)
    filesystem, files = _list(located, filesystem)
    options: dict[str, Any] = {}
    if not files:
        raise DataError(f"Folder {path!r} has no files of a table; expected csv, parquet, json or their like")
    endings = {split_ending(file)[0] for file, _ in files}
    ending = _choose_ending(endings, path)
    files = [(file, size) for file, size in files if split_ending(file)[0] == ending]
    if len(endings) > 1:
        options["file_extensions"] = sorted({file.rpartition(".")[2] for file, _ in files})
    if any("=" in part for part in pathlib.PurePath(files[0][0]).parts[:-1]):
        options["partitioning"] = "hive"
    names, total = tuple(file for file, _ in files), sum(size for _, size in files)
    if total == 0:
        raise DataError(f"File {names[0]!r} is empty; expected a table with at least one row")
    if empty := [file for file, size in files if not size]:
        raise DataError(f"File {empty[0]!r} is empty; remove it, or give a pattern that leaves it out")
    first = names[0]
    magic = _find_magic(filesystem, first)
    if magic in _ADVICE or (ending in _ADVICE_BY_ENDING and reader is None):
        kind = magic if magic in _ADVICE else _ADVICE_BY_ENDING[ending]
        raise DataError(f"No reader takes {first!r}, a file of kind {kind}; {_ADVICE[kind]}")
    compression = COMPRESSION_OF_ENDING.get(split_ending(first)[1], "")
    if magic in COMPRESSION_OF_ENDING.values():
        compression = magic
        if first.rpartition(".")[2].lower() not in _KNOWN_TO_RAY:
            options["arrow_open_stream_args"] = {"compression": magic}
    head, whole = b"", False
    reader = reader or (magic if magic in ("parquet", "avro") else READER_OF_ENDING.get(ending))
    if reader in (None, "csv", "json"):
        head, whole = _read_head(filesystem, first, compression)
        _refuse_other_texts(first, head)
        reader = reader or ("json" if re.match(rb"\s*[\[{]", head) else "csv")
    return TableFiles(reader, path, options, names, total, head, whole, compression)


def _enter_archive(path: str) -> str:
    """`zip://INNER::OUTER` of an archive with one file."""
    if locations.is_remote(path):
        raise DataError(f"Give the file within the archive: zip://NAME::{path}")
    sources.locate(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [one.filename for one in archive.infolist() if not one.is_dir() and one.file_size]
    except zipfile.BadZipFile as error:
        raise DataError(f"Cannot read {path!r}: {error}; copy it again") from None
    names = [name for name in names if not name.startswith("__MACOSX/")]
    tables = [name for name in names if READER_OF_ENDING.get(split_ending(name)[0]) in _TABLES]
    names = tables if len(tables) == 1 else names
    if not names:
        raise DataError(f"{path!r} holds no files; give an archive with a table")
    if len(names) != 1:
        raise DataError(
            f"{path!r} holds {', '.join(names[:8])}; give one of them: zip://{(tables or names)[0]}::{path}"
        )
    return f"zip://{names[0]}::{path}"


def _list(paths: list[str], filesystem: Any) -> tuple[Any, list[tuple[str, int]]]:
    """The files below paths, with sizes; hidden ones, and those of programs such as _SUCCESS, left out."""
    opened = filesystem or pyarrow.fs.LocalFileSystem()
    if not isinstance(opened, pyarrow.fs.FileSystem):
        opened = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(opened))
    found: list[tuple[str, int]] = []
    for path in paths:
        info = opened.get_file_info(path)
        if info.is_file:
            found.append((path, info.size or 0))
            continue
        for inner in opened.get_file_info(pyarrow.fs.FileSelector(path, recursive=True)):
            below = pathlib.PurePath(inner.path).relative_to(pathlib.PurePath(path)).parts
            if inner.is_file and not is_hidden(below):
                found.append((inner.path, inner.size or 0))
    if filesystem is None:
        _refuse_links(file for file, _ in found)
    return opened, sorted(found)


def _refuse_links(files: Iterable[str]) -> None:
    """Raises DataError for a local file that is reached by several paths, as by a link to the folder it is in."""
    first: dict[str, str] = {}
    for file in sorted(files):
        other = first.setdefault(os.path.realpath(file), file)
        if other != file:
            raise DataError(
                f"{other!r} is also reached by a link, as {file!r}, so that its rows would count twice; remove the "
                "link, or give a pattern that leaves it out"
            )


def _choose_ending(endings: set[str], path: str) -> str:
    """That of the table among several in a folder."""
    tables = {ending for ending in endings if ending in READER_OF_ENDING and ending != "txt"} or endings
    readers = {READER_OF_ENDING.get(ending, ending) for ending in tables}
    if len(tables) > 1:
        raise DataError(
            f"Folder {path!r} has files of several formats ({', '.join(sorted(readers))}: "
            f"{', '.join(sorted(tables))}); give one kind of them: {path.rstrip('/')}/*.{min(tables)}"
        )
    return tables.pop()


def _find_magic(filesystem: Any, file: str) -> str:
    with filesystem.open_input_file(file) as stream:
        first = stream.read(16)
    return next((kind for magic, kind in _MAGIC if first.startswith(magic)), "")


def _read_head(filesystem: Any, file: str, compression: str) -> tuple[bytes, bool]:
    try:
        with filesystem.open_input_stream(file, compression=compression or None) as stream:
            head = stream.read(HEAD_BYTES)
            return head, len(head) < HEAD_BYTES or not stream.read(1)
    except (OSError, pa.ArrowException) as error:
        cause = " ".join(str(error).split())[:200]
        raise DataError(
            f"Cannot unpack {file!r}: {cause}; copy it again, or give it the ending of its compression"
        ) from None


def _refuse_other_texts(file: str, head: bytes) -> None:
    """Raises DataError for what is unpacked and still no table."""
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|\?xml)", head, re.IGNORECASE):
        raise DataError(
            f"File {file!r} is a page or document in HTML or XML, no table; download the table itself, or convert it: "
            "pandas.read_html(FILE)[0].to_parquet('data.parquet')"
        )
    packed = next((kind for magic, kind in _MAGIC if head.startswith(magic)), "")
    if packed in COMPRESSION_OF_ENDING.values():
        raise DataError(f"File {file!r} is compressed twice; unpack it once ({packed} -d)")


def require_reader(reader: str | None) -> None:
    """Raises NotFoundError for a reader that profiles cannot use."""
    if reader is not None and ":" not in reader and reader not in READER_OF_ENDING.values():
        raise NotFoundError(unknown_name("reader", reader, set(READER_OF_ENDING.values())))
