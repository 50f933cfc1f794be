"""What a model is compared with: a constant, a linear model and boosting, on raw columns as they come."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from raymlops import metrics
from raymlops.evaluation import baselines
from raymlops.evaluation.gate import Evidence, judge
from raymlops.evaluation.partials import WHOLE, Layout
from raymlops.specs.evaluation import GateSpec
from raymlops.tensors import Batch

NOWHERE = np.iinfo(np.int64).min


def raw_rows(rows: int = 900, seed: int = 0) -> tuple[Batch, npt.NDArray[Any]]:
    """Numbers with gaps, strings, codes, an instant and a small image; the score follows from three of them."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=rows).astype(np.float32)
    word = draw.choice(np.array(["red", "green", ""], dtype=object), rows)
    code = draw.integers(0, 5, rows)
    when = draw.integers(1.6e12, 1.7e12, rows)
    when[::9] = NOWHERE
    score = 2 * x + (word == "red") + (code == 3) * 2
    x[::7] = np.nan
    image = draw.random((rows, 3, 3)).astype(np.float32)
    empty = np.full(rows, np.nan, dtype=np.float32)
    return {"x": x, "word": word, "code": code, "when": when, "image": image, "empty": empty}, score


def labels_of(score: npt.NDArray[Any], task: str) -> npt.NDArray[Any]:
    if task == "regression":
        return 1e6 + 1e3 * score
    return (score > 0.5).astype(np.int64) if task == "binary" else np.digitize(score, [0.0, 1.5])


def fitted(task: str, rows: int = 900) -> tuple[baselines.Baseline, ...]:
    columns, score = raw_rows(rows)
    return baselines.fit_baselines(
        columns, labels_of(score, task), task=task, classes=3 if task == "multiclass" else 2,
        categories=frozenset({"code", "word"}),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("task", "metric"), [("binary", "log_loss"), ("multiclass", "log_loss"), ("regression", "rmse")]
)
def test_baselines_learn_what_columns_of_every_kind_tell(task: str, metric: str) -> None:
    columns, score = raw_rows(seed=1)
    columns["word"][0] = "never seen"
    true = labels_of(score, task)
    found = {one.name: metrics.measure(task, true, one.predict(columns))[metric] for one in fitted(task)}
    assert found["linear"] < 0.75 * found["constant"]
    assert found["boosting"] < 0.75 * found["constant"]


def test_a_sample_with_one_class_has_only_the_constant_to_compare_with() -> None:
    columns, score = raw_rows(50)
    found = baselines.fit_baselines(
        columns, np.ones(len(score), dtype=np.int64), task="binary", classes=2, categories=frozenset()
    )
    assert [one.name for one in found] == ["constant"]


def test_a_class_that_the_sample_lacks_has_probability_zero() -> None:
    columns, score = raw_rows(300)
    found = baselines.fit_baselines(
        columns, (score > 0).astype(np.int64) * 2, task="multiclass", classes=4, categories=frozenset()
    )
    for one in found:
        given = one.predict(columns)
        assert given.shape == (300, 4)
        np.testing.assert_allclose(given.sum(axis=1), 1, atol=1e-6)
        assert (given[:, [1, 3]] == 0).all()


def checked(scores: npt.NDArray[Any], spec: GateSpec) -> dict[str, bool]:
    """The checks against baselines, of a model that gives these scores."""
    columns, score = raw_rows(seed=1)
    true = labels_of(score, "binary")
    own, others = baselines.measure(Layout("binary"), columns, true, scores, fitted("binary"))
    verdict = judge(Evidence("m", partial=own, sampled=own, baselines=others), None, spec)
    return {check.name.split()[-2]: check.passed for check in verdict.checks if "baseline" in check.name}


def test_the_gate_blocks_a_model_that_a_baseline_beats_beyond_doubt() -> None:
    _, score = raw_rows(seed=1)
    draw = np.random.default_rng(2)
    poor = 1 / (1 + np.exp(-(score + draw.normal(size=len(score)) * 6)))
    good = 1 / (1 + np.exp(-3 * (score - 0.5)))
    assert checked(poor, GateSpec()) == {"constant": True, "linear": False}
    assert checked(good, GateSpec()) == {"constant": True, "linear": True}
    assert checked(poor, GateSpec(baselines=())) == {}
    assert checked(poor, GateSpec(baselines=("boosting",))) == {"boosting": False}


def test_the_leaderboard_pairs_the_model_with_each_baseline() -> None:
    columns, score = raw_rows(seed=1)
    true = labels_of(score, "regression")
    held = fitted("regression")
    linear = next(one for one in held if one.name == "linear").predict(columns)
    layout = Layout("regression", shift=1e6, spread=1e3)
    own, others = baselines.measure(layout, columns, true, linear, held)
    lines = baselines.rank(own, others, held, replicates=200, confidence=0.95)["rmse"]
    assert [line.name for line in lines] == ["model", "constant", "linear", "boosting"]
    gains = {line.name: line.gain for line in lines}
    assert gains["linear"] is not None
    assert (gains["linear"].low, gains["linear"].high) == (0, 0)  # it is the same model
    assert gains["constant"] is not None
    assert gains["constant"].low > 0
    assert baselines.Line.from_json(lines[1].to_json()) == lines[1]
    assert own.sums[WHOLE].shape == others["linear"].sums[WHOLE].shape
