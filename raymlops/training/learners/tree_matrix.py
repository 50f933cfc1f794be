"""One float32 matrix for learners of trees: numbers as they are, ids of categories, and target means of categories.

The ids are ordered by frequency, with 0 for what is rare, unseen or missing. A target mean is that of the rows of a
category, drawn to the mean of all as if by M more rows of it (Micci-Barreca 2001); a training row gets the one that
rows of other folds give, so that it does not find its own target there. The tables of means are part of the learner's
state, and of its ONNX graph.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from raymlops.features import TREE_TENSORS, FittedTarget, Packing
from raymlops.onnx_builder import GraphBuilder
from raymlops.specs.training import TrainingSpec
from raymlops.tensors import Batch, count_rows
from raymlops.training.learners.objectives import directions_of

_FEWEST_VALUES = 6
"""Categories of fewer values are told apart by their ids."""
_MOST_CLASSES = 8
"""A mean for each class; beyond that the matrix would be mostly means."""
_SMOOTHING = 20.0
FOLDS = 5
_TABLE = "means_{}"

Matrix = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class TreeMatrix:
    """Packed rows -> (rows, columns). `means` has a table (ids, targets) for each category that has any."""

    packing: Packing
    means: dict[int, npt.NDArray[np.float32]]

    @property
    def reads(self) -> frozenset[str]:
        return TREE_TENSORS

    @property
    def columns(self) -> int:
        width: int = sum(table.shape[1] for table in self.means.values())
        return self.packing.plain + len(self.packing.categories) + width

    def of(self, batch: Batch) -> Matrix:
        """For rows to be scored. Without categories no copy is made."""
        return self._join(batch, {place: table[_ids(batch, place)] for place, table in self.means.items()})

    def of_folds(self, batch: Batch, means: Mapping[int, npt.NDArray[np.float32]], folds: Any) -> Matrix:
        """For training rows of these folds; `means` are those of `MeansMeter`, of other folds."""
        return self._join(batch, {place: table[_ids(batch, place), folds] for place, table in means.items()})

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


class MeansMeter:
    """Measures the target means of the categories with many values, over rows that come in parts."""

    def __init__(self, packing: Packing, target: FittedTarget) -> None:
        self._packing, self._target = packing, target
        self._sums: dict[int, npt.NDArray[np.float64]] = {}
        """Place -> (ids x folds, 1 + targets): the mass of the rows, and of each target."""
        if _count_means(target):
            for place, size in enumerate(packing.categories):
                if size > _FEWEST_VALUES:
                    self._sums[place] = np.zeros((size * FOLDS, 1 + _count_means(target)))

    @property
    def measures(self) -> bool:
        """Whether any category has means."""
        return bool(self._sums)

    def add(self, rows: Batch, mass: npt.NDArray[Any] | None, folds: npt.NDArray[np.int8]) -> None:
        """Rows with their `label`, the mass of each, 1 if None, and the fold of each."""
        targets = _targets_of(self._target, rows["label"])
        weights = np.ones(len(targets)) if mass is None else np.asarray(mass, dtype=np.float64)
        for place, sums in self._sums.items():
            keys = _ids(rows, place) * FOLDS + folds
            sums[:, 0] += np.bincount(keys, weights, len(sums))
            for column in range(targets.shape[1]):
                sums[:, 1 + column] += np.bincount(keys, weights * targets[:, column], len(sums))

    def to_means(
        self, add: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
    ) -> tuple[TreeMatrix, dict[int, npt.NDArray[np.float32]]]:
        """The matrix for rows to be scored, and by place the means (ids, folds, targets) for the training rows of each
        fold, by the rows of the others. `add` sums what the workers of a team measured."""
        tables, of_others = {}, {}
        for place, own in self._sums.items():
            sums = add(own).reshape(-1, FOLDS, own.shape[1])
            whole = sums.sum(1, keepdims=True)
            tables[place] = _smooth(whole)[:, 0]
            of_others[place] = _smooth(whole - sums)
        return TreeMatrix(self._packing, tables), of_others


def _ids(batch: Batch, place: int) -> Any:
    return batch["category"][:, place]


def _count_means(target: FittedTarget) -> int:
    """Means of a category; none for more classes than are useful."""
    if target.task != "multiclass":
        return 1
    return target.outputs if target.outputs <= _MOST_CLASSES else 0


def _targets_of(target: FittedTarget, labels: Any) -> npt.NDArray[np.float64]:
    """(rows, targets), of which means are taken."""
    if target.task != "multiclass":
        return np.asarray(labels, dtype=np.float64)[:, None]
    return np.asarray(labels[:, None] == np.arange(target.outputs), dtype=np.float64)


def _smooth(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """(ids, folds, 1 + targets) -> means (ids, folds, targets), drawn to that of all ids of the fold."""
    counts, totals = sums[..., :1], sums[..., 1:]
    of_all = totals.sum(0) / np.maximum(counts.sum(0), 1e-12)
    return np.asarray((totals + _SMOOTHING * of_all) / (counts + _SMOOTHING), dtype=np.float32)
