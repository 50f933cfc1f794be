"""Models that are trained again for as many epochs as were best."""

import pathlib
from typing import Any

import numpy as np
import pytest

from raymlops.training import worker
from raymlops.training.learners import find_learner, read_by
from raymlops.training.refits import find_best_epoch
from tests.learner_rows import TASKS, draw_rows, job_for, spec_for

OPTIONS: dict[str, dict[str, Any]] = {
    "linear": {},
    "lightgbm": {"rounds": 60, "bagging_fraction": 0.7, "learning_rate": 0.3},
    "xgboost": {"rounds": 60, "learning_rate": 0.3},
    "forest": {"trees": 10},
    "ebm": {"rounds": 20, "outer_bags": 2, "interactions": 2},
    "realmlp": {"steps": 60, "width": 16, "batch_size": 64},
    "tabm": {"steps": 30, "width": 16, "batch_size": 64, "members": 2},
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("learner", OPTIONS)
def test_on_the_rows_of_before_it_is_the_model_of_before(
    learner: str, task: str, tmp_path: pathlib.Path
) -> None:
    spec = spec_for(learner, OPTIONS[learner], epochs=12, patience=3, batch_size=64, seed=3)
    job = job_for(spec, task, draw_rows(300, task, 1), draw_rows(150, task, 2))
    job, family = job.only(read_by(find_learner(learner))), find_learner(learner)
    state = worker.train_to_end(job, spec)
    with worker.saved(state, str(tmp_path)) as directory:
        kept = worker.load_state(directory)
    epoch = find_best_epoch(kept, spec.training.metric_of(task))
    assert epoch is not None
    again = worker.train_to_end(job, spec, until=epoch)
    assert len(again["history"]) == epoch
    rows = draw_rows(200, task, 4, unseen=0.1)
    found, expected = (family.load(one, job).scores(rows) for one in (again, kept))
    np.testing.assert_array_equal(found, expected)


def test_a_training_of_more_rows_goes_as_far_whatever_its_metrics_are() -> None:
    spec = spec_for("lightgbm", {"rounds": 60}, epochs=12, patience=1)
    rows, wrong = draw_rows(300, "binary", 1), dict(draw_rows(150, "binary", 2))
    wrong["label"] = 1 - wrong["label"]  # the more it learns, the worse it answers these
    job = job_for(spec, "binary", rows, wrong).only(read_by(find_learner("lightgbm")))
    assert len(worker.train_to_end(job, spec)["history"]) < 5
    state = worker.train_to_end(job, spec, until=5)
    assert len(state["history"]) == 5
    assert int(state["best_rounds"]) > 20


def test_a_state_without_epochs_has_no_best_one() -> None:
    assert find_best_epoch({"weights": 1}, "log_loss") is None
    assert find_best_epoch({"history": [{"own": 1.0}]}, "log_loss") is None
