"""One worker's training: builds the network, resumes from a checkpoint directory, and saves one after
each epoch, or when it is time to."""

import contextlib
import dataclasses
import pathlib
import platform
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, cast

import fsspec
import ray
import torch
from ray import train, tune

from raymlops.errors import StorageError
from raymlops.features import FittedTarget, Packing
from raymlops.specs.experiment import ExperimentSpec
from raymlops.specs.training import NetworkSpec
from raymlops.training.loop import State, Team, train_network
from raymlops.training.networks import build_network
from raymlops.training.packed import PackedSplit
from raymlops.training.saving import Saving
from raymlops.training.storage import explained, require_room

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


def run_alone(job: Job, spec: ExperimentSpec, storage_path: str) -> None:
    """Train in this process, as a Tune trial, with the CPUs, the GPU or the share of one that Ray gave it."""
    torch.set_num_threads(max(1, int(spec.training.cpus_per_worker)))
    torch.manual_seed(spec.training.seed)
    device = torch.device("cuda" if spec.training.use_gpu else "cpu")
    if 0 < spec.training.gpus < 1:
        torch.cuda.set_per_process_memory_fraction(spec.training.gpus)  # the rest is the other trials'
    network = network_of(spec.network, job.packing, job.target).to(device)
    found = tune.get_checkpoint()

    def report(metrics: dict[str, float], snapshot: Callable[[], State]) -> bool:
        with _saved(snapshot(), storage_path) as directory:
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(directory))
        saving.saved()
        return True

    with Saving(spec.training, device, Team()) as saving:
        train_network(
            network,
            job.train.to_rows(device),
            job.validation.to_rows(device),
            spec=spec.training,
            target=job.target,
            device=device,
            report=report,
            save_now=saving,
            state=_load_from(found) if found else None,
        )


def run_in_team(config: dict[str, Any]) -> None:
    """Train as one of several workers of a TorchTrainer."""
    job, spec = cast(Job, ray.get(config["job"][0])), cast(ExperimentSpec, config["spec"])
    context = train.get_context()
    team = Team(context.get_world_rank(), context.get_world_size())
    torch.set_num_threads(max(1, int(spec.training.cpus_per_worker)))
    torch.manual_seed(spec.training.seed)  # the same start everywhere
    device = train.torch.get_device()
    network = train.torch.prepare_model(network_of(spec.network, job.packing, job.target))
    found = train.get_checkpoint()

    def report(metrics: dict[str, float], snapshot: Callable[[], State]) -> bool:
        if team.rank == 0:
            with _saved(snapshot(), config["storage_path"]) as directory:
                train.report(metrics, checkpoint=train.Checkpoint.from_directory(directory))
        else:
            train.report(metrics)
        saving.saved()
        return True

    part = (device, team.rank, team.world, spec.training.workers)
    with Saving(spec.training, device, team) as saving:
        train_network(
            network,
            job.train.to_rows(*part),
            job.validation.to_rows(*part),
            spec=spec.training,
            target=job.target,
            device=device,
            report=report,
            save_now=saving,
            state=_load_from(found) if found else None,
            team=team,
        )


@contextlib.contextmanager
def _saved(state: State, storage_path: str) -> Iterator[str]:
    """A directory that holds the state while it is reported. Raises StorageError where it cannot be kept."""
    with tempfile.TemporaryDirectory(prefix="raymlops-") as directory:
        file = pathlib.Path(directory) / CHECKPOINT_FILE
        try:
            torch.save(state, file)
        except (OSError, RuntimeError) as error:  # torch's own, when the disk is full
            raise StorageError(
                f"Cannot write a checkpoint to the temporary folder of node {platform.node()}: {error}. Free space "
                f"in {tempfile.gettempdir()} there, or set TMPDIR"
            ) from None
        require_room(storage_path, file.stat().st_size)
        with explained(storage_path):
            yield directory


def _load_from(checkpoint: Any) -> State:
    with checkpoint.as_directory() as directory:
        return load_state(directory)


def load_state(directory: str | pathlib.Path) -> State:
    """The state in a checkpoint directory, a path or URI; tensors and numbers only, so no code is run."""
    with fsspec.open(f"{directory}/{CHECKPOINT_FILE}", "rb") as file:
        return cast(State, torch.load(file, map_location="cpu", weights_only=True))
