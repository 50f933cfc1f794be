"""Models that a good one should beat, fitted to raw columns: the classes' shares or the mean, a linear model, and
histogram boosting, those of scikit-learn with its defaults. Judges nothing."""

import dataclasses
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.evaluation.intervals import Interval, find_gains, resample, to_interval
from raymlops.evaluation.partials import WHOLE, Layout, Partial, observe, to_exact
from raymlops.tensors import Batch, Floats

CONSTANT, LINEAR, BOOSTING = "constant", "linear", "boosting"
MOST_ROWS = 20_000
"""Rows that baselines are fitted to, and measured on."""
_MOST_TREES = 100 * 100  # boosting grows a hundred for each class
_MOST_CATEGORIES = 255  # those that histogram boosting tells apart
_MISSING_INSTANT = np.iinfo(np.int64).min

Predict = Callable[[Batch], Floats]


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A fitted baseline: probabilities of the second class, of every class, or predictions."""

    name: str
    text: str
    predict: Predict
    seconds: float


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the leaderboard. `gain` is how much better the model is, in the metric's unit, on the same rows."""

    name: str
    text: str
    value: Interval
    gain: Interval | None = None
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "text": self.text,
            "value": self.value.to_json(),
            "gain": self.gain.to_json() if self.gain else None,
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Line":
        gain = Interval.from_json(value["gain"]) if value["gain"] else None
        return cls(value["name"], value["text"], Interval.from_json(value["value"]), gain, value["seconds"])


def fit_baselines(
    columns: Batch,
    labels: npt.NDArray[Any],
    *,
    task: str,
    classes: int,
    categories: frozenset[str],
    weights: Floats | None = None,
) -> tuple[Baseline, ...]:
    """Every baseline that these rows, with these weights, allow; `categories` are the columns whose values have no
    order."""
    began = time.perf_counter()
    if (
        weights is not None and weights.sum() > 0
    ):  # rows without weight teach nothing; some models refuse them
        kept = weights > 0
        columns, labels = {name: values[kept] for name, values in columns.items()}, labels[kept]
        weights = weights[kept] / weights[kept].mean()
    constant = _fit_constant(labels, task, classes, weights)
    share = "the target's mean" if task == "regression" else "the classes' shares"
    found = [Baseline(CONSTANT, share, constant, time.perf_counter() - began)]
    if task != "regression" and len(np.unique(labels)) < 2:
        return tuple(found)
    text = "ridge regression" if task == "regression" else "logistic regression"
    from threadpoolctl import threadpool_limits

    recipes = [(LINEAR, f"{text}, one-hot categories", _make_linear)]
    if max(1, classes if classes > 2 else 1) * 100 <= _MOST_TREES:
        recipes.append((BOOSTING, "histogram gradient boosting", _make_boosting))
    numbers = _Table(columns, categories)
    for name, text, make in recipes:
        began = time.perf_counter()
        # Threads of OpenMP wait by spinning, which beside other processes costs many times what they gain.
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore")  # of convergence: untuned is what it is
            model = make(numbers, task)
            weighed = {} if weights is None else {_name_weights(model): weights}
            model.fit(numbers.to_matrix(columns), labels, **weighed)
        predict = _Predict(model, numbers, task, classes)
        found.append(Baseline(name, text, predict, time.perf_counter() - began))
    return tuple(found)


@dataclasses.dataclass(frozen=True)
class Answers:
    """The predictions of a baseline for the rows that it was asked for, in place of its model."""

    values: Floats

    def __call__(self, columns: Batch) -> Floats:
        return self.values


def answer(fitted: tuple[Baseline, ...], columns: Batch) -> tuple[Baseline, ...]:
    """The baselines with their answers for these rows only, which need no library to be read."""
    return tuple(dataclasses.replace(one, predict=Answers(one.predict(columns))) for one in fitted)


def measure(
    layout: Layout,
    columns: Batch,
    labels: npt.NDArray[Any],
    scores: Floats,
    baselines: tuple[Baseline, ...],
    weights: npt.NDArray[Any] | None = None,
) -> tuple[Partial, dict[str, Partial]]:
    """The sums of the model's scores and of each baseline's, on the same rows in the same groups."""
    layout = dataclasses.replace(layout, scores=())
    groups = np.arange(len(labels)) % layout.groups
    found = {
        one.name: observe(layout, labels, one.predict(columns), groups, weights=weights) for one in baselines
    }
    return to_exact(observe(layout, labels, scores, groups, weights=weights)), {
        name: to_exact(part) for name, part in found.items()
    }


def rank(
    model: Partial,
    baselines: Mapping[str, Partial],
    fitted: tuple[Baseline, ...],
    *,
    replicates: int,
    confidence: float,
) -> dict[str, tuple[Line, ...]]:
    """Metric -> the model's line, and those of the baselines with paired gains."""
    drawn = {
        name: resample(part.layout, part.sums[WHOLE], replicates)
        for name, part in {"": model, **baselines}.items()
    }
    found = {}
    for metric, own in drawn[""].items():
        lines = [Line("model", "this version", to_interval(own, confidence))]
        for one in fitted:
            other = drawn[one.name][metric]
            gain = to_interval(find_gains(metric, own, other), confidence)
            lines.append(Line(one.name, one.text, to_interval(other, confidence), gain, one.seconds))
        found[metric] = tuple(lines)
    return found


def _name_weights(model: Any) -> str:
    """The argument of `fit`: a pipeline passes it to its last step."""
    steps = getattr(model, "steps", None)
    return f"{steps[-1][0]}__sample_weight" if steps else "sample_weight"


def _fit_constant(
    labels: npt.NDArray[Any], task: str, classes: int, weights: Floats | None = None
) -> Predict:
    if task == "regression":
        mean = float(np.average(labels, weights=weights))
        return lambda columns: np.full(_count(columns), mean)
    counts = np.bincount(labels.astype(np.int64), weights=weights, minlength=max(2, classes))
    shares = counts / counts.sum()
    if task == "binary":
        return lambda columns: np.full(_count(columns), shares[1])
    return lambda columns: np.tile(shares, (_count(columns), 1))


def _count(columns: Batch) -> int:
    return len(next(iter(columns.values())))


class _Table:
    """Raw columns as one matrix: numbers, NaN where missing, then categories as codes of the values in training."""

    def __init__(self, columns: Batch, categories: frozenset[str]) -> None:
        self.categories = [
            name for name, values in columns.items() if values.dtype == object or name in categories
        ]
        self.numbers = [name for name in columns if name not in self.categories]
        self._codes = {name: _rank_values(columns[name]) for name in self.categories}
        self.width = sum(int(np.prod(columns[name].shape[1:])) for name in self.numbers)
        self._empty: npt.NDArray[Any] = np.zeros(self.width + len(self.categories), dtype=np.bool_)
        # boosting cannot cut columns without values
        self._empty = np.asarray(np.isnan(self.to_matrix(columns)).all(axis=0))

    @property
    def places(self) -> tuple[list[int], list[int]]:
        """Columns of the matrix: numbers, and categories."""
        return list(range(self.width)), list(range(self.width, self.width + len(self.categories)))

    def to_matrix(self, columns: Batch) -> Floats:
        parts = [_to_numbers(columns[name]) for name in self.numbers]
        for name in self.categories:
            codes = self._codes[name]
            known = [codes.get(value, np.nan) for value in columns[name].tolist()]
            parts.append(np.array(known, dtype=np.float64)[:, None])
        return np.where(self._empty, 0.0, np.concatenate(parts, axis=1))


def _rank_values(values: npt.NDArray[Any]) -> dict[Any, int]:
    """The most frequent values -> codes; all others, and new ones, are missing."""
    found, counts = np.unique(values.astype(str) if values.dtype == object else values, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_MOST_CATEGORIES]
    return {found[place].item(): code for code, place in enumerate(order)}


def _to_numbers(values: npt.NDArray[Any]) -> Floats:
    numbers = values.reshape(len(values), -1).astype(np.float64)
    if values.dtype == np.int64:
        numbers = np.where(values.reshape(len(values), -1) == _MISSING_INSTANT, np.nan, numbers)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _make_linear(table: _Table, task: str) -> Any:
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers, categories = table.places
    filled = make_pipeline(SimpleImputer(add_indicator=True, keep_empty_features=True), StandardScaler())
    one_hot = OneHotEncoder(handle_unknown="ignore")
    front = make_column_transformer((filled, numbers), (one_hot, categories))
    return make_pipeline(front, Ridge() if task == "regression" else LogisticRegression(max_iter=300))


def _make_boosting(table: _Table, task: str) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    kind = HistGradientBoostingRegressor if task == "regression" else HistGradientBoostingClassifier
    return kind(random_state=0, categorical_features=table.places[1] or None)


@dataclasses.dataclass(frozen=True)
class _Predict:
    model: Any
    table: _Table
    task: str
    classes: int

    def __call__(self, columns: Batch) -> Floats:
        from threadpoolctl import threadpool_limits

        matrix = self.table.to_matrix(columns)
        with threadpool_limits(1):
            if self.task == "regression":
                return np.asarray(self.model.predict(matrix), dtype=np.float64)
            found = np.zeros((len(matrix), max(2, self.classes)))  # a class may have no row in the sample
            found[:, self.model.classes_.astype(np.int64)] = self.model.predict_proba(matrix)
        return found[:, 1] if self.task == "binary" else found
