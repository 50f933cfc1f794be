"""CatBoost as a learner: parity of its files, weights, losses, seeds, resuming. Runs where the extra is installed."""

import dataclasses
import pathlib
import re
from typing import Any

import catboost
import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from raymlops.errors import ArtifactError, RaymlopsError, SpecError
from raymlops.lifecycle.govern.convert import convert_file
from raymlops.lifecycle.govern.logged_models import convert_model
from raymlops.models.session import open_session
from raymlops.tracking import registry
from raymlops.training import learners, worker
from raymlops.training.learners import boosting, find_learner
from raymlops.training.learners.catboost import OPTIONS, read_json
from raymlops.training.packed import LABEL, WEIGHT
from raymlops.training.tree_readers import read_catboost
from tests.conftest import settings_in
from tests.learner_rows import (
    TASKS,
    assert_agree,
    draw_counts,
    draw_rows,
    job_for,
    job_of_counts,
    scores_of_file,
    spec_for,
    train,
)
from tests.logged_models import log_in

DIRTY = {"missing": 0.4, "unseen": 0.1, "empty": 0.1}


def job_of(task: str, options: dict[str, Any] | None = None, **training: Any) -> Any:
    spec = spec_for("catboost", {"rounds": 40, **(options or {})}, **training)
    return job_for(spec, task, draw_rows(600, task, 1), draw_rows(300, task, 2))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "options", [{}, {"subsample": 1.0, "depth": 1, "rsm": 0.5}, {"depth": 8, "target_means": False}]
)
def test_the_file_answers_dirty_rows_as_the_trained_model_does(task: str, options: dict[str, Any]) -> None:
    job = job_of(task, options)
    scorer, _, _ = train(job)
    rows = draw_rows(500, task, 3, **DIRTY)
    assert_agree(scores_of_file(scorer, job, rows), scorer.scores(rows), task)
    none = {name: values[:0] for name, values in rows.items()}
    assert scorer.scores(none).shape == ((0, 3) if task == "multiclass" else (0,))


def test_values_at_borders_go_where_catboost_sends_them() -> None:
    job = job_of("binary", {"target_means": False})
    scorer, _, _ = train(job)
    model = catboost.CatBoost()
    model.load_model(blob=scorer.model)
    borders = np.array([split["border"] for tree in read_json(model)["oblivious_trees"] for split in tree["splits"]
                        if split["float_feature_index"] == 0], dtype=np.float32)  # fmt: skip
    test = draw_rows(len(borders), "binary", 4)
    for near in (borders, np.nextafter(borders, np.float32(9)), np.nextafter(borders, np.float32(-9))):
        rows = {**test, "plain": test["plain"].copy()}
        rows["plain"][:, 0] = near
        assert_agree(scores_of_file(scorer, job, rows), scorer.scores(rows), "binary")


@pytest.mark.parametrize("mode", ["Min", "Max"])
@pytest.mark.parametrize("policy", ["SymmetricTree", "Depthwise", "Lossguide"])
def test_trees_of_any_shape_and_their_missing_values_are_read(mode: str, policy: str) -> None:
    rows, test = draw_rows(500, "regression", 1)["plain"], draw_rows(500, "regression", 2, **DIRTY)["plain"]
    model = catboost.CatBoostRegressor(iterations=9, depth=4, nan_mode=mode, grow_policy=policy, logging_level="Silent",
                                       allow_writing_files=False, thread_count=1)  # fmt: skip
    model.fit(rows.copy(), np.nan_to_num(rows[:, 0]) + np.isnan(rows[:, 1]))
    np.testing.assert_allclose(
        read_catboost(read_json(model)).predict(test)[:, 0], model.predict(test), atol=1e-6
    )


def test_categories_of_its_own_are_refused() -> None:
    model = catboost.CatBoostClassifier(iterations=3, logging_level="Silent", allow_writing_files=False)
    model.fit([["a", 1.0], ["b", 2.0], ["c", 3.0], ["a", 4.0]] * 9, [0, 1, 1, 0] * 9, cat_features=[0])
    with pytest.raises(ArtifactError, match="categorical features of its own"):
        read_catboost(read_json(model))


@pytest.mark.parametrize("task", TASKS)
def test_a_resumed_training_gives_the_same_model(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boosting, "REPORT_SECONDS", 0)
    job = job_of(task, epochs=4, patience=4)
    whole, _, told = train(job)
    assert [one["epoch"] for one in told] == [1, 2, 3, 4]
    _, state, _ = train(job, reports=2)
    assert state["rounds"] == 20
    resumed, _, rest = train(job, state)
    assert [one["epoch"] for one in rest] == [3, 4]
    rows = draw_rows(300, task, 3, **DIRTY)
    np.testing.assert_array_equal(resumed.scores(rows), whole.scores(rows))


def test_the_best_rounds_are_kept_and_what_is_saved_is_loaded_again(tmp_path: pathlib.Path) -> None:
    job = job_of("binary", {"rounds": 200, "learning_rate": 0.5}, epochs=10, patience=3, metric="log_loss")
    scorer, state, _ = train(job)
    values = [entry["log_loss"] for entry in state["history"]]
    assert len(values) < 10
    assert scorer.rounds == 20 * (int(np.argmin(values)) + 1)
    with worker.saved(state, str(tmp_path)) as directory:
        loaded = worker.load_state(directory)
    rows = draw_rows(300, "binary", 3, **DIRTY)
    again = find_learner("catboost").load(loaded, job)
    np.testing.assert_array_equal(again.scores(rows), scorer.scores(rows))
    assert_agree(scores_of_file(again, job, rows), scorer.scores(rows), "binary")


def test_weights_count_rows_and_classes() -> None:
    rows, validation = draw_rows(800, "binary", 1), draw_rows(300, "binary", 2)
    heavy = {**rows, WEIGHT: np.where(rows[LABEL] == 1, 5.0, 1.0).astype(np.float32)}
    test = draw_rows(300, "binary", 3, **DIRTY)
    plain, by_row, by_class = (
        train(job_for(spec_for("catboost", {"rounds": 40}, **training), "binary", given, validation))[0]
        .scores(test)
        .mean()
        for training, given in (({}, rows), ({}, heavy), ({"class_weights": {"1": 5.0}}, rows))
    )
    assert by_row > plain + 0.05
    assert by_row == pytest.approx(by_class, abs=1e-6)


@pytest.mark.parametrize("loss", ["mae", "quantile", "poisson"])
def test_losses_of_a_regression(loss: str) -> None:
    job = job_of_counts(spec_for("catboost", {"rounds": 60}, loss=loss, quantile=0.9))
    scorer, _, _ = train(job)
    rows = draw_counts(500, 3)
    found = scorer.scores(rows)
    assert_agree(scores_of_file(scorer, job, rows), found, "regression")
    if loss == "quantile":
        assert 0.8 < np.mean(rows[LABEL] <= found) < 0.97
    if loss == "poisson":
        assert (found * 3 + 4 > -1e-3).all()


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_directions_are_kept(task: str) -> None:
    job = job_of(task, monotonic={"x": "down"})
    packing = dataclasses.replace(job.packing, plain_of=("x", "b", "c", "d", "e", "f"))
    job = dataclasses.replace(job, packing=packing)
    scorer, _, _ = train(job)
    test = draw_rows(200, task, 3)
    steps = []
    for value in np.linspace(-3, 3, 30):
        rows = {**test, "plain": test["plain"].copy()}
        rows["plain"][:, 0] = value
        steps.append(scorer.scores(rows))
    assert (np.diff(np.array(steps), axis=0) <= 1e-7).all()


def test_a_class_that_no_training_row_has_is_never_predicted() -> None:
    rows = draw_rows(400, "multiclass", 1)
    rows = {**rows, LABEL: np.minimum(rows[LABEL], 1)}
    job = job_for(spec_for("catboost", {"rounds": 40}), "multiclass", rows, draw_rows(200, "multiclass", 2))
    scorer, _, _ = train(job)
    test = draw_rows(300, "multiclass", 3, **DIRTY)
    assert (np.argmax(scorer.scores(test), axis=1) < 2).all()
    assert_agree(scores_of_file(scorer, job, test), scorer.scores(test), "multiclass")


@pytest.mark.parametrize("loss", ["Logloss", "MultiClass", "RMSE", "Tweedie:variance_power=1.5"])
def test_a_saved_model_is_converted(loss: str, tmp_path: pathlib.Path) -> None:
    own = settings_in(tmp_path / "home")
    rows = pd.DataFrame(draw_rows(300, "binary", 1)["plain"], columns=list("abcdef"))
    answers = {
        "Logloss": np.where(rows.f > 0, "yes", "no"),
        "MultiClass": np.digitize(rows.f, [-1, 1]),
        "RMSE": rows.f * 2 + 1e5,
    }
    model = catboost.CatBoost({"iterations": 30, "loss_function": loss, "logging_level": "Silent", "thread_count": 1,
                               "allow_writing_files": False})  # fmt: skip
    model.fit(rows, answers.get(loss, rows.f.abs()))
    model.save_model(str(tmp_path / "model.cbm"))
    found = convert_file(tmp_path / "model.cbm", "saved", own, data=pa.Table.from_pandas(rows))
    assert found.inputs == tuple("abcdef")
    assert found.sample is not None
    version = registry.resolve(f"models:/saved/{found.version}", own)
    session = open_session(version.file.read_bytes())
    answer = session.infer({name: rows[name].to_numpy() for name in rows})
    if loss == "Logloss":
        np.testing.assert_allclose(answer["probability"], model.predict(rows, "Probability")[:, 1], atol=1e-6)
        assert set(answer["label"]) == {"yes", "no"}
    elif loss == "MultiClass":
        np.testing.assert_allclose(answer["probabilities"], model.predict(rows, "Probability"), atol=1e-6)
    else:
        kind = "RawFormulaVal" if loss == "RMSE" else "Exponent"
        np.testing.assert_allclose(answer["prediction"], model.predict(rows, kind), rtol=1e-5, atol=1e-5)
    if loss == "Logloss":
        for uri in log_in(own, tmp_path, mlflow.catboost.log_model, model):
            again = convert_model(uri, "logged", own, data=pa.Table.from_pandas(rows))
            assert again.library == found.library
    (tmp_path / "cut.cbm").write_bytes((tmp_path / "model.cbm").read_bytes()[:-200])
    with pytest.raises(ArtifactError):
        convert_file(tmp_path / "cut.cbm", "saved", own)


def test_what_it_cannot_do_is_told() -> None:
    family = find_learner("catboost")
    for options, training, reason in (
        ({"round": 3}, {}, "did you mean 'rounds'"),
        ({"depth": 99}, {}, "training.options.depth: expected an integer from 1 to 12"),
        ({}, {"use_gpu": True}, "cannot go on from trees"),
        ({}, {"workers": 2}, "trains in one process"),
    ):
        with pytest.raises(SpecError, match=re.escape(reason)):
            learners.check(spec_for("catboost", options, **training))
    for task in TASKS:
        for rows in (100, 10**5):
            family.check(spec_for("catboost", family.options_for(rows, task)), None, None)
    rows = {name: values[:30] for name, values in draw_rows(30, "binary", 1).items()}
    rows |= {"plain": np.ones_like(rows["plain"]), "category": np.zeros_like(rows["category"])}
    job = job_for(spec_for("catboost", {"rounds": 3}), "binary", rows, draw_rows(20, "binary", 2))
    scorer, _, _ = train(job)
    assert_agree(scores_of_file(scorer, job, rows), scorer.scores(rows), "binary")
    with pytest.raises(RaymlopsError, match="does not train: All features are"):
        train(
            job_for(
                job.spec, "binary", {**rows, LABEL: np.ones_like(rows[LABEL])}, draw_rows(20, "binary", 2)
            )
        )
    text = (pathlib.Path(__file__).parents[3] / "docs" / "learners.md").read_text(encoding="utf-8")
    section = re.split(r"\n## ", text.split("\n## `catboost`")[1])[0]
    assert all(f"| `{option}` |" in section for option in OPTIONS)
