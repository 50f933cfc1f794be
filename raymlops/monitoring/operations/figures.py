"""What operational checks judge, and the alarms that they make. Gathers nothing and tells nobody."""

import dataclasses
import datetime
import functools
import math
from collections.abc import Collection, Mapping, Sequence

from raymlops.events.event import Severity
from raymlops.events.incident import Alarm, Watched
from raymlops.monitoring.operations.history import (
    DAY_S,
    HOUR_S,
    Counts,
    History,
    ModelKey,
    Sample,
    sum_counts,
)
from raymlops.specs.monitoring import Objectives, Operations

PAGE_PART = 0.25
"""A limit of days or of free storage, which raises a note, is a page below this part of it."""
HOLD = 0.8
"""An alarm that is open goes on until its number has gone this far back behind the limit: it does not flap."""


@dataclasses.dataclass(frozen=True)
class Certificate:
    path: str
    ends: float = math.inf
    """Unix seconds."""
    problem: str = ""
    """Why it cannot be read."""


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder where files are written."""

    name: str
    """Such as the storage."""
    path: str
    free: int = 0
    """Bytes."""
    total: int = 0
    problem: str = ""
    """Why it cannot be used."""


@dataclasses.dataclass(frozen=True)
class Figures:
    """What is seen of an application now. None stands for what could not be found out, which is neither an alarm nor
    a clean judgement."""

    application: str
    now: Sample
    state: str | None = None
    """Serve's: RUNNING, DEPLOYING, UNHEALTHY, DEPLOY_FAILED, NOT_STARTED; GONE if Serve does not know it."""
    cause: str = ""
    """Why it is not healthy, in a sentence."""
    queue: int = 0
    """Requests that one replica lets wait or run."""
    unavailable: Mapping[str, str] | None = None
    """Models of a folder that cannot be loaded -> reason."""
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Model -> its source, which is no longer there."""
    certificates: Sequence[Certificate] | None = None
    keys: Mapping[str, float] | None = None
    """Name -> Unix seconds when its last key ends, for those that end."""
    keys_file: str = ""
    keys_problem: str = ""
    places: Sequence[Place] | None = None
    tracking_problem: str | None = None
    """Empty if it answers."""


@dataclasses.dataclass(frozen=True)
class Round:
    """All that a check may use."""

    figures: Figures
    history: History
    """With the present sample."""
    slo: Objectives
    settings: Operations
    open: Collection[Watched]
    """Operational incidents that are open."""
    _counted: dict[float, dict[ModelKey, Counts]] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def at(self) -> float:
        return self.figures.now.at

    def is_open(self, check: str, key: ModelKey = ("", "")) -> bool:
        return name_watched(check, key) in self.open

    def hold(self, check: str, key: ModelKey = ("", "")) -> float:
        """What a limit that is exceeded upwards is multiplied by."""
        return HOLD if self.is_open(check, key) else 1.0

    @functools.cached_property
    def steps(self) -> list[tuple[tuple[float, float], dict[ModelKey, Counts]]]:
        """Of the whole history: two moments, and what each version counted between them, if anything."""
        return list(self.history.steps())

    def find_first(self, key: ModelKey) -> float:
        """When the first requests to a version came, as far as the history goes; now if there were none."""
        return next((before for (before, _), step in self.steps if key in step), self.at)

    def count(self, key: ModelKey, seconds: float) -> Counts:
        """What a version counted since the last sample before so many seconds ago."""
        if seconds not in self._counted:
            since = self.at - seconds
            self._counted[seconds] = sum_counts(step for (_, after), step in self.steps if after > since)
        return self._counted[seconds].get(key, Counts())


def name_watched(check: str, key: ModelKey = ("", "")) -> Watched:
    return Watched(*key, "operations", check=check)


def make_alarm(
    round_: Round, check: str, sentence: str, severity: Severity = "note", *, key: ModelKey = ("", ""),
    since: float = 0.0, **more: object,
) -> Alarm:  # fmt: skip
    return Alarm(
        name_watched(check, key),
        sentence,
        severity,
        at=to_time(round_.at),
        since=to_time(since) if since else None,
        **more,  # type: ignore[arg-type]
    )


def to_time(at: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at, datetime.UTC)


def name_model(key: ModelKey) -> str:
    return " version ".join(part for part in key if part)


def to_percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def to_duration(seconds: float) -> str:
    """In words, such as 5 minutes."""
    for unit, length in (("day", DAY_S), ("hour", HOUR_S), ("minute", 60.0)):
        if seconds >= 2 * length or (length == HOUR_S and seconds >= length):
            number = round(seconds / length)
            return f"{number} {unit}{'s' if number != 1 else ''}"
    return f"{seconds:.0f} seconds"


def to_bytes(number: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"
