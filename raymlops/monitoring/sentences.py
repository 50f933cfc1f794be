"""What a person is told of a verdict: what, since when, now against usual, cause, segments, and how rare it is by
chance."""

import dataclasses
from collections.abc import Sequence

from raymlops.events.incident import Cause
from raymlops.monitoring.comparison import Finding
from raymlops.monitoring.judgement import Verdict, to_time

_YEAR_S = 365.25 * 86_400
_SPANS = (("year", _YEAR_S), ("month", _YEAR_S / 12), ("day", 86_400.0), ("hour", 3600.0))
_MOST_CAUSES = 5
_MOST_NAMED = 3
_HEADLINES = {
    "quality": "the data have faults",
    "score": "the answers moved",
    "columns": "inputs differ",
    "labels": "answers fit the labels less",
}


def write_verdict(
    verdict: Verdict,
    model: str,
    version: str,
    listed: Sequence[Finding],
    segments: str,
    false_alarms_per_month: float,
) -> Verdict:
    """With its sentences. `listed` are all findings of the window, the likeliest cause first; `segments` says in which
    segments it is seen."""
    causes = tuple(
        Cause(one.column.label, None, one.describe())
        for one in listed[:_MOST_CAUSES]
        if one.column.role in ("input", "residual")
    )
    chance = describe_chance(verdict.seconds_by_chance, false_alarms_per_month)
    where = f"{model} v{version}" + (f", {verdict.segment}" if verdict.segment else "")
    first = verdict.findings[0].describe() if verdict.findings else ""
    rest = len(verdict.findings) - 1
    more = f", and {rest} more column{'s' * (rest > 1)}" if rest > 0 else ""
    parts = [
        f"{where}: {_HEADLINES[verdict.family]}.",
        f"Since {write_time(verdict.since)} ({verdict.rows:,} rows) {first}{more}.",
        _describe_cause(verdict, listed),
        f"Without labels, {verdict.damage}." if verdict.damage else "",
        segments,
        chance,
    ]
    return dataclasses.replace(
        verdict, sentence=" ".join(part for part in parts if part), causes=causes, chance=chance
    )


def _describe_cause(verdict: Verdict, listed: Sequence[Finding]) -> str:
    """Of answers that moved: what of the inputs did."""
    if verdict.family != "score":
        return ""
    inputs = [one for one in listed if one.column.role in ("input", "residual")]
    if not inputs:
        return "No input differs beyond chance: the cause is not in what is watched of them."
    return f"Likeliest cause: {inputs[0].describe()}."


def describe_chance(seconds: float, asked: float) -> str:
    """`By chance alone once in 9 years; 1 false alarm a month was asked for.`"""
    plural = "" if asked == 1 else "s"
    return f"By chance alone once in {write_span(seconds)}; {asked:g} false alarm{plural} a month asked for."


def write_time(seconds: float) -> str:
    return f"{to_time(seconds):%Y-%m-%d %H:%M} UTC"


def write_span(seconds: float) -> str:
    if seconds > 1000 * _YEAR_S:
        return "more than 1,000 years"
    for unit, size in _SPANS:
        if seconds >= 2 * size or unit == "hour":
            number = max(round(seconds / size), 1)
            return f"{number:,} {unit}{'s' * (number > 1)}"
    raise AssertionError("the last span always fits")


def describe_segments(affected: Sequence[str], segments: int, only: str = "") -> str:
    """`affected`, the most affected first, of so many; `only` is one without which all is as usual."""
    if only:
        return f"Only in {only}: other rows are as usual."
    if len(affected) >= 0.8 * segments:
        return "All segments alike."
    if not affected:
        return "No segment alone shows it."
    if len(affected) <= _MOST_NAMED:
        return f"Of {segments} segments, in {' and '.join(affected)}."
    return f"In {len(affected)} of {segments} segments, most in {affected[0]}."


def write_repeats(model: str, version: str, share: float, usual: float, since: float, rows: int) -> str:
    return (
        f"{model} v{version}: since {write_time(since)} ({rows:,} rows) {100 * share:.3g}% of rows "
        f"repeat another row of their minute, usually {100 * usual:.3g}%: one client may send the same again and again."
    )
