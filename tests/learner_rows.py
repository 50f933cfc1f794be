"""Packed rows with missing, unseen and empty values, and trainings of learners on them without a cluster."""

import dataclasses
from typing import Any

import numpy as np
import onnx
from scipy.special import expit, softmax

from raymlops.features import FittedTarget, Packing
from raymlops.models.session import open_session
from raymlops.specs.document import validate_document
from raymlops.specs.experiment import ExperimentSpec
from raymlops.tensors import Batch
from raymlops.training.learners import Job, Run, State, find_learner, read_by
from raymlops.training.packed import LABEL, WEIGHT, PackedSplit, narrow

TASKS = ("binary", "multiclass", "regression")
CATEGORIES = (5, 40, 1)
TARGETS = {
    "binary": FittedTarget("y", "binary", "integer", (0, 1), (0.5, 0.5)),
    "multiclass": FittedTarget("y", "multiclass", "string", ("a", "b", "c"), (0.3, 0.4, 0.3)),
    "regression": FittedTarget("y", "regression", "number", mean=10.0, std=2.0),
}


@dataclasses.dataclass(frozen=True)
class Held(PackedSplit):
    """A split whose rows are here and not in an object store; read-only, as there."""

    rows: Any = None

    def load(self) -> Batch:
        found: Batch = self.rows
        found = found if self.tensors is None else narrow(found, self.tensors | {LABEL, WEIGHT})
        return self._step(found)


def draw_rows(rows: int, task: str, seed: int, *, numbers: int = 6, categories: tuple[int, ...] = CATEGORIES,
              missing: float = 0.2, unseen: float = 0.0, empty: float = 0.0) -> Batch:  # fmt: skip
    """`unseen` and `empty` shares of the categories have the id 0, as the encoder gives it."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(rows, numbers)).astype(np.float32)
    ids = np.stack([draw.integers(0, size, rows) for size in categories] or [np.empty(rows)], axis=1)
    effects = np.random.default_rng(9).normal(size=max(categories, default=1))
    total = x[:, 0] + 0.5 * draw.normal(size=rows)
    if numbers > 2:
        total += x[:, 1] * x[:, 2]
    if categories:
        total += effects[ids[:, -1 if len(categories) < 2 else 1]]
    labels = {
        "binary": (total > 0).astype(np.int64),
        "multiclass": np.digitize(total, [-1, 1]).astype(np.int64),
        "regression": (total / 2).astype(np.float32),
    }
    holes = draw.random(x.shape) < missing
    holes[:, -1] = False  # a column that never had one in training, and may have one later
    x[holes] = np.nan
    if missing > 0.3:
        x[draw.random(rows) < 0.1, -1] = np.nan
    ids[draw.random(ids.shape) < unseen + empty] = 0
    found = {
        "plain": x,
        "numeric": np.concatenate([np.nan_to_num(x), np.isnan(x)], axis=1).astype(np.float32),
        LABEL: labels[task],
    }
    if categories:
        found["category"] = np.ascontiguousarray(ids.astype(np.int64))
    for values in found.values():
        values.setflags(write=False)
    return found


def packing_for(numbers: int = 6, categories: tuple[int, ...] = CATEGORIES) -> Packing:
    return Packing(numeric=2 * numbers, categories=categories, plain=numbers)


def spec_for(learner: str, options: dict[str, Any] | None = None, **training: Any) -> ExperimentSpec:
    value = {
        "name": "toy",
        "dataset": {"path": "rows.csv"},
        "features": {"target": {"column": "y"}, "numbers": ["x"]},
        "training": {"learner": learner, "options": options or {}, **training},
    }
    return validate_document(value, ExperimentSpec)


def job_for(spec: ExperimentSpec, task: str, train: Batch, validation: Batch, *, numbers: int = 6,
            categories: tuple[int, ...] = CATEGORIES) -> Job:  # fmt: skip
    held = [Held(len(rows[LABEL]), rows=rows) for rows in (train, validation)]
    return Job(spec, packing_for(numbers, categories), TARGETS[task], *held)


COUNTS = FittedTarget("y", "regression", "integer", mean=4.0, std=3.0)


def draw_counts(rows: int, seed: int) -> Batch:
    """Rows of a regression of counts, for the target COUNTS."""
    found = draw_rows(rows, "regression", seed, missing=0.0)
    means = np.exp(1 + 0.5 * np.clip(found["plain"][:, 0], -2, 2))
    counts = np.random.default_rng(seed).poisson(means)
    return {**found, LABEL: ((counts - COUNTS.mean) / COUNTS.std).astype(np.float32)}


def job_of_counts(spec: ExperimentSpec) -> Job:
    job = job_for(spec, "regression", draw_counts(800, 1), draw_counts(300, 2))
    return dataclasses.replace(job, target=COUNTS)


def train(job: Job, state: State | None = None, reports: int | None = None) -> tuple[Any, State, list[Any]]:
    """The scorer, the last state and all reported metrics; stopped after some reports, as by a search."""
    told: list[Any] = []
    states: list[State] = []

    def report(metrics: dict[str, float], snapshot: Any) -> bool:
        told.append(metrics)
        states.append(snapshot())
        return reports is None or len(told) < reports

    learner = find_learner(job.spec.training.learner)
    learner.check(job.spec, job.packing, job.target)
    learner.fit(Run(job.only(read_by(learner)), job.spec, report, state))
    return learner.load(states[-1], job), states[-1], told


def scores_of_file(scorer: Any, job: Job, rows: Batch) -> Any:
    """What the learner's ONNX graph answers for packed rows."""
    model = find_learner(job.spec.training.learner).to_onnx(scorer, job.packing, job.target)
    return scores_of_graph(model, rows, job.target)


def scores_of_graph(model: onnx.ModelProto, rows: Batch, target: FittedTarget) -> Any:
    """What a graph of packed rows answers."""
    given = {value.name: rows[value.name] for value in model.graph.input}
    outputs = open_session(model.SerializeToString()).infer(given)["outputs"].astype(np.float64)
    assert outputs.shape == (len(rows[LABEL]), target.outputs)
    if target.task == "multiclass":
        return softmax(outputs, axis=1)
    return expit(outputs[:, 0]) if target.task == "binary" else outputs[:, 0]


def assert_agree(found: Any, expected: Any, task: str) -> None:
    """At most 1e-4 apart, with no label that is not a tie."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    if task == "binary":
        sure = np.abs(np.asarray(expected) - 0.5) > 1e-6
        assert ((found >= 0.5) == (expected >= 0.5))[sure].all()
    elif task == "multiclass":
        first, second = np.sort(expected, axis=1)[:, ::-1][:, :2].T
        sure = first - second > 1e-6
        assert (np.argmax(found, axis=1) == np.argmax(expected, axis=1))[sure].all()
