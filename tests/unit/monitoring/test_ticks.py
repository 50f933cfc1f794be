import itertools
import pathlib
import random

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymlops.errors import StorageError
from raymlops.histograms import TIMES_NS
from raymlops.monitoring.cells import CATEGORY_CELLS
from raymlops.monitoring.tick_store import Applied, TickStore, list_applications, read_losses, read_ticks
from raymlops.monitoring.ticks import (
    REPEAT_BITS,
    Loss,
    Place,
    Tick,
    from_table,
    no_counts,
    sum_ticks,
    to_streams,
    to_table,
)

FLIGHTS = Place("flights", "endpoint", "flights", "4", "ab" * 32)
DAY_S = 86_400


def make_tick(
    start: int = 60,
    rows: int = 5,
    *,
    seed: int = 0,
    place: Place = FLIGHTS,
    columns: int = 3,
    replica: str = "a",
) -> Tick:
    rng = np.random.default_rng(seed)
    latency = [0] * (len(TIMES_NS) + 1)
    latency[seed % len(latency)] = rows
    return Tick(
        place,
        start,
        60,
        rng.multinomial(rows, [1 / CATEGORY_CELLS] * CATEGORY_CELLS, size=columns).astype(np.int64),
        rows=rows,
        answered=rows + 3,
        retried=1,
        lost=1,
        requests={"2xx": rows, "4xx": seed},
        latency=tuple(latency),
        repeats=rng.bytes(REPEAT_BITS // 8),
        first=start + 0.25 * (seed + 1),
        last=start + 30.0 + seed,
        replica=replica,
    )


ticks = st.builds(
    make_tick,
    st.sampled_from([0, 60, 3600]),
    st.integers(0, 10**12),
    seed=st.integers(0, 50),
    place=st.sampled_from([FLIGHTS, FLIGHTS._replace(version="5"), FLIGHTS._replace(segment="origin=JFK")]),
    replica=st.sampled_from(["a", "b"]),
)


@given(st.lists(ticks, max_size=8), st.randoms())
def test_any_order_and_any_split_of_ticks_give_the_same_sums_bit_by_bit(
    held: list[Tick], order: random.Random
) -> None:
    whole = sum_ticks(held)
    shuffled = order.sample(held, len(held))
    cut = order.randint(0, len(held))
    parts = [*sum_ticks(shuffled[:cut]), *sum_ticks(shuffled[cut:])]
    assert sum_ticks(order.sample(parts, len(parts))) == whole
    assert sum(tick.rows for tick in whole) == sum(tick.rows for tick in held)


@given(st.lists(ticks, max_size=6))
def test_a_table_holds_ticks_bit_by_bit(held: list[Tick]) -> None:
    assert from_table(to_table(held)) == held
    assert from_table(to_table(held).slice(1)) == held[1:]


def test_minutes_sum_to_hours_and_a_night_has_no_ticks() -> None:
    held = [make_tick(start, seed=start) for start in (0, 60, 3540, 3600, 40_000 // 60 * 60)]
    (stream,) = to_streams(held, seconds=3600).values()
    assert stream.starts.tolist() == [0, 3600, 39_600]
    assert stream.rows.tolist() == [15, 5, 5]
    assert stream.counts.shape == (3, 3, CATEGORY_CELLS)
    assert (stream.counts.sum(axis=2) == stream.rows[:, None]).all()


def test_a_tick_without_counted_rows_is_in_no_stream() -> None:
    refused = Tick(FLIGHTS, 60, 60, no_counts(), requests={"4xx": 9})
    assert to_streams([refused]) == {}
    (summed,) = sum_ticks([refused, make_tick(60)])
    assert summed.counts.shape == (3, CATEGORY_CELLS)
    assert summed.requests["4xx"] == 9


def test_the_map_of_repeats_estimates_how_many_rows_differ() -> None:
    few = Tick(FLIGHTS, 0, 60, no_counts(), repeats=(0b1011).to_bytes(REPEAT_BITS // 8, "little"))
    assert few.different_rows == pytest.approx(3, rel=0.01)
    full = Tick(FLIGHTS, 0, 60, no_counts(), repeats=b"\xff" * (REPEAT_BITS // 8))
    assert full.different_rows == float("inf")


def test_the_store_gives_what_was_written_summed_over_replicas(tmp_path: pathlib.Path) -> None:
    store = TickStore(str(tmp_path), "a b/c")
    one, other = make_tick(DAY_S + 60, seed=1), make_tick(DAY_S + 60, seed=2, replica="b")
    later = make_tick(2 * DAY_S, place=FLIGHTS._replace(version="5"))
    store.write("1970-01-02", [one], {"a": Applied(1, {"flights": 8})})
    store.write("1970-01-02", [other], {"b": Applied(7, {})})
    store.write("1970-01-03", [later], {"a": Applied(2, {"flights": 16})})
    assert read_ticks(str(tmp_path), "a b/c") == sum_ticks([one, other, later])
    assert read_ticks(str(tmp_path), "a b/c", since=2 * DAY_S) == [later]
    assert read_ticks(str(tmp_path), "a b/c", until=2 * DAY_S) == sum_ticks([one, other])
    assert read_ticks(str(tmp_path), "a b/c", version="5") == [later]
    assert read_ticks(str(tmp_path), "other") == []
    assert store.find_applied() == {"a": Applied(2, {"flights": 16}), "b": Applied(7, {})}
    assert list_applications(str(tmp_path)) == ["a b/c"]


def test_joining_the_files_of_a_day_changes_nothing_wherever_it_stops(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TickStore(str(tmp_path), "app")
    held = [
        make_tick(start, seed=seed, replica=name)
        for seed, (start, name) in enumerate(itertools.product((0, 60), "ab"))
    ]
    for number, tick in enumerate(held):
        store.write("1970-01-01", [tick], {tick.replica: Applied(number, {})})
    expected = sum_ticks(held)
    with monkeypatch.context() as patched:  # killed after the joined file was written, before any was removed
        patched.setattr(TickStore, "_remove", lambda self, path: None)
        assert store.compact("1970-01-01") == 4
    assert len(store.list_files("1970-01-01")) == 5
    assert store.read() == expected
    store.write("1970-01-01", [make_tick(120, seed=9)], {"a": Applied(9, {})})
    assert store.compact("1970-01-01") == 2
    (file,) = store.list_files("1970-01-01")
    assert store.read() == sum_ticks([*held, make_tick(120, seed=9)])
    assert store.find_applied() == {"a": Applied(9, {}), "b": Applied(3, {})}
    assert file.first == 0
    assert file.last == 120
    assert store.compact("1970-01-01") == 0


def test_days_beyond_the_retention_are_removed(tmp_path: pathlib.Path) -> None:
    store = TickStore(str(tmp_path), "app")
    store.write("1970-01-01", [make_tick(0)], {})
    store.write("1970-01-03", [make_tick(2 * DAY_S)], {})
    store.write_loss(Loss("a", "n1", 10.0, 3, 5))
    assert store.expire("1970-01-02") == 1
    assert store.list_days() == ["1970-01-03"]
    assert store.read_losses() == []


def test_a_damaged_file_is_passed_over_and_the_others_are_read(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = TickStore(str(tmp_path), "app")
    store.write("1970-01-01", [make_tick(0)], {})
    (file,) = store.list_files("1970-01-01")
    pathlib.Path(file.path).with_name("0-60-ab-0.parquet").write_bytes(b"PAR1 and nothing more")
    assert store.read() == sum_ticks([make_tick(0)])
    assert "0-60-ab-0.parquet" in caplog.text


def test_a_store_that_cannot_be_reached_says_where_it_is(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        TickStore(str(tmp_path / "file"), "app").write("1970-01-01", [make_tick(0)], {})


def test_a_loss_is_told_once_and_says_what_is_unknown(tmp_path: pathlib.Path) -> None:
    store = TickStore(str(tmp_path), "app")
    store.write_loss(Loss("a", "n1", 10.0, 3, 5))
    store.write_loss(Loss("a", "n1", 10.0, 3, 5))
    store.write_loss(Loss("b", "n2", 20.0, None, 1000))
    found = read_losses(str(tmp_path), "app")
    assert [loss.rows for loss in found] == [3, None]
    assert found[0].describe() == "Replica a on node n1: 3 answered rows were not counted, after 5 that were"
    assert "unknown how many" in found[1].describe()
    assert read_losses(str(tmp_path), "app", since=15.0) == found[1:]


def test_other_tools_read_the_files(tmp_path: pathlib.Path) -> None:
    TickStore(str(tmp_path), "app").write("1970-01-01", [make_tick(0)], {})
    (path,) = tmp_path.rglob("*.parquet")
    frame = pq.read_table(path).to_pandas()
    assert frame.loc[0, "model"] == "flights"
    assert frame.loc[0, "counts"].reshape(3, 32).sum() == 15
