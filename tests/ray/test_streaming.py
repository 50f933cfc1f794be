"""Rows that are streamed: packed into the same blocks wherever it is done, and read from the object store by teams
of any size."""

import itertools

import numpy as np
import pytest
import ray.data
import torch

from raymlops.features import Packing
from raymlops.tensors import Batch
from raymlops.training.packed import PackedSplit, pack_split
from raymlops.training.streamed import open_rows

pytestmark = pytest.mark.usefixtures("ray_cluster")

CPU = torch.device("cpu")
ROWS = 1000
ROW_BYTES = 2 * 4 + 8 + 8


def pack(read_blocks: int, resident_bytes: int = 0) -> PackedSplit:
    def encode(batch: Batch) -> Batch:  # in here, since workers cannot import this module
        number = batch["id"]
        numeric = np.stack([number, -number], axis=1).astype(np.float32)
        return {"numeric": numeric, "category": number[:, None] % 3, "label": number}

    dataset = ray.data.range(ROWS, override_num_blocks=read_blocks).map_batches(encode, batch_size=None)
    return pack_split(dataset, ROWS, Packing(2, (3,)), resident_bytes, block_bytes=64 * ROW_BYTES)


def steps_of(packed: PackedSplit, world: int, skip: int = 0, end: int | None = None) -> list[list[int]]:
    """The rows of each step of a team of at most four."""
    team = [open_rows(packed, CPU, rank, world, 4) for rank in range(world)]
    parts = [list(itertools.islice(rows.shuffled(50, 7, skip), end and end - skip)) for rows in team]
    for part in parts:
        for share, _ in part:
            assert torch.equal(share["numeric"][:, 1], -share["label"].float())
            assert torch.equal(share["category"][:, 0], share["label"] % 3)
    return [
        sorted(itertools.chain.from_iterable(share["label"].tolist() for share, _ in shares))
        for shares in zip(*parts, strict=True)
    ]


def test_an_epoch_that_teams_of_several_sizes_share_sees_each_row_once() -> None:
    packed = pack(7)
    assert packed.arrays is None
    assert packed.sizes == (64,) * 15 + (40,)
    joined = steps_of(packed, 2, end=4) + steps_of(packed, 3, skip=4, end=13) + steps_of(packed, 1, skip=13)
    assert joined == steps_of(packed, 4)
    assert sorted(itertools.chain.from_iterable(joined)) == list(range(ROWS))


def test_rows_packed_anew_on_a_cluster_that_reads_otherwise_make_the_same_batches() -> None:
    first, other = pack(1), pack(40)
    assert first.sizes == other.sizes
    assert steps_of(first, 2) == steps_of(other, 3)
    scored = [
        value
        for rank in range(3)
        for batch in open_rows(other, CPU, rank, 3, 4).in_order(30)
        for value in batch["label"].tolist()
    ]
    assert scored == list(range(ROWS))


def test_rows_that_fit_are_held_and_those_of_a_byte_more_are_streamed() -> None:
    held, streamed = (pack(3, resident_bytes=ROWS * ROW_BYTES - less) for less in (0, 1))
    assert held.arrays is not None
    assert streamed.arrays is None
    assert held.count == streamed.count == ROWS
