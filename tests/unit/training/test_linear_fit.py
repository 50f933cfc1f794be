"""Linear models of many rows, fitted without a matrix of them, are those of scikit-learn."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from raymlops.errors import RaymlopsError
from raymlops.training.learners import linear
from raymlops.training.packed import LABEL, WEIGHT
from tests.learner_rows import (
    TASKS,
    assert_agree,
    draw_rows,
    job_for,
    job_of_counts,
    scores_of_file,
    spec_for,
    train,
)

TEST = {task: draw_rows(300, task, 3, missing=0.4, unseen=0.1, empty=0.1) for task in TASKS}


def fit_both(job: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """By scikit-learn, and in place, some rows at a time."""
    by_matrix, _, _ = train(job)
    monkeypatch.setattr(linear, "_MATRIX_BYTES", 0)
    monkeypatch.setattr("raymlops.training.linear_fit._AT_ONCE", 128)
    in_place, _, told = train(job)
    assert told[-1]["epoch"] == len(told)
    return by_matrix, in_place


@pytest.mark.parametrize("shape", [{}, {"categories": ()}, {"numbers": 1, "categories": (40,)}])
@pytest.mark.parametrize("task", TASKS)
def test_both_give_the_same_model(task: str, shape: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    rows, validation = draw_rows(900, task, 1, **shape), draw_rows(200, task, 2, **shape)
    weighted = {**rows, WEIGHT: np.random.default_rng(0).uniform(0, 3, 900).astype(np.float32)}
    for given in (rows, weighted):
        with monkeypatch.context() as patch:
            job = job_for(spec_for("linear", {"C": 0.5}), task, given, validation, **shape)
            by_matrix, in_place = fit_both(job, patch)
            test = draw_rows(300, task, 3, **shape, unseen=0.1)
            np.testing.assert_allclose(in_place.scores(test), by_matrix.scores(test), atol=4e-3)
            assert_agree(scores_of_file(in_place, job, test), in_place.scores(test), task)


def test_counts_and_directions_too(monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of_counts(spec_for("linear", {"C": 1.0}, loss="poisson"))
    with monkeypatch.context() as patch:
        by_matrix, in_place = fit_both(job, patch)
    rows = job.validation.load()
    np.testing.assert_allclose(in_place.scores(rows), by_matrix.scores(rows), atol=1e-2)
    rows, validation = draw_rows(900, "binary", 1), draw_rows(200, "binary", 2)
    job = job_for(spec_for("linear", {"C": 1.0}, monotonic={"x": "down"}), "binary", rows, validation)
    packing = dataclasses.replace(job.packing, numeric_of=("x", *"bcdef"))
    job = dataclasses.replace(job, packing=packing)
    by_matrix, in_place = fit_both(job, monkeypatch)
    assert in_place.weights[0] == 0
    np.testing.assert_allclose(in_place.scores(TEST["binary"]), by_matrix.scores(TEST["binary"]), atol=4e-3)


def test_classes_without_rows_are_never_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_MATRIX_BYTES", 0)
    rows, validation = draw_rows(500, "multiclass", 1), draw_rows(100, "multiclass", 2)
    two = {**rows, LABEL: np.minimum(rows[LABEL], 1)}
    scorer, _, _ = train(job_for(spec_for("linear", {"C": 1.0}), "multiclass", two, validation))
    assert (np.argmax(scorer.scores(TEST["multiclass"]), axis=1) < 2).all()
    with pytest.raises(RaymlopsError, match="All training rows have one class"):
        train(job_for(spec_for("linear"), "multiclass", {**rows, LABEL: 0 * rows[LABEL]}, validation))
