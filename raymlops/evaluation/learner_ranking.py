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
class LearnerRanking:
    """The least mean loss first."""

    metric: str
    rows: int
    folds: int
    """Models of each trial: above 1, each answered the rows that it left out of its training."""
    lines: tuple[LearnerLine, ...]

    def to_json(self) -> dict[str, Any]:
        lines = [{**dataclasses.asdict(line), "value": line.value.to_json()} for line in self.lines]
        return {
            "metric": self.metric,
            "rows": self.rows,
            "folds": self.folds,
            "lines": [
                {key: none_if_nan(one) if isinstance(one, float) else one for key, one in line.items()}
                for line in lines
            ],
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
        return cls(held["metric"], held["rows"], held["folds"], lines)

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
) -> LearnerRanking:
    """`weights` are those of the rows in metrics, `loss_weights` those in losses."""
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
    return LearnerRanking(metric, rows, folds, tuple(sorted(lines, key=lambda line: line.loss)))


def _count_firsts(losses: Floats, masses: Floats, groups: npt.NDArray[np.int64], seed: int) -> Floats:
    """The share of bootstrap samples of groups of rows in which each has the least mean loss; ties go to the first."""
    count = min(_GROUPS, losses.shape[1])
    sums = np.stack([np.bincount(groups, masses * one, minlength=count) for one in losses], axis=1)
    drawn = draw_weights(count, _REPLICATES, seed)[1:] @ sums
    return np.bincount(drawn.argmin(axis=1), minlength=len(losses)) / _REPLICATES
