"""The storage path: whether it can be written, and what to say when it cannot. Writes no checkpoints."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from raymlops.errors import StorageError

_RESERVE = 4 * 2**20
"""Bytes left free beside a checkpoint, for the state of the search: without it nothing could be resumed."""


def require_writable(storage_path: str) -> None:
    """Raises StorageError where no file can be made, or no room is left."""
    if "://" in storage_path:
        return
    with explained(storage_path):
        path = pathlib.Path(storage_path)
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".raymlops-{os.getpid()}"
        probe.write_bytes(b"x")
        probe.unlink()
    require_room(storage_path, 0)


def require_room(storage_path: str, size: int) -> None:
    """Raises StorageError where `size` more bytes would not leave enough for what follows."""
    if "://" in storage_path:
        return
    free = shutil.disk_usage(storage_path).free
    if free < 2 * size + _RESERVE:
        raise StorageError(
            f"The storage path {storage_path!r} is full: {_to_mib(free)} are free, and a checkpoint of "
            f"{_to_mib(size)} is to be saved beside the state of the search. {_REMEDY}"
        )


@contextlib.contextmanager
def explained(storage_path: str) -> Iterator[None]:
    """Errors of writing become a StorageError that says where, why, and what to do."""
    try:
        yield
    except OSError as error:
        cause = os.strerror(error.errno) if error.errno else str(error)
        raise StorageError(f"Cannot write to the storage path {storage_path!r}: {cause}. {_REMEDY}") from None


_REMEDY = (
    "Free space there, or set RAYMLOPS_STORAGE to a folder that all nodes may write to; a search that was begun "
    "goes on with --resume"
)


def _to_mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
