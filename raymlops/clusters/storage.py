"""Checks, before a job is sent, that every node of its cluster can find what the job stores."""

import pathlib
import tempfile
from collections.abc import Collection, Sequence
from typing import Any

import psutil

from raymlops import locations
from raymlops.errors import StorageError

_REMEDY = (
    "set RAYMLOPS_STORAGE to a place that all nodes reach: a mount such as /mnt/raymlops/storage, or a bucket's "
    "URI"
)


def open_folder(path: str, *parts: str) -> tuple[Any, str]:
    """The fsspec filesystem of a path or URI, and the path of `parts` below it in that filesystem.

    Raises StorageError if no filesystem opens it, or if a bucket does not answer: listing such a bucket would find
    nothing.
    """
    try:
        files, folder = locations.open_location(path, *parts)
        if locations.is_remote(path):
            files.exists(folder)
    except (StorageError, OSError) as error:
        cause = locations.explain(error)
        raise StorageError(f"The storage {path!r} cannot be opened: {cause}; {_REMEDY}") from None
    return files, folder


def require_storage(storage: str, nodes: Sequence[str], *, home: str, here: Collection[str] = ()) -> None:
    """Raises StorageError if a job on nodes with these addresses could store nothing at `storage`.

    `here` are this machine's addresses: a local folder is right only if all nodes are on this machine.
    """
    if locations.is_remote(storage):
        open_folder(storage)
        return
    path = pathlib.Path(storage)
    if not path.is_absolute():
        raise StorageError(
            f"RAYMLOPS_STORAGE {storage!r} is relative, and a job runs in a temporary copy of the working "
            f"directory, which is deleted afterwards; {_REMEDY}"
        )
    others = [node for node in nodes if node not in (here or own_addresses())]
    if others:
        if any(path.is_relative_to(folder) for folder in (home, tempfile.gettempdir())):
            raise StorageError(
                f"RAYMLOPS_STORAGE {storage!r} is a folder of this machine, and the cluster has other nodes "
                f"({', '.join(others[:3])}), which do not see each other's checkpoints there; {_REMEDY}"
            )
        return
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise StorageError(
            f"RAYMLOPS_STORAGE {storage!r} cannot be written: {existing}: {error.strerror}; {_REMEDY}"
        ) from None


def own_addresses() -> set[str]:
    return {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}
