"""Extremely randomised trees (Geurts et al. 2006) by scikit-learn, on one float32 matrix of numbers, ids and target
means; missing values have a branch of their own."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

from raymlops.errors import RaymlopsError
from raymlops.features import TREE_TENSORS, FittedTarget, Packing
from raymlops.onnx_builder import GraphBuilder
from raymlops.specs.experiment import ExperimentSpec
from raymlops.specs.training import Dimension
from raymlops.tensors import Batch
from raymlops.training.learners import Job, Run, State
from raymlops.training.learners.objectives import Objective, check_training, objective_of
from raymlops.training.learners.options import Option, check_options
from raymlops.training.learners.scoring import Progress
from raymlops.training.learners.tree_matrix import TreeMatrix
from raymlops.training.learners.tree_rows import read_rows
from raymlops.training.native_trees import to_native
from raymlops.training.row_latency import of_trees
from raymlops.training.tree_ensemble_export import add_trees
from raymlops.training.tree_ensembles import Tree, TreeEnsemble
from raymlops.training.tree_readers import read_sklearn

OPTIONS: Mapping[str, Option] = {
    "trees": Option("trees", 1, 10_000, whole=True),
    "min_samples_leaf": Option("rows of a leaf, at least", 1, 10**6, whole=True),
    "max_features": Option("share of the columns of which a split is chosen", 0.01, 1),
    "max_depth": Option("depth of a tree; 0 for any", 0, 64, whole=True),
    "target_means": Option("categories as target means too, not only as ids"),
}

_LEAST = 1e-6
"""Of a probability: a class that no leaf of a row has would have the logit of minus infinity."""
_LEAF_BYTES = 40
"""Of a file, for each leaf that the rows could fill: 34 to 75 as measured."""
_LEAST_SHARE = 0.6
"""Of the leaves that the rows could fill, that trees have at least."""
_NODES = ("left_child", "right_child", "feature", "threshold", "missing_go_to_left")


def _options_for(rows: int, task: str) -> dict[str, Any]:
    return {
        "trees": 200,
        # The file has a node for each split: small leaves of large tables make files of hundreds of MB.
        "min_samples_leaf": 5 if rows < 2_000 else max(20, rows // 2_000),
        "max_features": 1.0 if task == "regression" else 0.5,
        "max_depth": 0,
        "target_means": True,
    }


@dataclasses.dataclass(frozen=True)
class ForestScorer:
    """Trees as arrays, one after another: `nodes` by field, `values` (nodes, outputs), and the nodes of each tree."""

    nodes: Mapping[str, npt.NDArray[Any]]
    values: npt.NDArray[np.float64]
    sizes: npt.NDArray[np.int64]
    matrix: TreeMatrix
    objective: Objective

    def scores(self, batch: Batch) -> npt.NDArray[np.floating[Any]]:
        rows = np.require(self.matrix.of(batch), requirements=["C", "W"])  # scikit-learn wants to write
        found = np.zeros((len(rows), self.values.shape[1]))
        if not len(rows):
            return self.objective.to_scores(self._to_margins(found))
        trees = self.trees()
        for tree in trees:
            found += tree.predict(rows).reshape(len(rows), -1)
        return self.objective.to_scores(self._to_margins(found / len(trees)))

    def trees(self) -> list[Any]:
        """As scikit-learn's own. Raises StorageError for arrays that are no trees."""
        found, start = [], 0
        for size in self.sizes.tolist():
            part = slice(start, start + size)
            found.append(self._restore({name: values[part] for name, values in self.nodes.items()}, part))
            start += size
        return found

    def _restore(self, held: Mapping[str, npt.NDArray[Any]], part: slice) -> Any:
        inner = held["left_child"] >= 0
        tree = Tree(
            np.where(inner, held["feature"], -1),
            held["threshold"],
            held["left_child"],
            held["right_child"],
            held["missing_go_to_left"].astype(bool),
            self.values[part],
            tuple(range(self.values.shape[1])),
        )
        return to_native(tree, self.matrix.columns)

    def _to_margins(self, means: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if self.objective.target.task == "regression":
            return means
        logs = np.log(np.clip(means, _LEAST, 1 - _LEAST))
        return logs if logs.shape[1] > 2 else logs[:, 1:] - logs[:, :1]


def _check_size(run: Run, options: Mapping[str, Any]) -> None:
    """Raises RaymlopsError before trees are grown whose file would be over the limit of the gate."""
    limit = run.spec.gate.size_mb
    leaves = options["trees"] * max(1, run.job.train.count / options["min_samples_leaf"])
    if options["max_depth"]:
        leaves = min(leaves, options["trees"] * 2 ** options["max_depth"])
    size = leaves * _LEAF_BYTES / 1e6
    if limit is not None and size > limit:
        raise RaymlopsError(
            f"not grown: {options['trees']} trees with leaves of {options['min_samples_leaf']} rows make a file "
            f"of about {size:.3g} MB, and gate.size_mb is {limit:g}"
        )


class ForestLearner:
    """One process; threads are `training.cpus_per_worker`. Reports once."""

    reads: ClassVar[frozenset[str]] = TREE_TENSORS
    teams: ClassVar[bool] = False
    streams: ClassVar[bool] = False
    space: ClassVar[Mapping[str, Dimension]] = {
        "training.options.min_samples_leaf": Dimension(low=2, high=64, log=True, integer=True),
        "training.options.max_features": Dimension(low=0.2, high=1.0),
    }

    def options_for(self, rows: int, task: str) -> dict[str, Any]:
        """The options that a spec leaves open, for so many training rows."""
        return _options_for(rows, task)

    def portfolio(self, rows: int, task: str) -> tuple[dict[str, Any], ...]:
        """Good options to try after the defaults, for so many training rows."""
        return ({"min_samples_leaf": 2}, {"max_features": 0.3}) if rows < 20_000 else ({"max_features": 0.8},)

    def check(self, spec: ExperimentSpec, packing: Packing | None, target: FittedTarget | None) -> None:
        check_training(spec, packing, target, losses=("mse",), gpu="scikit-learn trains forests on CPUs")
        check_options(spec, OPTIONS)

    def row_us(self, spec: ExperimentSpec, packing: Packing, target: FittedTarget, rows: int) -> float:
        """See `learners.row_us_of`."""
        options = {**_options_for(rows, target.task), **spec.training.options}
        leaves = _LEAST_SHARE * rows / options["min_samples_leaf"]
        if options["max_depth"]:
            leaves = min(leaves, 2.0 ** options["max_depth"])
        return of_trees(int(options["trees"]), leaves)

    def fit(self, run: Run) -> None:
        job, progress, given = run.job, Progress(run), read_rows(run, _options_for)
        options, objective, seed = given.options, given.objective, given.seed
        _check_size(run, options)
        make = ExtraTreesRegressor if job.target.task == "regression" else ExtraTreesClassifier
        forest = make(
            n_estimators=int(options["trees"]),
            min_samples_leaf=int(options["min_samples_leaf"]),
            max_features=float(options["max_features"]),
            max_depth=int(options["max_depth"]) or None,
            n_jobs=run.threads,
            random_state=seed,
        )
        forest.fit(np.require(given.read(), requirements=["W"]), given.labels, sample_weight=given.weights)
        state = {**_to_arrays(forest, objective), **given.matrix.to_state()}
        progress.report(self.load(state, dataclasses.replace(job, spec=run.spec)), lambda: state)

    def load(self, state: State, job: Job) -> ForestScorer:
        return ForestScorer(
            {name: np.asarray(state[name]) for name in _NODES},
            np.asarray(state["values"], dtype=np.float64),
            np.asarray(state["sizes"]),
            TreeMatrix.from_state(state, job.packing),
            objective_of(job.spec, job.target),
        )

    def to_onnx(self, scorer: ForestScorer, packing: Packing, target: FittedTarget) -> onnx.ModelProto:
        build = GraphBuilder()
        trees, width = scorer.trees(), scorer.values.shape[1]
        binary = target.task == "binary"
        chosen = slice(1, 2) if binary else slice(None)  # the probability of the second class says both
        held = tuple(read_sklearn(tree, 1 / len(trees), chosen) for tree in trees)
        outputs = 1 if binary else width
        means = add_trees(
            build, TreeEnsemble(held, outputs, (0.0,) * outputs), scorer.matrix.add_nodes(build)
        )
        margins = means if target.task == "regression" else _add_logits(build, means, binary)
        return scorer.objective.write(build, margins, packing.only(self.reads), "forest")


def _add_logits(build: GraphBuilder, means: str, binary: bool) -> str:
    low, high = (build.constant(np.float32(bound), "bound") for bound in (_LEAST, 1 - _LEAST))
    held = build.add("Clip", means, low, high)
    if not binary:
        return build.add("Log", held)
    other = build.add("Sub", build.constant(np.float32(1), "one"), held)
    return build.add("Sub", build.add("Log", held), build.add("Log", other))


def _to_arrays(forest: Any, objective: Objective) -> State:
    """The trees of a fitted forest; thresholds as the float64 that scikit-learn compares with."""
    trees = [estimator.tree_ for estimator in forest.estimators_]
    nodes = [tree.__getstate__()["nodes"] for tree in trees]
    values = np.concatenate([tree.value[:, 0, :] for tree in trees])
    if objective.target.task != "regression":  # a class without training rows has no column
        whole = np.zeros((len(values), max(2, objective.target.outputs)))
        whole[:, forest.classes_] = values
        values = whole
    return {
        "sizes": np.array([len(part) for part in nodes], dtype=np.int64),
        "values": values.astype(np.float32),
        **{name: np.concatenate([part[name] for part in nodes]) for name in _NODES},
    }
