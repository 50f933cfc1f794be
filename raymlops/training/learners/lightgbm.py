"""Gradient boosting by LightGBM, on one float32 matrix of numbers, ids and target means.

For the same rows, options, seed and threads the model is the same. A training that resumes goes
on from its trees; where it samples rows or columns, whose random numbers LightGBM cannot set forward, it repeats its
rounds, so that the model is the same there too. The workers of a team, which may be more or fewer after that, always go
on. Each bins its share of the rows, and they add up their histograms (tree_learner: data).
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import lightgbm
import numpy as np
import numpy.typing as npt
import onnx
from ray.train.lightgbm import LightGBMTrainer, get_network_params

from raymlops.errors import SpecError
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
from raymlops.training.learners.tree_rows import MatrixPart, TreeRows, count_binned_bytes, read_rows
from raymlops.training.row_latency import limit_rounds
from raymlops.training.tree_ensemble_export import add_trees
from raymlops.training.tree_readers import read_lightgbm

OPTIONS: Mapping[str, Option] = {
    "rounds": Option("trees of each output, at most", 1, 100_000, whole=True),
    "learning_rate": Option("shrinkage of each tree", 1e-4, 1),
    "num_leaves": Option("leaves of a tree", 2, 4096, whole=True),
    "max_depth": Option("depth of a tree; -1 for any", -1, 64, whole=True),
    "min_data_in_leaf": Option("rows of a leaf, at least", 1, 10**6, whole=True),
    "min_gain_to_split": Option("gain of a split, at least", 0, 1e6),
    "lambda_l1": Option("L1 penalty of leaves", 0, 1e6),
    "lambda_l2": Option("L2 penalty of leaves", 0, 1e6),
    "feature_fraction": Option("share of the columns that a tree reads", 0.01, 1),
    "bagging_fraction": Option("share of the rows that a tree reads", 0.01, 1),
    "path_smooth": Option("smoothing of leaves by their parents", 0, 1e6),
    "extra_trees": Option("random thresholds"),
    "max_bin": Option("bins of a column", 15, 65535, whole=True),
    "target_means": Option("categories as target means too, not only as ids"),
}

_LOSSES = {"mse": "regression", "mae": "regression_l1", "quantile": "quantile", "poisson": "poisson"}


def _options_for(rows: int, task: str) -> dict[str, Any]:
    few, some = rows < 2_000, rows < 50_000
    return {
        "rounds": 1000,
        "learning_rate": 0.03 if few else 0.05 if some else 0.1,
        "num_leaves": 8 if few else 31 if some else 63,
        "min_data_in_leaf": 5 if some else 20,
        "lambda_l2": 1.0,
        "feature_fraction": 1.0,
        "bagging_fraction": 1.0,
        "target_means": True,
    }


@dataclasses.dataclass(frozen=True)
class LightGBMScorer:
    """The first rounds of a model in LightGBM's own text format."""

    model: str
    rounds: int
    matrix: TreeMatrix
    objective: Objective

    def scores(self, batch: Batch) -> npt.NDArray[np.floating[Any]]:
        return self.objective.to_scores(
            _margins(_open(self.model), self.matrix.of(batch), 0, self.rounds, threads=1)
        )


_AT_ONCE = 32_768
"""Rows that are scored."""


@functools.lru_cache(maxsize=2)
def _open(model: str) -> lightgbm.Booster:
    return lightgbm.Booster(model_str=model)


def _margins(
    booster: lightgbm.Booster, rows: Any, first: int, rounds: int, threads: int
) -> npt.NDArray[np.float64]:
    """(rows, outputs) of `rounds` rounds from the first on."""
    if len(rows) == 0:  # which LightGBM refuses
        return np.zeros((0, booster.num_model_per_iteration()))
    # Without a number, predicting sets that of all later calls of the process, trainings too, to all cores. It copies
    # the rows that it is given.
    found = [
        np.asarray(
            booster.predict(
                rows[start : start + _AT_ONCE],
                start_iteration=first,
                num_iteration=rounds,
                raw_score=True,
                num_threads=threads,
            )
        )
        for start in range(0, len(rows), _AT_ONCE)
    ]
    return np.concatenate(found).reshape(len(rows), -1)


class _PartRows(lightgbm.Sequence):  # type: ignore[misc]
    """The rows of one part. LightGBM asks for single rows, of which it takes its bins, and then for all in order."""

    def __init__(self, part: MatrixPart, held: list[Any]) -> None:
        """`held` is the matrix that was read last, and its part; all parts share it."""
        self._part, self._held = part, held
        self.batch_size = part.count

    def __len__(self) -> int:
        return self._part.count

    def __getitem__(self, rows: Any) -> npt.NDArray[Any]:
        if not self._held or self._held[0] is not self._part:
            self._held.clear()  # before the next one is there too
            self._held[:] = self._part, self._part.read()
        found: npt.NDArray[Any] = self._held[1][rows]
        return found if isinstance(rows, slice) else found.astype(np.float64)


_SAMPLED_ROWS = 50_000
"""Rows of which LightGBM takes the bins of a column, where it reads parts: it asks for each by itself, as float64, and
its 200,000 would take more memory than all bins of a million rows."""


class _Binned(lightgbm.Dataset):  # type: ignore[misc]
    """Training rows that are binned part by part, without a matrix of all of them."""

    def __init__(self, given: TreeRows, parameters: dict[str, Any]) -> None:
        held: list[Any] = []
        alone = len(given.parts) == 1
        super().__init__(
            given.parts[0].read() if alone else [_PartRows(part, held) for part in given.parts],
            given.labels,
            weight=given.weights,
            params=parameters if alone else {**parameters, "bin_construct_sample_cnt": _SAMPLED_ROWS},
        )
        self._parts = given.parts

    def _set_init_score_by_predictor(self, predictor: Any, data: Any, used_indices: Any) -> "_Binned":
        """What trees of before add up to, which LightGBM does only for rows that are one matrix. It calls this itself;
        if it ceases to, it raises an error about the type of the rows."""
        scores = [
            predictor.predict(part.read(), raw_score=True).reshape(part.count, -1) for part in self._parts
        ]
        self.set_init_score(np.concatenate(scores).ravel(order="F"))  # one output after another
        return self


class _Trees:
    """A training under way: see `boosting.Trees`."""

    def __init__(
        self, parameters: dict[str, Any], data: lightgbm.Dataset, validation: Any, start: bytes | None
    ) -> None:
        self._validation, self._measured, self._threads = validation, 0, parameters["num_threads"]
        self._margins: Any = np.zeros((len(validation), 1))
        self._finished = False
        if start is None:
            self._booster = lightgbm.Booster(parameters, data)
            return
        # At least one round is left, and LightGBM goes on after the trees of before only by training one.
        self._booster = lightgbm.train(
            parameters,
            data,
            num_boost_round=1,
            init_model=lightgbm.Booster(model_str=start.decode()),
            keep_training_booster=True,
        )

    def grow(self, rounds: int) -> int:
        while not self._finished and self._booster.current_iteration() < rounds:
            self._finished = self._booster.update()
        return int(self._booster.current_iteration())

    def margins(self) -> npt.NDArray[np.floating[Any]]:
        done = self._booster.current_iteration()
        if done > self._measured:
            more = _margins(
                self._booster, self._validation, self._measured, done - self._measured, self._threads
            )
            self._margins = self._margins + more
            self._measured = done
        return np.asarray(self._margins)

    def dump(self) -> bytes:
        return str(self._booster.model_to_string(num_iteration=-1)).encode()


@functools.cache
def explain_missing_cuda() -> str:
    """Why no training can use a GPU; empty if LightGBM was built with CUDA."""
    few = lightgbm.Dataset(np.zeros((2, 1), dtype=np.float32), np.zeros(2))
    try:
        lightgbm.Booster({"device_type": "cuda", "verbosity": -1}, few)
    except lightgbm.basic.LightGBMError as error:
        if "not enabled" in str(error):  # and not that this machine has no GPU
            return "the installed LightGBM has no CUDA; install one that was built with it"
    return ""


class LightGBMLearner:
    """One process or a team; threads are `training.cpus_per_worker`."""

    reads: ClassVar[frozenset[str]] = TREE_TENSORS
    teams: ClassVar[bool] = True
    streams: ClassVar[bool] = True
    monotonic: ClassVar[bool] = True
    space: ClassVar[Mapping[str, Dimension]] = {
        "training.options.learning_rate": Dimension(low=0.01, high=0.3, log=True),
        "training.options.num_leaves": Dimension(low=4, high=128, log=True, integer=True),
        "training.options.min_data_in_leaf": Dimension(low=2, high=100, log=True, integer=True),
        "training.options.lambda_l2": Dimension(low=0.01, high=30, log=True),
        "training.options.feature_fraction": Dimension(low=0.4, high=1.0),
        "training.options.bagging_fraction": Dimension(low=0.5, high=1.0),
    }

    def options_for(self, rows: int, task: str) -> dict[str, Any]:
        """The options that a spec leaves open, for so many training rows."""
        return _options_for(rows, task)

    def portfolio(self, rows: int, task: str) -> tuple[dict[str, Any], ...]:
        """Good options to try after the defaults, for so many training rows."""
        if rows < 2_000:
            return (
                {"num_leaves": 16, "min_data_in_leaf": 10, "feature_fraction": 0.6, "bagging_fraction": 0.7},
                {"num_leaves": 4, "learning_rate": 0.05, "lambda_l2": 10.0},
                {"num_leaves": 16, "extra_trees": True},
            )
        slower = _options_for(rows, task)["learning_rate"] / 2
        return (
            {"learning_rate": slower, "rounds": 4000},
            {"num_leaves": 96, "min_data_in_leaf": 20, "feature_fraction": 0.7, "bagging_fraction": 0.8},
            {"num_leaves": 64, "extra_trees": True},
            {"num_leaves": 12, "learning_rate": 0.1},
        )

    def check(self, spec: ExperimentSpec, packing: Packing | None, target: FittedTarget | None) -> None:
        gpu = explain_missing_cuda() if spec.training.use_gpu else ""
        check_training(spec, packing, target, losses=tuple(_LOSSES), gpu=gpu)
        check_options(spec, OPTIONS)
        if spec.training.use_gpu and spec.training.workers > 1:
            raise SpecError(
                "training.use_gpu: several workers of LightGBM train on CPUs; set it to false, or training.workers to 1"
            )

    def count_bytes(self, packing: Packing, rows: int, outputs: int) -> int:
        """What all workers together hold of so many training rows."""
        return count_binned_bytes(packing, rows, outputs)

    @staticmethod
    def trainer() -> type[LightGBMTrainer]:
        """Starts its teams."""
        return LightGBMTrainer  # type: ignore[no-any-return]

    def fit(self, run: Run) -> None:
        given = read_rows(run, _options_for)
        options, matrix, objective = given.options, given.matrix, given.objective
        leaves = min(int(options["num_leaves"]), 2.0 ** (int(options.get("max_depth", -1)) % 65))  # -1 is any
        rounds = limit_rounds(run, int(options["rounds"]), leaves)
        parameters = _to_parameters(options, objective, run, given.seed)
        if run.spec.training.monotonic:
            parameters["monotone_constraints"] = matrix.find_directions(run.spec.training).tolist()
        goes_on = run.state is not None and (run.team is not None or not _samples(options))
        start = np.asarray(run.state["model"]).tobytes() if run.state is not None and goes_on else None
        validation = matrix.of(run.own(run.job.validation).load())
        trees = _Trees(parameters, _Binned(given, parameters), validation, start)
        del given  # LightGBM has its own, binned
        boost(run, trees, objective, rounds, matrix.to_state)

    def load(self, state: State, job: Job) -> LightGBMScorer:
        return LightGBMScorer(
            np.asarray(state["model"]).tobytes().decode(),
            int(state["best_rounds"]),
            TreeMatrix.from_state(state, job.packing),
            objective_of(job.spec, job.target),
        )

    def to_onnx(self, scorer: LightGBMScorer, packing: Packing, target: FittedTarget) -> onnx.ModelProto:
        build = GraphBuilder()
        margins = add_trees(build, read_lightgbm(scorer.model, scorer.rounds), scorer.matrix.add_nodes(build))
        return scorer.objective.write(build, margins, packing.only(self.reads), "lightgbm")


def _samples(options: Mapping[str, Any]) -> bool:
    fractions = (options["feature_fraction"], options["bagging_fraction"])
    return min(fractions) < 1 or bool(options.get("extra_trees"))


def _to_parameters(options: dict[str, Any], objective: Objective, run: Run, seed: int) -> dict[str, Any]:
    """In LightGBM's terms."""
    task = objective.target.task
    names = {"binary": "binary", "multiclass": "multiclass"}
    parameters = {name: value for name, value in options.items() if name != "rounds"}
    parameters |= {
        "objective": names.get(task) or _LOSSES[objective.loss],
        "bagging_freq": int(options["bagging_fraction"] < 1),
        "seed": seed,
        "deterministic": True,
        "force_col_wise": True,
        "num_threads": run.threads,
        "feature_pre_filter": False,
        "metric": "none",
        "verbosity": -1,
    }
    if task == "multiclass":
        parameters["num_class"] = objective.target.outputs
    if objective.loss == "quantile":
        parameters["alpha"] = objective.quantile
    if run.workers.world > 1:
        parameters |= {"tree_learner": "data", "pre_partition": True, **get_network_params()}
    if run.team is not None and run.state is not None:  # else it would sample again what the first rounds did
        seeds = ("bagging_seed", "feature_fraction_seed", "extra_seed")
        parameters |= dict.fromkeys(seeds, seed + int(run.state["rounds"]))
    if run.spec.training.use_gpu:
        parameters["device_type"] = "cuda"
        del parameters["force_col_wise"]
    return parameters
