"""Functions of one or two columns that are constant on intervals, as tables and as trees."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.training.tree_ensembles import Tree

_LARGEST = np.finfo(np.float32).max


@dataclasses.dataclass(frozen=True)
class Term:
    """`edges` of each column, rising; a value at most as large as an edge lies to its left. `scores` has an axis for
    each column, with missing values first and then the intervals, and the outputs last."""

    columns: tuple[int, ...]
    edges: tuple[npt.NDArray[np.float32], ...]
    scores: npt.NDArray[np.float64]

    def of(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """(rows, columns) -> (rows, outputs)"""
        places = tuple(
            np.where(np.isnan(rows[:, column]), 0, 1 + np.searchsorted(edges, rows[:, column], side="left"))
            for column, edges in zip(self.columns, self.edges, strict=True)
        )
        return self.scores[places]


def to_tree(term: Term, targets: tuple[int, ...]) -> Tree:
    """A balanced tree over the edges of the first column, in whose leaves are those of the second."""
    nodes = _Nodes()
    nodes.add_axis(term, 0, term.scores)
    feature, threshold, left, right, values = zip(*nodes.held, strict=True)
    return Tree(
        np.array(feature, dtype=np.int64),
        np.array(threshold, dtype=np.float32),
        np.array(left, dtype=np.int64),
        np.array(right, dtype=np.int64),
        np.zeros(len(feature), dtype=bool),
        np.array([np.zeros(len(targets)) if value is None else value for value in values]),
        targets,
    )


class _Nodes:
    """Nodes of a tree under construction: feature, threshold, left, right, values."""

    def __init__(self) -> None:
        self.held: list[Any] = []

    def add_axis(self, term: Term, axis: int, scores: Any) -> int:
        if axis == len(term.columns):
            return self._put((-1, 0.0, -1, -1, scores))
        if (scores == scores[:1]).all():  # all intervals alike: nothing to tell apart
            return self.add_axis(term, axis + 1, scores[0])
        root = self._put(None)
        inside = self._add_intervals(term, axis, scores[1:], 0, len(term.edges[axis]))
        missing = self.add_axis(term, axis + 1, scores[0])
        # A missing value is not at most as large as the largest one, and goes right.
        self.held[root] = (term.columns[axis], _LARGEST, inside, missing, None)
        return root

    def _add_intervals(self, term: Term, axis: int, scores: Any, low: int, high: int) -> int:
        """The intervals from `low` to `high`, between which lie the edges from `low` to before `high`."""
        if (scores[low : high + 1] == scores[low]).all():
            return self.add_axis(term, axis + 1, scores[low])
        middle = (low + high) // 2
        node = self._put(None)
        left = self._add_intervals(term, axis, scores, low, middle)
        right = self._add_intervals(term, axis, scores, middle + 1, high)
        self.held[node] = (term.columns[axis], term.edges[axis][middle], left, right, None)
        return node

    def _put(self, node: Any) -> int:
        self.held.append(node)
        return len(self.held) - 1
