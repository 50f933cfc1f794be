"""One float32 matrix for learners of trees: numbers as they are, ids of categories, and target means of categories.

The ids are ordered by frequency, with 0 for what is rare, unseen or missing. A target mean is that of the rows of a
category, drawn to the mean of all as if by M more rows of it (Micci-Barreca 2001); a training row gets the one that
rows of other folds give, so that it does not find its own target there. The tables of means are part of the learner's
state, and of its ONNX graph.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from raymlops.features import FittedTarget, Packing
from raymlops.onnx_builder import GraphBuilder
from raymlops.specs.training import TrainingSpec
from raymlops.tensors import Batch, count_rows
from raymlops.training.learners import Run
from raymlops.training.learners.objectives import Objective, directions_of, objective_of

_FEWEST_VALUES = 6
"""Categories of fewer values are told apart by their ids."""
_MOST_CLASSES = 8
"""A mean for each class; beyond that the matrix would be mostly means."""
_SMOOTHING = 20.0
_FOLDS = 5
_TABLE = "means_{}"

Matrix = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class TreeMatrix:
    """Packed rows -> (rows, columns). `means` has a table (ids, targets) for each category that has any."""

    packing: Packing
    means: dict[int, npt.NDArray[np.float32]]

    @property
    def columns(self) -> int:
        width: int = sum(table.shape[1] for table in self.means.values())
        return self.packing.plain + len(self.packing.categories) + width

    def of(self, batch: Batch) -> Matrix:
        """For rows to be scored. Without categories no copy is made."""
        return self._join(batch, {place: table[_ids(batch, place)] for place, table in self.means.items()})

    def _join(self, batch: Batch, means: dict[int, Matrix]) -> Matrix:
        if not self.packing.categories:
            return batch["plain"]
        found = np.empty((count_rows(batch), self.columns), dtype=np.float32)
        at = self.packing.plain
        if at:
            found[:, :at] = batch["plain"]
        width = len(self.packing.categories)
        found[:, at : at + width] = batch["category"]
        at += width
        for place in sorted(means):
            width = means[place].shape[1]
            found[:, at : at + width] = means[place]
            at += width
        return found

    def add_nodes(self, build: GraphBuilder) -> str:
        """The same as ONNX nodes, which read `plain` and `category`; returns the tensor's name."""
        parts = ["plain"] if self.packing.plain else []
        if self.packing.categories:
            parts.append(build.cast("category", TensorProto.FLOAT))
        for place, table in sorted(self.means.items()):
            number = build.constant(np.array(place, dtype=np.int64), "column")
            ids = build.add("Gather", "category", number, axis=1)  # (rows,)
            parts.append(build.add("Gather", build.constant(table, "means"), ids, axis=0))
        return build.concat(parts)

    def find_directions(self, training: TrainingSpec) -> npt.NDArray[np.int64]:
        """(columns,): how the answer must move with each; see `directions_of`."""
        return directions_of(training, self.packing.plain_of, self.columns)

    def to_state(self) -> dict[str, npt.NDArray[Any]]:
        return {_TABLE.format(place): table for place, table in self.means.items()}

    @classmethod
    def from_state(cls, state: dict[str, Any], packing: Packing) -> "TreeMatrix":
        names = {place: _TABLE.format(place) for place in range(len(packing.categories))}
        return cls(
            packing, {place: np.asarray(state[name]) for place, name in names.items() if name in state}
        )


@dataclasses.dataclass(frozen=True)
class TreeRows:
    """The training rows of a tree learner, as its library takes them."""

    options: dict[str, Any]
    """Of the spec, over those for so many rows."""
    objective: Objective
    labels: npt.NDArray[Any]
    weights: npt.NDArray[Any] | None
    matrix: "TreeMatrix"
    """For rows to be scored."""
    own: Matrix
    """The matrix of these rows, whose target means are of other folds."""
    seed: int


def read_rows(run: Run, options_for: Callable[[int, str], dict[str, Any]]) -> TreeRows:
    """The rows of a training, with `target_means` taken from its options."""
    job, training = run.job, run.spec.training
    objective, rows = objective_of(run.spec, job.target), job.train.load()
    options = {**options_for(job.train.count, job.target.task), **training.options}
    weights, seed = objective.weigh(rows), training.seed % 2**31
    means = bool(options.pop("target_means"))
    matrix, own = fit_matrix(job.packing, job.target, rows, weights, means=means, seed=seed)
    return TreeRows(options, objective, objective.label(rows), weights, matrix, own, seed)


def fit_matrix(
    packing: Packing,
    target: FittedTarget,
    rows: Batch,
    weights: npt.NDArray[Any] | None,
    *,
    means: bool,
    seed: int,
) -> tuple[TreeMatrix, Matrix]:
    """From the training rows, with their `label`: the matrix for rows to be scored, and that of these rows."""
    labels = _targets_of(target, rows["label"])
    places = [place for place, size in enumerate(packing.categories) if size > _FEWEST_VALUES]
    if not means or labels is None or not places:
        matrix = TreeMatrix(packing, {})
        return matrix, matrix.of(rows)
    mass = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)
    folds = np.random.default_rng(seed % 2**63).integers(0, _FOLDS, len(labels))
    tables, own = {}, {}
    for place in places:
        tables[place], own[place] = _measure(
            _ids(rows, place), packing.categories[place], labels, mass, folds
        )
    matrix = TreeMatrix(packing, tables)
    return matrix, matrix._join(rows, own)


def _ids(batch: Batch, place: int) -> Any:
    return batch["category"][:, place]


def _targets_of(target: FittedTarget, labels: Any) -> npt.NDArray[np.float64] | None:
    """(rows, targets), of which means are taken; None for more classes than are useful."""
    if target.task != "multiclass":
        return np.asarray(labels, dtype=np.float64)[:, None]
    if target.outputs > _MOST_CLASSES:
        return None
    return np.asarray(labels[:, None] == np.arange(target.outputs), dtype=np.float64)


def _measure(
    ids: Any, size: int, labels: npt.NDArray[np.float64], mass: Any, folds: Any
) -> tuple[Matrix, Matrix]:
    """The table of means by id, and each row's mean by the rows of other folds."""
    keys, cells = ids * _FOLDS + folds, size * _FOLDS
    counts = np.bincount(keys, mass, cells).reshape(size, _FOLDS)
    table = np.empty((size, labels.shape[1]), dtype=np.float32)
    own = np.empty(labels.shape, dtype=np.float32)
    for column in range(labels.shape[1]):
        sums = np.bincount(keys, mass * labels[:, column], cells).reshape(size, _FOLDS)
        table[:, column] = _smooth(sums.sum(1), counts.sum(1))
        others = _smooth(sums.sum(1, keepdims=True) - sums, counts.sum(1, keepdims=True) - counts)
        own[:, column] = others[ids, folds]
    return table, own


def _smooth(sums: Any, counts: Any) -> Any:
    """Means by category (the first axis), drawn to that of all categories."""
    of_all = sums.sum(0) / np.maximum(counts.sum(0), 1e-12)
    return (sums + _SMOOTHING * of_all) / (counts + _SMOOTHING)
