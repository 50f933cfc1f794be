"""Tells whether a search was still improving when it ended, and by how much. Reads no trials."""

import math
from collections.abc import Sequence

from raymlops.evaluation.intervals import four_digits
from raymlops.metrics import FALLING

_LEAST = 0.002
"""Share of the best value below which a gain is noise."""


def find_improvement(
    metric: str,
    values: Sequence[float],
    curve: Sequence[float],
    *,
    epochs: int,
    timed: bool = False,
    ordered: bool = True,
) -> tuple[str, ...]:
    """A sentence for each way in which more would still help. `values` are the best values of the trials in the order
    of their start, `curve` those of the best trial after each epoch; what is not finite is left out.

    `epochs` are those that the best trial might have taken: one that early stopping ended before would not take more.
    `timed` says that `search.max_minutes` ended the trials, `ordered` that later trials are chosen by earlier ones or
    drawn like them: not those of a grid, which has no more.
    """
    found = []
    gain = _gain_of_last(metric, values, 3)
    if gain and ordered:
        remedy = "search.max_minutes" if timed else "search.trials"
        found.append(
            f"The last {_last(values, 3)} of {len(values)} trials still improved {metric} by {four_digits(gain)}; "
            f"raise {remedy}"
        )
    gain = _gain_of_last(metric, curve, 4)
    ended = len(curve) >= epochs
    if gain and (ended or (timed and _is_best_at_end(metric, curve))):
        remedy = "training.epochs" if ended else "search.max_minutes"
        found.append(
            f"The best trial still improved {metric} by {four_digits(gain)} in its last {_last(curve, 4)} of "
            f"{len(curve)} epochs; raise {remedy}"
        )
    return tuple(found)


def _is_best_at_end(metric: str, curve: Sequence[float]) -> bool:
    """Whether a training was not waiting for a better epoch when it ended."""
    sign = -1 if metric in FALLING else 1
    return sign * curve[-1] >= max(sign * value for value in curve if math.isfinite(value))


def _last(values: Sequence[float], part: int) -> int:
    return max(1, len(values) // part)


def _gain_of_last(metric: str, values: Sequence[float], part: int) -> float:
    """How much the last values improved on the best before; 0 if there are too few, or if it is noise."""
    sign = -1 if metric in FALLING else 1
    split = len(values) - _last(values, part)
    before, after = (
        [sign * value for value in some if math.isfinite(value)] for some in (values[:split], values[split:])
    )
    if len(values) < part or not before or not after:
        return 0.0
    gain = max(after) - max(before)
    return gain if gain > _LEAST * abs(max(before)) else 0.0
