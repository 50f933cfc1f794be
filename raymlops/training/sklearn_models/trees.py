"""Fitted trees of scikit-learn, and boosters of other libraries with its interface, as steps; their thresholds are
compared as the library compares them."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from raymlops.errors import ArtifactError
from raymlops.training.number_steps import Chain, Each, Product, Step, Trees, With, with_number
from raymlops.training.tree_ensembles import Tree, TreeEnsemble, at_most, constant_tree
from raymlops.training.tree_readers import read_lightgbm, read_sklearn, read_xgboost


def to_two_sides() -> Step:
    """(rows, 1) probabilities of the second class -> those of both."""
    return Chain((Product(np.array([[-1.0, 1.0]])), With("add", np.array([1.0, 0.0]))))


def to_probabilities(classes: int) -> Step:
    """Margins, as of a logistic loss."""
    return Chain((Each("sigmoid"), to_two_sides())) if classes == 2 else Each("softmax")


def sum_trees(trees: list[Tree], outputs: int, base: Any, columns: int) -> Step:
    """Of trees that each reach one output, or all."""
    return Trees.of(TreeEnsemble(tuple(trees), outputs, tuple(np.ravel(base).tolist())), columns)


def read_forest(fitted: Any) -> Step:
    """The mean of trees: probabilities, or predictions."""
    held = getattr(fitted, "estimators_", [fitted])
    trees = [read_sklearn(one.tree_, 1 / len(held)) for one in held]
    outputs = trees[0].values.shape[1]
    return sum_trees(trees, outputs, np.zeros(outputs), fitted.n_features_in_)


def read_gradient_boosting(fitted: Any) -> Step:
    """Raw predictions."""
    start = fitted.init_
    if not (isinstance(start, str) or type(start).__name__.startswith("Dummy")):
        raise ArtifactError(
            f"{type(fitted).__name__} that begins with a {type(start).__name__} (init) is not converted; leave init out"
        )
    rounds = np.asarray(fitted.estimators_)
    trees = []
    for row in rounds:
        for output, one in enumerate(row):
            tree = read_sklearn(one.tree_, fitted.learning_rate)
            trees.append(Tree(**{**vars(tree), "targets": (output,)}))
    outputs, columns = rounds.shape[1], fitted.n_features_in_
    whole = TreeEnsemble(tuple(trees), outputs, (0.0,) * outputs)
    row = np.zeros((1, columns))
    ask = getattr(fitted, "decision_function", fitted.predict)
    base = np.ravel(ask(row)) - whole.predict(row)[0]  # what it adds to all rows
    return sum_trees(trees, outputs, base, columns)


def read_hist_boosting(fitted: Any) -> Step:
    """Raw predictions. The rows must be float32 numbers: it compares with thresholds of float64."""
    outputs = len(fitted._predictors[0]) if fitted._predictors else 1
    trees = [
        _read_hist_tree(predictor.nodes, output)
        for row in fitted._predictors
        for output, predictor in enumerate(row)
    ] or [constant_tree(0.0)]
    return sum_trees(trees, outputs, fitted._baseline_prediction, fitted.n_features_in_)


def _read_hist_tree(nodes: Any, target: int) -> Tree:
    leaf = nodes["is_leaf"].astype(bool)
    if nodes["is_categorical"].any():
        raise ArtifactError(
            "A tree of HistGradientBoosting splits on categories of its own (categorical_features), which is not "
            "converted; leave categorical_features out: categories come as ids and target means"
        )
    return Tree(
        np.where(leaf, -1, nodes["feature_idx"].astype(np.int64)),
        at_most(np.where(leaf, 0, nodes["num_threshold"])),
        np.where(leaf, -1, nodes["left"].astype(np.int64)),
        np.where(leaf, -1, nodes["right"].astype(np.int64)),
        nodes["missing_go_to_left"].astype(bool),
        np.where(leaf, nodes["value"], 0.0)[:, None],
        (target,),
    )


def read_hist_prediction(fitted: Any) -> Step:
    """Predictions of a regression."""
    logs = fitted.loss in ("poisson", "gamma")
    return Chain((read_hist_boosting(fitted), Each("exp"))) if logs else read_hist_boosting(fitted)


def read_ada_boost(fitted: Any) -> Step:
    """Decisions: votes of trees, by weight."""
    count = len(fitted.classes_)
    trees = []
    for one, weight in zip(fitted.estimators_, fitted.estimator_weights_, strict=False):
        if not hasattr(one, "tree_"):
            raise ArtifactError(
                f"AdaBoostClassifier of {type(one).__name__} is not converted; those of decision trees are"
            )
        tree = read_sklearn(one.tree_)
        votes = np.full((len(tree.values), count), -1 / (count - 1))
        chosen = np.searchsorted(fitted.classes_, one.classes_[tree.values.argmax(axis=1)])
        votes[np.arange(len(votes)), chosen] = 1.0
        share = float(weight) / float(np.sum(fitted.estimator_weights_))
        trees.append(Tree(**{**vars(tree), "values": votes * share, "targets": tuple(range(count))}))
    votes_of_all = sum_trees(trees, count, np.zeros(count), fitted.n_features_in_)
    return Chain((votes_of_all, Product(np.array([[-1.0], [1.0]])))) if count == 2 else votes_of_all


def read_ada_boost_probabilities(fitted: Any) -> Step:
    count = len(fitted.classes_)
    if count == 2:
        return Chain((read_ada_boost(fitted), to_probabilities(2)))
    return Chain((read_ada_boost(fitted), with_number("div", count - 1), Each("softmax")))


def _of_margins(read: Callable[[Any], Step]) -> Callable[[Any], Step]:
    return lambda fitted: Chain((read(fitted), to_probabilities(len(fitted.classes_))))


def _read_lightgbm(fitted: Any) -> Step:
    text = fitted.booster_.model_to_string(num_iteration=fitted.best_iteration_ or -1)
    ensemble = read_lightgbm(text)
    return Trees.of(ensemble, fitted.n_features_in_)


def _read_xgboost(fitted: Any) -> Step:
    booster = fitted.get_booster()
    best = booster.attributes().get("best_iteration")
    model = json.loads(bytes(booster.save_raw("json")))
    ensemble = read_xgboost(model, None if best is None else int(best) + 1)
    return Trees.of(ensemble, fitted.n_features_in_)


_FORESTS = ("RandomForest", "ExtraTrees", "DecisionTree", "ExtraTree")

PROBABILITIES: Mapping[str, Callable[[Any], Step]] = {
    **dict.fromkeys((f"{name}Classifier" for name in _FORESTS), read_forest),
    "GradientBoostingClassifier": _of_margins(read_gradient_boosting),
    "HistGradientBoostingClassifier": _of_margins(read_hist_boosting),
    "AdaBoostClassifier": read_ada_boost_probabilities,
    "LGBMClassifier": _of_margins(_read_lightgbm),
    "XGBClassifier": _of_margins(_read_xgboost),
}
DECISIONS: Mapping[str, Callable[[Any], Step]] = {
    "GradientBoostingClassifier": read_gradient_boosting,
    "HistGradientBoostingClassifier": read_hist_boosting,
    "AdaBoostClassifier": read_ada_boost,
}
PREDICTIONS: Mapping[str, Callable[[Any], Step]] = {
    **dict.fromkeys((f"{name}Regressor" for name in _FORESTS), read_forest),
    "GradientBoostingRegressor": read_gradient_boosting,
    "HistGradientBoostingRegressor": read_hist_prediction,
    "LGBMRegressor": _read_lightgbm,
    "XGBRegressor": _read_xgboost,
}
