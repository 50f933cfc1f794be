"""Saved models of XGBoost, LightGBM and CatBoost as values: trees, names, and what their sums mean. Imports none of the
libraries, and runs nothing of a file."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from scipy.special import expit, softmax

from raymlops.errors import ArtifactError, DataError, shorten, unknown_name
from raymlops.onnx_builder import INNER, GraphBuilder, to_value_info
from raymlops.tensors import TensorSpec
from raymlops.training.tree_ensemble_export import add_trees
from raymlops.training.tree_ensembles import TreeEnsemble, check_trees, constant_tree
from raymlops.training.tree_readers import read_catboost, read_lightgbm, read_xgboost

Task = Literal["binary", "multiclass", "regression"]
Link = Literal["logistic", "softmax", "identity", "log"]
Rows = npt.NDArray[np.floating[Any]]

LIBRARIES: Mapping[str, str] = {"json": "xgboost", "ubj": "xgboost", "txt": "lightgbm", "lgb": "lightgbm",
                                "cbm": "catboost"}  # fmt: skip
"""Ending of a file -> the library that saved it."""

_IDENTITY: tuple[Task, Link] = ("regression", "identity")
_LOG: tuple[Task, Link] = ("regression", "log")
OBJECTIVES: Mapping[str, Mapping[str, tuple[Task, Link]]] = {
    "xgboost": {
        "binary:logistic": ("binary", "logistic"),
        **dict.fromkeys(("multi:softprob", "multi:softmax"), ("multiclass", "softmax")),
        **dict.fromkeys(
            ("reg:squarederror", "reg:linear", "reg:absoluteerror", "reg:quantileerror"), _IDENTITY
        ),
        **dict.fromkeys(("reg:pseudohubererror", "reg:squaredlogerror"), _IDENTITY),
        "reg:logistic": ("regression", "logistic"),
        **dict.fromkeys(("count:poisson", "reg:gamma", "reg:tweedie"), _LOG),
    },
    "lightgbm": {
        "binary": ("binary", "logistic"),
        "multiclass": ("multiclass", "softmax"),
        **dict.fromkeys(("regression", "regression_l1", "huber", "fair", "quantile", "mape"), _IDENTITY),
        "cross_entropy": ("regression", "logistic"),
        **dict.fromkeys(("poisson", "gamma", "tweedie"), _LOG),
    },
    "catboost": {
        **dict.fromkeys(("Logloss", "CrossEntropy"), ("binary", "logistic")),
        "MultiClass": ("multiclass", "softmax"),
        **dict.fromkeys(
            ("RMSE", "MAE", "Quantile", "MAPE", "Huber", "Lq", "LogCosh", "Expectile"), _IDENTITY
        ),
        **dict.fromkeys(("Poisson", "Tweedie"), _LOG),
    },
}
"""Library -> objective -> what it predicts, and how from the sums of its trees."""


@dataclasses.dataclass(frozen=True)
class Booster:
    """`ensemble` has the first `rounds` of `grown` rounds."""

    library: str
    objective: str
    task: Task
    link: Link
    slope: float
    """Factor of sums before the logistic function."""
    names: tuple[str, ...]
    """Of the features; empty if the file has none."""
    features: int
    ensemble: TreeEnsemble
    rounds: int
    grown: int
    classes: tuple[str | int, ...] = ()
    """Their names, if the file has them."""

    def to_scores(self, margins: Rows) -> Rows:
        """(rows, outputs) sums -> (rows,) probabilities or predictions, (rows, classes) of more than two classes."""
        if self.link == "softmax":
            return np.asarray(softmax(margins, axis=1))
        if self.link == "logistic":
            return np.asarray(expit(self.slope * margins[:, 0]))
        return np.exp(margins[:, 0]) if self.link == "log" else margins[:, 0]

    @property
    def offset(self) -> float:
        """Of a regression whose predictions are sums: what is added after the trees, so that their FP32 sum is exact
        for targets far from zero. LightGBM has it in the leaves of the first tree."""
        if self.task != "regression" or self.link != "identity":
            return 0.0
        return float(np.float32(self.ensemble.base[0] + self._start))

    @property
    def _start(self) -> float:
        if self.library != "lightgbm" or not self.ensemble.trees:
            return 0.0
        first = self.ensemble.trees[0]
        return float(first.values[first.feature < 0].mean())

    def _without_offset(self) -> TreeEnsemble:
        if not self.offset:
            return self.ensemble
        first, *others = self.ensemble.trees or (constant_tree(0.0),)
        rest = self.ensemble.base[0] - self.offset  # the base, and what FP32 rounds off
        first = dataclasses.replace(first, values=first.values + rest)
        return dataclasses.replace(self.ensemble, trees=(first, *others), base=(0.0,))

    def to_onnx(self) -> onnx.ModelProto:
        """`plain` (rows, features) FP32 -> `outputs` (rows, outputs) less the offset, as answer nodes take them."""
        build = GraphBuilder()
        found = add_trees(build, self._without_offset(), "plain")
        if self.slope != 1:
            found = build.add("Mul", found, build.constant(np.float32(self.slope), "slope"))
        operator = "Identity"
        if self.task == "regression":
            operator = {"log": "Exp", "logistic": "Sigmoid"}.get(self.link, operator)
        build.add(operator, found, name="outputs")
        taken, given = (
            to_value_info(TensorSpec(name, "FP32", (-1, width)))
            for name, width in (("plain", self.features), ("outputs", self.ensemble.outputs))
        )
        return build.to_model(self.library, [taken], [given])


def build_columns(names: tuple[str, ...]) -> onnx.ModelProto:
    """The graph from raw FP32 columns to `plain`. Infinite values stay: the libraries compare them as numbers."""
    build = GraphBuilder()
    build.concat([build.column(name) for name in names], name=f"{INNER}plain")
    return build.to_model(
        "columns",
        [to_value_info(TensorSpec(name, "FP32", (-1,))) for name in names],
        [to_value_info(TensorSpec(f"{INNER}plain", "FP32", (-1, len(names))))],
    )


def read_xgboost_file(model: Mapping[str, Any], rounds: int | None = None) -> Booster:
    """A model in XGBoost's JSON format; the rounds before early stopping began unless a number is given.

    Raises ArtifactError for what is not whole, or has no equal in ONNX.
    """
    learner = model["learner"]
    objective = str(learner["objective"]["name"])
    task, link = _find_objective("xgboost", objective)
    parameters, booster = learner["learner_model_param"], learner["gradient_booster"]
    if int(parameters.get("num_target", "1")) > 1:
        raise ArtifactError(
            f"The model predicts {shorten(str(parameters['num_target']))} targets; only models of a single target are "
            "converted: save one for each"
        )
    if "c" in (learner.get("feature_types") or ()):
        raise ArtifactError(
            "The model was trained with enable_categorical, and its own numbering of categories is not converted; "
            "train on encoded categories"
        )
    best = learner.get("attributes", {}).get("best_iteration")
    indptr = booster["model"]["iteration_indptr"] if booster["name"] == "gbtree" else [0]
    grown = len(indptr) - 1
    rounds = _choose_rounds(int(best) + 1 if rounds is None and best is not None else rounds, grown)
    return _check(
        Booster(
            library="xgboost",
            objective=objective,
            task=task,
            link=link,
            slope=1.0,
            names=tuple(learner.get("feature_names") or ()),
            features=int(parameters["num_feature"]),
            ensemble=read_xgboost(model, rounds),
            rounds=rounds,
            grown=grown,
        )
    )


def read_lightgbm_file(text: str, rounds: int | None = None) -> Booster:
    """A model in LightGBM's text format; all rounds unless a number is given: the file of a training that stopped
    early has the best ones. Raises ArtifactError for what is not whole, or has no equal in ONNX."""
    if not text.startswith("tree\n") or "\nend of trees" not in text:
        raise ArtifactError(
            "It is not a whole file of LightGBM, from 'tree' to 'end of trees'; save it again"
        )
    lines = text.partition("\nTree=")[0].splitlines()
    header = dict(line.split("=", 1) for line in lines if "=" in line)
    objective, *options = header.get("objective", "").split()
    task, link = _find_objective("lightgbm", objective)
    if "sqrt" in options:
        raise ArtifactError("The model was trained with reg_sqrt, which is not converted; train without it")
    if "average_output" in lines:
        raise ArtifactError(
            "The model averages its trees (boosting: rf), which is not converted; use boosting: gbdt"
        )
    ensemble = read_lightgbm(text)
    if len(ensemble.trees) != len(header.get("tree_sizes", "").split()):
        raise ArtifactError(
            f"It has {len(ensemble.trees)} trees, and its header says otherwise; save it again"
        )
    grown = len(ensemble.trees) // ensemble.outputs
    rounds = _choose_rounds(rounds, grown)
    slopes = [float(option[8:]) for option in options if option.startswith("sigmoid:")]
    return _check(
        Booster(
            library="lightgbm",
            objective=objective,
            task=task,
            link=link,
            slope=slopes[0] if slopes else 1.0,
            names=tuple(header["feature_names"].split()),
            features=int(header["max_feature_idx"]) + 1,
            ensemble=dataclasses.replace(ensemble, trees=ensemble.trees[: rounds * ensemble.outputs]),
            rounds=rounds,
            grown=grown,
        )
    )


def read_catboost_file(model: Mapping[str, Any], rounds: int | None = None) -> Booster:
    """A model in CatBoost's JSON format; all rounds unless a number is given. Raises ArtifactError for what is not
    whole, or has no equal in ONNX."""
    told = model["model_info"]
    objective = str(told["params"]["loss_function"]["type"])
    task, link = _find_objective("catboost", objective)
    ensemble = read_catboost(model)
    grown = len(ensemble.trees)
    rounds = _choose_rounds(rounds, grown)
    features = sorted(
        model["features_info"]["float_features"], key=lambda one: int(one["flat_feature_index"])
    )
    names = tuple(str(one.get("feature_id") or one["flat_feature_index"]) for one in features)
    if names == tuple(map(str, range(len(features)))):  # as CatBoost names arrays
        names = ()
    return _check(
        Booster(
            library="catboost",
            objective=objective,
            task=task,
            link=link,
            slope=1.0,
            names=names,
            features=len(features),
            ensemble=dataclasses.replace(ensemble, trees=ensemble.trees[:rounds]),
            rounds=rounds,
            grown=grown,
            classes=_name_classes(told.get("class_params", {})) if task != "regression" else (),
        )
    )


def _name_classes(told: Mapping[str, Any]) -> tuple[str | int, ...]:
    """Of CatBoost; numbers with a fraction are texts."""
    names = told.get("class_names", ())
    if all(isinstance(name, int | float) and float(name).is_integer() for name in names):
        return tuple(int(name) for name in names)
    return tuple(str(name) for name in names)


def _find_objective(library: str, objective: str) -> tuple[Task, Link]:
    known = OBJECTIVES[library]
    if objective not in known:
        raise ArtifactError(
            f"The objective of the model is {shorten(objective or 'custom')!r}; converted are {', '.join(known)}. "
            "What an own or a ranking objective predicts is not in its file"
        )
    return known[objective]


def _choose_rounds(rounds: int | None, grown: int) -> int:
    if rounds is not None and not 1 <= rounds <= grown and grown:
        raise ArtifactError(
            f"The model has {grown} rounds, and {rounds} were asked for; give --rounds 1 to {grown}"
        )
    return grown if rounds is None else rounds


def _check(booster: Booster) -> Booster:
    names, ensemble = booster.names, booster.ensemble
    if booster.features < 1 or (names and len(names) != booster.features):
        raise ArtifactError(f"The model has {booster.features} features and {len(names)} names of features")
    if len(set(names)) < len(names) or not all(names):
        raise ArtifactError(
            "Two of the model's features have the same name, or one has none; train with others"
        )
    if len(ensemble.base) != ensemble.outputs or not all(map(math.isfinite, ensemble.base)):
        raise ArtifactError(
            f"The model has {ensemble.outputs} outputs, and its base scores are {ensemble.base}; expected one number "
            "for each"
        )
    if booster.task == "multiclass" and ensemble.outputs < 2:
        raise ArtifactError(
            f"The model of {booster.objective} has {ensemble.outputs} classes; expected two or more"
        )
    if booster.task != "multiclass" and ensemble.outputs != 1:
        raise ArtifactError(f"The model of {booster.objective} has {ensemble.outputs} outputs; expected one")
    check_trees(ensemble, booster.features)
    return booster


def match_columns(booster: Booster, columns: Sequence[str]) -> tuple[str, ...]:
    """The column of a sample for each feature; those of a model without names in their order. Raises DataError."""
    named = [
        name for name in booster.names if not re.fullmatch(r"Column_\d+", name)
    ]  # as LightGBM names arrays
    if not named:
        numbered = booster.names or tuple(f"f{place}" for place in range(booster.features))
        if set(numbered) <= set(columns):
            return numbered
        if len(columns) == booster.features:
            return tuple(columns)
        raise DataError(
            f"The model has no names of its {booster.features} features, and the sample has {len(columns)} columns; "
            f"give a sample of the {booster.features} columns that it was trained on, in their order"
        )
    blank = {re.sub(r"\s", "_", column): column for column in columns}  # LightGBM writes blanks of names so
    found = []
    for name in booster.names:
        column = name if name in columns else blank.get(name) if booster.library == "lightgbm" else None
        if column is None:
            raise DataError(
                unknown_name("column", name, columns) + "; the model reads it, and the sample lacks it"
            )
        found.append(column)
    return tuple(found)


def make_rows(booster: Booster, rows: int = 2000, seed: int = 0) -> npt.NDArray[np.float32]:
    """(rows, features) at, just above and beyond the thresholds of each feature, with zeros and missing values."""
    random = np.random.default_rng(seed)
    found = np.zeros((rows, booster.features), dtype=np.float32)
    trees = booster.ensemble.trees
    feature = np.concatenate([tree.feature for tree in trees]) if trees else np.zeros(0, dtype=np.int64)
    threshold = np.concatenate([tree.threshold for tree in trees]) if trees else np.zeros(0, dtype=np.float32)
    order = np.argsort(feature, kind="stable")
    starts = np.searchsorted(feature[order], np.arange(booster.features + 1))
    for place in range(booster.features):
        own = np.unique(threshold[order[starts[place] : starts[place + 1]]])
        own = own[np.isfinite(own) & (np.abs(own) < 1e37)]
        if not len(own):
            own = np.zeros(1, dtype=np.float32)
        reach = max(float(own[-1]) - float(own[0]), abs(float(own[0])), 1e-3)
        choices = [
            own, np.nextafter(own, np.float32(np.inf)), (own[:-1] / 2 + own[1:] / 2),
            np.array([own[0] - reach / 4, own[-1] + reach / 4, 0], dtype=np.float32),
        ]  # fmt: skip
        found[:, place] = random.choice(np.concatenate(choices), rows)
    found[random.random(found.shape) < 0.1] = np.nan
    return found
