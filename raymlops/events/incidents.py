"""The incidents of an application: raised and closed by judges, acknowledged, silenced and closed by people; every
change is recorded first, and then told."""

import dataclasses
import datetime
from collections.abc import Callable, Collection

from raymlops import locations
from raymlops.errors import NotFoundError, SpecError, UnreachableError, unknown_name
from raymlops.events import incident as states
from raymlops.events.event import Event
from raymlops.events.incident import Alarm, Entry, Incident, Watched
from raymlops.events.incident_log import IncidentLog, list_applications
from raymlops.settings import Settings

_ATTEMPTS = 50
"""Of writing an entry, while others write, too."""
CLEAN_JUDGEMENTS = 3
_RESENT = datetime.timedelta(hours=1)

Clock = Callable[[], datetime.datetime]


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _tell_nobody(event: Event) -> None:
    pass


class Incidents:
    """`location` is the folder of all applications, at any path or URI. `emit` is told of what changes, such as
    `Notifier.emit`. Methods raise UnreachableError if the store does not answer: the judge tries again with its next
    judgement, and nothing was told.

        incidents = Incidents(find_location(settings), "flights", emit=notifier.emit)
        incidents.resend()                              # what a process that was killed may not have told
        incidents.raise_or_update(alarm)
        incidents.close_clean({Watched("flights", "4", "score")})
    """

    def __init__(
        self, location: str, application: str, *, emit: Callable[[Event], None] = _tell_nobody,
        clean_judgements: int = CLEAN_JUDGEMENTS, clock: Clock = _now,
    ) -> None:  # fmt: skip
        if not application or "/" in application or application.startswith("."):
            raise SpecError(
                f"{application!r} is no name of an application: it must not be empty, begin with . or have /"
            )
        self.application, self._emit, self._clean, self._clock = application, emit, clean_judgements, clock
        self._log = IncidentLog(locations.join(location, application))

    def read(self) -> tuple[Incident, ...]:
        """All of them, the oldest first."""
        return tuple(states.fold(self.application, self._log.read()).values())

    def find(self, number: int) -> Incident:
        """Raises NotFoundError."""
        found = {one.number: one for one in self.read()}
        if number not in found:
            known = [f"{self.application}/{one}" for one in found]
            raise NotFoundError(unknown_name("alarm", f"{self.application}/{number}", known))
        return found[number]

    def raise_or_update(self, alarm: Alarm, who: str = "monitoring") -> Incident:
        """The open incident of what the alarm is about, raised if there is none; told if that is news."""

        def decide() -> tuple[Entry | None, Incident | None]:
            known = states.find_open(self.read(), alarm.watched)
            return states.decide(known, alarm, who, self._clock()), known

        found = self._record(decide)
        assert found is not None  # raised, or known
        return found

    def close_clean(self, watched: Collection[Watched], who: str = "monitoring") -> tuple[Incident, ...]:
        """Count one clean judgement of each of these; those whose incident that closes. Costs one listing of the log if
        none has an open incident."""
        due = [one.alarm.watched for one in self.read() if one.open and one.alarm.watched in watched]
        changed = [self._count_clean(one, who) for one in due]
        return tuple(one for one in changed if one is not None and not one.open)

    def _count_clean(self, watched: Watched, who: str) -> Incident | None:
        def decide() -> tuple[Entry | None, Incident | None]:
            known = states.find_open(self.read(), watched)
            return (states.decide_clean(known, self._clean, who, self._clock()) if known else None), known

        return self._record(decide)

    def acknowledge(self, number: int, who: str, why: str) -> Incident:
        """Raises NotFoundError, and SpecError if it is closed."""
        return self._act(number, lambda: Entry(number, "acknowledged", self._clock(), who, why))

    def silence(self, number: int, until: datetime.datetime, who: str, why: str = "") -> Incident:
        """Tell no updates until a time. Raises NotFoundError, and SpecError if it is closed or the time has passed."""
        if until.tzinfo is None or until <= self._clock():
            raise SpecError(
                f"{until.isoformat()} is no time in the future with a time zone; give a later one"
            )
        return self._act(number, lambda: Entry(number, "silenced", self._clock(), who, why, until=until))

    def close(self, number: int, who: str, why: str) -> Incident:
        """Raises NotFoundError, and SpecError if it is closed."""
        return self._act(number, lambda: Entry(number, "closed", self._clock(), who, why))

    def resend(self) -> None:
        """Emit what was recorded in the last hour again: a process that was killed between recording and telling has
        not told it. What was told is not told twice, as its ids are known to the spool."""
        oldest = self._clock() - _RESENT
        for one in self.read():
            for entry in one.entries:
                if entry.at > oldest:
                    self._tell(one, entry)

    def _act(self, number: int, make: Callable[[], Entry]) -> Incident:
        def decide() -> tuple[Entry | None, Incident | None]:
            known = self.find(number)
            if not known.open:
                raise SpecError(
                    f"The alarm {known.id} is closed since {known.closed:%Y-%m-%d %H:%M}; nothing is to be done"
                )
            return make(), known

        found = self._record(decide)
        assert found is not None
        return found

    def _record(self, decide: Callable[[], tuple[Entry | None, Incident | None]]) -> Incident | None:
        """Decide, write, and if another wrote meanwhile decide anew. Tells what it wrote."""
        for _ in range(_ATTEMPTS):
            entry, known = decide()
            if entry is None:
                return known
            number = self._log.next_number
            entry = dataclasses.replace(
                entry, number=number, incident=number if entry.action == "raised" else entry.incident
            )
            if self._log.add(entry):
                changed = states.fold(self.application, self._log.read())[entry.incident]
                self._tell(changed, entry)
                return changed
        raise UnreachableError(f"Others write the incidents of {self.application!r} all the time; try again")

    def _tell(self, changed: Incident, entry: Entry) -> None:
        event = states.to_event(changed, entry)
        if event is not None:
            self._emit(event)


def find_location(settings: Settings) -> str:
    """The folder of all applications' incidents."""
    return locations.join(settings.storage_path, "incidents")


def read_all(settings: Settings) -> tuple[Incident, ...]:
    """The incidents of all applications, the newest first. Raises UnreachableError."""
    location = find_location(settings)
    found = [one for name in list_applications(location) for one in Incidents(location, name).read()]
    return tuple(sorted(found, key=lambda one: one.entries[0].at, reverse=True))


def open_incident(
    identity: str, settings: Settings, emit: Callable[[Event], None] = _tell_nobody
) -> tuple[Incidents, int]:
    """The incidents of an id's application, and its number there: `flights/231`. Raises NotFoundError."""
    application, slash, number = identity.rpartition("/")
    location = find_location(settings)
    if not slash or not number.isdecimal():
        raise NotFoundError(
            f"{identity!r} is no id of an alarm, such as flights/231; raymlops alarms lists them"
        )
    known = list_applications(location)
    if application not in known:
        raise NotFoundError(unknown_name("application with alarms", application, known))
    return Incidents(location, application, emit=emit), int(number)
