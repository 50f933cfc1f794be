"""The observer that keeps requests and their answers as Parquet files. Each replica writes its own files; if the store
is slow or away, answers are lost and counted, and no caller waits."""

import datetime
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import pyarrow as pa

from raymlops.captures.parquet import encode
from raymlops.captures.rows import Place, id_of, make_tables
from raymlops.captures.selection import (
    INPUTS,
    KINDS,
    OUTPUTS,
    Selection,
    is_in_share,
    name_secret,
    require_secret,
)
from raymlops.captures.store import CaptureStore
from raymlops.errors import SpecError, describe_cause, unknown_name
from raymlops.observers import Event, Observer
from raymlops.serving.endpoints.hosted import Hosted
from raymlops.serving.endpoints.label_store import LabelStore
from raymlops.serving.protocol.request_limits import RequestLimits
from raymlops.settings import read_environment
from raymlops.specs.monitoring import Capture
from raymlops.specs.serving import ServingSpec
from raymlops.tensors import Signature

LOG = logging.getLogger("raymlops.serving")
NAME = "capture"
_HELD_MB = 128.0
"""Megabytes of answers that wait for a store that is away; beyond, the oldest are lost."""
_RETRY_S, _LONGEST_S = 5.0, 60.0
_LOT, _LOT_BYTES, _LOT_S = 256, 2**22, 1.0
"""Requests that become a table at once: a table of few costs as much time as one of many. Fewer after a while, or if
their bodies are large."""
_EXPIRE_S = 600.0
"""Pause between two looks for old files, of which each removes at most `_EXPIRED`."""
_EXPIRED = 1000
_QUIET_S = 60.0


class _File:
    """The tables of one file to be."""

    def __init__(self) -> None:
        self.tables: list[pa.Table] = []
        self.bytes = self.requests = 0
        self.since = time.monotonic()


class CaptureObserver:
    """Takes answered requests of the share. `kinds` gives the types of a model's inputs in its contract; `sources` are
    what serves, by name."""

    observes = "inferences"

    def __init__(
        self,
        spec: Capture,
        selection: Selection,
        sources: Mapping[str, str],
        kinds: Callable[[str], Mapping[str, str]] = lambda model: {},
    ) -> None:
        self.store = CaptureStore(spec.path)
        self.captured = self.lost = 0
        self._spec, self._selection, self._sources, self._kinds = spec, selection, dict(sources), kinds
        self._files: dict[Place, _File] = {}
        self._raw: list[Event] = []
        self._raw_bytes, self._raw_since = 0, 0.0
        self._name, self._number = secrets.token_hex(6), 0
        self._models = set(sources)
        self._parameters: dict[str, set[str]] = {}
        self._expires = time.monotonic() + _RETRY_S
        self._retries, self._pause, self._told = 0.0, _RETRY_S, -_QUIET_S

    def observe(self, events: Sequence[Event]) -> None:
        share = self._spec.share
        kept = [event for event in events if event.status == 200 and is_in_share(id_of(event), share)]
        if kept:
            self._raw_since = self._raw_since or time.monotonic()
            self._raw += kept
            self._raw_bytes += sum(event.bytes_in + event.bytes_out for event in kept)
        self._work()

    def tick(self) -> None:
        if self._raw or self._files:
            self._work()
        if time.monotonic() >= self._expires:
            self._expires = time.monotonic() + _EXPIRE_S
            self._expire()

    def close(self) -> None:
        """Write what is there, with one try."""
        self._retries = 0.0
        self._convert()
        for place in list(self._files):
            self._write(place)
        self.lost += sum(file.requests for file in self._files.values())
        self._files.clear()

    def to_counts(self) -> dict[str, int]:
        """`captured` once written; `lost` if they could not be."""
        return {"captured": self.captured, "lost": self.lost}

    def _work(self) -> None:
        now = time.monotonic()
        if self._raw and (
            len(self._raw) >= _LOT or self._raw_bytes >= _LOT_BYTES or now - self._raw_since >= _LOT_S
        ):
            self._convert()
        if self._files:
            self._roll(now)

    def _convert(self) -> None:
        events, self._raw, self._raw_bytes, self._raw_since = self._raw, [], 0, 0.0
        if events:
            self._take(events)

    def _take(self, events: Sequence[Event]) -> None:
        try:
            made = list(make_tables(events, self._selection, self._sources, self._kinds, self._parameters))
        except Exception as error:  # one odd request must not take the others with it
            if len(events) == 1:
                self.lost += 1
                self._tell("a request cannot be captured", error)
                return
            for event in events:
                self._take([event])
            return
        for place, requests, table in made:
            file = self._files.setdefault(place, _File())
            file.tables.append(table)
            file.bytes += table.nbytes
            file.requests += requests
            self._models.add(place.model)

    def _roll(self, now: float) -> None:
        spec = self._spec
        if now >= self._retries:
            held = sum(file.bytes for file in self._files.values())
            for place, file in list(self._files.items()):
                if (
                    file.bytes >= spec.file_mb * 2**20
                    or now - file.since >= spec.file_s
                    or held >= _HELD_MB * 2**20 / 2
                ) and not self._write(place):
                    break
        while self._files and sum(file.bytes for file in self._files.values()) > _HELD_MB * 2**20:
            oldest = min(self._files, key=lambda place: self._files[place].since)
            self.lost += self._files.pop(oldest).requests

    def _write(self, place: Place) -> bool:
        """Whether the store took it; if not, it stays, and the next try is later."""
        file = self._files[place]
        try:
            for table in _concat(file.tables):
                self._number += 1
                name = f"{datetime.datetime.now(datetime.UTC):%H%M%S}-{self._name}-{self._number}"
                data = encode(table, self._describe(table))
                self.store.write_requests(place.model, place.day, place.version, name, data)
        except Exception as error:
            self._retries, self._pause = time.monotonic() + self._pause, min(2 * self._pause, _LONGEST_S)
            self._tell("the store does not take captured requests", error)
            return False
        self._pause = _RETRY_S
        del self._files[place]
        self.captured += file.requests
        return True

    def _describe(self, table: pa.Table) -> dict[str, str]:
        """What deleting and tracing need to know of a file."""
        person = self._selection.find_person(table.column_names)
        hashed = [
            name for name in table.column_names if "." in name and self._selection.hashes(*name.split(".", 1))
        ]
        return {
            "raymlops.person": person,
            "raymlops.hashed": "\n".join(hashed),
            "raymlops.secret": self._spec.secret,
            "raymlops.secret_id": name_secret(self._selection.secret) if hashed else "",
            "raymlops.share": repr(self._spec.share),
            "raymlops.file_s": repr(self._spec.file_s),
        }

    def _expire(self) -> None:
        oldest = datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(days=self._spec.days)
        try:
            for model in sorted(self._models):
                self.store.expire(model, oldest.isoformat(), _EXPIRED)
        except Exception as error:
            self._tell("old captured requests cannot be deleted", error)

    def _tell(self, what: str, error: Exception) -> None:
        if time.monotonic() - self._told >= _QUIET_S:
            self._told = time.monotonic()
            LOG.error("capture: %s: %s (%d lost so far)", what, describe_cause(error), self.lost)


def _concat(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """As few tables as types allow: a parameter may be a number in one request and a text in the next."""
    joined: list[pa.Table] = []
    try:
        return [pa.concat_tables(tables, promote_options="permissive")]
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        pass
    for table in tables:
        for place, one in enumerate(joined):
            try:
                joined[place] = pa.concat_tables([one, table], promote_options="permissive")
                break
            except (pa.ArrowInvalid, pa.ArrowTypeError):
                continue
        else:
            joined.append(table)
    return joined


def make_capture(
    spec: ServingSpec, hosted: Mapping[str, Hosted], sources: Mapping[str, str]
) -> tuple[dict[str, Observer], LabelStore | None]:
    """The observer under its name, and what stores labels, if the spec captures. Raises SpecError."""
    if spec.capture is None:
        return {}, None
    if spec.many is None:
        check_columns(spec.capture, [one.endpoint.signature for one in hosted.values()])

    def find_kinds(model: str) -> Mapping[str, str]:
        columns = hosted[model].columns if model in hosted else {}
        return {name: column.kind for name, column in columns.items()}

    selection = make_selection(spec.capture, read_environment())
    labels = LabelStore(spec.capture, selection, RequestLimits.of(spec.limits))
    return {NAME: CaptureObserver(spec.capture, selection, sources, find_kinds)}, labels


def make_selection(spec: Capture, variables: Mapping[str, str]) -> Selection:
    """Raises SpecError if `hash` is asked for, and the secret is not in the environment."""
    secret = b""
    if spec.hash:
        secret = require_secret(spec.secret, variables.get(spec.secret), "This replica")
    return Selection(spec.columns, spec.drop, spec.hash, spec.person, secret)


def check_columns(spec: Capture, signatures: Iterable[Signature]) -> None:
    """A misspelt name under `drop` would keep what must not be kept. Raises SpecError for a column that no model of the
    application has; parameters may have any name."""
    known: dict[str, None] = {}
    for signature in signatures:
        for kind, specs in ((INPUTS, signature.inputs), (OUTPUTS, signature.outputs)):
            for tensor in specs:
                known |= {tensor.name: None, f"{kind}.{tensor.name}": None}
    given = {"columns": spec.columns, "drop": spec.drop, "hash": spec.hash, "person": (spec.person,)}
    for option, names in given.items():
        for name in names:
            if name and name not in known and not name.startswith(f"{KINDS[-1]}."):
                told = unknown_name("column", name, [one for one in known if "." not in one])
                raise SpecError(f"capture.{option}: {told}; parameters of requests are named parameters.NAME")
