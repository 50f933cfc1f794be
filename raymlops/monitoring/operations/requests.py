"""Checks of requests: errors, latency, saturation, traffic. Pure functions."""

import itertools
from collections.abc import Callable

from raymlops.events.incident import Alarm
from raymlops.monitoring.operations import burn_rate
from raymlops.monitoring.operations.burn_rate import Burning, Missed
from raymlops.monitoring.operations.figures import Round, make_alarm, name_model, to_duration, to_percent
from raymlops.monitoring.operations.history import DAY_S, HOUR_S, REST, Counts, ModelKey

_LATENCY_SHARE = 0.01
"""Of the answers may take longer than the 99th percentile's objective."""
_SHED_SHARE = 0.01
_WAITS_MS = 10.0
"""Waits that are shorter are no alarm, however short the runs."""
_LEAST_REQUESTS = 100
_QUEUE_SHARE = 0.8
_USUAL = 20
"""Requests that every known day before had in each of the same hours make their absence an alarm."""
_LATER_HOURS = 2
_LOST_WINDOW_S = 600.0


def check_errors(round_: Round) -> list[Alarm] | None:
    def tell(key: ModelKey, burning: Burning) -> str:
        counts = round_.count(key, burning.window.long_s)
        kinds = {
            "server errors": counts.failed,
            "timeouts": counts.late,
            "answers that replicas are overloaded": counts.overloaded,
        }
        mostly = max(kinds, key=lambda kind: kinds[kind])
        remedy = {
            "server errors": "The log of the replicas has the cause of each; `raymlops deploy FILE --rollback` goes "
            "back to the deployment before",
            "timeouts": "The model is slower than its `deadline_s`, or waits for replicas: see the stages of "
            "GET /v2/models/NAME/stats",
            "answers that replicas are overloaded": "More `replicas` or a higher `autoscaling.max` help",
        }[mostly]
        return (
            f"{_tell_share(burning.long, f'requests to {name_model(key)}')} failed {_tell_span(round_, burning)}, "
            f"{_tell_now(burning)}; the objective is {to_percent(round_.slo.errors)}. {kinds[mostly]:,} of them are "
            f"{mostly}. {_tell_budget(burning)} {remedy}"
        )

    return check_objective(
        round_, "errors", round_.slo.errors, lambda counts: (counts.bad, counts.valid), tell
    )


def check_latency(round_: Round) -> list[Alarm] | None:
    limit = round_.slo.p99_ms
    if limit is None:
        return []

    def tell(key: ModelKey, burning: Burning) -> str:
        counts = round_.count(key, burning.window.long_s)
        waits = counts.queue_ms > counts.compute_ms
        return (
            f"{_tell_share(burning.long, f'answers of {name_model(key)}')} took longer than {limit:g} ms "
            f"{_tell_span(round_, burning)}, {_tell_now(burning)}; the objective is 1% (`slo.p99_ms`). "
            f"{_tell_budget(burning)} "
            + (
                "Requests wait longer than they run: more `replicas` or a higher `autoscaling.max` help"
                if waits
                else "The runs themselves take the time: see the stages of GET /v2/models/NAME/stats, and whether "
                "requests have become larger"
            )
        )

    return check_objective(
        round_, "latency", _LATENCY_SHARE, lambda counts: (counts.slow, counts.answered), tell
    )


def check_objective(
    round_: Round,
    check: str,
    objective: float,
    count: Callable[[Counts], tuple[int, int]],
    tell: Callable[[ModelKey, Burning], str],
) -> list[Alarm] | None:
    if round_.figures.now.models is None:
        return None
    found = []
    for key in round_.figures.now.models:

        def count_window(seconds: float, key: ModelKey = key) -> Missed:
            return Missed(*count(round_.count(key, seconds)), lasting_s=round_.at - round_.find_first(key))

        burning = burn_rate.find_burning(
            count_window, objective, is_open=round_.is_open(check, key), starts_badly=check == "latency"
        )
        if burning is not None:
            found.append(
                make_alarm(
                    round_, check, tell(key, burning), burning.window.severity, key=key,
                    since=_find_start(round_, key, objective, count),
                    rows=burning.long.total,
                    numbers={
                        "share": burning.long.share, "objective": objective, "share_now": burning.short.share,
                        "missed": float(burning.long.bad), "requests": float(burning.long.total),
                        "burn_rate": burning.rate,
                    },
                )
            )  # fmt: skip
    return found


def _find_start(
    round_: Round, key: ModelKey, objective: float, count: Callable[[Counts], tuple[int, int]]
) -> float:
    """When the share began to be above the objective, going back from now over all samples with requests."""
    began = round_.at
    for (before, _), step in reversed(round_.steps):
        bad, total = count(step.get(key, Counts()))
        if total and bad <= objective * total:
            break
        if total:
            began = before
    return began


def _tell_share(found: Missed, subject: str) -> str:
    return f"{to_percent(found.share)} of the {subject} ({found.bad:,} of {found.total:,})"


def _tell_now(burning: Burning) -> str:
    short = burning.short
    if short == burning.long:
        return "all that came yet"
    if not short.total:
        return "and none came since"
    return f"and {to_percent(short.share)} in the last {to_duration(burning.window.short_s)}"


def _tell_span(round_: Round, burning: Burning) -> str:
    oldest = round_.history.samples[0].at
    return f"in the last {to_duration(min(burning.window.long_s, round_.at - oldest))}"


def _tell_budget(burning: Burning) -> str:
    if burning.days_left >= burn_rate.BUDGET_DAYS:
        return ""
    return (
        f"At this rate what may fail in {burn_rate.BUDGET_DAYS} days is used up in "
        f"{to_duration(burning.days_left * DAY_S)}."
    )


def check_saturation(round_: Round) -> list[Alarm] | None:
    models = round_.figures.now.models
    if models is None:
        return None
    found = []
    for key in models:
        now, longer = round_.count(key, 120.0), round_.count(key, 600.0)
        hold = round_.hold("saturation", key)
        shed = [
            counts.overloaded / counts.valid if counts.overloaded >= burn_rate.LEAST else 0.0
            for counts in (now, longer)
        ]
        means = [
            (counts.queue_ms / counts.answered, counts.compute_ms / counts.answered)
            if counts.answered >= _LEAST_REQUESTS
            else (0.0, 0.0)
            for counts in (now, longer)
        ]
        more = "More `replicas`, a higher `autoscaling.max` or larger machines help"
        if min(shed) >= _SHED_SHARE * hold:
            sentence = (
                f"{to_percent(shed[1])} of the requests to {name_model(key)} were refused in the last 10 minutes, "
                f"since replicas had {round_.figures.queue:,} each (`limits.queue`). {more}"
            )
        elif all(queue >= max(_WAITS_MS, compute) * hold for queue, compute in means):
            queue, compute = means[1]
            sentence = (
                f"Requests to {name_model(key)} wait {queue:.0f} ms for a run of {compute:.0f} ms, on average of the "
                f"last 10 minutes. {more}"
            )
        else:
            continue
        numbers = {"refused": shed[1], "queue_ms": means[1][0], "compute_ms": means[1][1]}
        found.append(make_alarm(round_, "saturation", sentence, key=key, numbers=numbers))
    return found + check_queue(round_)


def check_queue(round_: Round) -> list[Alarm]:
    """The queues of all replicas, at each of some looks."""
    figures = round_.figures
    samples = [one for one in round_.history.samples if one.at >= round_.at - 300.0 and one.replicas]
    shares = [one.pending / (len(one.replicas) * figures.queue) for one in samples if figures.queue]
    hold = round_.hold("saturation")
    if len(shares) < 3 or min(shares) < _QUEUE_SHARE * hold:
        return []
    return [
        make_alarm(
            round_, "saturation",
            f"{samples[-1].pending:,} requests wait or run, {to_percent(shares[-1])} of what "
            f"{len(samples[-1].replicas)} replicas take (`limits.queue` {figures.queue:,}), "
            f"for {to_duration(round_.at - samples[0].at)}. "
            "More `replicas` or a higher `autoscaling.max` help; beyond the limit requests are refused",
            since=samples[0].at, numbers={"pending": float(samples[-1].pending), "share": shares[-1]},
        )
    ]  # fmt: skip


def check_traffic(round_: Round) -> list[Alarm] | None:
    models = round_.figures.now.models
    if models is None or round_.figures.state in (None, "GONE"):
        return None
    idle = round_.settings.idle_min
    if idle is not None:
        last = max((_find_last(round_, key) for key in models), default=0.0)
        last = max(last, round_.figures.now.deployed)
        if round_.at - last < idle * 60.0:
            return []
        return [
            make_alarm(
                round_, "traffic",
                f"No request came for {to_duration(round_.at - last)}, to any model; `operations.idle_min` is "
                f"{idle:g}. Look at what sends them, and whether it reaches this endpoint",
                "page", since=last, numbers={"idle_s": round_.at - last},
            )
        ]  # fmt: skip
    return [
        alarm for model in dict.fromkeys(name for name, _ in models) for alarm in _find_quiet(round_, model)
    ]


def check_observers(round_: Round) -> list[Alarm] | None:
    """Requests, or rows, that are in no capture, count, or file of an observer."""
    if round_.figures.now.models is None:
        return None
    seconds = _LOST_WINDOW_S * (2.0 if round_.is_open("observers") else 1.0)
    samples = [one for one in round_.history.samples if one.at > round_.at - seconds]
    found: dict[str, int] = {}
    for before, after in itertools.pairwise(samples):
        for name, count in after.lost.items():
            # One that was not there before has lost nothing yet; counts of replicas that ended are gone.
            found[name] = found.get(name, 0) + max(0, count - before.lost.get(name, count))
    found = {name: count for name, count in found.items() if count}
    if not found:
        return []
    told = "; ".join(f"{count:,} did not reach {_OBSERVERS.get(name, name)}" for name, count in found.items())
    return [
        make_alarm(
            round_, "observers",
            f"Of the requests of the last {to_duration(seconds)}, {told}. They were answered. The log of the replicas "
            "says why: an observer that is too slow or fails, or a store that takes no more",
            since=samples[0].at, columns=tuple(sorted(found)), numbers={name: float(n) for name, n in found.items()},
        )
    ]  # fmt: skip


_OBSERVERS = {
    "capture": "the captured requests",
    "monitoring": "the counts of monitoring (rows)",
}


def _find_last(round_: Round, key: ModelKey) -> float:
    """When the newest request came, answered or not; 0 if none is known."""
    models = round_.figures.now.models or {}
    last = models[key].last
    for (_, after), step in round_.steps:
        if step.get(key, Counts()).all:
            last = max(last, after)
    return last


def _find_quiet(round_: Round, model: str) -> list[Alarm]:
    """No requests for an hour, although they came at this time, and later, on the same weekday of two weeks, or,
    in the first week, on all days before. The hours to come count, since a day's work ends at other times each day."""
    keys = [key for key in round_.figures.now.models or {} if key[0] == model and key != REST]
    last = max((_find_last(round_, key) for key in keys), default=0.0)
    known = round_.history.hours.get(model, {})
    if not last or not known or round_.at - last < HOUR_S:
        return []
    first = min(known) + 1  # the first hour may be a part
    hour = int(round_.at // HOUR_S)
    around = range(hour - 1, hour + _LATER_HOURS + 1)
    days = [day for day in (*range(1, 8), 14) if hour - 1 - 24 * day >= first]
    weeks = [day for day in days if day % 7 == 0]
    days = weeks or days
    usual = min((known.get(one - 24 * day, 0) for day in days for one in around), default=0)
    if usual < _USUAL:
        return []
    return [
        make_alarm(
            round_, "traffic",
            f"No request to {model} came for {to_duration(round_.at - last)}. At this time of "
            f"{'the same weekday' if weeks else 'day'} there were at least {usual:,} an hour "
            f"{'in the weeks' if weeks else 'on the days'} before. "
            "Look at what sends them, and whether it reaches this endpoint",
            "page" if weeks else "note", key=(model, ""), since=last,
            numbers={"idle_s": round_.at - last, "usual_requests": float(usual)},
        )
    ]  # fmt: skip
