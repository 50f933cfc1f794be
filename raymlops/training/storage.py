"""Checks of the storage path: whether it can be written, with errors that say what to do. Writes no checkpoints."""

import contextlib
import os
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Literal

from raymlops import locations
from raymlops.errors import StorageError

_RESERVE = 4 * 2**20
"""Bytes left free beside a checkpoint, for the state of the search: without it nothing could be resumed."""


def require_writable(storage_path: str) -> None:
    """Raises StorageError if no file can be created, or no space is left."""
    if not locations.may_hold_checkpoints(storage_path):
        raise StorageError(
            f"Ray keeps no checkpoints at the storage path {storage_path!r}; set RAYMLOPS_STORAGE to a path, or a URI "
            "of s3, gs, abfs, hdfs or file"
        )
    if re.search(r"://[^/@]*:[^/@]+@", storage_path):
        raise StorageError(
            "RAYMLOPS_STORAGE holds a secret key, which would be copied into logs and run pages; give it as "
            "AWS_SECRET_ACCESS_KEY, or by the role of the machine"
        )

    def probe() -> None:
        files, folder = locations.open_location(storage_path)
        file = f"{folder}/.raymlops-{socket.gethostname()}-{os.getpid()}"
        files.makedirs(folder, exist_ok=True)
        files.pipe_file(file, b"x")
        files.rm_file(file)

    with explained(storage_path):
        in_time(probe)
    require_room(storage_path, 0)


def in_time(call: Callable[[], None], seconds: float = 30) -> None:
    """Raises TimeoutError if a call takes longer: the libraries below retry for minutes with a server that accepts
    requests and never answers."""
    done: Future[None] = Future()

    def settle() -> None:
        try:
            call()
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=settle, name="storage", daemon=True).start()
    try:
        done.result(seconds)
    except TimeoutError:
        raise TimeoutError(f"Read timeout after {seconds:g} s") from None


def require_room(storage_path: str, size: int) -> None:
    """Raises StorageError if `size` more bytes would not leave enough for later writes."""
    if locations.is_remote(storage_path):
        return
    free = shutil.disk_usage(storage_path).free
    if free < 2 * size + _RESERVE:
        raise StorageError(
            f"The storage path {storage_path!r} is full: {_to_mib(free)} are free, and a checkpoint of "
            f"{_to_mib(size)} is to be saved beside the state of the search. {_REMEDY}"
        )


@contextlib.contextmanager
def explained(storage_path: str, doing: Literal["write to", "read"] = "write to") -> Iterator[None]:
    """Turn file errors into a StorageError with place, cause and remedy."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDY_REMOTE if locations.is_remote(storage_path) else _REMEDY
        cause = locations.explain(error)
        raise StorageError(f"Cannot {doing} the storage path {storage_path!r}: {cause}. {remedy}") from None


_REMEDY = (
    "Free space there, or set RAYMLOPS_STORAGE to a folder that all nodes may write to; resume an interrupted "
    "search with --resume"
)
_REMEDY_REMOTE = (
    "Fix it, or set RAYMLOPS_STORAGE to a folder or URI that all nodes may write to; resume an interrupted "
    "search with --resume"
)


def _to_mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
