"""What is unusual about a training set is told by column, and what is not stays untold."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raymlops.data.anomalies import find_anomalies
from raymlops.data.statistics import measure_column

RANDOM = np.random.default_rng(0)


def profile(values: Any, kind: str) -> dict[str, Any]:
    return measure_column(pa.chunked_array([pa.array(values)]), kind).to_json()


def kinds(train: Any, validation: Any, kind: str) -> list[str]:
    found = find_anomalies({"x": profile(train, kind)}, {"x": profile(validation, kind)})
    return [one.kind for one in found]


def test_splits_of_the_same_rows_have_no_anomalies() -> None:
    for seed in range(20):
        chance = np.random.default_rng(seed)
        assert kinds(chance.normal(size=700), chance.normal(size=150), "number") == []
        assert kinds(chance.integers(0, 2, 700) * 1.0, chance.integers(0, 2, 150) * 1.0, "number") == []
        some = np.array(["a", "b", "c"])
        assert kinds(some[chance.integers(0, 3, 700)], some[chance.integers(0, 3, 150)], "category") == []


def test_constant_and_mostly_missing_columns_are_told() -> None:
    assert kinds(np.ones(100), np.ones(50), "number") == ["constant"]
    assert kinds(["a"] * 100, ["a"] * 50, "category") == ["constant"]
    assert kinds([None] * 60 + [1.0, 2.0] * 20, [None] * 30 + [1.0, 2.0] * 10, "number") == ["missing"]
    # one value and holes: whether it is there may tell of the target
    assert kinds([None] * 10 + [1.0] * 90, [None] * 5 + [1.0] * 45, "number") == []


@pytest.mark.parametrize(
    ("train", "validation", "kind", "text"),
    [
        (RANDOM.normal(size=700), RANDOM.normal(2, size=150), "number", "of the training rows are at most"),
        (["a", "b"] * 350, ["a", "b"] * 60 + ["new"] * 30, "category", "'new'"),
        (["a", "b"] * 350, ["a"] * 140 + ["b"] * 10, "category", "50.0% of the training rows, and in"),
        ([1.0, 2.0] * 350, [None] * 75 + [1.0] * 75, "number", "missing in 0.0% of the training rows"),
    ],
)
def test_what_validation_has_otherwise_is_told_in_words(
    train: Any, validation: Any, kind: str, text: str
) -> None:
    found = find_anomalies({"x": profile(train, kind)}, {"x": profile(validation, kind)})
    assert any(text in str(one) and str(one).startswith("x: ") for one in found)


def test_columns_that_validation_lacks_or_that_have_no_rows_are_no_failure() -> None:
    empty = {"kind": "number", "rows": 0, "missing": 0}
    assert find_anomalies({"x": profile([1.0, 2.0], "number")}, {}) == ()
    assert find_anomalies({"x": empty}, {"x": empty}) == ()
    missing = profile(pa.array([None, None], pa.float64()), "number")
    assert [one.kind for one in find_anomalies({"x": missing}, {"x": missing})] == ["missing"]
