"""The training loop: one network, packed rows, one process or several. Knows no Tune, no tracking, no
files' places.

It is the same loop in a trial's actor and in the workers of a TorchTrainer; what differs is handed in.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from raymlops import metrics
from raymlops.features import FittedTarget
from raymlops.specs.training import DEFAULT_METRIC, TrainingSpec
from raymlops.training.heads import HEADS
from raymlops.training.rows import LABEL, Rows

State = dict[str, Any]
"""All that a training needs to go on: tensors and plain numbers, so that it loads without unpickling code."""

Report = Callable[[dict[str, float], Callable[[], State]], bool]
"""Called after each epoch with its metrics and a function that gives the state; false asks to stop."""

_VALIDATION_ROWS = 8192  # rows scored at a time; no gradients are kept, so it may be large


@dataclasses.dataclass(frozen=True)
class Team:
    """The data-parallel workers of one training."""

    rank: int = 0
    world: int = 1


def train_network(
    network: nn.Module,
    rows: Rows,
    validation: Rows,
    *,
    spec: TrainingSpec,
    target: FittedTarget,
    device: torch.device,
    report: Report,
    state: State | None = None,
    team: Team = Team(),
) -> None:
    """Train until the epochs are done, `report` says stop, or `patience` runs out. `network` may be
    wrapped for DDP.

    `state` is one that an earlier call reported; training goes on after its epoch.
    """
    metric = spec.metric or DEFAULT_METRIC[target.task]
    falling = metric in metrics.FALLING
    optimiser = torch.optim.AdamW(network.parameters(), lr=spec.lr, weight_decay=spec.weight_decay)
    bare = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
    progress = _Progress()
    if state is not None:
        bare.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["rng"])
        progress = _Progress(**{field.name: state[field.name] for field in dataclasses.fields(_Progress)})
    while progress.epoch < spec.epochs and progress.epoch - progress.best_epoch < spec.patience:
        began = time.perf_counter()
        train_loss = _train_epoch(network, rows, optimiser, spec, target, device, progress.epoch, team)
        seconds = time.perf_counter() - began
        found = validate(network, validation, target=target, device=device, team=team)
        astray = not math.isfinite(train_loss) or math.isnan(found[metric])
        if astray:  # ends the trial as the poorest, not the search
            found[metric] = math.inf if falling else -math.inf
        progress.epoch += 1
        gained = -found[metric] if falling else found[metric]
        if gained > progress.best:
            progress.best, progress.best_epoch = gained, progress.epoch
            progress.best_network = {
                name: value.detach().clone() for name, value in bare.state_dict().items()
            }
        learned = {
            "epoch": progress.epoch,
            "train_loss": train_loss,
            **found,
            f"best_{metric}": -progress.best if falling else progress.best,
            "rows_per_second": rows.count * team.world / seconds,
        }
        progress.history.append(learned)

        def snapshot() -> State:
            kept = {field.name: getattr(progress, field.name) for field in dataclasses.fields(_Progress)}
            weights = bare.state_dict()
            return {
                **kept,
                "network": weights,
                "optimiser": optimiser.state_dict(),
                "rng": torch.get_rng_state(),
                "best_network": progress.best_network or weights,
            }

        if not report(learned, snapshot) or astray:
            return


@dataclasses.dataclass
class _Progress:
    """How far a training is; part of its state under the same names."""

    epoch: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    best_network: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    """What each epoch learned: from it a tracking store that missed some is made whole."""


def _train_epoch(
    network: nn.Module,
    rows: Rows,
    optimiser: torch.optim.Optimizer,
    spec: TrainingSpec,
    target: FittedTarget,
    device: torch.device,
    epoch: int,
    team: Team,
) -> float:
    """One pass over the rows. Gives the mean loss of its steps."""
    batch_size = max(1, spec.batch_size // team.world)
    steps = math.ceil(rows.count / batch_size)
    loss_of = HEADS[target.task].loss
    half = _autocast(spec.precision, device)
    network.train()
    total = torch.zeros((), device=device)
    for step, batch in enumerate(rows.batches(batch_size, shuffle=spec.seed * 100_003 + epoch)):
        labels = batch.pop(LABEL)
        if len(labels) == 1 and batch_size > 1:
            continue  # batch normalisation cannot learn from one row
        rate = spec.lr * schedule(spec.schedule, epoch * steps + step, spec.epochs * steps)
        for group in optimiser.param_groups:
            group["lr"] = rate
        with half:
            loss = loss_of(network(**batch), labels, spec.label_smoothing)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), spec.clip_norm)
        optimiser.step()
        total += loss.detach()
    return float(total) / max(1, steps)


def validate(
    network: nn.Module, rows: Rows, *, target: FittedTarget, device: torch.device, team: Team = Team()
) -> dict[str, float]:
    """Every metric of the task over the rows of all workers."""
    labels, scores = score_rows(network, rows, task=target.task)
    if team.world > 1:
        gathered: list[Any] = [None] * team.world
        torch.distributed.all_gather_object(gathered, (labels, scores))
        labels, scores = (np.concatenate(parts) for parts in zip(*gathered, strict=True))
    if not np.isfinite(scores).all():
        return dict.fromkeys(metrics.METRICS[target.task], math.nan)
    if target.task == "regression":  # metrics in the target's own unit
        labels, scores = labels * target.std + target.mean, scores * target.std + target.mean
    return metrics.measure(target.task, labels, scores)


def score_rows(network: nn.Module, rows: Rows, *, task: str) -> tuple[Any, Any]:
    """Labels (rows,) and scores (rows,) or (rows, classes) of packed rows, in order."""
    network.eval()
    bare = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
    labels, scores = [], []
    with torch.inference_mode():
        for batch in rows.batches(_VALIDATION_ROWS):
            labels.append(batch.pop(LABEL).cpu().numpy())
            scores.append(HEADS[task].scores(bare(**batch)).float().cpu().numpy())
    return np.concatenate(labels), np.concatenate(scores)


def schedule(kind: str, step: int, steps: int) -> float:
    """Share of the peak learning rate at a step; a closed form, so that a resumed training needs no
    memory of it."""
    progress = step / max(1, steps - 1)
    if kind == "constant":
        return 1.0
    if kind == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    rise = 0.3  # of the steps, as in Smith and Topin 2018
    if progress < rise:
        return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * progress / rise))
    return max(1e-4, 0.5 * (1 + math.cos(math.pi * (progress - rise) / (1 - rise))))


def _autocast(precision: str, device: torch.device) -> torch.autocast:
    able = device.type == "cuda" and torch.cuda.is_bf16_supported()
    enabled = precision == "bf16" or (precision == "auto" and able)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
