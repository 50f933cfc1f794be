"""The threshold of a binary model with the least cost, and its results. Works on histograms, not rows."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.evaluation.intervals import Interval, draw_weights, to_interval
from raymlops.evaluation.partials import Layout
from raymlops.metrics.formulas import divide
from raymlops.specs.evaluation import CostSpec


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A threshold of the probability, and its results; costs are per row, in the spec's unit."""

    value: float
    cost: Interval
    cost_at_half: float
    cost_of_never: float
    cost_of_always: float
    precision: float
    recall: float
    chosen_share: float
    confusion: tuple[tuple[int, int], tuple[int, int]]
    """Rows by label, then by prediction."""

    def to_json(self) -> dict[str, Any]:
        return {
            **dataclasses.asdict(self),
            "cost": self.cost.to_json(),
            "confusion": [list(row) for row in self.confusion],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Threshold":
        (tn, fp), (fn, tp) = value["confusion"]
        rest = {"cost": Interval.from_json(value["cost"]), "confusion": ((tn, fp), (fn, tp))}
        return cls(**{**value, **rest})


def choose_threshold(
    layout: Layout, sums: npt.NDArray[np.float64], cost: CostSpec, replicates: int = 1000, seed: int = 0
) -> Threshold:
    """The lower edge of a cell with the least cost on these rows; among equals, the one nearest 0.5.

    The interval is that of the cost at this edge; it ignores the optimism of choosing the edge on the same rows,
    which is small in comparison from some thousand rows on.
    """
    edges = np.append(layout.lows, 1.0)  # that of the last cut chooses no row
    edges[0] = 0.0
    weights = draw_weights(layout.groups, replicates, seed)
    positive, negative = (weights @ sums[:, layout.segments[name]] for name in ("positive", "negative"))
    costs = _costs(positive[:1], negative[:1], cost)[0]
    best = np.flatnonzero(costs <= costs.min() + 1e-12)
    cut = int(best[np.argmin(np.abs(edges[best] - 0.5))])
    hits, alarms = positive[0, cut:].sum(), negative[0, cut:].sum()
    misses, quiet = positive[0, :cut].sum(), negative[0, :cut].sum()
    half = int(np.searchsorted(layout.lows, 0.5, side="left"))
    return Threshold(
        value=float(edges[cut]),
        cost=to_interval(_costs_at(positive, negative, cost, cut)),
        cost_at_half=float(costs[half]),
        cost_of_never=float(costs[-1]),
        cost_of_always=float(costs[0]),
        precision=float(divide(hits, hits + alarms)),
        recall=float(divide(hits, hits + misses)),
        chosen_share=float(divide(hits + alarms, positive[0].sum() + negative[0].sum())),
        confusion=((int(quiet), int(alarms)), (int(misses), int(hits))),
    )


def _costs(
    positive: npt.NDArray[np.float64], negative: npt.NDArray[np.float64], cost: CostSpec
) -> npt.NDArray[np.float64]:
    """Cost per row if cells from `cut` on are chosen, (replicates, cells + 1); the last chooses nothing."""
    zero = np.zeros((len(positive), 1))
    misses = np.concatenate([zero, np.cumsum(positive, axis=1)], axis=1)
    alarms = negative.sum(axis=1, keepdims=True) - np.concatenate([zero, np.cumsum(negative, axis=1)], axis=1)
    rows = (positive.sum(axis=1) + negative.sum(axis=1))[:, None]
    return divide(cost.false_negative * misses + cost.false_positive * alarms, rows)


def _costs_at(
    positive: npt.NDArray[np.float64], negative: npt.NDArray[np.float64], cost: CostSpec, cut: int
) -> npt.NDArray[np.float64]:
    misses, alarms = positive[:, :cut].sum(axis=1), negative[:, cut:].sum(axis=1)
    rows = positive.sum(axis=1) + negative.sum(axis=1)
    return divide(cost.false_negative * misses + cost.false_positive * alarms, rows)
