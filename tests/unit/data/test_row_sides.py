"""No row changes its side when rows, blocks or files change, but as the rule says: a property of pure functions."""

import collections
import itertools
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings

from raymlops.data import row_keys, scan, splits, training_rows
from raymlops.data.row_keys import Repeats
from raymlops.errors import DataError
from raymlops.specs.dataset import ContractSpec, GroupSplit, RandomSplit, TimeSplit

BY_ROW = RandomSplit()
SPLITS = [
    BY_ROW,
    RandomSplit(key=("key",)),
    GroupSplit(by="group", column="key"),
    TimeSplit(by="time", column="day"),
]


def read(table: pa.Table, sizes: list[int]) -> list[pa.Table]:
    """As blocks of these sizes, over and over, with the keys and positions that a reader gives."""
    blocks, start = [], 0
    while start < table.num_rows:
        size = max(1, sizes[len(blocks) % len(sizes)])
        part = table.slice(start, size)
        blocks.append(
            part.append_column(row_keys.POSITION, pa.array(np.arange(start, start + part.num_rows)))
        )
        start += size
    return [row_keys.add_keys(block) for block in blocks]


def deal(blocks: list[pa.Table], spec: Any = BY_ROW, target: str = "") -> tuple[scan.Scan, list[list[Any]]]:
    """What the scan found, and the rows of each side, as they were read and in order."""
    rule = splits.SplitRule(spec, target=target)
    found = scan.finish(
        [scan.scan_block(one, ContractSpec(), rule) for one in blocks], ContractSpec(), rule, "here"
    )
    sides = []
    for side in range(3):
        parts = [scan.select_block(one, ContractSpec(), found.rule, found.doubled, side) for one in blocks]
        sides.append(sorted(map(repr, pa.concat_tables(parts).select(["kind", "key", "day"]).to_pylist())))
    assert [len(rows) for rows in sides] == [*found.fingerprint.rows.values()]
    return found, sides


def tables(rows: int) -> st.SearchStrategy[pa.Table]:
    """Few distinct rows, each of them many times, or none twice."""
    return st.builds(
        lambda distinct, seed: pa.table(
            {
                "kind": (kinds := np.random.default_rng(seed).integers(0, distinct, rows)),
                "key": kinds % 40,
                "day": kinds % 60,
                "label": kinds % 3,
            }
        ),
        st.sampled_from([40, 10**9]),
        st.integers(0, 5),
    )


SIZES = st.lists(st.integers(5, 120), min_size=1, max_size=4)


@pytest.mark.parametrize("spec", SPLITS, ids=["row", "key", "group", "time"])
@pytest.mark.parametrize("small", [10_000, 100], ids=["exact", "hashed"])
@settings(max_examples=5, deadline=None)
@given(table=tables(300), sizes=SIZES, seed=st.integers(0, 99))
def test_order_and_blocks_move_no_row(
    spec: Any, small: int, table: pa.Table, sizes: list[int], seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "SMALL", small)
        whole, sides = deal(read(table, [300]), spec, "label")
        order = np.random.default_rng(seed).permutation(table.num_rows)
        ordered = table.take(pa.array(np.sort(order) if seed % 3 == 0 else order))
        moved, again = deal(read(ordered.select(["label", "day", "key", "kind"]), sizes), spec, "label")
        assert again == sides
        assert moved.fingerprint.digest == whole.fingerprint.digest
        # A whole file of identical rows after another, and the same file twice, are blocks like any other.
        grouped = table.take(pa.array(np.argsort(table["kind"].to_numpy(), kind="stable")))
        assert deal(read(grouped, [20]), spec, "label")[1] == sides
        # The same holds for what a later process reads from the store.
        stored = splits.SplitRule.from_arrays(whole.rule.to_arrays(), spec, whole.rule.cuts, "label")
        again_whole = [
            scan.select_block(one, ContractSpec(), stored, (), 2).num_rows for one in read(table, [300])
        ]
        assert sum(again_whole) == whole.fingerprint.rows["test"]


@settings(max_examples=8, deadline=None)
@given(table=tables(500), sizes=SIZES, more=st.integers(1, 200))
def test_appended_rows_move_none_of_a_large_table(table: pa.Table, sizes: list[int], more: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "SMALL", 100)
        _, before = deal(read(table, [300]))
        appended = pa.concat_tables([table.slice(0, more), table])  # rows that are there, and in front
        _, after = deal(read(appended, sizes))
        for old, new in zip(before, after, strict=True):
            assert not collections.Counter(old) - collections.Counter(new)


def test_identical_rows_are_shared_out_like_any_others() -> None:
    table = pa.table(
        {"kind": np.repeat([1, 2], 3000), "key": np.repeat([1, 2], 3000), "day": np.zeros(6000, int)}
    )
    _, sides = deal(read(table, [100]))  # all blocks are equal to another
    for kind in (1, 2):
        counts = [sum(f"'kind': {kind}" in row for row in rows) for rows in sides]
        assert counts == pytest.approx([2100, 450, 450], abs=120)


def test_blocks_other_than_those_that_were_scanned_are_refused_where_rows_repeat() -> None:
    table = pa.table({"kind": np.zeros(300, int), "key": np.zeros(300, int), "day": np.arange(300) % 2})
    found, _ = deal(read(table, [100]))
    with pytest.raises(DataError, match=r"other blocks than when it was scanned.*dataset\.cache: true"):
        scan.select_block(read(table, [77])[0], ContractSpec(), found.rule, (), 0)
    assert deal(read(table.append_column("id", pa.array(np.arange(300))), [100]))[0].rule.repeats == Repeats()


def test_a_group_has_one_side_whether_its_name_is_read_as_a_number_or_a_text() -> None:
    names = pa.chunked_array([pa.array(range(100))])
    sides = []
    for column in (names, names.cast(pa.float64()), names.cast(pa.string())):
        table = pa.table({"key": column, "x": np.arange(100.0)})
        for spec in (GroupSplit(by="group", column="key"), RandomSplit(key=("key",))):
            sides.append(splits.SplitRule(spec).to_places(table))
    np.testing.assert_array_equal(sides[0], sides[2])
    np.testing.assert_array_equal(sides[0], sides[4])
    np.testing.assert_array_equal(sides[1], sides[3])
    np.testing.assert_array_equal(sides[1], sides[5])


def test_a_row_has_one_key_whether_its_values_are_typed_or_text() -> None:
    days = pd.date_range("2024-01-01", periods=50).to_series()
    typed = pa.table(
        {"day": pa.array(days), "x": np.arange(50) / 4, "n": np.arange(50), "b": np.arange(50) % 2 == 0}
    )
    texts = {
        "day": [str(day.date()) for day in days], "x": [repr(value / 4) for value in range(50)],
        "n": [str(value) for value in range(50)], "b": ["true", "false"] * 25,
    }  # fmt: skip
    expected = row_keys.keys_of(row_keys.add_keys(typed))
    assert len(set(expected.tolist())) == 50
    for changes in [["day"], ["x"], ["n", "b"], ["day", "x", "n", "b"]]:
        table = typed
        for name in changes:
            table = table.set_column(table.column_names.index(name), name, pa.array(texts[name]))
        np.testing.assert_array_equal(row_keys.keys_of(row_keys.add_keys(table)), expected)
    as_dates = typed.set_column(0, "day", pa.array(days.dt.date))
    np.testing.assert_array_equal(row_keys.keys_of(row_keys.add_keys(as_dates)), expected)
    for name in texts:  # as pandas writes categories
        coded = typed.set_column(
            typed.column_names.index(name), name, pa.array(texts[name]).dictionary_encode()
        )
        np.testing.assert_array_equal(row_keys.keys_of(row_keys.add_keys(coded)), expected)
    exact = typed.set_column(1, "x", typed["x"].cast(pa.decimal128(10, 2)))
    np.testing.assert_array_equal(row_keys.keys_of(row_keys.add_keys(exact)), expected)
    stored = typed.set_column(1, "x", pa.array(np.arange(50) / 10))
    expected = row_keys.keys_of(row_keys.add_keys(stored))
    for kind in (
        pa.float32(),
        pa.string(),
    ):  # as a tool writes it that makes files smaller, and as CSV has it
        again = stored.set_column(1, "x", stored["x"].cast(kind))
        np.testing.assert_array_equal(row_keys.keys_of(row_keys.add_keys(again)), expected)
    far = pa.table({"w": pa.array(["9999-12-31", "0001-01-01", "2020-02-30"])})
    assert len(set(row_keys.keys_of(row_keys.add_keys(far)).tolist())) == 3
    words = pa.table({"w": pa.array(["a", None, "", "nan", "1e5x", "2024-13-45", "a"])})
    keys = row_keys.keys_of(row_keys.add_keys(words))
    assert len(set(keys.tolist())) == 6
    assert keys[0] == keys[6]


def test_more_rows_than_are_kept_are_split_by_the_same_rule_and_sampled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chance = np.random.default_rng(0)
    table = pa.table(
        {"kind": chance.integers(0, 10**9, 40_000), "key": np.arange(40_000), "day": np.arange(40_000)}
    )
    for spec in (BY_ROW, SPLITS[2], SPLITS[3]):
        whole, sides = deal(read(table, [5000]), spec)
        monkeypatch.setattr("raymlops.data.row_sides.MOST_ROWS", 10_000)
        monkeypatch.setattr(training_rows, "MOST", 4096)
        large, again = deal(read(table, [5000]), spec)
        monkeypatch.undo()
        assert again == sides
        assert large.training.shift == 4
        assert large.training.rows == whole.fingerprint.rows
        for side, rows in ((training_rows.TRAIN, "train"), (training_rows.VALIDATION, "validation")):
            part = pa.concat_tables(
                scan.select_block(
                    one, ContractSpec(), whole.rule, (), splits.SPLITS.index(rows), {"seen": large.training}
                )
                for one in read(table, [5000])
            )["seen"].to_numpy()
            known = part[part != training_rows.SAMPLED_OUT]
            assert (known == side).mean() > 0.98  # as far as the filter errs
            assert (part == side).mean() == pytest.approx(1 / 16, abs=0.01)


def test_a_version_knows_its_rows_after_another_deal_another_order_and_more_columns() -> None:
    chance = np.random.default_rng(1)
    table = pa.table(
        {"kind": chance.integers(0, 20, 3000), "key": chance.integers(0, 9, 3000), "day": np.zeros(3000)}
    )
    first, _ = deal(read(table, [3000]))

    def mark(blocks: list[pa.Table], seed: int, changed: tuple[str, ...] = ()) -> collections.Counter[int]:
        found, _ = deal(blocks, RandomSplit(seed=seed))
        parts = [
            scan.select_block(one, ContractSpec(), found.rule, (), 2, {"seen": first.training}, changed)[
                "seen"
            ].to_pylist()
            for one in blocks
        ]
        return collections.Counter(itertools.chain(*parts))

    assert mark(read(table, [50]), 0)[training_rows.NEW] > 0.97 * 450  # as far as the filters err
    again = mark(read(table.take(pa.array(chance.permutation(3000))), [70]), 7)
    assert again[training_rows.TRAIN] == pytest.approx(0.7 * 450, abs=50)
    assert again[training_rows.VALIDATION] == pytest.approx(0.15 * 450, abs=35)
    wider = table.append_column("new", pa.array(chance.normal(size=3000)))
    assert set(mark(read(wider, [50]), 0)) <= {
        training_rows.NEW,
        training_rows.TRAIN,
        training_rows.VALIDATION,
    }
    assert mark(read(wider, [50]), 0, changed=("key",)) == {training_rows.UNKNOWN: 450}


def test_the_record_of_training_rows_is_small_and_comes_back() -> None:
    keys = np.random.default_rng(2).integers(0, 2**63, 100_000).astype(np.uint64)
    held = training_rows.TrainingRows(
        ("a", "b"), False, 0, {"train": 100_000, "validation": 0, "test": 500},
        training_rows.to_filter(keys), training_rows.to_filter(keys[:0]), np.stack([keys[:500]] * 2),
    )  # fmt: skip
    again = training_rows.TrainingRows.from_json(held.to_json())
    assert len(str(held.to_json())) < 220_000
    assert (again.find(keys, keys) == training_rows.TRAIN).all()
    others = np.random.default_rng(3).integers(0, 2**63, 100_000).astype(np.uint64)
    wrong = (again.find(others, others) == training_rows.TRAIN).mean()
    assert wrong == pytest.approx(training_rows.FALSE_SHARE, abs=0.002)
    assert again.share_of(held) == pytest.approx(1.0)


def test_rows_of_each_class_are_counted_by_side() -> None:
    table = pa.table(
        {"kind": np.arange(900), "key": np.arange(900), "day": np.arange(900), "label": ["a", "b", "c"] * 300}
    )
    found, _ = deal(read(table, [100]), target="label")
    assert found.classes == dict.fromkeys("abc", (210, 45, 45))


@pytest.mark.parametrize("spec", SPLITS[:3], ids=["row", "key", "group"])
@pytest.mark.parametrize("small", [10_000, 100], ids=["exact", "hashed"])
def test_every_row_is_tested_in_one_fold_and_validates_another(spec: Any, small: int) -> None:
    chance = np.random.default_rng(6)
    kinds = chance.integers(0, 400, 1003)
    label = chance.choice(["a", "b", "rare"], 1003, p=[0.6, 0.39, 0.01])
    table = pa.table({"kind": kinds, "key": kinds % 97, "day": kinds, "label": label})
    blocks = read(table, [90, 211])
    sides: list[list[Any]] = [[], [], []]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "SMALL", small)
        for number in range(5):
            rule = splits.SplitRule(spec, target="label", fold=(number, 5))
            partials = [scan.scan_block(one, ContractSpec(), rule) for one in blocks]
            found = scan.finish(partials, ContractSpec(), rule, "here")
            for side, rows in enumerate(sides):
                for one in blocks:
                    rows += scan.select_block(one, ContractSpec(), found.rule, (), side).to_pylist()
            if small > 1003 and spec is BY_ROW:
                assert set(found.fingerprint.rows.values()) <= {200, 201, 601, 602, 603}
                assert found.classes is not None
                assert (
                    np.ptp([counts[2] / (label == name).sum() for name, counts in found.classes.items()])
                    < 0.12
                )
    every = collections.Counter(map(repr, table.to_pylist()))
    assert collections.Counter(map(repr, sides[2])) == every
    assert collections.Counter(map(repr, sides[1])) == every
    assert collections.Counter(map(repr, sides[0])) == {row: 3 * count for row, count in every.items()}
