"""Values become cells, and counts of cells add in any order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymlops.monitoring import cells
from raymlops.monitoring.cells import ABOVE, BELOW, MISSING, NEW, OTHER, CategoryCells, NumberCells

NUMBERS = st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=60)


@given(reference=NUMBERS, values=NUMBERS)
def test_every_number_has_one_cell_and_reference_numbers_are_in_range(
    reference: list[float], values: list[float]
) -> None:
    made = NumberCells.from_values(reference)
    codes = made.encode(values)
    assert codes.max(initial=0) <= ABOVE
    assert ((codes == MISSING) == np.isnan(values)).all()
    own = made.encode(reference)
    assert not np.isin(own, (BELOW, ABOVE)).any()
    assert cells.from_json(made.to_json()) == made


@given(values=st.lists(st.integers(-1000, 1000), min_size=40, max_size=400))
def test_bins_have_about_equal_shares_unless_one_value_fills_them(values: list[int]) -> None:
    made = NumberCells.from_values(values)
    counts = np.bincount(made.encode(values), minlength=19)[2:18]
    largest = max(values.count(value) for value in set(values))
    assert counts.max() <= max(2 * len(values) / 16 + largest, largest)
    assert len(made.edges) <= 15
    assert list(made.edges) == sorted(set(made.edges))


def test_a_sign_that_no_reference_row_has_is_out_of_range() -> None:
    made = NumberCells.from_values(np.arange(80, 4984))
    assert made.encode([-1.0]) == [BELOW]
    assert NumberCells.from_values(-np.arange(80, 4984)).encode([1.0]) == [ABOVE]


def test_of_a_reference_without_numbers_every_number_is_out_of_range_and_said_to_be_new() -> None:
    made = cells.from_json(NumberCells.from_values([np.nan] * 9).to_json())
    assert made.encode([1.0, np.nan]).tolist() == [ABOVE, MISSING]
    assert made.describe(ABOVE) == "numbers, of which the reference has none"


def test_a_value_that_fills_a_share_by_itself_has_a_bin_of_its_own() -> None:
    values = np.concatenate([np.zeros(500), np.random.default_rng(0).normal(size=500)])
    made = NumberCells.from_values(values)
    cell = made.encode([0.0])[0]
    assert made.encode([-1e-3])[0] != cell
    assert (made.encode(values) == cell).sum() < 560


def test_categories_are_counted_by_their_texts_whatever_type_they_come_in() -> None:
    made = CategoryCells.from_counts({"a": 5, "7": 3, "b": 1})
    codes = made.encode(["a", b"a", 7, 7.0, "7", "zebra", None, "", float("nan")])
    assert codes.tolist() == [3, 3, 4, 4, 4, NEW, MISSING, MISSING, MISSING]


def test_of_many_categories_the_rare_are_other_and_unknown_ones_new() -> None:
    made = CategoryCells.from_counts({f"v{place}": 1000 - place for place in range(100)})
    assert made.encode(["v0", "v28", "v29", "v99", "v100"]).tolist() == [3, 31, OTHER, OTHER, NEW]
    assert cells.from_json(made.to_json()) == made
    more = CategoryCells.from_counts({f"v{place}": 1 for place in range(12_000)})
    assert more.encode(["unseen"]) == [OTHER]  # more values than are kept: none can be called new


@pytest.mark.parametrize("shards", [1, 3, 8])
def test_counts_of_shards_in_any_order_are_equal_to_the_last_bit(shards: int) -> None:
    random = np.random.default_rng(shards)
    codes = random.integers(0, 19, (1000, 5)).astype(np.uint8)
    parts = np.array_split(codes, shards)
    random.shuffle(parts)
    assert (sum(cells.count(part) for part in parts) == cells.count(codes)).all()
