"""Ensembles of trees as nodes of ONNX. Knows no library that grows trees, and no raw columns."""

import numpy as np

from raymlops.onnx_builder import GraphBuilder
from raymlops.training.tree_ensembles import TreeEnsemble, constant_tree


def add_trees(build: GraphBuilder, ensemble: TreeEnsemble, rows: str, name: str | None = None) -> str:
    """One TreeEnsembleRegressor: (rows, columns) FP32 -> (rows, outputs) FP32, summed in float32."""
    reached = {target for tree in ensemble.trees for target in tree.targets}
    # ONNX Runtime leaves the base out of an output that has no tree.
    trees = (*ensemble.trees, *(constant_tree(0.0, n) for n in range(ensemble.outputs) if n not in reached))
    sizes = [len(tree.feature) for tree in trees]
    numbers = np.repeat(np.arange(len(trees)), sizes)  # (nodes,), of their trees
    places = np.concatenate([np.arange(size) for size in sizes])
    feature = np.concatenate([tree.feature for tree in trees])
    leaf = feature < 0

    def of_nodes(name: str) -> list[int]:  # 0 at leaves
        return list(np.where(leaf, 0, np.concatenate([getattr(tree, name) for tree in trees])).tolist())

    thresholds = np.where(leaf, 0, np.concatenate([tree.threshold for tree in trees])).astype(np.float32)
    values = np.concatenate([tree.values[tree.feature < 0].ravel() for tree in trees])
    widths = np.repeat([len(tree.targets) for tree in trees], sizes)[leaf]
    targets = np.concatenate(
        [np.tile(np.array(tree.targets), int((tree.feature < 0).sum())) for tree in trees]
    )
    return build.add(
        "TreeEnsembleRegressor",
        rows,
        name=name,
        domain="ai.onnx.ml",
        n_targets=ensemble.outputs,
        base_values=[float(value) for value in ensemble.base],
        nodes_treeids=numbers.tolist(),
        nodes_nodeids=places.tolist(),
        nodes_featureids=np.where(leaf, 0, feature).tolist(),
        nodes_modes=np.where(leaf, "LEAF", "BRANCH_LEQ").tolist(),
        nodes_values=thresholds.tolist(),
        nodes_truenodeids=of_nodes("left"),
        nodes_falsenodeids=of_nodes("right"),
        nodes_missing_value_tracks_true=[int(value) for value in of_nodes("missing_left")],
        target_treeids=np.repeat(numbers[leaf], widths).tolist(),
        target_nodeids=np.repeat(places[leaf], widths).tolist(),
        target_ids=targets.tolist(),
        target_weights=values.astype(np.float32).tolist(),
    )
