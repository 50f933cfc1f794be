"""How `search.max_minutes` is spent, from the command to the registered model: what trials and folds get, so that the
stages after them still fit. Ends nothing itself."""

import dataclasses
import time

from raymlops.errors import SpecError

_FIXED = 11.0
"""Seconds of export, registration, the attempt at serving and the report of the gate, of any table and a small file."""
_PASSES = 1.5
"""Verification and the gate together read the test rows and run models on them: about this many times as long as
scanning, fitting and encoding took."""
_LEAST = 0.15
"""Share of the whole that trials get at least."""


@dataclasses.dataclass(frozen=True)
class TimeBudget:
    """Seconds of one command; None has no end. `reserve` are those that the stages after the last training take."""

    seconds: float | None
    began: float = dataclasses.field(default_factory=time.monotonic)
    reserve: float = 0.0

    @property
    def left(self) -> float | None:
        """Seconds until the model should be registered; negative once they are over."""
        return None if self.seconds is None else self.seconds - (time.monotonic() - self.began)

    @property
    def left_to_train(self) -> float | None:
        """The same until the last training has to end; half of what is left where the reserve is larger."""
        left = self.left
        return None if left is None else max(left - self.reserve, left / 2, 0.0)

    def with_reserve(self, preparing: float) -> "TimeBudget":
        """The budget with an estimate of the last stages, from the seconds that the first took."""
        return dataclasses.replace(self, reserve=_FIXED + _PASSES * preparing)

    def grant_trials(self) -> float | None:
        """Seconds of all trials and of the folds after them, together; a part of the whole at least, since a late model
        is better than none. Raises SpecError if the time is over before the first."""
        left = self.left
        if left is None or self.left_to_train is None or self.seconds is None:
            return None
        if left <= 0:
            raise SpecError(
                f"search.max_minutes: {self.seconds / 60:g} minutes were over before the first trial, after "
                f"{self.seconds - left:.0f} s; the stages after the trials take about {self.reserve:.0f} s; allow more"
            )
        return max(self.left_to_train, _LEAST * self.seconds)

    def allows(self, seconds: float) -> bool:
        """Whether a training of so many seconds ends in time."""
        left = self.left_to_train
        return left is None or seconds <= left
