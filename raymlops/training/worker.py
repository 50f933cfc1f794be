"""One worker's training: resumes its learner from a checkpoint directory, and saves one at each report."""

import contextlib
import pathlib
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import fsspec
import numpy as np
import ray
import torch
from ray import train, tune
from ray.train.collective import broadcast_from_rank_zero
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from raymlops import locations
from raymlops.errors import StorageError
from raymlops.specs.experiment import ExperimentSpec
from raymlops.training import learners
from raymlops.training.learners import Job, Run, State, Team
from raymlops.training.storage import explained, require_room
from raymlops.training.team_resources import describe_group

CHECKPOINT_FILE = "checkpoint.pt"


def run_alone(job: Job, spec: ExperimentSpec, storage_path: str) -> None:
    """Train in this process, as a Tune trial."""
    found = tune.get_checkpoint()

    def report(metrics: dict[str, float], snapshot: Callable[[], State]) -> bool:
        with saved(snapshot(), storage_path) as directory:
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(directory))
        return True

    learners.fit(Run(job, spec, report, _load_from(found) if found else None))


def run_in_team(config: dict[str, Any]) -> None:
    """Train as one of several workers of a trainer of Ray Train."""
    job, spec = cast(Job, ray.get(config["job"][0])), cast(ExperimentSpec, config["spec"])
    context = train.get_context()
    team = Team(context.get_world_rank(), context.get_world_size())
    found = train.get_checkpoint()

    def report(metrics: dict[str, float], snapshot: Callable[[], State]) -> bool:
        if team.rank == 0:
            with saved(snapshot(), config["storage_path"]) as directory:
                told = {**metrics, **describe_group()}
                train.report(told, checkpoint=train.Checkpoint.from_directory(directory))
        else:
            train.report(metrics)
        return True

    with _connected(team):
        learners.fit(Run(job, spec, report, _load_from(found) if found else None, team))


@contextlib.contextmanager
def _connected(team: Team) -> Iterator[None]:
    """The team's process group for `torch.distributed`, where its trainer made none of its own."""
    if team.world == 1 or distributed.is_initialized():
        yield
        return
    address, store = ray.util.get_node_ip_address(), None
    if team.rank == 0:
        store = TCPStore(address, 0, team.world, is_master=True, wait_for_workers=False)
    host, port = broadcast_from_rank_zero((address, store.port if store else 0))
    store = store or TCPStore(host, port, team.world, is_master=False)
    distributed.init_process_group("gloo", store=store, rank=team.rank, world_size=team.world)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def train_to_end(job: Job, spec: ExperimentSpec, until: int | None = None) -> State:
    """Train in this process, and return the state at the end, which has the best model; see `Run.until`."""
    last: list[Callable[[], State]] = []

    def report(metrics: dict[str, float], snapshot: Callable[[], State]) -> bool:
        last[:] = [snapshot]
        return True

    learners.fit(Run(job, spec, report, until=until))
    return last[0]()


def save_state(state: State, location: str) -> None:
    """Write it as the checkpoint of a folder, a path or URI. Raises StorageError."""
    filesystem, folder = locations.open_location(location)
    with explained(location):
        filesystem.makedirs(folder, exist_ok=True)
    with saved(state, location) as directory:
        filesystem.put_file(f"{directory}/{CHECKPOINT_FILE}", f"{folder}/{CHECKPOINT_FILE}")


@contextlib.contextmanager
def saved(state: State, storage_path: str) -> Iterator[str]:
    """A directory that holds the state while it is reported. Raises StorageError if it cannot be written."""
    with tempfile.TemporaryDirectory(prefix="raymlops-") as directory:
        file = pathlib.Path(directory) / CHECKPOINT_FILE
        try:
            torch.save({name: _to_tensors(value) for name, value in state.items()}, file)
        except (OSError, RuntimeError) as error:  # torch's own error, when the disk is full
            raise StorageError(
                f"Cannot write a checkpoint to the temporary folder of node {platform.node()}: {error}. Free space "
                f"in {tempfile.gettempdir()} there, or set TMPDIR"
            ) from None
        require_room(storage_path, file.stat().st_size)
        with explained(storage_path):
            yield directory


def _to_tensors(value: Any) -> Any:
    """Arrays as tensors: numpy's own would be unpickled when the state is read."""
    return torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value


def _load_from(checkpoint: Any) -> State:
    with checkpoint.as_directory() as directory:
        return load_state(directory)


def count_state_bytes(state: Any) -> int:
    """Of all tensors of a state, at any depth."""
    if isinstance(state, Mapping):
        return sum(map(count_state_bytes, state.values()))
    if isinstance(state, list | tuple):
        return sum(map(count_state_bytes, state))
    return int(getattr(state, "nbytes", 8))


def load_state(directory: str | pathlib.Path) -> State:
    """The state in a checkpoint directory, a path or URI; tensors and numbers only, so no code is run."""
    with fsspec.open(f"{directory}/{CHECKPOINT_FILE}", "rb") as file:
        return cast(State, torch.load(file, map_location="cpu", weights_only=True))
