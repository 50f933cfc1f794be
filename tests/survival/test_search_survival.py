"""Searches whose workers, driver and tracking server are killed at random moments: nothing doubled, stuck or lost.

python -m tests.survival.test_search_survival 10        # more kills than the test's, counts printed
"""

import collections
import dataclasses
import pathlib
import random
import signal
import sys
import tempfile
import time
from typing import Any

import pytest
from mlflow import MlflowClient

from raymlops.settings import Settings
from tests.conftest import settings_in
from tests.experiments import signal_table, spec_of, write_table
from tests.killing import Counts, Driver, TrackingServer, checkpoints, count, train_through_kills, write_spec

EPOCHS, TRIALS = 12, 6
KINDS = ("worker", "driver", "server")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_searches_killed_at_random_moments_end_as_if_they_had_not_been(tmp_path: pathlib.Path) -> None:
    killed, counts = survive(tmp_path, kills=3, draw=random.Random(0))
    assert killed == {"worker": 1, "driver": 1, "server": 1}
    assert counts.faults == {}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("learner", ["network", "lightgbm", "xgboost"])
def test_a_training_of_two_workers_goes_on_after_a_killed_worker_and_a_killed_driver(
    tmp_path: pathlib.Path, learner: str
) -> None:
    settings = settings_in(tmp_path / "home")
    training: dict[str, Any] = {"epochs": 24, "patience": 24, "workers": 2, "learner": learner}
    parts: dict[str, Any] = {"training": {**training, "batch_size": 64}}
    if learner != "network":
        options = {"rounds": 2400, "learning_rate": 0.002}
        parts = {"training": {**training, "options": options}, "network": {}, "search": {"scheduler": "none"}}
    rows = signal_table(30_000 if learner == "network" else 100_000)
    table = write_table(rows, tmp_path / "rows.parquet")
    second = train_through_kills(spec_of("team", {"path": str(table)}, **parts), settings, tmp_path)
    assert "Resuming team-" in second.said
    others = ("train_loss",) if learner == "network" else ()
    found = count(
        settings, "team", searches=1, trials=1, epochs=24, metric="roc_auc", others=(*others, "workers")
    )
    assert (found.searches, found.trials, found.versions, found.faults) == (1, 1, 1, {})


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_interrupted_training_ends_as_one_and_goes_on_with_the_same_command(
    tmp_path: pathlib.Path,
) -> None:
    settings = settings_in(tmp_path / "home")
    table = write_table(signal_table(30_000), tmp_path / "rows.parquet")
    training = {"epochs": 20, "batch_size": 64, "patience": 20}
    spec = spec_of("halted", {"path": str(table)}, training=training)
    file = write_spec(spec, tmp_path / "spec.yaml")
    first = Driver(settings, tmp_path / "first", "train", str(file))
    first.wait_for(lambda: len(checkpoints(settings, spec)) >= 2)
    first.process.send_signal(signal.SIGINT)
    assert first.process.wait(120) == 130, first.said
    client = MlflowClient(settings.tracking_uri)
    experiment = client.get_experiment_by_name("halted")
    assert experiment is not None
    statuses = sorted(run.info.status for run in client.search_runs([experiment.experiment_id]))
    assert statuses == ["FAILED", "KILLED"]
    Driver(settings, tmp_path / "second", "train", str(file)).finish()
    found = count(settings, "halted", searches=1, trials=1, epochs=20, metric="roc_auc")
    assert (found.searches, found.trials, found.versions, found.faults) == (1, 1, 1, {})


class Survivor:
    """A search that is begun again whenever it ended, until all kills are done."""

    def __init__(self, folder: pathlib.Path, settings: Settings) -> None:
        self.folder, self.settings = folder, settings
        self.begun = self.searches = 0
        table = write_table(signal_table(30_000), folder / "rows.parquet")
        space = {"lr": {"low": 0.005, "high": 0.05, "log": True}}
        search = {"algorithm": "random", "scheduler": "none", "trials": TRIALS, "retries": 20, "space": space}
        training = {"epochs": EPOCHS, "batch_size": 64, "patience": EPOCHS}
        spec = spec_of("survivor", {"path": str(table)}, training=training, search=search)
        self.spec = write_spec(spec, folder / "spec.yaml")
        self.driver = self.begin()

    def begin(self, *options: str) -> Driver:
        """A new search, or with --resume the one that was cut off."""
        self.begun += 1
        self.searches += not options
        return Driver(self.settings, self.folder / f"log-{self.begun}", "search", str(self.spec), *options)

    def wait(self, seconds: float) -> None:
        """Let it search for so long; what ended is followed by a new search."""
        if self.driver.process.poll() is not None:
            self.driver.finish()
            self.driver = self.begin()
        self.driver.wait_for(lambda: "Searching" in self.driver.said)
        time.sleep(seconds)


def survive(
    folder: pathlib.Path, *, kills: int, draw: random.Random
) -> tuple[collections.Counter[str], Counts]:
    """Kill so many times, let the last search end, and count what MLflow holds."""
    server = TrackingServer(folder)
    killed: collections.Counter[str] = collections.Counter()
    try:
        settings = settings_in(folder / "home", MLFLOW_TRACKING_URI=server.url)
        survivor = Survivor(folder, settings)
        plan = [KINDS[turn % len(KINDS)] for turn in range(kills)]
        draw.shuffle(plan)
        for kind in plan:
            survivor.wait(draw.uniform(1, 12))
            if kind == "server":
                server.kill()
                time.sleep(draw.uniform(0, 20))
                server.start()
            elif kind == "driver":
                survivor.driver.kill()
                survivor.driver = survivor.begin("--resume")
            else:
                while not survivor.driver.kill_worker(draw):  # between two searches there is none
                    survivor.wait(1)
            killed[kind] += 1
            print(f"{time.strftime('%H:%M:%S')} killed {sum(killed.values())}/{kills}: {kind}", flush=True)
        survivor.driver.finish()
        found = count(
            settings, "survivor", searches=survivor.searches, trials=TRIALS, epochs=EPOCHS, metric="roc_auc"
        )
        return killed, found
    finally:
        server.kill()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
        killed, found = survive(pathlib.Path(directory), kills=int(sys.argv[1]), draw=random.Random(seed))
        print("killed", dict(killed))
        print("found", dataclasses.asdict(found))
        sys.exit(bool(found.faults))
