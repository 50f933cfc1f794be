"""Where the messages of one channel wait: files in a folder, shared by all processes of a machine, or this process's
memory. Knows names and bytes; knows no messages."""

import contextlib
import os
import pathlib
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Literal, Protocol

import filelock

Part = Literal["pending", "sending", "refused"]
PARTS: tuple[Part, ...] = ("pending", "sending", "refused")

_WAIT_S = 0.5
"""Longest wait for another process that writes; it takes about a millisecond."""
_STALE_S = 3600.0


class SpoolStorage(Protocol):
    """Names of messages in parts, and two small documents beside them. Failures are OSErrors."""

    def lock(self) -> contextlib.AbstractContextManager[object]:
        """For a change of several steps. Raises OSError if another holds it too long."""

    def try_sending(self) -> bool:
        """Become the one that sends, unless another is; end with `end_sending`."""

    def end_sending(self) -> None: ...
    def list(self, part: Part) -> list[str]: ...
    def read(self, name: str, part: Part | None = None) -> bytes | None: ...
    def write(self, name: str, data: bytes, part: Part | None = None) -> None: ...
    def move(self, name: str, part: Part, to: str, to_part: Part) -> None: ...
    def delete(self, name: str, part: Part) -> None: ...


class SpoolFolder:
    """Every file is written whole, by renaming. Locks of a process that is killed are released by the system."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        for part in PARTS:
            (folder / part).mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = filelock.FileLock(folder / "spool.lock", timeout=_WAIT_S, poll_interval=0.002)
        # Between threads: a file lock is asked for again and again, and the thread that asks most often would get it.
        self._turn = threading.Lock()
        # Taken and released by the channel's thread only.
        self._sending = filelock.FileLock(folder / "send.lock", timeout=0)
        self._delete_stale()

    @contextlib.contextmanager
    def lock(self) -> Iterator[object]:
        if not self._turn.acquire(timeout=_WAIT_S):
            raise TimeoutError("another thread writes to the spool")
        try:
            with self._lock:  # filelock.Timeout is a TimeoutError, too, and so an OSError
                yield None
        finally:
            self._turn.release()

    def try_sending(self) -> bool:
        try:
            self._sending.acquire()
        except filelock.Timeout:
            return False
        return True

    def end_sending(self) -> None:
        self._sending.release()

    def list(self, part: Part) -> list[str]:
        return [name for name in os.listdir(self._folder / part) if not name.startswith(".")]

    def read(self, name: str, part: Part | None = None) -> bytes | None:
        try:
            return self._path(name, part).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes, part: Part | None = None) -> None:
        path = self._path(name, part)
        draft = path.with_name(f".{uuid.uuid4().hex}")
        try:
            draft.write_bytes(data)
            os.replace(draft, path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise

    def move(self, name: str, part: Part, to: str, to_part: Part) -> None:
        os.replace(self._path(name, part), self._path(to, to_part))

    def delete(self, name: str, part: Part) -> None:
        self._path(name, part).unlink(missing_ok=True)

    def _path(self, name: str, part: Part | None) -> pathlib.Path:
        return self._folder / part / name if part else self._folder / name

    def _delete_stale(self) -> None:
        """Drafts of processes that were killed while they wrote."""
        for draft in self._folder.rglob(".*"):
            with contextlib.suppress(OSError):
                if time.time() - draft.stat().st_mtime > _STALE_S:
                    draft.unlink()


class SpoolMemory:
    """For channels that are of this process only, such as its log, and where the disk does not take more."""

    def __init__(self) -> None:
        self._held: dict[tuple[Part | None, str], bytes] = {}
        self._lock = threading.RLock()

    def lock(self) -> contextlib.AbstractContextManager[object]:
        return self._lock

    def try_sending(self) -> bool:
        return True

    def end_sending(self) -> None:
        pass

    def list(self, part: Part) -> list[str]:
        with self._lock:
            return [name for of, name in self._held if of == part]

    def read(self, name: str, part: Part | None = None) -> bytes | None:
        return self._held.get((part, name))

    def write(self, name: str, data: bytes, part: Part | None = None) -> None:
        with self._lock:
            self._held[part, name] = data

    def move(self, name: str, part: Part, to: str, to_part: Part) -> None:
        with self._lock:
            self._held[to_part, to] = self._held.pop((part, name))

    def delete(self, name: str, part: Part) -> None:
        with self._lock:
            self._held.pop((part, name), None)
