"""The rows of a packed split as tensors of one worker: block by block during a training, if there are more than memory
holds. Knows no network."""

import dataclasses
import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raymlops.tensors import Batch, count_rows
from raymlops.training.packed import PackedSplit
from raymlops.training.rows import ResidentRows, Rows, Share, to_tensor

Load = Callable[[Sequence[int]], Sequence[Batch]]
"""Returns the rows of the blocks with these numbers."""

_LANES = 4
"""Lanes per worker of a complete team. With one, a team that lost one of eight workers would wait for the one with
two lanes, and be as slow as a team of four."""

_MIXED = 2
"""Blocks of a lane that are shuffled together; a batch has equally many rows from each lane."""


def open_rows(
    split: PackedSplit, device: torch.device, rank: int = 0, world: int = 1, largest: int = 1
) -> Rows:
    """The rows of one worker of a team that has `largest` workers when complete."""
    if split.arrays is not None:
        return ResidentRows(split.load(), device, rank, world, largest)
    return StreamedRows(split.sizes, split.load_blocks, device, rank, world, largest)


@dataclasses.dataclass(frozen=True)
class _Piece:
    """Rows of one block, from `start` to before `stop`."""

    block: int
    start: int
    stop: int


class StreamedRows:
    """Rows in blocks, of which a worker holds few at a time.

    A pass puts the blocks in an order of its own and divides it into lanes, equally many for small and complete
    teams. A batch has rows of all lanes, and a worker reads only its own lanes. So which rows make a batch does not
    depend on the number of workers, as with resident rows, though each reads only its part; and a pass that is
    resumed in the middle reads nothing of what was taken before.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        load: Load,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        largest: int = 1,
    ) -> None:
        """`sizes` are the rows of each block; `largest` is the number of workers of the complete team."""
        self.count = sum(sizes)
        self._sizes = np.asarray(sizes, dtype=np.int64)
        self._load, self._device = load, device
        self._rank, self._world, self._largest = rank, world, max(world, largest)

    def shuffled(self, size: int, seed: int, skip: int = 0) -> Iterator[Share]:
        pairs = min(size, self.count) // (2 * self._largest)  # share of a batch's rows, for each worker
        lanes = self._largest * max(1, min(_LANES, pairs))
        least = min(size, max(lanes, 2 * self._largest))  # batch normalisation cannot learn from one row
        own = {
            lane: self._open_lane(lane, lanes, seed, skip * size)
            for lane in range(self._rank, lanes, self._world)
        }
        for start in range(skip * size, self.count, size):
            stop = min(start + size, self.count)
            if stop - start < least:
                return
            share = _join(
                [
                    part
                    for lane, rows in own.items()
                    for part in rows.take(
                        _count_lane_rows(stop, lane, lanes) - _count_lane_rows(start, lane, lanes)
                    )
                ]
            )
            yield self._to_tensors(share), count_rows(share) * self._world / (stop - start)

    def in_order(self, size: int) -> Iterator[dict[str, Tensor]]:
        start, stop = (self.count * rank // self._world for rank in (self._rank, self._rank + 1))
        pieces = self._find_pieces(np.arange(len(self._sizes)), start, stop) or [_Piece(0, 0, 0)]
        for rows in _read_ahead([functools.partial(self._read, [piece]) for piece in pieces]):
            for at in range(0, max(1, count_rows(rows)), size):
                yield self._to_tensors({name: values[at : at + size] for name, values in rows.items()})

    def _open_lane(self, lane: int, lanes: int, seed: int, taken: int) -> "_Lane":
        """The rows of a lane in the order of this pass, after the first `taken` rows of all lanes."""
        seed %= 2**63  # numpy accepts no negative seed
        order = np.random.default_rng(seed).permutation(len(self._sizes))
        first = sum(_count_lane_rows(self.count, other, lanes) for other in range(lane))
        pieces = self._find_pieces(order, first, first + _count_lane_rows(self.count, lane, lanes))
        windows: list[Callable[[], Batch]] = []
        skip = _count_lane_rows(taken, lane, lanes)
        for number, at in enumerate(range(0, len(pieces), _MIXED)):
            window = pieces[at : at + _MIXED]
            rows = sum(piece.stop - piece.start for piece in window)
            if windows or skip < rows:
                windows.append(functools.partial(self._read, window, (seed, lane, number)))
            else:
                skip -= rows
        return _Lane(_read_ahead(windows), skip)

    def _find_pieces(self, order: npt.NDArray[np.int64], start: int, stop: int) -> list[_Piece]:
        """Where the rows from `start` to before `stop` are, for blocks in this order."""
        ends = np.cumsum(self._sizes[order])
        begins = ends - self._sizes[order]
        return [
            _Piece(int(order[at]), int(max(start - begins[at], 0)), int(min(stop, ends[at]) - begins[at]))
            for at in np.flatnonzero((begins < stop) & (ends > start) & (begins < ends))
        ]

    def _read(self, pieces: Sequence[_Piece], seed: tuple[int, ...] | None = None) -> Batch:
        """Copies of the rows of these pieces, shuffled by `seed`; the blocks themselves are released."""
        blocks = self._load([piece.block for piece in pieces])
        parts = [
            {name: values[piece.start : piece.stop] for name, values in block.items()}
            for piece, block in zip(pieces, blocks, strict=True)
        ]
        rows = _join(parts)
        if seed is None:
            return rows
        order = np.random.default_rng(seed).permutation(count_rows(rows))
        return {name: values.take(order, axis=0) for name, values in rows.items()}

    def _to_tensors(self, rows: Batch) -> dict[str, Tensor]:
        return {name: to_tensor(values, self._device) for name, values in rows.items()}


class _Lane:
    """Returns rows of shuffled windows one after another, as many at a time as requested."""

    def __init__(self, windows: Iterator[Batch], skip: int) -> None:
        self._windows = windows
        self._window: Batch = {}
        self._at, self._rows, self._skip = 0, 0, skip

    def take(self, count: int) -> list[Batch]:
        parts = []
        while count > 0:
            if self._at == self._rows:
                self._window = {}  # not held while waiting for the next
                self._window = next(self._windows)
                self._at, self._rows, self._skip = self._skip, count_rows(self._window), 0
            stop = min(self._rows, self._at + count)
            parts.append({name: values[self._at : stop] for name, values in self._window.items()})
            count -= stop - self._at
            self._at = stop
        return parts


def _count_lane_rows(position: int, lane: int, lanes: int) -> int:
    """Rows of a lane among the first `position` of a pass, to which lanes contribute in turn."""
    return (position - lane + lanes - 1) // lanes


def _join(parts: Sequence[Batch]) -> Batch:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _read_ahead(reads: Sequence[Callable[[], Batch]]) -> Iterator[Batch]:
    """The items, the next one read in a thread meanwhile."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="rows")
    coming: deque[Future[Batch]] = deque()
    try:
        for read in reads:
            coming.append(pool.submit(read))
            if len(coming) > 1:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
