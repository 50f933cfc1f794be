"""Packed splits: the encoded train and validation rows, in the object store as one object or in blocks. Does not import
torch, so that workers that encode rows, or train other families, do not load it."""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import ray
import ray.data
from ray.data.block import BlockAccessor

from raymlops.features import Packing
from raymlops.tensors import Batch

LABEL = "label"
"""Name of the target among packed tensors."""
WEIGHT = "weight"
"""Name of the rows' weights among packed tensors, where the spec names their column."""

_BLOCK_BYTES = 16 * 2**20
"""Rows of a streamed block: a worker holds a dozen, and a terabyte has 65,000."""


_BLOCKS_EACH = 4
"""Blocks of a worker from which on it gets whole ones: with fewer, some workers would have many more rows."""


@dataclasses.dataclass(frozen=True)
class Part:
    """Some rows of a split, read when they are needed."""

    count: int
    read: Callable[[], Batch]


@dataclasses.dataclass(frozen=True)
class PackedSplit:
    """Rows of one split: `arrays` refers to a Batch in the object store, or `blocks` to parts of it that may be
    spilled, with the rows of each in `sizes`.

    Arrays are read without a copy by every trial on a node.
    """

    count: int
    arrays: "ray.ObjectRef[Batch] | None" = None
    blocks: "tuple[ray.ObjectRef[Any], ...]" = ()
    sizes: tuple[int, ...] = ()
    tensors: frozenset[str] | None = None
    """Which packed tensors are read, beside labels and weights; None for all that there are."""
    numbers: "ray.ObjectRef[npt.NDArray[np.int64]] | npt.NDArray[np.int64] | None" = None
    """The numbers of its rows among those of `arrays`; None for all."""
    stride: tuple[int, int] = (0, 1)
    """The first row that is read, and the distance to the next, of the arrays or of each block."""

    def share(self, rank: int, world: int) -> "PackedSplit":
        """The rows of one worker of a team: blocks in turn where there are many, else every so many rows. Both are from
        all over the table, which may be sorted."""
        if world == 1:
            return self
        if len(self.blocks) >= _BLOCKS_EACH * world:
            blocks, sizes = self.blocks[rank::world], self.sizes[rank::world]
            return dataclasses.replace(self, blocks=blocks, sizes=sizes, count=sum(sizes))
        sizes = tuple(len(range(rank, size, world)) for size in self.sizes)
        count = sum(sizes) if self.blocks else len(range(rank, self.count, world))
        return dataclasses.replace(self, stride=(rank, world), sizes=sizes, count=count)

    def parts(self, most: int) -> tuple[Part, ...]:
        """The rows in order: the blocks, or of rows in memory `most` at a time, which are read without a copy."""
        if self.blocks:
            return tuple(
                Part(size, functools.partial(self._load_block, number))
                for number, size in enumerate(self.sizes)
                if size
            )
        rows = self.load()
        return tuple(
            Part(min(most, self.count - start), functools.partial(_cut, rows, start, start + most))
            for start in range(0, self.count, most)
        )

    def only(self, tensors: frozenset[str]) -> "PackedSplit":
        """The same rows, of which only these tensors are read."""
        return dataclasses.replace(self, tensors=tensors)

    def sample(self, rows: int | None, seed: int) -> "PackedSplit":
        """A sample of so many rows, with the classes or the spread of the labels that all have; all of them for None.
        Of rows in blocks it has whole blocks, evenly spaced."""
        if rows is None or rows >= self.count:
            return self
        if self.arrays is None:
            wanted = max(1, rows * len(self.blocks) // self.count)
            places = np.linspace(0, len(self.blocks) - 1, wanted).astype(np.int64)
            blocks, sizes = ([held[place] for place in places] for held in (self.blocks, self.sizes))
            return dataclasses.replace(self, count=sum(sizes), blocks=tuple(blocks), sizes=tuple(sizes))
        numbers = draw_evenly(self.load()[LABEL], rows, seed)
        known = self.numbers if isinstance(self.numbers, np.ndarray | None) else ray.get(self.numbers)
        return dataclasses.replace(self, count=rows, numbers=numbers if known is None else known[numbers])

    def load(self) -> Batch:
        """All rows, in order: read-only if they are shared with other processes of the node."""
        if self.arrays is not None:
            held = self._narrow(cast(Batch, ray.get(self.arrays)))
            if self.numbers is not None:
                numbers = self.numbers if isinstance(self.numbers, np.ndarray) else ray.get(self.numbers)
                held = {name: values[numbers] for name, values in held.items()}
            return self._step(held)
        parts = self.load_blocks(range(len(self.blocks)))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def load_first(self, most: int) -> Batch:
        """The first rows, `most` of them."""
        if self.arrays is not None:
            return {name: values[:most] for name, values in self.load().items()}
        needed = int(np.searchsorted(np.cumsum(self.sizes), most)) + 1
        parts = self.load_blocks(range(min(needed, len(self.blocks))))
        return {name: np.concatenate([part[name] for part in parts])[:most] for name in parts[0]}

    def load_evenly(self, most: int) -> Batch:
        """At most so many rows, evenly spaced if they are in memory, else the first."""
        if self.arrays is None:
            return self.load_first(most)
        return {name: values[:: self.step_of(most)] for name, values in self.load().items()}

    def step_of(self, most: int) -> int:
        """Every so many rows are those of `load_evenly`."""
        return 1 if self.arrays is None else max(1, math.ceil(self.count / most))

    def load_blocks(self, numbers: Sequence[int]) -> list[Batch]:
        """The rows of the blocks with these numbers."""
        blocks = ray.get([self.blocks[number] for number in numbers])
        batches = [BlockAccessor.for_block(block).to_batch_format("numpy") for block in blocks]
        return [self._step(self._narrow(batch)) for batch in batches]

    def _load_block(self, number: int) -> Batch:
        return self.load_blocks([number])[0]

    def _step(self, rows: Batch) -> Batch:
        first, distance = self.stride
        return rows if distance == 1 else _cut(rows, first, None, distance)

    def _narrow(self, rows: Batch) -> Batch:
        return rows if self.tensors is None else narrow(rows, self.tensors | {LABEL, WEIGHT})


def _cut(rows: Batch, start: int, stop: int | None, step: int = 1) -> Batch:
    return {name: values[start:stop:step] for name, values in rows.items()}


def draw_evenly(labels: npt.NDArray[Any], rows: int, seed: int) -> npt.NDArray[np.int64]:
    """The numbers of so many rows, in order: of those that are sorted by label every so many."""
    shuffled = np.random.default_rng(seed % 2**63).permutation(len(labels))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return np.sort(order[np.linspace(0, len(order) - 1, rows).astype(np.int64)])


def narrow(rows: Batch, tensors: Collection[str]) -> Batch:
    """Those of the tensors that are named."""
    return {name: values for name, values in rows.items() if name in tensors}


NO_ROWS = PackedSplit(0)
"""In the place of splits where a trained model is loaded, which needs none."""


def pack_split(
    dataset: ray.data.Dataset,
    count: int,
    packing: Packing,
    resident_bytes: int,
    block_bytes: int = _BLOCK_BYTES,
) -> PackedSplit:
    """Encode `count` rows once and keep the result: as arrays if they are small enough, else as blocks."""
    size = row_bytes(packing)
    if count * size > resident_bytes:
        return _pack_blocks(dataset, max(1, block_bytes // size))
    dataset = dataset.materialize()
    parts: list[Batch] = list(dataset.iter_batches(batch_size=None, batch_format="numpy"))
    arrays = {
        name: np.concatenate([part[name] for part in parts if len(part)])
        for name in next(p for p in parts if p)
    }
    return PackedSplit(count, arrays=ray.put(arrays))


def _pack_blocks(dataset: ray.data.Dataset, rows: int) -> PackedSplit:
    """Blocks of a given number of rows, on any cluster: their order in an epoch depends on their number, and a search
    that is resumed elsewhere must find the rows in the same places."""
    dataset = dataset.repartition(target_num_rows_per_block=rows, strict=True).materialize()
    entries = [entry for bundle in dataset.iter_internal_ref_bundles() for entry in bundle.blocks]
    sizes = tuple(entry.metadata.num_rows or 0 for entry in entries)
    return PackedSplit(sum(sizes), blocks=tuple(entry.ref for entry in entries), sizes=sizes)


def row_bytes(packing: Packing) -> int:
    """Of one packed row."""
    image = math.prod(packing.image) if packing.image else 0
    return 4 * (packing.numeric + packing.plain + image) + 8 * (len(packing.categories) + 1)  # with the label
