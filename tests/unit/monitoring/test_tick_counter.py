import dataclasses
import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymlops.monitoring import repeats, tick_counter
from raymlops.monitoring.cells import MISSING, NEW
from raymlops.monitoring.reference import Reference, make_reference
from raymlops.monitoring.segments import find_segments
from raymlops.monitoring.tick_counter import TickCounter, WatchedModel, count_table
from raymlops.monitoring.ticks import Place, Tick, sum_ticks
from raymlops.tensors import Batch

FLIGHTS = Place("flights", "endpoint", "flights", "4", "ab" * 32)
ROWS = 3000


def make_rows(rows: int, seed: int = 0) -> Batch:
    random_ = np.random.default_rng(seed)
    distance = random_.gamma(2.0, 400.0, rows)
    return {
        "distance": distance.astype(np.float32),
        "air_time": (distance / 8 + random_.normal(0, 5, rows)).astype(np.float32),
        "origin": random_.choice(np.array([b"JFK", b"LGA", b"EWR"], object), rows),
    }


def answer_to(batch: Batch) -> Batch:
    late = 1 / (1 + np.exp(-batch["distance"] / 1000))
    return {"probability": np.stack([1 - late, late], axis=1).astype(np.float32), "version": np.array(4)}


@pytest.fixture(scope="module")
def reference() -> Reference:
    from raymlops.monitoring import row_values

    batch = make_rows(ROWS)
    answers = row_values.read_answers(answer_to(batch), ROWS)
    roles = dict.fromkeys(answers, "score")
    return make_reference(
        {**batch, **answers},
        roles,
        segments=[("origin", "JFK"), ("origin", "LGA")],  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def watched(reference: Reference) -> WatchedModel:
    return WatchedModel(FLIGHTS, reference, find_segments(reference))


def count_one_by_one(
    watched: WatchedModel, batch: Batch, cuts: list[int], order: random.Random
) -> list[Tick]:
    """The rows cut at these places, shuffled, over two replicas."""
    rows = len(batch["distance"])
    bounds = sorted({0, rows, *cuts})
    parts = [slice(low, high) for low, high in itertools.pairwise(bounds)]
    order.shuffle(parts)
    counters = [TickCounter(60, name) for name in "ab"]
    ticks = []
    for part in parts:
        counter = order.choice(counters)
        held = {name: values[part] for name, values in batch.items()}
        tick = counter.open(watched, 90.0)
        tick.answered += len(held["distance"])
        tick.add_rows(held, answer_to(held), len(held["distance"]))
        if order.random() < 0.2:
            ticks += counter.take()
    ticks += [tick for counter in counters for tick in counter.take()]
    return [dataclasses.replace(tick, replica="") for tick in sum_ticks(ticks)]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 700), max_size=30), st.integers(0, 5), st.randoms(use_true_random=False))
def test_rows_count_the_same_however_they_come(
    watched: WatchedModel, cuts: list[int], seed: int, order: random.Random
) -> None:
    batch = make_rows(700, seed)
    whole = count_one_by_one(watched, batch, [], order)
    assert count_one_by_one(watched, batch, cuts, order) == whole
    assert [tick.place.segment for tick in whole] == ["", "origin=JFK", "origin=LGA"]
    assert whole[0].rows == whole[0].answered == 700


def test_rows_of_few_values_are_in_the_same_cells_however_many_are_counted_at_once() -> None:
    random_ = np.random.default_rng(1)
    first = random_.integers(0, 4, 4000)
    values = {
        "a": first.astype(np.float64),
        "b": (first + random_.integers(0, 2, 4000)) / 3.0,
        "c": first * 0.7 + random_.integers(0, 3, 4000) * 0.1,
    }
    reference = make_reference(values, {})
    assert any(column.role == "residual" for column in reference.columns)
    again = Reference.from_bytes(reference.to_bytes())
    whole = again.measure(values)
    for size in (1, 2, 3, 7, 64):
        few = [
            again.measure({name: column[start : start + size] for name, column in values.items()})
            for start in range(0, 300 - size, size)
        ]
        codes = np.concatenate([one.codes for one in few])
        assert np.array_equal(codes, whole.codes[: len(codes)])


def test_counts_are_those_of_the_reference(watched: WatchedModel, reference: Reference) -> None:
    from raymlops.monitoring import row_values

    batch = make_rows(5000, 3)
    whole, jfk, _ = count_table(watched, batch, answer_to(batch), 5000, 61.0, 60)
    answers = row_values.read_answers(answer_to(batch), 5000)
    assert np.array_equal(whole.counts, reference.count({**batch, **answers}))
    kept = batch["origin"] == b"JFK"
    assert np.array_equal(
        jfk.counts, reference.count({name: values[kept] for name, values in {**batch, **answers}.items()})
    )
    assert (whole.start, jfk.rows) == (60, int(kept.sum()))


def test_a_million_equal_rows_a_flood_of_nan_and_new_categories_take_no_memory(watched: WatchedModel) -> None:
    counter = TickCounter(60)
    equal = {name: np.repeat(values[:1], 1024) for name, values in make_rows(1).items()}
    for _ in range(200):
        counter.open(watched, 60.0).add_rows(equal, answer_to(equal), 1024)
    missing = {
        **equal,
        "distance": np.full(1024, np.nan, np.float32),
        "air_time": np.full(1024, np.inf, np.float32),
    }
    for number in range(200):
        odd = {**missing, "origin": np.array([b"%d" % (1024 * number + row) for row in range(1024)], object)}
        counter.open(watched, 60.0).add_rows(odd, answer_to(odd), 1024)
    assert sum(tick.bytes for tick in counter._open.values()) < tick_counter.BULK_BYTES
    whole = counter.take()[0]
    assert whole.rows == 400 * 1024
    names = [column.name for column in watched.reference.columns]  # type: ignore[union-attr]
    assert whole.counts[names.index("distance"), MISSING] == 200 * 1024
    assert whole.counts[names.index("origin"), NEW] == 200 * 1024
    assert whole.different_rows > 16_384


def test_repeated_rows_are_seen_in_the_map(watched: WatchedModel) -> None:
    batch = make_rows(2000, 7)
    different, *_ = count_table(watched, batch, answer_to(batch), 2000, 0.0, 60)
    half = {name: np.concatenate([values[:1000], values[:1000]]) for name, values in batch.items()}
    repeated, *_ = count_table(watched, half, answer_to(half), 2000, 0.0, 60)
    assert different.different_rows == pytest.approx(2000, rel=0.03)
    assert repeated.different_rows == pytest.approx(1000, rel=0.03)


def test_hashes_do_not_depend_on_the_process_and_differ_by_column() -> None:
    batch: Batch = {"a": np.array([1.0, 2.0]), "b": np.array(["x", "y"], object)}
    swapped: Batch = {"a": np.array([2.0, 1.0]), "b": np.array(["y", "x"], object)}
    assert repeats.hash_rows(batch, 2).tolist() == repeats.hash_rows(swapped, 2).tolist()[::-1]
    crossed: Batch = {"a": np.array([1.0, 2.0]), "b": np.array(["y", "x"], object)}
    assert not set(repeats.hash_rows(batch, 2).tolist()) & set(repeats.hash_rows(crossed, 2).tolist())
    assert repeats.hash_rows({"a": np.array([1.0])}, 1).tolist() == [5592312775936211031]


def test_rows_that_cannot_be_counted_are_lost_and_the_others_are_not(
    watched: WatchedModel, caplog: pytest.LogCaptureFixture
) -> None:
    counter = TickCounter(60)
    good, bad = make_rows(10), make_rows(10)
    bad["distance"] = np.array([{}] * 10, object)
    for batch in (good, bad, good):
        tick = counter.open(watched, 60.0)
        tick.answered += 10
        tick.add_rows(batch, {"probability": np.zeros((10, 2), np.float32)}, 10)
    whole = counter.take()[0]
    assert (whole.rows, whole.lost, whole.answered, whole.left_out) == (20, 10, 30, 0)
    assert "cannot be counted" in caplog.text


def test_requests_of_other_shapes_and_further_inputs_are_counted_together(watched: WatchedModel) -> None:
    counter = TickCounter(60)
    for number in range(30):
        batch, extra = make_rows(4, number), number % 3
        answer = answer_to(batch)
        if extra == 1:
            batch["optional"] = np.zeros((4, 2), np.float32)
        elif extra == 2:
            batch["optional"] = np.zeros((4, 3), np.float32)
        tick = counter.open(watched, 60.0)
        tick.add_rows(batch, answer, 4)
    whole = counter.take()[0]
    assert (whole.rows, whole.lost) == (120, 0)


def test_a_column_that_a_request_lacks_is_missing_in_its_rows(watched: WatchedModel) -> None:
    batch = make_rows(10)
    answer = answer_to(batch)
    del batch["air_time"]
    whole, *_ = count_table(watched, batch, answer, 10, 0.0, 60)
    names = [column.label for column in watched.reference.columns]  # type: ignore[union-attr]
    assert whole.counts[names.index("air_time"), MISSING] == 10


def test_a_model_without_a_reference_has_its_requests_and_rows_counted() -> None:
    counter = TickCounter(60)
    tick = counter.open(WatchedModel(FLIGHTS), 60.0)
    tick.answered += 10
    tick.add_rows(make_rows(10), {}, 10)
    tick.requests["2xx"] = 1
    tick.latencies.append(3_000_000)
    (whole,) = counter.take()
    assert (whole.rows, whole.counts.shape, sum(whole.latency)) == (10, (0, 32), 1)
    assert counter.take() == []


def test_clocks_that_jump_and_versions_that_change_have_ticks_of_their_own(watched: WatchedModel) -> None:
    counter, batch = TickCounter(60), make_rows(1)
    newer = WatchedModel(FLIGHTS._replace(version="5"), watched.reference)
    for model, time in ((watched, 119.9), (watched, 120.0), (watched, 61.0), (newer, 121.0), (watched, 4e9)):
        counter.open(model, time).add_rows(batch, answer_to(batch), 1)
    found = [(tick.place.version, tick.start, tick.rows) for tick in counter.take() if not tick.place.segment]
    assert found == [("4", 60, 2), ("4", 120, 1), ("4", 3_999_999_960, 1), ("5", 120, 1)]
