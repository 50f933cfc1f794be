"""Torch networks, trained alone or by a team of data-parallel workers. The loop itself is in training/loop.py."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx
import torch
from ray import train

from raymlops.features import NETWORK_TENSORS, FittedTarget, Packing
from raymlops.specs.experiment import ExperimentSpec, space_key
from raymlops.specs.training import Dimension, NetworkSpec, TrainingSpec
from raymlops.tensors import Batch
from raymlops.training import linear_start, mlp_export, networks, torch_export
from raymlops.training.heads import HEADS, PoissonLink, make_head
from raymlops.training.learners import ALONE, Job, Run, State
from raymlops.training.loop import train_network
from raymlops.training.packed import narrow
from raymlops.training.row_latency import of_layers
from raymlops.training.rows import to_tensor
from raymlops.training.saving import Saving
from raymlops.training.streamed import open_rows


def network_of(spec: NetworkSpec, packing: Packing, target: FittedTarget) -> torch.nn.Module:
    return networks.build_network(
        spec.name,
        dict(spec.options),
        numeric=packing.numeric,
        categories=packing.categories,
        image=packing.image,
        outputs=target.outputs,
    )


def start_linear_path(network: torch.nn.Module, job: Job, training: TrainingSpec) -> None:
    """Fit the linear path of a network, if it has one, to the first rows; in a team every worker does the same."""
    path = linear_start.find_linear_path(network)
    if path is None:
        return
    rows = {
        name: to_tensor(values, torch.device("cpu"))
        for name, values in job.train.load_first(linear_start.MOST_ROWS).items()
    }
    linear_start.fit_linear_path(path, rows, make_head(training, job.target))


@dataclasses.dataclass(frozen=True)
class NetworkScorer:
    """A trained network, on the CPU."""

    network: torch.nn.Module
    task: str

    def scores(self, batch: Batch) -> npt.NDArray[np.floating[Any]]:
        device = torch.device("cpu")
        tensors = {name: to_tensor(values, device) for name, values in narrow(batch, NETWORK_TENSORS).items()}
        with torch.inference_mode():
            return HEADS[self.task].scores(self.network(**tensors)).numpy()


class NetworkLearner:
    """The networks of `network.name`, trained by AdamW."""

    reads: ClassVar[frozenset[str]] = NETWORK_TENSORS
    teams: ClassVar[bool] = True
    streams: ClassVar[bool] = True
    space: ClassVar[Mapping[str, Dimension]] = {}  # that of fitted defaults is in specs/defaults.py

    def portfolio(self, rows: int, task: str) -> tuple[dict[str, Any], ...]:
        """Good values to try after the defaults, of any network."""
        return ({"lr": 1e-3, "weight_decay": 0.1}, {"lr": 6e-3, "weight_decay": 1e-3})

    def check(self, spec: ExperimentSpec, packing: Packing | None, target: FittedTarget | None) -> None:
        if packing is not None and target is not None:
            network_of(spec.network, packing, target)
            make_head(spec.training, target)
            return
        keys = map(space_key, spec.search.varied)
        searched = {name: None for part, name in keys if part == "network.options"}
        networks.check_options(spec.network.name, {**searched, **spec.network.options})

    def fit(self, run: Run) -> None:
        """With the CPUs, the GPU or the share of one that Ray gave this process."""
        training, job = run.spec.training, run.job
        torch.set_num_threads(run.threads)
        torch.manual_seed(training.seed)  # the same initial weights everywhere
        network = network_of(run.spec.network, job.packing, job.target)
        if run.state is None:
            start_linear_path(network, job, training)
        if run.team is None:
            team, share = ALONE, (0, 1, 1)
            device = torch.device("cuda" if training.use_gpu else "cpu")
            if 0 < training.gpus < 1:
                # the rest belongs to the other trials
                torch.cuda.set_per_process_memory_fraction(training.gpus)
            network = network.to(device)
        else:
            team = run.team
            device = train.torch.get_device()
            network = train.torch.prepare_model(network)
            share = (team.rank, team.world, training.workers)

        def report(metrics: dict[str, float], snapshot: Callable[[], State]) -> bool:
            go_on = run.report(metrics, snapshot)
            saving.saved()
            return go_on

        with Saving(training, device, team) as saving:
            train_network(
                network,
                open_rows(job.train, device, *share),
                open_rows(job.validation, device, *share),
                spec=training,
                target=job.target,
                device=device,
                report=report,
                save_now=saving,
                state=run.state,
                team=team,
                until=run.until,
            )

    def row_us(self, spec: ExperimentSpec, packing: Packing, target: FittedTarget, rows: int) -> float:
        """See `learners.row_us_of`: that of the weights, each read once, without tables of which a row reads little."""
        network = network_of(spec.network, packing, target)
        tables = (part for part in network.modules() if isinstance(part, torch.nn.Embedding))
        weights = sum(weight.numel() for weight in network.parameters())
        return of_layers(weights - sum(table.weight.numel() for table in tables))

    def load(self, state: State, job: Job) -> NetworkScorer:
        network = network_of(job.spec.network, job.packing, job.target)
        network.load_state_dict(state["best_network"])
        if (
            job.spec.training.loss == "poisson"
        ):  # so that its outputs are standardised predictions, as of all others
            network = networks.Linked(network, PoissonLink(job.target))
        return NetworkScorer(network.eval(), job.target.task)

    def to_onnx(self, scorer: NetworkScorer, packing: Packing, target: FittedTarget) -> onnx.ModelProto:
        if isinstance(scorer.network, networks.MLP) and mlp_export.can_write(scorer.network):
            return mlp_export.write_network(scorer.network, packing)
        return torch_export.export_network(scorer.network, packing)
