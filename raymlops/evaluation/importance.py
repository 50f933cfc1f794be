"""How much of the variation in a search's results each parameter explains. Pure functions; imports no search
library."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_LEVELS = 4


def rank_parameters(trials: Sequence[Mapping[str, Any]], values: Sequence[float]) -> dict[str, float]:
    """Parameter -> share of the variance of the trials' ranks that its value explains, 0 to 1, largest first.

    Numbers are cut into four levels of equal size; the share is epsilon squared (Kelley 1935), near 0 for a parameter
    without effect. Parameters that never change are left out.
    """
    finite = np.isfinite(np.asarray(values, dtype=np.float64))
    ranks = np.argsort(np.argsort(np.asarray(values)[finite])).astype(np.float64)
    kept = [trial for trial, good in zip(trials, finite, strict=True) if good]
    found = {}
    for name in sorted({name for trial in kept for name in trial}):
        levels = _to_levels([trial.get(name) for trial in kept])
        if len(np.unique(levels)) > 1:
            found[name] = _explain(levels, ranks)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _to_levels(values: list[Any]) -> npt.NDArray[np.int64]:
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        numbers = np.asarray(values, dtype=np.float64)
        if len(np.unique(numbers)) > _LEVELS:
            edges = np.quantile(numbers, np.linspace(0, 1, _LEVELS + 1)[1:-1])
            return np.searchsorted(edges, numbers, side="right")
    return np.unique([str(value) for value in values], return_inverse=True)[1]


def _explain(levels: npt.NDArray[np.int64], ranks: npt.NDArray[np.float64]) -> float:
    count, groups = len(ranks), len(np.unique(levels))
    total = float(((ranks - ranks.mean()) ** 2).sum())
    if total == 0 or count <= groups:
        return 0.0
    within = sum(
        float(((ranks[levels == level] - ranks[levels == level].mean()) ** 2).sum())
        for level in np.unique(levels)
    )
    return max(0.0, 1 - (within / (count - groups)) / (total / (count - 1)))
