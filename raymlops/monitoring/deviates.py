"""Tests of counts against the counts that a reference expects. Each gives a normal deviate: how unlikely the counts are
if nothing changed, as the number of standard deviations of a normal variable that is exceeded as rarely. Large is
unlikely. The reference is a sample, too: `reference_rows` says of how many rows, and its error is part of each test.

All functions take arrays of any leading shape: windows, streams, columns. Decides nothing: thresholds are elsewhere.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from raymlops.monitoring.cells import ABOVE, BELOW, MISSING, NEW, NUMBER_CELLS

Floats = npt.NDArray[np.floating[Any]]

NUMBER_TESTS = ("missing", "below", "above", "shift", "spread", "shape")
CATEGORY_TESTS = ("missing", "new", "shape")
QUALITY_TESTS = frozenset({"missing", "below", "above", "new"})
"""Of them: what is wrong with the data whoever the rows are about."""

_NORMAL = 25.0
"""Expected rows from which a count is taken as normal, not as binomial."""
_MIN_EXPECTED = 5.0
"""Expected rows of a cell of the chi-square test; smaller ones are joined with their neighbours."""
_TINY = 1e-9


def test_numbers(observed: Floats, expected: Floats, reference_rows: float) -> Floats:
    """Deviates (..., 6) in the order of NUMBER_TESTS, of counts (..., 19 or more) of one column of numbers. The sums of
    both are the same number of rows; without rows all are 0."""
    observed, expected = observed[..., :NUMBER_CELLS], expected[..., :NUMBER_CELLS]
    tails = [_test_cell(observed, expected, cell, reference_rows) for cell in (MISSING, BELOW, ABOVE)]
    present, wanted, ratio = _scale_to_present(observed, expected, reference_rows)
    shift, spread = _test_ranks(present, wanted, ratio)
    shape = _test_shape(present, wanted, ratio)
    held = present.sum(axis=-1) > 0
    return np.stack([*tails, *(np.where(held, one, 0.0) for one in (shift, spread, shape))], axis=-1)


def test_categories(observed: Floats, expected: Floats, reference_rows: float) -> Floats:
    """Deviates (..., 3) in the order of CATEGORY_TESTS, of counts (..., 32) of one column of categories."""
    tails = [_test_cell(observed, expected, cell, reference_rows) for cell in (MISSING, NEW)]
    present, wanted, ratio = _scale_to_present(observed, expected, reference_rows)
    return np.stack([*tails, _test_shape(present, wanted, ratio)], axis=-1)


def _test_cell(observed: Floats, expected: Floats, cell: int, reference_rows: float) -> Floats:
    """Whether a cell has more rows than expected: given the rows of both samples in it, those of the window are
    binomial (Przyborowski and Wilenski 1940)."""
    rows = observed.sum(axis=-1)
    seen, wanted = observed[..., cell], expected[..., cell]
    held = wanted * (reference_rows / np.maximum(rows, 1.0))  # the reference's rows in the cell
    part = np.clip(rows / (rows + reference_rows), _TINY, 1.0 - _TINY)
    both = np.maximum(seen + held, _TINY)
    share = np.minimum(wanted / np.maximum(rows, 1.0), 1.0 - _TINY)
    # of a share that is not small, the rows outside the cell have an error, too
    normal = (seen - both * part) / np.sqrt(both * part * (1.0 - part) * (1.0 - share))
    chance = special.betainc(np.maximum(seen, _TINY), held + 1.0, part)
    with np.errstate(divide="ignore", invalid="ignore"):
        # far out the chance is 0 in floating point; there the root of the deviance takes over
        deviance = special.xlogy(seen, seen / (both * part)) + special.xlogy(
            held, held / (both * (1.0 - part))
        )
        exact = np.where(
            chance > 1e-280, -special.ndtri(np.minimum(chance, 1.0 - 1e-12)), np.sqrt(2.0 * deviance)
        )
    return np.where((rows > 0) & (seen > 0), np.where(wanted < _NORMAL, exact, normal), 0.0)


def _scale_to_present(
    observed: Floats, expected: Floats, reference_rows: float
) -> tuple[Floats, Floats, Floats]:
    """Both without the missing rows, expected as many as were observed; and the ratio of these to those of the
    reference, (..., 1)."""
    present, wanted = observed[..., 1:], expected[..., 1:]
    sums, rows = wanted.sum(axis=-1, keepdims=True), present.sum(axis=-1, keepdims=True)
    held = sums * (reference_rows / np.maximum(observed.sum(axis=-1, keepdims=True), 1.0))
    return present, wanted * (rows / np.maximum(sums, _TINY)), rows / np.maximum(held, 1.0)


def _test_ranks(observed: Floats, expected: Floats, ratio: Floats) -> tuple[Floats, Floats]:
    """Whether the mean rank moved, and whether ranks lie further out or further in: its square, made orthogonal to the
    rank and to 1 under the expectation."""
    rows = np.maximum(observed.sum(axis=-1, keepdims=True), _TINY)
    share = expected / rows
    rank = np.cumsum(share, axis=-1) - share / 2 - 0.5
    weighted = share * rank
    square = (weighted * rank).sum(axis=-1, keepdims=True)
    cube = (weighted * rank * rank).sum(axis=-1, keepdims=True)
    bent = rank * rank - square - cube / np.maximum(square, _TINY) * rank
    bent_square = (share * bent * bent).sum(axis=-1)
    root = np.sqrt(rows[..., 0] * (1.0 + ratio[..., 0]))
    shift = (observed * rank).sum(axis=-1) / (root * np.sqrt(np.maximum(square[..., 0], _TINY)))
    spread = (observed * bent).sum(axis=-1) / (root * np.sqrt(np.maximum(bent_square, _TINY)))
    spread = np.where(bent_square > 1e-6, spread, 0.0)  # of a column with two values it says nothing
    return fold(np.where(square[..., 0] > 1e-6, shift, 0.0)), fold(spread)


def fold(deviate: Floats) -> Floats:
    """Of a two-sided test, as a one-sided deviate of the same chance."""
    size = np.abs(deviate)
    chance = special.ndtr(-size)
    with np.errstate(divide="ignore"):
        # beyond that the factor 2 moves the deviate by less than log(2) / 37
        return np.where(size < 37.0, -special.ndtri(np.minimum(2.0 * chance, 1.0 - 1e-12)), size)


def _test_shape(observed: Floats, expected: Floats, ratio: Floats) -> Floats:
    """Chi-square of two samples over cells, neighbours joined until about 5 rows are expected in each."""
    sure = expected / (1.0 + ratio)  # the rows that a sample without an error of its own would need
    total = sure.sum(axis=-1, keepdims=True)
    middle = np.cumsum(sure, axis=-1) - sure / 2
    groups = np.clip(total // _MIN_EXPECTED, 1.0, expected.shape[-1])
    width = np.maximum(total / groups, _MIN_EXPECTED)
    place = np.minimum(middle / width, groups - 1).astype(np.int64)
    cells = expected.shape[-1]
    # a cell that is wide enough by itself is not joined: its middle has a place of its own
    flat = (np.arange(place.size // cells).reshape((*place.shape[:-1], 1)) * cells + place).ravel()
    joined = np.bincount(flat, expected.ravel(), minlength=place.size).reshape(expected.shape)
    seen = np.bincount(flat, observed.ravel(), minlength=place.size).reshape(expected.shape)
    used = joined > _MIN_EXPECTED / 2 * (1.0 + ratio)
    parts = np.where(used, (seen - joined) ** 2 / np.where(used, joined + ratio * seen, 1.0), 0.0)
    return deviate_of_chi_square(parts.sum(axis=-1), used.sum(axis=-1) - 1.0)


def deviate_of_chi_square(value: Floats, freedom: Floats) -> Floats:
    degrees = np.maximum(freedom, 1.0)
    chance = special.chdtrc(degrees, value)
    ratio = 2.0 / (9.0 * degrees)
    cube = (np.cbrt(value / degrees) - 1.0 + ratio) / np.sqrt(ratio)  # Wilson and Hilferty 1931
    # their cube root grows too slowly far out, where the deviate is about the root of the statistic
    far = np.maximum(cube, np.sqrt(np.maximum(value - degrees * np.log(np.maximum(value, 1.0)), 0.0)))
    with np.errstate(divide="ignore"):
        found = np.where(chance > 1e-280, -special.ndtri(np.minimum(chance, 1.0 - 1e-12)), far)
    return np.where(freedom > 0, found, 0.0)
