"""Checks of what an application stands on: its replicas, models, certificate, keys, storage and tracking store. Pure
functions."""

import math
import shlex

from raymlops.events.event import Severity
from raymlops.events.incident import Alarm
from raymlops.monitoring.operations.figures import (
    HOLD,
    PAGE_PART,
    Place,
    Round,
    make_alarm,
    to_bytes,
    to_duration,
    to_percent,
    to_time,
)
from raymlops.monitoring.operations.history import DAY_S, HOUR_S, History, Sample

RESTARTS = 3
"""Replicas that were started again within an hour are an alarm."""
_SLOW_START_S = 900.0
"""A deployment that takes longer is an alarm."""
_FULL_IN_S = {"page": 4 * HOUR_S, "note": DAY_S}
_LEAST_FILLED = 0.01
"""Of the storage must have been filled to tell when it will be full."""


def check_application(round_: Round) -> list[Alarm] | None:
    figures = round_.figures
    if figures.state is None:
        return None
    if figures.state in ("DEPLOYING", "RUNNING"):
        waits = round_.at - figures.now.deployed if figures.state == "DEPLOYING" else 0.0
        if waits < _SLOW_START_S:
            return []
        sentence = f"{figures.application} is still being deployed, since {to_duration(waits)}"
    elif figures.state == "GONE":
        sentence = (
            f"{figures.application} was deployed, but is not served. `raymlops cluster restore` serves again what was "
            "deployed"
        )
    else:
        sentence = f"{figures.application} is not healthy: Serve says {figures.state}"
    before = [one for one in round_.history.samples[:-1] if one.at >= round_.at - 600.0]
    if figures.state == "UNHEALTHY" and before and before[-1].healthy:
        return []  # a replica is being replaced; the next look tells
    cause = f". {figures.cause}" if figures.cause else ""
    unhealthy = [one.at for one in before if not one.healthy]
    return [
        make_alarm(
            round_, "application", f"{sentence}{cause}", "page", since=min(unhealthy, default=0.0),
            numbers={"replicas": float(len(figures.now.replicas)), "wanted": float(figures.now.wanted)},
        )
    ]  # fmt: skip


def check_loading(round_: Round) -> list[Alarm] | None:
    if missing := round_.figures.missing:
        name, source = next(iter(sorted(missing.items())))
        others = f", and those of {len(missing) - 1} others" if len(missing) > 1 else ""
        return [
            make_alarm(
                round_, "loading",
                f"The source of {name}, {source}, is no longer there{others}. Running replicas go on; one that ends "
                "cannot be started again. Put it back, or deploy another version",
                "page", columns=tuple(sorted(missing)[:50]), numbers={"models": float(len(missing))},
            )
        ]  # fmt: skip
    unavailable = round_.figures.unavailable
    if not unavailable:
        return None if unavailable is None else []
    name, reason = next(iter(sorted(unavailable.items())))
    others = f", and {len(unavailable) - 1} others" if len(unavailable) > 1 else ""
    return [
        make_alarm(
            round_, "loading",
            f"{name}{others} cannot be served: {reason}. Requests for them fail; POST /v2/repository/index "
            "has the reason of each",
            columns=tuple(sorted(unavailable)[:50]), numbers={"models": float(len(unavailable))},
        )
    ]  # fmt: skip


def check_replicas(round_: Round) -> list[Alarm] | None:
    if round_.figures.state is None:
        return None
    restarts, since = count_restarts(round_.history, round_.at - HOUR_S)
    if restarts < RESTARTS - (1 if round_.is_open("replicas") else 0):
        return []
    figures = round_.figures
    missing = len(figures.now.replicas) < figures.now.wanted
    cause = f" {figures.cause}." if figures.cause else ""
    return [
        make_alarm(
            round_, "replicas",
            f"{restarts} replicas ended and were started again in the last hour; {len(figures.now.replicas)} of "
            f"{figures.now.wanted} are there.{cause} The log of Ray on their nodes says why, as for lack "
            "of memory",
            "page" if missing else "note", since=since,
            numbers={"restarts": float(restarts), "replicas": float(len(figures.now.replicas))},
        )
    ]  # fmt: skip


def count_restarts(history: History, since: float) -> tuple[int, float]:
    """Replicas that were started in place of others, beyond those of deployments and of autoscaling, and when the first
    of them was seen."""
    seen: set[str] = set()
    earlier: set[str] = set()
    """Of the deployment before."""
    allowed, found, first = 0, 0, 0.0
    before: Sample | None = None
    for sample in history.samples:
        new = set(sample.replicas) - seen
        if before is None or sample.deployed != before.deployed:
            allowed, earlier = max(sample.wanted, len(new)), set(seen)
        else:
            allowed += max(0, sample.wanted - before.wanted)
        seen |= new
        excess = max(0, len(new) - allowed)
        allowed = max(0, allowed - len(new))
        if len(set(sample.replicas) - earlier) >= sample.wanted:
            allowed = 0
        if excess and sample.at > since:
            found += excess
            first = first or sample.at
        before = sample
    return found, first


def check_certificates(round_: Round) -> list[Alarm] | None:
    certificates = round_.figures.certificates
    if certificates is None:
        return None
    found = []
    for one in certificates:
        left = one.ends - round_.at
        if one.problem:
            sentence: str = f"The certificate {one.path} cannot be read: {one.problem}"
            severity: Severity = "page"
        elif left <= round_.settings.expiry_days * DAY_S:
            what = f"expires in {to_duration(left)}" if left > 0 else f"expired {to_duration(-left)} ago"
            sentence = (
                f"The certificate {one.path} {what}, at {to_time(one.ends):%Y-%m-%d %H:%M} UTC; clients then refuse "
                "the connection. Put a new one in its place: it is used within seconds, without a restart"
            )
            severity = _choose_severity(left, round_.settings.expiry_days * DAY_S)
        else:
            continue
        found.append(
            make_alarm(
                round_, "certificate", sentence, severity,
                numbers={} if one.problem else {"days_left": left / DAY_S},
                next=f"openssl x509 -noout -dates -in {shlex.quote(one.path)}",
            )
        )  # fmt: skip
    return sorted(found, key=lambda alarm: alarm.numbers.get("days_left", -math.inf))[:1]


def check_keys(round_: Round) -> list[Alarm] | None:
    figures = round_.figures
    if figures.keys is None:
        return None
    if figures.keys_problem:
        sentence = (
            f"{figures.keys_problem}. The keys that were read before stay valid, but changes are not seen"
        )
        return [make_alarm(round_, "keys", sentence, "page")]
    limit = round_.settings.expiry_days * DAY_S
    # One that ended days ago is of nobody who asks.
    due = {
        name: ends - round_.at for name, ends in figures.keys.items() if -DAY_S < ends - round_.at <= limit
    }
    if not due:
        return []
    names = sorted(due, key=lambda name: due[name])
    told = ", ".join(
        f"{name} in {to_duration(due[name])}" if due[name] > 0 else f"{name} expired" for name in names[:5]
    )
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return [
        make_alarm(
            round_, "keys",
            f"{'API keys end' if len(names) > 1 else 'An API key ends'} soon: {told}{more}. Make "
            f"{'their callers new ones' if len(names) > 1 else 'its caller a new one'}",
            columns=tuple(names), numbers={"days_left": due[names[0]] / DAY_S},
            next=f"raymlops keys rotate {shlex.quote(figures.keys_file)} {shlex.quote(names[0])}",
        )
    ]  # fmt: skip


def check_storage(round_: Round) -> list[Alarm] | None:
    places = round_.figures.places
    if places is None:
        return None
    found = [alarm for place in places for alarm in _find_filling(round_, place)]
    found.sort(key=lambda alarm: (alarm.severity != "page", alarm.numbers.get("free_share", -1.0)))
    return found[:1]


def _find_filling(round_: Round, place: Place) -> list[Alarm]:
    subject = f"{place.name[:1].upper()}{place.name[1:]} {place.path}"
    if place.problem:
        return [make_alarm(round_, "storage", f"{subject} cannot be used: {place.problem}", "page")]
    share = place.free / place.total if place.total else 1.0
    limit = round_.settings.free_share / (HOLD if round_.is_open("storage") else 1.0)
    full_in = _find_full(round_, place)
    if share <= limit:
        severity = _choose_severity(share, limit)
    elif full_in <= _FULL_IN_S["note"]:
        severity = "page" if full_in <= _FULL_IN_S["page"] else "note"
    else:
        return []
    trend = (
        f", and will be full in {to_duration(full_in)} at the rate of the last hours"
        if full_in < 30 * DAY_S
        else ""
    )
    return [
        make_alarm(
            round_, "storage",
            f"{subject} has {to_bytes(place.free)} free, {to_percent(share)} of {to_bytes(place.total)}{trend}; "
            f"`operations.free_share` asks for {to_percent(round_.settings.free_share)}. When it is full, "
            "checkpoints, captured requests and alarms are lost. Delete what is old, or give it more room",
            severity, numbers={"free_share": share, "free_bytes": float(place.free)}
            | ({"full_in_hours": full_in / HOUR_S} if math.isfinite(full_in) else {}),
            next=f"df -h {shlex.quote(place.path)}",
        )
    ]  # fmt: skip


def _find_full(round_: Round, place: Place) -> float:
    """Seconds until it is full if it goes on as in the last 6 hours, but at least one; infinite if it does not fill."""
    known = [
        sample
        for sample in round_.history.samples
        if place.path in sample.free and round_.at - 6 * HOUR_S <= sample.at <= round_.at - HOUR_S
    ]
    if not known:
        return math.inf
    lost = known[0].free[place.path] - place.free
    if lost < _LEAST_FILLED * place.total:
        return math.inf
    return place.free / (lost / (round_.at - known[0].at))


def check_tracking(round_: Round) -> list[Alarm] | None:
    problem = round_.figures.tracking_problem
    if not problem:
        return None if problem is None else []
    return [
        make_alarm(
            round_, "tracking",
            f"The tracking store does not answer: {problem}. Running replicas go on; new ones cannot load their "
            "models, and nothing can be deployed or registered",
            next="raymlops doctor",
        )
    ]  # fmt: skip


def _choose_severity(left: float, limit: float) -> Severity:
    return "page" if left <= limit * PAGE_PART else "note"
