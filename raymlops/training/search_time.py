"""When the trials of a search have to end, so that the folds after them still fit: decided by what the trials took.
Stops nothing itself."""

import dataclasses
from collections.abc import Sequence

FOLDS_START_S = 3.0
"""Until the processes that train on folds, or on all rows, have started."""
_MOST_OF_FOLDS = 0.5
"""Share of the time that these get at most: where even the best trial would take more, trials get all of it."""
_MORE_ROWS = 1.25
"""Seconds of a training on training and validation rows to those on the former."""


@dataclasses.dataclass(frozen=True)
class SearchTime:
    """The seconds of the trials, and of the trainings after them that make the winner."""

    seconds: float
    folds: int = 0
    """On which the best trials are trained again, if there is time; 0 for none."""
    places: int = 1
    """Trainings at a time."""
    refits: bool = False
    """Whether they are trained again on all rows where they are not on folds."""

    def keep(self, costs: Sequence[float]) -> float:
        """The seconds to keep for that. `costs` are the seconds of the trials that will be trained again, the best
        first: all of them on folds where that takes no more than half of the time, else on all rows, else as many of
        them on folds as that allows, without those that take it alone."""
        most = self.seconds * _MOST_OF_FOLDS
        if not costs:
            return 0.0
        if self.folds and self.seconds_of_folds(sum(costs)) <= most:
            return self.seconds_of_folds(sum(costs))
        if self.refits and self.seconds_of_refits(sum(costs)) <= most:
            return self.seconds_of_refits(sum(costs))
        kept = 0.0
        for cost in costs if self.folds else ():
            if self.seconds_of_folds(kept + cost) <= most:
                kept += cost
        return self.seconds_of_folds(kept) if kept else 0.0

    def seconds_of_folds(self, cost: float) -> float:
        """Of trials that took `cost` seconds in all, each trained again on every fold."""
        return FOLDS_START_S + self.folds * cost / max(1, self.places)

    def seconds_of_refits(self, cost: float) -> float:
        """Of trials that took `cost` seconds in all, each trained again on all rows."""
        return FOLDS_START_S + _MORE_ROWS * cost / max(1, self.places)
