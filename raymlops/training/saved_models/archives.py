"""Saved models that are zip archives: what their directory says is checked before anything of them is read."""

import contextlib
import pathlib
import zipfile
from collections.abc import Iterator

from raymlops.errors import ArtifactError, shorten
from raymlops.training.saved_models import LARGEST

_MOST_FILES = 10_000


@contextlib.contextmanager
def open_archive(file: pathlib.Path, most: int = LARGEST) -> Iterator[zipfile.ZipFile]:
    """An archive whose files have at most so many bytes together when they are unpacked, and plain names.

    Raises ArtifactError.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            _check_directory(archive.infolist(), most)
            yield archive
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, ValueError) as error:
        raise ArtifactError(
            f"It is not a whole zip archive, as files with {file.suffix} are: {shorten(str(error))}; save or copy it "
            "again"
        ) from None


def _check_directory(files: list[zipfile.ZipInfo], most: int) -> None:
    total = sum(info.file_size for info in files)
    if total > most or len(files) > _MOST_FILES:
        raise ArtifactError(
            f"Its {len(files):,} files have {total:,} bytes when they are unpacked; expected {most:,} bytes and "
            f"{_MOST_FILES:,} files at most"
        )
    names = [info.filename for info in files]
    for info in files:
        parts = pathlib.PurePosixPath(info.filename).parts
        if ".." in parts or info.filename.startswith("/") or "\\" in info.filename or ":" in info.filename:
            raise ArtifactError(
                f"It has a file named {shorten(repr(info.filename))}, which lies outside the archive"
            )
        if info.flag_bits & 1:
            raise ArtifactError(
                f"Its file {shorten(repr(info.filename))} is encrypted; save it without a password"
            )
    if len(set(names)) < len(names):
        raise ArtifactError("Two of its files have the same name, so it is not clear which is read")
