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
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=spec.lr, weight_decay=spec.weight_decay, fused=False
    )
    batch_size = max(1, spec.batch_size // team.world)
    steps = math.ceil(rows.count / batch_size)
    head = HEADS[target.task]
    half = _autocast(spec.precision, device)
    bare = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
    epoch, best, best_epoch, best_network = 0, -math.inf, 0, {}
    if state is not None:
        bare.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["rng"])
        epoch, best, best_epoch, best_network = (
            state["epoch"],
            state["best"],
            state["best_epoch"],
            state["best_network"],
        )
    while epoch < spec.epochs and epoch - best_epoch < spec.patience:
        began = time.perf_counter()
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
                loss = head.loss(network(**batch), labels, spec.label_smoothing)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), spec.clip_norm)
            optimiser.step()
            total += loss.detach()
        seconds = time.perf_counter() - began
        epoch += 1
        found = validate(network, validation, target=target, device=device, team=team)
        train_loss = float(total) / max(1, steps)
        astray = not math.isfinite(train_loss) or math.isnan(found[metric])
        if astray:  # ends the trial as the poorest, not the search
            found[metric] = math.inf if metric in metrics.FALLING else -math.inf
        gained = -found[metric] if metric in metrics.FALLING else found[metric]
        if gained > best:
            best, best_epoch = gained, epoch
            best_network = {name: value.detach().clone() for name, value in bare.state_dict().items()}

        def snapshot() -> State:
            # Called before the next epoch begins, so that the loop's variables are still those of this one.
            return {
                "network": bare.state_dict(),
                "optimiser": optimiser.state_dict(),
                "rng": torch.get_rng_state(),
                "epoch": epoch,  # noqa: B023
                "best": best,  # noqa: B023
                "best_epoch": best_epoch,  # noqa: B023
                "best_network": best_network or bare.state_dict(),  # noqa: B023
            }

        learned = {
            "epoch": epoch,
            "train_loss": train_loss,
            **found,
            f"best_{metric}": abs(best) if metric in metrics.FALLING else best,
            "rows_per_second": rows.count * team.world / seconds,
        }
        if not report(learned, snapshot) or astray:
            return


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
