"""Where rows are few, sums of a pass lose nothing: every metric is that of the rows in memory."""

from typing import Any

import numpy as np
import pytest

from raymlops import metrics
from raymlops.evaluation import partials, results
from raymlops.evaluation.intervals import check_same_rows, resample
from raymlops.evaluation.partials import WHOLE, Layout, Partial
from raymlops.specs.evaluation import CostSpec, EvaluationSpec

CHANCE = np.random.default_rng(5)


def draw(task: str, rows: int, classes: int = 2) -> tuple[Any, Any]:
    """Labels, and scores so near to each other that fixed cells lose their order."""
    labels = CHANCE.integers(0, classes, rows)
    if task == "binary":
        return labels, (0.6 + 1e-5 * (labels + 2 * CHANCE.normal(size=rows))).astype(np.float32)
    raw = np.exp(CHANCE.normal(size=(rows, classes)) + (np.arange(classes) == labels[:, None]))
    return labels, (raw / raw.sum(axis=1, keepdims=True)).astype(np.float32)


def sum_in_batches(task: str, labels: Any, scores: Any, classes: int = 2, size: int = 70) -> Partial:
    layout = Layout(task, classes, cells=1000 if classes == 2 else 200)
    total = partials.start(layout)
    groups = CHANCE.integers(0, 2**62, len(labels)).astype(np.uint64)
    for start in range(0, len(labels), size):
        part = slice(start, start + size)
        places = partials.spread(groups[part], layout.groups)
        batch = partials.observe(layout, labels[part], scores[part], places, {"column": labels[part]})
        total = partials.merge(total, Partial.from_bytes(batch.to_bytes()))
    return partials.to_exact(total)


@pytest.mark.parametrize(("task", "classes"), [("binary", 2), ("multiclass", 5)])
def test_metrics_of_few_rows_are_those_of_the_rows_in_memory(task: str, classes: int) -> None:
    labels, scores = draw(task, 400, classes)
    found = sum_in_batches(task, labels, scores, classes)
    expected = metrics.measure(task, labels, scores)
    drawn = resample(found.layout, found.sums[WHOLE], 200)
    for name, value in expected.items():
        assert drawn[name][0] == pytest.approx(value, abs=1e-12), name
    evaluation = results.finish(found, EvaluationSpec(bootstrap=200))
    for name, value in expected.items():
        interval = evaluation.metrics[name]
        assert interval.value == pytest.approx(value, abs=1e-12)
        if name != "calibration_error":  # which resampling biases
            assert interval.low <= value <= interval.high
    assert sum(part.rows for part in evaluation.slices) == 400 or min(np.bincount(labels)) < 100


def test_many_rows_keep_the_fixed_cells_and_their_size() -> None:
    labels, scores = draw("binary", 2001)
    found = sum_in_batches("binary", labels, scores)
    assert found.held is None
    assert not found.layout.scores
    assert sum_in_batches("binary", labels[:2000], scores[:2000]).layout.scores


def test_two_models_on_the_same_few_rows_can_be_compared() -> None:
    labels, scores = draw("binary", 300)
    layout, groups = Layout("binary"), np.arange(300) % 256
    pair = [
        partials.to_exact(partials.observe(layout, labels, values, groups)) for values in (scores, scores**2)
    ]
    check_same_rows(*pair)


def test_the_threshold_of_few_rows_is_one_of_their_scores_or_chooses_all_or_none() -> None:
    labels = np.array([0, 0, 1, 1])
    scores = np.array([0.61, 0.62, 0.63, 0.64])
    found = results.finish(sum_in_batches("binary", labels, scores), EvaluationSpec(bootstrap=100)).threshold
    assert found is not None
    assert (found.value, found.confusion) == (0.63, ((2, 0), (0, 2)))
    assert found.cost_at_half == 0.5
    same = results.finish(sum_in_batches("binary", labels, np.full(4, 0.2)), EvaluationSpec(bootstrap=100))
    assert same.threshold is not None
    assert same.metrics["roc_auc"].value == 0.5
    never = EvaluationSpec(bootstrap=100, cost=CostSpec(false_positive=100.0))
    assert results.finish(sum_in_batches("binary", labels, np.full(4, 0.2)), never).threshold.value == 1.0


def test_answers_that_are_not_finite_are_counted_and_left_out() -> None:
    labels, scores = np.array([0, 1, 1, 0]), np.array([0.1, np.nan, 0.9, 0.4])
    found = results.finish(sum_in_batches("binary", labels, scores), EvaluationSpec(bootstrap=100))
    assert (found.rows, found.nonfinite, found.metrics["roc_auc"].value) == (4, 1, 1.0)
    none = results.finish(sum_in_batches("binary", labels, np.full(4, np.nan)), EvaluationSpec(bootstrap=100))
    assert none.nonfinite == 4


@pytest.mark.parametrize("rows", [300, 3000])
@pytest.mark.parametrize(("task", "classes"), [("binary", 2), ("multiclass", 3), ("regression", 2)])
def test_a_row_that_weighs_three_counts_as_three_in_metrics_and_as_one_in_numbers_of_rows(
    task: str, classes: int, rows: int
) -> None:
    if task == "regression":
        labels = CHANCE.normal(size=rows)
        scores = labels + CHANCE.normal(size=rows)
    else:
        labels, scores = draw(task, rows, classes)
    weights = CHANCE.integers(0, 4, rows)
    layout, groups = Layout(task, classes), np.arange(rows) % 256
    slices = {"column": np.where(labels > 0, "up", "down")}
    batches = [
        partials.observe(
            layout,
            labels[part],
            scores[part],
            groups[part],
            {"column": slices["column"][part]},
            weights[part],
        )
        for part in (slice(0, 200), slice(200, rows))
    ]
    total = partials.start(layout)
    for batch in batches:
        total = partials.merge(total, Partial.from_bytes(batch.to_bytes()))
    weighed = partials.to_exact(total)
    repeated = np.repeat(np.arange(rows), weights)
    thrice = partials.to_exact(partials.observe(layout, labels[repeated], scores[repeated], groups[repeated]))
    for name, value in metrics.measure(task, labels, scores, weights).items():
        one, other = (results.measure_once(part, name) for part in (weighed, thrice))
        if rows == 300:
            assert one == pytest.approx(value, abs=1e-9), name
            assert one == pytest.approx(other, abs=1e-9), name
        else:  # in fixed cells the order of rows within a cell is not known
            assert one == pytest.approx(other, abs=0.02), name
    found = results.finish(weighed, EvaluationSpec(bootstrap=100, slice_rows=10))
    assert found.rows == rows
    assert sum(part.rows for part in found.slices) == rows


def test_intervals_of_equal_weights_are_those_without_weights() -> None:
    labels, scores = draw("binary", 500)
    layout, groups = Layout("binary"), np.arange(500) % 256
    plain, weighed = (
        partials.to_exact(partials.observe(layout, labels, scores, groups, weights=weights))
        for weights in (None, np.full(500, 7.5))
    )
    one, other = (results.finish(part, EvaluationSpec(bootstrap=100)).metrics for part in (plain, weighed))
    for name, interval in one.items():
        assert interval.low == pytest.approx(other[name].low), name
        assert interval.high == pytest.approx(other[name].high), name
