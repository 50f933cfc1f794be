"""One worker's training: builds the network, resumes from a checkpoint directory, and saves one after
each epoch."""

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, cast

import ray
import torch
from ray import train, tune

from raymlops.features import FittedTarget, Packing
from raymlops.specs.experiment import ExperimentSpec
from raymlops.specs.training import NetworkSpec
from raymlops.training.loop import State, Team, train_network
from raymlops.training.networks import build_network
from raymlops.training.packed import PackedSplit

CHECKPOINT_FILE = "checkpoint.pt"


@dataclasses.dataclass(frozen=True)
class Job:
    """What a training needs beside its parameters; travels to the workers as it is."""

    spec: ExperimentSpec
    packing: Packing
    target: FittedTarget
    train: PackedSplit
    validation: PackedSplit


def network_of(spec: NetworkSpec, packing: Packing, target: FittedTarget) -> torch.nn.Module:
    return build_network(spec.name, dict(spec.options), **dataclasses.asdict(packing), outputs=target.outputs)


def run_alone(job: Job, spec: ExperimentSpec) -> None:
    """Train in this process, as a Tune trial, with the CPUs or the GPU that Ray gave it."""
    torch.set_num_threads(max(1, int(spec.training.cpus_per_worker)))
    torch.manual_seed(spec.training.seed)
    device = torch.device("cuda" if spec.training.use_gpu else "cpu")
    network = network_of(spec.network, job.packing, job.target).to(device)
    found = tune.get_checkpoint()

    def report(metrics: dict[str, float], snapshot: Callable[[], State]) -> bool:
        with _saved(snapshot()) as directory:
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(directory))
        return True

    train_network(
        network,
        job.train.to_rows(device),
        job.validation.to_rows(device),
        spec=spec.training,
        target=job.target,
        device=device,
        report=report,
        state=_load_from(found) if found else None,
    )


def run_in_team(config: dict[str, Any]) -> None:
    """Train as one of several workers of a TorchTrainer."""
    job, spec = cast(Job, ray.get(config["job"][0])), cast(ExperimentSpec, config["spec"])
    context = train.get_context()
    team = Team(context.get_world_rank(), context.get_world_size())
    torch.set_num_threads(max(1, int(spec.training.cpus_per_worker)))
    torch.manual_seed(spec.training.seed)
    device = train.torch.get_device()
    network = train.torch.prepare_model(network_of(spec.network, job.packing, job.target))
    torch.manual_seed(
        spec.training.seed + team.rank
    )  # the same start everywhere, then dropout of each worker's own
    found = train.get_checkpoint()

    def report(metrics: dict[str, float], snapshot: Callable[[], State]) -> bool:
        if team.rank != 0:
            train.report(metrics)
            return True
        with _saved(snapshot()) as directory:
            train.report(metrics, checkpoint=train.Checkpoint.from_directory(directory))
        return True

    streamed = {
        name: train.get_dataset_shard(name) if split.dataset is not None else None
        for name, split in (("train", job.train), ("validation", job.validation))
    }
    train_network(
        network,
        job.train.to_rows(device, team.rank, team.world, streamed["train"]),
        job.validation.to_rows(device, team.rank, team.world, streamed["validation"]),
        spec=spec.training,
        target=job.target,
        device=device,
        report=report,
        state=_load_from(found) if found else None,
        team=team,
    )


@contextlib.contextmanager
def _saved(state: State) -> Iterator[str]:
    """A directory that holds the state while it is reported."""
    with tempfile.TemporaryDirectory(prefix="raymlops-") as directory:
        torch.save(state, pathlib.Path(directory) / CHECKPOINT_FILE)
        yield directory


def _load_from(checkpoint: Any) -> State:
    with checkpoint.as_directory() as directory:
        return load_state(directory)


def load_state(directory: str | pathlib.Path) -> State:
    """The state in a checkpoint directory; tensors and numbers only, so no code is run."""
    path = pathlib.Path(directory) / CHECKPOINT_FILE
    return cast(State, torch.load(path, map_location="cpu", weights_only=True))
