"""Trains the models of a winner again, on training and validation rows together, for as many epochs as were best
without the latter. Chooses none, and measures them only to notice a training that went astray."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
from ray.exceptions import RayError

from raymlops import locations, metrics
from raymlops.errors import RaymlopsError, last_line
from raymlops.specs.experiment import ExperimentSpec
from raymlops.training import learners, worker
from raymlops.training.blends import to_margins
from raymlops.training.learners import Job, State, learner_of
from raymlops.training.packed import PackedSplit, narrow
from raymlops.training.trials import Trial, read_state


@dataclasses.dataclass(frozen=True)
class Refitted:
    """A trial whose checkpoint is the model of all rows, and that model's margins of the validation rows."""

    trial: Trial
    margins: npt.NDArray[np.floating[Any]]


def refit_trials(
    trials: Sequence[tuple[Trial, ExperimentSpec]],
    job: Job,
    *,
    location: str,
    seconds: float | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Refitted]:
    """By the name of the trial, each with its own spec; the checkpoints lie below `location`, a path or URI.

    What has not ended after `seconds`, or fails, is left out, and told.
    """
    rows = _join(job.train, job.validation)
    began = time.monotonic()
    running = {}
    for trial, spec in trials:
        training = spec.training
        task = ray.remote(
            num_cpus=training.cpus_per_worker,
            num_gpus=training.gpus,
            label_selector=dict(training.labels) or None,
            max_retries=1,
        )(_refit)
        where = locations.join(location, f"{trial.name}-all")
        epoch = find_best_epoch(read_state(trial), training.metric_of(job.target.task))
        if epoch is None:
            tell(f"{trial.name} is not trained again on all rows: its state has no history of epochs")
            continue
        running[trial.name] = (
            task.remote(dataclasses.replace(job, spec=_hold_options(spec, job), train=rows), epoch, where),
            dataclasses.replace(trial, checkpoint=where),
        )
    found = {}
    for name, (task, trial) in running.items():
        left = None if seconds is None else max(0.0, seconds - (time.monotonic() - began))
        try:
            done, _ = ray.wait([task], timeout=left)
            if not done:
                tell(f"{name} was not trained again on all rows in time, and is taken as it is")
                ray.cancel(task, force=True)
                continue
            found[name] = Refitted(trial, ray.get(task))
        except (RaymlopsError, RayError) as error:
            tell(f"{name} could not be trained again on all rows, and is taken as it is: {last_line(error)}")
    return found


def find_best_epoch(state: State, metric: str) -> int | None:
    """The epoch of a training, from 1, whose model its state has as the best; None of a state without the `history`
    that `scoring.Progress` keeps, as one of the user's own learner may be."""
    history: Sequence[Mapping[str, float]] = state.get("history") or ()
    if not history or metric not in history[0]:
        return None
    values = [float(one[metric]) for one in history]
    return 1 + values.index((min if metric in metrics.FALLING else max)(values))


def _hold_options(spec: ExperimentSpec, job: Job) -> ExperimentSpec:
    """With the options that the training rows alone decided: more rows may decide others."""
    chosen = learners.options_for(learner_of(spec), job.train.count, job.target.task)
    options = {**chosen, **spec.training.options}
    return spec.model_copy(update={"training": spec.training.model_copy(update={"options": options})})


def _join(*splits: PackedSplit) -> PackedSplit:
    parts = [split.load() for split in splits]
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return PackedSplit(sum(split.count for split in splits), arrays=ray.put(arrays))


def _refit(job: Job, epoch: int, location: str) -> npt.NDArray[np.floating[Any]]:
    """The margins of the validation rows. Runs in a task of its own."""
    state = worker.train_to_end(job, job.spec, until=epoch)
    worker.save_state(state, location)
    learner = learner_of(job.spec)
    rows = narrow(job.validation.load(), learners.read_by(learner))
    return to_margins(job.target.task, learner.load(state, job).scores(rows))
