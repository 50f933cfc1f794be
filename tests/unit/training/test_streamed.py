"""Streamed rows: which rows make a batch does not depend on the team, and nothing is read twice for it."""

import itertools
import threading
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from raymlops.tensors import Batch
from raymlops.training.rows import ResidentRows, Rows
from raymlops.training.streamed import StreamedRows

CPU = torch.device("cpu")
SIZES = (40, 7, 0, 100, 1, 64, 64, 64, 33, 90)  # 463 rows in blocks of all kinds
COUNT = sum(SIZES)
Steps = list[list[int]]


class Blocks:
    """Blocks in memory, whose rows are numbered through; keeps which were asked for."""

    def __init__(self, sizes: Sequence[int] = SIZES) -> None:
        self.sizes = tuple(sizes)
        self.asked: list[int] = []
        self._starts = np.cumsum([0, *sizes])
        self._lock = threading.Lock()

    def load(self, numbers: Sequence[int]) -> list[Batch]:
        with self._lock:
            self.asked += numbers
        rows = [np.arange(self._starts[number], self._starts[number + 1]) for number in numbers]
        return [{"numeric": values[:, None].astype(np.float32), "label": values} for values in rows]

    def team(self, world: int, largest: int = 1) -> list[Rows]:
        return [StreamedRows(self.sizes, self.load, CPU, rank, world, largest) for rank in range(world)]


def steps_of(team: Sequence[Rows], size: int, seed: int = 5, skip: int = 0, end: int | None = None) -> Steps:
    """The rows of each step of a team, in no order, up to the step `end` of the pass."""
    parts = [list(itertools.islice(rows.shuffled(size, seed, skip), end and end - skip)) for rows in team]
    steps = []
    for shares in zip(*parts, strict=True):  # equally many of each worker
        whole = sum(len(share["label"]) for share, _ in shares)
        for share, weight in shares:
            assert share["numeric"][:, 0].tolist() == share["label"].tolist()
            assert len(share["label"]) > 0
            assert weight == pytest.approx(len(share["label"]) * len(team) / whole)
        steps.append(sorted(value for share, _ in shares for value in share["label"].tolist()))
    return steps


@pytest.mark.parametrize("size", [8, 16, 50, 100, 1000])
def test_a_team_of_any_size_takes_the_steps_of_the_whole_team(size: int) -> None:
    whole = steps_of(Blocks().team(8, 8), size)
    for world in range(1, 8):
        assert steps_of(Blocks().team(world, 8), size) == whole, world
    assert [len(step) for step in whole[:-1]] == [size] * (len(whole) - 1)
    seen = Counter(itertools.chain.from_iterable(whole))
    assert set(seen.values()) == {1}
    assert COUNT - len(seen) < 32  # a last batch too small to share


@pytest.mark.parametrize("teams", [(2, 3), (3, 1), (1, 3, 2), (4, 4)])
def test_a_pass_during_which_the_team_changes_sees_each_row_once(teams: tuple[int, ...]) -> None:
    size = 20
    whole = steps_of(Blocks().team(1, 4), size)
    joined: Steps = []
    for world in teams:
        end = None if world is teams[-1] and len(joined) > 5 else len(joined) + 6
        joined += steps_of(Blocks().team(world, 4), size, skip=len(joined), end=end)
    joined += steps_of(Blocks().team(teams[-1], 4), size, skip=len(joined))
    assert joined == whole
    seen = Counter(itertools.chain.from_iterable(joined))
    assert set(seen.values()) == {1}
    assert len(seen) >= COUNT - size + 1


def test_every_row_is_learned_from_where_the_last_batch_can_be_shared() -> None:
    assert sorted(itertools.chain.from_iterable(steps_of(Blocks().team(3, 4), 60))) == list(range(COUNT))


def test_passes_repeat_with_their_seed_and_differ_with_another() -> None:
    first, again, other, negative = (steps_of(Blocks().team(2), 20, seed) for seed in (1, 1, 2, -1))
    assert first == again
    assert len({str(steps) for steps in (first, other, negative)}) == 3


def test_rows_of_blocks_that_lie_together_are_learned_from_apart() -> None:
    sizes = (100,) * 40
    for step in steps_of(Blocks(sizes).team(4), 200):
        assert len({row // 100 for row in step}) >= 16  # of 40 blocks


def test_each_worker_reads_its_part_and_a_pass_that_goes_on_reads_no_more_than_is_left() -> None:
    sizes, size = (50,) * 64, 80
    for world, skip in ((1, 0), (4, 0), (3, 0), (4, 30)):
        blocks = Blocks(sizes)
        steps_of(blocks.team(world, 4), size, skip=skip)
        least = 64 * (1 - skip * size / sum(sizes))
        assert least <= len(blocks.asked) <= least + 4 * 4 * 2, (world, skip)  # lanes end within blocks


def test_every_worker_takes_as_many_steps_as_the_others_with_two_rows_each() -> None:
    for count in range(20, 90):
        for world in (1, 3, 4):
            team = Blocks((count // 2, count - count // 2)).team(world, 4)
            parts = [list(rows.shuffled(16, seed=0)) for rows in team]
            assert len({len(part) for part in parts}) == 1
            assert all(len(share["label"]) > 1 for part in parts for share, _ in part)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_workers_together_score_every_row_once_and_in_order(world: int) -> None:
    for sizes in (SIZES, (3, 2)):
        batches = [list(rows.in_order(16)) for rows in Blocks(sizes).team(world)]
        assert all(part for part in batches)  # though it be empty
        assert max(len(batch["label"]) for part in batches for batch in part) <= 16
        seen = [value for part in batches for batch in part for value in batch["label"].tolist()]
        assert seen == list(range(sum(sizes)))


def test_a_block_that_cannot_be_read_ends_the_pass_with_the_reason() -> None:
    def fail(numbers: Sequence[int]) -> list[Batch]:
        raise OSError("the block is lost")

    rows = StreamedRows(SIZES, fail, CPU)
    with pytest.raises(OSError, match="the block is lost"):
        next(rows.shuffled(8, seed=0))
    with pytest.raises(OSError, match="the block is lost"):
        next(rows.in_order(8))


def test_a_pass_that_is_given_up_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    batches = Blocks().team(1)[0].shuffled(8, seed=0)
    next(batches)
    reading = set(threading.enumerate()) - before
    assert reading
    batches.close()  # type: ignore[attr-defined]
    for thread in reading:
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize("count", range(96, 116))
def test_resident_and_streamed_rows_take_equally_many_steps_in_a_small_team_as_in_a_whole_one(
    count: int,
) -> None:
    arrays = {"numeric": np.zeros((count, 1), dtype=np.float32), "label": np.arange(count)}
    for world in (1, 2, 3):
        resident = [
            list(ResidentRows(arrays, CPU, rank, world, largest=4).shuffled(16, 0)) for rank in range(world)
        ]
        assert {len(part) for part in resident} == {count // 16 + (count % 16 >= 8)}
        assert len(steps_of(Blocks((count,)).team(world, 4), 16)) == count // 16 + (count % 16 >= 8)
