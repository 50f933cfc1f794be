"""Any fitted estimator of scikit-learn as a step: those that are made of others here, the rest by their modules."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.errors import ArtifactError
from raymlops.training.number_steps import Beside, Both, Chain, Each, Product, Step, Take, With, with_number
from raymlops.training.sklearn_models import formulas, trees
from raymlops.training.sklearn_models.formulas import to_shares
from raymlops.training.sklearn_models.transformers import TRANSFORMERS, read_function
from raymlops.training.sklearn_models.trees import to_two_sides

Read = Callable[[Any], Step]

_LEAST = 1e-15
"""Of a probability, whose logarithm is taken."""


def read_probabilities(fitted: Any) -> Step:
    """(rows, classes), in the order of `classes_`. Raises ArtifactError."""
    return _find(fitted, _PROBABILITIES, "probabilities")(fitted)


def read_decision(fitted: Any) -> Step:
    """As of `decision_function`: (rows, 1) of two classes. Raises ArtifactError."""
    return _find(fitted, _DECISIONS, "decisions")(fitted)


def read_prediction(fitted: Any) -> Step:
    """(rows, 1), of a regression. Raises ArtifactError."""
    return _find(fitted, _PREDICTIONS, "predictions")(fitted)


def read_transform(fitted: Any) -> Step:
    """What a transformer makes of rows. Raises ArtifactError."""
    if fitted in ("passthrough", None):
        return Chain(())
    return _find(fitted, _TRANSFORMS, "transformed rows")(fitted)


def to_margins(known: npt.NDArray[np.int64], classes: int) -> Step:
    """From probabilities of the classes that are known: log odds of the second of two, or the logarithms of all."""
    spread = np.zeros((len(known), classes))
    spread[np.arange(len(known)), known] = 1.0
    whole: tuple[Step, ...] = () if len(known) == classes else (Product(spread),)
    clipped = (with_number("max", _LEAST), with_number("min", 1 - _LEAST))
    if classes > 2:
        return Chain((*whole, *clipped, Each("log")))
    other = Chain((Each("neg"), with_number("add", 1.0), Each("log")))
    return Chain((*whole, Take(np.array([1])), *clipped, Both("sub", Each("log"), other)))


def _find(fitted: Any, known: Mapping[str, Read], what: str) -> Read:
    name, module = type(fitted).__name__, type(fitted).__module__.partition(".")[0]
    if name in known and module in ("sklearn", "lightgbm", "xgboost"):
        return known[name]
    others = ", ".join(sorted(known))
    raise ArtifactError(f"The {what} of {module}'s {name} are not converted to ONNX; converted are: {others}")


def is_known(estimator: Any) -> bool:
    """Whether estimators of this class are read at all, before they are fitted."""
    name, module = type(estimator).__name__, type(estimator).__module__.partition(".")[0]
    held = (_PROBABILITIES, _DECISIONS, _PREDICTIONS, _TRANSFORMS)
    return module in ("sklearn", "lightgbm", "xgboost") and any(name in known for known in held)


def _mean(steps: Sequence[Step], weights: Any = None) -> Step:
    """Of steps with as many columns."""
    shares = np.ones(len(steps)) if weights is None else np.asarray(weights, dtype=np.float64)
    shares = shares / shares.sum()
    total: Step | None = None
    for step, share in zip(steps, shares.tolist(), strict=True):
        part = Chain((step, with_number("mul", share)))
        total = part if total is None else Both("add", total, part)
    assert total is not None
    return total


def _read_pipeline(read: Read) -> Read:
    def read_last(fitted: Any) -> Step:
        *front, (_, last) = fitted.steps
        return Chain((*(read_transform(step) for _, step in front), read(last)))

    return read_last


def _read_columns(fitted: Any) -> Step:
    """A ColumnTransformer."""
    parts = []
    for name, transformer, chosen in fitted.transformers_:
        if isinstance(transformer, str) and transformer == "drop":
            continue
        held = _find_places(fitted, chosen)
        if not len(held):
            continue
        weight = (fitted.transformer_weights or {}).get(name)
        scaled = () if weight is None else (with_number("mul", float(weight)),)
        parts.append(Chain((Take(held), read_transform(transformer), *scaled)))
    return Beside(tuple(parts))


def _find_places(fitted: Any, chosen: Any) -> npt.NDArray[np.int64]:
    """Of columns that are given by numbers, a slice, a mask, or names."""
    if isinstance(chosen, str) or (isinstance(chosen, list) and any(isinstance(one, str) for one in chosen)):
        known = [str(name) for name in fitted.feature_names_in_]
        return np.array([known.index(one) for one in np.atleast_1d(chosen)], dtype=np.int64)
    return np.atleast_1d(np.arange(fitted.n_features_in_)[chosen])


def _read_union(fitted: Any) -> Step:
    parts = []
    for name, transformer in fitted.transformer_list:
        if isinstance(transformer, str) and transformer == "drop":
            continue
        weight = (fitted.transformer_weights or {}).get(name)
        scaled = () if weight is None else (with_number("mul", float(weight)),)
        parts.append(Chain((read_transform(transformer), *scaled)))
    return Beside(tuple(parts))


def _spread(step: Step, known: Any, classes: Any) -> Step:
    """Probabilities of some of the classes as those of all."""
    if len(known) == len(classes):
        return step
    weights = np.zeros((len(known), len(classes)))
    weights[np.arange(len(known)), np.searchsorted(classes, known)] = 1.0
    return Chain((step, Product(weights)))


def _read_bag_probabilities(fitted: Any) -> Step:
    # of a bag the members' classes are numbers of its own
    classes = np.arange(len(fitted.classes_))
    members = [
        Chain((Take(np.asarray(columns, dtype=np.int64)),
               _spread(read_probabilities(one), np.asarray(one.classes_), classes)))
        for one, columns in zip(fitted.estimators_, fitted.estimators_features_, strict=True)
    ]  # fmt: skip
    return _mean(members)


def _read_bag_prediction(fitted: Any) -> Step:
    members = [
        Chain((Take(np.asarray(columns, dtype=np.int64)), read_prediction(one)))
        for one, columns in zip(fitted.estimators_, fitted.estimators_features_, strict=True)
    ]
    return _mean(members)


def _read_votes(fitted: Any) -> Step:
    if fitted.voting != "soft":
        raise ArtifactError("VotingClassifier with voting='hard' has no probabilities; set voting='soft'")
    return _mean([read_probabilities(one) for one in fitted.estimators_], _weights_of(fitted))


def _read_mean_of_votes(fitted: Any) -> Step:
    return _mean([read_prediction(one) for one in fitted.estimators_], _weights_of(fitted))


def _weights_of(fitted: Any) -> Any:
    if fitted.weights is None:
        return None
    kept = [one[1] for one in fitted.estimators]
    return [
        w for w, one in zip(fitted.weights, kept, strict=True) if not (isinstance(one, str) and one == "drop")
    ]


def _read_stack(read: Read) -> Read:
    def read_whole(fitted: Any) -> Step:
        ways: dict[str, Read] = {
            "predict_proba": read_probabilities,
            "decision_function": read_decision,
            "predict": read_prediction,
        }
        members: list[Step] = []
        for one, way in zip(fitted.estimators_, fitted.stack_method_, strict=True):
            if way == "predict" and hasattr(one, "classes_"):
                raise ArtifactError(
                    f"StackingClassifier of labels that {type(one).__name__} predicts is not converted; take members "
                    "with probabilities, or stack_method='decision_function'"
                )
            step = ways[way](one)
            if way == "predict_proba" and len(one.classes_) == 2:  # the first is one less the other
                step = Chain((step, Take(np.array([1]))))
            members.append(step)
        if fitted.passthrough:
            members.append(Chain(()))
        return Chain((Beside(tuple(members)), read(fitted.final_estimator_)))

    return read_whole


def _read_one_against_rest(fitted: Any) -> Step:
    parts: list[Step] = []
    for one in fitted.estimators_:
        if hasattr(one, "predict_proba"):
            parts.append(Chain((read_probabilities(one), Take(np.array([1])))))
        else:
            raise ArtifactError(
                f"OneVsRestClassifier of {type(one).__name__} has no probabilities; wrap that in "
                "CalibratedClassifierCV(method='sigmoid')"
            )
    if len(parts) == 1:
        return Chain((parts[0], to_two_sides()))
    return Chain((Beside(tuple(parts)), to_shares()))


def _read_one_against_rest_decisions(fitted: Any) -> Step:
    return Beside(tuple(read_decision(one) for one in fitted.estimators_))


def _read_calibrated(fitted: Any) -> Step:
    return _mean([_read_one_calibrated(one) for one in fitted.calibrated_classifiers_])


def _read_one_calibrated(fitted: Any) -> Step:
    if fitted.method != "sigmoid":
        raise ArtifactError(
            f"CalibratedClassifierCV with method={fitted.method!r} is not converted: its steps magnify the rounding of "
            "float32; use method='sigmoid'. search.blend and evaluation.calibrate calibrate without it"
        )
    classes = fitted.classes
    scores = (read_decision if hasattr(fitted.estimator, "decision_function") else read_probabilities)(
        fitted.estimator
    )
    if len(classes) == 2 and not hasattr(fitted.estimator, "decision_function"):
        scores = Chain((scores, Take(np.array([1]))))
    slopes = np.array([one.a_ for one in fitted.calibrators])
    levels = np.array([one.b_ for one in fitted.calibrators])
    sides = Chain((scores, With("mul", -slopes), With("sub", levels), Each("sigmoid")))
    if len(classes) == 2:
        return Chain((sides, to_two_sides()))
    return Chain((sides, to_shares()))


def _read_inner(name: str, read: Read) -> Read:
    """Those that only choose or fit another one."""
    return lambda fitted: read(getattr(fitted, name))


def _read_transformed_target(fitted: Any) -> Step:
    inner = read_prediction(fitted.regressor_)
    if fitted.transformer is None:
        return Chain((inner, read_function(fitted.inverse_func)))
    scaler = fitted.transformer_
    if type(scaler).__name__ != "StandardScaler":
        raise ArtifactError(
            f"TransformedTargetRegressor with a {type(scaler).__name__} is not converted; use features.target.transform"
        )
    steps: list[Step] = [inner]
    if scaler.with_std:
        steps.append(With("mul", np.asarray(scaler.scale_)))
    if scaler.with_mean:
        steps.append(With("add", np.asarray(scaler.mean_)))
    return Chain(tuple(steps))


_SEARCHES = ("GridSearchCV", "RandomizedSearchCV", "HalvingGridSearchCV", "HalvingRandomSearchCV")


def _with_inner(read: Read) -> dict[str, Read]:
    return {
        "Pipeline": _read_pipeline(read),
        **dict.fromkeys(_SEARCHES, _read_inner("best_estimator_", read)),
    }


_PROBABILITIES: dict[str, Read] = {
    **trees.PROBABILITIES,
    **formulas.PROBABILITIES,
    **_with_inner(read_probabilities),
    **dict.fromkeys(
        ("TunedThresholdClassifierCV", "FixedThresholdClassifier"),
        _read_inner("estimator_", read_probabilities),
    ),
    "BaggingClassifier": _read_bag_probabilities,
    "VotingClassifier": _read_votes,
    "StackingClassifier": _read_stack(read_probabilities),
    "OneVsRestClassifier": _read_one_against_rest,
    "CalibratedClassifierCV": _read_calibrated,
}
_DECISIONS: dict[str, Read] = {
    **trees.DECISIONS,
    **formulas.DECISIONS,
    **_with_inner(read_decision),
    "StackingClassifier": _read_stack(read_decision),
    "OneVsRestClassifier": _read_one_against_rest_decisions,
}
_PREDICTIONS: dict[str, Read] = {
    **trees.PREDICTIONS,
    **formulas.PREDICTIONS,
    **_with_inner(read_prediction),
    "BaggingRegressor": _read_bag_prediction,
    "VotingRegressor": _read_mean_of_votes,
    "StackingRegressor": _read_stack(read_prediction),
    "RANSACRegressor": _read_inner("estimator_", read_prediction),
    "TransformedTargetRegressor": _read_transformed_target,
}
_TRANSFORMS: dict[str, Read] = {
    **TRANSFORMERS,
    "ColumnTransformer": _read_columns,
    "FeatureUnion": _read_union,
    "Pipeline": _read_pipeline(read_transform),
}
