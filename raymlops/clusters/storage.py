"""Whether what a job keeps would lie where every node of its cluster finds it, asked before the job is sent."""

import pathlib
import tempfile
from collections.abc import Collection, Sequence

import fsspec
import psutil

from raymlops.errors import StorageError


def require_storage(storage: str, nodes: Sequence[str], *, home: str, here: Collection[str] = ()) -> None:
    """Raises StorageError where a job on nodes of these addresses could not keep anything at `storage`.

    `here` are this machine's addresses: what is a folder of this machine is right only where all nodes are on it.
    """
    remedy = "set RAYMLOPS_STORAGE to what all nodes reach: a mount such as /mnt/raymlops/storage, or a bucket's URI"
    if "://" in storage:
        try:
            fsspec.core.url_to_fs(storage)
        except (ImportError, ValueError) as error:
            raise StorageError(f"RAYMLOPS_STORAGE {storage!r} cannot be opened: {error}; {remedy}") from None
        return
    path = pathlib.Path(storage)
    if not path.is_absolute():
        raise StorageError(
            f"RAYMLOPS_STORAGE {storage!r} is relative, and a job runs in a temporary copy of the working directory, "
            f"which goes with it; {remedy}"
        )
    others = [node for node in nodes if node not in (here or own_addresses())]
    if others:
        if any(path.is_relative_to(folder) for folder in (home, tempfile.gettempdir())):
            raise StorageError(
                f"RAYMLOPS_STORAGE {storage!r} is a folder of this machine, and the cluster has nodes elsewhere "
                f"({', '.join(others[:3])}), that do not see each other's checkpoints there; {remedy}"
            )
        return
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise StorageError(
            f"RAYMLOPS_STORAGE {storage!r} cannot be written: {existing}: {error.strerror}; {remedy}"
        ) from None


def own_addresses() -> set[str]:
    return {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}
