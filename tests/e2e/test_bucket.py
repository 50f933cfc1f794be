"""Checkpoints, search state, the dataset and MLflow's files in a bucket: a search that is killed goes on, and what is
wrong with a bucket is told in one sentence."""

import json
import pathlib
import pickle
from collections.abc import Iterator

import pytest
from mlflow import MlflowClient

from raymlops import locations
from raymlops.clusters.storage import open_folder
from raymlops.data import sources
from raymlops.errors import DataError, NotFoundError, StorageError
from raymlops.lifecycle.train import run_heartbeat
from raymlops.specs.experiment import ExperimentSpec
from raymlops.tracking import registry
from raymlops.training.pruned_checkpoints import replace_pruned
from raymlops.training.storage import require_writable
from tests.bucket_server import BUCKET, BucketServer
from tests.conftest import settings_in
from tests.experiments import signal_table, spec_of, write_table
from tests.killing import Driver, count, write_spec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

EPOCHS = 15
STORAGE = f"s3://{BUCKET}/storage"


@pytest.fixture
def server(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketServer]:
    server = BucketServer(tmp_path)
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    yield server
    server.kill()


def checkpoints(spec: ExperimentSpec) -> set[str]:
    files, folder = locations.open_location(STORAGE)
    return {
        path for path in files.find(folder) if f"/{spec.name}-" in path and path.endswith("/checkpoint.pt")
    }


def test_a_search_whose_all_is_in_a_bucket_goes_on_after_it_was_killed(
    server: BucketServer, tmp_path: pathlib.Path
) -> None:
    kept = {"RAYMLOPS_STORAGE": STORAGE, "RAYMLOPS_ARTIFACTS": f"s3://{BUCKET}/mlflow"}
    settings = settings_in(tmp_path / "home", **kept)
    files, folder = locations.open_location(f"s3://{BUCKET}/rows", "part.parquet")
    files.put_file(write_table(signal_table(8_000), tmp_path / "rows.parquet"), folder)
    space = {"lr": {"low": 0.005, "high": 0.05, "log": True}}
    spec = spec_of(
        "bucketed",
        {"path": f"s3://{BUCKET}/rows/"},
        training={"epochs": EPOCHS, "batch_size": 64, "patience": EPOCHS},
        search={"algorithm": "random", "scheduler": "none", "trials": 2, "space": space},
    )
    file = write_spec(spec, tmp_path / "spec.yaml")
    seen: set[str] = set()
    first = Driver(settings, tmp_path / "first", "search", str(file), **kept, **server.variables)
    first.wait_for(lambda: seen.update(checkpoints(spec)) or len(seen) >= 3)
    first.kill()
    second = Driver(
        settings, tmp_path / "second", "search", str(file), "--resume", **kept, **server.variables
    )
    second.finish()

    found = count(settings, "bucketed", searches=1, trials=2, epochs=EPOCHS, metric="roc_auc")
    assert (found.searches, found.trials, found.versions, found.faults) == (1, 2, 1, {})
    version = registry.resolve("models:/bucketed@champion", settings)
    assert version.file.is_file()
    client = MlflowClient(settings.tracking_uri)
    assert client.get_model_version("bucketed", version.version).source.startswith(f"s3://{BUCKET}/mlflow/")
    assert not pathlib.Path("s3:").exists()


def test_what_is_wrong_with_a_bucket_is_told_in_one_sentence(
    server: BucketServer, tmp_path: pathlib.Path
) -> None:
    spec = spec_of("bucketed", {"path": "rows.parquet"})
    require_writable(STORAGE)
    require_writable(f"s3://{BUCKET}/x?region=us-east-1")
    assert run_heartbeat.list_unfinished(STORAGE, spec) == []
    with pytest.raises(StorageError, match="there is no such bucket"):
        require_writable("s3://nowhere/storage")
    with pytest.raises(NotFoundError, match="No file or folder 's3://nowhere/rows'; check"):
        sources.locate("s3://nowhere/rows")
    kept = {"RAYMLOPS_STORAGE": "s3://nowhere/storage", "RAYMLOPS_ARTIFACTS": "s3://nowhere/mlflow"}
    doctor = Driver(settings_in(tmp_path / "home"), tmp_path / "said", "doctor", **kept, **server.variables)
    assert doctor.process.wait(120) == 2
    for kind in (
        "write to the storage path 's3://nowhere/storage'",
        "use the artifacts at 's3://nowhere/mlflow'",
    ):
        assert f"Cannot {kind}: there is no such bucket" in doctor.said
    server.kill()
    with pytest.raises(StorageError, match=r"does not answer.*AWS_ENDPOINT_URL"):
        require_writable(STORAGE)
    with pytest.raises(StorageError, match=r"Cannot read .* does not answer"):
        run_heartbeat.list_unfinished(STORAGE, spec)  # rather than none
    with pytest.raises(StorageError, match="does not answer"):
        open_folder(STORAGE)
    with pytest.raises(DataError, match="does not answer"):
        sources.locate(f"s3://{BUCKET}/rows")


def test_deployments_are_remembered_in_a_bucket(server: BucketServer) -> None:
    files, folder = open_folder(STORAGE, "deployments", "flights")
    files.makedirs(folder, exist_ok=True)
    files.pipe_file(f"{folder}/000001.json", b"{}")
    assert files.glob(f"{folder}/*.json") == [f"{BUCKET}/storage/deployments/flights/000001.json"]


def test_a_checkpoint_that_a_record_names_and_is_gone_is_replaced_in_a_bucket(server: BucketServer) -> None:
    files, folder = locations.open_location(STORAGE, "search")
    files.makedirs(f"{folder}/trial", exist_ok=True)
    named = pickle.dumps("trial/checkpoint_000003").hex()
    trial = {"status": "RUNNING", "relative_logdir": "trial"}
    state = {"trial_data": [[json.dumps(trial), json.dumps({"value": named})]]}
    files.pipe_file(f"{folder}/experiment_state-1.json", json.dumps(state).encode())
    for number in (5, 6):
        files.pipe_file(f"{folder}/trial/checkpoint_{number:06d}/checkpoint.pt", str(number).encode())
    assert replace_pruned(f"{STORAGE}/search") == ["trial"]
    found = {path.rpartition("/trial/")[2]: files.cat_file(path) for path in files.find(f"{folder}/trial")}
    assert found == {f"checkpoint_00000{n}/checkpoint.pt": b"%d" % max(n, 5) for n in (3, 5, 6)}
