"""Packed splits: what the encoder made of the train and validation rows, in the object store or as a
stream."""

import dataclasses
from typing import Any

import numpy as np
import ray
import ray.data
import torch

from raymlops.tensors import Batch
from raymlops.training.rows import ResidentRows, Rows, StreamedRows


@dataclasses.dataclass(frozen=True)
class PackedSplit:
    """Rows of one split: `arrays` refers to a Batch in the object store, or `dataset` holds the same in
    blocks.

    Arrays are read without a copy by every trial on a node.
    """

    count: int
    arrays: "ray.ObjectRef[Batch] | None" = None
    dataset: ray.data.Dataset | None = None

    def to_rows(self, device: torch.device, rank: int = 0, world: int = 1, shard: Any = None) -> Rows:
        """The rows of one worker; `shard` is the worker's iterator where a dataset is split by Ray Train."""
        if self.arrays is not None:
            return ResidentRows(ray.get(self.arrays), device, rank, world)
        assert self.dataset is not None
        return StreamedRows(shard or self.dataset.iterator(), self.count, device, world)


def pack_split(dataset: ray.data.Dataset, resident_bytes: int) -> PackedSplit:
    """Run the encoding once and keep its result: as arrays when they are small enough, else as blocks
    that may spill."""
    dataset = dataset.materialize()
    count = dataset.count()
    if dataset.size_bytes() > resident_bytes:
        return PackedSplit(count, dataset=dataset)
    parts: list[Batch] = list(dataset.iter_batches(batch_size=None, batch_format="numpy"))
    arrays = {
        name: np.concatenate([part[name] for part in parts if len(part)])
        for name in next(p for p in parts if p)
    }
    return PackedSplit(count, arrays=ray.put(arrays))
