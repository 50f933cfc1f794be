"""Trials while they run and when they end: their observers, and their results. Runs none."""

import contextlib
import dataclasses
import pathlib
import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from ray import tune

from raymlops import locations, metrics
from raymlops.errors import StorageError, last_line
from raymlops.training import storage, worker
from raymlops.training.learners import State
from raymlops.training.loop import UNDER_WAY
from raymlops.training.team_resources import remove_group

Parameters = dict[str, Any]


class TrialObserver(Protocol):
    """Notified of every trial on the driver, in order; must not block. One that has `search_started(trials, metric)`
    is told first what to expect."""

    def trial_started(self, trial: str, parameters: Parameters) -> None: ...
    def trial_reported(self, trial: str, learned: Mapping[str, float]) -> None: ...
    def trial_ended(self, trial: str, error: str | None) -> None: ...


class UnfinishedTrials:
    """Observes which trials were started and did not end, as those of an interrupted search."""

    def __init__(self) -> None:
        self.trials: set[str] = set()

    def trial_started(self, trial: str, parameters: Parameters) -> None:
        self.trials.add(trial)

    def trial_reported(self, trial: str, learned: Mapping[str, float]) -> None:
        pass

    def trial_ended(self, trial: str, error: str | None) -> None:
        self.trials.discard(trial)


@dataclasses.dataclass(frozen=True)
class Trial:
    """A finished trial; `checkpoint` is the path or URI of a directory with the state of its best epoch, None if it
    failed."""

    name: str
    parameters: Parameters
    learned: dict[str, float]
    seconds: float
    checkpoint: str | None
    error: str | None = None
    decided: Parameters = dataclasses.field(default_factory=dict)
    """Values that the spec did not say and the rows decided, in the form of parameters."""
    place: int = 0
    """In the order in which the trials were started."""


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """All trials, the best first, by `metric`."""

    metric: str
    trials: tuple[Trial, ...]
    seconds: float
    timed: bool = False
    """Whether the time ended it."""

    @property
    def best(self) -> Trial:
        return self.trials[0]


class Notify(tune.Callback):  # type: ignore[misc]
    """Passes Tune's callbacks on to observers."""

    _observers: Sequence[TrialObserver]

    def __init__(self, observers: Sequence[TrialObserver]) -> None:
        self._observers = observers

    restored: ClassVar[tuple[TrialObserver, ...]] = ()

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks; observers hold connections, which cannot be pickled
        return {"state": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._observers = self.restored

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        for observer in self._observers:
            observer.trial_started(trial.trial_id, dict(trial.config))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        if UNDER_WAY in result:
            return
        learned = learned_of(result)
        for observer in self._observers:
            observer.trial_reported(trial.trial_id, learned)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        remove_group(trial.last_result)
        for observer in self._observers:
            observer.trial_ended(trial.trial_id, None)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        remove_group(trial.last_result)
        _take_error(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        remove_group(trial.last_result)
        _take_error(trial)
        error = last_line(read_error_text(trial))
        for observer in self._observers:
            observer.trial_ended(trial.trial_id, error)


def _take_error(trial: Any) -> None:
    """Ends the search if a trial could not save: what it does from there on would be lost. Raises StorageError."""
    error = read_error(trial)
    # Else Tune unpickles, at the end, the copy at the storage path, to which others may write; the text stays.
    trial.run_metadata.pickled_error_filename = None
    trial.run_metadata.invalidate_cache()
    cause = getattr(error, "cause", error)
    if isinstance(cause, StorageError):
        raise cause


def read_error(trial: Any) -> Exception | None:
    """The error of a trial of Tune; None if it is not kept, or not of a class that is installed here."""
    if trial.run_metadata.pickled_error_filename is None:
        return None
    try:
        with open(trial.pickled_error_file, "rb") as opened:
            return pickle.load(opened)  # type: ignore[no-any-return]  # noqa: S301  # of this process, in Ray's folder
    except Exception:
        return None


def read_error_text(trial: Any) -> str:
    """The text of the errors of a trial of Tune, from this machine: it may not lie in the storage yet."""
    try:
        with open(trial.error_file, encoding="utf-8", errors="replace") as opened:
            return opened.read()
    except (OSError, TypeError):  # it has no folder here
        return str(trial.get_error() or "")


_OURS = {"epoch", "train_loss", "rows_per_second", "workers"} | metrics.NAMES


def learned_of(result: Mapping[str, Any]) -> dict[str, float]:
    """Our metrics among what Tune adds to a result."""
    return {key: value for key, value in result.items() if key.removeprefix("best_") in _OURS}


@contextlib.contextmanager
def open_checkpoint(trial: Trial) -> Iterator[str]:
    """A folder of this machine with the checkpoint that a trial saved. Raises StorageError if it cannot be read."""
    assert trial.checkpoint is not None
    with (
        storage.explained(trial.checkpoint, "read"),
        tune.Checkpoint(trial.checkpoint).as_directory() as directory,
    ):
        yield directory


def read_state(trial: Trial) -> State:
    """The state that a trial saved. Raises StorageError if it cannot be read."""
    with open_checkpoint(trial) as directory:
        return worker.load_state(directory)


def to_trial(result: Any, folder: str, place: int = 0) -> Trial:
    """A trial from Tune's record; `folder` is the search's, a path or URI."""
    found = result.metrics or {}
    learned = learned_of(found)
    path = None
    if "checkpoint_path" in found:  # a nested trainer saved it, and told Tune only where
        path = found["checkpoint_path"]
    elif result.checkpoint is not None:
        path = result.checkpoint.path
    if path is not None and locations.is_remote(folder):  # Ray keeps the path alone, without scheme and query
        name = pathlib.PurePosixPath(folder.partition("?")[0]).name
        path = locations.join(folder, path.rpartition(f"/{name}/")[2])
    error = last_line(result.error) if result.error is not None else None
    return Trial(
        found.get("trial_id", "unknown"),
        dict(result.config or {}),
        learned,
        float(found.get("time_total_s", 0)),
        path if learned.get("epoch") else None,  # else it failed before its first epoch
        error,
        place=place,
    )
