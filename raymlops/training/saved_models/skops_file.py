"""Opens estimators of scikit-learn that skops saved. skops names the types that a file holds before it makes any; those
of scikit-learn, numpy and scipy are known, and others only load with `trust`."""

import pathlib
import zipfile
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import pandas as pd
import pyarrow as pa
import sklearn
import skops.io
from onnx import TensorProto
from sklearn.base import is_classifier

from raymlops.errors import ArtifactError, DataError, UntrustedError, shorten, unknown_name
from raymlops.features import FittedColumn, FittedFeatures, FittedTarget
from raymlops.onnx_builder import GraphBuilder, to_value_info
from raymlops.tensors import TensorSpec
from raymlops.training.booster_files import build_columns
from raymlops.training.number_steps import Chain, Step, With
from raymlops.training.saved_models import LARGEST, OpenedModel, Request
from raymlops.training.saved_models.samples import require_numbers, to_numbers
from raymlops.training.sklearn_check import make_rows, require_equal
from raymlops.training.sklearn_estimators import takes_missing
from raymlops.training.sklearn_models.composed import read_prediction, read_probabilities, to_margins

_MADE = 1_000
_KNOWN = (
    "collections.OrderedDict", "lightgbm.basic.Booster", "lightgbm.sklearn.LGBMClassifier",
    "lightgbm.sklearn.LGBMRegressor", "numpy.dtype", "sklearn._loss.loss.HalfTweedieLossIdentity",
    "sklearn.calibration._CalibratedClassifier", "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.neighbors._kd_tree.KDTree", "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.tree._tree.Tree", "xgboost.core.Booster", "xgboost.sklearn.XGBClassifier", "xgboost.sklearn.XGBRegressor",
)  # fmt: skip
"""Types that skops does not list, and that only take up what was saved: they run no code of a file, and what broken
arrays do to those that are compiled ends this process alone."""


def open_model(request: Request) -> OpenedModel:
    """See `Reader`. Raises UntrustedError for types that are not known, unless `request.trust`."""
    fitted = _load(request.file, request.trust)
    kind = type(fitted).__name__
    if not hasattr(fitted, "predict") or not hasattr(fitted, "n_features_in_"):
        raise ArtifactError(f"It holds a {kind}; expected a fitted estimator or pipeline that predicts")
    names, notes = _name_inputs(fitted, request.sample)
    rows, sampled = _take_rows(fitted, names, request.sample)
    classes = is_classifier(fitted)
    if classes and not hasattr(fitted, "predict_proba"):
        raise ArtifactError(
            f"{kind} has no predict_proba; wrap it in CalibratedClassifierCV(method='sigmoid'), fit and save that"
        )
    step = (read_probabilities if classes else read_prediction)(fitted)
    taken = rows.astype(np.float32)
    scores = _ask(fitted, rows)
    require_equal(step, _ask(fitted, taken.astype(np.float64)), taken, kind)
    target = _target_of(fitted) if classes else _target_of_numbers(scores)
    return OpenedModel(
        library=f"scikit-learn {sklearn.__version__}",
        summary=kind,
        features=FittedFeatures(tuple(FittedColumn(name, "number", "number") for name in names), target),
        front=build_columns(names),
        core=_to_onnx(step, target, len(names)),
        rows={name: np.ascontiguousarray(taken[:, place]) for place, name in enumerate(names)},
        sampled=sampled,
        scores=scores[:, 1] if target.task == "binary" else scores if classes else scores[:, 0],
        made_of="rows between those of the sample" if sampled else "random rows",
        has_classes=classes,
        notes=notes,
        parameters={"estimator": kind},
    )


def _load(file: pathlib.Path, trust: bool) -> Any:
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(part.file_size for part in archive.infolist())
    except zipfile.BadZipFile as error:
        raise ArtifactError(f"It is not a whole file of skops: {error}; save it again") from None
    if size > LARGEST:
        raise ArtifactError(f"It holds {size:,} bytes when it is unpacked; expected at most {LARGEST:,}")
    unknown = [name for name in skops.io.get_untrusted_types(file=file) if name not in _KNOWN]
    if unknown and not trust:
        raise UntrustedError(
            f"It holds types that skops does not know, and whose loading may run code: {shorten(', '.join(unknown))}; "
            "give --trust if you trust whoever made it"
        )
    return skops.io.load(file, trusted=[*_KNOWN, *unknown])


def _name_inputs(fitted: Any, sample: pa.Table | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the inputs, and what is said about them."""
    known = tuple(str(name) for name in getattr(fitted, "feature_names_in_", ()))
    if known == tuple(f"Column_{place}" for place in range(len(known))):  # as LightGBM names arrays
        known = ()
    count = int(fitted.n_features_in_)
    if sample is None:
        note = "no --data was given, so parity was measured on random numbers"
        return known or tuple(f"f{place}" for place in range(count)), (note,)
    columns = tuple(sample.column_names)
    names = known or columns
    for name in names:
        if name not in columns:
            raise DataError(
                unknown_name("column", name, columns) + "; the model reads it, and the sample lacks it"
            )
    if len(names) != count:
        raise DataError(
            f"The model has no names of its {count} features, and the sample has {len(names)} columns; give a sample "
            f"of the {count} columns that it was trained on, in their order"
        )
    require_numbers(sample, names)
    return names, () if known else (f"its file does not name its inputs so: {shorten(', '.join(names))}",)


def _take_rows(
    fitted: Any, names: tuple[str, ...], sample: pa.Table | None
) -> tuple[npt.NDArray[np.float64], int]:
    """Rows of the sample and then others, and how many are of the sample."""
    missing = takes_missing(fitted)
    if sample is None:
        drawn = np.random.default_rng(0).normal(size=(_MADE, len(names))) * 3
        return drawn.astype(np.float32).astype(np.float64), 0
    rows = to_numbers(sample, names)
    if not missing and np.isnan(rows).any():
        raise DataError(
            f"The sample has missing numbers, which the {type(fitted).__name__} does not take; leave those rows out"
        )
    with np.errstate(over="ignore"):
        made = make_rows(rows.astype(np.float32), len(names), missing=missing, seed=0)
    return np.concatenate([rows, made.astype(np.float64)]), len(rows)


def _ask(fitted: Any, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Its own answers, (rows, classes) or (rows, 1)."""
    given: Any = rows
    if hasattr(fitted, "feature_names_in_"):
        given = pd.DataFrame(rows, columns=list(fitted.feature_names_in_))
    ask = fitted.predict_proba if is_classifier(fitted) else fitted.predict
    return np.asarray(ask(given), dtype=np.float64).reshape(len(rows), -1)


def _target_of(fitted: Any) -> FittedTarget:
    classes = np.asarray(fitted.classes_)
    task: Literal["binary", "multiclass"] = "binary" if len(classes) == 2 else "multiclass"
    if len(classes) < 2:
        raise ArtifactError("It knows one class alone, and predicts nothing else")
    if classes.dtype.kind == "b":
        return FittedTarget("target", task, "boolean", tuple(bool(name) for name in classes))
    if classes.dtype.kind in "iu" or (classes.dtype.kind == "f" and (classes == np.floor(classes)).all()):
        return FittedTarget("target", task, "integer", tuple(int(name) for name in classes))
    return FittedTarget("target", task, "string", tuple(str(name) for name in classes))


def _target_of_numbers(scores: npt.NDArray[np.float64]) -> FittedTarget:
    """Its mean is taken from the sums before they become FP32."""
    if scores.shape[1] != 1:
        raise ArtifactError(f"It predicts {scores.shape[1]} numbers for each row; only one is converted")
    return FittedTarget("target", "regression", "number", mean=float(np.float32(scores.mean())))


def _to_onnx(step: Step, target: FittedTarget, columns: int) -> onnx.ModelProto:
    build = GraphBuilder()
    last: Step = (
        With("sub", np.array([target.mean]))
        if target.task == "regression"
        else to_margins(np.arange(len(target.classes)), len(target.classes))
    )
    rows = build.cast("plain", TensorProto.DOUBLE)
    build.add("Cast", Chain((step, last)).add(build, rows), name="outputs", to=TensorProto.FLOAT)
    taken, given = (
        to_value_info(TensorSpec(name, "FP32", (-1, width)))
        for name, width in (("plain", columns), ("outputs", target.outputs))
    )
    return build.to_model("scikit-learn", [taken], [given])
