"""Replaces a blend by one small network that learned from its answers. Chooses no blend, and exports nothing.

The teacher is the blend of the trials as they were trained, on training rows alone: so the validation rows judge the
network as they judged the trials, also where the blend itself was trained again on folds of both.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import GetTimeoutError, RayError

from raymlops import locations, metrics
from raymlops.data import sources, target_values
from raymlops.data.split_rows import SplitRows
from raymlops.errors import RaymlopsError, last_line
from raymlops.features import NETWORK_TENSORS, FittedFeatures, packing_of, table_to_batch
from raymlops.lifecycle.train import winners
from raymlops.lifecycle.train.row_encoding import opened
from raymlops.models.encoder import run_encoder
from raymlops.specs import defaults
from raymlops.specs.experiment import ExperimentSpec
from raymlops.specs.training import NetworkSpec
from raymlops.tensors import Batch, count_rows
from raymlops.training import learners, networks, soft_labels, worker
from raymlops.training.blends import Distilled, Member, Winner, to_single
from raymlops.training.learners import Job, Scorer
from raymlops.training.packed import LABEL, WEIGHT, PackedSplit
from raymlops.training.trials import Parameters, SearchResult, Trial

STUDENT = "distilled"
_OF_A_TRAINING = ("training.", "network.options.")
_PACE = ("batch_size", "epochs", "passes", "patience", "lr", "weight_decay")
"""What is chosen anew for the rows that it learns from."""


@dataclasses.dataclass(frozen=True)
class School:
    """What a network needs to learn from a blend."""

    spec: ExperimentSpec
    rows: SplitRows
    features: FittedFeatures
    encoder: bytes
    train: PackedSplit
    validation: PackedSplit
    trials: SearchResult
    location: str
    """Below which its checkpoint is saved, a path or URI."""

    @property
    def can_teach(self) -> bool:
        """Whether the rows were packed with what networks read."""
        packing = packing_of(self.features).only(NETWORK_TENSORS)
        needed = {"numeric": packing.numeric, "category": packing.categories, "image": packing.image}
        return {name for name, width in needed.items() if width} <= self.validation.load_first(1).keys()

    @property
    def job(self) -> Job:
        return Job(self.spec, packing_of(self.features), self.features.target, self.train, self.validation)


def distill(
    school: School,
    winner: Winner,
    *,
    parameters: Parameters | None = None,
    seconds: float | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Winner | None:
    """A network that learned from a blend; None, which is told, if it cannot be trained in this time.

    `parameters` are those of an earlier one that is to be trained again.
    """
    began = time.monotonic()
    trials = {trial.name: trial for trial in school.trials.trials}  # not their folds, which a share may have
    teacher = tuple(Member(trials[share.trial.name], share.weight) for share in winner.shares)
    if school.spec.training.monotonic:
        tell("No network learns from the blend: it would keep none of the directions of training.monotonic")
        return None
    if not school.can_teach:
        tell(
            "No network learns from the blend: the rows are not packed for one; search.distill: true does that"
        )
        return None
    try:
        scorer = winners.load_blend(school.spec, school.features, teacher)
        lesson = _make_lesson(school, scorer)
        chosen = parameters or _choose_parameters(school, count_rows(lesson))
        trial = Trial(
            STUDENT,
            chosen,
            {},
            0.0,
            locations.join(school.location, STUDENT),
            place=len(school.trials.trials),
        )
        state = _train(
            school, trial, lesson, None if seconds is None else seconds - (time.monotonic() - began)
        )
    except GetTimeoutError:
        tell("The network that was to learn from the blend did not end in time, and is left out")
        return None
    except (RaymlopsError, RayError) as error:
        tell(f"No network learned from the blend: {last_line(error)}")
        return None
    trial = dataclasses.replace(trial, learned=state, seconds=time.monotonic() - began)
    found = Distilled(
        school.trials.metric,
        trial.learned[f"best_{school.trials.metric}"],
        _measure_teacher(school, scorer),
        school.trials.best.learned[f"best_{school.trials.metric}"],
        count_rows(lesson),
    )
    return dataclasses.replace(to_single(trial, winner.judged), teacher=teacher, distilled=found)


def _choose_parameters(school: School, rows: int) -> Parameters:
    """Of the network of the spec, for so many rows with soft labels."""
    spec, target = school.spec, school.features.target
    metric = spec.training.metric_of(target.task)
    named: Parameters = {"training.learner": "network"}
    open_training = spec.training.model_copy(update=dict.fromkeys(_PACE))
    blank = spec.model_copy(
        update={
            "defaults": "fitted",
            "training": open_training,
            "network": NetworkSpec(name=spec.network.name),
        }
    )
    facts = defaults.Facts(
        train=rows,
        validation=school.validation.count,
        test=0,
        columns=school.job.packing.numeric + len(school.job.packing.categories),
        task=target.task,
    )
    for choice in defaults.choose(blank, facts, {}, networks.options_of(spec.network.name)):
        if choice.key.startswith(_OF_A_TRAINING):
            named[choice.key] = choice.value
    return soft_labels.free_of_labels(named, spec.training.loss, metric)


def _make_lesson(school: School, scorer: Scorer) -> Batch:
    """Training rows, and rows that are drawn anew from their raw columns where there are few, with soft labels."""
    copies = soft_labels.count_copies(school.train.count)
    if not copies:
        rows = dict(school.train.load_first(soft_labels.MOST_ROWS))
        return soft_labels.label_softly(scorer, [rows], rows.get(WEIGHT))
    table = _read_training_rows(school)
    columns, session = table_to_batch(table, school.features), opened(school.encoder)
    parts = [run_encoder(session, columns)]
    seed = school.spec.training.seed
    for copy in range(copies):
        drawn = soft_labels.resample_columns(columns, seed * 1009 + copy)
        parts.append(run_encoder(session, drawn))
    weights = school.spec.training.sample_weights
    return soft_labels.label_softly(
        scorer, parts, None if weights is None else target_values.read_weights(table, weights)
    )


def _read_training_rows(school: School) -> pa.Table:
    with sources.reading(school.rows.table):
        tables = list(school.rows.of("train").iter_batches(batch_size=None, batch_format="pyarrow"))
    return pa.concat_tables([one for one in tables if one.num_rows])


def _train(school: School, trial: Trial, lesson: Batch, seconds: float | None) -> dict[str, float]:
    """Train the network in a task of its own, save its state, and return what it learned. Raises GetTimeoutError."""
    spec = winners.to_spec_of(school.spec, trial)
    training = spec.training
    rows = PackedSplit(count_rows(lesson), arrays=ray.put(lesson))
    job = dataclasses.replace(school.job, spec=spec, train=rows)
    learners.check(spec, job.packing, job.target)
    task = ray.remote(
        num_cpus=training.cpus_per_worker,
        num_gpus=training.gpus,
        label_selector=dict(training.labels) or None,
        max_retries=1,
    )(_train_student).remote(job, trial.checkpoint)
    try:
        return dict(ray.get(task, timeout=None if seconds is None else max(0.0, seconds)))
    except GetTimeoutError:
        ray.cancel(task, force=True)
        raise


def _train_student(job: Job, location: str) -> dict[str, float]:
    """Runs in a task."""
    state = worker.train_to_end(job, job.spec)
    worker.save_state(state, location)
    metric = job.spec.training.metric_of(job.target.task)
    last: dict[str, float] = state["history"][-1]
    return {**last, f"best_{metric}": float(last[f"best_{metric}"])}


def _measure_teacher(school: School, scorer: Scorer) -> float:
    """The search's metric of the teacher on the validation rows."""
    rows = dict(school.validation.load_evenly(winners.MOST_ROWS))
    labels, weights = rows.pop(LABEL), rows.pop(WEIGHT, None)
    target: Any = school.features.target
    scores = scorer.scores(rows)
    if target.task == "regression":
        labels, scores = (target.to_own_unit(np.asarray(values, np.float64)) for values in (labels, scores))
    return float(metrics.measure(target.task, labels, scores, weights)[school.trials.metric])
