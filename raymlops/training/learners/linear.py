"""Linear models: logistic, ridge and Poisson regression, and elastic nets; a weight for each number of a packed row,
and one for each value of a category. By scikit-learn, or of many rows by linear_fit.py, which makes no matrix of them.

Without a strength of the penalty, several are tried, from strong to weak, and the validation metric chooses.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ElasticNet, LogisticRegression, PoissonRegressor, Ridge
from threadpoolctl import threadpool_limits

from raymlops.errors import RaymlopsError, SpecError
from raymlops.features import FittedTarget, Packing
from raymlops.onnx_builder import GraphBuilder
from raymlops.specs.experiment import ExperimentSpec
from raymlops.specs.training import Dimension
from raymlops.tensors import Batch, count_rows
from raymlops.training.learners import Job, Run, State
from raymlops.training.learners.boosting import REPORT_SECONDS
from raymlops.training.learners.objectives import Objective, check_training, directions_of, objective_of
from raymlops.training.learners.options import Option, check_options
from raymlops.training.learners.scoring import Progress
from raymlops.training.linear_fit import LinearProblem, fit_linear

OPTIONS: Mapping[str, Option] = {
    "C": Option("inverse of the penalty's strength; without it several are tried", 1e-6, 1e6),
    "l1_ratio": Option("share of the L1 penalty, which sets weights to 0", 0, 1),
    "iterations": Option("of the solver, at most", 1, 100_000, whole=True),
}

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
"""C of the trainings without one."""
_MATRIX_BYTES = 32 * 2**20
"""Of the matrix that scikit-learn takes, beyond which none is made."""


@dataclasses.dataclass(frozen=True)
class LinearScorer:
    """`weights` (numbers, outputs), `values` (values of all categories, outputs), `bias` (outputs,)."""

    weights: npt.NDArray[np.float32]
    values: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    packing: Packing
    objective: Objective

    def scores(self, batch: Batch) -> npt.NDArray[np.floating[Any]]:
        margins = np.tile(self.bias.astype(np.float64), (count_rows(batch), 1))
        if self.packing.numeric:
            margins += batch["numeric"] @ self.weights
        if self.packing.categories:
            margins += self.values[batch["category"] + _offsets(self.packing)].sum(axis=1)
        return self.objective.to_scores(margins)


def _offsets(packing: Packing) -> npt.NDArray[np.int64]:
    """Of each category among the values of all."""
    return np.concatenate([[0], np.cumsum(packing.categories)[:-1]]).astype(np.int64)


def _to_columns(rows: Batch, packing: Packing) -> Any:
    """Numbers, and one column for each value of a category: sparse where there are categories."""
    if not packing.categories:
        return rows["numeric"]
    count, numbers = len(rows["category"]), packing.numeric
    width = numbers + len(packing.categories)
    values = np.ones((count, width), dtype=np.float32)
    places = np.empty((count, width), dtype=np.int32 if count * width < 2**31 else np.int64)
    if numbers:
        values[:, :numbers] = rows["numeric"]
    places[:, :numbers] = np.arange(numbers)
    np.add(rows["category"], _offsets(packing) + numbers, out=places[:, numbers:], casting="unsafe")
    starts = np.arange(0, count * width + 1, width, dtype=places.dtype)
    found = sparse.csr_matrix(
        (values.ravel(), places.ravel(), starts), shape=(count, numbers + sum(packing.categories))
    )
    found.eliminate_zeros()  # of indicators, in place
    return found


class LinearLearner:
    """One process, on CPUs. Reports once for each strength of the penalty."""

    reads: ClassVar[frozenset[str]] = frozenset(("numeric", "category"))
    teams: ClassVar[bool] = False
    streams: ClassVar[bool] = False
    monotonic: ClassVar[bool] = True
    space: ClassVar[Mapping[str, Dimension]] = {
        "training.options.C": Dimension(low=1e-3, high=1e2, log=True),
    }

    def options_for(self, rows: int, task: str) -> dict[str, Any]:
        """The options that a spec leaves open; C stays open, so that several are tried."""
        return {"l1_ratio": 0.0, "iterations": 300}

    def portfolio(self, rows: int, task: str) -> tuple[dict[str, Any], ...]:
        """Good options to try after the defaults, beside the strengths that these try."""
        # The solver of elastic nets takes minutes for large tables.
        return ({"C": 0.1, "l1_ratio": 0.5}, {"C": 1.0, "l1_ratio": 1.0}) if rows < 5_000 else ()

    def check(self, spec: ExperimentSpec, packing: Packing | None, target: FittedTarget | None) -> None:
        check_training(
            spec, packing, target, losses=("mse", "poisson"), gpu="scikit-learn trains linear models on CPUs"
        )
        check_options(spec, OPTIONS)
        if spec.training.loss == "poisson" and spec.training.options.get("l1_ratio"):
            raise SpecError(
                "training.options.l1_ratio: a Poisson regression has the L2 penalty alone; set it to 0"
            )

    def fit(self, run: Run) -> None:
        job, options = run.job, {**self.options_for(0, ""), **run.spec.training.options}
        objective = objective_of(run.spec, job.target)
        progress = Progress(run, least_seconds=REPORT_SECONDS)
        directions = directions_of(run.spec.training, job.packing.numeric_of, job.packing.numeric)
        fit = _choose_fit(run, objective, options)
        strengths = (float(options["C"]),) if "C" in options else STRENGTHS
        best: State = {name: run.state[name] for name in ("weights", "values", "bias")} if run.state else {}
        for strength in strengths[progress.epoch :]:
            with warnings.catch_warnings(), threadpool_limits(run.threads):
                # A weak penalty on columns that explain each other; the validation metric decides.
                warnings.simplefilter("ignore", ConvergenceWarning)
                state = _fit_directed(functools.partial(fit, strength), directions)
            progress.measure(self.load(state, dataclasses.replace(job, spec=run.spec)))
            if progress.waited == 0:
                best = state
            last = strength == strengths[-1]
            if not progress.tell(functools.partial(dict, best), last):
                return

    def load(self, state: State, job: Job) -> LinearScorer:
        weights, values, bias = (np.asarray(state[name]) for name in ("weights", "values", "bias"))
        return LinearScorer(weights, values, bias, job.packing, objective_of(job.spec, job.target))

    def to_onnx(self, scorer: LinearScorer, packing: Packing, target: FittedTarget) -> onnx.ModelProto:
        build = GraphBuilder()
        margins = build.constant(scorer.bias[None, :], "bias")
        if packing.numeric:
            product = build.add("MatMul", "numeric", build.constant(scorer.weights, "weights"))
            margins = build.add("Add", product, margins)
        if packing.categories:
            places = build.add("Add", "category", build.constant(_offsets(packing), "offsets"))
            found = build.add("Gather", build.constant(scorer.values, "values"), places, axis=0)
            axis = build.constant(np.array([1], dtype=np.int64), "axis")
            margins = build.add("Add", build.add("ReduceSum", found, axis, keepdims=0), margins)
        return scorer.objective.write(build, margins, packing.only(self.reads), "linear")


Fit = Callable[[float, npt.NDArray[np.bool_]], State]
"""Strength of the penalty, and which numbers are left out -> the state."""


def _choose_fit(run: Run, objective: Objective, options: Mapping[str, Any]) -> Fit:
    """By scikit-learn, or of more rows than it should hold as a matrix, without one."""
    job, rows = run.job, run.job.train.load()
    labels, weights, packing = objective.label(rows), objective.weigh(rows), job.packing
    size = 8 * count_rows(rows) * (packing.numeric + len(packing.categories))
    if size > _MATRIX_BYTES and not options["l1_ratio"]:
        return functools.partial(
            _fit_in_place, rows, labels, weights, packing, objective, int(options["iterations"])
        )
    columns = _to_columns(rows, packing)

    def fit(strength: float, left_out: npt.NDArray[np.bool_]) -> State:
        model = _make(objective, strength, options, run).fit(_without(columns, left_out), labels, weights)
        bias = np.atleast_1d(np.asarray(model.intercept_))
        return _to_state(
            np.atleast_2d(model.coef_).T, bias, getattr(model, "classes_", ()), packing, objective
        )

    return fit


def _fit_in_place(
    rows: Batch,
    labels: npt.NDArray[Any],
    weights: npt.NDArray[Any] | None,
    packing: Packing,
    objective: Objective,
    iterations: int,
    strength: float,
    left_out: npt.NDArray[np.bool_],
) -> State:
    task, known = objective.target.task, np.array([0])
    if task != "regression":
        known = np.flatnonzero(np.bincount(labels))
        if len(known) <= known[-1]:  # some class has no rows; this copies the labels
            labels = np.searchsorted(known, labels)
        if len(known) < 2:
            raise RaymlopsError("All training rows have one class; a linear model needs rows of two at least")
    outputs = len(known) if len(known) > 2 else 1
    loss = objective.loss if task == "regression" else "multiclass" if outputs > 1 else "binary"
    problem = LinearProblem(
        rows, packing, labels, weights, loss, outputs, 1 / (strength * max(1, len(labels)))
    )
    found, bias = fit_linear(problem, iterations, left_out)
    return _to_state(found, bias, known, packing, objective)


def _fit_directed(fit: Callable[[npt.NDArray[np.bool_]], State], directions: npt.NDArray[np.int64]) -> State:
    """The weights, of which those with a direction have its sign: a column whose weight has the other one is left out,
    and the rest is fitted again."""
    left_out = np.zeros(len(directions), dtype=bool)
    while True:
        state = fit(left_out)
        wrong = (state["weights"] * directions[:, None] < 0).any(axis=1)
        if not wrong.any():
            state["weights"][left_out] = 0
            return state
        left_out |= wrong


def _without(columns: Any, left_out: npt.NDArray[np.bool_]) -> Any:
    """With zeros in the place of some of the numbers."""
    if not left_out.any():
        return columns
    kept = np.ones(columns.shape[1], dtype=np.float32)
    kept[: len(left_out)] = ~left_out
    return columns @ sparse.diags(kept) if sparse.issparse(columns) else columns * kept


def _make(objective: Objective, strength: float, options: Mapping[str, Any], run: Run) -> Any:
    """The estimator; C is scaled as in a logistic regression, where the penalty weighs as much as 1 / C rows."""
    ratio, most = float(options["l1_ratio"]), int(options["iterations"])
    seed, rows = run.spec.training.seed % 2**31, run.job.train.count
    if objective.target.task != "regression":
        solver = "saga" if ratio else "lbfgs"
        return LogisticRegression(
            C=strength, l1_ratio=ratio, solver=solver, max_iter=most, random_state=seed, tol=1e-4
        )
    if objective.loss == "poisson":
        return PoissonRegressor(alpha=1 / (strength * max(1, rows)), max_iter=most)
    if ratio:
        return ElasticNet(
            alpha=1 / (strength * max(1, rows)), l1_ratio=ratio, max_iter=most, random_state=seed
        )
    return Ridge(alpha=1 / strength, max_iter=most, random_state=seed, solver="auto")


def _to_state(
    weights: npt.NDArray[Any], bias: npt.NDArray[Any], known: Any, packing: Packing, objective: Objective
) -> State:
    """Of weights (columns, outputs) and a bias (outputs,), which may lack outputs of classes that are not `known`."""
    outputs = objective.target.outputs
    if objective.target.task == "multiclass" and len(known) < outputs:
        weights, bias = _spread(weights, bias, known, outputs)
    weights, cut = weights.astype(np.float32), packing.numeric
    return {"weights": weights[:cut], "values": weights[cut:], "bias": bias.astype(np.float32)}


def _spread(weights: Any, bias: Any, classes: Iterable[int], outputs: int) -> tuple[Any, Any]:
    """For classes that no training row has: none is ever predicted."""
    known = list(classes)
    if len(known) == 2:  # scikit-learn has one output for two
        weights, bias = np.hstack([np.zeros_like(weights), weights]), np.array([0.0, bias[0]])
    whole = np.zeros((len(weights), outputs))
    level = np.full(outputs, -30.0)
    whole[:, known], level[known] = weights, bias
    return whole, level
