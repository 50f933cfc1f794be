"""Runs trials of an earlier search again, with the values and as far as they came then. Suggests nothing."""

import dataclasses
import pathlib
import pickle
from collections.abc import Mapping, Sequence
from typing import Any, cast

from ray import tune
from ray.tune.search import Searcher


@dataclasses.dataclass(frozen=True)
class Replayed:
    """A trial of a winner, as its version records it."""

    parameters: Mapping[str, Any]
    epochs: int
    """After which it ended, or was stopped."""
    weight: float
    """Of its models together."""
    models: int
    """1 for its own model, else one a fold."""
    whole: bool = False
    """Whether it was trained again on training and validation rows."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Replayed":
        return cls(
            value["parameters"], value["epochs"], value["weight"], value["models"], value.get("whole", False)
        )


class ReplaySearch(Searcher):  # type: ignore[misc]
    """Gives Tune the parameters of each, once."""

    def __init__(self, trials: Sequence[Replayed], *, metric: str, mode: str) -> None:
        super().__init__(metric=metric, mode=mode)
        self._left = [dict(trial.parameters) for trial in trials]

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        return self._left.pop(0) if self._left else cast(str, Searcher.FINISHED)

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        pass

    def save(self, checkpoint_path: str) -> None:
        pathlib.Path(checkpoint_path).write_bytes(pickle.dumps(self._left))

    def restore(self, checkpoint_path: str) -> None:
        # signed, and verified before: search_state.py
        self._left = pickle.loads(pathlib.Path(checkpoint_path).read_bytes())  # noqa: S301


class StopAsThen(tune.Stopper):  # type: ignore[misc]
    """Stops each trial after the epoch that was its last."""

    def __init__(self, trials: Sequence[Replayed]) -> None:
        self._trials = tuple(trials)

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        config = result.get("config")
        epochs = [trial.epochs for trial in self._trials if dict(trial.parameters) == config]
        return bool(epochs) and result.get("epoch", 0) >= max(epochs)

    def stop_all(self) -> bool:
        return False
