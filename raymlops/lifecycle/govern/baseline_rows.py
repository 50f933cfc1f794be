"""Fits the baselines to training rows and measures them and a version on test rows. Judges nothing."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import ray
from ray.exceptions import RayError

from raymlops.errors import RaymlopsError, last_line
from raymlops.evaluation import baselines
from raymlops.evaluation.baselines import MOST_ROWS, Baseline, Line
from raymlops.evaluation.partials import Layout, Partial
from raymlops.features import FittedFeatures
from raymlops.lifecycle.govern.evaluation_rows import Fitting, Rows, draw_sample
from raymlops.lifecycle.govern.gate_evidence import Sample
from raymlops.lifecycle.govern.scoring import score_rows
from raymlops.models.session import Session
from raymlops.specs.evaluation import EvaluationSpec
from raymlops.tensors import Batch

_MOST_VALUES = 20_000_000
"""Values of a sample: of wide rows, as of images, fewer are drawn."""


@dataclasses.dataclass(frozen=True)
class Compared:
    """A version and the baselines on the same test rows."""

    model: Partial
    baselines: Mapping[str, Partial]
    fitted: tuple[Baseline, ...]
    rows: int
    """Test rows that they are measured on; a sample if there are many."""

    def rank(self, spec: EvaluationSpec) -> dict[str, tuple[Line, ...]]:
        """Metric -> the leaderboard."""
        return baselines.rank(
            self.model,
            self.baselines,
            self.fitted,
            replicates=spec.replicates,
            confidence=spec.confidence,
        )


def start_fitting(features: FittedFeatures, rows: Rows) -> Fitting | None:
    """Fit the baselines in a task; None if there are no training rows, as for data other than the version's own.
    Raises DataError and the like for rows that cannot be read."""
    if rows.train is None or not rows.counts.get("train"):
        return None
    width = sum(max(1, _width(column.shape)) for column in features.raw)
    most = min(MOST_ROWS, max(1000, _MOST_VALUES // width))
    train = draw_sample(rows, "train", features, most)
    test = draw_sample(rows, "test", features, most)
    categories = frozenset(column.name for column in features.raw if column.kind in ("category", "means"))
    fit = ray.remote(num_cpus=1)(_fit_and_answer)
    task, classes = features.target.task, len(features.target.classes)
    fitted = fit.remote(train, test.columns, task, classes, categories)
    return Fitting(test, len(test.labels) == rows.counts["test"], fitted)


def _fit_and_answer(
    train: Sample, columns: Batch, task: str, classes: int, categories: frozenset[str]
) -> tuple[Baseline, ...]:
    fitted = baselines.fit_baselines(
        train.columns,
        train.labels,
        task=task,
        classes=classes,
        categories=categories,
        weights=train.weights,
    )
    return baselines.answer(fitted, columns)


def compare_baselines(
    session: Session, features: FittedFeatures, layout: Layout, rows: Rows, tell: Callable[[str], None]
) -> Compared | None:
    """None if there are no training rows, or if nothing can be fitted to them: the version is judged without."""
    try:
        fitting = rows.fitting or start_fitting(features, rows)
        if fitting is None:
            return None
        test, fitted = fitting.test, ray.get(fitting.fitted)
        scores = score_rows(session, test.columns, features.target).astype(np.float64)
        model, others = baselines.measure(
            layout, test.columns, test.labels, scores, fitted, weights=test.weights
        )
        return Compared(model, others, fitted, len(test.labels))
    except (RaymlopsError, RayError, ValueError, ArithmeticError, MemoryError) as error:
        tell(f"The baselines could not be fitted, so there is no comparison with them: {last_line(error)}")
        return None


def _width(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size
