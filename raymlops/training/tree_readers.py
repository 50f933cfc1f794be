"""Reads trees of LightGBM, XGBoost, CatBoost and scikit-learn, with the comparisons of each. Imports none of them."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from raymlops.errors import ArtifactError
from raymlops.training.tree_ensembles import Tree, TreeEnsemble, at_most, below, constant_tree

_LINKS: Mapping[str, Callable[[float], float]] = {
    **dict.fromkeys(("binary:logistic", "reg:logistic"), lambda base: math.log(base / (1 - base))),
    **dict.fromkeys(("count:poisson", "reg:gamma", "reg:tweedie"), math.log),
}
"""Objective of XGBoost -> margin of a base score; that of all others is the score itself."""


def read_lightgbm(text: str, rounds: int | None = None) -> TreeEnsemble:
    """The first rounds of a model in LightGBM's text format. Raises ArtifactError for what has no equal in ONNX."""
    header, *blocks = text.split("\nend of trees")[0].split("\nTree=")
    outputs = int(_to_fields(header)["num_tree_per_iteration"])
    if rounds is not None:
        blocks = blocks[: rounds * outputs]
    trees = [_read_lightgbm_tree(_to_fields(block), number % outputs) for number, block in enumerate(blocks)]
    return TreeEnsemble(tuple(trees), outputs, (0.0,) * outputs)


def _to_fields(block: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in block.splitlines() if "=" in line)


def _read_lightgbm_tree(fields: Mapping[str, str], target: int) -> Tree:
    if int(fields["num_cat"]) or int(fields.get("is_linear", "0")):
        raise ArtifactError(
            "A tree of LightGBM splits on categories of its own, or has linear leaves, which the export does not "
            "write; train on encoded categories, without linear_tree"
        )
    leaves = np.array(fields["leaf_value"].split(), dtype=np.float64)
    if len(leaves) == 1:
        return constant_tree(float(leaves[0]), target)
    inner = len(leaves) - 1

    def of_leaves(values: Any, filler: Any) -> Any:
        return np.concatenate([values, np.full(len(leaves), filler, dtype=values.dtype)])

    def to_places(key: str) -> Any:  # ~leaf is negative
        found = np.array(fields[key].split(), dtype=np.int64)
        return of_leaves(np.where(found >= 0, found, inner + ~found), -1)

    exact = np.array(fields["threshold"].split(), dtype=np.float64)
    kinds = np.array(fields["decision_type"].split(), dtype=np.int64)
    if (kinds >> 2 == 1).any():
        raise ArtifactError(
            "A tree of LightGBM takes zeros for missing values, which the export does not write; train without "
            "zero_as_missing"
        )
    # Bits 2 and 3 are the type of missing values: with 2 NaN goes by bit 1; with 0, of a column that had none in
    # training, it counts as 0.
    missing_left = np.where(kinds >> 2 == 2, kinds & 2 > 0, exact >= 0)
    return Tree(
        of_leaves(np.array(fields["split_feature"].split(), dtype=np.int64), -1),
        of_leaves(at_most(exact), 0),
        to_places("left_child"),
        to_places("right_child"),
        of_leaves(missing_left, False),
        np.concatenate([np.zeros(inner), leaves])[:, None],
        (target,),
    )


def read_xgboost(model: Mapping[str, Any], rounds: int | None = None) -> TreeEnsemble:
    """The first rounds of a model in XGBoost's JSON format. Raises ArtifactError for what has no equal in ONNX."""
    learner = model["learner"]
    booster = learner["gradient_booster"]
    if booster["name"] != "gbtree":
        raise ArtifactError(f"XGBoost's booster {booster['name']!r} is not written as ONNX; use gbtree")
    held, parameters = booster["model"], learner["learner_model_param"]
    outputs = max(1, int(parameters["num_class"]))
    count = len(held["trees"]) if rounds is None else held["iteration_indptr"][rounds]
    trees = [
        _read_xgboost_tree(tree, target)
        for tree, target in zip(held["trees"][:count], held["tree_info"][:count], strict=True)
    ]
    link = _LINKS.get(learner["objective"]["name"], float)
    scores = [float(score) for score in parameters["base_score"].strip("[]").split(",")]
    base = [link(score) for score in scores] * (outputs if len(scores) == 1 else 1)
    return TreeEnsemble(tuple(trees), outputs, tuple(base))


def _read_xgboost_tree(tree: Mapping[str, Any], target: int) -> Tree:
    if tree["categories"] or int(tree["tree_param"]["size_leaf_vector"]) > 1:
        raise ArtifactError(
            "A tree of XGBoost splits on categories of its own, or has vectors in its leaves, which the export does "
            "not write; train on encoded categories, with one tree for each output"
        )
    left = np.array(tree["left_children"], dtype=np.int64)
    conditions = np.array(tree["split_conditions"], dtype=np.float32)
    return Tree(
        np.where(left < 0, -1, np.array(tree["split_indices"], dtype=np.int64)),
        below(conditions),  # XGBoost's rows go left if their value is below
        left,
        np.array(tree["right_children"], dtype=np.int64),
        np.array(tree["default_left"], dtype=bool),
        np.where(left < 0, conditions, 0)[:, None],
        (target,),
    )


def read_catboost(model: Mapping[str, Any], rounds: int | None = None) -> TreeEnsemble:
    """The first rounds of a model in CatBoost's JSON format. Raises ArtifactError for what has no equal in ONNX."""
    features = {one["feature_index"]: one for one in model["features_info"].get("float_features", [])}
    for other in ("categorical_features", "text_features", "embedding_features"):
        if model["features_info"].get(other):
            raise ArtifactError(
                f"The model of CatBoost has {other.replace('_', ' ')} of its own, which are not written as ONNX; train "
                "on encoded categories, as numbers"
            )
    scale, base = model["scale_and_bias"]
    outputs = len(base)
    symmetric = "oblivious_trees" in model
    read = _read_oblivious_tree if symmetric else _read_catboost_tree
    held = model["oblivious_trees" if symmetric else "trees"][:rounds]
    trees = tuple(read(tree, features, float(scale), outputs) for tree in held)
    return TreeEnsemble(trees, outputs, tuple(float(value) for value in base))


def _read_split(split: Mapping[str, Any], features: Mapping[int, Any]) -> tuple[int, float, bool]:
    """The column, the border, above which a value goes right, and whether a missing one goes left."""
    if split["split_type"] != "FloatFeature":
        raise ArtifactError(
            f"A tree of CatBoost has a split of the type {split['split_type']!r}, which is not written as ONNX; train "
            "on encoded categories, as numbers"
        )
    feature = features[split["float_feature_index"]]
    return int(feature["flat_feature_index"]), split["border"], feature["nan_value_treatment"] != "AsTrue"


def _read_oblivious_tree(
    tree: Mapping[str, Any], features: Mapping[int, Any], scale: float, outputs: int
) -> Tree:
    """All nodes of a level have the same split; bit n of the number of a leaf is that of split n."""
    splits = [_read_split(split, features) for split in tree["splits"] or ()]
    depth, inner = len(splits), 2 ** len(splits) - 1
    leaves = np.arange(inner + 1)
    order = sum(((leaves >> (depth - 1 - level)) & 1) << level for level in range(depth)) + 0 * leaves
    values = np.asarray(tree["leaf_values"], dtype=np.float64).reshape(-1, outputs)[order] * scale
    level_of = np.concatenate([np.full(2**level, level) for level in range(depth)] or [leaves[:0]])
    columns, borders, left = (
        np.array([split[part] for split in splits] or [0])[level_of] for part in range(3)
    )
    below_of = 2 * np.arange(inner) + 1
    none = np.full(inner + 1, -1)
    return Tree(
        np.concatenate([columns.astype(np.int64), none]),
        np.concatenate([borders.astype(np.float32), np.zeros(inner + 1, dtype=np.float32)]),
        np.concatenate([below_of, none]),
        np.concatenate([below_of + 1, none]),
        np.concatenate([left.astype(bool), np.zeros(inner + 1, dtype=bool)]),
        np.concatenate([np.zeros((inner, outputs)), values]),
        tuple(range(outputs)),
    )


def _read_catboost_tree(
    tree: Mapping[str, Any], features: Mapping[int, Any], scale: float, outputs: int
) -> Tree:
    """A tree of any shape, as a depthwise or leafwise one."""
    feature: list[int] = []
    children: list[list[int]] = []
    threshold, missing, values = [], [], []
    waiting: list[tuple[Mapping[str, Any], int, int]] = [(tree, -1, 0)]
    while waiting:
        node, above, side = waiting.pop()
        place = len(feature)
        if above >= 0:
            children[above][side] = place
        children.append([-1, -1])
        if "split" in node:
            column, border, left = _read_split(node["split"], features)
            values.append(np.zeros(outputs))
            waiting += [(node["right"], place, 1), (node["left"], place, 0)]
        else:
            column, border, left = -1, 0.0, False
            values.append(np.atleast_1d(np.asarray(node["value"], dtype=np.float64)) * scale)
        feature.append(column)
        threshold.append(border)
        missing.append(left)
    sides = np.array(children, dtype=np.int64)
    return Tree(
        np.array(feature, dtype=np.int64),
        np.array(threshold, dtype=np.float32),
        sides[:, 0],
        sides[:, 1],
        np.array(missing, dtype=bool),
        np.array(values),
        tuple(range(outputs)),
    )


def read_sklearn(tree: Any, scale: float = 1.0, outputs: slice = slice(None)) -> Tree:
    """A fitted `tree_` of scikit-learn; its values of these outputs are multiplied by `scale`."""
    values = tree.value[:, 0, outputs] * scale  # (nodes, classes), or of a regression (nodes, 1)
    leaf = tree.children_left < 0
    return Tree(
        np.where(leaf, -1, tree.feature),
        at_most(tree.threshold),
        tree.children_left,
        tree.children_right,
        np.asarray(tree.missing_go_to_left, dtype=bool),
        values,
        tuple(range(values.shape[1])),
    )
