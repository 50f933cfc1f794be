"""A search goes on where learners of the user's own raise, hang, or take more memory than there is."""

import pathlib

import pytest

from raymlops.lifecycle.train.develop import Request, develop_model
from tests import experiments
from tests.conftest import settings_in

pytestmark = pytest.mark.slow
BAD = ("Hanging", "Killed", "Greedy", "Raising", "Leaving")


@pytest.mark.timeout(900)
def test_the_others_go_on_and_each_failure_is_told_with_its_cause(tmp_path: pathlib.Path) -> None:
    table = experiments.write_table(experiments.signal_table(600), tmp_path / "rows.parquet")
    own = [f"tests.own_learners:{name}" for name in BAD]
    spec = experiments.spec_of(
        "troubled",
        {"path": str(table)},
        defaults="fitted",
        network={},
        training={},
        search={
            "learners": [*own, "linear"],
            "trials": 14,
            "trial_minutes": 1,
            "retries": 0,
            "concurrent": 2,
            "folds": 0,
        },
    )
    outcome = develop_model(spec, settings_in(tmp_path / "home"), Request(name="troubled"))
    assert outcome.version == "1"
    trials = outcome.search.trials
    errors: dict[str, list[str]] = {}
    for trial in trials:
        if trial.error is not None:
            name = trial.parameters["training.learner"].rpartition(":")[2]
            errors.setdefault(name, []).append(trial.error)
    assert "search.trial_minutes is 1" in errors["Hanging"][0]
    assert "the next trials of its learner train on" in errors["Killed"][0]
    assert "there was too little memory" in errors["Greedy"][0]
    assert "lines of trouble" in errors["Raising"][0]
    assert "sys.exit" in errors["Leaving"][0]
    finished = {trial.parameters["training.learner"] for trial in trials if trial.error is None}
    assert "linear" in finished


@pytest.mark.timeout(900)
def test_a_learner_that_hangs_does_not_take_the_time_of_a_search_beyond_its_budget(
    tmp_path: pathlib.Path,
) -> None:
    table = experiments.write_table(experiments.signal_table(600), tmp_path / "rows.parquet")
    spec = experiments.spec_of(
        "hanging",
        {"path": str(table)},
        defaults="fitted",
        network={},
        training={},
        search={"learners": ["tests.own_learners:Hanging", "linear"], "max_minutes": 2, "concurrent": 2},
    )
    outcome = develop_model(spec, settings_in(tmp_path / "home"), Request(name="hanging"))
    assert outcome.version == "1"
    assert outcome.search.best.parameters["training.learner"] == "linear"
