"""Where captured requests and labels are, by model, day and version; files appear whole or not at all.

    ROOT/MODEL/requests/day=2026-01-31/version=3/101500-REPLICA-0.parquet
    ROOT/MODEL/labels/9f/2026-01-31-SHA256.parquet
    ROOT/MODEL/deletions/20260131T101500-ID.json

Knows names and bytes, not what is in them.
"""

import contextlib
import dataclasses
import datetime
import json
import re
import secrets
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import pyarrow.parquet as pq

from raymlops import locations
from raymlops.errors import NotFoundError, SpecError, unknown_name
from raymlops.file_store import FileStore, list_entries, quote_part

FOLDER = "captures"
"""Below the storage path."""
_FILE = re.compile(r"/requests/day=([0-9-]{10})/version=([^/]*)/[^/._][^/]*\.parquet$")
_DAY = re.compile(r"/day=([0-9]{4}-[0-9]{2}-[0-9]{2})$")
_LABELS = re.compile(r"/labels/[0-9a-f]{2}/([0-9-]{10})-([0-9a-f]{64})\.parquet$")


@dataclasses.dataclass(frozen=True)
class CapturedFile:
    path: str
    """In the filesystem of the store."""
    model: str
    day: str
    version: str
    size: int


@dataclasses.dataclass(frozen=True)
class CaptureStore:
    """The captures below `root`, a path or URI. Its methods raise StorageError if it does not answer."""

    root: str

    def list_models(self) -> list[str]:
        """Models with captured requests or labels, in order."""
        with self._reading() as (files, folder):
            return sorted(
                unquote(entry["name"].rstrip("/").rpartition("/")[2])
                for entry in list_entries(files, folder)
                if entry["type"] == "directory"
            )

    def require_model(self, model: str) -> None:
        """Raises NotFoundError."""
        known = self.list_models()
        if model not in known:
            told = (
                unknown_name("captured model", model, known)
                if known
                else f"Nothing is captured in {self.root}"
            )
            raise NotFoundError(f"{told}; a serving spec captures with: capture: {{share: 1}}")

    def list_files(
        self, model: str, *, since: str = "", until: str = "", version: str = ""
    ) -> list[CapturedFile]:
        """Files of captured requests in order of days, of which `since` and `until` are the first and the last."""
        _check_day(since)
        _check_day(until)
        with self._reading() as (files, folder):
            base = f"{folder}/{quote_part(model)}/requests"
            entries = [(_day(entry), _name(entry)) for entry in list_entries(files, base)]
            days = [name for day, name in entries if day and since <= day and (not until or day <= until)]
            found = []
            for day in days:
                for path, entry in sorted(files.find(day, detail=True).items()):
                    match = _FILE.search(f"/{path}")
                    if match and version in ("", unquote(match[2])):
                        found.append(
                            CapturedFile(path, model, match[1], unquote(match[2]), int(entry["size"] or 0))
                        )
        return sorted(found, key=lambda file: (file.day, file.path))

    def list_labels(self, model: str) -> list[CapturedFile]:
        """Files of labels in order of the days on which they arrived."""
        with self._reading() as (files, folder):
            base = f"{folder}/{quote_part(model)}/labels"
            found = files.find(base, detail=True) if files.exists(base) else {}
            matched = [(path, entry, _LABELS.search(f"/{path}")) for path, entry in found.items()]
            labels = [
                CapturedFile(path, model, match[1], "", int(entry["size"] or 0))
                for path, entry, match in matched
                if match
            ]
        return sorted(labels, key=lambda file: (file.day, file.path))

    def has_labels(self, model: str, digest: str) -> bool:
        """Whether labels of this content were stored before, on any day."""
        with self._reading() as (files, folder):
            base = f"{folder}/{quote_part(model)}/labels/{digest[:2]}"
            return any(entry["name"].endswith(f"-{digest}.parquet") for entry in list_entries(files, base))

    def write_requests(self, model: str, day: str, version: str, name: str, data: bytes) -> None:
        self._write(
            f"{quote_part(model)}/requests/day={day}/version={quote_part(version)}", f"{name}.parquet", data
        )

    def write_labels(self, model: str, day: str, digest: str, data: bytes) -> None:
        self._write(f"{quote_part(model)}/labels/{digest[:2]}", f"{day}-{digest}.parquet", data)

    def write_deletion(self, model: str, record: dict[str, Any]) -> None:
        moment = datetime.datetime.now(datetime.UTC)
        name = f"{moment:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}.json"
        self._write(f"{quote_part(model)}/deletions", name, json.dumps(record, indent=1).encode())

    def read_deletions(self, model: str) -> list[dict[str, Any]]:
        with self._reading() as (files, folder):
            found = list_entries(files, f"{folder}/{quote_part(model)}/deletions")
            return [json.loads(files.cat_file(entry["name"])) for entry in sorted(found, key=_name)]

    def replace(self, path: str, data: bytes) -> None:
        """A file of this store with new content."""
        folder, _, name = path.rpartition("/")
        self._write(None, name, data, folder)

    def remove(self, path: str) -> None:
        with self._writing() as (files, _), contextlib.suppress(FileNotFoundError):
            files.rm_file(path)

    def expire(self, model: str, before: str, most: int) -> int:
        """Remove up to `most` files of requests and labels of days before `before`, the oldest first; other writers
        may do the same. Returns their number."""
        old = [file for file in self.list_files(model) if file.day < before]
        old += [file for file in self.list_labels(model) if file.day < before]
        for file in old[:most]:
            self.remove(file.path)
        with self._writing() as (files, folder):
            for entry in list_entries(files, f"{folder}/{quote_part(model)}/requests"):
                if _day(entry) and _day(entry) < before and len(old) <= most:
                    with contextlib.suppress(OSError):
                        files.rm(entry["name"], recursive=True)
        return min(len(old), most)

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[pq.ParquetFile]:
        with self._reading() as (files, _), files.open(path, "rb") as file:
            yield pq.ParquetFile(file)

    def _write(self, below: str | None, name: str, data: bytes, folder: str = "") -> None:
        with self._writing() as (files, root):
            self._files.write_whole(files, folder if below is None else f"{root}/{below}", name, data)

    @property
    def _files(self) -> FileStore:
        return FileStore(self.root, "Captures")

    def _reading(self) -> contextlib.AbstractContextManager[tuple[Any, str]]:
        return self._files.reading()

    def _writing(self) -> contextlib.AbstractContextManager[tuple[Any, str]]:
        return self._files.writing()


def find_root(storage_path: str) -> str:
    """The root below a storage path, which is the same on all nodes."""
    return locations.join(storage_path, FOLDER)


def _name(entry: dict[str, Any]) -> str:
    return str(entry["name"])


def _day(entry: dict[str, Any]) -> str:
    """Of a folder of requests; empty for another folder."""
    found = _DAY.search(_name(entry).rstrip("/"))
    return found[1] if found else ""


def _check_day(day: str) -> None:
    try:
        datetime.date.fromisoformat(day or "2026-01-31")
    except ValueError:
        raise SpecError(f"{day!r} is no day; give one such as 2026-01-31") from None
