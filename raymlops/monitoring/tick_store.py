"""Where the ticks of an application are: Parquet files by day, at any path or URI.

    ROOT/APPLICATION/ticks/day=2026-01-31/FIRST-LAST-WRITER-NUMBER.parquet     FIRST and LAST start of its ticks
    ROOT/APPLICATION/losses/day=2026-01-31/REPLICA.json
    ROOT/APPLICATION/replicas/REPLICA.json                                     those that count now
    ROOT/APPLICATION/references/SHA256.zip                                     to whose cells counts belong
    ROOT/APPLICATION/monitoring.json                                           settings, as they were deployed last

Files appear whole or not at all. A file that joins others names them, so that a reader counts none twice whenever it
reads; ticks of one place and time may be in several files, and are added.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import io
import json
import logging
import re
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raymlops import locations
from raymlops.errors import NotFoundError, StorageError, UntrustedError
from raymlops.file_store import FileStore, list_entries, quote_part
from raymlops.monitoring.reference import Reference
from raymlops.monitoring.ticks import SCHEMA, Loss, Tick, from_table, sum_ticks, to_table

LOG = logging.getLogger(__name__)
FOLDER = "monitoring"
"""Below the storage path."""
_DAY_S = 86_400
_FILE = re.compile(r"(\d+)-(\d+)-([0-9a-z]+)-(\d+)\.parquet")
_DAY = re.compile(r"day=([0-9]{4}-[0-9]{2}-[0-9]{2})")
_REPLACES, _APPLIED = b"raymlops.replaces", b"raymlops.applied"
_TRIES = 5
"""Of a reader, while files are joined."""


class TickFile(NamedTuple):
    """A file of one day, whose ticks start from `first` to `last`, and that joins so many others."""

    path: str
    first: int
    last: int
    joins: int = 0

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


class Applied(NamedTuple):
    """The last message of a replica that was written: its number, and the rows by path that the replica had answered,
    as this message and those before it tell."""

    number: int
    told: Mapping[str, int]


class Held(NamedTuple):
    """What is in a file: the names of the files that it replaces, and the last message of each replica."""

    table: pa.Table
    replaces: frozenset[str]
    applied: Mapping[str, Applied]


@dataclasses.dataclass(frozen=True)
class TickStore:
    """The ticks of one application below `root`, a path or URI. Methods raise StorageError if it does not answer."""

    root: str
    application: str

    @property
    def _files(self) -> FileStore:
        return FileStore(self.root, "Counts")

    def write(self, day: str, ticks: Sequence[Tick], applied: Mapping[str, Applied]) -> str:
        """A file of ticks that start on this day, UTC; returns its name. `applied` is the last message of each replica
        that it holds."""
        first, last = min(tick.start for tick in ticks), max(tick.start for tick in ticks)
        return self._write(day, [to_table(ticks)], applied, (first, last), ())

    def _write(
        self,
        day: str,
        tables: Iterable[pa.Table],
        applied: Mapping[str, Applied],
        span: tuple[int, int],
        replaces: Sequence[str],
    ) -> str:
        """Each table is a group of rows by itself, so that a day need not be in memory."""
        told = {_REPLACES: json.dumps(list(replaces)), _APPLIED: json.dumps(dict(applied))}
        schema = SCHEMA.with_metadata({**(SCHEMA.metadata or {}), **told})
        stream = io.BytesIO()
        with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
            for table in tables:
                writer.write_table(table.replace_schema_metadata(schema.metadata))
        # two processes that join the same files write the same one
        mark = hashlib.sha256("\n".join(sorted(replaces)).encode()).hexdigest()[:12]
        mark = mark if replaces else secrets.token_hex(6)
        name = f"{span[0]}-{span[1]}-{mark}-{len(replaces)}.parquet"
        with self._files.writing() as (files, folder):
            self._files.write_whole(files, f"{self._below(folder)}/day={day}", name, stream.getvalue())
        return name

    def list_days(self) -> list[str]:
        with self._files.reading() as (files, folder):
            return sorted(_days(list_entries(files, self._below(folder))))

    def list_files(self, day: str) -> list[TickFile]:
        """In order of time."""
        with self._files.reading() as (files, folder):
            entries = list_entries(files, f"{self._below(folder)}/day={day}")
        found = []
        for path in (str(entry["name"]) for entry in entries):
            match = _FILE.fullmatch(path.rpartition("/")[2])
            if match:
                found.append(TickFile(path, int(match[1]), int(match[2]), int(match[4])))
        return sorted(found, key=lambda file: (file.first, file.name))

    def open(self, file: TickFile) -> Held:
        """Raises FileNotFoundError if it was joined with others meanwhile, ValueError for a damaged file."""
        with self._files.reading() as (files, _):
            data = files.cat_file(file.path)
        try:
            table = pq.read_table(io.BytesIO(data))
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{file.path} cannot be read: {error}") from None
        return Held(table, *_read_metadata(table.schema.metadata or {}))

    def read(self, since: float = 0.0, until: float = float("inf"), segment: str | None = None) -> list[Tick]:
        """Ticks that start from `since` until before `until`, in seconds since 1970 UTC, summed over replicas; of one
        `segment`, if it is given. Damaged files are logged and passed over."""
        first, last = _day_of(since), _day_of(until)
        found: list[Tick] = []
        for day in self.list_days():
            if first <= day <= last:
                found += self._read_day(day, since, until, segment)
        return sum_ticks(found)

    def _read_day(self, day: str, since: float, until: float, segment: str | None) -> list[Tick]:
        for _ in range(_TRIES):
            listed = [file for file in self.list_files(day) if file.last >= since and file.first < until]
            with contextlib.suppress(FileNotFoundError):  # joined with others since it was listed
                held = {file.name: one for file in listed if (one := self._open_or_skip(file)) is not None}
                replaced = {name for one in held.values() for name in one.replaces}
                return [
                    tick
                    for name, one in held.items()
                    if name not in replaced
                    for tick in from_table(_choose(one.table, since, until, segment))
                ]
        raise StorageError(f"Counts of {day} in {self.root} change faster than they can be read; try again")

    def _open_or_skip(self, file: TickFile) -> Held | None:
        try:
            held = self.open(file)
            from_table(held.table.slice(0, 0))
            return held
        except ValueError as error:
            LOG.error("counts are passed over: %s", error)
            return None

    def compact(self, day: str, *, is_over: bool = True) -> int:
        """Join the files of a day: those that join no others to one whose ticks are summed over replicas, and, if the
        day `is_over`, then all to one. Safe wherever it is stopped, and beside readers; one process at a time. Returns
        the number of files that were joined."""
        joined = self._join([file for file in self.list_files(day) if not file.joins], day, summed=True)
        return joined + (self._join(self.list_files(day), day, summed=False) if is_over else 0)

    def _join(self, files: Sequence[TickFile], day: str, *, summed: bool) -> int:
        """Files that others replace already are removed, only."""
        told = {file: one for file in self.list_files(day) if (one := self._read_head(file)) is not None}
        replaced = {name for replaces, _ in told.values() for name in replaces}
        kept = [file for file in files if file in told and file.name not in replaced]
        if len(kept) > 1:
            applied: dict[str, Applied] = {}
            for file in kept:
                _add_applied(applied, told[file][1])
            span = min(file.first for file in kept), max(file.last for file in kept)
            tables = (self.open(file).table.select(SCHEMA.names).cast(SCHEMA) for file in kept)
            if summed:
                ticks = sum_ticks(tick for table in tables for tick in from_table(table))
                tables = (one for one in [to_table(ticks)])
            self._write(day, tables, applied, span, [file.name for file in kept])
            replaced |= {file.name for file in kept}
        for file in told:
            if file.name in replaced:
                self._remove(file.path)
        return len(kept) if len(kept) > 1 else 0

    def _read_head(self, file: TickFile) -> tuple[frozenset[str], dict[str, Applied]] | None:
        """What a file replaces, and the messages that it holds; None if it is damaged."""
        try:
            with self._files.reading() as (files, _), files.open(file.path, "rb") as opened:
                return _read_metadata(pq.ParquetFile(opened).schema_arrow.metadata or {})
        except (pa.ArrowException, ValueError) as error:
            LOG.error("%s cannot be read: %s", file.path, error)
            return None

    def find_applied(self, wanted: Collection[str] = (), days: int = 3) -> dict[str, Applied]:
        """The last message of each replica, of the last days with ticks, and of further ones until all `wanted`
        replicas are found."""
        applied: dict[str, Applied] = {}
        for number, day in enumerate(reversed(self.list_days())):
            if number >= days and all(replica in applied for replica in wanted):
                break
            for file in self.list_files(day):
                with contextlib.suppress(FileNotFoundError):
                    head = self._read_head(file)
                    _add_applied(applied, head[1] if head is not None else {})
        return applied

    def write_replica(self, name: str, told: Mapping[str, str]) -> None:
        """A replica that counts, until it is removed: of those that are killed, the loss must be found."""
        with self._files.writing() as (files, folder):
            folder = self._below(folder, "replicas")
            self._files.write_whole(
                files, folder, f"{quote_part(name)}.json", json.dumps(dict(told)).encode()
            )

    def remove_replica(self, name: str) -> None:
        with self._files.writing() as (files, folder), contextlib.suppress(FileNotFoundError):
            files.rm_file(f"{self._below(folder, 'replicas')}/{quote_part(name)}.json")

    def read_replicas(self) -> dict[str, dict[str, str]]:
        with self._files.reading() as (files, folder):
            found = {}
            for entry in list_entries(files, self._below(folder, "replicas")):
                path = str(entry["name"])
                with contextlib.suppress(FileNotFoundError):
                    name = unquote(path.rpartition("/")[2].removesuffix(".json"))
                    found[name] = dict(json.loads(files.cat_file(path)))
        return found

    def write_loss(self, loss: Loss) -> None:
        """Told again, it replaces what was told of this replica."""
        data = json.dumps(dataclasses.asdict(loss), indent=1).encode()
        with self._files.writing() as (files, folder):
            day = f"{self._below(folder, 'losses')}/day={_day_of(loss.time)}"
            self._files.write_whole(files, day, f"{quote_part(loss.replica)}.json", data)

    def read_losses(self, since: float = 0.0, until: float = float("inf")) -> list[Loss]:
        """In order of time; of each replica one, with its rows if they became known."""
        found: dict[str, Loss] = {}
        with self._files.reading() as (files, folder):
            base = self._below(folder, "losses")
            for day in sorted(_days(list_entries(files, base))):
                if _day_of(since) <= day <= _day_of(until):
                    for entry in list_entries(files, f"{base}/day={day}"):
                        if str(entry["name"]).endswith(".json"):
                            loss = Loss(**json.loads(files.cat_file(entry["name"])))
                            if loss.replica not in found or loss.rows is not None:
                                found[loss.replica] = loss
        kept = [loss for loss in found.values() if since <= loss.time < until]
        return sorted(kept, key=lambda loss: (loss.time, loss.replica))

    def write_reference(self, content: bytes) -> str:
        """Kept under its SHA-256, which is returned."""
        digest = hashlib.sha256(content).hexdigest()
        with self._files.writing() as (files, folder):
            below = self._below(folder, "references")
            if not files.exists(f"{below}/{digest}.zip"):
                self._files.write_whole(files, below, f"{digest}.zip", content)
        return digest

    def read_reference(self, digest: str) -> Reference:
        """Raises NotFoundError if it is not here, UntrustedError if it is another one, ArtifactError."""
        try:
            with self._files.reading() as (files, folder):
                content = files.cat_file(f"{self._below(folder, 'references')}/{quote_part(digest)}.zip")
        except FileNotFoundError:
            raise NotFoundError(
                f"No reference {digest[:12]} of {self.application!r} in {self.root}; deploy the application again"
            ) from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise UntrustedError(
                f"Reference {digest[:12]} in {self.root} was changed; deploy the application again"
            )
        return Reference.from_bytes(content)

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        with self._files.writing() as (files, folder):
            data = json.dumps(dict(settings), indent=1).encode()
            self._files.write_whole(
                files, self._below(folder).removesuffix("/ticks"), "monitoring.json", data
            )

    def read_settings(self) -> dict[str, Any]:
        """Empty if the application was never deployed."""
        try:
            with self._files.reading() as (files, folder):
                path = f"{self._below(folder).removesuffix('/ticks')}/monitoring.json"
                return dict(json.loads(files.cat_file(path)))
        except FileNotFoundError:
            return {}

    def expire(self, before: str) -> int:
        """Remove the days before `before`. Returns their number."""
        count = 0
        with self._files.writing() as (files, folder):
            for kind in ("ticks", "losses"):
                base = self._below(folder, kind)
                for day in _days(list_entries(files, base)):
                    if day < before:
                        with contextlib.suppress(FileNotFoundError):
                            files.rm(f"{base}/day={day}", recursive=True)
                        count += kind == "ticks"
        return count

    def _remove(self, path: str) -> None:
        with self._files.writing() as (files, _), contextlib.suppress(FileNotFoundError):
            files.rm_file(path)

    def _below(self, folder: str, kind: str = "ticks") -> str:
        return f"{folder}/{quote_part(self.application)}/{kind}"


def _choose(table: pa.Table, since: float, until: float, segment: str | None) -> pa.Table:
    """Before counts are unpacked: those of segments are many times those of all rows."""
    start = table["start"]
    held = pc.and_(pc.greater_equal(start, since), pc.less(start, until))
    return table.filter(held if segment is None else pc.and_(held, pc.equal(table["segment"], segment)))


def find_root(storage_path: str) -> str:
    """The root below a storage path, which is the same on all nodes."""
    return locations.join(storage_path, FOLDER)


def list_applications(root: str) -> list[str]:
    """Applications of which something was counted. Raises StorageError."""
    with FileStore(root, "Counts").reading() as (files, folder):
        entries = list_entries(files, folder)
        return sorted(
            unquote(str(entry["name"]).rstrip("/").rpartition("/")[2])
            for entry in entries
            if entry["type"] == "directory"
        )


def read_ticks(
    root: str, application: str, *, since: float = 0.0, until: float = float("inf"), version: str = ""
) -> list[Tick]:
    """Ticks that start from `since` until before `until`, in seconds since 1970 UTC, summed over replicas, in order of
    place and time; `version` alone, if it is given. Raises StorageError."""
    found = TickStore(root, application).read(since, until)
    return [tick for tick in found if version in ("", tick.place.version)]


def read_losses(
    root: str, application: str, *, since: float = 0.0, until: float = float("inf")
) -> list[Loss]:
    """What killed replicas and lost nodes had answered and not told. Raises StorageError."""
    return TickStore(root, application).read_losses(since, until)


def day_of(seconds: float) -> str:
    """The day of a time in seconds since 1970, UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).date().isoformat()


def _day_of(seconds: float) -> str:
    """Times that no calendar has are the first or the last day."""
    return day_of(min(max(seconds, 0.0), 253_402_300_799.0))


def _read_metadata(metadata: Mapping[bytes, bytes]) -> tuple[frozenset[str], dict[str, Applied]]:
    replaces = frozenset(map(str, json.loads(metadata.get(_REPLACES, b"[]"))))
    applied = json.loads(metadata.get(_APPLIED, b"{}"))
    return replaces, {str(replica): Applied(int(one[0]), dict(one[1])) for replica, one in applied.items()}


def _add_applied(into: dict[str, Applied], other: Mapping[str, Applied]) -> None:
    for replica, one in other.items():
        if replica not in into or one.number > into[replica].number:
            into[replica] = one


def _days(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for entry in entries:
        match = _DAY.fullmatch(str(entry["name"]).rstrip("/").rpartition("/")[2])
        if match:
            yield match[1]
