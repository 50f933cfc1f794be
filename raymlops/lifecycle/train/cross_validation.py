"""Trains the values of a search's winner again on folds of all rows, and measures each on the rows that it left out:
how much the result of one split depends on the split. Searches, exports and registers nothing.

Features are fitted anew for each fold, so that none has seen the rows on which it is measured. The values themselves
were chosen with rows of the search, which flatters them a little.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import ray

from raymlops.data import sources, splits
from raymlops.data.scan import scan_dataset
from raymlops.data.split_rows import SplitRows, describe_source
from raymlops.errors import SpecError
from raymlops.evaluation.contents import name_metric
from raymlops.evaluation.intervals import Interval
from raymlops.features import packing_of
from raymlops.lifecycle.train import stages
from raymlops.lifecycle.train.row_encoding import encode_rows
from raymlops.specs.dataset import TimeSplit
from raymlops.specs.experiment import ExperimentSpec, with_parameters
from raymlops.tensors import Batch
from raymlops.training import learners, worker
from raymlops.training.learners import Job, learner_of
from raymlops.training.learners.scoring import measure
from raymlops.training.packed import LABEL, WEIGHT, PackedSplit, pack_split


@dataclasses.dataclass(frozen=True)
class CrossValidation:
    """The results of all folds of all repeats."""

    folds: int
    repeats: int
    metrics: Mapping[str, Sequence[float]]
    """Metric -> its value of each fold."""
    test_share: float

    @property
    def intervals(self) -> Mapping[str, Interval]:
        """Mean and interval of each metric. Trainings share rows, for which the variance is corrected (Nadeau and
        Bengio, Inference for the Generalization Error, 2003)."""
        return {name: to_interval(values, self.test_share) for name, values in self.metrics.items()}

    def describe(self, metric: str) -> str:
        """One line for a person."""
        again = f", {self.repeats} times" if self.repeats > 1 else ""
        return f"{name_metric(metric)} {self.intervals[metric]} over {self.folds} folds{again}"

    def to_json(self) -> dict[str, Any]:
        return {
            "folds": self.folds,
            "repeats": self.repeats,
            "metrics": {name: list(values) for name, values in self.metrics.items()},
            "intervals": {name: interval.to_json() for name, interval in self.intervals.items()},
        }


def to_interval(values: Sequence[float], test_share: float, confidence: float = 0.95) -> Interval:
    """The mean of folds, and its interval; `test_share` is the share of the rows that each leaves out."""
    mean, count = float(np.mean(values)), len(values)
    factor = 1 / count + test_share / (1 - test_share)
    width = _student((1 + confidence) / 2, count - 1) * math.sqrt(factor * float(np.var(values, ddof=1)))
    return Interval(mean, mean - width, mean + width)


def _student(probability: float, freedom: int) -> float:
    """A quantile of Student's t, by its expansion around the normal one (Abramowitz and Stegun, 26.7.5)."""
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return float(z + sum(term / freedom**power for power, term in enumerate(terms, start=1)))


def check(spec: ExperimentSpec) -> None:
    """Raises SpecError if the rows of this split have no folds."""
    if spec.evaluation.folds and (isinstance(spec.split, TimeSplit) or spec.split.version == 1):
        raise SpecError(
            "evaluation.folds: a split by time has no folds, since later rows would train for earlier ones; set it to "
            "0, or give a split by random or group"
        )
    if spec.evaluation.folds and spec.training.workers > 1:
        raise SpecError(
            f"evaluation.folds: folds are for small tables, and train with one worker each, not "
            f"training.workers: {spec.training.workers}; set one of the two to its default"
        )


def cross_validate(
    spec: ExperimentSpec, rows: SplitRows, parameters: Mapping[str, Any], tell: Callable[[str], None]
) -> CrossValidation:
    """Folds are prepared one after another, and trained at once, as far as the cluster has room. Raises DataError."""
    folds, repeats = spec.evaluation.folds, spec.evaluation.repeats
    tell(f"Cross-validating the best trial: {folds} folds" + (f", {repeats} times" if repeats > 1 else ""))
    chosen = with_parameters(spec, dict(parameters))
    training = spec.training
    train = ray.remote(
        num_cpus=training.cpus_per_worker,
        num_gpus=training.gpus,
        label_selector=dict(training.labels) or None,
    )(_train_and_measure)
    waiting = []
    for repeat in range(repeats):
        for number in range(folds):
            job, test = _prepare(chosen, rows, repeat, number)
            waiting.append(train.remote(job, chosen, test))
    found: list[dict[str, float]] = ray.get(waiting)
    return CrossValidation(
        folds, repeats, {name: [one[name] for one in found] for name in found[0]}, test_share=1 / folds
    )


def _prepare(spec: ExperimentSpec, rows: SplitRows, repeat: int, number: int) -> tuple[Job, PackedSplit]:
    split = spec.split
    assert not isinstance(split, TimeSplit)
    rule = splits.SplitRule(
        split.model_copy(update={"seed": split.seed + 1 + repeat}),
        target=spec.features.target.column,
        fold=(number, spec.evaluation.folds),
    )
    with sources.reading(rows.table):
        scanned = scan_dataset(rows.dataset, rows.contract, rule, describe_source(rows.table))
    fold = SplitRows(rows.table, rows.contract, scanned, rows.dataset)
    features, _ = stages.fit(spec, fold)
    encoder, train, validation = stages.encode(spec, fold, features)
    test = pack_split(
        encode_rows(fold.of("test"), features, encoder, spec.training.sample_weights),
        scanned.fingerprint.rows["test"],
        packing_of(features).only(learners.read_by(learner_of(spec))),
        spec.training.resident_bytes,
    )
    return Job(spec, packing_of(features), features.target, train, validation), test


def _train_and_measure(job: Job, spec: ExperimentSpec, test: PackedSplit) -> dict[str, float]:
    """Runs in a task of its own."""
    learner = learner_of(spec)
    scorer = learner.load(worker.train_to_end(job, spec), job)
    batch: Batch = test.only(learners.read_by(learner)).load()
    labels, weights = batch.pop(LABEL), batch.pop(WEIGHT, None)
    return measure(job.target, labels, scorer.scores(batch), weights)
