"""Fitted linear models, kernels, neighbours, networks and naive Bayes of scikit-learn as steps."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from raymlops.errors import ArtifactError
from raymlops.training.number_steps import (
    Beside,
    Both,
    Chain,
    Each,
    Nearest,
    Product,
    Step,
    Total,
    With,
    squared_distance,
    with_number,
)
from raymlops.training.sklearn_models.trees import to_probabilities, to_two_sides

_MOST_POINTS = 20_000
"""Of neighbours: each answer measures the distance to all."""


def _line(weights: Any, bias: Any) -> Step:
    """`weights` (outputs, columns)"""
    return Chain(
        (
            Product(np.atleast_2d(np.asarray(weights, dtype=np.float64)).T),
            With("add", np.atleast_1d(np.asarray(bias, dtype=np.float64))),
        )
    )


def read_line(fitted: Any) -> Step:
    """Decisions, or predictions."""
    if np.ndim(fitted.coef_) > 1 and np.shape(fitted.coef_)[0] > 1 and not hasattr(fitted, "classes_"):
        raise ArtifactError(f"{type(fitted).__name__} predicts several numbers; the target is one")
    return _line(fitted.coef_, fitted.intercept_)


def _read_log_line(fitted: Any) -> Step:
    return Chain((read_line(fitted), Each("exp")))


def _read_tweedie(fitted: Any) -> Step:
    link = fitted.link if fitted.link != "auto" else "identity" if fitted.power <= 0 else "log"
    return read_line(fitted) if link == "identity" else _read_log_line(fitted)


def _read_line_probabilities(fitted: Any) -> Step:
    return Chain((read_line(fitted), to_probabilities(len(fitted.classes_))))


def _read_sgd_probabilities(fitted: Any) -> Step:
    if fitted.loss != "log_loss":
        raise ArtifactError(
            f"SGDClassifier with loss={fitted.loss!r} has no probabilities that are converted; set loss='log_loss', or "
            "wrap it in CalibratedClassifierCV(method='sigmoid')"
        )
    if len(fitted.classes_) == 2:
        return _read_line_probabilities(fitted)
    return Chain((read_line(fitted), Each("sigmoid"), to_shares()))


def to_shares() -> Step:
    """Rows divided by their sums."""
    return Both("div", Chain(()), Total())


def _read_pls(fitted: Any) -> Step:
    return Chain((With("sub", np.asarray(fitted._x_mean)), read_line(fitted)))


def _kernel(fitted: Any, points: Any, gamma: float) -> Step:
    name, points = fitted.kernel, np.asarray(points, dtype=np.float64)
    if name == "linear":
        return Product(points.T)
    if name == "rbf":
        return Chain((squared_distance(points), with_number("mul", -gamma), Each("exp")))
    inner = (
        Product(points.T * gamma),
        with_number("add", float(1 if fitted.coef0 is None else fitted.coef0)),
    )
    if name in ("poly", "polynomial"):
        return Chain((*inner, with_number("pow", float(fitted.degree))))
    if name == "sigmoid":
        return Chain((*inner, Each("tanh")))
    raise ArtifactError(
        f"{type(fitted).__name__} with kernel={name!r} is not converted; use linear, rbf, poly or sigmoid"
    )


def _read_svm(fitted: Any) -> Step:
    """Decisions of two classes, or predictions."""
    if len(getattr(fitted, "classes_", (0, 1))) > 2:
        return _read_svm_of_classes(fitted)
    weights = np.asarray(fitted.dual_coef_, dtype=np.float64)
    return Chain((_kernel(fitted, fitted.support_vectors_, fitted._gamma), _line(weights, fitted.intercept_)))


def _read_svm_of_classes(fitted: Any) -> Step:
    """A decision for each class, from those of all pairs: the number of wins, and between equals how clear they are."""
    count, ends = len(fitted.classes_), np.concatenate([[0], np.cumsum(fitted.n_support_)])
    pairs = list(itertools.combinations(range(count), 2))
    weights = np.zeros((len(pairs), int(ends[-1])))
    wins, signs = np.zeros((len(pairs), count)), np.zeros((len(pairs), count))
    for place, (first, second) in enumerate(pairs):
        one, other = slice(ends[first], ends[first + 1]), slice(ends[second], ends[second + 1])
        weights[place, one] = fitted.dual_coef_[second - 1, one]
        weights[place, other] = fitted.dual_coef_[first, other]
        signs[place, first], signs[place, second] = 1.0, -1.0
        wins[place, first], wins[place, second] = 1.0, -1.0
    decided = Chain(
        (_kernel(fitted, fitted.support_vectors_, fitted._gamma), _line(weights, fitted.intercept_))
    )
    if fitted.decision_function_shape != "ovr":
        raise ArtifactError("A support vector machine with decision_function_shape='ovo' is not converted")
    lost = np.sum(wins < 0, axis=0).astype(np.float64)  # won if the pair's decision is not above zero
    votes = Chain((with_number("at_least", 0.0), Product(wins), With("add", lost)))
    sums: Step = Product(signs)
    size = Chain((sums, Each("abs"), with_number("add", 1.0), with_number("mul", 3.0)))
    return Chain((decided, Both("add", votes, Both("div", sums, size))))


def _read_kernel_ridge(fitted: Any) -> Step:
    weights = np.asarray(fitted.dual_coef_, dtype=np.float64).reshape(len(fitted.X_fit_), -1)
    gamma = 1 / fitted.n_features_in_ if fitted.gamma is None else float(fitted.gamma)
    return Chain((_kernel(fitted, fitted.X_fit_, gamma), Product(weights)))


def _read_neighbours(fitted: Any, values: Any) -> Step:
    if fitted.weights != "uniform" or fitted.effective_metric_ != "euclidean":
        raise ArtifactError(
            f"{type(fitted).__name__} with weights={fitted.weights!r} and metric={fitted.effective_metric_!r} is not "
            "converted; use weights='uniform' and the Euclidean metric"
        )
    points = np.asarray(fitted._fit_X, dtype=np.float64)
    if len(points) > _MOST_POINTS:
        raise ArtifactError(
            f"{type(fitted).__name__} of {len(points):,} training rows is not converted: each answer would measure "
            f"its distance to all; up to {_MOST_POINTS:,} are"
        )
    return Nearest(points, np.asarray(values, dtype=np.float64), int(fitted.n_neighbors))


def _read_neighbours_probabilities(fitted: Any) -> Step:
    return _read_neighbours(fitted, np.eye(len(fitted.classes_))[np.ravel(fitted._y)])


def _read_neighbours_prediction(fitted: Any) -> Step:
    return _read_neighbours(fitted, np.reshape(fitted._y, (len(fitted._fit_X), -1)))


def _read_layers(fitted: Any) -> Step:
    kinds = {"relu": (Each("relu"),), "tanh": (Each("tanh"),), "logistic": (Each("sigmoid"),), "identity": ()}
    ends = {**kinds, "softmax": (Each("softmax"),), "exp": (Each("exp"),)}
    steps: list[Step] = []
    last = len(fitted.coefs_) - 1
    for place, (weights, bias) in enumerate(zip(fitted.coefs_, fitted.intercepts_, strict=True)):
        steps.append(_line(np.asarray(weights).T, bias))
        steps += ends[fitted.out_activation_] if place == last else kinds[fitted.activation]
    return Chain(tuple(steps))


def _read_network_probabilities(fitted: Any) -> Step:
    found = _read_layers(fitted)
    return Chain((found, to_two_sides())) if len(fitted.classes_) == 2 else found


def _read_gaussian_bayes(fitted: Any) -> Step:
    parts = []
    for mean, variance, prior in zip(fitted.theta_, fitted.var_, fitted.class_prior_, strict=True):
        spread = -0.5 * np.sum(np.log(2 * np.pi * variance)) + np.log(prior)
        parts.append(_bell(mean, variance, float(spread)))
    return Chain((Beside(tuple(parts)), Each("softmax")))


def _bell(mean: Any, variance: Any, level: float) -> Step:
    return Chain(
        (
            With("sub", np.asarray(mean, dtype=np.float64)),
            with_number("pow", 2.0),
            With("div", np.asarray(variance, dtype=np.float64)),
            Total(),
            with_number("mul", -0.5),
            with_number("add", level),
        )
    )


def _read_bernoulli_bayes(fitted: Any) -> Step:
    absent = np.log1p(-np.exp(fitted.feature_log_prob_))
    line = _line(fitted.feature_log_prob_ - absent, fitted.class_log_prior_ + absent.sum(axis=1))
    steps = () if fitted.binarize is None else (with_number("above", float(fitted.binarize)),)
    return Chain((*steps, line, Each("softmax")))


def _read_quadratic(fitted: Any) -> Step:
    parts = []
    held = zip(fitted.means_, fitted.rotations_, fitted.scalings_, fitted.priors_, strict=True)
    for mean, rotation, scaling, prior in held:
        turned = Chain((With("sub", np.asarray(mean)), Product(np.asarray(rotation))))
        level = -0.5 * np.sum(np.log(scaling)) + np.log(prior)
        parts.append(Chain((turned, _bell(np.zeros(len(scaling)), scaling, float(level)))))
    return Chain((Beside(tuple(parts)), Each("softmax")))


def _read_constant(values: Any) -> Callable[[Any], Step]:
    def read(fitted: Any) -> Step:
        level = np.ravel(np.asarray(values(fitted), dtype=np.float64))
        zero = Product(np.zeros((fitted.n_features_in_, len(level))))
        # not a product with the rows, which may lack numbers
        return Chain((Each("missing"), zero, With("add", level)))

    return read


def _shares_of(fitted: Any) -> Any:
    if fitted.strategy not in ("prior", "most_frequent", "constant"):
        raise ArtifactError(
            f"DummyClassifier with strategy={fitted.strategy!r} answers by chance; use strategy='prior'"
        )
    return fitted.predict_proba(np.zeros((1, fitted.n_features_in_)))


_LINES = (
    "ARDRegression", "BayesianRidge", "ElasticNet", "ElasticNetCV", "HuberRegressor", "Lars", "LarsCV", "Lasso",
    "LassoCV", "LassoLars", "LassoLarsCV", "LassoLarsIC", "LinearRegression", "LinearSVR",
    "OrthogonalMatchingPursuit", "OrthogonalMatchingPursuitCV", "PassiveAggressiveRegressor", "QuantileRegressor",
    "Ridge", "RidgeCV", "SGDRegressor", "TheilSenRegressor",
)  # fmt: skip

PROBABILITIES: Mapping[str, Callable[[Any], Step]] = {
    **dict.fromkeys(
        ("LogisticRegression", "LogisticRegressionCV", "LinearDiscriminantAnalysis"), _read_line_probabilities
    ),
    "SGDClassifier": _read_sgd_probabilities,
    "KNeighborsClassifier": _read_neighbours_probabilities,
    "MLPClassifier": _read_network_probabilities,
    "GaussianNB": _read_gaussian_bayes,
    "BernoulliNB": _read_bernoulli_bayes,
    "QuadraticDiscriminantAnalysis": _read_quadratic,
    "DummyClassifier": _read_constant(_shares_of),
}
DECISIONS: Mapping[str, Callable[[Any], Step]] = {
    **dict.fromkeys(
        ("LogisticRegression", "LogisticRegressionCV", "LinearDiscriminantAnalysis", "SGDClassifier", "LinearSVC",
         "RidgeClassifier", "RidgeClassifierCV", "Perceptron", "PassiveAggressiveClassifier"),
        read_line,
    ),
    **dict.fromkeys(("SVC", "NuSVC"), _read_svm),
}  # fmt: skip
PREDICTIONS: Mapping[str, Callable[[Any], Step]] = {
    **dict.fromkeys(_LINES, read_line),
    **dict.fromkeys(("PoissonRegressor", "GammaRegressor"), _read_log_line),
    "TweedieRegressor": _read_tweedie,
    **dict.fromkeys(("PLSRegression", "PLSCanonical", "CCA"), _read_pls),
    **dict.fromkeys(("SVR", "NuSVR"), _read_svm),
    "KernelRidge": _read_kernel_ridge,
    "KNeighborsRegressor": _read_neighbours_prediction,
    "MLPRegressor": _read_layers,
    "DummyRegressor": _read_constant(lambda fitted: fitted.constant_),
}
