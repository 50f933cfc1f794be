"""What learners that are not networks learn: the loss, the weights of rows, and margins as scores and as ONNX."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from scipy.special import expit, softmax

from raymlops.errors import SpecError
from raymlops.features import FittedTarget, Packing
from raymlops.onnx_builder import GraphBuilder, to_value_info
from raymlops.specs.experiment import ExperimentSpec
from raymlops.specs.training import TrainingSpec
from raymlops.tensors import Batch, TensorSpec
from raymlops.training.heads import make_head
from raymlops.training.learners import ALONE, Team
from raymlops.training.packed import LABEL, WEIGHT

MOST_LOG = 12.0
"""Of a prediction over the mean, as for networks."""


@dataclasses.dataclass(frozen=True)
class Objective:
    """`loss` is log_loss of classes, or a loss of TrainingSpec."""

    target: FittedTarget
    loss: str
    quantile: float
    classes: tuple[float, ...]
    """Weights of the classes, or none."""

    def weigh(self, rows: Batch, team: Team = ALONE) -> npt.NDArray[np.float32] | None:
        """The weight of each row, 1 in the mean over all workers; None if all are alike."""
        weights = rows.get(WEIGHT)
        if self.classes:
            of_class = np.asarray(self.classes, dtype=np.float32)[rows[LABEL]]
            weights = of_class if weights is None else weights * of_class
        if weights is None:
            return None
        count, total = team.add(np.array([len(weights), np.sum(weights, dtype=np.float64)])).tolist()
        return np.asarray(weights * (count / max(total, 1e-12)), dtype=np.float32)

    def label(self, rows: Batch) -> npt.NDArray[Any]:
        """What is learned: class numbers, standardised values, or for poisson values over their mean."""
        values = rows[LABEL]
        if self.loss != "poisson":
            return values
        return np.maximum(values * (self.target.std / self.target.mean) + 1, 0).astype(np.float32)

    def to_scores(self, margins: npt.NDArray[Any]) -> npt.NDArray[np.floating[Any]]:
        """(rows, outputs) -> probabilities (rows,) or (rows, classes), or standardised predictions (rows,)."""
        if self.target.task == "multiclass":
            return np.asarray(softmax(margins, axis=1))
        if self.target.task == "binary":
            return np.asarray(expit(margins[:, 0]))
        if self.loss == "poisson":
            scale = self.target.mean / self.target.std
            return np.asarray(np.expm1(np.minimum(margins[:, 0], MOST_LOG)) * scale)
        return np.asarray(margins[:, 0])

    def write(self, build: GraphBuilder, margins: str, packing: Packing, name: str) -> onnx.ModelProto:
        """The graph, from packed tensors to `outputs`, that ends with these margins (rows, outputs)."""
        if self.loss == "poisson":
            most = build.constant(np.float32(MOST_LOG), "most_log")
            factor = build.add("Exp", build.add("Min", margins, most))
            less = build.add("Sub", factor, build.constant(np.float32(1), "one"))
            scale = build.constant(np.float32(self.target.mean / self.target.std), "scale")
            build.add("Mul", less, scale, name="outputs")
        else:
            build.add("Identity", margins, name="outputs")
        inputs = []
        if packing.numeric:
            inputs.append(TensorSpec("numeric", "FP32", (-1, packing.numeric)))
        if packing.plain:
            inputs.append(TensorSpec("plain", "FP32", (-1, packing.plain)))
        if packing.categories:
            inputs.append(TensorSpec("category", "INT64", (-1, len(packing.categories))))
        raw = TensorSpec("outputs", "FP32", (-1, self.target.outputs))
        return build.to_model(name, [to_value_info(spec) for spec in inputs], [to_value_info(raw)])


def objective_of(spec: ExperimentSpec, target: FittedTarget) -> Objective:
    """What a spec asks for. Raises SpecError for a loss or weights that the target does not have."""
    head = make_head(spec.training, target)
    loss = (spec.training.loss or "mse") if target.task == "regression" else "log_loss"
    return Objective(target, loss, spec.training.quantile, head.classes)


def check_training(
    spec: ExperimentSpec,
    packing: Packing | None,
    target: FittedTarget | None,
    *,
    losses: tuple[str, ...],
    gpu: str = "",
    smooths: bool = False,
) -> None:
    """Raises SpecError for what a learner other than `network` cannot do. `gpu` says why it has none, and `smooths`
    whether it smooths labels."""
    training, name = spec.training, spec.training.learner
    if training.label_smoothing and not smooths:
        raise SpecError(f"training.label_smoothing: learner {name!r} has none; it is for networks")
    if training.loss is not None and training.loss not in losses:
        raise SpecError(
            f"training.loss: learner {name!r} has {', '.join(losses)}, and not {training.loss}; use one of them, or "
            "training.learner: lightgbm"
        )
    if training.use_gpu and gpu:
        raise SpecError(f"training.use_gpu: {gpu}; set it to false, and training.cpus_per_worker to its CPUs")
    if packing is None or target is None:
        return
    objective_of(spec, target)
    if packing.image:
        raise SpecError(f"training.learner: {name!r} reads no images; use network, with network.name: cnn")
    if not (packing.plain or packing.categories):
        raise SpecError(
            f"training.learner: {name!r} needs a number, a category or a timestamp among the features"
        )


def directions_of(training: TrainingSpec, names: Sequence[str], width: int) -> npt.NDArray[np.int64]:
    """(width,): 1 or -1 for columns with which the answer must rise or fall, else 0; `names` are those of the first."""
    signs = {"up": 1, "down": -1}
    held = [signs.get(training.monotonic.get(name, ""), 0) for name in names]
    return np.array([*held, *[0] * (width - len(held))], dtype=np.int64)
