"""Checkpoints: from the middle of an epoch, on storage that is full or cannot be written, on nodes by their labels."""

import contextlib
import dataclasses
import pathlib
import pickle
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from raymlops import attestation
from raymlops.errors import RaymlopsError, ResourceError, StorageError, UntrustedError
from raymlops.lifecycle.train.prepare import Prepared, prepare
from raymlops.training import demand, worker
from raymlops.training.search import run_search
from raymlops.training.search_state import SearchState, open_state
from raymlops.training.storage import require_writable
from raymlops.training.trials import SearchResult
from tests import experiments
from tests.conftest import settings_in
from tests.ray.test_search import changed

pytestmark = pytest.mark.usefixtures("ray_cluster")

ONE: dict[str, Any] = {"algorithm": "random", "trials": 1, "space": {}}


@pytest.fixture(scope="module")
def prepared(ray_cluster: int, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    path = tmp_path_factory.mktemp("saving") / "rows.parquet"
    experiments.write_table(experiments.signal_table(400), path)
    return prepare(experiments.spec_of("saving", {"path": str(path)}))


def state_of(folder: pathlib.Path) -> SearchState:
    settings = settings_in(folder.parent / "home")
    key = attestation.load_signing_key(settings)
    return open_state(str(folder), "saving", key, attestation.load_trusted_keys(settings))


def search(
    prepared: Prepared, folder: pathlib.Path, told: experiments.Told | None = None, resume: bool = False,
    **parts: dict[str, Any],
) -> SearchResult:  # fmt: skip
    job = dataclasses.replace(prepared.job, spec=changed(prepared.spec, **parts))
    return run_search(
        job, name="saving", storage_path=str(folder), concurrent=2, resume=resume,
        observers=[told or experiments.Told()], state=state_of(folder),
    )  # fmt: skip


@pytest.mark.parametrize("algorithm", ["random", "optuna"])
def test_a_checkpoint_from_the_middle_of_an_epoch_is_no_result_of_the_trial(
    prepared: Prepared, tmp_path: pathlib.Path, algorithm: str
) -> None:
    told = experiments.Told()
    found = search(
        prepared, tmp_path, told, training={"checkpoint_minutes": 1e-6, "epochs": 3, "patience": 3},
        search={"algorithm": algorithm, "scheduler": "asha", "trials": 2,
                "space": {"lr": {"low": 0.01, "high": 0.02}}},
    )  # fmt: skip
    for trial in found.trials:
        assert trial.checkpoint is not None
        state = worker.load_state(trial.checkpoint)
        assert [learned["epoch"] for learned in state["history"]] == told.reported[trial.name]
    assert told.reported[found.best.name] == [1, 2, 3]
    saved = [worker.load_state(path)["step"] for path in tmp_path.glob("saving/*/checkpoint_*")]
    assert len(saved) == 4  # the last two of each trial


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_elastic_trial_starts_with_what_there_is(
    prepared: Prepared, ray_cluster: int, tmp_path: pathlib.Path
) -> None:
    told = experiments.Told()
    found = search(
        prepared, tmp_path, told, search=ONE,
        training={"workers": ray_cluster + 1, "min_workers": 2, "epochs": 2, "checkpoint_minutes": 1e-6},
    )  # fmt: skip
    assert told.reported[found.best.name] == [1, 2]
    assert 2 <= found.best.learned["workers"] <= ray_cluster


def test_workers_run_where_labels_say(prepared: Prepared, tmp_path: pathlib.Path) -> None:
    label = "ray.io/node-id"
    here = ray.get_runtime_context().get_node_id()
    found = search(prepared, tmp_path, search=ONE, training={"labels": {label: here}, "epochs": 1})
    assert found.best.learned["epoch"] == 1
    spec = changed(prepared.spec, training={"labels": {label: f"!{here}"}})
    with pytest.raises(ResourceError, match="room for 0 such workers"):
        demand.check_demand(spec)
    assert demand.check_demand(spec, autoscaling=True) == spec.search.trials


@contextlib.contextmanager
def mounted(folder: pathlib.Path, options: str) -> Iterator[pathlib.Path]:
    """A file system of its own in memory; skips where this user may not mount one."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("ro", r"Read-only file system\. Free space there, or set RAYMLOPS_STORAGE"),
        ("size=2m", r"is full: \d+\.\d MiB are free"),
    ],
)
def test_storage_that_cannot_be_used_is_told_before_anything_starts(
    tmp_path: pathlib.Path, options: str, told: str
) -> None:
    with mounted(tmp_path / "storage", options) as folder, pytest.raises(StorageError, match=told):
        require_writable(str(folder))


class Filling(experiments.Told):
    """Fills the storage once a trial has reported its third epoch."""

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__()
        self._folder = folder

    def trial_reported(self, trial: str, learned: Any) -> None:
        super().trial_reported(trial, learned)
        if learned["epoch"] == 3:
            with contextlib.suppress(OSError):
                (self._folder / "other").write_bytes(bytes(2**26))


class Evil:
    """A pickle that leaves a file behind when it is read."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return pathlib.Path.touch, (self._path,)


class Replacing(experiments.Told):
    """Puts a pickle in the place of a trial's error, as who may write to the storage can."""

    def __init__(self, folder: pathlib.Path, evil: bytes) -> None:
        super().__init__()
        self._folder, self._evil = folder, evil

    def trial_ended(self, trial: str, error: str | None) -> None:
        super().trial_ended(trial, error)
        for place in (self._folder / "saving").glob("*/"):
            (place / "error.pkl").write_bytes(self._evil)


def test_no_pickle_that_another_put_at_the_storage_path_is_read(
    prepared: Prepared, tmp_path: pathlib.Path
) -> None:
    folder, left = tmp_path / "storage", tmp_path / "left"
    evil = pickle.dumps(Evil(left))
    parts: dict[str, Any] = {
        "search": ONE | {"retries": 0},
        "training": {"epochs": 1},
        "network": {"name": "tests.own_networks:Fails"},
    }
    with pytest.raises(RaymlopsError, match="it fails"):
        search(prepared, folder, Replacing(folder, evil), **parts)
    state_of(folder).require_signed()
    assert list(folder.glob("saving/*/error.pkl"))
    (folder / "saving" / "tuner.pkl").write_bytes(evil)
    with pytest.raises(
        UntrustedError, match=r"'tuner\.pkl' of the search 'saving' is not what a trusted key signed"
    ):
        search(prepared, folder, resume=True, **parts)
    assert not left.exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_storage_that_fills_ends_the_search_at_once_and_it_goes_on_once_there_is_room(
    prepared: Prepared, tmp_path: pathlib.Path
) -> None:
    check_full_storage(prepared, tmp_path, workers=1)


def check_full_storage(prepared: Prepared, folder: pathlib.Path, workers: int) -> None:
    parts: dict[str, Any] = {"search": ONE, "training": {"epochs": 15, "patience": 99, "workers": workers}}
    with mounted(folder / "storage", "size=16m") as storage:
        told = Filling(storage)
        with pytest.raises(StorageError, match=r"is full|No space left on device"):
            search(prepared, storage, told, **parts)
        (reported,) = told.reported.values()
        assert reported == list(range(1, len(reported) + 1))
        assert 3 <= len(reported) < 15
        (storage / "other").unlink()
        again = experiments.Told()
        found = search(prepared, storage, again, resume=True, **parts)
        (rest,) = again.reported.values()
        assert rest[0] > 1  # from a checkpoint, not from the start
        assert rest == list(range(rest[0], 16))
        assert rest[0] <= len(reported) + 1
        assert found.best.checkpoint is not None
        history = worker.load_state(found.best.checkpoint)["history"]
        assert [learned["epoch"] for learned in history] == list(range(1, 16))
