"""Any estimator or pipeline of scikit-learn that converts right, by its name or by a function of the user's own, on one
matrix of numbers.

A fitted estimator becomes steps (`number_steps`), which are compared with it before they are saved: what a search
keeps, scores with and exports are numbers, and no pickle.
"""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import joblib
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto
from threadpoolctl import threadpool_limits

from raymlops.errors import RaymlopsError, SpecError, shorten
from raymlops.features import FittedTarget, Packing
from raymlops.onnx_builder import GraphBuilder
from raymlops.specs.experiment import ExperimentSpec, space_key
from raymlops.specs.training import Dimension
from raymlops.tensors import Batch
from raymlops.training import number_steps, sklearn_defaults
from raymlops.training.learners import Job, Run, State
from raymlops.training.learners.boosting import boost, list_ends
from raymlops.training.learners.encoded_matrix import MOST_VALUES, EncodedMatrix
from raymlops.training.learners.objectives import Objective, check_training, objective_of
from raymlops.training.learners.options import Option, check_options
from raymlops.training.learners.scoring import Progress
from raymlops.training.learners.tree_matrix import FOLDS, MeansMeter, TreeMatrix
from raymlops.training.number_steps import Chain, Each, Step, with_number
from raymlops.training.sklearn_check import make_rows, require_equal
from raymlops.training.sklearn_estimators import (
    check_estimator,
    fit_weighed,
    make_estimator,
    prepare,
    takes_missing,
    takes_weights,
)
from raymlops.training.sklearn_models.composed import read_prediction, read_probabilities, to_margins

OPTIONS: Mapping[str, Option] = {
    "estimator": Option("name in scikit-learn, or module:function of your own", kind=str),
    "parameters": Option("arguments of the estimator or the function", kind=dict),
    "columns": Option("the matrix that it gets", words=("auto", "plain", "encoded")),
    "target_means": Option("categories as target means too, not only as ids"),
}
_PARAMETER = "parameters."
"""Before the name of a single one, as `parameters.max_depth`."""
Matrix = TreeMatrix | EncodedMatrix


@dataclasses.dataclass(frozen=True)
class _Given:
    """What the options say: `own` are the parameters that the spec names."""

    name: str
    own: Mapping[str, Any]
    columns: str
    target_means: bool

    @classmethod
    def of(cls, spec: ExperimentSpec) -> "_Given":
        options = spec.training.options
        single = {
            key.removeprefix(_PARAMETER): value
            for key, value in options.items()
            if key.startswith(_PARAMETER)
        }
        return cls(
            str(options.get("estimator", sklearn_defaults.ESTIMATOR)),
            {**options.get("parameters", {}), **single},
            str(options.get("columns", "auto")),
            bool(options.get("target_means", True)),
        )

    def make(self, task: str, rows: int) -> Any:
        """The estimator, with defaults by rows where it is named. Raises SpecError."""
        defaults = {} if ":" in self.name else sklearn_defaults.find_defaults(self.name, rows, task)
        return make_estimator(self.name, {**defaults, **self.own}, task)

    def make_matrix(self, estimator: Any) -> type[Matrix]:
        if self.columns == "auto":
            return TreeMatrix if takes_missing(estimator) else EncodedMatrix
        return TreeMatrix if self.columns == "plain" else EncodedMatrix


@dataclasses.dataclass(frozen=True)
class SklearnScorer:
    """`step` gives margins (rows, outputs)."""

    step: Step
    matrix: Matrix
    objective: Objective

    def scores(self, batch: Batch) -> npt.NDArray[np.floating[Any]]:
        return self.objective.to_scores(self.step.apply(self.matrix.of(batch).astype(np.float64)))


class SklearnLearner:
    """One process, on CPUs; threads are `training.cpus_per_worker`. Boosting reports by rounds, all else once."""

    reads: ClassVar[frozenset[str]] = frozenset(("plain", "numeric", "category"))
    teams: ClassVar[bool] = False
    streams: ClassVar[bool] = False
    space: ClassVar[Mapping[str, Dimension]] = sklearn_defaults.find_space(sklearn_defaults.ESTIMATOR)

    def options_for(self, rows: int, task: str) -> dict[str, Any]:
        """The options that a spec leaves open; those of an estimator that is named follow the rows when it is made."""
        return {"estimator": sklearn_defaults.ESTIMATOR, "columns": "auto", "target_means": True}

    def space_for(self, options: Mapping[str, Any]) -> Mapping[str, Dimension]:
        """What a search varies, if these are the options."""
        return sklearn_defaults.find_space(str(options.get("estimator", sklearn_defaults.ESTIMATOR)))

    def count_bytes(self, packing: Packing, rows: int, outputs: int) -> int:
        """What a training holds of so many rows: the wider matrix in float64, and a copy that estimators make."""
        plain = packing.plain + len(packing.categories)
        encoded = packing.numeric + sum(min(size, MOST_VALUES) for size in packing.categories)
        return 2 * 8 * rows * (max(plain, encoded) + outputs)

    def check(self, spec: ExperimentSpec, packing: Packing | None, target: FittedTarget | None) -> None:
        check_training(spec, packing, target, losses=("mse", "poisson"), gpu="scikit-learn trains on CPUs")
        named = (*spec.training.options, *(space_key(key)[1] for key in spec.search.varied))
        single = {key: Option("of the estimator", free=True) for key in named if key.startswith(_PARAMETER)}
        check_options(spec, {**OPTIONS, **single})
        given = _Given.of(spec)
        estimator = given.make("" if target is None else target.task, 1_000)
        check_estimator(estimator, given.name)
        training = spec.training
        if (training.sample_weights or training.class_weights) and not takes_weights(estimator):
            raise SpecError(
                f"training.options.estimator: {given.name!r} takes no weights of rows; leave training.class_weights "
                "and training.sample_weights out, or take another one"
            )

    def fit(self, run: Run) -> None:
        job, training, given = run.job, run.spec.training, _Given.of(run.spec)
        objective, rows, seed = objective_of(run.spec, job.target), job.train.load(), training.seed % 2**31
        estimator = given.make(job.target.task, job.train.count)
        kind = given.make_matrix(estimator)
        estimator = prepare(estimator, seed, run.threads)
        weights = objective.weigh(rows)
        meter, found = MeansMeter(job.packing, job.target), TreeMatrix(job.packing, {})
        of_others: dict[int, npt.NDArray[np.float32]] = {}
        folds = np.random.default_rng(seed).integers(0, FOLDS, job.train.count).astype(np.int8)
        if given.target_means and meter.measures:
            meter.add(rows, weights, folds)
            found, of_others = meter.to_means(lambda sums: sums)
        matrix = kind(job.packing, found.means)
        columns = matrix.of_folds(rows, of_others, folds).astype(np.float64)
        labels = np.asarray(objective.label(rows))
        if job.target.task == "regression":
            labels = labels.astype(np.float64)
        fitting = _Fitting(run, estimator, objective, matrix, columns, labels, weights, given.name)
        with warnings.catch_warnings():  # of solvers that did not converge; the validation metric decides
            warnings.simplefilter("ignore")
            with threadpool_limits(run.threads), joblib.parallel_config("threading", n_jobs=run.threads):
                fitting.run()

    def load(self, state: State, job: Job) -> SklearnScorer:
        step = number_steps.from_bytes(np.asarray(state["model"]).tobytes())
        if int(state["best_rounds"]):
            step = number_steps.limit_trees(step, int(state["best_rounds"]) * int(state["trees_of_round"]))
        kind = EncodedMatrix if int(state["encoded"]) else TreeMatrix
        return SklearnScorer(step, kind.from_state(state, job.packing), objective_of(job.spec, job.target))

    def to_onnx(self, scorer: SklearnScorer, packing: Packing, target: FittedTarget) -> onnx.ModelProto:
        build = GraphBuilder()
        rows = build.cast(scorer.matrix.add_nodes(build), TensorProto.DOUBLE)
        margins = build.cast(scorer.step.add(build, rows), TensorProto.FLOAT)
        return scorer.objective.write(build, margins, packing.only(scorer.matrix.reads), "sklearn")


@dataclasses.dataclass
class _Fitting:
    """A training under way: see `boosting.Trees`, for an estimator of rounds."""

    given: Run
    estimator: Any
    objective: Objective
    matrix: Matrix
    columns: npt.NDArray[np.float64]
    labels: npt.NDArray[Any]
    weights: npt.NDArray[Any] | None
    name: str

    def run(self) -> None:
        """Train and report. Raises RaymlopsError with the estimator's own reason, and ArtifactError for one that does
        not convert right."""
        key = sklearn_defaults.ROUNDS.get(type(self.estimator).__name__)
        if key is not None and getattr(self.estimator, "early_stopping", False) is not True:
            self._boost(key)
            return
        self._fit()
        progress = Progress(self.given)
        step = self._read()
        job = dataclasses.replace(self.given.job, spec=self.given.spec)
        scorer = SklearnScorer(step, self.matrix, objective_of(job.spec, job.target))
        state = {"model": _to_array(number_steps.to_bytes(step)), "best_rounds": 0, **self._held()}
        progress.report(scorer, lambda: state)

    def _boost(self, key: str) -> None:
        self._key, self._rounds, self._grown = key, int(getattr(self.estimator, key)), 0
        if hasattr(self.estimator, "early_stopping"):
            self.estimator.set_params(early_stopping=False)  # that the validation rows decide
        self.estimator.set_params(warm_start=True)
        boost(self.given, self, self.objective, self._rounds, self._held, steps=1)

    def grow(self, rounds: int) -> int:
        # A training that resumes begins anew, in the same parts: their number changes the sums.
        for end in list_ends(self.given, self._rounds):
            if self._grown < end <= rounds:
                self.estimator.set_params(**{self._key: end})
                self._fit()
                self._grown = end
        return rounds

    def margins(self) -> npt.NDArray[np.floating[Any]]:
        """Of the validation rows."""
        rows = self.matrix.of(self.given.job.validation.load()).astype(np.float64)
        return self._to_margins().apply(self._ask(rows))

    def dump(self) -> bytes:
        return number_steps.to_bytes(self._read())

    def _held(self) -> State:
        outputs = self.objective.target.outputs
        return {
            "encoded": int(isinstance(self.matrix, EncodedMatrix)),
            "trees_of_round": outputs,
            **self.matrix.to_state(),
        }

    def _fit(self) -> None:
        try:
            fit_weighed(self.estimator, self.columns, self.labels, self.weights)
        except (ValueError, TypeError, ArithmeticError, AttributeError) as error:
            raise RaymlopsError(
                f"Estimator {self.name!r} does not fit: {type(error).__name__}: "
                f"{shorten(' '.join(str(error).split()))}{self._advise(str(error))}"
            ) from error

    def _advise(self, reason: str) -> str:
        if "out of the valid range of the loss" in reason and self.objective.loss != "poisson":
            return (
                "; set training.loss: poisson, with which the target is learned as it is and not standardised"
            )
        return ""

    def _read(self) -> Step:
        """Margins as steps, once they were compared with the estimator's own answers."""
        classes = self.objective.target.task != "regression"
        step = (read_probabilities if classes else read_prediction)(self.estimator)
        packing = self.given.job.packing
        plain = isinstance(self.matrix, TreeMatrix)
        rows = make_rows(
            self.matrix.of(self.given.job.validation.load()),
            packing.plain if plain else packing.numeric,
            missing=plain and takes_missing(self.estimator),
            seed=0,
        )
        if len(rows):
            require_equal(step, self._ask(rows.astype(np.float64)), rows, self.name)
        return Chain((step, self._to_margins()))

    def _ask(self, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The estimator's own answers, (rows, classes that it knows) or (rows, 1)."""
        if self.objective.target.task == "regression":
            return np.asarray(self.estimator.predict(rows), dtype=np.float64).reshape(len(rows), -1)
        return np.asarray(self.estimator.predict_proba(rows), dtype=np.float64)

    def _to_margins(self) -> Step:
        """From those answers."""
        target = self.objective.target
        if target.task == "regression":
            if self.objective.loss != "poisson":
                return Chain(())
            return Chain((with_number("max", 1e-12), Each("log")))
        return to_margins(np.asarray(self.estimator.classes_, dtype=np.int64), max(2, target.outputs))


def _to_array(content: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(content, dtype=np.uint8).copy()  # that it may be written to
