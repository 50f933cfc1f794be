"""Gradient boosting by XGBoost, on one float32 matrix of numbers, ids and target means.

For the same rows, options, seed and threads the model is the same. A training that resumes goes on from its trees;
where it samples rows or columns, whose random numbers XGBoost cannot set forward, it repeats its rounds, so that the
model is the same there too. The workers of a team, which may be more or fewer after that, always go on. Each bins its
share of the rows, and they add up their histograms.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx
import xgboost
from ray.train.xgboost import XGBoostTrainer

from raymlops.features import TREE_TENSORS, FittedTarget, Packing
from raymlops.onnx_builder import GraphBuilder
from raymlops.specs.experiment import ExperimentSpec
from raymlops.specs.training import Dimension
from raymlops.tensors import Batch
from raymlops.training.learners import Job, Run, State
from raymlops.training.learners.boosting import boost
from raymlops.training.learners.objectives import Objective, check_training, objective_of
from raymlops.training.learners.options import Option, check_options
from raymlops.training.learners.tree_matrix import TreeMatrix
from raymlops.training.learners.tree_rows import TreeRows, count_binned_bytes, read_rows
from raymlops.training.row_latency import limit_rounds
from raymlops.training.tree_ensemble_export import add_trees
from raymlops.training.tree_readers import read_xgboost

OPTIONS: Mapping[str, Option] = {
    "rounds": Option("trees of each output, at most", 1, 100_000, whole=True),
    "learning_rate": Option("shrinkage of each tree", 1e-4, 1),
    "max_depth": Option("depth of a tree", 1, 16, whole=True),
    "max_leaves": Option("leaves of a tree; 0 for any", 0, 4096, whole=True),
    "min_child_weight": Option("weight of a leaf's rows, at least", 0, 1e6),
    "gamma": Option("gain of a split, at least", 0, 1e6),
    "reg_alpha": Option("L1 penalty of leaves", 0, 1e6),
    "reg_lambda": Option("L2 penalty of leaves", 0, 1e6),
    "subsample": Option("share of the rows that a tree reads", 0.01, 1),
    "colsample_bytree": Option("share of the columns that a tree reads", 0.01, 1),
    "max_bin": Option("bins of a column", 2, 65535, whole=True),
    "target_means": Option("categories as target means too, not only as ids"),
}

_LOSSES = {
    "mse": "reg:squarederror",
    "mae": "reg:absoluteerror",
    "quantile": "reg:quantileerror",
    "poisson": "count:poisson",
}


def _options_for(rows: int, task: str) -> dict[str, Any]:
    few, some = rows < 2_000, rows < 50_000
    return {
        "rounds": 1000,
        "learning_rate": 0.03 if few else 0.05 if some else 0.1,
        "max_depth": 3 if few else 6 if some else 8,
        "min_child_weight": 1.0,
        "reg_lambda": 1.0,
        "subsample": 0.8,
        "colsample_bytree": 0.8,
        "target_means": True,
    }


@dataclasses.dataclass(frozen=True)
class XGBoostScorer:
    """The first rounds of a model in XGBoost's own format (UBJSON)."""

    model: bytes
    rounds: int
    matrix: TreeMatrix
    objective: Objective

    def scores(self, batch: Batch) -> npt.NDArray[np.floating[Any]]:
        rows = self.matrix.of(batch)
        if len(rows) == 0:
            return self.objective.to_scores(np.zeros((0, self.objective.target.outputs)))
        margins = _open(self.model).inplace_predict(
            rows, iteration_range=(0, self.rounds), predict_type="margin"
        )
        return self.objective.to_scores(np.asarray(margins).reshape(len(rows), -1))


@functools.lru_cache(maxsize=2)
def _open(model: bytes) -> xgboost.Booster:
    booster = xgboost.Booster({"nthread": 1, "device": "cpu"})
    booster.load_model(bytearray(model))
    booster.set_param({"nthread": 1, "device": "cpu"})
    return booster


class _PartRows(xgboost.DataIter):  # type: ignore[misc]
    """Training rows part by part, so that there is no matrix of all of them."""

    def __init__(self, given: TreeRows) -> None:
        super().__init__()
        self._given, self._number, self._at = given, 0, 0

    def next(self, input_data: Callable[..., Any]) -> bool:
        if self._number == len(self._given.parts):
            return False
        part = self._given.parts[self._number]
        rows = slice(self._at, self._at + part.count)
        weights = self._given.weights
        input_data(
            data=part.read(),
            label=self._given.labels[rows],
            weight=None if weights is None else weights[rows],
        )
        self._number, self._at = self._number + 1, rows.stop
        return True

    def reset(self) -> None:
        self._number = self._at = 0


def _bin(given: TreeRows, run: Run) -> xgboost.QuantileDMatrix:
    """The training rows, binned."""
    options = {"nthread": run.threads, "max_bin": int(given.options.get("max_bin", 256))}
    if len(given.parts) > 1:
        return xgboost.QuantileDMatrix(_PartRows(given), **options)
    return xgboost.QuantileDMatrix(given.parts[0].read(), given.labels, weight=given.weights, **options)


class _Trees:
    """A training under way: see `boosting.Trees`."""

    def __init__(self, parameters: dict[str, Any], data: Any, validation: Any, start: bytes | None) -> None:
        """`validation` rows are a matrix, which is read where it lies; on a GPU they are a DMatrix."""
        self._data, self._validation = data, validation
        self._measured, self._margins = 0, None
        known = [data, validation] if isinstance(validation, xgboost.DMatrix) else [data]
        self._booster = xgboost.Booster(parameters, known)
        if start is not None:
            self._booster.load_model(bytearray(start))
            self._booster.set_param(parameters)

    def grow(self, rounds: int) -> int:
        for number in range(self._booster.num_boosted_rounds(), rounds):
            self._booster.update(self._data, number)
        return rounds

    def margins(self) -> npt.NDArray[np.floating[Any]]:
        if isinstance(self._validation, xgboost.DMatrix):  # whose sums XGBoost keeps, and adds new trees only
            found = np.asarray(self._booster.predict(self._validation, output_margin=True))
            return found.reshape(len(found), -1)
        done = self._booster.num_boosted_rounds()
        if done > self._measured or self._margins is None:
            self._margins = self._booster.inplace_predict(
                self._validation,
                iteration_range=(self._measured, done),
                predict_type="margin",
                base_margin=self._margins,
            )
            self._measured = done
        return np.asarray(self._margins).reshape(len(self._validation), -1)

    def dump(self) -> bytes:
        return bytes(self._booster.save_raw("ubj"))


class XGBoostLearner:
    """One process or a team; threads are `training.cpus_per_worker`, or a GPU each where XGBoost is installed with
    CUDA."""

    reads: ClassVar[frozenset[str]] = TREE_TENSORS
    teams: ClassVar[bool] = True
    streams: ClassVar[bool] = True
    monotonic: ClassVar[bool] = True
    space: ClassVar[Mapping[str, Dimension]] = {
        "training.options.learning_rate": Dimension(low=0.01, high=0.3, log=True),
        "training.options.max_depth": Dimension(low=2, high=10, integer=True),
        "training.options.min_child_weight": Dimension(low=0.1, high=30, log=True),
        "training.options.reg_lambda": Dimension(low=0.01, high=30, log=True),
        "training.options.subsample": Dimension(low=0.5, high=1.0),
        "training.options.colsample_bytree": Dimension(low=0.4, high=1.0),
    }

    def options_for(self, rows: int, task: str) -> dict[str, Any]:
        """The options that a spec leaves open, for so many training rows."""
        return _options_for(rows, task)

    def portfolio(self, rows: int, task: str) -> tuple[dict[str, Any], ...]:
        """Good options to try after the defaults, for so many training rows."""
        if rows < 2_000:
            return (
                {"max_depth": 4, "min_child_weight": 5.0, "colsample_bytree": 0.5, "subsample": 0.7},
                {"max_depth": 2, "learning_rate": 0.05},
            )
        slower = _options_for(rows, task)["learning_rate"] / 2
        return (
            {"learning_rate": slower, "rounds": 4000},
            {"max_depth": 9, "min_child_weight": 5.0, "colsample_bytree": 0.6, "reg_lambda": 3.0},
            {"max_depth": 4, "learning_rate": 0.1},
        )

    def check(self, spec: ExperimentSpec, packing: Packing | None, target: FittedTarget | None) -> None:
        gpu = "" if xgboost.build_info().get("USE_CUDA") else (
            "the installed XGBoost has no CUDA; install xgboost in place of xgboost-cpu, never both, "
            "in an environment of its own"
        )  # fmt: skip
        check_training(spec, packing, target, losses=tuple(_LOSSES), gpu=gpu)
        check_options(spec, OPTIONS)

    def count_bytes(self, packing: Packing, rows: int, outputs: int) -> int:
        """What all workers together hold of so many training rows."""
        return count_binned_bytes(packing, rows, outputs)

    @staticmethod
    def trainer() -> type[XGBoostTrainer]:
        """Starts its teams."""
        return XGBoostTrainer  # type: ignore[no-any-return]

    def fit(self, run: Run) -> None:
        given = read_rows(run, _options_for)
        options, matrix, objective, seed = given.options, given.matrix, given.objective, given.seed
        leaves = min(2.0 ** options["max_depth"], options.get("max_leaves") or math.inf)
        rounds, data = limit_rounds(run, int(options.pop("rounds")), leaves), _bin(given, run)
        del given  # XGBoost has its own rows, binned
        others = run.own(run.job.validation).load()
        validation: Any = matrix.of(others)
        if run.spec.training.use_gpu:  # the quantile loss checks the labels of all matrices that it knows
            validation = xgboost.DMatrix(validation, objective.label(others), nthread=run.threads)
        samples = min(options["subsample"], options["colsample_bytree"]) < 1
        goes_on = run.state is not None and (run.team is not None or not samples)
        start = np.asarray(run.state["model"]).tobytes() if run.state is not None and goes_on else None
        if run.team is not None and run.state is not None:
            seed += int(run.state["rounds"])  # else it would sample again what the first rounds did
        parameters = _to_parameters(options, objective, run, seed)
        if run.spec.training.monotonic:
            parameters["monotone_constraints"] = tuple(matrix.find_directions(run.spec.training).tolist())
        trees = _Trees(parameters, data, validation, start)
        boost(run, trees, objective, rounds, matrix.to_state)

    def load(self, state: State, job: Job) -> XGBoostScorer:
        return XGBoostScorer(
            np.asarray(state["model"]).tobytes(),
            int(state["best_rounds"]),
            TreeMatrix.from_state(state, job.packing),
            objective_of(job.spec, job.target),
        )

    def to_onnx(self, scorer: XGBoostScorer, packing: Packing, target: FittedTarget) -> onnx.ModelProto:
        build = GraphBuilder()
        model = json.loads(bytes(_open(scorer.model).save_raw("json")))
        margins = add_trees(build, read_xgboost(model, scorer.rounds), scorer.matrix.add_nodes(build))
        return scorer.objective.write(build, margins, packing.only(self.reads), "xgboost")


def _to_parameters(options: dict[str, Any], objective: Objective, run: Run, seed: int) -> dict[str, Any]:
    """In XGBoost's terms."""
    task = objective.target.task
    names = {"binary": "binary:logistic", "multiclass": "multi:softprob"}
    parameters = {
        **options,
        "objective": names.get(task) or _LOSSES[objective.loss],
        "seed": seed,
        "nthread": run.threads,
        "tree_method": "hist",
        "device": "cuda" if run.spec.training.use_gpu else "cpu",
        "disable_default_eval_metric": True,
        "verbosity": 0,
    }
    if options.get("max_leaves"):
        parameters["grow_policy"] = "lossguide"
    if task == "multiclass":
        parameters["num_class"] = objective.target.outputs
    if objective.loss == "quantile":
        parameters["quantile_alpha"] = objective.quantile
    return parameters
