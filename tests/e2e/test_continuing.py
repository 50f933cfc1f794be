"""A training that loses its worker and then its driver: the same command goes on from the last checkpoint."""

import pathlib

import pytest
import torch
from mlflow import MlflowClient

from tests.conftest import settings_in
from tests.experiments import signal_table, spec_of, write_table
from tests.killing import count, remove_recorded_checkpoints, train_through_kills

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

EPOCHS = 30


def test_the_same_command_goes_on_after_a_killed_worker_and_a_killed_driver(tmp_path: pathlib.Path) -> None:
    settings = settings_in(tmp_path / "home")
    table = write_table(signal_table(30_000), tmp_path / "rows.parquet")
    training = {"epochs": EPOCHS, "batch_size": 64, "patience": EPOCHS}
    spec = spec_of("lasting", {"path": str(table)}, training=training)
    second = train_through_kills(
        spec, settings, tmp_path, between=lambda: remove_recorded_checkpoints(settings, spec)
    )
    assert "Resuming lasting-" in second.said
    found = count(settings, "lasting", searches=1, trials=1, epochs=EPOCHS, metric="roc_auc")
    assert (found.searches, found.trials, found.versions, found.faults) == (1, 1, 1, {})

    # It went on, rather than beginning anew: the trial remembers the first epoch as the first process had it.
    client = MlflowClient(settings.tracking_uri)
    version = client.get_model_version("lasting", "1")
    run = client.get_run(version.tags["raymlops.trial_run"])
    state = torch.load(
        pathlib.Path(run.data.tags["raymlops.checkpoint"]) / "checkpoint.pt", weights_only=True
    )
    logged = client.get_metric_history(run.info.run_id, "rows_per_second")
    assert state["history"][0]["rows_per_second"] == min(logged, key=lambda point: point.step).value
