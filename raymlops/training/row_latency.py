"""The least time that a model takes for one row, by its shape before it is trained: measured constants of one thread of
a fast machine. Times nothing; what a file takes on the machine at hand is for the gate."""

import math

from raymlops.features import Packing
from raymlops.training.learners import Run

CALL_US = 4.0
"""Of a model that does nothing, in microseconds."""
COLUMN_US = 1.0
"""Of each column in front of a model."""
_TREE_US = 0.0016
"""Of a tree, times the square of its depth: the deeper, the less of it lies in the caches. 0.016 of 8 leaves, 0.06 of
63, 0.11 of 370."""
_WEIGHT_US = 4e-5
"""Of a weight that is read once for a row."""
_PRODUCT_US = 1.2e-5
"""Of a product, where weights are read once for several members."""
P99_TO_P50 = 1.5
"""The gate judges the slowest of a hundred, and the constants are medians."""


def of_columns(packing: Packing) -> float:
    """Microseconds of the front. A text or an image, which gives many numbers, is not counted."""
    names = {name for name in (*packing.plain_of, *packing.numeric_of) if name}
    return CALL_US + COLUMN_US * (len(names) + len(packing.categories))


def of_trees(trees: int, leaves: float) -> float:
    """Microseconds of so many trees with so many leaves each."""
    return trees * _TREE_US * math.log2(max(2.0, leaves)) ** 2


def of_layers(weights: int, members: int = 1) -> float:
    """Microseconds of the weights of a network that is asked for each of its members."""
    return max(weights * _WEIGHT_US, weights * members * _PRODUCT_US if members > 1 else 0.0)


def limit_rounds(run: Run, rounds: int, leaves: float) -> int:
    """The rounds of a boosted training that keep `gate.latency_ms` with so many leaves a tree; all where the limit is
    so low that no round keeps it, for which the gate then has the numbers."""
    limit = run.spec.gate.latency_ms
    if limit is None:
        return rounds
    left = limit * 1e3 / P99_TO_P50 - of_columns(run.job.packing)
    most = int(left / of_trees(max(1, run.job.target.outputs), leaves))
    return min(rounds, most) if most > 0 else rounds
