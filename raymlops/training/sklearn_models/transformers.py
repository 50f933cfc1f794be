"""Fitted transformers of scikit-learn as steps. Those that are made of others are in `composed`."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.errors import ArtifactError
from raymlops.training.number_steps import (
    Beside,
    Both,
    Chain,
    Each,
    Fill,
    Product,
    Step,
    Take,
    Total,
    With,
    with_number,
)

FUNCTIONS: Mapping[str, Step] = {
    "log1p": Chain((with_number("add", 1.0), Each("log"))),
    "expm1": Chain((Each("exp"), with_number("sub", 1.0))),
    "square": with_number("pow", 2.0),
    **{name: Each(name) for name in ("log", "exp", "sqrt", "tanh")},
    "absolute": Each("abs"),
    "negative": Each("neg"),
}
"""Functions of numpy that a FunctionTransformer may have."""


def _columns(chosen: Any) -> Take:
    return Take(np.asarray(chosen, dtype=np.int64))


def _all(values: Any) -> npt.NDArray[np.float64]:
    return np.atleast_1d(np.asarray(values, dtype=np.float64))


def _read_standard(fitted: Any) -> Step:
    steps: list[Step] = []
    if fitted.with_mean:
        steps.append(With("sub", _all(fitted.mean_)))
    if fitted.with_std:
        steps.append(With("div", _all(fitted.scale_)))
    return Chain(tuple(steps))


def _read_robust(fitted: Any) -> Step:
    steps: list[Step] = []
    if fitted.with_centering:
        steps.append(With("sub", _all(fitted.center_)))
    if fitted.with_scaling:
        steps.append(With("div", _all(fitted.scale_)))
    return Chain(tuple(steps))


def _read_min_max(fitted: Any) -> Step:
    steps: list[Step] = [With("mul", _all(fitted.scale_)), With("add", _all(fitted.min_))]
    if fitted.clip:
        low, high = fitted.feature_range
        steps += [with_number("max", low), with_number("min", high)]
    return Chain(tuple(steps))


def _read_max_abs(fitted: Any) -> Step:
    if getattr(fitted, "clip", False):
        raise ArtifactError("MaxAbsScaler with clip is not converted; set clip=False")
    return With("div", _all(fitted.scale_))


def _read_normalizer(fitted: Any) -> Step:
    size: Step = {
        "l2": Chain((with_number("pow", 2.0), Total(), Each("sqrt"))),
        "l1": Chain((Each("abs"), Total())),
        "max": Chain((Each("abs"), Total("max"))),
    }[fitted.norm]
    # a row of zeros stays
    whole = Both("add", size, Chain((size, with_number("equal", 0.0))))
    return Both("div", Chain(()), whole)


def _read_imputer(fitted: Any) -> Step:
    if not (isinstance(fitted.missing_values, float) and np.isnan(fitted.missing_values)):
        raise ArtifactError(
            f"SimpleImputer with missing_values={fitted.missing_values!r} is not converted; missing numbers are NaN"
        )
    values = _all(fitted.statistics_)
    known = ~np.isnan(values)
    filled: Step = Chain((_columns(np.flatnonzero(known)), Fill(values[known])))
    if not fitted.add_indicator:
        return filled
    return Beside((filled, _read_indicator(fitted.indicator_)))


def _read_indicator(fitted: Any) -> Step:
    return Chain((_columns(fitted.features_), Each("missing")))


def _read_polynomial(fitted: Any) -> Step:
    """Products of columns; a factor that a product does not have is a column of ones."""
    powers = np.asarray(fitted.powers_)
    inputs, degree = powers.shape[1], int(powers.sum(axis=1).max(initial=1))
    factors = np.full((len(powers), degree), inputs, dtype=np.int64)
    for place, row in enumerate(powers):
        held = np.repeat(np.arange(inputs), row)
        factors[place, : len(held)] = held
    found: Step = _columns(factors[:, 0])
    for number in range(1, degree):
        found = Both("mul", found, _columns(factors[:, number]))
    one = Chain((_columns([0]), Each("missing"), with_number("mul", 0.0), with_number("add", 1.0)))
    return Chain((Beside((Chain(()), one)), found))


def _read_pca(fitted: Any) -> Step:
    weights = np.asarray(fitted.components_, dtype=np.float64).T
    if fitted.whiten:
        weights = weights / np.sqrt(np.asarray(fitted.explained_variance_))
    return Chain((With("sub", _all(fitted.mean_)), Product(weights)))


def _read_svd(fitted: Any) -> Step:
    return Product(np.asarray(fitted.components_, dtype=np.float64).T)


def read_selector(fitted: Any) -> Step:
    """Whatever chooses among its columns."""
    return _columns(fitted.get_support(indices=True))


def to_float32(rows: Any) -> Any:
    """Numbers rounded to float32, as float64."""
    with np.errstate(over="ignore"):
        return np.asarray(rows).astype(np.float32).astype(np.float64)


def _read_function(fitted: Any) -> Step:
    return read_function(fitted.func, fitted.kw_args)


def read_function(function: Any, arguments: Any = None) -> Step:
    """A function of numpy, or none. Raises ArtifactError."""
    if function is None:
        return Chain(())
    if function is to_float32:
        return Each("float32")
    name = getattr(function, "__name__", repr(function))
    if not isinstance(function, np.ufunc) or name not in FUNCTIONS or arguments:
        raise ArtifactError(
            f"The function {name!r} has no equal in ONNX that is known here; known are those of numpy: "
            f"{', '.join(FUNCTIONS)}. Or compute the column by an expression: features.expressions"
        )
    return FUNCTIONS[name]


def _read_binarizer(fitted: Any) -> Step:
    return with_number("above", float(fitted.threshold))


def _read_bins(fitted: Any) -> Step:
    if fitted.encode not in ("onehot", "onehot-dense", "ordinal"):
        raise ArtifactError(f"KBinsDiscretizer with encode={fitted.encode!r} is not converted")
    parts: list[Step] = []
    for column, edges in enumerate(fitted.bin_edges_):
        inner = np.asarray(edges, dtype=np.float64)[1:-1]
        place: Step = Chain((_columns([column]), with_number("mul", 0.0)))
        if len(inner):
            place = Chain((_columns([column]), With("at_least", inner), Total()))
        if fitted.encode != "ordinal":
            place = Chain((place, With("equal", np.arange(len(inner) + 1, dtype=np.float64))))
        parts.append(place)
    return Beside(tuple(parts))


def _read_power(fitted: Any) -> Step:
    curve = _bend if fitted.method == "yeo-johnson" else _bend_positive
    parts = tuple(
        Chain((_columns([column]), curve(float(power)))) for column, power in enumerate(fitted.lambdas_)
    )
    scaled = (_read_standard(fitted._scaler),) if fitted.standardize else ()
    return Chain((Beside(parts), *scaled))


def _bend(power: float) -> Step:
    """Yeo and Johnson 2000: a curve above zero and one below, both through zero."""
    above = Chain((with_number("max", 0.0), with_number("add", 1.0), _raise(power)))
    mirrored = Chain((Each("neg"), with_number("max", 0.0), with_number("add", 1.0), _raise(2 - power)))
    return Both("sub", above, mirrored)


def _bend_positive(power: float) -> Step:
    return _raise(power)


def _raise(power: float) -> Step:
    """(x ** power - 1) / power, or its limit at 0."""
    if abs(power) < np.spacing(1.0):
        return Each("log")
    return Chain((with_number("pow", power), with_number("sub", 1.0), with_number("div", power)))


def read_categories(fitted: Any) -> Step:
    """An encoder of categories: what it gives for each value is asked of itself, and kept as a table.

    Raises ArtifactError for one that has no answer for values that it has not seen.
    """
    kind = type(fitted).__name__
    known = [np.asarray(values, dtype=np.float64) for values in fitted.categories_]
    unseen = np.array([[np.nanmax(values, initial=0.0) + 1 for values in known]])
    if kind != "TargetEncoder" and fitted.handle_unknown == "error":
        raise ArtifactError(explain_unknown(kind))
    base = _ask(fitted, unseen)
    flags: list[Step] = []
    changes = []
    for column, values in enumerate(known):
        present = values[~np.isnan(values)]
        flags.append(Chain((_columns([column]), With("equal", present))))
        rows = np.repeat(unseen, len(present), axis=0)
        rows[:, column] = present
        changes.append(_ask(fitted, rows) - base)
        if len(present) < len(values):
            flags.append(Chain((_columns([column]), Each("missing"))))
            lacking = unseen.copy()
            lacking[:, column] = np.nan
            changes.append(_ask(fitted, lacking) - base)
    table = np.concatenate(changes)
    if not (np.isfinite(table).all() and np.isfinite(base).all()):
        raise ArtifactError(f"{kind} gives a missing number for some category; give it a number for those")
    return Chain((Beside(tuple(flags)), Product(table), With("add", base[0])))


def explain_unknown(kind: str) -> str:
    """Why an encoder that refuses values that it has not seen is not converted."""
    remedy = "'ignore'" if kind == "OneHotEncoder" else "'use_encoded_value' and unknown_value=-1"
    return (
        f"{kind} with handle_unknown='error' has no answer for a value that it has not seen; set "
        f"handle_unknown={remedy}"
    )


def _ask(fitted: Any, rows: Any) -> Any:
    with warnings.catch_warnings():  # of values that it has not seen
        warnings.simplefilter("ignore", UserWarning)
        found = fitted.transform(rows)
    return np.asarray(found.todense() if hasattr(found, "todense") else found, dtype=np.float64)


TRANSFORMERS: Mapping[str, Callable[[Any], Step]] = {
    "StandardScaler": _read_standard,
    "RobustScaler": _read_robust,
    "MinMaxScaler": _read_min_max,
    "MaxAbsScaler": _read_max_abs,
    "Normalizer": _read_normalizer,
    "SimpleImputer": _read_imputer,
    "MissingIndicator": _read_indicator,
    "PolynomialFeatures": _read_polynomial,
    "PCA": _read_pca,
    "IncrementalPCA": _read_pca,
    "TruncatedSVD": _read_svd,
    "FunctionTransformer": _read_function,
    "Binarizer": _read_binarizer,
    "KBinsDiscretizer": _read_bins,
    "PowerTransformer": _read_power,
    **dict.fromkeys(("OneHotEncoder", "OrdinalEncoder", "TargetEncoder"), read_categories),
    **dict.fromkeys(
        ("GenericUnivariateSelect", "RFE", "RFECV", "SelectFdr", "SelectFpr", "SelectFromModel", "SelectFwe",
         "SelectKBest", "SelectPercentile", "SequentialFeatureSelector", "VarianceThreshold"),
        read_selector,
    ),
}  # fmt: skip
"""Class of scikit-learn -> its fitted transform as a step."""
