"""Keras models of a user's function, on torch: parity of their files, weights, losses, seeds, resuming, refusals."""

import dataclasses
import functools
import pathlib
import pickle
from typing import Any

import numpy as np
import pytest

from raymlops.errors import SpecError
from raymlops.features import Packing
from raymlops.specs.code_references import find_code
from raymlops.specs.document import validate_document
from raymlops.specs.experiment import ExperimentSpec
from raymlops.training import candidates, keras_models, learners, worker
from raymlops.training.learners import keras
from raymlops.training.packed import LABEL, WEIGHT
from tests.learner_rows import (
    COUNTS,
    TARGETS,
    assert_agree,
    draw_counts,
    draw_rows,
    job_for,
    job_of_counts,
    packing_for,
    scores_of_file,
    spec_for,
    train,
)

pytestmark = pytest.mark.slow  # the import of Keras takes seconds

MODELS = {"joined": {"dropout": 0.2}, "embedded": {}}


@pytest.fixture(autouse=True)
def every_part_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras, "REPORT_SECONDS", 0.0)


def options(model: str, **more: Any) -> dict[str, Any]:
    return {"model": f"tests.own_keras_models:{model}", "steps": 60, "batch_size": 64, "lr": 0.02, **more}


@functools.cache
def trained(model: str, task: str) -> Any:
    """(job, scorer, state, reports)"""
    spec = spec_for("keras", options(model, **MODELS[model]), epochs=4, patience=4)
    job = job_for(spec, task, draw_rows(800, task, 1), draw_rows(300, task, 2))
    return job, *train(job)


@pytest.mark.parametrize(("model", "task"), [("joined", "multiclass"), ("embedded", "regression")])
def test_the_file_answers_dirty_rows_as_the_trained_model_does(model: str, task: str) -> None:
    job, scorer, _, _ = trained(model, task)
    rows = draw_rows(400, task, 3, missing=0.4, unseen=0.1, empty=0.1)
    found = pickle.loads(pickle.dumps(scorer)).scores(rows)
    assert_agree(scores_of_file(scorer, job, rows), found, task)
    one = {name: values[:1] for name, values in rows.items()}
    assert_agree(scores_of_file(scorer, job, one), found[:1], task)
    none = {name: values[:0] for name, values in rows.items()}
    assert scorer.scores(none).shape == ((0, 3) if task == "multiclass" else (0,))


def test_a_training_that_was_killed_ends_with_the_same_model(tmp_path: pathlib.Path) -> None:
    job, scorer, _, whole = trained("joined", "multiclass")
    assert [told["epoch"] for told in whole] == [1, 2, 3, 4]
    _, state, _ = train(job, reports=2)
    assert state["steps"] == 30
    with worker.saved(state, str(tmp_path)) as directory:
        loaded = worker.load_state(directory)
    resumed, _, rest = train(job, loaded)
    assert [told["epoch"] for told in rest] == [3, 4]
    rows = draw_rows(400, "multiclass", 3, missing=0.4)
    np.testing.assert_array_equal(resumed.scores(rows), scorer.scores(rows))
    other = spec_for("keras", options("joined", width=5), epochs=4)
    with pytest.raises(SpecError, match="builds other layers than when the training began"):
        train(dataclasses.replace(job, spec=other), loaded)


def test_it_learns_and_another_seed_gives_another_model() -> None:
    job, scorer, state, _ = trained("embedded", "regression")
    assert min(entry["rmse"] for entry in state["history"]) < 1.8, "less than the spread of 2"
    other, _, _ = train(
        dataclasses.replace(job, spec=spec_for("keras", options("embedded"), epochs=4, seed=5))
    )
    rows = draw_rows(400, "regression", 3)
    assert np.abs(other.scores(rows) - scorer.scores(rows)).max() > 1e-3


def test_weights_count_rows_and_classes() -> None:
    rows = draw_rows(800, "binary", 1)
    heavy = {**rows, WEIGHT: np.where(rows[LABEL] == 1, 5.0, 1.0).astype(np.float32)}
    means = []
    for given, weights in ((rows, None), (heavy, None), (rows, {"1": 5.0})):
        spec = spec_for("keras", options("embedded"), class_weights=weights)
        scorer, _, _ = train(job_for(spec, "binary", given, draw_rows(300, "binary", 2)))
        means.append(scorer.scores(draw_rows(400, "binary", 3)).mean())
    assert means[1] > means[0] + 0.05
    assert means[1] == pytest.approx(means[2], abs=1e-3)


@pytest.mark.parametrize("loss", ["quantile", "poisson"])
def test_losses_of_a_regression(loss: str) -> None:
    job, rows = (
        job_of_counts(spec_for("keras", options("joined", steps=150), loss=loss, quantile=0.9)),
        draw_counts(500, 3),
    )
    scorer, _, _ = train(job)
    found = scorer.scores(rows)
    assert (found <= job.train.load()[LABEL].max() + 1e-4).all(), "within the range of the training rows"
    assert np.corrcoef(found, rows["plain"][:, 0])[0, 1] > 0.4
    if loss == "quantile":
        assert 0.75 < np.mean(rows[LABEL] <= found) < 0.97
    if loss == "poisson":
        assert (found * COUNTS.std + COUNTS.mean > -1e-3).all()
        assert_agree(scores_of_file(scorer, job, rows), found, "regression")


def test_a_table_of_numbers_alone_is_enough() -> None:
    assert keras_models.Reading(Packing(12, (5, 40, 1)), True).given["features"] == 12 + 4 + 32
    rows, validation, test = (draw_rows(300, "binary", seed, categories=()) for seed in (1, 2, 3))
    job = job_for(spec_for("keras", options("embedded", steps=20)), "binary", rows, validation, categories=())
    scorer, _, _ = train(job)
    assert_agree(scores_of_file(scorer, job, test), scorer.scores(test), "binary")


def test_what_it_cannot_do_is_told_before_any_row_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def complaint(options: dict[str, Any], packing: Any = None, **training: Any) -> str:
        spec = spec_for("keras", options, **training)
        with pytest.raises(SpecError) as caught:
            learners.check(spec, packing, packing and TARGETS["multiclass"])
        return str(caught.value)

    assert "expected module.path:function" in complaint({})
    assert "cannot import 'no.such:thing'" in complaint({"model": "no.such:thing"})
    assert "has to be a function of outputs" in complaint({"model": "os:getcwd"})
    assert "did you mean 'width'" in complaint({**options("joined"), "widht": 3})
    assert "expected an integer from 1" in complaint({**options("joined"), "steps": 0})
    assert "expected torch or tensorflow" in complaint({**options("joined"), "backend": "jax"})
    assert "label_smoothing" in complaint(options("joined"), label_smoothing=0.1)
    for model, reason in {
        "softmax": "is Dense with activation softmax; expected logits",
        "compiled": "leave compile() out",
        "wide": r"answered (2, 4), expected (2, 3)",
        "raising": "RuntimeError: no such layer",
        "nothing": "it returned NoneType, and not a keras.Model",
    }.items():
        assert reason in complaint(options(model), packing_for()), model
    images = Packing(image=(1, 8, 8))
    assert "reads no images" in complaint(options("joined"), images)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "tensorflow" else name)
    found = complaint(options("joined", backend="tensorflow"))
    assert "needs tensorflow, not installed here; run: pip install 'raymlops[tf]'" in found


def test_functions_of_the_user_count_as_code_and_are_not_imported_by_a_check_alone() -> None:
    spec = spec_for("keras", {"model": "no.such:thing"})
    learners.check(spec, imports=False)
    assert find_code(spec) == ("training.options.model: no.such:thing",)
    assert find_code(spec, training=False) == ()
    among = {
        **spec_for("linear").model_dump(exclude_defaults=True),
        "training": {},
        "search": {"learners": {"keras": {"model": "no.such:thing"}, "linear": {}}},
    }
    several = validate_document(among, ExperimentSpec)
    candidates.check(several, imports=False)
    assert find_code(several) == ("search.learners.keras.model: no.such:thing",)


def test_a_search_may_choose_among_functions() -> None:
    named = {"choices": ["tests.own_keras_models:joined", "tests.own_keras_models:embedded"]}
    space = {
        "training.options.model": named,
        "training.options.width": {"low": 4, "high": 9, "integer": True},
    }
    document = spec_for("keras").model_dump(exclude_defaults=True, mode="json")
    spec = validate_document({**document, "search": {"space": space}}, ExperimentSpec)
    learners.check(spec, packing_for(), TARGETS["binary"])
    assert len(find_code(spec)) == 2
