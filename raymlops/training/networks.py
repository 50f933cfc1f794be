"""The torch networks that a spec may name. Each takes packed tensors by name and returns raw outputs (rows,
outputs)."""

import importlib
import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn

from raymlops.errors import SpecError, unknown_name


class MLP(nn.Module):
    """Tabular: category embeddings joined with the numbers, then residual-free layers of falling width; with
    `linear`, added to a linear model of the same inputs ("wide and deep", Cheng et al. 2016), which training fits
    first: linear_start.py."""

    def __init__(
        self,
        *,
        numeric: int,
        categories: tuple[int, ...],
        image: tuple[int, ...],
        outputs: int,
        hidden: int = 128,
        layers: int = 2,
        dropout: float = 0.25,
        embedding: int = 8,
        embedding_dropout: float = 0.2,
        normalise: bool = False,
        linear: bool = False,
    ) -> None:
        super().__init__()
        if image:
            raise SpecError("Network 'mlp' takes numbers and categories; for images use network.name: cnn")
        widths = [
            min(embedding, math.ceil(1.6 * size**0.56)) for size in categories
        ]  # fast.ai's rule, capped
        self.embeddings = nn.ModuleList(
            nn.Embedding(size, width) for size, width in zip(categories, widths, strict=True)
        )
        for table in self.embeddings:
            nn.init.normal_(table.weight, std=0.05)  # type: ignore[arg-type]
        self.embedding_dropout = nn.Dropout(embedding_dropout)
        width = numeric + sum(widths)
        body: list[nn.Module] = []
        for layer in range(layers):
            size = max(8, hidden // 2**layer)
            body.append(nn.Linear(width, size))
            if normalise:
                body.append(nn.BatchNorm1d(size))
            body += [nn.ReLU(), nn.Dropout(dropout)]
            width = size
        body.append(nn.Linear(width, outputs))
        self.body = nn.Sequential(*body)
        self.linear = LinearPath(numeric, categories, outputs) if linear else None
        if linear:  # training begins at the linear model
            nn.init.zeros_(body[-1].weight)  # type: ignore[arg-type]
            nn.init.zeros_(body[-1].bias)  # type: ignore[arg-type]

    def forward(self, numeric: Tensor | None = None, category: Tensor | None = None) -> Tensor:
        outputs: Tensor = self.body(self._join(numeric, category))
        return outputs if self.linear is None else outputs + self.linear(numeric, category)

    def _join(self, numeric: Tensor | None, category: Tensor | None) -> Tensor:
        """(rows, numbers and embeddings)"""
        parts = [] if numeric is None else [numeric]  # (rows, numeric)
        if category is not None:
            embedded = [table(category[:, i]) for i, table in enumerate(self.embeddings)]
            parts.append(self.embedding_dropout(torch.cat(embedded, dim=1)))
        return torch.cat(parts, dim=1)


class LinearPath(nn.Module):
    """A linear model of the numbers, and of the categories as one-hot columns. Zero at first."""

    def __init__(self, numeric: int, categories: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.numbers = nn.Parameter(torch.zeros(numeric, outputs)) if numeric else None
        self.values = nn.Embedding(sum(categories), outputs) if categories else None  # of all columns
        if self.values is not None:
            nn.init.zeros_(self.values.weight)
        starts = torch.cumsum(torch.tensor([0, *categories]), dim=0)[:-1]
        self.register_buffer("starts", starts, persistent=False)

    starts: Tensor

    def forward(self, numeric: Tensor | None = None, category: Tensor | None = None) -> Tensor:
        outputs: Tensor = self.bias
        if self.numbers is not None and numeric is not None:
            outputs = outputs + numeric @ self.numbers
        if self.values is not None and category is not None:
            outputs = outputs + self.values(category + self.starts).sum(dim=1)
        return outputs


class Linked(nn.Module):
    """A network whose outputs pass through a link function."""

    def __init__(self, network: nn.Module, link: nn.Module) -> None:
        super().__init__()
        self.network, self.link = network, link

    def forward(
        self, numeric: Tensor | None = None, category: Tensor | None = None, image: Tensor | None = None
    ) -> Tensor:
        given = {"numeric": numeric, "category": category, "image": image}
        outputs = self.network(**{name: value for name, value in given.items() if value is not None})
        return self.link(outputs)  # type: ignore[no-any-return]


class CNN(nn.Module):
    """Small images: convolutions in pairs, halving the size after each pair, then a linear layer on the mean; beside
    numbers and categories, a network as for tables on all of them."""

    def __init__(
        self,
        *,
        numeric: int,
        categories: tuple[int, ...],
        image: tuple[int, ...],
        outputs: int,
        channels: int = 32,
        stages: int = 2,
        dropout: float = 0.1,
        hidden: int = 128,
    ) -> None:
        super().__init__()
        if not image:
            raise SpecError("Network 'cnn' needs images; list a column under features.images, or use mlp")
        body: list[nn.Module] = []
        width = image[0]
        for stage in range(stages):
            size = channels * 2**stage
            for _ in range(2):
                body += [nn.Conv2d(width, size, 3, padding=1), nn.BatchNorm2d(size), nn.ReLU()]
                width = size
            if stage < stages - 1 and min(image[1:]) >= 4 * 2**stage:
                body.append(nn.MaxPool2d(2))
        self.body = nn.Sequential(*body)
        self.head: nn.Module
        self.joins = bool(numeric or categories)
        if self.joins:
            self.head = MLP(
                numeric=width + numeric, categories=categories, image=(), outputs=outputs, hidden=hidden,
                dropout=dropout,
            )  # fmt: skip
        else:
            self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, outputs))

    def forward(self, image: Tensor, numeric: Tensor | None = None, category: Tensor | None = None) -> Tensor:
        seen = self.body(image).mean(dim=(2, 3))  # (rows, width)
        if not self.joins:
            return self.head(seen)  # type: ignore[no-any-return]
        joined = seen if numeric is None else torch.cat([seen, numeric], dim=1)
        return self.head(joined, category)  # type: ignore[no-any-return]


_GIVEN = ("numeric", "categories", "image", "outputs")
NETWORKS: dict[str, type[nn.Module]] = {"cnn": CNN, "mlp": MLP}


def build_network(
    name: str,
    options: dict[str, Any],
    *,
    numeric: int,
    categories: tuple[int, ...],
    image: tuple[int, ...],
    outputs: int,
) -> nn.Module:
    """The network of a spec. An own class, `module.path:Class`, takes the same four keyword arguments
    and its options.

    Raises SpecError for an unknown name or option.
    """
    kind = find_network(name)
    check_options(name, options)
    return kind(numeric=numeric, categories=categories, image=image, outputs=outputs, **options)


def find_network(name: str) -> type[nn.Module]:
    """The class of that name. Raises SpecError if there is none, or it is not a torch module."""
    if ":" not in name:
        if name not in NETWORKS:
            raise SpecError(
                "network.name: " + unknown_name("network", name, NETWORKS) + ", or module.path:Class"
            )
        return NETWORKS[name]
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # of the user's own module
        raise SpecError(f"network.name: cannot import {name!r}: {type(error).__name__}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise SpecError(f"network.name: {name!r} is not a subclass of torch.nn.Module")
    return found


def check_options(name: str, options: dict[str, Any], *, imports: bool = True) -> None:
    """Raises SpecError for an option that the network's constructor does not accept. A user's own class is only
    examined if `imports` allows running its module."""
    if ":" in name and not imports:
        return
    parameters = inspect.signature(find_network(name)).parameters
    known = [key for key in parameters if key not in _GIVEN]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for key in options:
        if key not in known:
            raise SpecError("network.options: " + unknown_name(f"option of {name!r}:", key, known))


def is_whole(name: str, option: str) -> bool:
    """Whether an option of a network of ours is an integer; False of a class of the user's own."""
    if name not in NETWORKS:
        return False
    parameter = inspect.signature(NETWORKS[name]).parameters.get(option)
    return parameter is not None and type(parameter.default) is int


def options_of(name: str) -> tuple[str, ...]:
    """The options that the constructor of a network of ours takes; none for a class of the user's own."""
    if ":" in name:
        return ()
    parameters = inspect.signature(NETWORKS[name]).parameters
    return tuple(key for key in parameters if key not in _GIVEN) if name in NETWORKS else ()
