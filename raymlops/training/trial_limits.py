"""Ends what takes too long in a search: a trial that hangs, and all that still run once the time is over. A trial that
has reported keeps the model of its last report. Chooses no parameters."""

import enum
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import ray
from ray import tune
from ray.exceptions import RayActorError

from raymlops.training.learner_search import LearnerSearch
from raymlops.training.trials import read_error, read_error_text

_MULTIPLE = 10
"""Of the expected seconds, after which a trial that reports nothing hangs."""
_LEAST_S = 30.0
"""Before that no trial hangs: its process may have to start, and import a library."""
_LATE_S = 30.0
"""For which a search goes on at least until a first trial reports: a busy machine takes long to start processes."""
_NO_MEMORY = "running low on memory"
"""In the message of Ray's memory monitor."""


class SearchDeadline(tune.Stopper):  # type: ignore[misc]
    """Ends the search after so many seconds, or when the search over learners has none left; later where no trial has
    reported anything, since a late model is better than none."""

    passed: ClassVar[bool] = False
    """Whether it ended the last search of this process: Tune does not say, and restores this object from a pickle."""

    def __init__(self, seconds: float, learners: LearnerSearch | None = None) -> None:
        self._seconds, self._learners = seconds, learners
        self._began = time.monotonic()
        self._heard = False

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        self._heard = True
        return False

    def stop_all(self) -> bool:
        seconds = self._seconds if self._heard else max(2 * self._seconds, self._seconds + _LATE_S)
        left = seconds - (time.monotonic() - self._began)
        if self._heard and self._learners is not None and self._learners.seconds_left is not None:
            left = min(left, self._learners.seconds_left)
        if left <= 0:
            SearchDeadline.passed = True
        return left <= 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _began=time.monotonic())  # the clocks of two processes differ


class TrialLimits(tune.Callback):  # type: ignore[misc]
    """Ends trials by ending their processes: one that computes does not hear that it should stop, and Tune would wait
    15 s for it."""

    def __init__(
        self,
        *,
        trial_minutes: float | None = None,
        learners: LearnerSearch | None = None,
        deadline: SearchDeadline | None = None,
        teams: bool = False,
    ) -> None:
        """The trials of `teams` are asked to end at the deadline, so that their workers do."""
        self._longest = None if trial_minutes is None else 60 * trial_minutes
        self._learners, self._deadline, self._teams = learners, deadline, teams
        self._began: dict[str, float] = {}
        self._heard: dict[str, float] = {}
        self._reasons: dict[str, str] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _began={}, _heard={}, _reasons={})

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._began[trial.trial_id] = self._heard[trial.trial_id] = time.monotonic()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        self._heard[trial.trial_id] = time.monotonic()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._began.pop(trial.trial_id, None)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        over = self._deadline is not None and self._deadline.stop_all()
        if not over and not self._began:
            return
        for trial in trials:
            if trial.trial_id not in self._began or trial.status != "RUNNING":
                continue
            if over:
                if not self._teams:
                    trial.max_failures = -1  # it did not fail
                    _kill(trial)
            elif reason := self._find_reason(trial.trial_id):
                self._reasons.setdefault(trial.trial_id, reason)
                trial.max_failures = 0  # it would hang again
                _kill(trial)

    def _find_reason(self, trial: str) -> str:
        """Why a trial has to end; empty if it may go on."""
        now = time.monotonic()
        ran, silent = now - self._began[trial], now - self._heard[trial]
        if self._longest is not None and ran > self._longest:
            return f"it was ended after {ran:.0f} s: search.trial_minutes is {self._longest / 60:g}"
        expected = None if self._learners is None else self._learners.expect_seconds(trial)
        if expected is not None and silent > max(_LEAST_S, _MULTIPLE * expected):
            return (
                f"it was ended because it reported nothing for {silent:.0f} s, more than {_MULTIPLE} times the "
                f"{expected:.3g} s that were expected; search.trial_minutes allows more"
            )
        return ""

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if (
            _find_cause(trial) is _Cause.MEMORY
        ):  # perhaps for what another trial took; but not again and again
            trial.max_failures = trial.run_metadata.num_failures

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._began.pop(trial.trial_id, None)
        reason, cause = self._reasons.pop(trial.trial_id, ""), _find_cause(trial)
        if not reason and cause is not None:
            reason = "there was too little memory" if cause is _Cause.MEMORY else "its process was killed"
            rows = None if self._learners is None else self._learners.note_killed(trial.trial_id)
            if rows is not None:
                reason += f"; the next trials of its learner train on {rows:,} rows"
        if reason and trial.run_metadata.error_filename:
            with open(trial.error_file, "a", encoding="utf-8") as file:  # whose last line is what is told
                file.write(f"\n{reason}\n")


class _Cause(enum.Enum):
    """Of the end of a trial's process."""

    MEMORY = enum.auto()
    KILLED = enum.auto()
    """Perhaps by the operating system, for want of memory, or with its node."""


def _find_cause(trial: Any) -> _Cause | None:
    """Why the process of a trial ended; None for an error of the training itself."""
    error = read_error(trial)
    if isinstance(getattr(error, "cause", error), MemoryError) or _NO_MEMORY in read_error_text(trial):
        return _Cause.MEMORY
    return _Cause.KILLED if isinstance(error, RayActorError) else None


def _kill(trial: Any) -> None:
    """End the process of a trial; what it reported stays."""
    actor = trial.temporary_state.ray_actor
    if actor is not None:
        ray.kill(actor)
