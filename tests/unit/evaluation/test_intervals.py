"""Sums stand for their rows: metrics agree with the exact ones, intervals cover, pairs are told apart."""

import dataclasses
import json

import numpy as np
import pytest

from raymlops import metrics
from raymlops.errors import InputError
from raymlops.evaluation import intervals, partials, results
from raymlops.evaluation.partials import WHOLE, Layout
from raymlops.specs.evaluation import CostSpec, EvaluationSpec
from tests.row_groups import groups_of

ROWS = 8000


def _draw(task, rows=ROWS, seed=0, skill=1.0):
    random = np.random.default_rng(seed)
    if task == "binary":
        labels = (random.random(rows) < 0.2).astype(int)
        odds = random.normal(size=rows) + skill * (labels * 2 - 1) - 1
        return labels, 1 / (1 + np.exp(-odds))
    if task == "multiclass":
        labels = random.integers(0, 3, rows)
        odds = random.normal(size=(rows, 3)) + skill * (np.arange(3) == labels[:, None])
        return labels, np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True)
    labels = 1000 + random.normal(size=rows) * 5
    return labels, labels + random.normal(size=rows) / skill


def _observe(layout, labels, scores, pieces=4, slices=None):
    total = partials.start(layout)
    for chosen in np.array_split(np.arange(len(labels)), pieces):
        groups = groups_of({"label": labels[chosen], "row": chosen.astype(float)})
        held = {name: values[chosen] for name, values in (slices or {}).items()}
        part = partials.observe(layout, labels[chosen], scores[chosen], groups, held)
        total = partials.merge(total, partials.Partial.from_bytes(part.to_bytes()))
    return total


@pytest.mark.parametrize("task", list(metrics.METRICS))
def test_metrics_of_sums_agree_with_those_of_the_rows(task):
    labels, scores = _draw(task)
    found = results.finish(_observe(Layout(task, classes=3, shift=1000.0), labels, scores))
    exact = metrics.measure(task, labels, scores)
    assert set(found.metrics) == set(exact)
    for name, value in exact.items():
        # cells of the histogram make a few ties
        ranked = {"roc_auc": 2e-4, "average_precision": 2e-4, "top_decile_lift": 2e-3}
        assert found.metrics[name].value == pytest.approx(value, rel=ranked.get(name, 1e-9)), name
        assert found.metrics[name].low < found.metrics[name].value < found.metrics[name].high


@pytest.mark.parametrize("task", list(metrics.METRICS))
def test_an_evaluation_survives_json(task):
    labels, scores = _draw(task, 500)
    slices = {"carrier": np.where(labels > 0, "UA", "AA").astype(object)}
    found = results.finish(_observe(Layout(task, classes=3), labels, scores, slices=slices))
    held = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert results.Evaluation.from_json(held).to_json() == held


def test_a_rare_class_keeps_its_ranking():
    random = np.random.default_rng(1)
    labels = (random.random(50_000) < 0.002).astype(int)
    odds = random.normal(size=50_000) + 1.5 * labels - 7
    scores = 1 / (1 + np.exp(-odds))
    found = results.finish(_observe(Layout("binary"), labels, scores))
    for name in ("roc_auc", "average_precision", "log_loss"):
        assert found.metrics[name].value == pytest.approx(
            metrics.METRICS["binary"][name](labels, scores), rel=1e-2
        )


def test_the_order_and_the_size_of_blocks_change_nothing():
    labels, scores = _draw("binary")
    layout = Layout("binary")
    first = _observe(layout, labels, scores, pieces=1)
    second = _observe(layout, labels[::-1], scores[::-1], pieces=1)
    other = partials.start(layout)
    for chosen in np.array_split(np.random.default_rng(0).permutation(ROWS), 13):
        groups = groups_of({"label": labels[chosen], "row": chosen.astype(float)})
        other = partials.merge(other, partials.observe(layout, labels[chosen], scores[chosen], groups))
    assert np.allclose(first.sums[WHOLE], other.sums[WHOLE])
    assert second.rows == first.rows == ROWS


@pytest.mark.slow
def test_intervals_cover_the_truth_about_as_often_as_they_say():
    labels, scores = _draw("binary", 400_000, seed=99)
    truth = metrics.METRICS["binary"]["roc_auc"](labels, scores)
    covered = 0
    for seed in range(60):
        labels, scores = _draw("binary", 1500, seed=seed)
        part = _observe(Layout("binary", cells=300), labels, scores, pieces=1)
        interval = intervals.find_intervals(part.layout, part.sums[WHOLE], 300)["roc_auc"]
        covered += interval.low <= truth <= interval.high
    assert 53 <= covered <= 60  # 57 expected; fixed seeds


def test_the_width_is_that_of_a_bootstrap_of_rows():
    labels, scores = _draw("binary", 4000)
    part = _observe(Layout("binary"), labels, scores)
    ours = intervals.find_intervals(part.layout, part.sums[WHOLE], 1000)["log_loss"]
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(1000):
        rows = random.integers(0, len(labels), len(labels))
        drawn.append(metrics.METRICS["binary"]["log_loss"](labels[rows], scores[rows]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert ours.high - ours.low == pytest.approx(high - low, rel=0.2)


def _gains(new, old):
    """Of a paired bootstrap, by metric."""
    intervals.check_same_rows(new, old)
    drawn = [intervals.resample(part.layout, part.sums[WHOLE], 1000) for part in (new, old)]
    return {name: intervals.find_gains(name, drawn[0][name], drawn[1][name]) for name in drawn[0]}


def test_a_paired_comparison_sees_what_separate_intervals_do_not():
    labels, scores = _draw("binary", 4000)
    odds = np.log(scores / (1 - scores))
    worse = 1 / (1 + np.exp(-(odds + 0.3 * np.random.default_rng(5).normal(size=4000))))
    layout = Layout("binary")
    good, bad = (_observe(layout, labels, values) for values in (scores, worse))
    gains = _gains(bad, good)["roc_auc"]
    assert intervals.to_interval(gains).high < 0
    assert np.mean(gains[1:] < 0) > 0.99
    apart = [results.finish(part).metrics["roc_auc"] for part in (good, bad)]
    assert apart[1].high > apart[0].low  # they overlap


def test_a_model_against_itself_differs_by_nothing():
    part = _observe(Layout("binary"), *_draw("binary", 1000))
    for gains in _gains(part, part).values():
        found = intervals.to_interval(gains)
        assert (found.low, found.value, found.high) == (0, 0, 0)


def test_other_rows_are_refused_in_a_comparison():
    first = _observe(Layout("binary"), *_draw("binary", 1000))
    second = _observe(Layout("binary"), *_draw("binary", 1001))
    with pytest.raises(InputError, match="measured on different rows"):
        _gains(first, second)


def test_slices_have_their_own_metrics_and_missing_values_their_own_slice():
    labels, scores = _draw("binary", 3000)
    carriers = np.array(["UA", "AA", None], dtype=object)[np.arange(3000) % 3]
    scores = np.where(carriers == "AA", 1 - scores, scores)  # wrong for one of them
    part = _observe(Layout("binary"), labels, scores, slices={"carrier": carriers})
    found = {part.value: part for part in results.finish(part).slices}
    assert set(found) == {"UA", "AA", "(missing)"}
    assert found["AA"].metrics["roc_auc"].high < 0.5 < found["UA"].metrics["roc_auc"].low
    assert found["AA"].rows == 1000


def test_rare_values_are_counted_together_and_lost_nowhere():
    labels, scores = _draw("binary", 6000)
    towns = np.where(np.arange(6000) % 2 == 0, "big", np.char.add("t", (np.arange(6000) % 200).astype(str)))
    part = _observe(Layout("binary"), labels, scores, slices={"town": towns.astype(object)})
    found = results.finish(part, EvaluationSpec(slices=("town",), max_slices=5, slice_rows=10)).slices
    assert [part.value for part in found][:2] == ["big", "other"]
    assert sum(part.rows for part in found) == 6000


def test_rows_without_a_finite_score_are_counted_and_in_no_metric():
    labels, scores = _draw("binary", 1000)
    broken = scores.copy()
    broken[:10] = np.nan
    found = results.finish(_observe(Layout("binary"), labels, broken))
    assert (found.rows, found.nonfinite) == (1000, 10)
    assert found.metrics["brier"].value == pytest.approx(
        metrics.METRICS["binary"]["brier"](labels[10:], scores[10:])
    )


def test_only_broken_scores_still_give_an_evaluation():
    found = results.finish(_observe(Layout("binary"), np.zeros(50, dtype=int), np.full(50, np.nan)))
    assert found.nonfinite == 50
    assert all(np.isnan(interval.value) for interval in found.metrics.values())


def test_no_rows_are_an_error_that_says_where_to_look():
    with pytest.raises(InputError, match="No row was scored"):
        results.finish(partials.start(Layout("binary")))


@pytest.mark.parametrize("cost", [CostSpec(), CostSpec(false_negative=9), CostSpec(false_positive=4)])
def test_the_threshold_costs_as_little_as_the_best_of_a_fine_grid(cost):
    labels, scores = _draw("binary")
    chosen = results.finish(_observe(Layout("binary"), labels, scores), EvaluationSpec(cost=cost)).threshold
    costs = [
        np.mean(
            np.where(labels > 0, cost.false_negative * (scores < cut), cost.false_positive * (scores >= cut))
        )
        for cut in np.linspace(0, 1, 401)
    ]
    assert chosen.cost.value <= min(costs) * 1.01
    picked = scores >= chosen.value
    assert chosen.precision == pytest.approx(labels[picked].mean())
    assert chosen.recall == pytest.approx(picked[labels > 0].mean())
    assert np.array(chosen.confusion).sum() == ROWS
    assert chosen.cost.value <= min(chosen.cost_at_half, chosen.cost_of_never, chosen.cost_of_always)


def test_values_of_few_rows_are_one_slice_and_none_where_even_that_is_small():
    labels, scores = _draw("binary", 1000)
    place = np.arange(1000)
    towns = np.where(place < 800, "big", np.where(place < 990, (place % 5).astype(str), "x")).astype(object)
    kinds = np.where(place < 995, "usual", "odd").astype(object)
    part = _observe(Layout("binary"), labels, scores, slices={"town": towns, "kind": kinds})
    folded = partials.fold_small(part, 100)
    rows = {key: sums[:, part.layout.for_slices.segments["rows"]].sum() for key, sums in folded.sums.items()}
    del rows[partials.WHOLE]
    assert rows == {("town", "big"): 800, ("town", "other"): 200, ("kind", "usual"): 995}


def test_sums_of_other_layouts_are_not_merged():
    layout = Layout("binary")
    with pytest.raises(InputError, match="cannot be merged"):
        partials.merge(partials.start(layout), partials.start(dataclasses.replace(layout, groups=8)))


def test_equal_rows_spread_over_groups():
    groups = groups_of({"x": np.zeros(10_000), "y": np.full(10_000, "a", dtype=object)})
    counts = np.bincount(groups, minlength=256)
    assert counts.min() > 0
    assert counts.max() < 100


def test_charts_of_a_regression_count_every_row_in_the_unit_of_the_target():
    labels, scores = _draw("regression")
    curves = results.finish(_observe(Layout("regression", shift=1000.0, spread=5.0), labels, scores)).curves
    assert sum(curves["errors"]["rows"]) == sum(curves["predicted"]["rows"]) == ROWS
    middle = np.average(curves["errors"]["x"], weights=curves["errors"]["rows"])
    assert middle == pytest.approx(np.mean(scores - labels), abs=0.2)
    held = [place for place, rows in enumerate(curves["predicted"]["rows"]) if rows]
    means = [np.take(curves["predicted"][axis], held).astype(float) for axis in ("x", "y", "rows")]
    assert np.average(means[1], weights=means[2]) == pytest.approx(labels.mean(), rel=1e-4)
    assert np.all(np.diff(means[0]) > 0)
