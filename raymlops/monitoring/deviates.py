"""Tests of counts against the counts that a reference expects. Each gives a normal deviate: how unlikely the counts are
if nothing changed, as the number of standard deviations of a normal variable that is exceeded as rarely. Large is
unlikely. The reference is a sample, too: `reference_rows` says of how many rows, and its error is part of each test.

All functions take arrays of any leading shape: windows, streams, columns. Decides nothing: thresholds are elsewhere.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from raymlops.monitoring.cells import ABOVE, BELOW, MISSING, NEW, NUMBER_CELLS

Floats = npt.NDArray[np.floating[Any]]

NUMBER_TESTS = ("missing", "below", "above", "shift", "spread", "shape")
CATEGORY_TESTS = ("missing", "new", "shape")
QUALITY_TESTS = frozenset({"missing", "below", "above", "new"})
"""Of them: what is wrong with the data whoever the rows are about."""

_NORMAL, _SURPRISE = 25.0, 2.0
"""Expected rows from which a count is taken as normal, not as binomial, unless the deviate is larger than that: the
tails of a binomial variable are longer."""
_MIN_EXPECTED = 5.0
"""Expected rows of a cell of the chi-square test; smaller ones are joined with their neighbours."""
_TINY = 1e-9


class Variance(NamedTuple):
    """How much larger the variance of each test (..., tests) is than among independent rows, and the share (...) of
    the freedom of the shape that it leaves: rows that hang together move a few combinations of cells."""

    inflation: Floats | float = 1.0
    freedom: Floats | float = 1.0


INDEPENDENT = Variance()


def test_numbers(
    observed: Floats,
    expected: Floats,
    reference_rows: Floats | float,
    variance: Variance = INDEPENDENT,  # noqa: PT028
) -> Floats:
    """Deviates (..., 6) in the order of NUMBER_TESTS, of counts (..., 19 or more) of one column of numbers; `expected`
    is taken in proportion. Without rows all are 0."""
    observed, expected = observed[..., :NUMBER_CELLS], expected[..., :NUMBER_CELLS]
    factors = np.broadcast_to(variance.inflation, (*observed.shape[:-1], len(NUMBER_TESTS)))
    tails = _test_cells(observed, expected, (MISSING, BELOW, ABOVE), reference_rows)
    present = _Present.of(observed, expected, reference_rows)
    linear = np.stack([*tails, *_test_ranks(present)], axis=-1) / np.sqrt(factors[..., :5])
    ranks = np.where(present.rows > 0, fold(linear[..., 3:]), 0.0)
    return np.concatenate(
        [linear[..., :3], ranks, _test_shape(present, factors[..., 5], variance.freedom)[..., None]], axis=-1
    )


def test_categories(
    observed: Floats,
    expected: Floats,
    reference_rows: Floats | float,
    variance: Variance = INDEPENDENT,  # noqa: PT028
) -> Floats:
    """Deviates (..., 3) in the order of CATEGORY_TESTS, of counts (..., 32) of one column of categories."""
    factors = np.broadcast_to(variance.inflation, (*observed.shape[:-1], len(CATEGORY_TESTS)))
    tails = _test_cells(observed, expected, (MISSING, NEW), reference_rows)
    present = _Present.of(observed, expected, reference_rows)
    return np.stack(
        [
            tails[0] / np.sqrt(factors[..., 0]),
            tails[1] / np.sqrt(factors[..., 1]),
            _test_shape(present, factors[..., 2], variance.freedom),
        ],
        axis=-1,
    )


def _test_cells(
    observed: Floats, expected: Floats, cells: Sequence[int], reference_rows: Floats | float
) -> list[Floats]:
    """Whether cells have more rows than expected: given the rows of both samples in it, those of the window are
    binomial (Przyborowski and Wilenski 1940)."""
    rows = observed.sum(axis=-1)
    total = np.maximum(expected.sum(axis=-1), _TINY)
    part = np.clip(rows / (rows + reference_rows), _TINY, 1.0 - _TINY)
    found = []
    for cell in cells:
        seen, share = observed[..., cell], np.minimum(expected[..., cell] / total, 1.0 - _TINY)
        held = np.broadcast_to(share * reference_rows, seen.shape)  # the reference's rows in the cell
        both = np.maximum(seen + held, _TINY)
        # of a share that is not small, the rows outside the cell have an error, too
        deviate = (seen - both * part) / np.sqrt(both * part * (1.0 - part) * (1.0 - share))
        deviate = np.where(seen > 0, deviate, 0.0)
        wanted = share * rows
        few = (seen > wanted) & ((wanted < _NORMAL) | (deviate > _SURPRISE))
        if few.any():
            deviate[few] = _test_tail(seen[few], held[few], np.broadcast_to(part, seen.shape)[few])
        found.append(deviate)
    return found


def _test_tail(seen: Floats, held: Floats, part: Floats) -> Floats:
    chance = special.betainc(np.maximum(seen, _TINY), held + 1.0, part)
    both = seen + held
    with np.errstate(divide="ignore", invalid="ignore"):
        # far out the chance is 0 in floating point; there the root of the deviance takes over
        deviance = special.xlogy(seen, seen / (both * part)) + special.xlogy(
            held, held / (both * (1.0 - part))
        )
        found: Floats = np.where(
            chance > 1e-280,
            -special.ndtri(np.minimum(chance, 1.0 - 1e-12)),
            np.sqrt(2.0 * np.maximum(deviance, 0.0)),
        )
    return found


class _Present(NamedTuple):
    """Without the missing rows: counts (..., cells), what share of them is expected in each cell, their sum (..., 1),
    and the ratio of this to the rows of the reference (..., 1). Shares may have fewer windows than counts."""

    counts: Floats
    shares: Floats
    rows: Floats
    ratio: Floats

    @classmethod
    def of(cls, observed: Floats, expected: Floats, reference_rows: Floats | float) -> "_Present":
        counts, wanted = observed[..., 1:], expected[..., 1:]
        sums, rows = wanted.sum(axis=-1, keepdims=True), counts.sum(axis=-1, keepdims=True)
        own = np.asarray(reference_rows)[..., None]
        held = sums * (own / np.maximum(expected.sum(axis=-1, keepdims=True), _TINY))
        return cls(counts, wanted / np.maximum(sums, _TINY), rows, rows / np.maximum(held, 1.0))


def find_scores(shares: Floats) -> tuple[Floats, Floats]:
    """Of shares (..., cells) that sum to 1: the mean rank of each cell, centred, and its square, made orthogonal to the
    rank and to 1."""
    rank = np.cumsum(shares, axis=-1) - shares / 2 - 0.5
    weighted = shares * rank
    square = (weighted * rank).sum(axis=-1, keepdims=True)
    cube = (weighted * rank * rank).sum(axis=-1, keepdims=True)
    return rank, rank * rank - square - cube / np.maximum(square, _TINY) * rank


def _test_ranks(present: _Present) -> tuple[Floats, Floats]:
    """Whether the mean rank moved, and whether ranks lie further out or further in."""
    found = []
    scale = 1.0 + present.ratio[..., 0]
    for score, least in zip(find_scores(present.shares), (1e-6, 1e-3), strict=True):
        square = (present.shares * score * score).sum(axis=-1)
        moved = np.einsum("...c,...c->...", present.counts, score)
        # a single row must be no surprise: of a column with one value the rank, of one with two its square says nothing
        largest = (score * score).max(axis=-1)
        deviate = moved / np.sqrt(np.maximum((present.rows[..., 0] * square + largest) * scale, _TINY))
        found.append(np.where(square > least, deviate, 0.0))
    return found[0], found[1]


def fold(deviate: Floats) -> Floats:
    """Of a two-sided test, as a one-sided deviate of the same chance."""
    size = np.abs(deviate)
    chance = special.ndtr(-size)
    with np.errstate(divide="ignore"):
        # beyond that the factor 2 moves the deviate by less than log(2) / 37
        return np.where(size < 37.0, -special.ndtri(np.minimum(2.0 * chance, 1.0 - 1e-12)), size)


def _test_shape(present: _Present, inflation: Floats, freedom: Floats | float) -> Floats:
    """Chi-square of two samples over cells, neighbours joined until about 5 rows are expected in each."""
    counts, shares, rows, ratio = present
    sure = rows / (1.0 + ratio)  # the rows that a sample without an error of its own would need
    shared = tuple(axis for axis in range(rows.ndim - 2) if shares.shape[axis] == 1)
    groups = _group(shares * sure.max(axis=shared, keepdims=True))
    wanted, seen = _sum_groups(shares, groups) * rows, _sum_groups(counts, groups)
    used = wanted > _MIN_EXPECTED / 2 * (1.0 + ratio)
    parts = np.where(used, (seen - wanted) ** 2 / np.where(used, wanted + ratio * seen, 1.0), 0.0)
    # of dependent rows the sum is about that of fewer cells, each scaled (Satterthwaite 1946)
    found = deviate_of_chi_square(
        parts.sum(axis=-1) * (freedom / inflation), (used.sum(axis=-1) - 1.0) * freedom
    )
    return np.where(rows[..., 0] > 0, found, 0.0)


def _group(sure: Floats) -> npt.NDArray[np.int64]:
    """The group (..., cells) of each cell; one that is wide enough by itself is not joined: its middle has a place of
    its own."""
    total = sure.sum(axis=-1, keepdims=True)
    middle = np.cumsum(sure, axis=-1) - sure / 2
    groups = np.clip(total // _MIN_EXPECTED, 1.0, sure.shape[-1])
    width = np.maximum(total / groups, _MIN_EXPECTED)
    places: npt.NDArray[np.int64] = np.minimum(middle / width, groups - 1).astype(np.int64)
    return places


def _sum_groups(counts: Floats, groups: npt.NDArray[np.int64]) -> Floats:
    """Counts (..., cells) by group: cells of a group are neighbours, so each sum is a difference of cumulative ones."""
    cells = counts.shape[-1]
    flat = groups + np.arange(groups.size // cells).reshape((*groups.shape[:-1], 1)) * cells
    sizes = np.bincount(flat.ravel(), minlength=groups.size).reshape(groups.shape)
    total = np.zeros((*counts.shape[:-1], cells + 1))
    np.cumsum(counts, axis=-1, out=total[..., 1:])
    ends = np.broadcast_to(np.cumsum(sizes, axis=-1), counts.shape)
    return np.diff(np.take_along_axis(total, ends, axis=-1), axis=-1, prepend=0.0)


def deviate_of_chi_square(value: Floats, freedom: Floats) -> Floats:
    degrees = np.maximum(freedom, 1.0)
    ratio = 2.0 / (9.0 * degrees)
    found = np.asarray((np.cbrt(value / degrees) - 1.0 + ratio) / np.sqrt(ratio))  # Wilson and Hilferty 1931
    large = found > _SURPRISE  # the exact chance costs more than all the rest
    value, degrees = np.asarray(value)[large], np.broadcast_to(degrees, found.shape)[large]
    chance = special.chdtrc(degrees, value)
    # their cube root grows too slowly far out, where the deviate is about the root of the statistic
    far = np.sqrt(np.maximum(value - degrees * np.log(np.maximum(value, 1.0)), 0.0))
    with np.errstate(divide="ignore"):
        exact = -special.ndtri(np.minimum(chance, 1.0 - 1e-12))
    found[large] = np.where(chance > 1e-280, exact, np.maximum(found[large], far))
    return np.where(freedom > 0, found, 0.0)
