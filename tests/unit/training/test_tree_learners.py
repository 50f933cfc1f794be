"""The learners that are not networks: parity of their files, weights, losses, seeds, resuming, and what they refuse."""

import dataclasses
import functools
import json
import pathlib
import re
from typing import Any

import lightgbm
import numpy as np
import pytest
import torch
import xgboost
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interpret.glassbox import ExplainableBoostingClassifier
from scipy.special import expit, softmax
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from sklearn.linear_model import LogisticRegression

from raymlops.errors import ArtifactError, SpecError
from raymlops.features import FittedColumn, FittedFeatures, Packing
from raymlops.models.export import export_model, to_bytes
from raymlops.models.row_independence import prove_rows
from raymlops.models.session import open_session
from raymlops.onnx_builder import GraphBuilder, to_value_info
from raymlops.specs.experiment import ExperimentSpec
from raymlops.tensors import TensorSpec
from raymlops.training import candidates, learners, worker
from raymlops.training.learners import LEARNERS, boosting, ebm, find_learner, forest, linear
from raymlops.training.learners import lightgbm as lightgbm_learner
from raymlops.training.learners import xgboost as xgboost_learner
from raymlops.training.learners.tree_matrix import FOLDS, MeansMeter, TreeMatrix
from raymlops.training.packed import LABEL, WEIGHT
from raymlops.training.tree_ensemble_export import add_trees
from raymlops.training.tree_ensembles import TreeEnsemble, at_most, below, constant_tree
from raymlops.training.tree_readers import read_lightgbm, read_sklearn, read_xgboost
from tests.learner_rows import (
    TARGETS,
    TASKS,
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
from tests.unit.serving.transport.test_asgi import Ask, make_ask, make_plane

OPTIONS: dict[str, dict[str, Any]] = {
    "lightgbm": {"rounds": 40},
    "xgboost": {"rounds": 40},
    "forest": {"trees": 30},
    "linear": {},
    "ebm": {"rounds": 60, "outer_bags": 1, "interactions": 2},
}
FAMILIES = {
    "lightgbm": lightgbm_learner,
    "xgboost": xgboost_learner,
    "forest": forest,
    "linear": linear,
    "ebm": ebm,
}


def options_of(learner: str, task: str) -> dict[str, Any]:
    return {
        key: value for key, value in OPTIONS[learner].items() if key != "interactions" or task != "multiclass"
    }


@functools.cache
def trained(learner: str, task: str, **training: Any) -> Any:
    """(job, scorer, state, reports); a training costs up to a second."""
    spec = spec_for(learner, options_of(learner, task), **training)
    job = job_for(spec, task, draw_rows(800, task, 1), draw_rows(300, task, 2))
    return job, *train(job)


def dirty(task: str, seed: int = 3, rows: int = 400) -> Any:
    return draw_rows(rows, task, seed, missing=0.4, unseen=0.1, empty=0.1)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("learner", OPTIONS)
def test_the_file_answers_dirty_rows_as_the_trained_model_does(learner: str, task: str) -> None:
    job, scorer, state, _ = trained(learner, task)
    rows = dirty(task)
    file = find_learner(learner).to_onnx(scorer, job.packing, job.target).SerializeToString()
    assert prove_rows(file), "concurrent requests share a run"
    assert_agree(scores_of_file(scorer, job, rows), scorer.scores(rows), task)
    kept = {name: value for name, value in state.items() if name != "history"}
    assert all(isinstance(value, np.ndarray | int | float) for value in kept.values()), (
        "loads without unpickling"
    )
    none = {name: values[:0] for name, values in rows.items()}
    assert scorer.scores(none).shape == ((0, 3) if task == "multiclass" else (0,))


@pytest.mark.parametrize("learner", OPTIONS)
def test_what_a_search_saves_is_loaded_again(learner: str, tmp_path: pathlib.Path) -> None:
    job, scorer, state, _ = trained(learner, "binary")
    with worker.saved(state, str(tmp_path)) as directory:
        loaded = worker.load_state(directory)
    again = find_learner(learner).load(loaded, job)
    rows = dirty("binary")
    np.testing.assert_array_equal(again.scores(rows), scorer.scores(rows))


def _columns(rows: Any) -> Any:
    return np.concatenate([rows["plain"], rows["category"]], axis=1).astype(np.float32)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10_000), rows=st.integers(60, 400), task=st.sampled_from(TASKS), data=st.data())
def test_trees_of_the_libraries_are_read_as_the_libraries_predict(
    seed: int, rows: int, task: str, data: st.DataObject
) -> None:
    found = draw_rows(rows, task, seed, missing=data.draw(st.sampled_from([0.0, 0.2])))
    x, y, test = _columns(found), found[LABEL], _columns(dirty(task, seed))
    outputs = TARGETS[task].outputs
    if task != "regression" and len(np.unique(y)) < max(2, outputs):
        return
    leaves, leaf = data.draw(st.integers(2, 40)), data.draw(st.integers(1, 30))
    kinds = {"binary": "binary", "multiclass": "multiclass", "regression": "regression"}
    given_lightgbm = {"objective": kinds[task], "num_leaves": leaves, "min_data_in_leaf": leaf, "verbosity": -1,
                      "num_threads": 1} | ({"num_class": 3} if task == "multiclass" else {})  # fmt: skip
    model = lightgbm.train(given_lightgbm, lightgbm.Dataset(x, y), 8)
    raw = model.predict(test, raw_score=True, num_threads=1).reshape(len(test), -1)
    compare(read_lightgbm(model.model_to_string()), test, raw)
    kinds = {"binary": "binary:logistic", "multiclass": "multi:softprob", "regression": "reg:squarederror"}
    given_xgboost = {"objective": kinds[task], "max_depth": 4, "nthread": 1} | (
        {"num_class": 3} if task == "multiclass" else {}
    )
    booster = xgboost.train(given_xgboost, xgboost.DMatrix(x, y), 8)
    raw = booster.inplace_predict(test, predict_type="margin").reshape(len(test), -1)
    compare(read_xgboost(json.loads(bytes(booster.save_raw("json")))), test, raw)
    make = ExtraTreesRegressor if task == "regression" else ExtraTreesClassifier
    grown = make(n_estimators=5, min_samples_leaf=leaf, random_state=seed).fit(x, y)
    held = tuple(read_sklearn(one.tree_, 1 / 5) for one in grown.estimators_)
    width = held[0].values.shape[1]
    means = grown.predict(test)[:, None] if task == "regression" else grown.predict_proba(test)
    compare(TreeEnsemble(held, width, (0.0,) * width), test, means)


def compare(ensemble: TreeEnsemble, rows: Any, expected: Any) -> None:
    build = GraphBuilder()
    add_trees(build, ensemble, "rows", name="outputs")
    specs = (
        TensorSpec("rows", "FP32", (-1, rows.shape[1])),
        TensorSpec("outputs", "FP32", (-1, ensemble.outputs)),
    )
    model = build.to_model("trees", [to_value_info(specs[0])], [to_value_info(specs[1])])
    found = open_session(model.SerializeToString()).infer({"rows": rows})["outputs"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ensemble.predict(rows), expected, rtol=1e-5, atol=1e-5)


@given(st.floats(-1e30, 1e30), st.floats(width=32, allow_nan=False))
def test_a_threshold_of_float64_divides_values_of_float32_as_before(threshold: float, value: float) -> None:
    near = np.float32(threshold)
    for one in (np.float32(value), near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, -near)):
        assert (one <= at_most(threshold)) == (float(one) <= threshold)
        assert (one <= below(threshold)) == (float(one) < threshold)


def test_an_ebm_is_interprets_own_and_explains_each_row() -> None:
    rows = draw_rows(800, "binary", 1)
    options = {"interactions": 3, "outer_bags": 1, "max_bins": 64, "max_interaction_bins": 16}
    job = job_for(spec_for("ebm", {**options, "rounds": 80}), "binary", rows, draw_rows(200, "binary", 2))
    scorer, _, _ = train(job)
    settled = {**ebm._options_for(800, "binary"), **options, "max_rounds": 80}
    del settled["rounds"]
    own = ExplainableBoostingClassifier(
        **settled, feature_types=["continuous"] * 6 + ["nominal"] * 3, n_jobs=1, random_state=0
    )
    with pytest.warns(UserWarning, match="Missing values"):
        own.fit(_columns(rows), rows[LABEL])
    test = dirty("binary")
    np.testing.assert_allclose(scorer.scores(test), own.predict_proba(_columns(test))[:, 1], atol=1e-5)
    assert_agree(scores_of_file(scorer, job, test), own.predict_proba(_columns(test))[:, 1], "binary")
    added = np.asarray(own.eval_terms(_columns(test)))
    np.testing.assert_allclose(scorer.explain(test)[:, :, 0], added, atol=1e-6)
    local = [np.array(own.explain_local(_columns(test)[:20]).data(row)["scores"]) for row in range(20)]
    np.testing.assert_allclose(scorer.explain(test)[:20, :, 0], np.array(local), atol=1e-6)
    shown = dataclasses.replace(scorer, explains=True)
    model = find_learner("ebm").to_onnx(shown, job.packing, job.target)
    given = {value.name: test[value.name][:20] for value in model.graph.input}
    found = open_session(model.SerializeToString()).infer(given)["contributions"]
    np.testing.assert_allclose(found, np.array(local), atol=1e-6)
    assert any(len(term.columns) == 2 for term in scorer.terms)


@pytest.mark.parametrize("task", TASKS)
def test_an_ebm_gives_what_each_term_adds_in_its_file_and_over_http(
    task: str, tmp_path: pathlib.Path
) -> None:
    shape: dict[str, Any] = {"numbers": 2, "categories": (4,)}
    rows, validation, test = (draw_rows(400, task, seed, **shape, missing=0.1 * seed) for seed in (1, 2, 3))
    options = {**options_of("ebm", task), "explanations": True}
    job = job_for(spec_for("ebm", options), task, rows, validation, numbers=2, categories=(4,))
    scorer, _, _ = train(job)
    columns = (
        FittedColumn("size", "number", "number"),
        FittedColumn("age", "number", "number"),
        FittedColumn("kind", "category", "string", values=("a", "b", "c")),
    )
    features = FittedFeatures(columns, TARGETS[task])
    model = export_model(find_learner("ebm").to_onnx(scorer, job.packing, job.target), features, name="toy")
    session = open_session(to_bytes(model))
    names = np.array(["", "a", "b", "c"], dtype=object)
    raw = {"size": test["plain"][:, 0].copy(), "age": test["plain"][:, 1].copy()}
    answer = session.infer({**raw, "kind": names[test["category"][:, 0]]})
    told = session.contract["explanation"]
    terms, added = len(scorer.terms), answer[told["output"]]
    assert added.shape == (
        (len(test[LABEL]), terms, 3) if task == "multiclass" else (len(test[LABEL]), terms)
    )
    assert told["terms"][:3] == ["size", "age", "kind"]
    assert all(set(name.split(" & ")) <= {"size", "age", "kind"} for name in told["terms"])
    total = added.sum(axis=1) + (
        np.array(told["intercept"]) if task == "multiclass" else told["intercept"][0]
    )
    expected = scorer.explain({"plain": test["plain"], "category": test["category"]})
    if task == "regression":
        np.testing.assert_allclose(added, expected[:, :, 0] * 2.0, atol=1e-5)
        np.testing.assert_allclose(total, answer["prediction"], atol=1e-4)
        return
    np.testing.assert_allclose(added, expected if task == "multiclass" else expected[:, :, 0], atol=1e-5)
    if task == "binary":
        np.testing.assert_allclose(expit(total), answer["probability"], atol=1e-6)
    else:
        np.testing.assert_allclose(softmax(total, axis=1), answer["probabilities"], atol=1e-6)
    only = session.infer({**raw, "kind": names[test["category"][:, 0]]}, outputs=["label"])
    assert list(only) == ["label"]
    _ask_for_contributions(make_ask(make_plane(tmp_path, {"toy": model})), told, task)


def _ask_for_contributions(ask: Ask, told: dict[str, Any], task: str) -> None:
    """The endpoint says what they are, and its answer adds up."""
    assert ask("GET", "/v2/models/toy").json()["parameters"]["explanation"] == told
    rows = [{"size": 0.5, "age": None, "kind": "never seen"}]
    (answer,) = ask("POST", "/v1/models/toy:predict", json={"instances": rows}).json()["predictions"]
    total = np.sum(answer[told["output"]], axis=0) + np.array(told["intercept"])
    found = [answer["probability"]] if task == "binary" else answer["probabilities"]
    np.testing.assert_allclose(expit(total) if task == "binary" else softmax(total), found, atol=1e-6)


def test_a_forest_and_a_linear_model_are_scikit_learns_own() -> None:
    rows, test = draw_rows(800, "multiclass", 1), dirty("multiclass")
    validation = draw_rows(200, "multiclass", 2)
    job = job_for(spec_for("forest", {"trees": 20, "target_means": False}), "multiclass", rows, validation)
    scorer, _, _ = train(job)
    own = ExtraTreesClassifier(20, min_samples_leaf=5, max_features=0.5, random_state=0).fit(
        _columns(rows), rows[LABEL]
    )
    np.testing.assert_allclose(scorer.scores(test), own.predict_proba(_columns(test)), atol=1e-5)
    job = job_for(spec_for("linear", {"C": 0.3}), "multiclass", rows, validation)
    scorer, _, _ = train(job)
    hot = [np.eye(size)[rows["category"][:, place]] for place, size in enumerate(job.packing.categories)]
    line = LogisticRegression(C=0.3, max_iter=300).fit(np.hstack([rows["numeric"], *hot]), rows[LABEL])
    hot = [np.eye(size)[test["category"][:, place]] for place, size in enumerate(job.packing.categories)]
    expected = line.predict_proba(np.hstack([test["numeric"], *hot]))
    np.testing.assert_allclose(scorer.scores(test), expected, atol=2e-3)


@pytest.mark.parametrize("learner", OPTIONS)
def test_a_seed_gives_the_same_model_again(learner: str) -> None:
    job, _, state, _ = trained(learner, "binary")
    _, again, _ = train(job)
    for name, value in state.items():
        if name != "history":
            np.testing.assert_array_equal(value, again[name])


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("learner", ["lightgbm", "xgboost"])
def test_a_training_that_was_killed_ends_with_the_same_trees(
    learner: str, sampled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boosting, "REPORT_SECONDS", 0.0)
    names = {
        "lightgbm": ("bagging_fraction", "feature_fraction"),
        "xgboost": ("subsample", "colsample_bytree"),
    }
    options = {"rounds": 30, **dict.fromkeys(names[learner], 0.7 if sampled else 1.0)}
    spec = spec_for(learner, options, epochs=6, patience=6)
    job = job_for(spec, "multiclass", draw_rows(500, "multiclass", 1), draw_rows(200, "multiclass", 2))
    scorer, _, whole = train(job)
    assert [told["epoch"] for told in whole] == [1, 2, 3, 4, 5, 6]
    _, state, _ = train(job, reports=3)
    assert state["rounds"] == 15
    resumed, _, rest = train(job, state)
    assert [told["epoch"] for told in rest] == [4, 5, 6]
    rows = dirty("multiclass")
    np.testing.assert_allclose(resumed.scores(rows), scorer.scores(rows), atol=1e-7)


def test_the_best_rounds_are_kept_and_a_training_that_gains_nothing_ends_early() -> None:
    spec = spec_for(
        "lightgbm", {"rounds": 400, "learning_rate": 0.5}, epochs=20, patience=3, metric="log_loss"
    )
    job = job_for(spec, "binary", draw_rows(300, "binary", 1), draw_rows(300, "binary", 2))
    scorer, state, told = train(job)
    values = [entry["log_loss"] for entry in state["history"]]
    assert len(values) < 20
    assert len(told) == 1, "a training shorter than a second reports once"
    best = int(np.argmin(values))
    assert 20 * best < scorer.rounds <= 20 * (best + 1)
    validation = job.validation.load()
    found = scorer.scores({name: value for name, value in validation.items() if name != LABEL})
    loss = -np.mean(np.log(np.where(validation[LABEL] == 1, found, 1 - found)))
    assert loss == pytest.approx(min(values), rel=1e-6)


@pytest.mark.parametrize("learner", OPTIONS)
def test_weights_count_rows_and_classes(learner: str) -> None:
    rows = draw_rows(800, "binary", 1)
    heavy = {**rows, WEIGHT: np.where(rows[LABEL] == 1, 5.0, 1.0).astype(np.float32)}
    validation = draw_rows(300, "binary", 2)
    plain, by_row, by_class = (
        train(
            job_for(spec_for(learner, options_of(learner, "binary"), **training), "binary", given, validation)
        )[0]
        for training, given in (({}, rows), ({}, heavy), ({"class_weights": {"1": 5.0}}, rows))
    )
    means = [scorer.scores(dirty("binary")).mean() for scorer in (plain, by_row, by_class)]
    assert means[1] > means[0] + 0.05
    assert means[1] == pytest.approx(means[2], abs=1e-6)


@pytest.mark.parametrize(
    ("learner", "loss"),
    [
        *(("lightgbm", loss) for loss in ("mae", "quantile", "poisson")),
        *(("xgboost", loss) for loss in ("mae", "quantile", "poisson")),
        ("linear", "poisson"),
        ("ebm", "poisson"),
    ],
)
def test_losses_of_a_regression(learner: str, loss: str) -> None:
    options = {**options_of(learner, "regression"), **({"C": 1.0} if learner == "linear" else {})}
    spec = spec_for(learner, options, loss=loss, quantile=0.9)
    job, rows = job_of_counts(spec), draw_counts(500, 3)
    scorer, _, _ = train(job)
    found = scorer.scores(rows)
    assert_agree(scores_of_file(scorer, job, rows), found, "regression")
    if loss == "quantile":
        assert 0.8 < np.mean(rows[LABEL] <= found) < 0.97
    if loss == "poisson":
        assert (found * 3 + 4 > -1e-3).all()
        assert np.corrcoef(found, rows["plain"][:, 0])[0, 1] > 0.6


def test_target_means_of_training_rows_come_from_other_folds() -> None:
    draw = np.random.default_rng(0)
    ids = draw.integers(0, 300, 600)[:, None]
    labels = draw.integers(0, 2, 600)  # noise
    rows = {"category": ids, "plain": np.zeros((600, 0), np.float32), LABEL: labels}
    packing = Packing(categories=(301,))
    folds = draw.integers(0, FOLDS, 600).astype(np.int8)
    meter = MeansMeter(packing, TARGETS["binary"])
    meter.add(rows, None, folds)
    matrix, of_others = meter.to_means(lambda sums: sums)
    own = matrix.of_folds(rows, of_others, folds)
    assert abs(np.corrcoef(own[:, 1], labels)[0, 1]) < 0.15
    assert np.corrcoef(matrix.of(rows)[:, 1], labels)[0, 1] > 0.4
    assert matrix.means[0][300, 0] == pytest.approx(labels.mean(), abs=1e-6), "a value that no row has"
    again = TreeMatrix.from_state(matrix.to_state(), packing)
    np.testing.assert_array_equal(again.of(rows), matrix.of(rows))


@pytest.mark.parametrize("learner", OPTIONS)
@pytest.mark.parametrize("kind", ["numbers", "categories"])
def test_a_table_of_one_kind_of_columns_is_enough(learner: str, kind: str) -> None:
    shape: dict[str, Any] = {"numbers": 4, "categories": ()} if kind == "numbers" else {"categories": (3, 30)}
    rows, validation, test = (draw_rows(400, "binary", seed, **shape) for seed in (1, 2, 3))
    if kind == "categories":
        rows, validation, test = ({n: v for n, v in one.items() if n not in ("plain", "numeric")}
                                  for one in (rows, validation, test))  # fmt: skip
    spec = spec_for(learner, options_of(learner, "binary"))
    job = job_for(spec, "binary", rows, validation, numbers=0 if kind == "categories" else 4,
                  categories=shape["categories"])  # fmt: skip
    scorer, _, _ = train(job)
    assert_agree(scores_of_file(scorer, job, test), scorer.scores(test), "binary")


@pytest.mark.parametrize("learner", OPTIONS)
def test_few_rows_and_constant_columns_still_give_a_model(learner: str) -> None:
    rows = {name: values[:12] for name, values in draw_rows(12, "binary", 1).items()}
    rows["plain"] = np.ones_like(rows["plain"])
    job = job_for(spec_for(learner, OPTIONS[learner]), "binary", rows, draw_rows(20, "binary", 2))
    scorer, _, _ = train(job)
    test = dirty("binary")
    assert np.isfinite(scorer.scores(test)).all()
    assert_agree(scores_of_file(scorer, job, test), scorer.scores(test), "binary")


@pytest.mark.parametrize("learner", OPTIONS)
def test_a_class_that_no_training_row_has_is_never_predicted(learner: str) -> None:
    rows = draw_rows(400, "multiclass", 1)
    rows = {**rows, LABEL: np.minimum(rows[LABEL], 1)}
    options = options_of(learner, "multiclass")
    job = job_for(spec_for(learner, options), "multiclass", rows, draw_rows(200, "multiclass", 2))
    scorer, _, _ = train(job)
    test = dirty("multiclass")
    found = scorer.scores(test)
    assert found.shape == (len(test[LABEL]), 3)
    assert (np.argmax(found, axis=1) < 2).all()
    assert_agree(scores_of_file(scorer, job, test), found, "multiclass")


@pytest.mark.parametrize("learner", OPTIONS)
def test_what_a_family_cannot_do_is_told_before_any_row_is_read(learner: str) -> None:
    family = find_learner(learner)
    known = next(iter(FAMILIES[learner].OPTIONS))

    def complaint(spec: Any, packing: Any = None, task: str = "binary") -> str:
        with pytest.raises(SpecError) as caught:
            family.check(spec, packing, packing and TARGETS[task])
        return str(caught.value)

    assert f"did you mean {known!r}" in complaint(spec_for(learner, {known + "x": 1}))
    assert f"training.options.{known}: expected" in complaint(spec_for(learner, {known: "many"}))
    assert "label_smoothing" in complaint(spec_for(learner, label_smoothing=0.1))
    assert "reads no images" in complaint(spec_for(learner), Packing(plain=1, image=(1, 8, 8)))
    assert "needs a number, a category or a timestamp" in complaint(spec_for(learner), Packing())
    assert "is for regression" in complaint(spec_for(learner, loss="mse"), packing_for())
    if learner != "lightgbm" or lightgbm_learner.explain_missing_cuda():
        assert "training.use_gpu: " in complaint(spec_for(learner, use_gpu=True))
    refused = {"forest": ("mae", "quantile", "poisson"), "linear": ("mae",), "ebm": ("mae",)}
    for loss in refused.get(learner, ()):
        assert f"and not {loss}" in complaint(spec_for(learner, loss=loss))
    searched = spec_for(learner).model_dump() | {"search": {"space": {"lr": {"low": 0.1, "high": 1}}}}
    assert "does not read training.lr" in complaint(type(spec_for(learner)).model_validate(searched))
    if learner in ("lightgbm", "xgboost"):
        learners.check(spec_for(learner, workers=2))
    else:
        with pytest.raises(SpecError, match="trains in one process"):
            learners.check(spec_for(learner, workers=2))
        with pytest.raises(
            SpecError, match=r"10,000 training rows take .* more than training\.resident_bytes, 0 MiB"
        ):
            learners.check_size(spec_for(learner, resident_bytes=100), packing_for(), 10_000)


@pytest.mark.parametrize("learner", OPTIONS)
def test_what_a_search_varies_by_default_and_starts_from_is_allowed(learner: str) -> None:
    family: Any = find_learner(learner)
    for task in TASKS:
        for rows in (100, 10_000, 10**6):
            family.check(spec_for(learner, family.options_for(rows, task)), None, None)
    value = spec_for(learner).model_dump()
    value["search"]["space"] = {key: dimension.model_dump() for key, dimension in family.space.items()}
    family.check(type(spec_for(learner)).model_validate(value), None, None)
    assert learner in LEARNERS


def test_trees_that_onnx_cannot_express_are_refused() -> None:
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 9, (300, 2)).astype(np.float32), draw.integers(0, 2, 300)
    data = lightgbm.Dataset(x, y, categorical_feature=[0])
    model = lightgbm.train({"objective": "binary", "verbosity": -1, "num_threads": 1}, data, 2)
    with pytest.raises(ArtifactError, match="categories of its own"):
        read_lightgbm(model.model_to_string())
    linear_booster = xgboost.train({"booster": "gblinear", "nthread": 1}, xgboost.DMatrix(x, y), 1)
    with pytest.raises(ArtifactError, match="gblinear"):
        read_xgboost(json.loads(bytes(linear_booster.save_raw("json"))))


def test_no_tree_is_a_constant() -> None:
    compare(TreeEnsemble((), 1, (0.5,)), np.zeros((3, 2), np.float32), np.full((3, 1), 0.5))
    compare(TreeEnsemble((constant_tree(2.0, 1),), 2, (1.0, 0.0)), np.zeros((2, 1), np.float32),
            np.array([[1.0, 2.0]] * 2))  # fmt: skip


def test_the_page_of_learners_lists_every_option() -> None:
    text = (pathlib.Path(__file__).parents[3] / "docs" / "learners.md").read_text(encoding="utf-8")
    for name, family in FAMILIES.items():
        section = re.split(r"\n## ", text.split(f"\n## `{name}`")[1])[0]
        for option in family.OPTIONS:
            assert f"| `{option}` |" in section, f"{name}.{option}"


def test_a_checkpoint_of_a_forest_that_is_no_tree_is_refused() -> None:
    job, _, state, _ = trained("forest", "binary")
    children = np.array(state["left_child"])
    children[children > 0] = 10**6
    broken = find_learner("forest").load({**state, "left_child": torch.from_numpy(children)}, job)
    with pytest.raises(Exception, match="no tree"):
        broken.scores(dirty("binary"))


def test_the_space_of_one_learner_among_several_is_checked_too() -> None:
    value = spec_for("network").model_dump()
    value["training"] = {}
    value["search"] = {"learners": {"lightgbm": {"num_leafs": {"low": 2, "high": 9}}, "linear": {}}}
    with pytest.raises(SpecError, match=r"search space of lightgbm: .*num_leafs.*did you mean 'num_leaves'"):
        candidates.check(ExperimentSpec.model_validate(value))
    value["search"] = {"learners": {"lightgbm": {"num_leaves": {"low": 1, "high": 9}}}}
    with pytest.raises(SpecError, match="num_leaves: expected an integer from 2 to 4096, got 1"):
        candidates.check(ExperimentSpec.model_validate(value))
