"""Importance of columns by permutation: what it says of columns that matter, that do not, and that cannot."""

import time

import numpy as np
import pytest

from raymlops.evaluation.permutation import MOST_REPEATS, MOST_ROWS, measure_importance, plan_rows

RANDOM = np.random.default_rng(7)
ROWS = 3_000
COLUMNS = {
    "weak": RANDOM.normal(size=(ROWS, 1)).astype(np.float32),
    "noise": RANDOM.normal(size=(ROWS, 1)).astype(np.float32),
    "constant": np.full((ROWS, 1), 4, dtype=np.float32),
    "town": RANDOM.choice(["Ulm", "Bonn", ""], (ROWS, 1)).astype(object),
}
TRUE = 3.0 * (COLUMNS["town"][:, 0] == "Ulm") + 0.3 * COLUMNS["weak"][:, 0]
LABELS = TRUE + RANDOM.normal(size=ROWS)


def predict(columns):
    return (3.0 * (columns["town"][:, 0] == "Ulm") + 0.3 * columns["weak"][:, 0]).astype(np.float32)


def chance(columns):
    return 1 / (1 + np.exp(-2 * (predict(columns) - 1)))


def test_the_column_that_the_target_depends_on_is_first_and_others_follow_in_order() -> None:
    found = measure_importance(predict, COLUMNS, LABELS, task="regression")
    assert [one.column for one in found.columns][:2] == ["town", "weak"]
    town, weak = found.columns[:2]
    assert found.loss == "RMSE"
    assert found.unpermuted == pytest.approx(1.0, abs=0.1)
    assert town.low > weak.high > weak.value > weak.low > 0


def test_columns_that_the_model_does_not_read_have_an_importance_of_zero() -> None:
    found = measure_importance(predict, COLUMNS, LABELS, task="regression")
    held = {one.column: (one.low, one.value, one.high) for one in found.columns}
    assert held["constant"] == held["noise"] == (0, 0, 0)


def test_an_interval_holds_the_increase_over_many_more_rows() -> None:
    labels = (LABELS > 1).astype(np.int64)
    held = {name: np.tile(values, (40, 1)) for name, values in COLUMNS.items()}
    order = np.random.default_rng(1).permutation(len(held["weak"]))
    many = {**held, "weak": held["weak"][order]}
    true = np.tile(labels, 40)

    def loss(columns):
        given = chance(columns)
        return -np.log(np.where(true, given, 1 - given)).mean()

    expected = loss(many) - loss(held)
    (weak,) = [
        one
        for one in measure_importance(chance, COLUMNS, labels, task="binary").columns
        if one.column == "weak"
    ]
    assert weak.low < expected < weak.high


def test_every_task_and_loss_ranks_the_same_first() -> None:
    def classes(columns):
        one = chance(columns)
        return np.stack([1 - one, 0.7 * one, 0.3 * one], axis=1)

    several = np.where(LABELS > 1, np.where(RANDOM.random(ROWS) < 0.7, 1, 2), 0)
    for score, labels, task, loss in (
        (chance, (LABELS > 1).astype(np.int64), "binary", None),
        (classes, several, "multiclass", None),
        (predict, LABELS, "regression", "mae"),
        (predict, LABELS, "regression", "quantile"),
        (predict, LABELS, "regression", "poisson"),
    ):
        found = measure_importance(score, COLUMNS, labels, task=task, loss=loss, quantile=0.8)
        assert found.columns[0].column == "town", (task, loss)
        assert found.columns[0].low > 0, (task, loss)


def test_rows_of_weight_zero_and_rows_without_a_finite_answer_do_not_count() -> None:
    seen = np.where(COLUMNS["weak"][:, 0] > 0, 1.0, 0.0)
    only_town = {**COLUMNS, "weak": np.where(seen[:, None] > 0, 1, COLUMNS["weak"]).astype(np.float32)}

    def partly(columns):
        return np.where(columns["noise"][:, 0] > 2, np.nan, predict(columns)).astype(np.float32)

    found = measure_importance(partly, only_town, LABELS, task="regression", weights=seen)
    assert found.columns[0].column == "town"
    assert all(np.isfinite(one.value) for one in found.columns)

    def silent(columns):
        return np.full(ROWS, np.nan)[: len(columns["weak"])]

    assert measure_importance(silent, COLUMNS, LABELS, task="regression") is None


def test_many_columns_and_slow_models_take_fewer_repeats_then_fewer_rows() -> None:
    assert plan_rows(20, MOST_ROWS, 1e9) == (MOST_ROWS, MOST_REPEATS)
    assert plan_rows(50, MOST_ROWS, 200_000) == (MOST_ROWS, 2)
    assert plan_rows(200, MOST_ROWS, 200_000) == (500, 2)
    assert plan_rows(5_000, MOST_ROWS, 200_000) == (200, 2)
    assert plan_rows(3, 40, 1e9) == (40, MOST_REPEATS)


def test_columns_for_which_there_is_no_time_are_named() -> None:
    def slow(columns):
        time.sleep(0.01)
        return predict(columns)

    wide = {**COLUMNS, **{f"more_{place}": COLUMNS["noise"] for place in range(50)}}
    found = measure_importance(slow, wide, LABELS, task="regression", seconds=0.03)
    assert len(found.columns) + len(found.left_out) == len(wide)
    assert "more_49" in found.left_out
