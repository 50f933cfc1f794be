"""Compares the steps that were read of an estimator with the estimator itself, on rows that lay errors bare: as they
are, with missing numbers and unseen values, and between the values that trees divide."""

from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.errors import ArtifactError
from raymlops.training.number_steps import Step

LIMIT = 1e-5
"""Largest difference of a probability, or of a prediction of a standardised target; of larger ones, relative."""
_ROWS = 1_000
"""Of each kind."""
_FINE_ROWS = 64
"""Of those that are computed in more than float64."""


def make_rows(
    rows: npt.NDArray[np.float32], plain: int, *, missing: bool, seed: int
) -> npt.NDArray[np.float32]:
    """Rows of a validation split, the same with columns of one taken from another, with the first `plain` columns
    missing here and there, and with values halfway between two, where trees divide, and their neighbours."""
    random = np.random.default_rng(seed)
    kept = rows[random.permutation(len(rows))[:_ROWS]]
    if not len(kept):
        return kept
    mixed = np.stack([random.permutation(column) for column in kept.T], axis=1)
    between = _place_between(kept, random)
    found = [kept, mixed, between]
    if missing and plain:
        holes = mixed.copy()
        holes[:, :plain][random.random((len(holes), plain)) < 0.2] = np.nan
        found.append(holes)
    return np.ascontiguousarray(np.concatenate(found), dtype=np.float32)


def _place_between(rows: npt.NDArray[np.float32], random: Any) -> npt.NDArray[np.float32]:
    found = rows.copy()
    for column in found.T:
        values = np.unique(column[~np.isnan(column)])
        if len(values) < 2:
            continue
        low = random.integers(0, len(values) - 1, len(column))
        middle = (values[low].astype(np.float64) + values[low + 1].astype(np.float64)) / 2
        near = middle.astype(np.float32)
        beside = [near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))]
        column[:] = np.choose(random.integers(0, 3, len(column)), beside)
    return found


def require_equal(step: Step, expected: npt.NDArray[Any], rows: npt.NDArray[np.float32], name: str) -> None:
    """Raises ArtifactError unless the steps give what the estimator gave for these rows, (rows, outputs), and float64
    is precise enough that another order of its sums does, too."""
    difference = _differ(step.apply(rows.astype(np.float64)), expected)
    wrong = ~(difference <= LIMIT)
    if wrong.any():
        worst = float(np.nanmax(difference)) if not np.isnan(difference).all() else float("nan")
        raise ArtifactError(
            f"{name} does not convert right: for {int(wrong.any(axis=1).sum()):,} of {len(rows):,} rows, some of them "
            f"at its thresholds, the file would differ by up to {worst:.1e} (limit {LIMIT:.0e}); use another estimator"
        )
    few = rows[:: max(1, len(rows) // _FINE_ROWS)]
    fine = _differ(step.apply(few.astype(np.longdouble)), step.apply(few.astype(np.float64)))
    if not (fine <= LIMIT).all():
        raise ArtifactError(
            f"{name} has numbers so large that float64 rounds its answers by up to {np.nanmax(fine):.1e} (limit "
            f"{LIMIT:.0e}): columns that explain each other without a penalty do that; use an estimator with one"
        )


def _differ(found: Any, expected: Any) -> Any:
    return np.abs(found - expected) / np.maximum(1.0, np.abs(expected))
