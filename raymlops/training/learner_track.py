"""What the trials of one learner of a search cost and gained, and what it tries next before its study suggests.
Draws no values, and chooses no learner."""

import dataclasses
import math
import statistics
from collections.abc import Mapping
from typing import Any

Values = Mapping[str, Any]
"""Parameters of a trial beside the learner and what is held; empty for the defaults."""


@dataclasses.dataclass
class Track:
    """Costs are in seconds, or in trials where the search counts trials; errors are values of the metric, negated where
    larger is better. A trial is `whole` if it trains on all rows, and not on the sample of the search."""

    waiting: list[Values] = dataclasses.field(default_factory=list)
    """Good first values, tried in this order after the defaults."""
    started: int = 0
    failed: int = 0
    failed_in_row: int = 0
    slowest: float = 0.0
    """Seconds of the slowest trial that gave a result."""
    costs: list[float] = dataclasses.field(default_factory=list)
    """Of trials on the sample, where there is one."""
    whole_costs: list[float] = dataclasses.field(default_factory=list)
    """Of trials on all rows."""
    best: float = math.inf
    before: float = math.inf
    """The best but one."""
    best_cost: float = 0.0
    """Of the best trial."""
    without_gain: int = 0
    """Trials since the best."""
    spent: float = 0.0
    spent_at_best: float = 0.0
    spent_at_before: float = 0.0
    gradual: bool = False
    """Whether its trials report more than once: one that is ended early has a model."""
    sampled: list[tuple[float, Values]] = dataclasses.field(default_factory=list)
    """Errors and values of trials on the sample."""
    promoted: list[Values] = dataclasses.field(default_factory=list)
    """Values that were tried on the sample and then on all rows."""

    def add(self, error: float, cost: float, *, whole: bool = True) -> None:
        """A trial ended."""
        (self.whole_costs if whole else self.costs).append(cost)
        self.spent += cost
        self.without_gain += 1
        if error < self.best:
            self.without_gain = 0
            self.best, self.before, self.best_cost = error, self.best, cost
            self.spent_at_best, self.spent_at_before = self.spent, self.spent_at_best

    @property
    def known(self) -> bool:
        """Whether a trial gave a result."""
        return bool(self.costs or self.whole_costs)

    def find_promising(self) -> Values | None:
        """The best values on the sample, if they were not tried on all rows yet."""
        if not self.sampled:
            return None
        values = min(self.sampled, key=lambda one: one[0])[1]
        return None if values in self.promoted else values

    def expect_cost(self, share: float, *, whole: bool) -> float | None:
        """The median of those before; of the other kind, by the share of the rows that the sample has; None if no trial
        gave a result."""
        same, other = (self.whole_costs, self.costs) if whole else (self.costs, self.whole_costs)
        if same:
            return statistics.median(same)
        if not other:
            return None
        return statistics.median(other) * (1 / share if whole else share)

    def estimate_cost(self, best: float, scale: float) -> float:
        """Of the next improvement: of this learner's own best, and of the best of all, which takes longer the further
        away it is. `scale` is the error that counts as one improvement where only one is known."""
        own = max(self.spent - self.spent_at_best, self.spent_at_best - self.spent_at_before)
        gained = self.before - self.best if math.isfinite(self.before) else scale
        to_best = (self.best - best) * (self.spent - self.spent_at_before) / max(gained, 1e-12)
        return max(own, to_best, 1e-9)
