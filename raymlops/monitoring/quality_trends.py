"""The quality of a version by day, estimated and measured, as what a person is shown. Pure functions."""

from collections.abc import Mapping, Sequence

from raymlops.monitoring.health import Metric
from raymlops.monitoring.judgement import Trend
from raymlops.monitoring.quality import Quality, correct_estimate

MOST_METRICS = 3

Days = Mapping[int, Sequence[Quality]]
"""Start of a day, in seconds since 1970 -> its quality by metric, in one order."""


def make_metrics(estimated: Days, measured: Days, why_unmeasured: str = "") -> tuple[Metric, ...]:
    """Estimates of days after the last measured one are corrected by what was measured before, where that was closer;
    those of days before are as they were made. `why_unmeasured` is told if nothing is measured."""
    names = [
        one.metric for days in (estimated, measured) for line in list(days.values())[-1:] for one in line
    ]
    return tuple(
        _make_metric(name, _pick(estimated, name), _pick(measured, name), why_unmeasured)
        for name in list(dict.fromkeys(names))[:MOST_METRICS]
    )


def _pick(days: Days, name: str) -> dict[int, Quality]:
    return {day: one for day in sorted(days) for one in days[day] if one.metric == name}


def _make_metric(
    name: str, estimated: Mapping[int, Quality], measured: Mapping[int, Quality], why: str
) -> Metric:
    past = [
        (estimated[day].value, one.value)
        for day, one in measured.items()
        if day in estimated and not one.is_silent and not estimated[day].is_silent
    ]
    last = max(measured, default=0)
    corrected = {day: correct_estimate(one, past) if day > last else one for day, one in estimated.items()}
    usual = next(one.usual for one in (*corrected.values(), *measured.values()))
    newest = [list(days.values())[-1].describe() for days in (corrected, measured) if days]
    told = [f"not measured: {why}"] if why and not measured else []
    return Metric(
        name,
        usual,
        _draw("estimate of each day", corrected, usual),
        _draw("measured of each day", measured, usual),
        (*newest, *told),
    )


def _draw(label: str, days: Mapping[int, Quality], usual: float) -> Trend | None:
    if not days:
        return None
    values, low, high = (
        tuple(None if one.is_silent else float(getattr(one, name)) for one in days.values())
        for name in ("value", "low", "high")
    )
    return Trend(label, tuple(map(float, days)), values, (usual,) * len(days), low, high)
