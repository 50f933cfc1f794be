"""Files below a path or URI that many processes write: each appears whole or not at all, and failures say what could
not be reached. Knows nothing of what is in them."""

import contextlib
import dataclasses
import secrets
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from raymlops import locations
from raymlops.errors import StorageError

_BUCKETS = ("s3", "gs", "gcs", "abfs", "abfss", "memory")
"""Schemes whose files appear once they are complete; elsewhere a file is renamed then."""


@dataclasses.dataclass(frozen=True)
class FileStore:
    """`what` is in it, for messages: `Captures`."""

    root: str
    what: str

    @contextlib.contextmanager
    def reading(self) -> Iterator[tuple[Any, str]]:
        """The fsspec filesystem and the folder of `root` in it, with what others wrote until now. Raises StorageError
        if it does not answer; FileNotFoundError is the caller's."""
        with self._explained("read") as opened:
            opened[0].invalidate_cache()
            yield opened

    @contextlib.contextmanager
    def writing(self) -> Iterator[tuple[Any, str]]:
        with self._explained("written") as opened:
            yield opened

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[tuple[Any, str]]:
        try:
            yield locations.open_location(self.root)
        except FileNotFoundError:
            raise
        except OSError as error:
            cause = locations.explain(error)
            raise StorageError(f"{self.what} in {self.root} cannot be {what}: {cause}") from error

    def write_whole(self, files: Any, folder: str, name: str, data: bytes) -> None:
        """A file of this name in a folder of the filesystem, which is made."""
        if self.root.partition("://")[0] in _BUCKETS:
            files.pipe_file(f"{folder}/{name}", data)
            return
        files.makedirs(folder, exist_ok=True)
        part = f"{folder}/.{name}.{secrets.token_hex(4)}.part"
        try:
            files.pipe_file(part, data)
            files.mv(part, f"{folder}/{name}")
        except OSError:
            with contextlib.suppress(OSError):
                files.rm_file(part)
            raise


def list_entries(files: Any, folder: str) -> list[dict[str, Any]]:
    """Entries of a folder; none if it does not exist."""
    try:
        return list(files.ls(folder, detail=True))
    except (FileNotFoundError, NotADirectoryError):
        return []


def quote_part(name: str) -> str:
    """A name as one part of a path; `.` and `..` and those that start with a dot too."""
    quoted = quote(name, safe=" ")
    return f"%2E{quoted[1:]}" if quoted.startswith(".") else quoted or "%00"
