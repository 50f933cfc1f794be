"""Fits the linear path of a network before its first step, so that a training starts from the linear model and not from
nothing. Trains nothing else."""

import torch
from torch import Tensor, nn

from raymlops.training.heads import Head
from raymlops.training.networks import LinearPath
from raymlops.training.packed import LABEL, WEIGHT

MOST_ROWS = 50_000
_MOST_WEIGHTS = 5_000_000  # L-BFGS keeps several copies; a larger path starts from nothing
_STEPS = 60  # of L-BFGS; convex, so that few are left to gain


def find_linear_path(network: nn.Module) -> LinearPath | None:
    """The linear path of a network; None if it has none."""
    path = getattr(network, "linear", None)
    return path if isinstance(path, LinearPath) else None


def fit_linear_path(path: LinearPath, rows: dict[str, Tensor], head: Head) -> None:
    """Minimise the head's loss on packed rows with their labels, with the ridge penalty of one unit (that of
    scikit-learn's defaults, C = 1). Deterministic."""
    size = sum(part.numel() for part in path.parameters())
    if size > _MOST_WEIGHTS:
        return
    given = {name: values for name, values in rows.items() if name not in (LABEL, WEIGHT)}
    labels, seen, count = rows[LABEL], rows.get(WEIGHT), len(rows[LABEL])
    weights = [part for part in (path.numbers, getattr(path.values, "weight", None)) if part is not None]
    optimiser = torch.optim.LBFGS(
        path.parameters(),
        max_iter=_STEPS,
        history_size=max(4, min(20, _MOST_WEIGHTS // size)),
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        penalty = sum((weight**2).sum() for weight in weights) / (2 * count)
        found: Tensor = head.loss(path(**given), labels, 0.0, seen) + penalty
        found.backward()  # type: ignore[no-untyped-call]
        return found

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        if not all(bool(torch.isfinite(part).all()) for part in path.parameters()):
            for part in path.parameters():
                part.zero_()  # training starts from nothing
