"""Trials of one worker and of a team of two, on rows that are streamed, saved in the middle of epochs at a URI: one
search of each, of which the tests look at one thing after the other."""

import dataclasses
import pathlib

import pytest
import ray

from raymlops import attestation
from raymlops.lifecycle.train.prepare import Prepared, prepare
from raymlops.training import worker
from raymlops.training.learners.network import network_of
from raymlops.training.search import run_search
from raymlops.training.search_state import open_state
from raymlops.training.trials import SearchResult
from tests import experiments
from tests.conftest import settings_in
from tests.killing import wait_until
from tests.ray.test_search import assert_each_trial_once

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclasses.dataclass(frozen=True)
class Trained:
    """A search of one trial."""

    prepared: Prepared
    storage: str
    found: SearchResult
    told: experiments.Told


@pytest.fixture(scope="module", params=[1, 2], ids=["one", "two"])
def trained(
    request: pytest.FixtureRequest, ray_cluster: int, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    folder: pathlib.Path = tmp_path_factory.mktemp("workers")
    path = experiments.write_table(experiments.signal_table(400), folder / "rows.parquet")
    training = {
        "resident_bytes": 0, "workers": request.param, "epochs": 3, "checkpoint_minutes": 1e-6, "batch_size": 64,
        "lr": 0.02,
    }  # fmt: skip
    search = {"algorithm": "random", "trials": 1, "space": {}}
    prepared = prepare(experiments.spec_of("workers", {"path": str(path)}, training=training, search=search))
    settings = settings_in(folder / "home")
    storage = (folder / "storage").as_uri()
    key, keys = attestation.load_signing_key(settings), attestation.load_trusted_keys(settings)
    told = experiments.Told()
    found = run_search(
        prepared.job, name="saving", storage_path=storage, concurrent=2, observers=[told],
        state=open_state(storage, "saving", key, keys),
    )  # fmt: skip
    return Trained(prepared, storage, found, told)


def test_rows_that_are_streamed_are_learned_from_and_saved_between(trained: Trained) -> None:
    assert_each_trial_once(trained.found, trained.told)
    assert trained.told.reported[trained.found.best.name] == [1, 2, 3]
    assert trained.found.best.learned["best_roc_auc"] > 0.5


def test_storage_may_be_a_uri(trained: Trained) -> None:
    checkpoint = trained.found.best.checkpoint
    assert checkpoint is not None
    assert checkpoint.startswith(f"{trained.storage}/saving/")
    assert worker.load_state(checkpoint)["epoch"] == 3


def test_a_team_trains_one_network_on_all_rows(trained: Trained) -> None:
    """The bare network is saved, without the wrapper of its team."""
    assert trained.found.best.checkpoint is not None
    state = worker.load_state(trained.found.best.checkpoint)
    prepared = trained.prepared
    network = network_of(prepared.spec.network, prepared.job.packing, prepared.job.target)
    network.load_state_dict(state["best_network"])


def test_a_team_of_trees_that_its_search_ended_gives_its_places_back(
    ray_cluster: int, tmp_path: pathlib.Path
) -> None:
    """ASHA ends a trial after its last epoch, before its team could end by itself."""
    path = experiments.write_table(experiments.signal_table(600), tmp_path / "rows.parquet")
    training = {"learner": "lightgbm", "workers": 2, "resident_bytes": 0, "options": {"rounds": 40}}
    search = {"algorithm": "random", "scheduler": "asha", "trials": 1, "space": {}}
    spec = experiments.spec_of("trees", {"path": str(path)}, network={}, training=training, search=search)
    found = run_search(prepare(spec).job, name="trees", storage_path=str(tmp_path / "storage"), concurrent=1)
    assert found.best.learned["workers"] == 2
    assert found.best.learned["best_roc_auc"] > 0.9
    wait_until(
        lambda: all(group["state"] == "REMOVED" for group in ray.util.placement_group_table().values()),
        lambda: str(ray.util.placement_group_table()),
        seconds=60,
    )
