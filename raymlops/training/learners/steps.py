"""The course of a training of a table network: steps of AdamW in equal parts, each measured, with the best of them
kept.

The random numbers depend on seed and step alone, so that a training resumes from any of its states as if it had not
been interrupted.
"""

import abc
import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx
import torch

from raymlops.features import TREE_TENSORS, FittedTarget, Packing
from raymlops.specs.experiment import ExperimentSpec
from raymlops.specs.training import Dimension
from raymlops.tensors import Batch, count_rows
from raymlops.training.heads import make_head
from raymlops.training.learners import Job, Run, State
from raymlops.training.learners.boosting import MOST_PARTS, REPORT_SECONDS
from raymlops.training.learners.objectives import Objective, check_training, objective_of
from raymlops.training.learners.options import Option, check_options
from raymlops.training.learners.scoring import Progress
from raymlops.training.packed import LABEL
from raymlops.training.row_latency import of_layers
from raymlops.training.rows import ResidentRows, count_steps, to_tensor
from raymlops.training.table_network_export import write_network
from raymlops.training.table_networks import LEAST, RealMLP, TableNetwork, TabM, fit_scaling, prior_of

OPTIONS: Mapping[str, Option] = {
    "steps": Option("steps of the optimiser, at most", 1, 10**7, whole=True),
    "batch_size": Option("rows of a step", 2, 10**6, whole=True),
    "lr": Option("peak learning rate of AdamW", 1e-6, 10),
    "weight_decay": Option("weight decay of AdamW in the first half of the steps", 0, 10),
    "dropout": Option("share of a layer's outputs that is left out in the first half of the steps", 0, 0.9),
    "width": Option("outputs of a layer", 1, 4096, whole=True),
    "layers": Option("layers before the last", 1, 16, whole=True),
    "embedding": Option("numbers for a value of a category of more than 8 values", 1, 256, whole=True),
    "frequency": Option("spread of the frequencies of periodic embeddings of numbers", 1e-3, 100),
}
"""Of every table network."""


def steps_by_rows(rows: int) -> dict[str, int]:
    """The steps and batch_size that a spec leaves open, for so many training rows."""
    batch = min(256, max(16, rows // 8))
    return {"steps": 300 if rows < 2_000 else min(6_000, max(1_000, 24 * rows // batch)), "batch_size": batch}


_SCORED_ROWS = 2048  # at a time
_SCALED_BYTES = 16 * 2**20


@dataclasses.dataclass(frozen=True)
class TableScorer:
    """A table network with what it predicts."""

    network: TableNetwork
    objective: Objective

    def scores(self, batch: Batch) -> npt.NDArray[np.floating[Any]]:
        network = self.network.eval()
        device = network.bounds.device
        found = [np.zeros((0, self.objective.target.outputs))]
        with torch.inference_mode():
            for start in range(0, count_rows(batch), _SCORED_ROWS):
                part = {
                    name: to_tensor(values[start : start + _SCORED_ROWS], device)
                    for name, values in batch.items()
                }
                found.append(
                    _join_members(network(**_scale(network, part)), self.objective.target).cpu().numpy()
                )
        margins = np.concatenate(found)
        low, high = network.bounds.tolist()
        return self.objective.to_scores(np.clip(margins, low, high))


def _join_members(margins: torch.Tensor, target: FittedTarget) -> torch.Tensor:
    """(rows, members, outputs) -> (rows, outputs): of the mean of their probabilities or predictions."""
    if margins.shape[1] == 1:
        return margins[:, 0]
    if target.task == "regression":
        return margins.mean(dim=1)
    if target.task == "binary":
        means = torch.sigmoid(margins).mean(dim=1)
        return torch.log(means.clamp(min=LEAST)) - torch.log((1 - means).clamp(min=LEAST))
    return torch.log(torch.softmax(margins, dim=2).mean(dim=1).clamp(min=LEAST))


def _scale(network: TableNetwork, rows: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor | None]:
    """What a network reads of packed rows, which may be scaled already."""
    scaled, missing = rows.get("scaled"), rows.get("missing")
    if "plain" in rows:
        scaled, missing = network.inputs.scale(rows["plain"])
    return {"scaled": scaled, "missing": missing, "category": rows.get("category")}


def rising_then_falling(done: float) -> float:
    """Linear for a twentieth of the training, then half a cosine down to zero."""
    return min(1.0, 0.05 + 20 * done) * 0.5 * (1 + math.cos(math.pi * done))


def flat_then_falling(done: float) -> float:
    """Constant for the first half, then half a cosine down to zero."""
    return 0.5 * (1 + math.cos(math.pi * max(0.0, 2 * done - 1)))


Make = Callable[[Mapping[str, Any], int], TableNetwork]
"""Builds a network with its initial weights, of options and a number of columns with missing values."""


def load_scorer(state: State, job: Job, make: Make) -> TableScorer:
    """The best network of a training."""
    network = make(state["options"], int(state["indicators"]))
    network.load_state_dict(state["best_network"])
    return TableScorer(network.eval(), objective_of(job.spec, job.target))


def train(run: Run, make: Make, options: Mapping[str, Any]) -> None:
    """Train by all OPTIONS."""
    training, job = run.spec.training, run.job
    torch.set_num_threads(run.threads)
    device = torch.device("cuda" if training.use_gpu else "cpu")
    if 0 < training.gpus < 1:
        torch.cuda.set_per_process_memory_fraction(training.gpus)  # the rest belongs to the other trials
    objective, rows = objective_of(run.spec, job.target), job.train.load()
    scaling = fit_scaling(rows, job.packing)
    torch.manual_seed(training.seed)
    network = make(options, len(scaling.indicators))
    network.inputs.set_scaling(scaling)
    network.set_prior(prior_of(job.target, rows[LABEL], objective.weigh(rows)))
    network.bounds.copy_(torch.tensor(bounds_of(objective, rows)))
    _Course(run, network.to(device), rows, objective, options).run()


def bounds_of(objective: Objective, rows: Batch) -> tuple[float, float]:
    """Lowest and highest margin: a regression answers nothing beyond what training rows had."""
    if objective.target.task != "regression":
        return -math.inf, math.inf
    labels = objective.label(rows)
    low, high = float(labels.min()), float(labels.max())
    return (-math.inf, math.log(max(high, 1e-6))) if objective.loss == "poisson" else (low, high)


class _Course:
    """A training under way."""

    def __init__(
        self,
        run: Run,
        network: TableNetwork,
        rows: Batch,
        objective: Objective,
        options: Mapping[str, Any],
    ) -> None:
        self._run, self._network, self._options = run, network, options
        self._scorer = TableScorer(network, objective)
        self._head = make_head(run.spec.training, run.job.target)
        self._size = min(int(options["batch_size"]), max(1, count_rows(rows)))
        self._rows = _hold(network, rows)
        self._optimiser = torch.optim.AdamW(
            list(network.groups()), lr=float(options["lr"]), betas=(0.9, 0.95), fused=True
        )
        self._done = 0
        self._best: dict[str, torch.Tensor] = {}
        if run.state is not None:
            network.load_state_dict(run.state["network"])
            # which would else train the tensors of the state itself
            self._optimiser.load_state_dict(copy.deepcopy(run.state["optimiser"]))
            self._done, self._best = int(run.state["steps"]), run.state["best_network"]

    def run(self) -> None:
        steps, progress = int(self._options["steps"]), Progress(self._run, least_seconds=REPORT_SECONDS)
        parts = min(MOST_PARTS, self._run.spec.training.pace.epochs, steps)
        for part in range(progress.epoch + 1, parts + 1):
            self._train_to(round(steps * part / parts), steps)
            progress.measure(self._scorer)
            if progress.waited == 0:
                self._best = _copy(self._network)
            if not progress.tell(self._snapshot, last=part == parts):
                return

    def _snapshot(self) -> State:
        return {
            "network": _copy(self._network),
            "optimiser": copy.deepcopy(self._optimiser.state_dict()),
            "best_network": self._best,
            "steps": self._done,
            "indicators": len(self._network.inputs.indicators),
            "options": dict(self._options),
        }

    def _train_to(self, wanted: int, steps: int) -> None:
        network, seed = self._network.train(), self._run.spec.training.seed
        smoothing = self._run.spec.training.label_smoothing
        torch.manual_seed(seed * 1_000_003 + self._done)  # the random numbers of dropout
        for batch in self._batches(wanted):
            done = self._done / steps
            rate = float(self._options["lr"]) * rising_then_falling(done)
            decay = float(self._options["weight_decay"]) * flat_then_falling(done)
            for group in self._optimiser.param_groups:
                group["lr"], group["weight_decay"] = rate * group["rate"], decay * group["decay"]
            for module in network.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = float(self._options["dropout"]) * flat_then_falling(done)
            labels, weights = batch.pop("label"), batch.pop("weight", None)
            margins = network(**_scale(network, batch))
            loss = torch.stack(
                [self._head.loss(member, labels, smoothing, weights) for member in margins.unbind(1)]
            ).mean()
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimiser.step()
            self._done += 1

    def _batches(self, wanted: int) -> Iterator[dict[str, torch.Tensor]]:
        """Those of the steps up to the wanted one: each pass over the rows has an order of its own."""
        of_pass, seed = count_steps(self._rows, self._size), self._run.spec.training.seed
        while self._done < wanted:
            number, skip = divmod(self._done, of_pass)
            pass_ends = (number + 1) * of_pass
            for batch, _ in self._rows.shuffled(self._size, seed * 100_003 + number, skip):
                yield batch
                if self._done == wanted:
                    return
            self._done = pass_ends  # a last batch that is too small is left out, and counts


def _hold(network: TableNetwork, rows: Batch) -> ResidentRows:
    """The rows on the network's device; the numbers of small tables scaled once, since those of a batch take longer. Of
    large ones that would be a copy of them, and they are read where they lie."""
    device = network.bounds.device
    held = dict(rows)
    if "plain" in held and held["plain"].nbytes <= _SCALED_BYTES:
        with torch.inference_mode():
            scaled, missing = network.inputs.scale(to_tensor(held.pop("plain"), device))
        held["scaled"], held["missing"] = scaled.cpu().numpy(), missing.cpu().numpy()
    return ResidentRows(held, device)


def _copy(network: TableNetwork) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}


class TableNetworkLearner(abc.ABC):
    """A family of table networks. One process; threads are `training.cpus_per_worker`."""

    reads: ClassVar[frozenset[str]] = TREE_TENSORS
    teams: ClassVar[bool] = False
    streams: ClassVar[bool] = False
    name: ClassVar[str]
    options: ClassVar[Mapping[str, Option]] = OPTIONS
    losses: ClassVar[tuple[str, ...]]
    """Of a regression."""
    space: ClassVar[Mapping[str, Dimension]]

    @abc.abstractmethod
    def options_for(self, rows: int, task: str) -> dict[str, Any]:
        """The options that a spec leaves open, for so many training rows."""

    @abc.abstractmethod
    def make(self, job: Job, options: Mapping[str, Any], indicators: int) -> TableNetwork:
        """An untrained network; `indicators` are the columns of numbers with missing values."""

    def check(self, spec: ExperimentSpec, packing: Packing | None, target: FittedTarget | None) -> None:
        check_training(spec, packing, target, losses=self.losses, smooths=True)
        check_options(spec, self.options)

    def row_us(self, spec: ExperimentSpec, packing: Packing, target: FittedTarget, rows: int) -> float:
        """See `learners.row_us_of`."""
        options = {**self.options_for(rows, target.task), **spec.training.options}
        width, inputs = int(options["width"]), packing.plain + len(packing.categories)
        weights = width * (inputs + width * (int(options["layers"]) - 1) + target.outputs)
        return of_layers(weights, int(options.get("members", 1)))

    def fit(self, run: Run) -> None:
        options = {**self.options_for(run.job.train.count, run.job.target.task), **run.spec.training.options}
        train(run, functools.partial(self.make, run.job), options)

    def load(self, state: State, job: Job) -> TableScorer:
        return load_scorer(state, job, functools.partial(self.make, job))

    def to_onnx(self, scorer: TableScorer, packing: Packing, target: FittedTarget) -> onnx.ModelProto:
        assert isinstance(scorer.network, RealMLP | TabM)
        return write_network(scorer.network, packing.only(self.reads), scorer.objective, self.name)
