"""Packed rows as batches of tensors: resident in memory when they fit, else streamed. Knows no network."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from raymlops.tensors import Batch, count_rows

LABEL = "label"
"""Name of the target among packed tensors."""


class Rows(Protocol):
    """Packed rows of one worker."""

    count: int

    def batches(self, size: int, shuffle: int | None = None) -> Iterator[dict[str, Tensor]]:
        """Batches of `size` rows, the last one maybe smaller; shuffled by that seed, or in order."""
        ...


class ResidentRows:
    """Rows held as tensors; a shuffled batch is one gather from each."""

    def __init__(self, arrays: Batch, device: torch.device, rank: int = 0, world: int = 1) -> None:
        self.count = count_rows(arrays) // world
        share = slice(
            rank, self.count * world, world
        )  # equal shares: data-parallel workers must take equal steps
        self._tensors = {name: _to_tensor(values[share], device) for name, values in arrays.items()}
        self._device = device

    def batches(self, size: int, shuffle: int | None = None) -> Iterator[dict[str, Tensor]]:
        if shuffle is None:
            for start in range(0, self.count, size):
                yield {name: values[start : start + size] for name, values in self._tensors.items()}
            return
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(shuffle)).to(self._device)
        for start in range(0, self.count, size):
            chosen = order[start : start + size]
            yield {name: values.index_select(0, chosen) for name, values in self._tensors.items()}


class StreamedRows:
    """Rows read anew from Ray Data each epoch, shuffled within a buffer."""

    def __init__(self, iterator: Any, count: int, device: torch.device, buffer_batches: int = 16) -> None:
        self.count = count
        self._iterator = iterator
        self._device = device
        self._buffer_batches = buffer_batches

    def batches(self, size: int, shuffle: int | None = None) -> Iterator[dict[str, Tensor]]:
        options: dict[str, Any] = {}
        if shuffle is not None:
            options = {
                "local_shuffle_buffer_size": size * self._buffer_batches,
                "local_shuffle_seed": shuffle,
            }
        batches = self._iterator.iter_batches(
            batch_size=size, batch_format="numpy", prefetch_batches=2, **options
        )
        for batch in batches:
            yield {name: _to_tensor(values, self._device) for name, values in batch.items()}


def _to_tensor(values: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    if not values.flags.writeable or not values.flags.c_contiguous:
        # Arrays from the object store are read-only, which torch warns of; one copy of the share that is
        # used.
        values = np.array(values, order="C")
    return torch.from_numpy(values).to(device)
