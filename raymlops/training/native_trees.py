"""Predictions of trees, of whatever library, by scikit-learn's compiled ones. Neither grows nor writes trees."""

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.tree._tree import Tree as SklearnTree

from raymlops.errors import StorageError
from raymlops.training.tree_ensembles import Tree, TreeEnsemble


def predict_trees(ensemble: TreeEnsemble, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(rows, columns) -> (rows, outputs), as of `TreeEnsemble.predict`. Raises StorageError for what is no tree."""
    found = np.tile(np.asarray(ensemble.base, dtype=np.float64), (len(rows), 1))
    if not len(rows):
        return found
    rows = np.require(rows, dtype=np.float32, requirements=["C", "W"])  # scikit-learn wants to write
    for tree in ensemble.trees:
        values = to_native(tree, rows.shape[1]).predict(rows).reshape(len(rows), -1)
        found[:, list(tree.targets)] += values
    return found


def to_native(tree: Tree, columns: int) -> Any:
    """As scikit-learn's own, for rows of so many columns."""
    size, width = len(tree.feature), tree.values.shape[1]
    native = SklearnTree(columns, np.array([width], dtype=np.intp), 1)
    nodes = np.zeros(size, dtype=native.__getstate__()["nodes"].dtype)
    inner = tree.feature >= 0
    nodes["left_child"] = np.where(inner, tree.left, -1)
    nodes["right_child"] = np.where(inner, tree.right, -1)
    nodes["feature"] = np.where(inner, tree.feature, -2)
    nodes["threshold"] = np.where(inner, tree.threshold, -2.0)
    nodes["missing_go_to_left"] = tree.missing_left
    ahead = np.arange(size)
    for name in ("left_child", "right_child"):  # so that a prediction ends, and reads nothing outside
        if not ((nodes[name] > ahead) & (nodes[name] < size))[inner].all():
            raise StorageError("The checkpoint of trees holds nodes that are no tree; train it again")
    if not (tree.feature < columns).all():
        raise StorageError("The checkpoint of trees splits on columns that it does not have; train it again")
    values = np.ascontiguousarray(tree.values, dtype=np.float64)[:, None, :]
    native.__setstate__({"max_depth": size, "node_count": size, "nodes": nodes, "values": values})
    return native
