"""The log of an application's incidents: numbered files that are made once and never changed, in a folder at any path
or URI, so that no writer overwrites what another wrote. Knows entries; decides nothing."""

import contextlib
import errno
import logging
import os
import pathlib
import random
import re
import time
import uuid
from typing import Any

from raymlops import locations
from raymlops.errors import SpecError, StorageError, UnreachableError
from raymlops.events.incident import Entry
from raymlops.events.incident_entries import read_entry, write_entry

_LOG = logging.getLogger(__name__)
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)
"""Of file systems without links, such as some network mounts."""
_FILE = re.compile(r"(\d{8})(-[0-9a-f]{32})?\.json")


class IncidentLog:
    """`location` is the application's folder. All methods raise UnreachableError if the store does not answer."""

    def __init__(self, location: str) -> None:
        self._location = location
        self._files: Any = None
        self._folder = ""
        self._known: dict[str, tuple[int, Entry | None]] = {}  # by name; None is an entry that cannot be read

    def read(self) -> list[Entry]:
        """All entries in order. Those that cannot be read are logged and passed over."""
        with self._reaching():
            known = self._known
            self._known = {  # in order; one that its writer withdrew is not among them
                name: known.get(name) or (number, self._read(number, name)) for number, name in self._list()
            }
        return [entry for _, entry in self._known.values() if entry is not None]

    @property
    def next_number(self) -> int:
        """The number after the last one that `read` saw."""
        return max((number for number, _ in self._known.values()), default=0) + 1

    def add(self, entry: Entry) -> bool:
        """Write an entry under its number; false if another has it, so that the caller reads again and decides anew."""
        data = write_entry(entry)
        with self._reaching():
            return (self._make_local if self._is_local() else self._make_remote)(entry.number, data)

    def _make_local(self, number: int, data: bytes) -> bool:
        """Whole or not at all: written under another name, then linked, which fails if the name is taken."""
        folder = pathlib.Path(self._folder)
        folder.mkdir(parents=True, exist_ok=True)
        path, draft = folder / f"{number:08d}.json", folder / f".{uuid.uuid4().hex}"
        try:
            draft.write_bytes(data)
            try:
                os.link(draft, path)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                with path.open("xb") as file:
                    file.write(data)
        except FileExistsError:
            return False
        finally:
            draft.unlink(missing_ok=True)
        return True

    def _make_remote(self, number: int, data: bytes) -> bool:
        """Most buckets cannot refuse a name that is taken: each writer has a name of its own for the number, and
        withdraws if it then sees another's. Of two at once at least one sees the other, since each looks after it
        wrote."""
        name = f"{number:08d}-{uuid.uuid4().hex}.json"
        self._files.makedirs(self._folder, exist_ok=True)
        self._files.pipe_file(f"{self._folder}/{name}", data)
        if any(other == number and of != name for other, of in self._list()):
            self._files.rm_file(f"{self._folder}/{name}")
            # Spread, so that two which both withdrew do not meet again.
            time.sleep(random.uniform(0.0, 0.2))  # noqa: S311
            return False
        return True

    def _list(self) -> list[tuple[int, str]]:
        """Number and name of each entry, in order."""
        files, folder = self._open()
        with contextlib.suppress(AttributeError):
            files.invalidate_cache(folder)  # others write, too
        try:
            paths = files.ls(folder, detail=False)
        except FileNotFoundError:
            return []
        names = sorted(pathlib.PurePosixPath(str(path)).name for path in paths)
        return [(int(found[1]), name) for name in names if (found := _FILE.fullmatch(name))]

    def _read(self, number: int, name: str) -> Entry | None:
        try:
            return read_entry(self._files.cat_file(f"{self._folder}/{name}"), number)
        except SpecError as error:
            _LOG.error("%s: %s", self._location, error)
            return None

    def _open(self) -> tuple[Any, str]:
        if self._files is None:
            self._files, self._folder = locations.open_location(self._location)
        return self._files, self._folder

    def _is_local(self) -> bool:
        self._open()
        return not locations.is_remote(self._location) or self._location.startswith(("file://", "local://"))

    @contextlib.contextmanager
    def _reaching(self) -> Any:
        try:
            yield
        except StorageError:
            raise
        except OSError as error:
            raise UnreachableError(
                f"The incidents at {self._location!r} cannot be read or written: {locations.explain(error)}; check "
                "RAYMLOPS_STORAGE"
            ) from None


def list_applications(location: str) -> list[str]:
    """The applications that have a log below a location. Raises UnreachableError."""
    try:
        files, folder = locations.open_location(location)
        paths = files.ls(folder, detail=True)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UnreachableError(
            f"The incidents at {location!r} cannot be read: {locations.explain(error)}"
        ) from None
    return sorted(pathlib.PurePosixPath(one["name"]).name for one in paths if one["type"] == "directory")
