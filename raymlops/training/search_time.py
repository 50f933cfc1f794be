"""When the trials of a search have to end, so that the folds after them still fit: decided by what the trials took.
Stops nothing itself."""

import dataclasses
from collections.abc import Sequence

FOLDS_START_S = 3.0
"""Until the processes that train on folds have started."""
_MOST_OF_FOLDS = 0.5
"""Share of the time that the folds get at most: where even the best trial would take more, trials get all of it."""


@dataclasses.dataclass(frozen=True)
class SearchTime:
    """The seconds of the trials and of the folds on which the best of them are trained again, together."""

    seconds: float
    folds: int = 0
    """0 where none are trained."""
    places: int = 1
    """Trainings at a time."""

    def keep_for_folds(self, costs: Sequence[float]) -> float:
        """The seconds to keep for folds. `costs` are the seconds of the trials that will be trained again if there is
        time, the best first: as many of them as take half of the time, without those that take it alone."""
        kept = 0.0
        for cost in costs if self.folds else ():
            if self.seconds_of_folds(kept + cost) <= self.seconds * _MOST_OF_FOLDS:
                kept += cost
        return self.seconds_of_folds(kept) if kept else 0.0

    def seconds_of_folds(self, cost: float) -> float:
        """Of trials that took `cost` seconds in all, each trained again on every fold."""
        return FOLDS_START_S + self.folds * cost / max(1, self.places)
