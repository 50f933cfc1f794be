"""A task's functions of raw network outputs: its loss, and its scores for metrics."""

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from raymlops.errors import SpecError
from raymlops.features import FittedTarget
from raymlops.specs.training import TrainingSpec
from raymlops.training.class_weights import weigh_classes

Loss = Callable[[Tensor, Tensor, float, str], Tensor]
"""(outputs, labels, label smoothing, reduction) -> the mean, or with reduction "none" the loss of each row."""


@dataclasses.dataclass(frozen=True)
class Head:
    """`scores(outputs)` are probabilities, or standardised predictions. `classes` are weights of the classes."""

    of: Loss
    scores: Callable[[Tensor], Tensor]
    classes: tuple[float, ...] = ()

    def loss(
        self, outputs: Tensor, labels: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """The mean over rows, weighted by their `weights` and by those of their classes."""
        if weights is None and not self.classes:
            return self.of(outputs, labels, smoothing, "mean")
        rows = self.of(outputs, labels, smoothing, "none")
        weights = torch.ones_like(rows) if weights is None else weights.to(rows.dtype)
        if self.classes:
            weights = weights * torch.tensor(self.classes, dtype=rows.dtype, device=rows.device)[labels]
        return (rows * weights).sum() / weights.sum().clamp(min=1e-12)


def _binary_loss(outputs: Tensor, labels: Tensor, smoothing: float, reduction: str) -> Tensor:
    wanted = labels.to(outputs.dtype) * (1 - smoothing) + smoothing / 2
    return functional.binary_cross_entropy_with_logits(outputs.squeeze(1), wanted, reduction=reduction)


def _multiclass_loss(outputs: Tensor, labels: Tensor, smoothing: float, reduction: str) -> Tensor:
    return functional.cross_entropy(outputs, labels, label_smoothing=smoothing, reduction=reduction)


def _squared_loss(outputs: Tensor, labels: Tensor, smoothing: float, reduction: str) -> Tensor:
    return functional.mse_loss(outputs.squeeze(1), labels.to(outputs.dtype), reduction=reduction)


def _absolute_loss(outputs: Tensor, labels: Tensor, smoothing: float, reduction: str) -> Tensor:
    return functional.l1_loss(outputs.squeeze(1), labels.to(outputs.dtype), reduction=reduction)


def _make_pinball_loss(quantile: float) -> Loss:
    def loss(outputs: Tensor, labels: Tensor, smoothing: float, reduction: str) -> Tensor:
        under = labels.to(outputs.dtype) - outputs.squeeze(1)
        rows = torch.maximum(quantile * under, (quantile - 1) * under)
        return rows if reduction == "none" else rows.mean()

    return loss


class PoissonLink(nn.Module):
    """Raw outputs, the logarithm of the prediction over the target's mean, as standardised predictions."""

    def __init__(self, target: FittedTarget) -> None:
        super().__init__()
        self.scale = target.mean / target.std

    def forward(self, outputs: Tensor) -> Tensor:
        return torch.expm1(outputs.clamp(max=_MOST_LOG)) * self.scale


_MOST_LOG = 12.0
"""Of a prediction over the mean: the exponential of more would be of no use."""


def _make_poisson_loss(target: FittedTarget) -> Loss:
    def loss(outputs: Tensor, labels: Tensor, smoothing: float, reduction: str) -> Tensor:
        shares = (labels.to(outputs.dtype) * target.std + target.mean) / target.mean
        logs = outputs.squeeze(1).clamp(max=_MOST_LOG)
        rows = torch.exp(logs) - shares * logs
        return rows if reduction == "none" else rows.mean()

    return loss


def _first(outputs: Tensor) -> Tensor:
    return outputs.squeeze(1)


HEADS: Mapping[str, Head] = {
    "binary": Head(_binary_loss, lambda outputs: torch.sigmoid(outputs.squeeze(1))),
    "multiclass": Head(_multiclass_loss, lambda outputs: torch.softmax(outputs, dim=1)),
    "regression": Head(_squared_loss, _first),
}
"""Task -> its head with the default loss, for networks whose outputs are logits or standardised predictions."""


def make_head(spec: TrainingSpec, target: FittedTarget) -> Head:
    """The head that a training asks for. Raises SpecError for a loss or class weights that the target does not have."""
    if target.task != "regression":
        if spec.loss is not None:
            raise SpecError(f"training.loss: {spec.loss} is for regression, and the task is {target.task}")
        return dataclasses.replace(HEADS[target.task], classes=weigh_classes(spec, target))
    if spec.class_weights is not None:
        raise SpecError(
            "training.class_weights: the task is regression, which has no classes; see training.sample_weights"
        )
    if spec.loss == "mae":
        return Head(_absolute_loss, _first)
    if spec.loss == "quantile":
        return Head(_make_pinball_loss(spec.quantile), _first)
    if spec.loss == "poisson":
        if target.mean <= 0 or target.transform != "none":
            raise SpecError(
                "training.loss: poisson takes counts, not negative, without features.target.transform; their mean in "
                f"training is {target.mean:.4g}"
            )
        link = PoissonLink(target)
        return Head(_make_poisson_loss(target), lambda outputs: link(outputs).squeeze(1))
    return HEADS["regression"]
