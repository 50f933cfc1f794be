"""Linear models by scikit-learn: logistic, ridge and Poisson regression, and elastic nets; a weight for each number of
a packed row, and one for each value of a category.

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

from raymlops.errors import SpecError
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

OPTIONS: Mapping[str, Option] = {
    "C": Option("inverse of the penalty's strength; without it several are tried", 1e-6, 1e6),
    "l1_ratio": Option("share of the L1 penalty, which sets weights to 0", 0, 1),
    "iterations": Option("of the solver, at most", 1, 100_000, whole=True),
}

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
"""C of the trainings without one."""


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
        rows, progress = job.train.load(), Progress(run, least_seconds=REPORT_SECONDS)
        columns, labels, weights = (
            _to_columns(rows, job.packing),
            objective.label(rows),
            objective.weigh(rows),
        )
        strengths = (float(options["C"]),) if "C" in options else STRENGTHS
        best: State = {name: run.state[name] for name in ("weights", "values", "bias")} if run.state else {}
        for strength in strengths[progress.epoch :]:
            with warnings.catch_warnings(), threadpool_limits(run.threads):
                # A weak penalty on columns that explain each other; the validation metric decides.
                warnings.simplefilter("ignore", ConvergenceWarning)
                state = _fit_directed(
                    lambda rows: _make(objective, strength, options, run).fit(rows, labels, weights),  # noqa: B023
                    columns,
                    directions_of(run.spec.training, job.packing.numeric_of, job.packing.numeric),
                    functools.partial(_to_state, packing=job.packing, objective=objective),
                )
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


def _fit_directed(
    fit: Callable[[Any], Any],
    columns: Any,
    directions: npt.NDArray[np.int64],
    to_state: Callable[[Any], State],
) -> State:
    """The weights, of which those with a direction have its sign: a column whose weight has the other one is left out,
    and the rest is fitted again."""
    left_out = np.zeros(len(directions), dtype=bool)
    while True:
        state = to_state(fit(_without(columns, left_out)))
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


def _to_state(model: Any, packing: Packing, objective: Objective) -> State:
    weights = np.atleast_2d(np.asarray(model.coef_)).T  # (columns, outputs)
    bias = np.atleast_1d(np.asarray(model.intercept_))
    outputs = objective.target.outputs
    if objective.target.task == "multiclass" and len(model.classes_) < outputs:
        weights, bias = _spread(weights, bias, model.classes_, outputs)
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
