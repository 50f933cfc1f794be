"""The best of each learner of a search, and their blend, on the same rows: the metric with its interval, and how sure
their order is. Trains, opens and chooses nothing."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from raymlops.evaluation.intervals import Interval, draw_weights, find_intervals, nan_if_none, none_if_nan
from raymlops.evaluation.partials import WHOLE, Layout, observe, to_exact

_REPLICATES, _GROUPS = 1000, 256
_MOST_VALUES = 15
"""Of a column, that are told."""
Floats = npt.NDArray[Any]


class Answers(NamedTuple):
    """What one learner's best trial, or a blend, answered to the rows."""

    name: str
    trials: tuple[str, ...]
    scores: Floats
    """As those of a file: (rows,) or (rows, classes)."""
    losses: Floats
    """(rows,)"""
    seconds: float


@dataclasses.dataclass(frozen=True)
class LearnerLine:
    """One line of the ranking."""

    name: str
    """The learner, or `blend`."""
    trials: tuple[str, ...]
    value: Interval
    """Of the search's metric."""
    loss: float
    behind: float
    """How much larger its mean loss is than the least; 0 for the first."""
    error: float
    """The standard error of that difference."""
    first: float
    """Share of bootstrap samples of the rows in which its mean loss was the least."""
    seconds: float
    """Of its trainings in the search."""
    size: int | None = None
    """Bytes of the file of this trial or blend alone; None if it was not made."""
    p50_ms: float | None = None
    """Of one row."""


@dataclasses.dataclass(frozen=True)
class SliceLine:
    """Which learner has the least mean loss of the rows with one value of a column."""

    column: str
    value: str
    rows: int
    name: str
    loss: float
    gain: float
    """How much less that is than the loss there of the first of all rows."""
    error: float
    """The standard error of that difference."""


@dataclasses.dataclass(frozen=True)
class LimitCost:
    """What a limit cost: values of a metric on the same rows, of what broke it and of what was taken instead."""

    limit: str
    """The limit, and what was above it."""
    given_up: str
    taken: str
    metric: str
    before: float
    after: float


@dataclasses.dataclass(frozen=True)
class LearnerRanking:
    """The least mean loss first."""

    metric: str
    rows: int
    folds: int
    """Models of each trial: above 1, each answered the rows that it left out of its training."""
    lines: tuple[LearnerLine, ...]
    slices: tuple[SliceLine, ...] = ()
    limits: tuple[LimitCost, ...] = ()
    remarks: tuple[str, ...] = ()
    """What was left out of the blend and the ranking, and why."""

    def to_json(self) -> dict[str, Any]:
        lines = [{**dataclasses.asdict(line), "value": line.value.to_json()} for line in self.lines]
        return {
            "metric": self.metric,
            "rows": self.rows,
            "folds": self.folds,
            "lines": [_without_nan(line) for line in lines],
            "slices": [_without_nan(dataclasses.asdict(line)) for line in self.slices],
            "limits": [_without_nan(dataclasses.asdict(line)) for line in self.limits],
            "remarks": list(self.remarks),
        }

    @classmethod
    def from_json(cls, held: Mapping[str, Any]) -> "LearnerRanking":
        numbers = ("loss", "behind", "error", "first", "seconds")
        lines = tuple(
            LearnerLine(**{
                **line,
                **{name: nan_if_none(line[name]) for name in numbers},
                "trials": tuple(line["trials"]),
                "value": Interval.from_json(line["value"]),
            })
            for line in held["lines"]
        )  # fmt: skip
        return cls(
            held["metric"],
            held["rows"],
            held["folds"],
            lines,
            tuple(SliceLine(**line) for line in held.get("slices", ())),
            tuple(
                LimitCost(**{**line, **{name: nan_if_none(line[name]) for name in ("before", "after")}})
                for line in held.get("limits", ())
            ),
            tuple(held.get("remarks", ())),
        )

    def list_slices(self, name: str) -> tuple[SliceLine, ...]:
        """Those where this learner is ahead of the first of all rows by more than two standard errors."""
        return tuple(line for line in self.slices if line.name == name and line.gain > 2 * line.error)

    def describe(self) -> str:
        """How sure the order is, in a sentence; empty for fewer than two lines."""
        if len(self.lines) < 2:
            return ""
        first, second = self.lines[:2]
        if second.behind > 2 * second.error:
            return f"{first.name} is ahead of {second.name} beyond doubt, in {first.first:.0%} of resamples of the rows"
        close = [line.name for line in self.lines[1:] if not line.behind > 2 * line.error]
        return (
            f"{first.name} has the least loss in {first.first:.0%} of resamples of the {self.rows:,} rows; "
            f"{', '.join(close)} {'is' if len(close) == 1 else 'are'} within two standard errors of it"
        )


def rank_learners(
    answers: Sequence[Answers],
    labels: Floats,
    *,
    task: str,
    metric: str,
    classes: int = 2,
    weights: Floats | None = None,
    loss_weights: Floats | None = None,
    folds: int = 1,
    seed: int = 0,
    slices: Mapping[str, npt.NDArray[Any]] | None = None,
    slice_rows: int = 100,
) -> LearnerRanking:
    """`weights` are those of the rows in metrics, `loss_weights` those in losses; `slices` are values of columns, of
    which those of `slice_rows` rows or more are told."""
    rows = len(labels)
    groups = np.random.default_rng(seed).permutation(rows) % _GROUPS
    masses = np.ones(rows) if loss_weights is None else np.asarray(loss_weights, dtype=np.float64)
    losses = np.stack([one.losses for one in answers])
    means = losses @ masses / masses.sum()
    best = int(np.argmin(means))
    firsts = _count_firsts(losses, masses, groups, seed)
    layout = Layout(
        task, max(2, classes), cells=1000 if task == "binary" else max(50, 2000 // max(2, classes))
    )
    if task == "regression":
        layout = dataclasses.replace(layout, shift=float(labels.mean()), spread=float(labels.std()) or 1.0)
    lines = []
    for place, one in enumerate(answers):
        differences = losses[place] - losses[best]
        behind = float(means[place] - means[best])
        partial = to_exact(observe(layout, labels, one.scores, groups, weights=weights))
        found = find_intervals(partial.layout, partial.sums[WHOLE], 200, seed=seed)
        lines.append(
            LearnerLine(
                name=one.name,
                trials=one.trials,
                value=found.get(metric, Interval(float("nan"), float("nan"), float("nan"))),
                loss=float(means[place]),
                behind=behind,
                error=float(np.sqrt((masses**2 * (differences - behind) ** 2).sum()) / masses.sum()),
                first=float(firsts[place]),
                seconds=one.seconds,
            )
        )
    found_slices = [
        line
        for column, values in (slices or {}).items()
        for line in _rank_values(
            column, values, [one.name for one in answers], losses, masses, best, slice_rows
        )
    ]
    return LearnerRanking(
        metric, rows, folds, tuple(sorted(lines, key=lambda line: line.loss)), tuple(found_slices)
    )


def _rank_values(
    column: str,
    values: npt.NDArray[Any],
    names: Sequence[str],
    losses: Floats,
    masses: Floats,
    best: int,
    least: int,
) -> list[SliceLine]:
    """The most frequent values of a column first."""
    texts = np.array(["" if value is None or value != value else str(value) for value in values.tolist()])
    found, counts = np.unique(texts, return_counts=True)
    lines = []
    for place in np.argsort(-counts, kind="stable")[:_MOST_VALUES]:
        chosen = texts == found[place]
        weights = np.where(chosen, masses, 0.0)
        if counts[place] < least or not weights.sum() > 0:
            continue
        means = losses @ weights / weights.sum()
        first = int(np.argmin(means))
        gains = losses[best] - losses[first]
        gain = float(means[best] - means[first])
        error = float(np.sqrt((weights**2 * (gains - gain) ** 2).sum()) / weights.sum())
        lines.append(
            SliceLine(
                column, str(found[place]), int(counts[place]), names[first], float(means[first]), gain, error
            )
        )
    return lines


def _without_nan(line: Mapping[str, Any]) -> dict[str, Any]:
    return {key: none_if_nan(one) if isinstance(one, float) else one for key, one in line.items()}


def _count_firsts(losses: Floats, masses: Floats, groups: npt.NDArray[np.int64], seed: int) -> Floats:
    """The share of bootstrap samples of groups of rows in which each has the least mean loss; ties go to the first."""
    count = min(_GROUPS, losses.shape[1])
    sums = np.stack([np.bincount(groups, masses * one, minlength=count) for one in losses], axis=1)
    drawn = draw_weights(count, _REPLICATES, seed)[1:] @ sums
    return np.bincount(drawn.argmin(axis=1), minlength=len(losses)) / _REPLICATES
