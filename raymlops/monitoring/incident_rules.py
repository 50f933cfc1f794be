"""From judgements to incidents: which alarm of several segments is told, and which incidents a clean day brings nearer
to their end. Pure functions; records nothing."""

import datetime
import typing
from collections.abc import Collection, Mapping, Sequence

from raymlops.events.incident import Alarm, Incident, Watched
from raymlops.monitoring.judgement import Judgement, StatisticalFamily, Verdict, to_time

STATISTICAL: frozenset[str] = frozenset(typing.get_args(StatisticalFamily))


def choose_alarms(judged: Judgement, known: Sequence[Incident], damage: str = "") -> list[Alarm]:
    """The alarms of a judgement. Segments overlap, as a value does with pairs of it: of those of one family only the
    one whose incident is open is told, else the one that lies furthest beyond its threshold."""
    is_open = {one.alarm.watched for one in known if one.open}
    chosen: dict[tuple[str, bool], Verdict] = {}
    for one in judged.verdicts:
        key = one.family, bool(one.segment)
        held = chosen.get(key)
        if held is None or _rank(judged, one, is_open) > _rank(judged, held, is_open):
            chosen[key] = one
    return [one.to_alarm(judged.model, judged.version, damage) for one in chosen.values()]


def _rank(judged: Judgement, verdict: Verdict, is_open: Collection[Watched]) -> tuple[bool, float]:
    watched = Watched(judged.model, judged.version, verdict.family, verdict.segment)
    return watched in is_open, verdict.deviate - verdict.threshold


def find_clean(
    known: Sequence[Incident],
    alarmed: Mapping[Watched, float],
    seen: Collection[tuple[str, str]],
    day: datetime.date,
) -> frozenset[Watched]:
    """Open incidents of statistical alarms to which a clean day is to be counted, UTC: of models and versions of which
    rows were seen on it, without an alarm since it began (`alarmed` has the last time, in seconds since 1970), and of
    which no day was counted since."""
    begin = datetime.datetime.combine(day, datetime.time(), datetime.UTC).timestamp()
    found = set()
    for one in known:
        watched = one.alarm.watched
        last = max(one.last.timestamp(), alarmed.get(watched, 0.0))
        counted = any(entry.action == "clean" and entry.at.date() > day for entry in one.entries)
        if one.open and (watched.model, watched.version) in seen and last < begin and not counted:
            found.add(watched)
    return frozenset(one for one in found if one.family in STATISTICAL)


def day_before(at: float) -> datetime.date:
    """The last whole day before a time in seconds since 1970, UTC."""
    return to_time(at).date() - datetime.timedelta(days=1)
