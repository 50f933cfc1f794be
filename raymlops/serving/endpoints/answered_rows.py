"""The rows that a replica has answered, in a small file of its node that outlives its process: what a killed replica
had answered and not told of is read there. A number for each endpoint, written where the answer is."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import mmap
import os
import pathlib
import struct
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raymlops.monitoring.ticks import Place

LOG = logging.getLogger("raymlops.serving")
_MAGIC = b"raymlops rows 1\n"
_HEAD = struct.Struct("<16sQ")
"""Magic and the bytes of the JSON behind it; then, aligned to 8, the numbers: a time, and the rows of each path."""
_ENDING = ".rows"


@dataclasses.dataclass(frozen=True)
class EndedReplica:
    """What is in the file of a replica whose process has ended. `answered` are rows by path; `places` say what each
    path is."""

    replica: str
    node: str
    answered: Mapping[str, int]
    places: Mapping[str, Place]
    time: float
    """When it last lived, to some seconds; in seconds since 1970."""


class AnsweredRows:
    """`counts[slot]` are rows; one thread writes them. Each path has a slot, in the order of `places`."""

    def __init__(self, folder: pathlib.Path, replica: str, node: str, places: Mapping[str, Place]) -> None:
        """Without a file, if none can be made here: then a killed replica's loss is unknown, and a warning says so."""
        self.slots = {path: slot for slot, path in enumerate(places)}
        self.path: pathlib.Path | None = folder / f"{replica}{_ENDING}"
        head = json.dumps(
            {"replica": replica, "node": node, "places": {name: list(one) for name, one in places.items()}}
        )
        try:
            self._file, self._map, begin = _make(self.path, head.encode(), len(places))
        except OSError as error:
            LOG.warning("rows that this replica answers are not in a file of its node: %s", error)
            self.path, self._file, begin = None, -1, 0
            self._map = mmap.mmap(-1, 8 * (len(places) + 1))
        self._view = memoryview(self._map)
        numbers = self._view[begin : begin + 8 * (len(places) + 1)].cast("Q")
        self._time, self.counts = numbers[:1], numbers[1:]
        self.live()

    def live(self) -> None:
        """Note the time; call it every second or so."""
        self._time[0] = time.time_ns()

    def read(self) -> dict[str, int]:
        return {path: self.counts[slot] for path, slot in self.slots.items()}

    def close(self, *, remove: bool) -> None:
        """`remove` if all was told."""
        if remove and self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
        if self._file >= 0:
            os.close(self._file)  # with its lock
            self._file = -1


def _make(path: pathlib.Path, head: bytes, slots: int) -> tuple[int, mmap.mmap, int]:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _require_own(path.parent)
    begin = -(-(_HEAD.size + len(head)) // 8) * 8
    size = begin + 8 * (slots + 1)
    draft = path.with_suffix(".draft")
    file = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(file, 0, size)  # a page that the disk has no room for would end this process
        os.pwrite(file, _HEAD.pack(_MAGIC, len(head)) + head, 0)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = mmap.mmap(file, size)
        draft.rename(path)
    except OSError:
        os.close(file)
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    return file, held, begin


def find_folder(application: str, root: str) -> pathlib.Path:
    """Of this node, for an application whose counts are below `root`."""
    name = hashlib.sha256(f"{root}\n{application}".encode()).hexdigest()[:16]
    return pathlib.Path(tempfile.gettempdir()) / f"raymlops-{os.getuid()}" / "answered-rows" / name


def _require_own(folder: pathlib.Path) -> None:
    """Anyone may write beside it. Raises OSError."""
    for held in (folder, folder.parent, folder.parent.parent):
        if held.stat().st_uid != os.getuid():
            raise PermissionError(f"{held} belongs to another user")


def find_ended(folder: pathlib.Path) -> Iterator[tuple[pathlib.Path, EndedReplica]]:
    """Files of replicas of this node whose process has ended: the system released its lock."""
    try:
        _require_own(folder)
        paths = sorted(folder.glob(f"*{_ENDING}"))
    except FileNotFoundError:
        return
    except OSError as error:
        LOG.error("files of answered rows cannot be read: %s", error)
        return
    for path in paths:
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                ended = _read(file.read())
        except BlockingIOError:
            continue  # it lives
        except FileNotFoundError:
            continue  # another reader has told of it
        except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
            LOG.error("%s cannot be read: %s", path, error)
            continue
        yield path, ended


def _read(data: bytes) -> EndedReplica:
    magic, length = _HEAD.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError("it is not a file of answered rows")
    head: dict[str, Any] = json.loads(data[_HEAD.size : _HEAD.size + length])
    begin = -(-(_HEAD.size + length) // 8) * 8
    places = {str(path): Place(*map(str, place)) for path, place in head["places"].items()}
    numbers: Sequence[int] = struct.unpack_from(f"={len(places) + 1}Q", data, begin)
    answered = dict(zip(places, numbers[1:], strict=True))
    return EndedReplica(str(head["replica"]), str(head["node"]), answered, places, numbers[0] / 1e9)
