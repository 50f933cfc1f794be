"""Rows whose labels are the answers of a trained model, from which a smaller one learns to answer alike (Hinton,
Vinyals, Dean 2015), and rows that are drawn anew column by column, for which only the model has labels (Bucila,
Caruana, Niculescu-Mizil 2006). Trains nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.tensors import Batch, count_rows
from raymlops.training.learners import Scorer
from raymlops.training.packed import LABEL, WEIGHT

SHARE = 0.3
"""Of the values of a row that is drawn anew, those that come from other rows."""
MOST_COPIES = 5
MOST_ROWS = 120_000
"""Rows with soft labels, up to which rows are drawn anew."""
_SCORED_ROWS = 16_384


def count_copies(rows: int) -> int:
    """How often so many rows are drawn anew: few rows more often."""
    return int(np.clip(MOST_ROWS // max(1, rows) - 1, 0, MOST_COPIES))


def resample_columns(columns: Batch, seed: int, share: float = SHARE) -> Batch:
    """Rows of raw columns in which each value is, by this chance, that of another row."""
    random, rows = np.random.default_rng(seed), count_rows(columns)
    found = {}
    for name, values in columns.items():
        sources = np.where(random.random(rows) < share, random.permutation(rows), np.arange(rows))
        found[name] = values[sources]
    return found


def label_softly(scorer: Scorer, parts: Sequence[Batch], weights: npt.NDArray[Any] | None = None) -> Batch:
    """All parts of packed rows, each with the scores of the model as labels: probabilities of the second class (rows,)
    or of all classes (rows, classes), or standardised predictions (rows,). `weights` are of the rows of each part."""
    names = [name for name in parts[0] if name not in (LABEL, WEIGHT)]
    found = {name: np.concatenate([part[name] for part in parts]) for name in names}
    found[LABEL] = np.asarray(_score(scorer, found), dtype=np.float32)
    if weights is not None:
        found[WEIGHT] = np.tile(weights, len(parts))
    return found


def _score(scorer: Scorer, rows: Batch) -> npt.NDArray[Any]:
    count = count_rows(rows)
    return np.concatenate([
        scorer.scores({name: values[start : start + _SCORED_ROWS] for name, values in rows.items()})
        for start in range(0, count, _SCORED_ROWS)
    ])  # fmt: skip


def free_of_labels(parameters: Mapping[str, Any], loss: str | None, metric: str) -> dict[str, Any]:
    """The parameters of a training on soft labels: classes are weighed in them already, and a quantile of the target's
    distribution is what they say, not one of theirs."""
    more: dict[str, Any] = {"training.class_weights": None, "training.metric": metric}
    if loss in ("mae", "quantile"):
        more["training.loss"] = None
    return {**parameters, **more}
