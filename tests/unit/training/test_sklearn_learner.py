"""Estimators of scikit-learn as learners: their files answer as they do, also where other converters are silently
wrong, and what does not convert right is refused."""

import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import Lars, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from raymlops.errors import ArtifactError, RaymlopsError, SpecError, StorageError
from raymlops.specs.code_references import find_code, find_own_names
from raymlops.specs.experiment import ExperimentSpec
from raymlops.training import candidates, learners, number_steps, sklearn_check, worker
from raymlops.training.learners import find_learner
from raymlops.training.learners.encoded_matrix import EncodedMatrix
from raymlops.training.learners.tree_matrix import TreeMatrix
from raymlops.training.number_steps import Trees
from raymlops.training.packed import LABEL, WEIGHT
from raymlops.training.sklearn_estimators import make_estimator, takes_missing
from raymlops.training.sklearn_models.composed import read_prediction, read_probabilities
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

OWN = "tests.own_estimators:"
CLASSIFIERS = {
    "RandomForest": {"n_estimators": 10},
    "ExtraTreesClassifier": {"n_estimators": 10},
    "DecisionTree": {},
    "HistGradientBoosting": {"max_iter": 20},
    "GradientBoosting": {"n_estimators": 10},
    "AdaBoost": {"n_estimators": 10},
    "Bagging": {"n_estimators": 3},
    "LogisticRegression": {},
    "LinearDiscriminantAnalysis": {},
    "QuadraticDiscriminantAnalysis": {"reg_param": 0.1},
    "GaussianNB": {},
    "BernoulliNB": {},
    "KNeighbors": {},
    "MLP": {"hidden_layer_sizes": [8], "max_iter": 20},
    "SGDClassifier": {},
    "SVC": {},
    "SVC ": {"kernel": "poly"},
    "RidgeClassifier": {},
    "DummyClassifier": {},
}
REGRESSORS = {
    "RandomForest": {"n_estimators": 10},
    "HistGradientBoosting": {"max_iter": 20},
    "HistGradientBoosting ": {"max_iter": 20, "loss": "absolute_error"},
    "GradientBoosting": {"n_estimators": 10, "loss": "huber"},
    "Bagging": {"n_estimators": 3},
    "Ridge": {},
    "Lasso": {"alpha": 0.01},
    "ElasticNet": {"alpha": 0.01},
    "HuberRegressor": {},
    "BayesianRidge": {},
    "PLSRegression": {},
    "KNeighbors": {},
    "MLP": {"hidden_layer_sizes": [8], "max_iter": 20},
    "SVR": {},
    "KernelRidge": {"kernel": "rbf"},
    "RANSACRegressor": {},
    "DummyRegressor": {},
}
PIPELINES = (
    "forest_of_scaled", "boosting_of_scaled", "boosting_of_components", "rare_values", "encoders", "bins", "curves",
    "vote", "stack", "bag", "calibrated", "one_against_rest", "searched", "near",
)  # fmt: skip


@functools.cache
def rows_of(task: str) -> Any:
    """Rows to train on, to validate on, and dirty ones."""
    dirty = draw_rows(300, task, 3, missing=0.4, unseen=0.1, empty=0.1)
    return draw_rows(400, task, 1), draw_rows(200, task, 2), dirty


def job_of(estimator: str, task: str, parameters: dict[str, Any] | None = None, **options: Any) -> Any:
    spec = spec_for("sklearn", {"estimator": estimator.strip(), "parameters": parameters or {}, **options})
    return job_for(spec, task, *rows_of(task)[:2])


def require_parity(job: Any, task: str) -> Any:
    scorer, state, _ = train(job)
    rows = rows_of(task)[2]
    near = sklearn_check.make_rows(scorer.matrix.of(rows), 6, missing=False, seed=1)
    assert_agree(scores_of_file(scorer, job, rows), scorer.scores(rows), task)
    between = {**rows, "plain": near[600:900, :6]}  # where trees divide
    assert_agree(scores_of_file(scorer, job, between), scorer.scores(between), task)
    return scorer, state


@pytest.mark.parametrize("task", ["binary", "multiclass"])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_file_of_a_named_classifier_answers_as_it_does(name: str, task: str) -> None:
    require_parity(job_of(name, task, CLASSIFIERS[name]), task)


@pytest.mark.parametrize("name", REGRESSORS)
def test_the_file_of_a_named_regressor_answers_as_it_does(name: str) -> None:
    require_parity(job_of(name, "regression", REGRESSORS[name]), "regression")


@pytest.mark.parametrize("task", ["binary", "multiclass"])
@pytest.mark.parametrize("name", PIPELINES)
def test_the_file_of_an_own_pipeline_answers_as_it_does(name: str, task: str) -> None:
    scorer, _ = require_parity(job_of(OWN + name, task), task)
    assert isinstance(scorer.matrix, TreeMatrix), "each of them takes missing numbers"


@pytest.mark.parametrize("name", ["forest_of_scaled_numbers", "stack_of_numbers"])
def test_the_file_of_an_own_pipeline_of_numbers_answers_as_it_does(name: str) -> None:
    require_parity(job_of(OWN + name, "regression"), "regression")


def test_a_forest_after_a_scaler_is_scikit_learns_own_at_its_thresholds() -> None:
    rows, _, test = rows_of("binary")
    job = job_of(OWN + "forest_of_scaled", "binary", target_means=False)
    scorer, _, _ = train(job)

    def columns(given: Any) -> Any:
        return np.concatenate([given["plain"], given["category"]], axis=1).astype(np.float64)

    own = make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=0))
    own.fit(columns(rows), rows[LABEL])
    thresholds = np.concatenate(
        [tree.tree_.threshold[tree.tree_.feature == 0] for tree in own.steps[1][1].estimators_]
    )
    thresholds = thresholds[np.isfinite(thresholds)]
    raw = (thresholds * own.steps[0][1].scale_[0] + own.steps[0][1].mean_[0]).astype(np.float32)[:300]
    for near in (raw, np.nextafter(raw, np.float32(np.inf)), np.nextafter(raw, np.float32(-np.inf))):
        plain = test["plain"][: len(near)].copy()
        plain[:, 0] = near
        given = {name: values[: len(near)] for name, values in test.items()} | {"plain": plain}
        expected = own.predict_proba(columns(given))[:, 1]
        np.testing.assert_allclose(scorer.scores(given), expected, atol=1e-6)
        np.testing.assert_allclose(scores_of_file(scorer, job, given), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("own_categories", "categorical_features=.* not converted; leave it out"),
        ("isotonic", "method='isotonic', whose steps magnify"),
        ("refuses_unseen", "set handle_unknown='ignore'"),
        ("labels_vote", "set voting='soft'"),
        ("own_function", "'<lambda>' has no equal in ONNX"),
        ("ranks", "'QuantileTransformer' of sklearn, which is not converted"),
        ("own_class", "'OwnForest' of tests, which is not converted"),
        ("number", "gave a int; expected an estimator"),
        ("missing", "cannot import 'tests.own_estimators:missing'"),
    ],
)
def test_what_does_not_convert_right_is_refused_before_any_row_is_read(name: str, reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        find_learner("sklearn").check(spec_for("sklearn", {"estimator": OWN + name}), None, None)


def test_mistakes_in_options_are_told() -> None:
    def complaint(options: dict[str, Any], task: str = "binary", **training: Any) -> str:
        job = job_for(spec_for("sklearn", options, **training), task, *rows_of(task)[:2])
        with pytest.raises(SpecError) as caught:
            find_learner("sklearn").check(job.spec, job.packing, job.target)
        return str(caught.value)

    assert "did you mean 'RandomForestClassifier'" in complaint({"estimator": "RandomForestClasifier"})
    assert "it takes n_estimators" in complaint(
        {"estimator": "RandomForestClassifier", "parameters": {"trees": 3}}
    )
    assert "the target needs a classifier" in complaint({"estimator": "Ridge"})
    assert "did you mean 'estimator'" in complaint({"estimater": "Ridge"})
    assert "expected names with values" in complaint({"parameters": 3})
    assert "takes no weights of rows" in complaint({"estimator": "KNeighbors"}, class_weights="balanced")
    for name in (
        "vote",
        "calibrated",
        "bag",
        "one_against_rest",
    ):  # scikit-learn passes weights to no pipeline in them
        assert "takes no weights of rows" in complaint({"estimator": OWN + name}, class_weights="balanced")
    assert "is not complete" in complaint({"estimator": "SelfTrainingClassifier"})
    with pytest.raises(RaymlopsError, match="loss: poisson"):
        train(job_of("PoissonRegressor", "regression"))
    with pytest.raises(RaymlopsError, match="Only binary classification"):
        train(job_of("TunedThresholdClassifierCV", "multiclass", {"estimator": LogisticRegression()}))


@pytest.mark.parametrize("name", ["PoissonRegressor", "GammaRegressor", "HistGradientBoosting"])
def test_a_regression_of_counts_is_learned_as_it_is(name: str) -> None:
    parameters = {"loss": "poisson", "max_iter": 30} if name == "HistGradientBoosting" else {}
    spec = spec_for("sklearn", {"estimator": name, "parameters": parameters}, loss="poisson")
    job = job_of_counts(spec)
    if name == "GammaRegressor":  # of numbers above zero
        held = {**job.train.load()}
        held[LABEL] = np.maximum(held[LABEL], (0.5 - 4) / 3).astype(np.float32)
        job = dataclasses.replace(job, train=dataclasses.replace(job.train, rows=held))
    scorer, _, _ = train(job)
    rows = job.validation.load()
    found = scorer.scores(rows)
    assert_agree(scores_of_file(scorer, job, rows), found, "regression")
    assert np.corrcoef(found, rows[LABEL])[0, 1] > 0.4


def test_numbers_that_float64_cannot_sum_are_refused() -> None:
    rows = np.random.default_rng(0).normal(size=(300, 9)).astype(np.float32)
    fitted = Lars().fit(rows, rows[:, 0])
    sklearn_check.require_equal(read_prediction(fitted), fitted.predict(rows)[:, None], rows, "Lars")
    fitted.coef_ = 1e13 * np.random.default_rng(1).normal(size=9)
    fitted.coef_[-1] -= fitted.coef_.sum()
    same = np.repeat(rows[:, :1], 9, axis=1)
    with pytest.raises(ArtifactError, match=r"numbers so large that float64 rounds|does not convert right"):
        sklearn_check.require_equal(read_prediction(fitted), fitted.predict(same)[:, None], same, "Lars")


def test_a_conversion_that_is_wrong_is_refused_in_the_trial() -> None:
    rows = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    fitted = RandomForestClassifier(5, random_state=0).fit(rows, rows[:, 0] > 0)
    step = read_probabilities(fitted)
    assert isinstance(step, Trees)
    expected = fitted.predict_proba(rows)
    sklearn_check.require_equal(step, expected, rows, "forest")
    moved = {**step.arrays, "threshold": step.arrays["threshold"] + np.float32(0.01)}
    with pytest.raises(ArtifactError, match="does not convert right"):
        sklearn_check.require_equal(dataclasses.replace(step, arrays=moved), expected, rows, "forest")


@pytest.mark.parametrize("name", ["HistGradientBoosting", "GradientBoosting"])
def test_boosting_keeps_its_best_rounds_and_resumes_to_the_same(name: str) -> None:
    key = "max_iter" if name == "HistGradientBoosting" else "n_estimators"
    options = {"estimator": name, "parameters": {key: 40, "learning_rate": 0.5}}
    spec = spec_for("sklearn", options, epochs=8, patience=3, metric="log_loss")
    job = job_for(spec, "binary", *rows_of("binary")[:2])
    scorer, state, _ = train(job)
    values = [entry["log_loss"] for entry in state["history"]]
    assert len(values) < 8, "it stopped early"
    assert state["best_rounds"] == 5 * (int(np.argmin(values)) + 1)
    validation = job.validation.load()
    found = scorer.scores(validation)
    loss = -np.mean(np.log(np.where(validation[LABEL] == 1, found, 1 - found)))
    assert loss == pytest.approx(min(values), rel=1e-5)
    begun = {"history": state["history"][:2], "best_rounds": 5 * (int(np.argmin(values[:2])) + 1)}
    again, _, _ = train(job, {**state, **begun})
    np.testing.assert_allclose(again.scores(validation), found, atol=1e-12)


def test_what_a_search_saves_holds_no_pickle_and_is_checked(tmp_path: pathlib.Path) -> None:
    job = job_of("RandomForest", "binary", {"n_estimators": 5})
    scorer, state, _ = train(job)
    with worker.saved(state, str(tmp_path)) as directory:
        loaded = worker.load_state(directory)
    rows = rows_of("binary")[2]
    again = find_learner("sklearn").load(loaded, job)
    np.testing.assert_array_equal(again.scores(rows), scorer.scores(rows))
    (trees,) = [step for step in scorer.step.steps if isinstance(step, Trees)]
    children = np.where(trees.arrays["left"] > 0, 10**6, trees.arrays["left"])
    broken = number_steps.to_bytes(dataclasses.replace(trees, arrays={**trees.arrays, "left": children}))
    for content in (broken, broken[:-500], b"", np.arange(9).dumps()):
        with pytest.raises((StorageError, ArtifactError)):
            number_steps.from_bytes(content)


def test_weights_seeds_and_classes_without_rows() -> None:
    rows, validation, test = rows_of("binary")
    heavy = {**rows, WEIGHT: np.where(rows[LABEL] == 1, 5.0, 1.0).astype(np.float32)}
    for name, parameters in (("RandomForest", {"n_estimators": 10}), (OWN + "weighed", {})):
        options = {"estimator": name, "parameters": parameters}
        spec = spec_for("sklearn", options)
        plain, same = (train(job_for(spec, "binary", rows, validation))[0] for _ in range(2))
        np.testing.assert_array_equal(plain.scores(test), same.scores(test))
        by_row = train(job_for(spec, "binary", heavy, validation))[0]
        by_class = train(
            job_for(spec_for("sklearn", options, class_weights={"1": 5.0}), "binary", rows, validation)
        )[0]
        assert by_row.scores(test).mean() > plain.scores(test).mean() + 0.05
        np.testing.assert_allclose(by_row.scores(test), by_class.scores(test), atol=1e-6)
    few = {**rows_of("multiclass")[0]}
    few[LABEL] = np.minimum(few[LABEL], 1)
    for name in ("RandomForest", "LogisticRegression"):
        job = job_for(spec_for("sklearn", {"estimator": name}), "multiclass", few, rows_of("multiclass")[1])
        scorer, _, _ = train(job)
        found = scorer.scores(rows_of("multiclass")[2])
        assert (np.argmax(found, axis=1) < 2).all()
        assert_agree(scores_of_file(scorer, job, rows_of("multiclass")[2]), found, "multiclass")


def test_an_estimator_that_takes_no_missing_numbers_gets_them_filled() -> None:
    for name, kind in (("LogisticRegression", EncodedMatrix), ("RandomForestClassifier", TreeMatrix)):
        scorer, _, _ = train(job_of(name, "binary"))
        assert isinstance(scorer.matrix, kind)
    forced, _, _ = train(job_of("RandomForestClassifier", "binary", {"n_estimators": 5}, columns="encoded"))
    assert isinstance(forced.matrix, EncodedMatrix)
    for name, takes in (("near", True), ("searched", True), ("rare_values", True), ("ranks", True)):
        assert takes_missing(make_estimator(OWN + name, {}, "")) == takes
    for wide in ("numbers", "categories"):
        shape: dict[str, Any] = (
            {"numbers": 4, "categories": ()} if wide == "numbers" else {"categories": (3, 90)}
        )
        rows, validation, test = (draw_rows(300, "binary", seed, **shape) for seed in (1, 2, 3))
        if wide == "categories":
            rows, validation, test = ({n: v for n, v in one.items() if n not in ("plain", "numeric")}
                                      for one in (rows, validation, test))  # fmt: skip
        spec = spec_for("sklearn", {"estimator": "LogisticRegression"})
        job = job_for(spec, "binary", rows, validation, numbers=0 if wide == "categories" else 4,
                      categories=shape["categories"])  # fmt: skip
        scorer, _, _ = train(job)
        assert_agree(scores_of_file(scorer, job, test), scorer.scores(test), "binary")


def test_a_search_varies_what_suits_the_estimator_or_what_the_spec_says() -> None:
    forest = {
        "estimator": "RandomForest",
        "parameters": {"n_estimators": 9, "max_depth": {"low": 2, "high": 9}},
    }
    value = spec_for("network").model_dump() | {"training": {}, "search": {"learners": {"sklearn": forest}}}
    spec = ExperimentSpec.model_validate(value)
    (found,) = candidates.find_candidates(spec)
    assert found.held == {
        "training.options.estimator": "RandomForest",
        "training.options.parameters.n_estimators": 9,
    }
    assert set(found.varied) == {
        f"training.options.parameters.{name}" for name in ("min_samples_leaf", "max_features", "max_depth")
    }
    candidates.check(spec)
    assert find_own_names(spec) == {}
    trial = spec_for("sklearn", {"estimator": "DecisionTree", "parameters.max_depth": 1})
    scorer, _, _ = train(job_for(trial, "binary", *rows_of("binary")[:2]))
    assert len(scorer.step.steps[0].ensemble.trees[0].feature) == 3


def test_a_function_of_the_users_own_is_code_that_a_spec_names() -> None:
    own = OWN + "number"
    spec = spec_for("sklearn", {"estimator": own})
    assert f"training.options.estimator: {own}" in find_code(spec)
    learners.check(spec, imports=False)
    with pytest.raises(SpecError, match="gave a int"):
        learners.check(spec)
    value = spec_for("network").model_dump() | {"training": {}}
    for held in (own, {"choices": ["RandomForest", own]}):
        value["search"] = {"learners": {"sklearn": {"estimator": held}}}
        named = ExperimentSpec.model_validate(value)
        (told,) = find_code(named)
        assert told.startswith("search.learners.sklearn.estimator")
        assert told.endswith(own)
        candidates.check(named, imports=False)


def test_all_tasks_have_a_default() -> None:
    for task in TASKS:
        spec = spec_for("sklearn", {"parameters": {"max_iter": 10}})
        require_parity(job_for(spec, task, *rows_of(task)[:2]), task)
