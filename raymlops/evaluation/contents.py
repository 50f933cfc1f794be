"""Contents of a report, as frozen values, and the format of its names and numbers. Draws nothing."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from raymlops.evaluation.baselines import Line
from raymlops.evaluation.intervals import Interval
from raymlops.evaluation.learner_ranking import LearnerRanking
from raymlops.evaluation.permutation import PermutationImportance
from raymlops.evaluation.results import Evaluation
from raymlops.evaluation.verdict import Verdict

_TITLES = {
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "log_loss": "log loss",
    "brier": "Brier score",
    "calibration_error": "calibration error",
    "macro_f1": "macro F1",
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R²",
}


@dataclasses.dataclass(frozen=True)
class TrialLine:
    """One trial of the search. `curves` are metric -> its value after each epoch."""

    name: str
    parameters: Mapping[str, Any]
    value: float
    seconds: float = 0.0
    error: str = ""
    ended: float = 0.0
    """Seconds from the start of the first trial to its end; 0 if that is not known."""
    curves: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class MemberLine:
    """What the models of one trial weigh in a blend. The weights of all add up to the inverse of its temperature."""

    trial: str
    learner: str
    weight: float
    models: int


@dataclasses.dataclass(frozen=True)
class VariantLine:
    """One file of the model: the original, or a smaller one. Metrics are on the same test rows."""

    kind: str
    size: int
    p50_ms: float
    p99_ms: float
    rows_per_second: float
    metrics: Mapping[str, Interval]
    difference: float = 0.0
    passed: bool | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    """All that a report shows; empty parts are left out."""

    title: str
    metric: str
    evaluation: Evaluation
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    classes: tuple[str, ...] = ()
    champion: Evaluation | None = None
    champion_name: str = ""
    verdict: Verdict | None = None
    trials: tuple[TrialLine, ...] = ()
    trial_metric: str = ""
    learners: LearnerRanking | None = None
    members: tuple[MemberLine, ...] = ()
    """Of a blend, also of one that a network learned from, the largest first; else empty."""
    taught: str = ""
    """Of a network that learned from a blend: how good both are, in a sentence; else empty."""
    constraints: tuple[str, ...] = ()
    """Keys of the spec that say what a model may be, such as `search.glassbox: true`."""
    epochs: int = 0
    """Of one training, unless trials vary it; 0 if that is not known."""
    grid: bool = False
    """Whether the trials are all that there are."""
    chosen: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """Key of the spec that was left open -> the `value` that the rows decided, and `why`."""
    importance: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Parameter of the search -> its share of what decides how good a trial is, largest first."""
    data: Mapping[str, str] = dataclasses.field(default_factory=dict)
    findings: Sequence[Mapping[str, Any]] = ()
    anomalies: Sequence[Mapping[str, Any]] = ()
    """Of the training set: `column`, `kind` and `text`."""
    slice_counts: Sequence[Mapping[str, Any]] = ()
    """`column`, `value`, and by split the `rows` and the `means` of the target."""
    columns: Mapping[str, float] = dataclasses.field(default_factory=dict)
    permuted: PermutationImportance | None = None
    parity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    variants: tuple[VariantLine, ...] = ()
    leaderboard: tuple[Line, ...] = ()
    """The version and its baselines, by `metric`."""


def name_metric(name: str) -> str:
    """A metric's name for readers."""
    return _TITLES.get(name, name.replace("_", " "))


LEARNER = "training.learner"


def learner_of(trial: TrialLine) -> str:
    """Of a search over several; else empty."""
    return str(trial.parameters.get(LEARNER, ""))


def show_name(parameter: str) -> str:
    """A parameter's name without the prefix that all of a kind share."""
    return parameter.removeprefix("network.options.").removeprefix("training.")


def show_number(value: Any) -> str:
    """Four significant digits; empty for None."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1e4:
        return f"{value:,.0f}" if math.isfinite(value) else str(value)
    return f"{value:.4g}"
