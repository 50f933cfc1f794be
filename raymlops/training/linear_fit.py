"""Linear models with an L2 penalty, fitted by L-BFGS to rows where they lie: some thousand are read at a time, and
there is no matrix of all of them with a column for each value of a category. The minimum is that of scikit-learn's."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit, logsumexp, softmax

from raymlops.features import Packing
from raymlops.tensors import Batch, count_rows

Floats = npt.NDArray[np.float64]

_AT_ONCE = 8192
"""Rows."""
_MOST_LOG = 50.0
"""Of a count that a step of the search may reach."""
_TOLERANCE = 1e-4
"""Of the gradient of the mean loss, as scikit-learn has it."""


def _of_classes(margins: Floats, labels: Any) -> tuple[Floats, Floats]:
    places = np.asarray(labels, dtype=np.int64)[:, None]
    losses = logsumexp(margins, axis=1) - np.take_along_axis(margins, places, axis=1)[:, 0]
    slopes = softmax(margins, axis=1)
    np.put_along_axis(slopes, places, np.take_along_axis(slopes, places, axis=1) - 1, axis=1)
    return losses, slopes


def _of_two_classes(margins: Floats, labels: Any) -> tuple[Floats, Floats]:
    return np.logaddexp(0, margins[:, 0]) - labels * margins[:, 0], expit(margins) - labels[:, None]


def _of_numbers(margins: Floats, labels: Any) -> tuple[Floats, Floats]:
    apart = margins - labels[:, None]
    return apart[:, 0] ** 2 / 2, apart


def _of_counts(margins: Floats, labels: Any) -> tuple[Floats, Floats]:
    means = np.exp(np.minimum(margins, _MOST_LOG))
    return means[:, 0] - labels * margins[:, 0], means - labels[:, None]


LOSSES: Mapping[str, Callable[[Floats, Any], tuple[Floats, Floats]]] = {
    "binary": _of_two_classes,
    "multiclass": _of_classes,
    "mse": _of_numbers,
    "poisson": _of_counts,
}
"""Margins (rows, outputs) and labels (rows,) -> losses (rows,), and their slopes by the margins (rows, outputs)."""


@dataclasses.dataclass(frozen=True)
class LinearProblem:
    """What is least: the mean loss of the rows, and half of `penalty` times the squares of all weights but the bias."""

    rows: Batch
    packing: Packing
    labels: npt.NDArray[Any]
    weights: npt.NDArray[Any] | None
    loss: str
    outputs: int
    penalty: float

    @property
    def columns(self) -> int:
        return self.packing.numeric + sum(self.packing.categories)

    def measure(self, flat: Floats, left_out: npt.NDArray[np.bool_]) -> tuple[float, Floats]:
        """The value at weights (columns and the bias, outputs) in one line, and its slopes; numbers that are left out
        count as 0."""
        held = flat.reshape(self.columns + 1, self.outputs).copy()
        held[: len(left_out)][left_out] = 0
        slopes, total, count = np.zeros_like(held), 0.0, count_rows(self.rows)
        for start in range(0, count, _AT_ONCE):
            total += self._add(held, slopes, slice(start, min(start + _AT_ONCE, count)))
        slopes[: len(left_out)][left_out] = 0
        slopes /= count
        slopes[:-1] += self.penalty * held[:-1]
        return total / count + self.penalty / 2 * float((held[:-1] ** 2).sum()), slopes.ravel()

    def _add(self, held: Floats, slopes: Floats, part: slice) -> float:
        """The loss of some rows, whose slopes are added."""
        cut, margins = self.packing.numeric, np.tile(held[-1], (part.stop - part.start, 1))
        if cut:
            numbers = np.asarray(self.rows["numeric"][part], dtype=np.float64)
            margins += numbers @ held[:cut]
        if self.packing.categories:
            starts = np.cumsum((0, *self.packing.categories[:-1]))
            places = self.rows["category"][part] + starts  # (rows, categories)
            margins += held[cut:-1][places].sum(axis=1)
        losses, by_margin = LOSSES[self.loss](margins, self.labels[part])
        if self.weights is not None:
            losses, by_margin = losses * self.weights[part], by_margin * self.weights[part][:, None]
        slopes[-1] += by_margin.sum(axis=0)
        if cut:
            slopes[:cut] += numbers.T @ by_margin
        if self.packing.categories:
            for output in range(self.outputs):
                each = np.repeat(by_margin[:, output], places.shape[1])
                slopes[cut:-1, output] += np.bincount(places.ravel(), each, len(slopes) - cut - 1)
        return float(losses.sum())


def fit_linear(
    problem: LinearProblem, iterations: int, left_out: npt.NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Weights (columns, outputs) and bias (outputs,); those of numbers that are left out are 0."""
    start = np.zeros((problem.columns + 1) * problem.outputs)
    options = {"maxiter": iterations, "maxls": 50, "gtol": _TOLERANCE, "ftol": 64 * np.finfo(float).eps}
    found = minimize(
        problem.measure, start, args=(left_out,), jac=True, method="L-BFGS-B", options=options
    ).x.reshape(problem.columns + 1, problem.outputs)
    found[: len(left_out)][left_out] = 0
    return found[:-1], found[-1]
