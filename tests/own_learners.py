"""A family of models that a user would write: scikit-learn's logistic regression."""

import dataclasses
import os
import signal
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import onnx
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression

from raymlops.errors import SpecError
from raymlops.features import FittedTarget, Packing
from raymlops.onnx_builder import GraphBuilder, to_value_info
from raymlops.specs.experiment import ExperimentSpec
from raymlops.specs.training import Dimension
from raymlops.tensors import Batch, TensorSpec
from raymlops.training.learners import Job, Run, State
from raymlops.training.learners.scoring import Progress


@dataclasses.dataclass(frozen=True)
class Line:
    weights: Any  # (columns, outputs) of the numbers
    bias: Any  # (outputs,)

    def scores(self, batch: Batch) -> Any:
        outputs = batch["numeric"] @ self.weights + self.bias
        return expit(outputs[:, 0]) if outputs.shape[1] == 1 else softmax(outputs, axis=1)


class Logistic:
    teams: ClassVar[bool] = False
    space: ClassVar[Mapping[str, Dimension]] = {"training.options.C": Dimension(low=0.01, high=100, log=True)}

    def check(self, spec: ExperimentSpec, packing: Packing | None, target: FittedTarget | None) -> None:
        if unknown := set(spec.training.options) - {"C"}:
            raise SpecError(f"training.options: unknown {sorted(unknown)}; a logistic regression takes C")
        if target is not None and target.task == "regression":
            raise SpecError("training.learner: a logistic regression needs classes")

    def fit(self, run: Run) -> None:
        progress, rows = Progress(run), run.job.train.load()
        fitted = LogisticRegression(max_iter=500, **run.spec.training.options)
        fitted.fit(rows["numeric"], rows["label"])
        state = {"weights": fitted.coef_.T.astype("f4"), "bias": fitted.intercept_.astype("f4")}
        progress.report(Line(**state), lambda: state)

    def load(self, state: State, job: Job) -> Line:
        return Line(np.asarray(state["weights"]), np.asarray(state["bias"]))

    def to_onnx(self, scorer: Line, packing: Packing, target: FittedTarget) -> onnx.ModelProto:
        build = GraphBuilder()
        build.add(
            "Gemm", "numeric", build.constant(scorer.weights), build.constant(scorer.bias), name="outputs"
        )
        given = TensorSpec("numeric", "FP32", (-1, packing.numeric))
        raw = TensorSpec("outputs", "FP32", (-1, target.outputs))
        return build.to_model("logistic", [to_value_info(given)], [to_value_info(raw)])


class Leaving(Logistic):
    """Ends its process in the middle of a training, as a script would."""

    def fit(self, run: Run) -> None:
        raise SystemExit(0)


class Hanging(Logistic):
    """Never ends a training, in code that hears of nothing."""

    space: ClassVar[Mapping[str, Dimension]] = {}

    def fit(self, run: Run) -> None:
        while True:
            np.sort(np.random.default_rng(0).normal(size=10**6))


class Killed(Logistic):
    """Its process is killed, as by an operating system that has no memory left, unless there are few rows."""

    def fit(self, run: Run) -> None:
        if run.job.train.count > 300:
            os.kill(os.getpid(), signal.SIGKILL)
        super().fit(run)


class Greedy(Logistic):
    """Wants more memory than there is."""

    space: ClassVar[Mapping[str, Dimension]] = {}

    def fit(self, run: Run) -> None:
        np.ones((2**21, 2**21))


class Raising(Logistic):
    """Fails."""

    space: ClassVar[Mapping[str, Dimension]] = {}

    def fit(self, run: Run) -> None:
        raise ValueError("two\nlines of trouble")
