"""Trainings whose files would be over `gate.size_mb`."""

import dataclasses

import pytest

from raymlops.errors import RaymlopsError
from raymlops.training.learners import find_learner
from tests.learner_rows import draw_rows, job_for, spec_for, train


@pytest.mark.parametrize("learner", ["lightgbm", "xgboost"])
def test_a_boosting_ends_before_its_file_is_over_the_limit(learner: str) -> None:
    options = {"rounds": 200, "learning_rate": 0.02}
    spec = spec_for(learner, options, epochs=20, patience=100)
    rows = draw_rows(2000, "binary", 1), draw_rows(500, "binary", 2)
    sizes, rounds = [], []
    for limit in (None, 0.15):
        held = spec.model_copy(update={"gate": spec.gate.model_copy(update={"size_mb": limit})})
        job = job_for(held, "binary", *rows)
        scorer, state, _ = train(job)
        model = find_learner(learner).to_onnx(
            dataclasses.replace(scorer, rounds=state["rounds"]), job.packing, job.target
        )
        sizes.append(len(model.SerializeToString()))
        rounds.append(state["rounds"])
    assert rounds[0] == 200
    assert 10 <= rounds[1] < 200
    assert sizes[1] < 0.2e6 < sizes[0]


def test_a_forest_whose_file_would_be_over_the_limit_is_not_grown() -> None:
    spec = spec_for("forest", {"trees": 2000, "min_samples_leaf": 1})
    held = spec.model_copy(update={"gate": spec.gate.model_copy(update={"size_mb": 1.0})})
    with pytest.raises(RaymlopsError, match=r"not grown: 2000 trees .* gate.size_mb is 1"):
        train(job_for(held, "binary", draw_rows(2000, "binary", 1), draw_rows(500, "binary", 2)))
