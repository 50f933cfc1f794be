"""The training rows of a learner of trees: read part by part, so that no process holds a float32 matrix of all of them,
and shared out among the workers of a team."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.features import Packing
from raymlops.tensors import Batch
from raymlops.training.learners import Run
from raymlops.training.learners.objectives import Objective, objective_of
from raymlops.training.learners.tree_matrix import FOLDS, Matrix, MeansMeter, TreeMatrix
from raymlops.training.packed import Part

_WHOLE_BYTES, _PART_BYTES = 16 * 2**20, 4 * 2**20
"""A matrix of rows that are in memory. With categories it is a copy of them: of more than the first not all are copied
at once, since a library may take a part of 4 bytes a value as 8."""


_VALUE_BYTES = 2
"""Of a binned value: its bin, and in XGBoost the bin by column too."""
_ROW_BYTES = 40
"""Of each output of a row: gradient, hessian, sum of trees; with label, weight and place among the leaves."""


def count_binned_bytes(packing: Packing, rows: int, outputs: int) -> int:
    """What a boosted training holds of so many rows."""
    means = len(packing.categories) * outputs
    return rows * (_VALUE_BYTES * (packing.plain + len(packing.categories) + means) + _ROW_BYTES * outputs)


@dataclasses.dataclass(frozen=True)
class MatrixPart:
    """Some training rows as (rows, columns), made when they are needed."""

    count: int
    read: Callable[[], Matrix]


@dataclasses.dataclass(frozen=True)
class TreeRows:
    """The training rows of one worker, as its library takes them."""

    options: dict[str, Any]
    """Of the spec, over those for so many rows."""
    objective: Objective
    labels: npt.NDArray[Any]
    weights: npt.NDArray[Any] | None
    matrix: TreeMatrix
    """For rows to be scored."""
    parts: tuple[MatrixPart, ...]
    """In order, with target means of other folds."""
    seed: int

    def read(self) -> Matrix:
        """The matrix of all rows; of a single part without a copy of it."""
        if len(self.parts) == 1:
            return self.parts[0].read()
        whole = np.empty((len(self.labels), self.matrix.columns), dtype=np.float32)
        at = 0
        for part in self.parts:
            whole[at : at + part.count] = part.read()
            at += part.count
        return whole


def read_rows(run: Run, options_for: Callable[[int, str], dict[str, Any]]) -> TreeRows:
    """The rows of a training that this worker reads, with `target_means` taken from the options."""
    job, training, team = run.job, run.spec.training, run.workers
    objective, split = objective_of(run.spec, job.target), run.own(job.train)
    options = {**options_for(job.train.count, job.target.task), **training.options}
    means, seed = bool(options.pop("target_means")), training.seed % 2**31
    columns = job.packing.plain + len(job.packing.categories)
    # Numbers alone are read as they lie in the object store: parts of them would save nothing.
    most = max(1, split.count)
    if job.packing.categories and 4 * columns * split.count > _WHOLE_BYTES:
        most = max(1, _PART_BYTES // (4 * columns))
    known = _join([part.read() for part in split.only(frozenset()).parts(most)])
    weights = objective.weigh(known, team)
    # (seed, 0) draws what the seed alone does
    folds = np.random.default_rng((seed, team.rank)).integers(0, FOLDS, split.count).astype(np.int8)
    parts = split.parts(most)
    cuts = _cut(parts)
    meter = MeansMeter(job.packing, job.target)
    if means and meter.measures:
        for part, cut in zip(parts, cuts, strict=True):
            meter.add(part.read(), None if weights is None else weights[cut], folds[cut])
        matrix, of_others = meter.to_means(team.add)
    else:
        matrix, of_others = TreeMatrix(job.packing, {}), {}
    read = tuple(
        MatrixPart(part.count, functools.partial(_read, part, matrix, of_others, folds[cut]))
        for part, cut in zip(parts, cuts, strict=True)
    )
    return TreeRows(options, objective, objective.label(known), weights, matrix, read, seed)


def _cut(parts: tuple[Part, ...]) -> list[slice]:
    """Where the rows of each part are among all."""
    ends = np.cumsum([part.count for part in parts]).tolist()
    return [slice(end - part.count, end) for part, end in zip(parts, ends, strict=True)]


def _join(rows: list[Batch]) -> Batch:
    if len(rows) == 1:
        return rows[0]
    return {name: np.concatenate([part[name] for part in rows]) for name in rows[0]}


def _read(
    part: Part, matrix: TreeMatrix, of_others: Mapping[int, npt.NDArray[np.float32]], folds: Any
) -> Matrix:
    return matrix.of_folds(part.read(), of_others, folds)
