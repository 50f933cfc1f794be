"""Fits the baselines to training rows and measures them and a version on test rows. Judges nothing."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from raymlops.errors import RaymlopsError
from raymlops.evaluation import baselines
from raymlops.evaluation.baselines import MOST_ROWS, Baseline, Line
from raymlops.evaluation.partials import Layout, Partial
from raymlops.features import FittedFeatures
from raymlops.lifecycle.govern.evaluation_rows import Rows, draw_sample
from raymlops.lifecycle.govern.scoring import score_rows
from raymlops.models.session import Session
from raymlops.specs.evaluation import EvaluationSpec

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


def compare_baselines(
    session: Session, features: FittedFeatures, layout: Layout, rows: Rows, tell: Callable[[str], None]
) -> Compared | None:
    """None if there are no training rows, as for data other than the version's own, or if nothing can be fitted to
    them: the version is judged without."""
    if rows.train is None or not rows.counts.get("train"):
        return None
    try:
        width = sum(max(1, _width(column.shape)) for column in features.raw)
        most = min(MOST_ROWS, max(1000, _MOST_VALUES // width))
        train = draw_sample(rows, "train", features, most)
        test = draw_sample(rows, "test", features, most)
        fitted = baselines.fit_baselines(
            train.columns,
            train.labels,
            task=features.target.task,
            classes=len(features.target.classes),
            categories=frozenset(column.name for column in features.raw if column.kind == "category"),
        )
        scores = score_rows(session, test.columns, features.target).astype(np.float64)
        model, others = baselines.measure(layout, test.columns, test.labels, scores, fitted)
        return Compared(model, others, fitted, len(test.labels))
    except (RaymlopsError, ValueError, ArithmeticError, MemoryError) as error:
        tell(f"The baselines could not be fitted, so there is no comparison with them: {error}")
        return None


def _width(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size
