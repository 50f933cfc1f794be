"""The ONNX files of a folder of models, on this machine or in a bucket, with their bytes and a stamp that detects
changes; and the file of a path. Opens no model.

The layout is Triton's: NAME.onnx, NAME/model.onnx or NAME/VERSION/model.onnx.
"""

import hashlib
import os
import pathlib
import stat
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import pyarrow.fs
from fsspec.implementations.arrow import ArrowFSWrapper

from raymlops import locations
from raymlops.artifact import MODEL_FILE
from raymlops.errors import ArtifactError, NotFoundError, RaymlopsError, StorageError
from raymlops.models import external_data
from raymlops.specs.code_references import DATA_PROTOCOLS, protocols_of

SUFFIX = ".onnx"
SETTLED_S = 2.0
"""Seconds since its last change after which a file counts as complete."""


class File(NamedTuple):
    """`stamp` changes whenever the file does; `fault` says why it cannot be read."""

    size: int = 0
    stamp: tuple[Any, ...] = ()
    changed: float = 0.0
    """Seconds since the epoch; 0 if unknown."""
    fault: str = ""

    @property
    def is_settled(self) -> bool:
        return not 0 <= time.time() - self.changed < SETTLED_S


Listing = Mapping[str, Mapping[str, File]]
"""Name of an entry of the folder -> path below the folder -> file; folders without an ONNX file have none."""


class FolderFiles(Protocol):
    where: str
    """The folder, for messages."""
    is_near: bool
    """Whether its files are read as fast as local ones."""

    def list(self) -> Listing:
        """The present files. Raises NotFoundError, StorageError, OSError."""
        ...

    def read(self, path: str, largest: int, size: int | None = None) -> bytes | None:
        """A whole file of at most so many bytes; None if its size is not `size`.

        Raises NotFoundError, ArtifactError, StorageError, OSError.
        """
        ...


def open_folder(location: str) -> FolderFiles:
    """Raises StorageError if no filesystem opens such a location."""
    if locations.is_remote(location):
        for protocol in protocols_of(location):
            if protocol not in DATA_PROTOCOLS:
                raise StorageError(
                    f"{location!r} is opened by {protocol!r}, which may run what it finds; a folder of models "
                    "must be a path or a URI such as s3://bucket/models"
                )
        return RemoteFiles(location)
    return LocalFiles(pathlib.Path(location).expanduser())


class LocalFiles:
    is_near = True

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self.where = str(folder)

    def list(self) -> Listing:
        try:
            entries = list(os.scandir(self._folder))
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(f"No folder {self.where!r} with models") from None
        return {entry.name: dict(files) for entry in entries if (files := _list_entry(entry)) is not None}

    def read(self, path: str, largest: int, size: int | None = None) -> bytes | None:
        what = f"The model is {path!r}"
        try:
            with external_data.open_plain(self._folder / path, what) as number:
                held = os.fstat(number).st_size
                if size not in (None, held):
                    return None
                _check_size(path, held, largest)
                return external_data.read_all(number, held, what)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(f"The file {path!r} no longer exists") from None
        except OSError as error:
            raise ArtifactError(f"{path!r} cannot be read: {os.strerror(error.errno or 0)}") from None


def _check_size(path: str, size: int, largest: int) -> None:
    if size > largest:
        raise ArtifactError(f"{path!r} has {size} bytes; at most {largest} are accepted here")


def _list_entry(entry: "os.DirEntry[str]") -> Iterator[tuple[str, File]] | None:
    """The model files that an entry of the folder may be; None if it is no model."""
    if entry.name.startswith("."):
        return None
    file = _find_file(entry.path)
    if isinstance(file, File):  # or it may be a folder, through a broken link
        is_link = bool(file.fault) and entry.is_symlink()
        return iter([(entry.name, file)]) if entry.name.endswith(SUFFIX) or is_link else None
    return _list_folder(entry.path, entry.name)


def _list_folder(path: str, name: str) -> Iterator[tuple[str, File]]:
    """The ONNX files of a model's folder and of its versions."""
    try:
        held = sorted(os.listdir(path))
    except OSError as error:
        yield name, File(fault=f"the folder cannot be read: {os.strerror(error.errno or 0)}")
        return
    for inner in held:
        is_version = "/" not in name and inner.isdecimal() and inner.isascii()
        if inner.startswith(".") or not (inner.endswith(SUFFIX) or is_version):
            continue
        below = f"{path}/{inner}"
        file = _find_file(below)
        if isinstance(file, File):
            if inner.endswith(SUFFIX):
                yield f"{name}/{inner}", file
        elif is_version:
            yield from _list_folder(below, f"{name}/{inner}")


_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def _find_file(path: str) -> File | None:
    """The file that a link leads to; None for a folder. Opens nothing: opening a pipe would block."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return File(fault="it is a link to a file that does not exist")
    except OSError as error:
        return File(fault=f"it cannot be read: {os.strerror(error.errno or 0)}")
    if stat.S_ISDIR(found.st_mode):
        return None
    if not stat.S_ISREG(found.st_mode):
        kind = next((kind for test, kind in _KINDS if test(found.st_mode)), "not a plain file")
        return File(fault=f"it is {kind}; a model is a file or a folder")
    stamp = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return File(found.st_size, stamp, found.st_mtime_ns / 1e9)


class RemoteFiles:
    """A folder of a bucket, or of another fsspec filesystem: one listing shows all files and their changes."""

    is_near = False

    def __init__(self, location: str) -> None:
        self.where = location
        self._files, folder = locations.open_location(location)
        self._folder = folder.rstrip("/")

    def list(self) -> Listing:
        try:
            found = self._find()
        except FileNotFoundError:
            found = {}
        except Exception as error:  # each service raises its own errors
            raise StorageError(
                f"The folder {self.where!r} of models cannot be listed: {locations.explain(error)}"
            ) from None
        if not found:
            raise NotFoundError(f"No files below {self.where!r}; expected models, as NAME.onnx")
        listing: dict[str, dict[str, File]] = {}
        for path, told in found.items():
            parts = self._relative(str(path)).split("/")
            is_version = len(parts) < 3 or (parts[1].isdecimal() and parts[1].isascii())
            if parts[-1].endswith(SUFFIX) and is_version and not any(part.startswith(".") for part in parts):
                listing.setdefault(parts[0], {})["/".join(parts)] = _to_file(told)
        return listing

    def read(self, path: str, largest: int, size: int | None = None) -> bytes | None:
        try:
            held = int(self._files.info(f"{self._folder}/{path}")["size"] or 0)
            if size not in (None, held):
                return None
            _check_size(path, held, largest)
            return bytes(self._files.cat_file(f"{self._folder}/{path}"))
        except FileNotFoundError:
            raise NotFoundError(f"The file {path!r} no longer exists") from None
        except ArtifactError:
            raise
        except Exception as error:
            raise StorageError(f"{path!r} cannot be read: {locations.explain(error)}") from None

    def _find(self) -> Mapping[str, Mapping[str, Any]]:
        if isinstance(self._files, ArrowFSWrapper):  # whose own `find` makes a call for each folder
            selector = pyarrow.fs.FileSelector(self._folder, recursive=True)
            return {
                file.path: {"size": file.size, "mtime": file.mtime_ns}
                for file in self._files.fs.get_file_info(selector)
                if file.type == pyarrow.fs.FileType.File
            }
        self._files.invalidate_cache()
        found: Mapping[str, Mapping[str, Any]] = self._files.find(
            self._folder, maxdepth=3, withdirs=False, detail=True
        )
        return found

    def _relative(self, path: str) -> str:
        """Filesystems differ in whether their paths begin with a slash."""
        return path.strip("/").removeprefix(self._folder.strip("/")).strip("/")


def _to_file(told: Mapping[str, Any]) -> File:
    mark = [str(told.get(key)) for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created")]
    return File(int(told.get("size") or 0), (told.get("size"), *mark))


def find_file(source: pathlib.Path) -> pathlib.Path:
    """The ONNX file of a path: itself, or the folder's model.onnx, its only file, or that of Triton's layout.

    Raises NotFoundError, ArtifactError if a folder has several and none is model.onnx.
    """
    if source.is_file():
        return source
    if not source.is_dir():
        raise NotFoundError(f"No ONNX file or folder {str(source)!r}")
    if (source / MODEL_FILE).is_file():
        return source / MODEL_FILE
    found = sorted(source.glob("*.onnx"))
    if not found:
        numbered = sorted((p for p in source.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
        found = sorted(numbered[-1].glob("*.onnx")) if numbered else []
    if not found:
        raise NotFoundError(f"The folder {str(source)!r} holds no .onnx file")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ArtifactError(f"The folder {str(source)!r} holds several models ({names}); name one of them")
    return found[0]


def digest_listing(location: str) -> str:
    """Changes when files are added, removed or written; empty if the folder cannot be read from here."""
    try:
        files = open_folder(location)
        listing = files.list()
    except (RaymlopsError, OSError):
        return ""
    told = sorted(
        # Inodes and devices have other numbers on other machines.
        (path, file.fault, *map(str, file.stamp[2:] if files.is_near else file.stamp))
        for held in listing.values()
        for path, file in held.items()
    )
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]
