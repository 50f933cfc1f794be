"""Estimators of scikit-learn by name or by a function of the user's own: made, seeded, and examined before they are
fitted. Fits none."""

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from sklearn.base import is_classifier, is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import all_estimators, get_tags
from sklearn.utils.validation import has_fit_parameter

from raymlops.errors import ArtifactError, RaymlopsError, SpecError, shorten, unknown_name
from raymlops.training.sklearn_models.composed import is_known
from raymlops.training.sklearn_models.transformers import explain_unknown, read_function, to_float32

KINDS = {"classification": "Classifier", "regression": "Regressor"}


def make_estimator(name: str, parameters: Mapping[str, Any], task: str) -> Any:
    """The estimator of that name, with or without its ending Classifier or Regressor, or what `module:function` returns
    for the parameters. `task` is that of the target, or empty if it is not known. Raises SpecError."""
    where = f"training.options.estimator: {name!r}"
    make = _import_own(name) if ":" in name else _find_class(name, task)
    try:
        made = make(**parameters)
    except RaymlopsError:
        raise
    except Exception as error:  # of the user's own function
        known = list(inspect.signature(make).parameters) if callable(make) else []
        raise SpecError(
            f"{where} cannot be made of training.options.parameters {dict(parameters)}: {type(error).__name__}: {error}"
            + (f"; it takes {', '.join(known)}" if isinstance(error, TypeError) and known else "")
        ) from None
    if not all(hasattr(made, part) for part in ("fit", "get_params", "set_params")):
        raise SpecError(
            f"{where} gave a {type(made).__name__}; expected an estimator or a pipeline of scikit-learn"
        )
    if task:
        _require_task(made, task, where)
    return made


def _import_own(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # of the user's own module
        raise SpecError(
            f"training.options.estimator: cannot import {name!r}: {type(error).__name__}: {error}"
        ) from None
    return found


@functools.cache
def _classes() -> dict[str, type]:
    return dict(all_estimators(["classifier", "regressor"]))


def _find_class(name: str, task: str) -> Callable[..., Any]:
    known = _classes()
    if name in known:
        return known[name]
    for ending in [KINDS["regression" if task == "regression" else "classification"], *KINDS.values()]:
        if name + ending in known:
            return known[name + ending]
    raise SpecError(
        f"training.options.estimator: {unknown_name('estimator of scikit-learn', name, known)}; or module:function "
        "of your own"
    )


def _require_task(made: Any, task: str, where: str) -> None:
    try:
        fits = is_regressor(made) if task == "regression" else is_classifier(made)
    except Exception as error:  # of an estimator that lacks another one
        raise SpecError(f"{where} is not complete: {shorten(str(error))}") from None
    if not fits:
        wanted = "a regressor" if task == "regression" else "a classifier"
        raise SpecError(f"{where} is a {type(made).__name__}; the target needs {wanted}")


def list_parts(estimator: Any) -> Iterator[Any]:
    """An estimator and those that it is made of, as far as its parameters say."""
    if not hasattr(estimator, "get_params"):  # "passthrough" and "drop"
        return
    yield estimator
    for value in estimator.get_params(deep=True).values():
        if hasattr(value, "get_params") and not isinstance(value, type):
            yield value


def check_estimator(estimator: Any, name: str) -> None:
    """Raises SpecError for what is known not to convert, before it is fitted."""
    where = f"training.options.estimator: {name!r}"
    for part in list_parts(estimator):
        kind = type(part).__name__
        if not is_known(part):
            raise SpecError(
                f"{where} has {kind!r} of {type(part).__module__.partition('.')[0]}, which is not converted to ONNX; "
                "docs/learners.md lists what is"
            )
        if kind.startswith("HistGradientBoosting") and _has_categories(part):
            raise SpecError(
                f"{where} has categorical_features={part.categorical_features!r}, whose splits are not converted; "
                "leave it out: categories come as ids and target means"
            )
        if kind == "CalibratedClassifierCV" and part.method != "sigmoid":
            raise SpecError(
                f"{where} calibrates by method={part.method!r}, whose steps magnify the rounding of float32; use "
                "method='sigmoid'"
            )
        if kind in ("OneHotEncoder", "OrdinalEncoder") and part.handle_unknown == "error":
            raise SpecError(f"{where}: {explain_unknown(kind)}")
        if kind == "FunctionTransformer":
            _check_function(part.func, part.kw_args, where)
        if kind == "VotingClassifier" and part.voting != "soft":
            raise SpecError(f"{where} votes by labels and has no probabilities; set voting='soft'")


def _check_function(function: Any, arguments: Any, where: str) -> None:
    try:
        read_function(function, arguments)
    except ArtifactError as error:
        raise SpecError(f"{where}: {error}") from None


def _has_categories(part: Any) -> bool:
    given = part.categorical_features
    return (
        given is not None and not (isinstance(given, str) and given == "from_dtype") and bool(np.size(given))
    )


def takes_missing(estimator: Any) -> bool:
    """Whether it takes rows with missing numbers."""
    if isinstance(estimator, str):  # "passthrough" and "drop"
        return True
    if isinstance(estimator, Pipeline):
        for _, step in estimator.steps:
            if not takes_missing(step):
                return False
            if not _leaves_missing(step):
                return True
        return True
    kind = type(estimator).__name__
    if kind in _OF_MEMBERS:
        last = getattr(estimator, "final_estimator", None)
        passes = not getattr(estimator, "passthrough", False) or (last is not None and takes_missing(last))
        return passes and all(takes_missing(one[1]) for one in estimator.estimators)
    if kind == "ColumnTransformer":
        remainder = estimator.remainder
        parts = [one[1] for one in estimator.transformers]
        return all(takes_missing(one) for one in (*parts, remainder))
    inner = getattr(estimator, _OF_ONE[kind], None) if kind in _OF_ONE else None
    return takes_missing(inner) if inner is not None else bool(get_tags(estimator).input_tags.allow_nan)


def _leaves_missing(step: Any) -> bool:
    """Whether missing numbers of its rows may be missing in what it makes of them."""
    if isinstance(step, Pipeline):
        return all(_leaves_missing(one) for _, one in step.steps)
    if type(step).__name__ in ("ColumnTransformer", "FeatureUnion"):
        held = getattr(step, "transformers", None) or step.transformer_list
        remainder = getattr(step, "remainder", "drop")
        return any(one[1] != "drop" and _leaves_missing(one[1]) for one in (*held, ("", remainder)))
    return type(step).__name__ not in ("SimpleImputer", "MissingIndicator", "OneHotEncoder", "TargetEncoder")


_WEIGHT = "sample_weight"
_OF_MEMBERS = ("VotingClassifier", "VotingRegressor", "StackingClassifier", "StackingRegressor")
_OF_ONE = {
    **dict.fromkeys(
        ("BaggingClassifier", "BaggingRegressor", "CalibratedClassifierCV", "FixedThresholdClassifier",
         "GridSearchCV", "HalvingGridSearchCV", "HalvingRandomSearchCV", "OneVsRestClassifier", "RandomizedSearchCV",
         "TunedThresholdClassifierCV"),
        "estimator",
    ),
    "TransformedTargetRegressor": "regressor",
}  # fmt: skip
"""Class -> the parameter with the estimator to which it passes its rows as they are."""


def takes_weights(estimator: Any) -> bool:
    """Whether rows may have weights when it is fitted."""
    return _weight_key(estimator) is not None


def fit_weighed(estimator: Any, rows: Any, labels: Any, weights: Any) -> Any:
    """Fitted, with weights of rows if there are any; it must take them then."""
    key = _weight_key(estimator)
    return estimator.fit(rows, labels, **({} if weights is None else {str(key): weights}))


def _weight_key(estimator: Any) -> str | None:
    """The argument of `fit` for weights that reach all that is fitted; empty for an estimator's own default one."""
    if estimator is None:
        return ""
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        key = _weight_key(last)
        return None if key is None else f"{name}__{key}"
    kind = type(estimator).__name__
    if kind in _OF_MEMBERS:
        taken = all(one[1] == "drop" or _weight_key(one[1]) == _WEIGHT for one in estimator.estimators)
        return _WEIGHT if taken else None
    if kind in _OF_ONE:
        inner = getattr(estimator, _OF_ONE[kind])
        return None if kind == "OneVsRestClassifier" or _weight_key(inner) not in (_WEIGHT, "") else _WEIGHT
    return _WEIGHT if has_fit_parameter(estimator, _WEIGHT) else None


def prepare(estimator: Any, seed: int, threads: int) -> Any:
    """The same, with the seed where it has none, so many threads, and probabilities of classes."""
    changes = {}
    for name, value in estimator.get_params(deep=True).items():
        last = name.rpartition("__")[2]
        if last == "random_state" and value is None:
            changes[name] = seed
        elif last == "n_jobs":
            changes[name] = threads
    estimator.set_params(**changes)
    for part in list(list_parts(estimator)):
        _round_before_trees(part)
    if is_classifier(estimator) and _decides_alone(estimator):
        return CalibratedClassifierCV(estimator, method="sigmoid", cv=5, ensemble=False)
    return estimator


def _decides_alone(estimator: Any) -> bool:
    """Whether it has decisions and no probabilities."""
    return not hasattr(estimator, "predict_proba") and hasattr(estimator, "decision_function")


def _round_before_trees(part: Any) -> None:
    """Other steps give float64 numbers, which some trees compare as they are, and the file as float32: such trees are
    trained on float32, too."""
    if isinstance(part, Pipeline) and len(part.steps) > 1 and _compares_float64(part.steps[-1][1]):
        part.steps.insert(len(part.steps) - 1, ("to_float32", FunctionTransformer(to_float32)))
    last = getattr(part, "final_estimator", None)
    if last is not None and _compares_float64(last):
        part.set_params(final_estimator=make_pipeline(FunctionTransformer(to_float32), last))


def _compares_float64(estimator: Any) -> bool:
    names = (type(one).__name__ for one in list_parts(estimator))
    return any(name.startswith(("HistGradientBoosting", "LGBM")) for name in names)
