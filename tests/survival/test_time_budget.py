"""A search whose trials take longer than search.max_minutes ends with a registered model of what they reached."""

import pathlib

import pytest

from raymlops.lifecycle.train.develop import Request, develop_model
from tests import experiments
from tests.conftest import settings_in

pytestmark = pytest.mark.slow


@pytest.mark.timeout(600)
def test_trials_are_ended_and_the_best_of_what_they_reached_is_registered(tmp_path: pathlib.Path) -> None:
    table = experiments.write_table(experiments.signal_table(3000), tmp_path / "rows.parquet")
    spec = experiments.spec_of(
        "hurried",
        {"path": str(table)},
        training={"epochs": 100_000, "batch_size": 64, "patience": 100_000},
        search={"trials": 1000, "max_minutes": 1.0, "scheduler": "none", "algorithm": "random", "space": {
            "lr": {"low": 1e-4, "high": 1e-2}}},
    )  # fmt: skip
    said: list[str] = []
    outcome = develop_model(spec, settings_in(tmp_path / "home"), Request(name="hurried"), tell=said.append)
    assert outcome.version == "1"
    assert outcome.trusted is not None
    assert len(outcome.search.trials) < 1000
    assert 1 <= outcome.search.best.learned["epoch"] < 100_000
    assert any("so that the model is registered within search.max_minutes: 1" in line for line in said)
