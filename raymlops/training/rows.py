"""Packed rows as batches of tensors: resident in memory when they fit, else streamed. Knows no network."""

import itertools
import math
import warnings
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from raymlops.tensors import Batch, count_rows

LABEL = "label"
"""Name of the target among packed tensors."""

Share = tuple[dict[str, Tensor], float]
"""One worker's rows of a batch, and their weight in the mean over all workers."""


class Rows(Protocol):
    """Packed rows that the workers of a team share."""

    count: int
    """Rows of all workers together."""

    def shuffled(self, size: int, seed: int, skip: int = 0) -> Iterator[Share]:
        """This worker's share of each batch of `size` rows of one pass; `skip` batches were taken before.

        Every worker gets as many shares as the others: data-parallel workers must take equal steps.
        """
        ...

    def in_order(self, size: int) -> Iterator[dict[str, Tensor]]:
        """This worker's share of all rows, `size` at a time; at least one batch, though it be empty."""
        ...


def count_steps(rows: Rows, size: int) -> int:
    """Batches of one pass, whatever the number of workers."""
    return math.ceil(rows.count / size)


class ResidentRows:
    """Rows held as tensors. Which rows make a batch does not depend on how many workers share it, so that a
    team that grows or shrinks in the middle of a pass still sees each row once."""

    def __init__(self, arrays: Batch, device: torch.device, rank: int = 0, world: int = 1) -> None:
        self.count = count_rows(arrays)
        self._rank, self._world = rank, world
        self._tensors = {name: _to_tensor(values, device) for name, values in arrays.items()}
        self._device = device

    def shuffled(self, size: int, seed: int, skip: int = 0) -> Iterator[Share]:
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(seed)).to(self._device)
        for start in range(skip * size, self.count, size):
            whole = order[start : start + size]
            if len(whole) < min(size, 2 * self._world):
                return  # batch normalisation cannot learn from one row
            share = whole[self._rank :: self._world]
            weight = len(share) * self._world / len(whole)
            yield {name: values.index_select(0, share) for name, values in self._tensors.items()}, weight

    def in_order(self, size: int) -> Iterator[dict[str, Tensor]]:
        share = {name: values[self._rank :: self._world] for name, values in self._tensors.items()}
        for start in range(0, max(1, len(share[LABEL])), size):
            yield {name: values[start : start + size].clone() for name, values in share.items()}


class StreamedRows:
    """Rows read anew from Ray Data each pass, shuffled within a buffer; workers get equal parts, which
    differ with their number: a team that changed in the middle of a pass may see some rows of it twice."""

    def __init__(
        self, iterator: Any, count: int, device: torch.device, world: int = 1, buffer_batches: int = 16
    ) -> None:
        self.count = count // world * world
        self._iterator = iterator
        self._device = device
        self._world = world
        self._buffer_batches = buffer_batches

    def shuffled(self, size: int, seed: int, skip: int = 0) -> Iterator[Share]:
        share = max(1, size // self._world)
        batches = self._batches(
            share, local_shuffle_buffer_size=share * self._buffer_batches, local_shuffle_seed=seed
        )
        for batch in itertools.islice(batches, skip, None):
            if len(batch[LABEL]) > 1 or share == 1:  # batch normalisation cannot learn from one row
                yield batch, 1.0

    def in_order(self, size: int) -> Iterator[dict[str, Tensor]]:
        return self._batches(size)

    def _batches(self, size: int, **options: Any) -> Iterator[dict[str, Tensor]]:
        batches = self._iterator.iter_batches(
            batch_size=size, batch_format="numpy", prefetch_batches=2, **options
        )
        for batch in batches:
            yield {name: _to_tensor(values, self._device) for name, values in batch.items()}


def _to_tensor(values: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    with warnings.catch_warnings():
        # Arrays of the object store are read-only, which torch warns of; batches are copies, safe to write to.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)
