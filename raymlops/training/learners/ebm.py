"""Explainable boosting machines (Nori et al. 2019) by interpret: a sum of functions of one column or of two, each of
which can be drawn.

The functions are kept as tables over intervals, in which a category is the intervals of its ids. In ONNX every function
is a tree of its own, so that one node gives what each adds for a row: its local explanation.
"""

import dataclasses
import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx
from interpret.glassbox import ExplainableBoostingClassifier, ExplainableBoostingRegressor
from onnx import helper

from raymlops.artifact import CONTRIBUTIONS, EXPLANATION_KEY
from raymlops.errors import SpecError
from raymlops.features import TREE_TENSORS, FittedTarget, Packing
from raymlops.onnx_builder import GraphBuilder, to_value_info
from raymlops.specs.experiment import ExperimentSpec
from raymlops.specs.training import Dimension
from raymlops.tensors import Batch, TensorSpec
from raymlops.training.learners import Job, Run, State
from raymlops.training.learners.objectives import Objective, check_training, objective_of
from raymlops.training.learners.options import Option, check_options
from raymlops.training.learners.scoring import Progress
from raymlops.training.learners.tree_matrix import TreeMatrix
from raymlops.training.term_trees import Term, to_tree
from raymlops.training.tree_ensemble_export import add_trees
from raymlops.training.tree_ensembles import TreeEnsemble, below

OPTIONS: Mapping[str, Option] = {
    "rounds": Option("rounds over all columns, at most", 1, 100_000, whole=True),
    "learning_rate": Option("shrinkage of each step", 1e-4, 1),
    "interactions": Option("pairs of columns; classes above two have none", 0, 100, whole=True),
    "outer_bags": Option("models on samples of the rows, of which the mean is taken", 1, 50, whole=True),
    "max_bins": Option("intervals of a number", 3, 1024, whole=True),
    "max_interaction_bins": Option("intervals of a number in a pair", 3, 256, whole=True),
    "min_samples_leaf": Option("rows of a leaf, at least", 1, 10**6, whole=True),
    "smoothing_rounds": Option("first rounds, with random cuts", 0, 10_000, whole=True),
    "explanations": Option("what each term adds for a row as an output of the file"),
}

_LOSSES = {"mse": "rmse", "poisson": "poisson_deviance"}


def _options_for(rows: int, task: str) -> dict[str, Any]:
    return {
        "rounds": 2000,
        "learning_rate": 0.03,
        "interactions": 0 if task == "multiclass" else 5 if rows < 2_000 else 10,
        "outer_bags": 4 if rows < 5_000 else 2,
        "max_bins": 256,
        "max_interaction_bins": 32,
        "min_samples_leaf": 4,
        "smoothing_rounds": 75,
    }


@dataclasses.dataclass(frozen=True)
class EBMScorer:
    """A sum of terms, (outputs,) each for a row, and the intercept (outputs,)."""

    terms: tuple[Term, ...]
    intercept: npt.NDArray[np.float64]
    matrix: TreeMatrix
    objective: Objective
    explains: bool = False
    """Whether what each term adds is an output of the file."""

    def scores(self, batch: Batch) -> npt.NDArray[np.floating[Any]]:
        rows = self.matrix.of(batch)
        margins = np.tile(self.intercept, (len(rows), 1))
        for term in self.terms:
            margins += term.of(rows)
        return self.objective.to_scores(margins)

    def explain(self, batch: Batch) -> npt.NDArray[np.float64]:
        """What each term adds: (rows, terms, outputs)."""
        rows = self.matrix.of(batch)
        return np.stack([term.of(rows) for term in self.terms], axis=1)


class EBMLearner:
    """One process and one thread, on the CPU. Reports once; which rows end a training early is interpret's choice among
    the training rows."""

    reads: ClassVar[frozenset[str]] = TREE_TENSORS
    teams: ClassVar[bool] = False
    streams: ClassVar[bool] = False
    monotonic: ClassVar[bool] = True
    space: ClassVar[Mapping[str, Dimension]] = {
        "training.options.learning_rate": Dimension(low=0.01, high=0.1, log=True),
        "training.options.interactions": Dimension(low=0, high=20, integer=True),
        "training.options.min_samples_leaf": Dimension(low=2, high=50, log=True, integer=True),
        "training.options.smoothing_rounds": Dimension(low=0, high=500, integer=True),
    }

    def options_for(self, rows: int, task: str) -> dict[str, Any]:
        """The options that a spec leaves open, for so many training rows."""
        return _options_for(rows, task)

    def portfolio(self, rows: int, task: str) -> tuple[dict[str, Any], ...]:
        """Good options to try after the defaults, for so many training rows."""
        smooth = {"smoothing_rounds": 500, "learning_rate": 0.02}
        return (smooth,) if task == "multiclass" else ({"interactions": 20}, {**smooth, "interactions": 0})

    def check(self, spec: ExperimentSpec, packing: Packing | None, target: FittedTarget | None) -> None:
        check_training(spec, packing, target, losses=tuple(_LOSSES), gpu="interpret trains on CPUs")
        check_options(spec, OPTIONS)
        if spec.training.options.get("explanations") and CONTRIBUTIONS in spec.features.by_column():
            raise SpecError(
                f"training.options.explanations: a feature is named {CONTRIBUTIONS!r}, as that output is; rename it"
            )
        if target is not None and target.task == "multiclass" and spec.training.options.get("interactions"):
            raise SpecError(
                "training.options.interactions: an EBM of more than two classes has no pairs; set it to 0"
            )

    def fit(self, run: Run) -> None:
        job, training = run.job, run.spec.training
        objective = objective_of(run.spec, job.target)
        rows, progress = job.train.load(), Progress(run)
        options = {**_options_for(len(rows["label"]), job.target.task), **training.options}
        matrix = TreeMatrix(job.packing, {})
        numbers, categories = job.packing.plain, len(job.packing.categories)
        classes = job.target.task != "regression"
        make = ExplainableBoostingClassifier if classes else ExplainableBoostingRegressor
        if job.target.task == "multiclass":  # a search over tables of both varies it
            options["interactions"] = 0
        rounds, seed = int(options.pop("rounds")), training.seed % 2**31
        options.pop("explanations", None)
        model = make(
            **options,
            objective="log_loss" if classes else _LOSSES[objective.loss],
            feature_types=["continuous"] * numbers + ["nominal"] * categories,
            max_rounds=rounds,
            n_jobs=1,  # its processes would be beside those that Ray counts
            random_state=seed,
        )
        directions = matrix.find_directions(training)
        if directions.any():
            model.set_params(monotone_constraints=directions.tolist())
        with warnings.catch_warnings():  # of missing values, which its drawings do not show
            warnings.simplefilter("ignore", UserWarning)
            model.fit(matrix.of(rows), objective.label(rows), sample_weight=objective.weigh(rows))
        state = _to_state(model, job.packing, job.target)
        _straighten(state, directions)
        progress.report(self.load(state, dataclasses.replace(job, spec=run.spec)), lambda: state)

    def load(self, state: State, job: Job) -> EBMScorer:
        pairs = np.asarray(state["columns"]).tolist()
        terms = [
            Term(
                tuple(column for column in columns if column >= 0),
                tuple(
                    np.asarray(state[f"edges_{number}_{axis}"])
                    for axis, column in enumerate(columns)
                    if column >= 0
                ),
                np.asarray(state[f"scores_{number}"]),
            )
            for number, columns in enumerate(pairs)
        ]
        return EBMScorer(
            tuple(terms),
            np.asarray(state["intercept"]),
            TreeMatrix(job.packing, {}),
            objective_of(job.spec, job.target),
            bool(job.spec.training.options.get("explanations")),
        )

    def to_onnx(self, scorer: EBMScorer, packing: Packing, target: FittedTarget) -> onnx.ModelProto:
        build = GraphBuilder()
        outputs, count = target.outputs, len(scorer.terms)
        trees = tuple(
            to_tree(term, tuple(range(number * outputs, (number + 1) * outputs)))
            for number, term in enumerate(scorer.terms)
        )
        ensemble = TreeEnsemble(trees, count * outputs, (0.0,) * (count * outputs))
        added = add_trees(build, ensemble, scorer.matrix.add_nodes(build), name="term_sums")
        by_term = added
        if outputs > 1:  # 0 keeps the rows, so that they are proven to stay apart
            shape = build.constant(np.array([0, count, outputs], dtype=np.int64), "shape")
            by_term = build.add("Reshape", added, shape)
        axis = build.constant(np.array([1], dtype=np.int64), "axis")
        total = build.add("ReduceSum", by_term, axis, keepdims=int(outputs == 1))
        intercept = build.constant(scorer.intercept.astype(np.float32)[None, :], "intercept")
        margins = build.add("Add", total, intercept)
        if not scorer.explains:
            return scorer.objective.write(build, margins, packing.only(self.reads), "ebm")
        scale, offset, unit = _unit_of(scorer.objective)
        build.add("Mul", by_term, build.constant(np.float32(scale), "scale"), name=CONTRIBUTIONS)
        model = scorer.objective.write(build, margins, packing.only(self.reads), "ebm")
        sizes = (-1, count, outputs) if outputs > 1 else (-1, count)
        model.graph.output.append(to_value_info(TensorSpec(CONTRIBUTIONS, "FP32", sizes)))
        told = {
            "columns": [list(term.columns) for term in scorer.terms],
            "intercept": [float(value) * scale + offset for value in scorer.intercept],
            "of": unit,
        }
        helper.set_model_props(model, {EXPLANATION_KEY: json.dumps(told)})
        return model


def _unit_of(objective: Objective) -> tuple[float, float, str]:
    """The factor of contributions, what the intercept has beside them, and what all add up to."""
    target = objective.target
    if target.task != "regression":
        return 1.0, 0.0, "log odds" if target.task == "binary" else "logits"
    if objective.loss == "poisson":
        return 1.0, 0.0, "logarithm of the prediction over the mean of training"
    whole = "prediction" if target.transform == "none" else f"{target.transform} of the prediction"
    return float(target.std), float(target.mean), whole


def _to_state(model: Any, packing: Packing, target: FittedTarget) -> State:
    """The terms of a fitted EBM as tables."""
    state: State = {}
    columns = []
    outputs = target.outputs
    for number, (features, scores) in enumerate(zip(model.term_features_, model.term_scores_, strict=True)):
        axes = [
            _to_axis(model.bins_[feature], len(features), feature - packing.plain, packing)
            for feature in features
        ]
        scores = np.asarray(scores)
        for axis, (_, order) in enumerate(axes):
            scores = np.take(scores, order, axis=axis)
        state[f"scores_{number}"] = scores.reshape(*scores.shape[: len(axes)], -1)
        for axis, (edges, _) in enumerate(axes):
            state[f"edges_{number}_{axis}"] = edges
        columns.append([*features, *[-1] * (2 - len(features))])
    intercept = np.atleast_1d(np.asarray(model.intercept_, dtype=np.float64))
    known = [int(value) for value in getattr(model, "classes_", [])]
    if target.task == "multiclass" and len(known) < outputs:
        intercept = _spread(state, intercept, known, outputs)
    return {**state, "columns": np.array(columns, dtype=np.int64), "intercept": intercept}


def _straighten(state: State, directions: npt.NDArray[np.int64]) -> None:
    """Terms of one column with a direction never turn, whatever smoothing did; it has no pairs."""
    for number, (column, other) in enumerate(np.asarray(state["columns"]).tolist()):
        if other < 0 and directions[column]:
            scores, sign = state[f"scores_{number}"], directions[column]
            scores[1:] = sign * np.maximum.accumulate(
                sign * scores[1:], axis=0
            )  # behind that of missing values


def _to_axis(
    levels: Sequence[Any], terms: int, category: int, packing: Packing
) -> tuple[npt.NDArray[np.float32], Any]:
    """Edges, of which a value at most as large lies to the left, and interpret's bin of missing values and of each
    interval."""
    held = levels[min(terms, len(levels)) - 1]
    if category < 0:
        cuts = np.asarray(held, dtype=np.float64)  # a value that equals one lies to the right
        return below(cuts), np.arange(len(cuts) + 2)
    size = packing.categories[category]
    unknown = max(held.values(), default=0) + 1
    bins = [held.get(str(value), unknown) for value in range(size)]
    return np.arange(size - 1, dtype=np.float32) + np.float32(0.5), np.array([0, *bins])


def _spread(state: State, intercept: Any, known: list[int], outputs: int) -> npt.NDArray[np.float64]:
    """For classes that no training row has: none is ever predicted. interpret has one output for two classes."""
    if len(known) == 2 and len(intercept) == 1:
        intercept = np.array([0.0, intercept[0]])
    for name in [name for name in state if name.startswith("scores_")]:
        scores = state[name]
        if scores.shape[-1] < len(known):
            scores = np.concatenate([np.zeros_like(scores), scores], axis=-1)
        whole = np.zeros((*scores.shape[:-1], outputs))
        whole[..., known] = scores
        state[name] = whole
    level = np.full(outputs, -30.0)
    level[known] = intercept
    return level
