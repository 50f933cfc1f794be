"""Networks that a user would write: one that works, and ones that do not."""

from typing import Any

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """A linear model on the numbers, and a number for each category."""

    def __init__(
        self,
        *,
        numeric: int,
        categories: tuple[int, ...],
        image: tuple[int, ...],
        outputs: int,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.numbers = nn.Linear(numeric, outputs, bias=bias)
        self.tables = nn.ModuleList(nn.Embedding(size, outputs) for size in categories)

    def forward(self, numeric: Tensor, category: Tensor) -> Tensor:
        total: Tensor = self.numbers(numeric)
        for position, table in enumerate(self.tables):
            total = total + table(category[:, position])
        return total


class Branching(nn.Module):
    """Branches on the values of its tensors, which no graph can hold."""

    def __init__(self, **widths: Any) -> None:
        super().__init__()
        self.body = nn.Linear(widths["numeric"], widths["outputs"])

    def forward(self, numeric: Tensor, category: Tensor) -> Tensor:
        return self.body(numeric) if numeric.sum() > 0 else -self.body(numeric)  # type: ignore[no-any-return]


class Fails(nn.Module):
    """Cannot be built on a worker."""

    def __init__(self, **widths: Any) -> None:
        super().__init__()
        self.body = nn.Linear(widths["numeric"], widths["outputs"])

    def forward(self, numeric: Tensor, category: Tensor) -> Tensor:
        raise RuntimeError("it fails")


class NoModule:
    """Is no torch module."""


def exploding(**widths: Any) -> torch.nn.Module:
    raise RuntimeError("not a class")
