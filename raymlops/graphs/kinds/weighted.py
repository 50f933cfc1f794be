"""The weighted mean of tensors, element by element."""

import math
from collections.abc import Callable, Mapping, Sequence

from raymlops.graphs.node_kind import Combination, require_equal_shapes
from raymlops.graphs.plan import Port, Read
from raymlops.graphs.port_types import join_numbers
from raymlops.specs.graph_nodes import WeightedNode
from raymlops.tensors import Array


class Weighted(Combination[WeightedNode]):
    spec = WeightedNode
    rows_independent = True

    def outputs(
        self, node: WeightedNode, reads: Sequence[Read], answers: Mapping[str, tuple[Port, ...]]
    ) -> tuple[Port, ...]:
        return (join_numbers(reads),)

    def combine(self, node: WeightedNode) -> Callable[[Sequence[Array]], Array]:
        weights = list(node.of.values())
        return lambda arrays: weighted_mean(arrays, weights)

    def describe(self, node: WeightedNode) -> str:
        return ", ".join(f"{weight:g}" for weight in node.of.values())


def weighted_mean(arrays: Sequence[Array], weights: Sequence[float]) -> Array:
    """Weighted average; the weights need not sum to 1."""
    require_equal_shapes(arrays)
    whole = math.fsum(weights)
    dtype = arrays[0].dtype.type
    total: Array = arrays[0] * dtype(weights[0] / whole)
    for array, weight in zip(arrays[1:], weights[1:], strict=True):
        total += array * dtype(weight / whole)
    return total
