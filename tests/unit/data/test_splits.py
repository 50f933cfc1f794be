import collections

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given

from raymlops.data import splits
from raymlops.errors import DataError
from raymlops.specs.dataset import GroupSplit, RandomSplit, TimeSplit

TABLE = pa.table({"id": np.arange(20_000), "group": np.arange(20_000) // 7, "x": np.arange(20_000) % 13})


def test_a_random_split_is_near_its_fractions_and_the_same_each_time() -> None:
    rule = splits.SplitRule(RandomSplit())
    sides = rule.assign(TABLE)
    assert np.bincount(sides, minlength=3) / len(sides) == pytest.approx([0.7, 0.15, 0.15], abs=0.015)
    np.testing.assert_array_equal(sides, rule.assign(TABLE))


def test_another_seed_gives_another_split() -> None:
    first, second = (splits.SplitRule(RandomSplit(seed=seed)).assign(TABLE) for seed in (0, 1))
    assert (first != second).mean() > 0.3


def test_a_row_falls_to_the_same_side_wherever_it_stands() -> None:
    rule = splits.SplitRule(RandomSplit())
    order = np.random.default_rng(0).permutation(TABLE.num_rows)
    np.testing.assert_array_equal(rule.assign(TABLE)[order], rule.assign(TABLE.take(pa.array(order))))


def test_all_rows_of_a_group_fall_to_the_same_side() -> None:
    sides = splits.SplitRule(GroupSplit(by="group", column="group")).assign(TABLE)
    by_group = pd.DataFrame({"group": TABLE["group"].to_numpy(), "side": sides}).groupby("group")["side"]
    assert (by_group.nunique() == 1).all()
    shares = by_group.first().value_counts(normalize=True).sort_index().to_numpy()
    assert shares == pytest.approx([0.7, 0.15, 0.15], abs=0.03)


@given(st.lists(st.integers(-40, 40), min_size=12, max_size=300))
def test_a_split_by_time_keeps_instants_together_and_in_order(instants: list[int]) -> None:
    fractions = (0.7, 0.15, 0.15)
    cuts = splits.find_cuts(collections.Counter(instants), fractions)
    rule = splits.SplitRule(TimeSplit(by="time", column="t"), cuts)
    values = np.array(instants)
    sides = rule.assign(pa.table({"t": values}))
    for low, high in ((0, 1), (1, 2), (0, 2)):
        if (sides == low).any() and (sides == high).any():
            assert values[sides == low].max() < values[sides == high].min()
    assert (sides == 2).any()


def test_a_split_by_time_is_near_its_fractions() -> None:
    instants = np.random.default_rng(1).integers(0, 1000, size=20_000)
    cuts = splits.find_cuts(collections.Counter(instants.tolist()), (0.7, 0.15, 0.15))
    sides = splits.SplitRule(TimeSplit(by="time", column="t"), cuts).assign(pa.table({"t": instants}))
    assert np.bincount(sides) / len(sides) == pytest.approx([0.7, 0.15, 0.15], abs=0.005)


@pytest.mark.parametrize("unit", ["s", "ms", "ns"])
def test_instants_are_the_same_in_every_unit(unit: str) -> None:
    times = pa.array([-86_400, 0, 1_600_000_000], type=pa.timestamp("s")).cast(pa.timestamp(unit, tz="UTC"))
    found = splits.to_instants(pa.table({"t": times}), "t")
    assert found.tolist() == [-86_400_000, 0, 1_600_000_000_000]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"t": ["a"]}), "needs a timestamp or an integer column"),
        (pa.table({"t": pa.array([1, None])}), "1 nulls"),
        (pa.table({"time": [1]}), "Unknown column 't'"),
    ],
)
def test_a_column_that_cannot_order_rows_is_refused(table: pa.Table, message: str) -> None:
    with pytest.raises(DataError, match=message):
        splits.to_instants(table, "t")


def test_a_group_column_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match="Unknown column 'grop'; did you mean 'group'"):
        splits.SplitRule(GroupSplit(by="group", column="grop")).assign(TABLE)
