"""The weights of a linear model over the margins of trained models, which makes of them one ("stacked generalization",
Wolpert 1992; not negative, Breiman 1996). Chooses no models."""

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from raymlops.training.row_losses import Floats, RowLoss

_SPREAD = 0.1
"""How far a weight is expected to be from that of a plain mean, before rows say so."""
_LEAST = 0.02
"""Smaller shares of all weights are left out: each member costs a part of the file and of the time of an answer."""
_ITERATIONS = 60


def fit_stack(
    margins: Floats, loss: RowLoss, weights: npt.NDArray[np.floating] | None = None, most: int = 6
) -> npt.NDArray[np.float64]:
    """Weights (models,), 0 or above and at most so many above it, of the sum of `margins` (models, rows, outputs) with
    the least loss and a penalty that draws them to those of the plain mean, strong where rows are few."""
    kept = np.arange(len(margins))
    while True:
        found = _minimise(margins[kept], loss, weights)
        order = np.argsort(-found, kind="stable")[:most]
        able = np.sort(order[found[order] > _LEAST * found.sum()])
        if len(able) in (0, len(kept)):
            break
        kept = kept[able]
    result = np.zeros(len(margins))
    result[kept] = found
    return result


def _minimise(
    margins: Floats, loss: RowLoss, weights: npt.NDArray[np.floating] | None
) -> npt.NDArray[np.float64]:
    masses = np.ones(margins.shape[1]) if weights is None else np.asarray(weights, dtype=np.float64)
    rows = masses.sum() ** 2 / (masses**2).sum()
    masses = masses / masses.sum()
    plain = np.full(len(margins), 1 / len(margins))
    scale = min(float(masses @ loss(one)) for one in margins)
    penalty = abs(scale) / (2 * _SPREAD**2 * rows)

    def value(chosen: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        mixed = np.tensordot(chosen, margins, axes=1)
        slopes = np.tensordot(margins, masses[:, None] * loss.slope(mixed), axes=2)
        away = chosen - plain
        return float(masses @ loss(mixed) + penalty * away @ away), slopes + 2 * penalty * away

    bounds = [(0.0, None)] * len(margins)
    return np.asarray(
        minimize(value, plain, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _ITERATIONS}).x
    )
