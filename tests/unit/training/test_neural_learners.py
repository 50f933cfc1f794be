"""RealMLP and TabM: parity of their files, weights, losses, seeds, resuming, refusals."""

import functools
import pathlib
import re
from typing import Any

import numpy as np
import pytest

from raymlops.errors import SpecError
from raymlops.features import Packing
from raymlops.training import learners, worker
from raymlops.training.learners import LEARNERS, find_learner, steps
from raymlops.training.packed import LABEL, WEIGHT
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

OPTIONS: dict[str, dict[str, Any]] = {
    "realmlp": {"steps": 60, "batch_size": 64, "width": 48, "layers": 2, "lr": 0.04},
    "tabm": {"steps": 60, "batch_size": 64, "width": 24, "layers": 2, "lr": 0.01, "members": 3},
}
each_learner = pytest.mark.parametrize("learner", OPTIONS)


@pytest.fixture(autouse=True)
def every_part_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "REPORT_SECONDS", 0.0)


@functools.cache
def trained(learner: str, task: str) -> Any:
    """(job, scorer, state, reports)"""
    spec = spec_for(learner, OPTIONS[learner], epochs=4, patience=4)
    job = job_for(spec, task, draw_rows(800, task, 1), draw_rows(300, task, 2))
    return job, *train(job)


def dirty(task: str, rows: int = 400, **shape: Any) -> Any:
    return draw_rows(rows, task, 3, missing=0.4, unseen=0.1, empty=0.1, **shape)


@pytest.mark.parametrize("task", TASKS)
@each_learner
def test_the_file_answers_dirty_rows_as_the_trained_model_does(learner: str, task: str) -> None:
    job, scorer, _, _ = trained(learner, task)
    rows = dirty(task)
    plain = rows["plain"].copy()
    plain[:3, 0], plain[3:6, 1], plain[6, :] = 3e38, -3e38, np.nan
    plain[7, 0], plain[8, 0] = np.inf, -np.inf
    rows = {**rows, "plain": plain}
    found = scorer.scores(rows)
    assert np.isfinite(found).all()
    assert_agree(scores_of_file(scorer, job, rows), found, task)
    none = {name: values[:0] for name, values in rows.items()}
    assert scorer.scores(none).shape == ((0, 3) if task == "multiclass" else (0,))


@each_learner
def test_it_learns(learner: str) -> None:
    _, _, state, _ = trained(learner, "regression")
    assert min(entry["rmse"] for entry in state["history"]) < 1.6, "less than the spread of 2"


@each_learner
def test_a_training_that_was_killed_ends_with_the_same_network(learner: str, tmp_path: pathlib.Path) -> None:
    job, scorer, _, whole = trained(learner, "multiclass")
    assert [told["epoch"] for told in whole] == [1, 2, 3, 4]
    _, state, _ = train(job, reports=2)
    assert state["steps"] == 30
    with worker.saved(state, str(tmp_path)) as directory:
        loaded = worker.load_state(directory)
    resumed, _, rest = train(job, loaded)
    again, _, _ = train(job, loaded)
    assert [told["epoch"] for told in rest] == [3, 4]
    rows = dirty("multiclass")
    np.testing.assert_array_equal(resumed.scores(rows), scorer.scores(rows))
    np.testing.assert_array_equal(again.scores(rows), scorer.scores(rows))


@each_learner
def test_a_seed_gives_the_same_model_again_and_another_seed_another(learner: str) -> None:
    job, scorer, _, _ = trained(learner, "binary")
    again, _, _ = train(job)
    rows = dirty("binary")
    np.testing.assert_array_equal(again.scores(rows), scorer.scores(rows))
    spec = spec_for(learner, OPTIONS[learner], epochs=4, patience=4, seed=5)
    other, _, _ = train(learners.Job(spec, job.packing, job.target, job.train, job.validation))
    assert np.abs(other.scores(rows) - scorer.scores(rows)).max() > 1e-3


@each_learner
def test_a_training_that_gains_nothing_ends_early_with_its_best_network(learner: str) -> None:
    noise = draw_rows(300, "regression", 1)
    draw = np.random.default_rng(0)
    noise = {**noise, LABEL: draw.normal(size=300).astype(np.float32)}
    spec = spec_for(learner, {**OPTIONS[learner], "steps": 400}, epochs=20, patience=3)
    job = job_for(spec, "regression", noise, draw_rows(300, "regression", 2))
    scorer, state, _ = train(job)
    values = [entry["rmse"] for entry in state["history"]]
    assert len(values) < 20
    validation = job.validation.load()
    found = scorer.scores({name: value for name, value in validation.items() if name != LABEL})
    assert 2 * np.sqrt(np.mean((found - validation[LABEL]) ** 2)) == pytest.approx(min(values), rel=1e-5)


@each_learner
def test_weights_count_rows_and_classes(learner: str) -> None:
    rows = draw_rows(800, "binary", 1)
    heavy = {**rows, WEIGHT: np.where(rows[LABEL] == 1, 5.0, 1.0).astype(np.float32)}
    means = []
    for given, weights in ((rows, None), (heavy, None), (rows, {"1": 5.0})):
        spec = spec_for(learner, OPTIONS[learner], class_weights=weights)
        scorer, _, _ = train(job_for(spec, "binary", given, draw_rows(300, "binary", 2)))
        means.append(scorer.scores(dirty("binary")).mean())
    assert means[1] > means[0] + 0.05
    assert means[1] == pytest.approx(means[2], abs=1e-3)


@pytest.mark.parametrize(
    ("learner", "loss"),
    [
        *(("realmlp", loss) for loss in ("mae", "quantile", "poisson")),
        *(("tabm", loss) for loss in ("mae", "quantile")),
    ],
)
def test_losses_of_a_regression(learner: str, loss: str) -> None:
    spec = spec_for(learner, {**OPTIONS[learner], "steps": 150}, loss=loss, quantile=0.9)
    job, rows = job_of_counts(spec), draw_counts(500, 3)
    scorer, _, _ = train(job)
    found = scorer.scores(rows)
    assert_agree(scores_of_file(scorer, job, rows), found, "regression")
    highest = job.train.load()[LABEL].max()
    assert (found <= highest + 1e-4).all(), "within the range of the training rows"
    assert np.corrcoef(found, rows["plain"][:, 0])[0, 1] > 0.4
    if loss == "quantile":
        assert 0.75 < np.mean(rows[LABEL] <= found) < 0.97
    if loss == "poisson":
        assert (found * 3 + 4 > -1e-3).all()


@each_learner
@pytest.mark.parametrize("kind", ["numbers", "categories", "nothing"])
def test_a_table_of_one_kind_of_columns_is_enough(learner: str, kind: str) -> None:
    shape: dict[str, Any] = {"numbers": 4, "categories": ()} if kind == "numbers" else {"categories": (3, 30)}
    if kind == "nothing":
        shape = {"categories": (1,)}  # a column of which every value is rare
    rows, validation, test = (draw_rows(400, "binary", seed, **shape) for seed in (1, 2, 3))
    if kind != "numbers":
        rows, validation, test = ({n: v for n, v in one.items() if n not in ("plain", "numeric")}
                                  for one in (rows, validation, test))  # fmt: skip
    job = job_for(spec_for(learner, OPTIONS[learner]), "binary", rows, validation,
                  numbers=4 if kind == "numbers" else 0, categories=shape["categories"])  # fmt: skip
    scorer, _, _ = train(job)
    assert_agree(scores_of_file(scorer, job, test), scorer.scores(test), "binary")


@each_learner
def test_few_rows_with_constant_and_empty_columns_still_give_a_model(learner: str) -> None:
    rows = {name: values[:9] for name, values in draw_rows(9, "binary", 1).items()}
    rows["plain"] = np.ones_like(rows["plain"])
    rows["plain"][:, 1] = np.nan
    job = job_for(spec_for(learner, {"steps": 20}), "binary", rows, draw_rows(20, "binary", 2))
    scorer, _, _ = train(job)
    test = dirty("binary")
    assert np.isfinite(scorer.scores(test)).all()
    assert_agree(scores_of_file(scorer, job, test), scorer.scores(test), "binary")


@each_learner
def test_a_class_that_no_training_row_has_is_never_predicted(learner: str) -> None:
    rows = draw_rows(400, "multiclass", 1)
    rows = {**rows, LABEL: np.minimum(rows[LABEL], 1)}
    job = job_for(spec_for(learner, OPTIONS[learner]), "multiclass", rows, draw_rows(200, "multiclass", 2))
    scorer, _, _ = train(job)
    assert (np.argmax(scorer.scores(dirty("multiclass")), axis=1) < 2).all()


@each_learner
def test_what_a_family_cannot_do_is_told_before_any_row_is_read(learner: str) -> None:
    family = find_learner(learner)

    def complaint(spec: Any, packing: Any = None, task: str = "binary") -> str:
        with pytest.raises(SpecError) as caught:
            family.check(spec, packing, packing and TARGETS[task])
        return str(caught.value)

    assert "did you mean 'steps'" in complaint(spec_for(learner, {"step": 1}))
    assert "training.options.steps: expected an integer from 1" in complaint(spec_for(learner, {"steps": 0}))
    assert "reads no images" in complaint(spec_for(learner), Packing(plain=1, image=(1, 8, 8)))
    assert "needs a number, a category or a timestamp" in complaint(spec_for(learner), Packing())
    assert "is for regression" in complaint(spec_for(learner, loss="mse"), packing_for())
    searched = spec_for(learner).model_dump() | {"search": {"space": {"lr": {"low": 0.1, "high": 1}}}}
    assert "does not read training.lr" in complaint(type(spec_for(learner)).model_validate(searched))
    with pytest.raises(SpecError, match="trains in one process"):
        learners.check(spec_for(learner, workers=2))
    if learner == "tabm":
        assert "and not poisson" in complaint(spec_for(learner, loss="poisson"))


@each_learner
def test_what_a_search_varies_by_default_and_starts_from_is_allowed(learner: str) -> None:
    family: Any = find_learner(learner)
    for task in TASKS:
        for rows in (9, 10_000, 10**7):
            options = family.options_for(rows, task)
            family.check(spec_for(learner, options), None, None)
            assert set(options) == set(find_learner(learner).options)
            for key, dimension in family.space.items():
                name = key.rpartition(".")[2]
                if dimension.choices is None:
                    assert dimension.low <= options[name] <= dimension.high
    value = spec_for(learner).model_dump()
    value["search"]["space"] = {key: dimension.model_dump() for key, dimension in family.space.items()}
    family.check(type(spec_for(learner)).model_validate(value), None, None)
    assert learner in LEARNERS


def test_the_page_of_learners_lists_every_option() -> None:
    text = (pathlib.Path(__file__).parents[3] / "docs" / "learners.md").read_text(encoding="utf-8")
    for name in OPTIONS:
        family: Any = find_learner(name)
        section = re.split(r"\n## ", text.split(f"\n## `{name}`")[1])[0]
        for option in family.options:
            assert f"| `{option}` |" in section, f"{name}.{option}"


@each_learner
def test_numbers_scaled_by_batch_give_the_network_of_those_scaled_once(
    learner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, scorer, _, _ = trained(learner, "multiclass")
    monkeypatch.setattr(steps, "_SCALED_BYTES", 0)
    other, _, _ = train(job)
    rows = dirty("multiclass")
    np.testing.assert_array_equal(other.scores(rows), scorer.scores(rows))
