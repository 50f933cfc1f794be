import collections
import datetime
import decimal
import functools
import json

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given

from raymlops.data import statistics
from raymlops.data.statistics import Categories, Images, Numbers, measure_column, measure_numbers

FLOATS = st.floats(-1e6, 1e6) | st.sampled_from([float("nan"), float("inf"), float("-inf"), 0.0])
BLOCKS = st.lists(st.lists(FLOATS, max_size=30), min_size=1, max_size=6)
WORDS = st.lists(
    st.lists(st.none() | st.sampled_from(["a", "b", "c", ""]), max_size=20), min_size=1, max_size=5
)


def merged(parts: list[Numbers]) -> Numbers:
    return functools.reduce(Numbers.merge, parts)


@given(BLOCKS)
def test_statistics_of_blocks_merge_into_those_of_the_whole(blocks: list[list[float]]) -> None:
    parts = merged([measure_numbers(np.array(block, dtype=np.float64)) for block in blocks])
    values = np.array([value for block in blocks for value in block], dtype=np.float64)
    finite = values[np.isfinite(values)]
    assert (parts.rows, parts.missing) == (len(values), len(values) - len(finite))
    if not len(finite):
        assert np.isnan(parts.quantiles(np.array([0.5]))).all()
        return
    assert (parts.min, parts.max) == (finite.min(), finite.max())
    assert parts.mean == pytest.approx(finite.mean(), rel=1e-9, abs=1e-9)
    assert parts.std == pytest.approx(finite.std(), rel=1e-7, abs=1e-7)
    assert parts.whole == bool((finite == np.round(finite)).all())
    whole = measure_numbers(values)
    np.testing.assert_array_equal(parts.points, whole.points)  # so few are kept as they are


def test_quantiles_of_many_blocks_are_near_the_true_ones() -> None:
    generator = np.random.default_rng(7)
    values = generator.lognormal(size=60_000)
    parts = merged([measure_numbers(block) for block in np.array_split(values, 37)])
    shares = np.linspace(0.01, 0.99, 50)
    found = parts.quantiles(shares)
    ranks = np.searchsorted(np.sort(values), found) / len(values)
    assert np.abs(ranks - shares).max() < 0.005
    assert parts.quantiles(np.array([0.0, 1.0])).tolist() == [values.min(), values.max()]
    assert parts.weights.sum() == pytest.approx(len(values))


def test_merging_repeats_bit_for_bit() -> None:
    values = np.random.default_rng(3).normal(size=30_000)
    first, second = (
        merged([measure_numbers(block) for block in np.array_split(values, 13)]) for _ in range(2)
    )
    assert (first.mean, first.squares) == (second.mean, second.squares)
    np.testing.assert_array_equal(first.points, second.points)


@given(WORDS)
def test_counts_of_blocks_merge_into_those_of_the_whole(blocks: list[list[str | None]]) -> None:
    columns = [pa.chunked_array([pa.array(block, type=pa.string())]) for block in blocks]
    parts = functools.reduce(Categories.merge,
                             [measure_column(column, "category") for column in columns])  # fmt: skip
    values = [value for block in blocks for value in block]
    counts = collections.Counter(value for value in values if value)
    assert parts.counts == counts
    assert (parts.rows, parts.missing) == (len(values), len(values) - counts.total())


def test_values_are_ranked_by_count_then_by_name() -> None:
    found = measure_column(pa.chunked_array([pa.array(["b", "a", "c", "c"])]), "category")
    assert found.ranked() == [("c", 2), ("a", 1), ("b", 1)]


def test_beyond_the_most_frequent_values_only_their_number_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_MOST_VALUES", 10)
    first = Categories(20, 0, {f"v{i}": 1 for i in range(19)} | {"often": 1})
    both = first.merge(Categories(5, 1, {"often": 4}))
    assert both.ranked()[0] == ("often", 5)
    assert len(both.counts) == 5
    assert both.rows - both.missing == sum(both.counts.values()) + both.other


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, 2, None, 3], type=pa.int32()),
        pa.array([1.0, 2.0, float("nan"), 3.0]),
        pa.array([1.0, 2.0, float("inf"), 3.0]),
        pa.array([decimal.Decimal(1), decimal.Decimal(2), None, decimal.Decimal(3)]),
    ],
    ids=["integer", "nan", "infinity", "decimal"],
)
def test_numbers_of_every_type_are_measured_alike(column: pa.Array) -> None:
    found = measure_column(pa.chunked_array([column]), "number")
    assert (found.rows, found.missing, found.mean, found.min, found.max) == (4, 1, 2.0, 1.0, 3.0)


def test_booleans_are_measured_as_numbers_and_as_values() -> None:
    column = pa.chunked_array([pa.array([True, None, False, True])])
    assert measure_column(column, "number").mean == pytest.approx(2 / 3)
    assert measure_column(column, "category").counts == {1: 2, 0: 1}


@pytest.mark.parametrize("kind", [pa.timestamp("s"), pa.timestamp("ns", tz="UTC"), pa.date32()], ids=str)
def test_timestamps_are_measured_in_milliseconds(kind: pa.DataType) -> None:
    days = [datetime.datetime(1970, 1, 2), None, datetime.datetime(1970, 1, 4)]
    column = pa.chunked_array([pa.array(days, type=pa.timestamp("us")).cast(kind)])
    found = measure_column(column, "timestamp")
    assert (found.missing, found.min, found.max) == (1, 86_400_000, 3 * 86_400_000)


def test_images_are_measured_by_shape_and_pixels() -> None:
    small = np.zeros((3, 4, 5)) + np.array([1.0, 2.0, 3.0])[:, None, None]
    column = pa.chunked_array([pa.FixedShapeTensorArray.from_numpy_ndarray(small)])
    found = measure_column(column, "image")
    assert (found.rows, found.shape, found.pixels.mean) == (3, (4, 5), 2.0)
    other = Images(1, (9, 9), measure_numbers(np.ones(81)))
    assert found.merge(other).shape == ()


def test_every_statistic_becomes_json() -> None:
    values = pa.chunked_array([pa.array([1.0, None, 2.0])])
    for kind in ("number", "category"):
        document = measure_column(values, kind).to_json()
        assert json.loads(json.dumps(document, allow_nan=False)) == document
    empty = json.loads(json.dumps(measure_numbers(np.array([np.nan])).to_json(), allow_nan=False))
    assert empty["mean"] is None or empty["mean"] == 0
