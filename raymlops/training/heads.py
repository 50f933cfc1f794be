"""A task's functions of raw network outputs: its loss, and its scores for metrics."""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


@dataclasses.dataclass(frozen=True)
class Head:
    """`loss(outputs, labels, label_smoothing)` and `scores(outputs)`: probabilities, or standardised
    predictions."""

    loss: Callable[[Tensor, Tensor, float], Tensor]
    scores: Callable[[Tensor], Tensor]


def _binary_loss(outputs: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    wanted = labels.to(outputs.dtype) * (1 - smoothing) + smoothing / 2
    return functional.binary_cross_entropy_with_logits(outputs.squeeze(1), wanted)


def _multiclass_loss(outputs: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    return functional.cross_entropy(outputs, labels, label_smoothing=smoothing)


def _regression_loss(outputs: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    return functional.mse_loss(outputs.squeeze(1), labels.to(outputs.dtype))


HEADS = {
    "binary": Head(_binary_loss, lambda outputs: torch.sigmoid(outputs.squeeze(1))),
    "multiclass": Head(_multiclass_loss, lambda outputs: torch.softmax(outputs, dim=1)),
    "regression": Head(_regression_loss, lambda outputs: outputs.squeeze(1)),
}
