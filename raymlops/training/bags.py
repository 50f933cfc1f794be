"""Trains the values of several trials again on folds of the training and validation rows. A bag is the models of one
trial's folds, which answer together; each has answered the rows that it left out. Chooses none."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
from ray.exceptions import RayError

from raymlops import locations
from raymlops.errors import RaymlopsError, last_line
from raymlops.features import FittedTarget
from raymlops.specs.experiment import ExperimentSpec
from raymlops.tensors import Batch
from raymlops.training import learners, worker
from raymlops.training.blends import Bag, Bags, to_margins
from raymlops.training.learners import Job, learner_of
from raymlops.training.packed import LABEL, WEIGHT, PackedSplit, narrow
from raymlops.training.trials import Trial


@dataclasses.dataclass(frozen=True)
class _Rows:
    """All rows, once, and the numbers of those of each fold."""

    arrays: "ray.ObjectRef[Batch]"
    labels: npt.NDArray[Any]
    weights: npt.NDArray[Any] | None
    held: tuple[npt.NDArray[np.int64], ...]

    def split(self, fold: int) -> tuple[PackedSplit, PackedSplit]:
        """What a fold trains on, and what it leaves out."""
        rest = np.setdiff1d(np.arange(len(self.labels)), self.held[fold])
        return tuple(
            PackedSplit(len(numbers), arrays=self.arrays, numbers=ray.put(numbers))
            for numbers in (rest, self.held[fold])
        )  # type: ignore[return-value]


def deal_folds(labels: npt.NDArray[Any], folds: int, seed: int) -> tuple[npt.NDArray[np.int64], ...]:
    """The numbers of the rows of each fold: as many of each class, or of each range of a regression's labels."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return tuple(np.sort(order[fold::folds]) for fold in range(folds))


def train_bags(
    trials: Sequence[tuple[Trial, ExperimentSpec]],
    job: Job,
    *,
    folds: int,
    location: str,
    deal: int = 0,
    seconds: float | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Bags:
    """The bags of trials, each with its own spec, in that order; the checkpoints lie below `location`, a path or URI.

    Each `deal` parts the rows otherwise. What has not ended after `seconds` is given up, and trials of which a fold
    fails are left out; both are told.
    """
    rows = _put_rows(job, folds, deal)
    splits = [rows.split(fold) for fold in range(folds)]
    began = time.monotonic()
    running: dict[str, list[Any]] = {}
    for trial, spec in trials:
        train = _to_task(spec)
        running[trial.name] = [
            train.remote(
                dataclasses.replace(job, spec=spec, train=known, validation=unknown),
                _location(location, trial, deal * folds + fold),
            )
            for fold, (known, unknown) in enumerate(splits)
        ]
    bags = []
    for trial, _ in trials:
        left = None if seconds is None else max(0.0, seconds - (time.monotonic() - began))
        tasks = running[trial.name]
        try:
            done, late = ray.wait(tasks, num_returns=len(tasks), timeout=left)
            if late:
                tell(f"The folds of {trial.name} did not end in time, and are left out")
                _cancel(tasks)
                continue
            found = ray.get(done)
        except (RaymlopsError, RayError) as error:
            tell(f"The folds of {trial.name} are left out: {last_line(error)}")
            _cancel(tasks)
            continue
        by_fold = dict(zip(done, found, strict=True))
        margins = [by_fold[task] for task in tasks]
        bags.append(_to_bag(trial, location, rows, margins, job.target, deal * folds))
    return Bags(tuple(bags), rows.labels, rows.weights, ("train", "validation"))


def join_bags(bags: Bags, more: Bags) -> Bags:
    """The bags with the models of another deal of the same rows; those that it lacks stay as they are."""
    again = {bag.trial.name: bag for bag in more.bags}
    joined = []
    for bag in bags.bags:
        other = again.get(bag.trial.name)
        if other is not None:
            share = len(other.parts) / (len(bag.parts) + len(other.parts))
            margins = (1 - share) * bag.margins + share * other.margins
            bag = dataclasses.replace(bag, parts=(*bag.parts, *other.parts), margins=margins)
        joined.append(bag)
    return dataclasses.replace(bags, bags=tuple(joined))


def _put_rows(job: Job, folds: int, deal: int) -> _Rows:
    parts = job.train.load(), job.validation.load()
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    labels = arrays[LABEL]
    held = deal_folds(labels, folds, job.spec.training.seed + deal)
    return _Rows(ray.put(arrays), labels, arrays.get(WEIGHT), held)


def _to_task(spec: ExperimentSpec) -> Any:
    training = spec.training
    return ray.remote(
        num_cpus=training.cpus_per_worker,
        num_gpus=training.gpus,
        label_selector=dict(training.labels) or None,
        max_retries=1,
    )(_train_fold)


def _train_fold(job: Job, location: str) -> npt.NDArray[np.floating[Any]]:
    """The margins of the rows that the fold leaves out. Runs in a task of its own."""
    state = worker.train_to_end(job, job.spec)
    worker.save_state(state, location)
    learner = learner_of(job.spec)
    rows = narrow(job.validation.load(), learners.read_by(learner))
    return to_margins(job.target.task, learner.load(state, job).scores(rows))


def _location(location: str, trial: Trial, fold: int) -> str:
    return locations.join(location, f"{trial.name}-{fold}")


def _to_bag(
    trial: Trial,
    location: str,
    rows: _Rows,
    found: Sequence[npt.NDArray[Any]],
    target: FittedTarget,
    first: int,
) -> Bag:
    margins = np.empty((len(rows.labels), target.outputs))
    for numbers, part in zip(rows.held, found, strict=True):
        margins[numbers] = part
    parts = tuple(
        dataclasses.replace(trial, checkpoint=_location(location, trial, first + fold))
        for fold in range(len(found))
    )
    return Bag(trial, parts, margins)


def _cancel(tasks: Iterable[Any]) -> None:
    for task in tasks:
        ray.cancel(task, force=True)
