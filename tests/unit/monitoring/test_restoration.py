"""Columns get their usual distribution back, each row at its rank."""

import numpy as np
import pytest

from raymlops.monitoring.cells import CategoryCells, NumberCells, count
from raymlops.monitoring.restoration import ScoreChange, has_moved, restore_categories, restore_numbers


def test_numbers_get_their_distribution_back_and_keep_their_order() -> None:
    random = np.random.default_rng(0)
    usual = random.gamma(2, 10, 20_000)
    usual[random.random(20_000) < 0.03] = np.nan
    cells = NumberCells.from_values(usual)
    shares = count(cells.encode(usual)[:, None])[0] / len(usual)
    now = usual[:8000] * 3 + 5
    now[random.random(8000) < 0.2] = np.nan
    found = restore_numbers(now, cells, shares, random)
    assert np.isnan(found).mean() == pytest.approx(0.03, abs=0.005)
    assert np.nanmedian(found) == pytest.approx(np.nanmedian(usual), rel=0.05)
    both = ~np.isnan(found) & ~np.isnan(now)
    assert np.corrcoef(found[both], now[both])[0, 1] > 0.85
    frozen = restore_numbers(np.full(8000, 7.0), cells, shares, random)
    assert np.nanstd(frozen) == pytest.approx(np.nanstd(usual), rel=0.1)


def test_categories_get_their_shares_back_and_new_values_go() -> None:
    random = np.random.default_rng(0)
    cells = CategoryCells.from_counts({"a": 600, "b": 300, "c": 100})
    usual = np.zeros(32)
    usual[3:6] = 0.6, 0.3, 0.1
    now = np.array(["a"] * 200 + ["b"] * 700 + ["z"] * 100, object)
    found = restore_categories(now, cells, usual, random)
    counts = {name: int((found == name).sum()) for name in "abcz"}
    assert counts["z"] == 0
    assert counts == {
        "a": pytest.approx(600, abs=2),
        "b": pytest.approx(300, abs=2),
        "c": pytest.approx(100, abs=2),
        "z": 0,
    }
    assert (found[:200] == "a").all()  # rows that may keep their value do


def test_a_change_is_told_only_beyond_noise_and_with_its_cause() -> None:
    random = np.random.default_rng(0)
    assert not has_moved(random.normal(0.05, 1, 5000), (0.0, 1.0), 20_000)
    assert has_moved(random.normal(0.15, 1, 5000), (0.0, 1.0), 20_000)
    assert not has_moved(np.full(5000, np.nan), (0.0, 1.0), 20_000)
    found = ScoreChange("score", 0.24, 0.33, (("temp", 0.97), ("humid", 0.06), ("hour", 0.01)))
    assert found.describe() == "score: the mean is 0.33, usually 0.24; temp explains 97%, humid 6%"
    assert "no one column" in ScoreChange("score", 0.24, 0.33, (("temp", 0.1),)).describe()
