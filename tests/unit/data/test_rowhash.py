import datetime

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given

from raymlops.data import rowhash

ROWS = pa.table(
    {
        "number": pa.array([1.5, -0.0, None, float("nan")]),
        "integer": pa.array([1, 2, None, 2**40]),
        "string": pa.array(["a", "", None, "é"]),
        "boolean": pa.array([True, False, None, True]),
        "time": pa.array([0, 1, None, -1], type=pa.timestamp("ms", tz="UTC")),
        "day": pa.array([datetime.date(2020, 2, 29), None, datetime.date(1960, 1, 1), None]),
        "list": pa.array([[1, 2], [], None, [3]]),
    }
)

COLUMNS = st.lists(st.tuples(st.none() | st.integers(-9, 9), st.none() | st.text(max_size=3)), max_size=20)


@given(COLUMNS, st.integers(0, 20))
def test_the_hash_of_a_row_does_not_depend_on_the_block_it_stands_in(
    rows: list[tuple[int | None, str | None]], cut: int
) -> None:
    table = pa.table(
        {
            "a": pa.array([row[0] for row in rows], type=pa.int64()),
            "b": pa.array([row[1] for row in rows], type=pa.string()),
        }
    )
    whole = rowhash.hash_rows(table)
    parts = [rowhash.hash_rows(part) for part in (table.slice(0, cut), table.slice(cut))]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    chunked = pa.concat_tables([table.slice(cut), table.slice(0, cut)])
    np.testing.assert_array_equal(np.sort(rowhash.hash_rows(chunked)), np.sort(whole))


def test_rows_of_every_type_hash_and_differ() -> None:
    assert len(set(rowhash.hash_rows(ROWS).tolist())) == ROWS.num_rows


def test_the_order_of_columns_does_not_matter_and_their_values_do() -> None:
    turned = ROWS.select(ROWS.column_names[::-1])
    np.testing.assert_array_equal(rowhash.hash_rows(ROWS), rowhash.hash_rows(turned))
    swapped = pa.table({"a": [1, 2], "b": [2, 1]})
    assert len(set(rowhash.hash_rows(swapped).tolist())) == 2


@pytest.mark.parametrize("kind", [pa.int8(), pa.int32(), pa.int64(), pa.float32(), pa.float64()])
def test_numbers_hash_by_value_whatever_their_width(kind: pa.DataType) -> None:
    plain = rowhash.hash_column(pa.chunked_array([pa.array([0, 1, 7, None], type=pa.float64())]))
    other = rowhash.hash_column(pa.chunked_array([pa.array([0, 1, 7, None], type=kind)]))
    np.testing.assert_array_equal(plain, other)


def test_strings_hash_alike_whether_dictionary_encoded_or_large() -> None:
    strings = pa.chunked_array([pa.array(["x", None, "y"]), pa.array(["y", ""])])
    expected = rowhash.hash_column(strings)
    for other in (strings.dictionary_encode(), strings.cast(pa.large_string())):
        np.testing.assert_array_equal(expected, rowhash.hash_column(other))


def test_a_missing_value_hashes_alike_in_a_block_that_holds_nothing_else() -> None:
    """Readers that infer types, such as that of CSV, give the null type to such a block."""
    nothing = rowhash.hash_column(pa.chunked_array([pa.nulls(2)]))
    for kind in (pa.int64(), pa.float64(), pa.string(), pa.bool_(), pa.timestamp("ms"), pa.date32()):
        typed = rowhash.hash_column(pa.chunked_array([pa.nulls(2, kind)]))
        np.testing.assert_array_equal(nothing, typed, err_msg=str(kind))


def test_zero_has_no_sign_and_nan_is_missing() -> None:
    hashes = rowhash.hash_column(pa.chunked_array([pa.array([0.0, -0.0, float("nan"), None])]))
    assert hashes[0] == hashes[1]
    assert hashes[2] == hashes[3]
    assert hashes[0] != hashes[2]


def test_timestamps_hash_by_instant_whatever_their_unit() -> None:
    seconds = pa.chunked_array([pa.array([0, 86_400], type=pa.timestamp("s"))])
    nanoseconds = seconds.cast(pa.timestamp("ns"))
    np.testing.assert_array_equal(rowhash.hash_column(seconds), rowhash.hash_column(nanoseconds))


def test_hashes_are_spread_evenly_and_move_with_the_seed() -> None:
    table = pa.table({"a": np.arange(20_000)})
    shares = rowhash.hash_rows(table).astype(np.float64) / 2.0**64
    counts, _ = np.histogram(shares, bins=20, range=(0, 1))
    assert counts.min() > 850
    assert counts.max() < 1150
    assert (rowhash.hash_rows(table) != rowhash.hash_rows(table, seed=1)).all()


def test_no_rows_hash_to_no_hashes() -> None:
    assert rowhash.hash_rows(ROWS.slice(0, 0)).shape == (0,)
