"""Decides whether a model may become champion: evidence in, Verdict out. Measures nothing, moves no alias."""

import dataclasses
from collections.abc import Iterator, Mapping
from statistics import NormalDist
from typing import Any

import numpy as np

from raymlops.errors import InputError, SpecError, unknown_name
from raymlops.evaluation.compatibility import find_breaking_changes
from raymlops.evaluation.intervals import check_same_rows, find_gains, resample, to_interval
from raymlops.evaluation.partials import WHOLE, Partial
from raymlops.evaluation.results import measure_once
from raymlops.evaluation.verdict import Check, Verdict
from raymlops.metrics import FALLING, METRICS, Values, gain, guess_without_a_model
from raymlops.specs.evaluation import PARITY, GateSpec, LimitSpec

Drawn = dict[tuple[str, str], Values]
"""Slice -> metric -> value and replicates. All models use the same draws, so that differences are paired."""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The evidence on one ONNX file; None for what was not measured."""

    name: str
    digest: str = ""
    contract: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    partial: Partial | None = None
    """Sums over the test rows; None if the model could not be run."""
    new: Partial | None = None
    """The same over the rows that neither it nor the other model was trained on or chosen by, as far as is known."""
    own: str = ""
    """A sentence on the rows that it was trained on or chosen by; empty if none was."""
    unknown: str = ""
    """A sentence on why these are not known; empty if they are."""
    parity: float | None = None
    """Largest difference from the network's outputs; None if there is no network to compare with."""
    latency_ms: float | None = None
    """Latency of one row, 99th percentile."""
    median_ms: float | None = None
    throughput: float | None = None
    """Rows per second."""
    size: int | None = None
    """Size in bytes."""
    serving: str | None = None
    """Why an endpoint would not serve the file; empty if it would, None if that was not tried."""
    isolated: str = ""
    """Why only an endpoint with `isolate: true` would."""
    unsafe: tuple[str, ...] = ()
    """Problems of the file itself, such as an operator of a foreign library."""
    columns: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """How well single columns predict the target, from leakage.measure_columns."""
    sampled: Partial | None = None
    """Sums over the rows that the baselines were measured on."""
    baselines: Mapping[str, Partial] = dataclasses.field(default_factory=dict)
    """Name of a baseline -> its sums over the same rows, in the same groups."""


def judge(candidate: Evidence, champion: Evidence | None, spec: GateSpec | None = None) -> Verdict:
    """Runs every check of the spec on the candidate; it passes if all checks pass.

    Raises SpecError for a metric that the task does not have.
    """
    spec = spec or GateSpec()
    own = [] if not candidate.own else [_check_new_rows(candidate, candidate.own, "own rows", spec)]
    if own and own[0].passed:
        candidate = dataclasses.replace(candidate, partial=candidate.new)
        champion = champion and dataclasses.replace(champion, partial=champion.new)
    checks = [*_check_content(candidate), *_check_parity(candidate, spec), *own]
    if candidate.partial is not None:
        metric = _choose_metric(candidate.partial, spec)
        new = _resample(candidate.partial, spec)
        checks += [
            *_check_answers(candidate.partial),
            *_check_chance(candidate.partial, new, metric, spec),
            *_check_baselines(candidate, metric, spec),
            *_check_limits(new, spec),
            *_check_slice_limits(new, spec),
            *_check_leaks(candidate, spec),
        ]
        if champion is not None and champion.partial is not None:
            checks += _compare(candidate, champion, new, metric, spec)
    if champion is not None:
        checks += _check_contract(candidate, champion)
    checks += _check_cost(candidate, spec)
    return Verdict(
        candidate=candidate.name,
        champion=champion.name if champion else "",
        digest=candidate.digest,
        champion_digest=champion.digest if champion else "",
        checks=tuple(checks),
    )


def _check_new_rows(evidence: Evidence, own: str, name: str, spec: GateSpec) -> Check:
    """Whether a model can be judged without the rows that a training had."""
    partial = evidence.new
    rows = 0 if partial is None else partial.rows
    if (
        rows >= spec.new_rows
        and partial is not None
        and np.isfinite(measure_once(partial, _choose_metric(partial, spec)))
    ):
        return Check(name, True, f"{own}; judged on the other {rows:,} rows", rows, limit=spec.new_rows)
    text = (
        f"{own}, which leaves {rows:,} rows to judge by; judge it on rows that are new, "
        "`raymlops gate VERSION --data PATH`, or train with the split (seed, key) of the champion"
    )
    return Check(name, False, text, rows, limit=spec.new_rows)


def _compare(
    candidate: Evidence, champion: Evidence, new: Drawn, metric: str, spec: GateSpec
) -> Iterator[Check]:
    """With the champion, on rows that neither was trained on."""
    first, second = candidate.partial, champion.partial
    if champion.own:
        check = _check_new_rows(champion, champion.own, "rows of the champion", spec)
        yield check
        if not check.passed:
            return
        first, second = candidate.new, champion.new
    elif champion.unknown:
        yield Check("rows of the champion", True, champion.unknown)
    assert first is not None
    assert second is not None
    if first is not candidate.partial:
        new = _resample(first, spec)
    try:
        check_same_rows(first, second)
    except InputError as error:
        yield Check("same rows as the champion", False, str(error))
    else:
        yield from _check_against(new, _resample(second, spec), metric, spec)


def _resample(partial: Partial, spec: GateSpec) -> Drawn:
    return {
        key: resample(partial.layout_of(key), sums, spec.replicates) for key, sums in partial.sums.items()
    }


def _choose_metric(partial: Partial, spec: GateSpec) -> str:
    task = partial.layout.task
    known = METRICS[task]
    for name in [spec.metric_of(task), *spec.limits, *spec.slice_limits]:
        if name not in known:
            raise SpecError(f"gate: {unknown_name(f'metric of a {task} task', name, known)}")
    return spec.metric_of(task)


def _check_content(candidate: Evidence) -> Iterator[Check]:
    yield Check("content", not candidate.unsafe, "; ".join(candidate.unsafe) or "nothing unsafe in the file")
    runs = candidate.partial is not None
    yield Check("runs", runs, "answers rows" if runs else "gave no answers to judge")
    if candidate.serving is not None:
        text = "the file opens and answers in a process with the settings of an endpoint"
        text += f" that has isolate: true; without: {candidate.isolated}" if candidate.isolated else ""
        yield Check("serves", not candidate.serving, candidate.serving or text)


def _check_parity(candidate: Evidence, spec: GateSpec) -> Iterator[Check]:
    if candidate.parity is not None:
        limit = PARITY if spec.parity is None else spec.parity
        # not `>`: nan must fail
        passed = bool(candidate.parity <= limit)
        text = "answers as its network does" if passed else "does not answer as its network does"
        yield Check("parity", passed, text, candidate.parity, limit=limit)


def _check_answers(partial: Partial) -> Iterator[Check]:
    sums = partial.sums[WHOLE].sum(axis=0)
    broken = int(sums[partial.layout.segments["nonfinite"].start])
    text = f"{broken} rows were answered with nan or infinity" if broken else "all answers are finite"
    yield Check("finite answers", not broken, text, broken, limit=0)


def _check_chance(partial: Partial, new: Drawn, metric: str, spec: GateSpec) -> Iterator[Check]:
    floor = guess_without_a_model(partial.layout.read(partial.sums[WHOLE].sum(axis=0, keepdims=True)))
    metric = metric if metric in floor else GateSpec().metric_of(partial.layout.task)
    found = to_interval(new[WHOLE][metric], spec.confidence)
    limit = float(floor[metric][0])
    worst = found.high if metric in FALLING else found.low
    passed = bool(gain(metric, worst, limit) > 0)
    text = "better than guessing" if passed else "not shown to be better than guessing"
    yield Check(f"{metric} against guessing", passed, text, found.value, found.low, found.high, limit)


def _check_baselines(candidate: Evidence, metric: str, spec: GateSpec) -> Iterator[Check]:
    """A loss blocks only if it exceeds the margin and is statistically significant, as against a champion."""
    if candidate.sampled is None:
        return
    new = _resample(candidate.sampled, spec)[WHOLE][metric]
    for name in spec.beaten:
        if name not in candidate.baselines:
            continue
        old = _resample(candidate.baselines[name], spec)[WHOLE][metric]
        found = to_interval(find_gains(metric, new, old), spec.confidence)
        margin = -spec.margin * abs(float(old[0]))
        passed = not (found.value < margin and found.high < 0)
        text = f"{new[0]:.4g} against {old[0]:.4g}: " + (
            "not worse beyond doubt" if passed else f"the {name} baseline is better beyond doubt"
        )
        yield Check(
            f"{metric} gain on the {name} baseline",
            passed,
            text,
            found.value,
            found.low,
            found.high,
            margin,
        )


def _check_limits(new: Drawn, spec: GateSpec) -> Iterator[Check]:
    for metric, bounds in spec.limits.items():
        interval = to_interval(new[WHOLE][metric], spec.confidence)
        for limit, inside, word in _bounds(interval.value, interval.value, bounds):
            text = f"within its {word}" if inside else f"beyond its {word}"
            yield Check(f"{metric} {word}", inside, text, interval.value, interval.low, interval.high, limit)


def _check_slice_limits(new: Drawn, spec: GateSpec) -> Iterator[Check]:
    for metric, bounds in spec.slice_limits.items():
        outside = []
        for key in new.keys() - {WHOLE}:
            found = to_interval(new[key][metric], spec.confidence)
            if any(not inside for _, inside, _ in _bounds(found.high, found.low, bounds)):
                outside.append(f"{key[0]}={key[1]} has {found}")
        text = "; ".join(sorted(outside)) or "no slice is significantly outside"
        yield Check(f"{metric} of every slice", not outside, text, len(outside), limit=0)


def _bounds(at_most: float, at_least: float, bounds: LimitSpec) -> Iterator[tuple[float, bool, str]]:
    """A minimum holds if `at_most` reaches it, a maximum if `at_least` does; nan never holds."""
    if bounds.min is not None:
        yield bounds.min, bool(at_most >= bounds.min), "minimum"
    if bounds.max is not None:
        yield bounds.max, bool(at_least <= bounds.max), "maximum"


def _check_leaks(candidate: Evidence, spec: GateSpec) -> Iterator[Check]:
    if candidate.columns and spec.leak.column < 1:
        name, value = max(candidate.columns.items(), key=lambda item: item[1])
        passed = value < spec.leak.column
        what = "predicts best alone" if passed else "predicts the target alone; did the target leak into it?"
        text = f"column {name!r} {what}"
        yield Check("single column", passed, text, value, limit=spec.leak.column)


def _check_against(new: Drawn, old: Drawn, metric: str, spec: GateSpec) -> list[Check]:
    """A loss blocks if it exceeds the margin and is statistically significant.

    Requiring proof that there is no loss, as for a drug, would block most honest retrains with few test rows: even an
    equal model cannot prove it if the interval is wider than the margin.
    """
    drawn = [part[WHOLE][metric] for part in (new, old)]
    gains = find_gains(metric, *drawn)
    interval = to_interval(gains, spec.confidence)
    margin = -spec.margin * abs(float(drawn[1][0]))
    passed = bool(interval.value >= margin or interval.high >= 0)
    if interval.low >= margin:
        found = "as good, within the margin"
    elif passed:
        found = "not significantly worse; there are too few rows to decide"
    else:
        found = "significantly worse than the champion, beyond the margin"
    text = f"{drawn[0][0]:.4g} against {drawn[1][0]:.4g}: {found}"
    checks = [
        Check(
            f"{metric} gain on the champion",
            passed,
            text,
            interval.value,
            interval.low,
            interval.high,
            margin,
        )
    ]
    cut = _cut_of_error(metric, float(drawn[0][0]), float(drawn[1][0]))
    if cut is not None and spec.leak.error_cut < 1:
        passed = cut < spec.leak.error_cut
        text = "of the champion's error is removed" + (
            "" if passed else ": too good to be true; did a label leak?"
        )
        checks.append(Check("cut of the error", passed, text, cut, limit=spec.leak.error_cut))
    return [*checks, *_check_slices(new, old, metric, spec)]


def _cut_of_error(metric: str, new: float, old: float) -> float | None:
    """Share of the champion's error that is removed; None if the metric has no zero error."""
    before, after = (old, new) if metric in FALLING else (1 - old, 1 - new)
    return (before - after) / before if before > 1e-9 and metric != "r2" else None


def _check_slices(new: Drawn, old: Drawn, metric: str, spec: GateSpec) -> Iterator[Check]:
    """The slice with the worst loss; Bonferroni-corrected over the slices, since many slices cause false alarms."""
    found = []
    for key in (key for key in new if key != WHOLE and key in old):
        drawn = [part[key][metric] for part in (new, old)]
        gains = find_gains(metric, *drawn)
        spread = float(np.nanstd(gains[1:])) if np.isfinite(gains[1:]).mean() > 0.9 else float("nan")
        margin = -spec.slice_margin * abs(float(drawn[1][0]))
        if np.isfinite(spread) and np.isfinite(gains[0]):
            found.append((key, float(gains[0]), spread, margin))
    if not found:
        return
    width = NormalDist().inv_cdf(1 - (1 - spec.confidence) / (2 * len(found)))
    key, value, spread, margin = min(found, key=lambda one: one[1] + width * one[2] - one[3])
    passed = value + width * spread >= margin
    text = f"{key[0]}={key[1]} " + ("is the worst of" if passed else "got significantly worse, the worst of")
    yield Check(
        f"{metric} gain of the worst slice", passed, f"{text} {len(found)} slices",
        value, value - width * spread, value + width * spread, margin,
    )  # fmt: skip


def _check_contract(candidate: Evidence, champion: Evidence) -> Iterator[Check]:
    breaks = find_breaking_changes(candidate.contract, champion.contract)
    yield Check("contract", not breaks, "; ".join(breaks) or "callers of the champion need change nothing")


def _check_cost(candidate: Evidence, spec: GateSpec) -> Iterator[Check]:
    megabytes = None if candidate.size is None else candidate.size / 1e6
    for name, value, limit, sign in (
        ("latency ms", candidate.latency_ms, spec.latency_ms, 1),
        ("rows a second", candidate.throughput, spec.throughput, -1),
        ("size MB", megabytes, spec.size_mb, 1),
    ):
        if limit is None:
            continue
        passed = value is not None and sign * value <= sign * limit
        text = "not measured" if value is None else "within its limit" if passed else "beyond its limit"
        yield Check(name, passed, text, value, limit=limit)
