"""Gradient boosting of oblivious trees by CatBoost, on one float32 matrix of numbers, ids and target means. CatBoost is
an extra: it is imported when it is used.

For the same rows, options, seed and threads the model is the same. A training goes on from its trees after each part,
as one that resumes does, so that both give the same model.
"""

import contextlib
import dataclasses
import functools
import json
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx

from raymlops.errors import RaymlopsError, SpecError, shorten
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
from raymlops.training.learners.tree_rows import count_binned_bytes, read_rows
from raymlops.training.row_latency import limit_rounds
from raymlops.training.tree_ensemble_export import add_trees
from raymlops.training.tree_ensembles import TreeEnsemble
from raymlops.training.tree_readers import read_catboost

OPTIONS: Mapping[str, Option] = {
    "rounds": Option("trees, at most", 1, 100_000, whole=True),
    "learning_rate": Option("shrinkage of each tree", 1e-4, 1),
    "depth": Option("splits on the way to each leaf", 1, 12, whole=True),
    "l2_leaf_reg": Option("L2 penalty of leaves", 0, 1e6),
    "random_strength": Option("noise of the gains of splits", 0, 100),
    "subsample": Option("share of the rows that a tree reads", 0.01, 1),
    "rsm": Option("share of the columns that a split is chosen of", 0.01, 1),
    "border_count": Option("borders of a column", 1, 65535, whole=True),
    "target_means": Option("categories as target means too, not only as ids"),
}

_NEVER = -30.0
"""The margin of a class that no training row has."""
_LOSSES = {"mse": "RMSE", "mae": "MAE", "quantile": "Quantile", "poisson": "Poisson"}


def _options_for(rows: int, task: str) -> dict[str, Any]:
    few, some = rows < 2_000, rows < 50_000
    return {
        "rounds": 1000,
        "learning_rate": 0.03 if few else 0.06 if some else 0.1,
        "depth": 4 if few else 6,
        "l2_leaf_reg": 3.0,
        "random_strength": 1.0,
        "subsample": 0.8,
        "rsm": 1.0,
        "border_count": 254,
        "target_means": True,
    }


def import_catboost() -> Any:
    """Raises SpecError if it is not installed."""
    try:
        import catboost
    except ImportError:
        raise SpecError(
            "training.learner: catboost needs the package catboost, not installed here; run: "
            "pip install 'raymlops[catboost]'"
        ) from None
    return catboost


@dataclasses.dataclass(frozen=True)
class CatBoostScorer:
    """The first rounds of a model in CatBoost's own format."""

    model: bytes
    rounds: int
    classes: tuple[int, ...]
    """The outputs that it has, in order: classes of more than two that some training row had."""
    matrix: TreeMatrix
    objective: Objective

    def scores(self, batch: Batch) -> npt.NDArray[np.floating[Any]]:
        rows = self.matrix.of(batch)
        if not len(rows):  # of which CatBoost does not say how many outputs there are
            return self.objective.to_scores(np.zeros((0, self.objective.target.outputs)))
        found = _margins(_open(self.model), rows, self.rounds, threads=1)
        return self.objective.to_scores(_spread(found, self.classes, self.objective.target.outputs))


@functools.lru_cache(maxsize=2)
def _open(model: bytes) -> Any:
    opened = import_catboost().CatBoost()
    opened.load_model(blob=model)
    return opened


@contextlib.contextmanager
def _explained(library: Any) -> Iterator[None]:
    """Raises RaymlopsError with CatBoost's reason, without its place in the code."""
    try:
        yield
    except library.CatBoostError as error:
        reason = shorten(" ".join(str(error).rpartition(": ")[2].split()))
        raise RaymlopsError(f"CatBoost does not train: {reason}") from None


def _margins(model: Any, rows: Any, rounds: int, threads: int) -> npt.NDArray[np.float64]:
    """(rows, outputs) of the first rounds."""
    found = model.predict(rows, prediction_type="RawFormulaVal", ntree_end=rounds, thread_count=threads)
    return np.asarray(found, dtype=np.float64).reshape(len(rows), -1)


def _spread(
    margins: npt.NDArray[np.float64], classes: tuple[int, ...], outputs: int
) -> npt.NDArray[np.float64]:
    whole = np.full((len(margins), outputs), _NEVER)
    whole[:, list(classes)] = margins
    return whole


def read_json(model: Any) -> dict[str, Any]:
    """A model in CatBoost's JSON format, which it writes to files alone."""
    with tempfile.TemporaryDirectory(prefix="raymlops-") as folder:
        file = pathlib.Path(folder) / "model.json"
        model.save_model(str(file), format="json")
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


class _Trees:
    """A training under way: see `boosting.Trees`."""

    def __init__(
        self, parameters: dict[str, Any], data: Any, validation: Any, spread: Any, start: bytes | None
    ) -> None:
        self._parameters, self._data, self._validation = parameters, data, validation
        self._spread, self._model = spread, start

    def grow(self, rounds: int) -> int:
        library = import_catboost()
        done = 0 if self._model is None else int(_open(self._model).tree_count_)
        seed = self._parameters["random_seed"] + done  # else each part would sample what the first did
        model = library.CatBoost({**self._parameters, "iterations": rounds - done, "random_seed": seed})
        with _explained(library):
            # From its saved form, as a training that resumes: a model that was just trained knows more than that.
            model.fit(self._data, init_model=None if self._model is None else _open(self._model))
        self._model = bytes(model._serialize_model())
        return int(model.tree_count_)

    def margins(self) -> npt.NDArray[np.floating[Any]]:
        found = _margins(_open(self.dump()), self._validation, 0, self._parameters["thread_count"])
        return np.asarray(self._spread(found))

    def dump(self) -> bytes:
        assert self._model is not None
        return self._model


class CatBoostLearner:
    """One process, on CPUs; threads are `training.cpus_per_worker`."""

    reads: ClassVar[frozenset[str]] = TREE_TENSORS
    teams: ClassVar[bool] = False
    streams: ClassVar[bool] = False
    monotonic: ClassVar[bool] = True
    space: ClassVar[Mapping[str, Dimension]] = {
        "training.options.learning_rate": Dimension(low=0.01, high=0.3, log=True),
        "training.options.depth": Dimension(low=3, high=9, integer=True),
        "training.options.l2_leaf_reg": Dimension(low=0.1, high=30, log=True),
        "training.options.random_strength": Dimension(low=0.1, high=10, log=True),
        "training.options.subsample": Dimension(low=0.5, high=1.0),
    }

    def options_for(self, rows: int, task: str) -> dict[str, Any]:
        """The options that a spec leaves open, for so many training rows."""
        return _options_for(rows, task)

    def check(self, spec: ExperimentSpec, packing: Packing | None, target: FittedTarget | None) -> None:
        import_catboost()
        gpu = "on GPUs CatBoost cannot go on from trees that it has"
        check_training(spec, packing, target, losses=tuple(_LOSSES), gpu=gpu)
        check_options(spec, OPTIONS)

    def count_bytes(self, packing: Packing, rows: int, outputs: int) -> int:
        """What a training holds of so many training rows."""
        return count_binned_bytes(packing, rows, outputs)

    def fit(self, run: Run) -> None:
        given = read_rows(run, _options_for)
        options, matrix, objective = given.options, given.matrix, given.objective
        rounds = limit_rounds(run, int(options.pop("rounds")), 2.0 ** options["depth"])
        parameters = _to_parameters(options, objective, run, given.seed)
        if run.spec.training.monotonic:
            parameters["monotone_constraints"] = matrix.find_directions(run.spec.training).tolist()
        labels, classes = given.labels, (0,)
        if run.job.target.task == "multiclass":
            found, labels = np.unique(labels, return_inverse=True)
            classes = tuple(found.tolist())
        library = import_catboost()
        with _explained(library):
            data = library.Pool(given.read(), labels, weight=given.weights)
            data.quantize(border_count=parameters["border_count"], random_seed=given.seed, task_type="CPU")
        del given  # CatBoost has its own rows, binned
        validation = matrix.of(run.job.validation.load())
        start = None if run.state is None else np.asarray(run.state["model"]).tobytes()
        spread = functools.partial(_spread, classes=classes, outputs=objective.target.outputs)
        trees = _Trees(parameters, data, validation, spread, start)
        held = {**matrix.to_state(), "classes": np.array(classes, dtype=np.int64)}
        boost(run, trees, objective, rounds, lambda: held, steps=1)

    def load(self, state: State, job: Job) -> CatBoostScorer:
        return CatBoostScorer(
            np.asarray(state["model"]).tobytes(),
            int(state["best_rounds"]),
            tuple(np.asarray(state["classes"]).tolist()),
            TreeMatrix.from_state(state, job.packing),
            objective_of(job.spec, job.target),
        )

    def to_onnx(self, scorer: CatBoostScorer, packing: Packing, target: FittedTarget) -> onnx.ModelProto:
        build = GraphBuilder()
        found = read_catboost(read_json(_open(scorer.model)), scorer.rounds)
        base = _spread(np.array([found.base]), scorer.classes, target.outputs)[0]
        trees = tuple(dataclasses.replace(tree, targets=scorer.classes) for tree in found.trees)
        ensemble = TreeEnsemble(trees, target.outputs, tuple(base.tolist()))
        margins = add_trees(build, ensemble, scorer.matrix.add_nodes(build))
        return scorer.objective.write(build, margins, packing.only(self.reads), "catboost")


def _to_parameters(options: dict[str, Any], objective: Objective, run: Run, seed: int) -> dict[str, Any]:
    """In CatBoost's terms."""
    task = objective.target.task
    loss = {"binary": "Logloss", "multiclass": "MultiClass"}.get(task) or _LOSSES[objective.loss]
    if objective.loss == "quantile":
        loss = f"Quantile:alpha={objective.quantile}"
    parameters = {
        **options,
        "loss_function": loss,
        "bootstrap_type": "Bernoulli" if options["subsample"] < 1 else "No",
        "boosting_type": "Plain",
        "grow_policy": "SymmetricTree",
        "random_seed": seed,
        "thread_count": run.threads,
        "allow_writing_files": False,
        "logging_level": "Silent",
    }
    if options["subsample"] >= 1:
        del parameters["subsample"]
    return parameters
