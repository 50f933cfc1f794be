"""A training that is cut off after any of its reports ends as if it had not been, whatever family it is of. Networks
are in test_loop.py and test_teams.py."""

import pathlib
from typing import Any

import numpy as np
import pytest

from raymlops.training import worker
from raymlops.training.learners import (
    LEARNERS,
    Job,
    Run,
    State,
    boosting,
    find_learner,
    linear,
    read_by,
    steps,
)
from tests.learner_rows import draw_rows, job_for, spec_for

OPTIONS: dict[str, dict[str, Any]] = {
    "linear": {},
    "lightgbm": {"rounds": 12, "bagging_fraction": 0.7, "feature_fraction": 0.7},
    "xgboost": {"rounds": 12},
    "forest": {"trees": 10},
    "ebm": {"rounds": 20, "outer_bags": 2, "interactions": 2},
    "realmlp": {"steps": 12, "width": 16, "batch_size": 64},
    "tabm": {"steps": 12, "width": 16, "batch_size": 64, "members": 2},
}
ONE_REPORT = {"forest", "ebm"}
"""Their libraries train a model in one go: a trial that was cut off has nothing to go on from."""


def train(job: Job, state: State | None = None) -> list[tuple[dict[str, float], State]]:
    """All that was reported."""
    told: list[tuple[dict[str, float], State]] = []

    def report(metrics: dict[str, float], snapshot: Any) -> bool:
        told.append((dict(metrics), snapshot()))
        return True

    learner = find_learner(job.spec.training.learner)
    learner.fit(Run(job.only(read_by(learner)), job.spec, report, state))
    return told


@pytest.mark.parametrize("learner", OPTIONS)
def test_a_training_goes_on_from_each_of_its_checkpoints_to_the_same_model_and_reports(
    learner: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (boosting, steps, linear):
        monkeypatch.setattr(module, "REPORT_SECONDS", 0.0)
    spec = spec_for(learner, OPTIONS[learner], epochs=4, patience=9, seed=3)
    job = job_for(spec, "binary", draw_rows(400, "binary", 1), draw_rows(200, "binary", 2))
    whole, test, family = train(job), draw_rows(300, "binary", 3, unseen=0.1), find_learner(learner)
    assert [metrics["epoch"] for metrics, _ in whole] == list(range(1, len(whole) + 1))
    assert (len(whole) == 1) is (learner in ONE_REPORT)
    expected = family.load(whole[-1][1], job).scores(test)
    for done, (_, state) in enumerate(whole[:-1], start=1):
        with worker.saved(state, str(tmp_path)) as directory:
            kept = worker.load_state(directory)
        rest = train(job, kept)
        assert [metrics for metrics, _ in rest] == [metrics for metrics, _ in whole[done:]]
        np.testing.assert_array_equal(family.load(rest[-1][1], job).scores(test), expected)
    if learner in ONE_REPORT:
        np.testing.assert_array_equal(family.load(train(job)[-1][1], job).scores(test), expected)


def test_each_family_of_the_core_is_looked_at() -> None:
    from_extras = {name for name in LEARNERS if name in ("catboost", "keras", "sklearn")}
    assert OPTIONS.keys() == LEARNERS.keys() - {"network"} - from_extras
