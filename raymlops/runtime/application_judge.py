"""Judges an application from the counts in the store: the newest of each version that is watched, with its reference,
again and again; records what it finds as incidents. Starts no process.

All it knows can be read again, so that one that is killed loses nothing: counts, references and thresholds are in the
store, and up to when was judged.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raymlops.errors import RaymlopsError, UnreachableError, describe_cause
from raymlops.events.event import Event
from raymlops.events.incident import Incident, Watched
from raymlops.events.incidents import Incidents, find_location
from raymlops.file_store import FileStore, quote_part
from raymlops.monitoring import incident_rules
from raymlops.monitoring import judge as judging
from raymlops.monitoring.baseline import Baseline, Thresholds
from raymlops.monitoring.judgement import ApplicationJudgement, Judgement, to_time
from raymlops.monitoring.recent_counts import RecentCounts
from raymlops.monitoring.season import UTC
from raymlops.monitoring.segments import find_segments
from raymlops.monitoring.tick_store import TickStore, find_root
from raymlops.monitoring.ticks import Tick
from raymlops.settings import Settings

LOG = logging.getLogger("raymlops.monitoring")
WHO = "monitoring"
SETTLED_S = 900.0
"""Seconds after which no more counts of a tick come; those of newer ones are read each time."""
_LAG_S = 15.0
"""Ticks that ended so long ago are judged: replicas have told of them by then."""
_HISTORY_DAYS = 8
"""Of counts that are read at the start."""
_DAY_S = 86_400.0
_STEP_S = 6 * 3600.0
_FORGET_S = 30 * _DAY_S
_LIVE = frozenset({"endpoint", "node", "shadow", "canary"})
"""Roles that are judged as they answer; tables are judged where they are predicted."""

Key = tuple[str, str, str]
"""Model, version, and the digest of the reference."""


@dataclasses.dataclass
class _Version:
    baseline: Baseline
    thresholds: Thresholds
    counts: RecentCounts
    """Of ticks that are settled."""


class ApplicationJudge:
    """The judge of one process. `root` is the folder of the counts, by default that of the settings. `emit` is told
    what changes, such as `Notifier.emit`."""

    def __init__(
        self,
        application: str,
        settings: Settings,
        emit: Callable[[Event], None] = lambda event: None,
        root: str = "",
    ) -> None:
        self._application = application
        self._root = root or find_root(settings.storage_path)
        self._store = TickStore(self._root, application)
        self._at = time.time()
        """Of the last run; incidents are recorded as of then."""
        self._incidents = Incidents(
            find_location(settings), application, emit=emit, clock=lambda: to_time(self._at)
        )
        self._versions: dict[Key, _Version] = {}
        self._settled: float | None = None
        """Counts up to here are in `_versions`."""
        self._judged: float | None = None
        self._alarmed: dict[Watched, float] = {}
        """When each was last beyond its threshold."""
        self._problems: dict[Key, str] = {}

    def run(self, at: float | None = None) -> ApplicationJudgement:
        """Judge what came since the last time, and record it. Raises StorageError if the store does not answer; what
        could not be recorded is in the notes, and is judged again with the next run."""
        self._at = at = time.time() if at is None else at
        since = self._read_judged(at)
        versions = self._judge(at - _LAG_S, since)
        notes = list(self._problems.values())
        try:
            known = self._incidents.read()
            for one in versions:
                for alarm in incident_rules.choose_alarms(one, known):
                    self._incidents.raise_or_update(alarm, WHO)
                for verdict in one.verdicts:
                    watched = Watched(one.model, one.version, verdict.family, verdict.segment)
                    self._alarmed[watched] = verdict.until
            self._count_clean_day(known, versions, since, at - _LAG_S)
            self._write_judged(at - _LAG_S)
            known = self._incidents.read()
        except UnreachableError as error:
            notes.append(f"Alarms are not recorded: {error}")
            known = ()
        return ApplicationJudgement(self._application, at, versions, tuple(reversed(known)), tuple(notes))

    def look(self, at: float | None = None) -> ApplicationJudgement:
        """Judge the newest ticks, and record nothing. Raises StorageError."""
        at = time.time() if at is None else at
        versions = self._judge(at, None)
        notes = list(self._problems.values())
        known: Sequence[Incident] = ()
        try:
            known = self._incidents.read()
        except UnreachableError as error:
            notes.append(str(error))
        return ApplicationJudgement(self._application, at, versions, tuple(reversed(known)), tuple(notes))

    def resend(self) -> None:
        """Tell again what a process that was killed may have recorded and not told. Raises UnreachableError."""
        self._incidents.resend()

    def _judge(self, at: float, since: float | None) -> tuple[Judgement, ...]:
        settings = self._store.read_settings()
        newest = self._read(settings, at)
        rate = float(settings.get("false_alarms_per_month", 1.0))
        found: dict[tuple[str, str], tuple[int, Judgement]] = {}
        for key, held in sorted(self._versions.items()):
            counts = held.counts.copy()
            counts.add(newest.get(key, ()))
            if not counts.last:
                continue
            self._complete(key, held, counts, at)
            subject = judging.Subject(key[0], key[1], rate)
            judged = judging.judge(subject, held.baseline, held.thresholds, counts, at, since)
            # a version whose reference was made again is judged by the newer one
            if counts.last > found.get(key[:2], (0, None))[0]:
                found[key[:2]] = counts.last, judged
        return tuple(judged for _, judged in found.values())

    def _read(self, settings: Mapping[str, Any], at: float) -> dict[Key, list[Tick]]:
        """The ticks that are not settled; those that are become part of the versions."""
        settled = at - SETTLED_S
        first = self._settled if self._settled is not None else at - _HISTORY_DAYS * _DAY_S
        while first < settled:  # some hours at a time: the counts of days need much memory
            last = min((first // _STEP_S + 1) * _STEP_S, settled)
            for key, ticks in self._read_live(settings, first, last).items():
                self._versions[key].counts.add(ticks)
            self._settled = first = last
        return self._read_live(settings, first, at)

    def _read_live(self, settings: Mapping[str, Any], first: float, last: float) -> dict[Key, list[Tick]]:
        found: dict[Key, list[Tick]] = {}
        for tick in self._store.read(first, last):
            place = tick.place
            key = place.model, place.version, place.reference
            if place.role in _LIVE and place.reference and self._open(key, settings):
                found.setdefault(key, []).append(tick)
        return found

    def _open(self, key: Key, settings: Mapping[str, Any]) -> bool:
        if key in self._versions:
            return True
        if key in self._problems:
            return False
        try:
            reference = self._store.read_reference(key[2])
        except RaymlopsError as error:
            self._problems[key] = f"{key[0]} v{key[1]} is not judged: {error}"
            LOG.error("%s", self._problems[key])
            return False
        chosen = tuple(settings.get("segments") or ()) or None
        zone = str(settings.get("timezone", UTC))
        baseline = Baseline.of(reference, find_segments(reference, chosen), zone)
        digest = hashlib.sha256(json.dumps([key[2], zone, sorted(baseline.rows)]).encode()).hexdigest()
        thresholds = self._read_thresholds(digest)
        self._versions[key] = _Version(baseline, thresholds, RecentCounts(reference, zone))
        return True

    def _complete(self, key: Key, held: _Version, counts: RecentCounts, at: float) -> None:
        """Thresholds that are simulated are kept for all who judge this version."""
        thresholds = judging.complete(held.thresholds, held.baseline, counts, at)
        if thresholds is not held.thresholds:
            held.thresholds = thresholds
            LOG.info("thresholds of %s v%s are known", key[0], key[1])
            self._write(f"thresholds/{thresholds.digest}.json", thresholds.to_json())

    def _count_clean_day(
        self, known: Sequence[Incident], versions: Sequence[Judgement], since: float, at: float
    ) -> None:
        """When a day has ended since the last run."""
        day = incident_rules.day_before(at)
        begin = datetime.datetime.combine(day, datetime.time(), datetime.UTC).timestamp()
        if since >= begin + _DAY_S or not any(one.open for one in known):
            return
        seen = {
            (one.model, one.version)
            for one in versions
            if one.row_counts and any(begin <= start < begin + _DAY_S for start in one.row_counts.times)
        }
        clean = incident_rules.find_clean(known, self._alarmed, seen, day)
        if clean:
            self._incidents.close_clean(clean, WHO)

    def _read_judged(self, at: float) -> float:
        """Up to when was judged; at the first time the last hour is looked at."""
        if self._judged is None:
            held = self._read_json("judged.json")
            self._judged = float(held.get("until", at - 3600.0))
            with contextlib.suppress(TypeError, ValueError):
                self._alarmed = {Watched(*one): float(last) for *one, last in held.get("alarmed", [])}
        return min(max(self._judged, at - _DAY_S), at)

    def _write_judged(self, until: float) -> None:
        self._judged = until
        self._alarmed = {key: last for key, last in self._alarmed.items() if last > until - _FORGET_S}
        alarmed = [[*key, last] for key, last in sorted(self._alarmed.items())]
        self._write("judged.json", {"until": until, "alarmed": alarmed})

    def _read_thresholds(self, digest: str) -> Thresholds:
        held = self._read_json(f"thresholds/{digest}.json")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            known = Thresholds.from_json(held)
            if known.digest == digest:
                return known
        return Thresholds(digest)

    @property
    def _files(self) -> FileStore:
        return FileStore(self._root, "Counts")

    def _read_json(self, name: str) -> dict[str, Any]:
        """Empty if it is not there, or damaged: it is made again."""
        with (
            contextlib.suppress(FileNotFoundError, ValueError, TypeError),
            self._files.reading() as (files, folder),
        ):
            return dict(json.loads(files.cat_file(f"{folder}/{quote_part(self._application)}/{name}")))
        return {}

    def _write(self, name: str, held: Mapping[str, Any]) -> None:
        """What cannot be written is only known to this process."""
        below, _, last = f"{quote_part(self._application)}/{name}".rpartition("/")
        try:
            with self._files.writing() as (files, folder):
                self._files.write_whole(files, f"{folder}/{below}", last, json.dumps(held).encode())
        except RaymlopsError as error:
            LOG.warning("judging %s: %s", self._application, describe_cause(error))


def judge_application(
    application: str, settings: Settings, *, root: str = "", at: float | None = None
) -> ApplicationJudgement:
    """All versions of an application as they are now, for a person to look at; records nothing. Raises StorageError."""
    return ApplicationJudge(application, settings, root=root).look(at)
