"""Ensembles of decision trees as arrays, whatever library grew them. Neither trains, nor reads a library's files, nor
writes ONNX."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.errors import ArtifactError

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]


@dataclasses.dataclass(frozen=True)
class Tree:
    """Node 0 is the root. Rows whose value is at most the threshold go left."""

    feature: Ints  # (nodes,), -1 at leaves
    threshold: npt.NDArray[np.float32]  # (nodes,)
    left: Ints  # (nodes,), -1 at leaves
    right: Ints
    missing_left: npt.NDArray[np.bool_]  # (nodes,)
    values: Floats  # (nodes, targets), read at leaves
    targets: tuple[int, ...] = (0,)
    """The outputs to which its values are added."""


@dataclasses.dataclass(frozen=True)
class TreeEnsemble:
    """The sum of trees, for rows of float32 in which NaN is missing."""

    trees: tuple[Tree, ...]
    outputs: int
    base: tuple[float, ...]  # (outputs,), added to all rows

    def predict(self, rows: Floats) -> npt.NDArray[np.float64]:
        """(rows, columns) -> (rows, outputs). Slow: for what has no library to ask."""
        found = np.tile(np.asarray(self.base, dtype=np.float64), (len(rows), 1))
        for tree in self.trees:
            found[:, list(tree.targets)] += tree.values[_find_leaves(tree, rows)]
        return found


def _find_leaves(tree: Tree, rows: Floats) -> Ints:
    place = np.zeros(len(rows), dtype=np.int64)
    inside = np.flatnonzero(tree.feature[place] >= 0)
    while len(inside):
        at = place[inside]
        values = rows[inside, tree.feature[at]]
        left = np.where(np.isnan(values), tree.missing_left[at], values <= tree.threshold[at])
        place[inside] = np.where(left, tree.left[at], tree.right[at])
        inside = inside[tree.feature[place[inside]] >= 0]
    return place


def check_trees(ensemble: TreeEnsemble, features: int) -> None:
    """Raises ArtifactError unless each is a tree whose nodes read these features: others would never end, or read what
    is not theirs."""
    for number, tree in enumerate(ensemble.trees):
        inner = tree.feature >= 0
        children = np.concatenate([tree.left[inner], tree.right[inner]])
        whole = (
            ((children > 0) & (children < len(tree.feature))).all()
            and len(np.unique(children)) == len(children)
            and (tree.feature < features).all()
            and all(0 <= target < ensemble.outputs for target in tree.targets)
            and len(
                {len(part) for part in (tree.feature, tree.threshold, tree.left, tree.right, tree.values)}
            )
            == 1
            and np.isfinite(tree.values).all()
        )
        if not whole:
            raise ArtifactError(
                f"Tree {number} of the model is broken: its nodes have children, features, outputs or values that do "
                "not exist; save it again"
            )


def constant_tree(value: float, target: int = 0) -> Tree:
    """A tree of one leaf."""
    nothing = np.array([-1])
    zero = np.zeros(1, dtype=np.float32)
    return Tree(nothing, zero, nothing, nothing, np.zeros(1, dtype=bool), np.array([[value]]), (target,))


def at_most(thresholds: Any) -> npt.NDArray[np.float32]:
    """The largest float32 that is not above each threshold: for float32 values, `value <= threshold` stays the same.

    Rounded to the nearest instead, a value between the two would go the other way.
    """
    exact = np.asarray(thresholds, dtype=np.float64)
    with np.errstate(over="ignore"):
        rounded = exact.astype(np.float32)
    return np.where(rounded > exact, np.nextafter(rounded, np.float32(-np.inf)), rounded).astype(np.float32)


def below(thresholds: Any) -> npt.NDArray[np.float32]:
    """The largest float32 below each threshold: for float32 values, `value < threshold` as `value <= found`."""
    exact = np.asarray(thresholds, dtype=np.float64)
    found = at_most(exact)
    return np.where(found >= exact, np.nextafter(found, np.float32(-np.inf)), found).astype(np.float32)


def to_arrays(trees: Sequence[Tree]) -> dict[str, npt.NDArray[Any]]:
    """Trees of equal targets as arrays, to be saved."""
    return {
        "sizes": np.array([len(tree.feature) for tree in trees], dtype=np.int64),
        **{
            name: np.concatenate([getattr(tree, name) for tree in trees]).astype(kind)
            for name, kind in _KINDS.items()
        },
    }


_KINDS: dict[str, Any] = {
    "feature": np.int32,
    "threshold": np.float32,
    "left": np.int32,
    "right": np.int32,
    "missing_left": np.bool_,
    "values": np.float32,
}


def from_arrays(arrays: dict[str, Any], targets: tuple[int, ...]) -> Iterator[Tree]:
    """The inverse of `to_arrays`."""
    ends = np.cumsum(np.asarray(arrays["sizes"]))
    for start, stop in zip([0, *ends[:-1]], ends, strict=True):
        parts = {name: np.asarray(arrays[name])[start:stop] for name in _KINDS}
        yield Tree(**parts, targets=targets)
