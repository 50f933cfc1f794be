"""The training loop: one network, packed rows, one process or several. Imports neither Tune nor tracking, and knows
no file locations.

It is the same loop in a trial's actor and in the workers of a TorchTrainer; what differs is passed in. Its random
numbers depend on seed, epoch, step and worker only, so that a training resumes from any of its states, with any
number of workers, as if it had not been interrupted.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import distributed, nn

from raymlops import metrics
from raymlops.features import FittedTarget
from raymlops.specs.training import TrainingSpec
from raymlops.training.heads import HEADS, Head, make_head
from raymlops.training.learners import ALONE, Report, State, Team
from raymlops.training.learners.scoring import measure
from raymlops.training.packed import LABEL, WEIGHT
from raymlops.training.rows import Rows, count_steps

UNDER_WAY = "under_way"
"""Marks a report from the middle of an epoch: a state to resume from, with the metrics of the epoch before."""

_VALIDATION_ROWS = 8192  # rows scored at a time; no gradients are kept, so it may be large


@dataclasses.dataclass
class _Progress:
    """The progress of a training; part of its state under the same names."""

    epoch: int = 0
    step: int = 0
    """Steps done in the current epoch."""
    loss: float = 0.0
    """Sum of their losses, averaged over all workers."""
    best: float = -math.inf
    best_epoch: int = 0
    best_network: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    """The results of each epoch, from which a tracking store that missed some is completed."""


def train_network(
    network: nn.Module,
    rows: Rows,
    validation: Rows,
    *,
    spec: TrainingSpec,
    target: FittedTarget,
    device: torch.device,
    report: Report,
    save_now: Callable[[], bool] = lambda: False,
    state: State | None = None,
    team: Team = ALONE,
    until: int | None = None,
) -> None:
    """Train until the epochs are done, `report` says stop, or `patience` runs out. `network` may be wrapped for DDP.
    With `until` the network of that epoch is taken, which ends the training.

    `state` is one that an earlier call reported; training continues after its last step. `save_now` is called after
    each step, and must return the same on all workers: true reports a state from the middle of the epoch.
    """
    training = _Training(network, spec, target, device, team, fixed=until is not None)
    if state is not None:
        training.load(state)
    progress = training.progress
    pace = spec.pace
    epochs = pace.epochs if until is None else min(until, pace.epochs)
    while progress.epoch < epochs and progress.epoch - progress.best_epoch < pace.patience:
        began, done = time.perf_counter(), progress.step
        train_loss, steps = training.run_epoch(rows, save_now, report)
        seconds = time.perf_counter() - began
        found = validate(
            network, validation, target=target, device=device, team=team, head=make_head(spec, target)
        )
        metric = training.metric
        astray = not math.isfinite(train_loss) or math.isnan(found[metric])
        if astray:  # makes the trial the worst one, without ending the search
            found[metric] = math.inf if training.falling else -math.inf
        training.note(found[metric])
        learned = {
            "epoch": progress.epoch,
            "train_loss": train_loss,
            **found,
            f"best_{metric}": training.best,
            "rows_per_second": rows.count * pace.passes * (steps - done) / (steps * seconds),
            **({"workers": team.world} if spec.workers > 1 else {}),
        }
        progress.history.append(learned)
        if not report(learned, training.snapshot) or astray:
            return


class _Training:
    """A network with its optimiser and their progress."""

    def __init__(
        self,
        network: nn.Module,
        spec: TrainingSpec,
        target: FittedTarget,
        device: torch.device,
        team: Team,
        *,
        fixed: bool,
    ) -> None:
        """With `fixed` the last epoch is the best."""
        self.progress, self._fixed = _Progress(), fixed
        self.metric = spec.metric_of(target.task)
        self.falling = self.metric in metrics.FALLING
        self._network, self._bare = network, _unwrapped(network)
        self._spec, self._device, self._team = spec, device, team
        self._head = make_head(spec, target)
        # Small networks wait for the calls of kernels, on a GPU most; the fused optimiser needs one for all weights.
        fused = device.type in ("cuda", "cpu")
        self._optimiser = torch.optim.AdamW(
            network.parameters(), lr=spec.pace.lr, weight_decay=spec.pace.weight_decay, fused=fused
        )

    def load(self, state: State) -> None:
        self._bare.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        for field in dataclasses.fields(_Progress):
            setattr(self.progress, field.name, state[field.name])

    def snapshot(self) -> State:
        kept = {field.name: getattr(self.progress, field.name) for field in dataclasses.fields(_Progress)}
        weights = self._bare.state_dict()
        return {
            **kept,
            "network": weights,
            "optimiser": self._optimiser.state_dict(),
            "best_network": self.progress.best_network or weights,
        }

    @property
    def best(self) -> float:
        return -self.progress.best if self.falling else self.progress.best

    def note(self, value: float) -> None:
        """One more epoch is done, with this value of the metric."""
        progress = self.progress
        progress.epoch, progress.step, progress.loss = progress.epoch + 1, 0, 0.0
        gained = -value if self.falling else value
        if gained > progress.best or self._fixed:
            progress.best, progress.best_epoch = gained, progress.epoch
            progress.best_network = {
                name: value.detach().clone() for name, value in self._bare.state_dict().items()
            }

    def run_epoch(self, rows: Rows, save_now: Callable[[], bool], report: Report) -> tuple[float, int]:
        """The rest of an epoch. Returns the mean loss of its steps, and their number."""
        spec, pace, progress = self._spec, self._spec.pace, self.progress
        steps = count_steps(rows, pace.batch_size) * pace.passes
        generator = _generator_of(self._device)
        half = _autocast(spec.precision, self._device)
        self._network.train()
        total = torch.zeros((), device=self._device)
        done = progress.step
        for done, batch, weight in self._shuffled(rows):
            at = progress.epoch * steps + done - 1
            # the random numbers of dropout
            generator.manual_seed((spec.seed * 1_000_003 + at) * 4099 + self._team.rank)
            rate = pace.lr * schedule(spec.schedule, at, pace.epochs * steps)
            for group in self._optimiser.param_groups:
                group["lr"] = rate
            with half:
                labels, weights = batch.pop(LABEL), batch.pop(WEIGHT, None)
                loss = self._head.loss(self._network(**batch), labels, spec.label_smoothing, weights)
            if weight != 1.0:
                loss = loss * weight
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self._network.parameters(), spec.clip_norm)
            self._optimiser.step()
            total += loss.detach()
            if save_now():
                progress.step, progress.loss = done, progress.loss + self._mean(total)
                total.zero_()
                learned = progress.history[-1] if progress.history else {"epoch": 0}
                report({f"best_{self.metric}": self.best, **learned, UNDER_WAY: 1.0}, self.snapshot)
        return (progress.loss + self._mean(total)) / max(1, done), max(1, done)

    def _shuffled(self, rows: Rows) -> Iterator[tuple[int, dict[str, torch.Tensor], float]]:
        """Batches of the rest of an epoch and their weights, each with the number of steps done after it. A pass may
        leave out a last batch that is too small; its number is then not given."""
        pace, progress = self._spec.pace, self.progress
        steps = count_steps(rows, pace.batch_size)
        first, taken = divmod(progress.step, steps)
        for number in range(first, pace.passes):
            seed = self._spec.seed * 100_003 + progress.epoch * pace.passes + number
            skip = taken if number == first else 0
            shares = rows.shuffled(pace.batch_size, seed, skip)
            for done, (batch, weight) in enumerate(shares, start=number * steps + skip + 1):
                yield done, batch, weight

    def _mean(self, value: torch.Tensor) -> float:
        """Over all workers."""
        if self._team.world > 1:
            distributed.all_reduce(value)
        return float(value) / self._team.world


def validate(
    network: nn.Module,
    rows: Rows,
    *,
    target: FittedTarget,
    device: torch.device,
    team: Team = ALONE,
    head: Head | None = None,
) -> dict[str, float]:
    """Every metric of the task over the rows of all workers, by the network of the first."""
    if team.world > 1:
        for buffer in _unwrapped(network).buffers():  # batch statistics, which differ between workers
            distributed.broadcast(buffer, 0)
    labels, scores, weights = score_rows(network, rows, head=head or HEADS[target.task])
    if team.world > 1:
        gathered = team.gather((labels, scores, weights))
        labels, scores, weights = (np.concatenate(parts) for parts in zip(*gathered, strict=True))
    return measure(target, labels, scores, weights if len(weights) else None)


def score_rows(network: nn.Module, rows: Rows, *, head: Head) -> tuple[Any, Any, Any]:
    """Labels (rows,), scores (rows,) or (rows, classes), and weights (rows,) or (0,) of packed rows, in order."""
    network.eval()
    bare = _unwrapped(network)
    labels, scores, weights = [], [], []
    with torch.inference_mode():
        for batch in rows.in_order(_VALIDATION_ROWS):
            labels.append(batch.pop(LABEL).cpu().numpy())
            weighed = batch.pop(WEIGHT, None)
            weights.append(np.zeros(0) if weighed is None else weighed.cpu().numpy())
            scores.append(head.scores(bare(**batch)).float().cpu().numpy())
    return np.concatenate(labels), np.concatenate(scores), np.concatenate(weights)


def schedule(kind: str, step: int, steps: int) -> float:
    """Share of the peak learning rate at a step; a closed form, so that a resumed training needs no scheduler state."""
    progress = step / max(1, steps - 1)
    if kind == "constant":
        return 1.0
    if kind == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    rise = 0.3  # share of the steps, as in Smith and Topin 2018
    if progress < rise:
        return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * progress / rise))
    return max(1e-4, 0.5 * (1 + math.cos(math.pi * (progress - rise) / (1 - rise))))


def _autocast(precision: str, device: torch.device) -> torch.autocast:
    able = device.type == "cuda" and torch.cuda.is_bf16_supported()
    enabled = precision == "bf16" or (precision == "auto" and able)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def _generator_of(device: torch.device) -> torch.Generator:
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or torch.cuda.current_device()]
    return torch.default_generator


def _unwrapped(network: nn.Module) -> nn.Module:
    return network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
