"""Torch networks for tables that read numbers as they are, with their missing values: RealMLP and TabM. They are
trained by learners/steps.py and written as ONNX by table_network_export.py.

RealMLP: Holzmüller, Grinsztajn, Steinwart 2024, "Better by default". TabM: Gorishniy, Kotelnikov, Babenko 2024.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from raymlops.features import FittedTarget, Packing
from raymlops.tensors import Batch

ONE_HOT = 9
"""Values of a category, with that of unseen ones, up to which each has a column of its own."""
MOST_SCALED = 1e4
"""Of a scaled number, before it is clipped smoothly: its square must be finite."""
LEAST = 1e-7
"""Of a mean of probabilities, whose logarithm is taken."""
_WAVES = 16
_MOST_SAMPLED = 100_000
"""Rows of which quantiles are taken."""


@dataclasses.dataclass(frozen=True)
class Scaling:
    """How numbers are scaled, by column: less the median, over the distance of the quartiles. `indicators` are the
    columns that had missing values."""

    center: npt.NDArray[np.float32]
    factor: npt.NDArray[np.float32]
    indicators: tuple[int, ...]


def fit_scaling(rows: Batch, packing: Packing) -> Scaling:
    """From training rows: evenly spaced ones, if there are many."""
    center, factor = (np.zeros(packing.plain, dtype=np.float32) for _ in range(2))
    if not packing.plain:
        return Scaling(center, factor, ())
    plain = rows["plain"]
    missing = np.isnan(plain).any(axis=0)
    plain = plain[:: max(1, math.ceil(len(plain) / _MOST_SAMPLED))]
    for place in range(packing.plain):
        values = plain[:, place].astype(np.float64)
        values = values[np.isfinite(values)]
        if not len(values):
            continue
        low, center[place], high = np.quantile(values, [0.25, 0.5, 0.75])
        span = high - low or (values.max() - values.min()) / 2
        factor[place] = 1 / max(span, 1e-30) if span else 0.0
    return Scaling(center, factor, tuple(np.flatnonzero(missing).tolist()))


class TableInputs(nn.Module):
    """Packed rows -> (rows, width): numbers, scaled and clipped smoothly to -3 to 3; periodic embeddings of each
    ("PBLD"); indicators of missing values; one-hot columns or embeddings of categories."""

    center: Tensor
    factor: Tensor
    indicators: Tensor

    def __init__(self, packing: Packing, indicators: int, *, embedding: int, frequency: float) -> None:
        super().__init__()
        numbers = packing.plain
        self.register_buffer("center", torch.zeros(numbers))
        self.register_buffer("factor", torch.zeros(numbers))
        self.register_buffer("indicators", torch.zeros(indicators, dtype=torch.int64))
        self.waves, self.shifts = (nn.Parameter(torch.empty(numbers, 1, _WAVES)) for _ in range(2))
        self.mix = nn.Parameter(torch.empty(numbers, _WAVES, 3))
        self.mix_bias = nn.Parameter(torch.zeros(numbers, 1, 3))
        if numbers:
            nn.init.normal_(self.waves, std=2 * math.pi * frequency)
            nn.init.uniform_(self.shifts, -math.pi, math.pi)
            nn.init.uniform_(self.mix, -1 / math.sqrt(_WAVES), 1 / math.sqrt(_WAVES))
        self.tables = nn.ParameterList(_make_table(size, embedding) for size in packing.categories)
        self.width = 4 * numbers + indicators + sum(table.shape[1] for table in self.tables)

    def set_scaling(self, scaling: Scaling) -> None:
        self.center.copy_(torch.from_numpy(scaling.center))
        self.factor.copy_(torch.from_numpy(scaling.factor))
        self.indicators.copy_(torch.tensor(scaling.indicators, dtype=torch.int64))

    def scale(self, plain: Tensor) -> tuple[Tensor, Tensor]:
        """(rows, numbers) with NaN -> the same scaled, and indicators; needed once for training rows."""
        missing = torch.isnan(plain)
        scaled = ((plain - self.center) * self.factor).clamp(-MOST_SCALED, MOST_SCALED)
        scaled = torch.where(missing, 0.0, scaled)
        clipped = scaled / torch.sqrt(1 + (scaled / 3) ** 2)
        return clipped, missing.index_select(1, self.indicators).to(clipped.dtype)

    def forward(self, scaled: Tensor | None, missing: Tensor | None, category: Tensor | None) -> Tensor:
        parts = []
        if scaled is not None and missing is not None:
            turned = torch.cos(scaled.t().unsqueeze(2) * self.waves + self.shifts)  # (numbers, rows, waves)
            mixed = torch.baddbmm(self.mix_bias, turned, self.mix)  # (numbers, rows, 3)
            parts += [scaled, mixed.transpose(0, 1).flatten(1), missing]
        if category is not None:
            parts += [functional.embedding(category[:, i], table) for i, table in enumerate(self.tables)]
        return torch.cat(parts, dim=1)


def _make_table(size: int, embedding: int) -> nn.Parameter:
    """Rows by id. That of unseen values is zero until a training row has it."""
    one_hot = size <= ONE_HOT
    table = torch.eye(size)[:, 1:] if one_hot else torch.randn(size, embedding)
    table[0] = 0
    return nn.Parameter(table, requires_grad=not one_hot)


class Scaled(nn.Module):
    """A linear layer whose outputs do not grow with its inputs, so that one learning rate fits all widths ("NTK
    parametrisation", Jacot et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, zero: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs) if zero else torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs) if zero else torch.randn(outputs))

    def scaled_weight(self) -> Tensor:
        return self.weight / math.sqrt(max(1, self.weight.shape[1]))

    def forward(self, values: Tensor) -> Tensor:
        return functional.linear(values, self.scaled_weight(), self.bias)


class Activation(nn.Module):
    """Between the identity and SELU or Mish, by a learned share for each of the inputs."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.share = nn.Parameter(torch.ones(width))

    def forward(self, values: Tensor) -> Tensor:
        bent = functional.selu(values) if self.kind == "selu" else functional.mish(values)
        return values + (bent - values) * self.share


class TableNetwork(nn.Module):
    """What the networks share: the inputs, and the range of a regression's answers in training, to which they are
    clipped. `forward` returns margins (rows, members, outputs)."""

    bounds: Tensor

    def __init__(self, inputs: TableInputs) -> None:
        super().__init__()
        self.inputs = inputs
        self.register_buffer("bounds", torch.tensor([-math.inf, math.inf]))

    def groups(self) -> Iterator[dict[str, Any]]:
        """Parameters for the optimiser, with factors of its learning rate and weight decay."""
        raise NotImplementedError

    def set_prior(self, bias: npt.NDArray[np.float32]) -> None:
        """The margins (outputs,) that training starts at."""
        raise NotImplementedError


def _group(parameters: list[Any], rate: float, decay: float = 1.0) -> dict[str, Any]:
    return {"params": [one for one in parameters if one.requires_grad], "rate": rate, "decay": decay}


def _input_groups(inputs: TableInputs) -> Iterator[dict[str, Any]]:
    yield _group([inputs.waves, inputs.shifts, inputs.mix, inputs.mix_bias], 0.1, 0.0)
    yield _group(list(inputs.tables), 1.0)


class RealMLP(TableNetwork):
    """A learned scale of each input, then equally wide layers; one member."""

    def __init__(
        self, inputs: TableInputs, outputs: int, kind: str, *, width: int, layers: int, dropout: float
    ) -> None:
        super().__init__(inputs)
        self.scale = nn.Parameter(torch.ones(inputs.width))
        sizes = [inputs.width, *[width] * layers]
        self.layers = nn.ModuleList(Scaled(*pair) for pair in itertools.pairwise(sizes))
        self.activations = nn.ModuleList(Activation(width, kind) for _ in range(layers))
        self.last = Scaled(sizes[-1], outputs, zero=True)
        self.dropout = nn.Dropout(dropout)

    def set_prior(self, bias: npt.NDArray[np.float32]) -> None:
        self.last.bias.data.copy_(torch.from_numpy(bias))

    def groups(self) -> Iterator[dict[str, Any]]:
        linear = [*self.layers, self.last]
        yield from _input_groups(self.inputs)
        yield _group([self.scale], 6.0)
        yield _group([layer.weight for layer in linear], 1.0)
        yield _group([layer.bias for layer in linear], 0.1, 0.0)
        yield _group([activation.share for activation in self.activations], 0.1, 0.0)

    def forward(self, **rows: Tensor | None) -> Tensor:
        values = self.inputs(**rows) * self.scale
        for layer, activation in zip(self.layers, self.activations, strict=True):
            values = self.dropout(activation(layer(values)))
        outputs: Tensor = self.last(values)
        return outputs.unsqueeze(1)


def _uniform(inputs: int, *shape: int) -> Tensor:
    """Initial weights of this shape, for layers of so many inputs."""
    return (torch.rand(shape) * 2 - 1) / math.sqrt(max(1, inputs))


class TabM(TableNetwork):
    """Members that share the weights of their layers; each has factors of the inputs and outputs of each layer, biases
    and a last layer of its own ("BatchEnsemble", Wen et al. 2020)."""

    def __init__(
        self, inputs: TableInputs, outputs: int, *, members: int, width: int, layers: int, dropout: float
    ) -> None:
        super().__init__(inputs)
        sizes = [inputs.width, *[width] * layers]
        pairs = list(itertools.pairwise(sizes))
        self.weights = nn.ParameterList(_uniform(before, after, before) for before, after in pairs)
        first = torch.randint(0, 2, (members, inputs.width)) * 2.0 - 1
        self.before = nn.ParameterList([first, *(torch.ones(members, size) for size in sizes[1:-1])])
        self.after = nn.ParameterList(torch.ones(members, size) for size in sizes[1:])
        self.biases = nn.ParameterList(_uniform(before, members, after) for before, after in pairs)
        self.last = nn.Parameter(_uniform(width, members, width, outputs))
        self.last_bias = nn.Parameter(torch.zeros(members, outputs))
        self.dropout = nn.Dropout(dropout)

    def set_prior(self, bias: npt.NDArray[np.float32]) -> None:
        self.last_bias.data.copy_(torch.from_numpy(bias).expand_as(self.last_bias))

    def groups(self) -> Iterator[dict[str, Any]]:
        yield from _input_groups(self.inputs)
        yield _group([*self.weights, self.last], 1.0)
        yield _group([*self.before, *self.after, *self.biases, self.last_bias], 1.0, 0.0)

    def forward(self, **rows: Tensor | None) -> Tensor:
        values = self.inputs(**rows).unsqueeze(1)  # (rows, 1 or members, inputs)
        for weight, before, after, bias in zip(
            self.weights, self.before, self.after, self.biases, strict=True
        ):
            values = self.dropout(torch.relu(functional.linear(values * before, weight) * after + bias))
        return torch.einsum("rmi,mio->rmo", values, self.last) + self.last_bias


def prior_of(target: FittedTarget, labels: Any, weights: npt.NDArray[Any] | None) -> npt.NDArray[np.float32]:
    """(outputs,) margins of the shares of the classes among training labels; zero for a regression."""
    if target.task == "regression":
        return np.zeros(1, dtype=np.float32)
    counts = np.bincount(labels, weights, max(2, target.outputs)) + 0.5
    logs = np.log(counts / counts.sum())
    return np.asarray(logs[1:] - logs[:1] if target.task == "binary" else logs, dtype=np.float32)
