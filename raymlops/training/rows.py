"""Packed rows as batches of tensors, and rows that are held in memory. Knows no network."""

import math
import warnings
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from raymlops.tensors import Batch, count_rows
from raymlops.training.packed import LABEL

Share = tuple[dict[str, Tensor], float]
"""One worker's rows of a batch, and their weight in the mean over all workers."""


class Rows(Protocol):
    """Packed rows that the workers of a team share."""

    count: int
    """Rows of all workers together."""

    def shuffled(self, size: int, seed: int, skip: int = 0) -> Iterator[Share]:
        """This worker's share of each batch of `size` rows of one pass; `skip` batches were taken before.

        Every worker gets equally many shares: data-parallel workers must take equal steps. Which rows make a batch
        depends on `seed` alone, so that a pass that one team began can be finished by another.
        """
        ...

    def in_order(self, size: int) -> Iterator[dict[str, Tensor]]:
        """This worker's share of all rows, at most `size` at a time; at least one batch, which may be empty."""
        ...


def count_steps(rows: Rows, size: int) -> int:
    """Batches of one pass, for any number of workers."""
    return math.ceil(rows.count / size)


class ResidentRows:
    """Rows held as tensors. Which rows make a batch does not depend on the number of workers, so that a team that
    grows or shrinks during a pass still sees each row once."""

    def __init__(
        self, arrays: Batch, device: torch.device, rank: int = 0, world: int = 1, largest: int = 1
    ) -> None:
        """`largest` is the number of workers of the complete team."""
        self.count = count_rows(arrays)
        self._rank, self._world, self._largest = rank, world, max(world, largest)
        self._tensors = {name: to_tensor(values, device) for name, values in arrays.items()}
        self._device = device

    def shuffled(self, size: int, seed: int, skip: int = 0) -> Iterator[Share]:
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(seed)).to(self._device)
        for start in range(skip * size, self.count, size):
            whole = order[start : start + size]
            if len(whole) < min(size, 2 * self._largest):
                return  # batch normalisation cannot learn from one row
            share = whole[self._rank :: self._world]
            weight = len(share) * self._world / len(whole)
            yield {name: values.index_select(0, share) for name, values in self._tensors.items()}, weight

    def in_order(self, size: int) -> Iterator[dict[str, Tensor]]:
        share = {name: values[self._rank :: self._world] for name, values in self._tensors.items()}
        for start in range(0, max(1, len(share[LABEL])), size):
            yield {name: values[start : start + size].clone() for name, values in share.items()}


def to_tensor(values: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    with warnings.catch_warnings():
        # Arrays of the object store are read-only, which torch warns about; batches are copies, safe to write to.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)
