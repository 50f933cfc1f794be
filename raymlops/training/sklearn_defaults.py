"""What estimators of scikit-learn begin with, by training rows, and what a search varies, by name."""

from collections.abc import Mapping
from typing import Any

from raymlops.specs.training import Dimension

ESTIMATOR = "HistGradientBoosting"
"""Without a name."""

ROUNDS: Mapping[str, str] = {
    **dict.fromkeys(("HistGradientBoostingClassifier", "HistGradientBoostingRegressor"), "max_iter"),
    **dict.fromkeys(("GradientBoostingClassifier", "GradientBoostingRegressor"), "n_estimators"),
}
"""Class -> the parameter that is its number of rounds, after each of which it can be measured and go on."""

_FORESTS = ("RandomForest", "ExtraTrees")


def find_defaults(name: str, rows: int, task: str) -> dict[str, Any]:
    """Of an estimator that is named, where scikit-learn's own do not suit so many rows."""
    stem = _stem(name)
    few = rows < 2_000
    if stem in _FORESTS:  # the file has a node for each split
        return {"n_estimators": 200, "min_samples_leaf": 3 if few else max(5, rows // 2_000)}
    if stem == "Bagging":
        return {"n_estimators": 20}
    if stem == "HistGradientBoosting":
        return {
            "max_iter": 500,
            "learning_rate": 0.03 if few else 0.05 if rows < 50_000 else 0.1,
            "max_leaf_nodes": 8 if few else 31,
        }
    if stem == "GradientBoosting":
        return {"n_estimators": 300, "learning_rate": 0.05, "subsample": 0.8}
    if stem in ("LogisticRegression", "SGD"):
        return {"max_iter": 1_000, **({"loss": "log_loss"} if name == "SGDClassifier" or (
            stem == name == "SGD" and task != "regression") else {})}  # fmt: skip
    if stem == "MLP":
        return {"max_iter": 200, "early_stopping": rows >= 500}
    return {}


def find_space(name: str) -> Mapping[str, Dimension]:
    """Of an estimator that is named; none of others."""
    found = _SPACES.get(_stem(name), {})
    return {f"training.options.parameters.{key}": dimension for key, dimension in found.items()}


def _stem(name: str) -> str:
    return name.removesuffix("Classifier").removesuffix("Regressor")


_OF_FORESTS = {
    "min_samples_leaf": Dimension(low=2, high=64, log=True, integer=True),
    "max_features": Dimension(low=0.2, high=1.0),
}
_C = {"C": Dimension(low=1e-3, high=1e2, log=True)}

_SPACES: Mapping[str, Mapping[str, Dimension]] = {
    **dict.fromkeys(_FORESTS, _OF_FORESTS),
    "DecisionTree": {"min_samples_leaf": Dimension(low=2, high=200, log=True, integer=True)},
    "HistGradientBoosting": {
        "learning_rate": Dimension(low=0.01, high=0.3, log=True),
        "max_leaf_nodes": Dimension(low=4, high=128, log=True, integer=True),
        "min_samples_leaf": Dimension(low=2, high=100, log=True, integer=True),
        "l2_regularization": Dimension(low=1e-3, high=30, log=True),
    },
    "GradientBoosting": {
        "learning_rate": Dimension(low=0.01, high=0.3, log=True),
        "max_depth": Dimension(low=2, high=8, integer=True),
        "min_samples_leaf": Dimension(low=1, high=50, log=True, integer=True),
    },
    **dict.fromkeys(("LogisticRegression", "LinearSVC", "SVC", "SVR", "LinearSVR"), _C),
    "Ridge": {"alpha": Dimension(low=1e-2, high=1e3, log=True)},
    "Lasso": {"alpha": Dimension(low=1e-5, high=1, log=True)},
    "ElasticNet": {"alpha": Dimension(low=1e-5, high=1, log=True)},
    "KernelRidge": {"alpha": Dimension(low=1e-3, high=10, log=True)},
    "KNeighbors": {"n_neighbors": Dimension(low=3, high=60, log=True, integer=True)},
    "MLP": {
        "alpha": Dimension(low=1e-6, high=1, log=True),
        "learning_rate_init": Dimension(low=1e-4, high=1e-2, log=True),
    },
}
"""Name without its ending -> parameter -> what is varied."""
