"""Stops poor trials early, each compared with those of its own learner. Chooses no parameters.

Learners improve at different speeds: a network whose learning rate falls at the end is far behind boosting at a sixth
of its work, and may be ahead at the end. So a trial is compared with others at the same share of the work of the same
learner (ASHA, Li et al. 2020), the defaults of each learner run to their end, and between learners decides what whole
trials gained for their cost (learner_search.py).
"""

import pathlib
import pickle
from collections.abc import Callable
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

from raymlops.training.candidates import LEARNER, ROWS


class LearnerScheduler(FIFOScheduler):  # type: ignore[misc]
    """One ASHA scheduler a learner; `make` makes them."""

    def __init__(self, make: Callable[[], ASHAScheduler]) -> None:
        super().__init__()
        self._make = make
        self._of: dict[str, ASHAScheduler] = {}
        self._first: dict[str, str] = {}
        """Learner -> its first trial."""
        self._properties: tuple[Any, ...] = ()

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        self._properties = metric, mode
        return True

    def _find(self, trial: Any) -> ASHAScheduler:
        learner = _group(trial)
        if learner not in self._of:
            self._of[learner] = self._make()
            self._of[learner].set_search_properties(*self._properties)
            self._first[learner] = trial.trial_id
        return self._of[learner]

    def on_trial_add(self, controller: Any, trial: Any) -> None:
        self._find(trial).on_trial_add(controller, trial)

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = str(self._find(trial).on_trial_result(controller, trial, result))
        first = self._first[_group(trial)] == trial.trial_id
        return FIFOScheduler.CONTINUE if first else decision

    def on_trial_complete(self, controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._find(trial).on_trial_complete(controller, trial, result)

    def on_trial_remove(self, controller: Any, trial: Any) -> None:
        self._find(trial).on_trial_remove(controller, trial)

    def debug_string(self) -> str:
        return "; ".join(f"{learner}: {one.debug_string()}" for learner, one in self._of.items())

    def save(self, checkpoint_path: str) -> None:
        pathlib.Path(checkpoint_path).write_bytes(pickle.dumps((self._of, self._first, self._properties)))

    def restore(self, checkpoint_path: str) -> None:
        # signed, and verified before: search_state.py
        held = pickle.loads(pathlib.Path(checkpoint_path).read_bytes())  # noqa: S301
        self._of, self._first, self._properties = held


def _group(trial: Any) -> str:
    """Of the trials with which one is compared: of its learner, and on as many rows."""
    return f"{trial.config[LEARNER]} on {trial.config.get(ROWS, 'all')} rows"
