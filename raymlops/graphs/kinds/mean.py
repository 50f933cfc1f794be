"""The mean of tensors, element by element."""

from collections.abc import Callable, Mapping, Sequence

from raymlops.graphs.node_kind import Combination, require_equal_shapes
from raymlops.graphs.plan import Port, Read
from raymlops.graphs.port_types import join_numbers
from raymlops.specs.graph_nodes import MeanNode
from raymlops.tensors import Array


class Mean(Combination[MeanNode]):
    spec = MeanNode
    rows_independent = True

    def outputs(
        self, node: MeanNode, reads: Sequence[Read], answers: Mapping[str, tuple[Port, ...]]
    ) -> tuple[Port, ...]:
        return (join_numbers(reads),)

    def combine(self, node: MeanNode) -> Callable[[Sequence[Array]], Array]:
        return mean


def mean(arrays: Sequence[Array]) -> Array:
    require_equal_shapes(arrays)
    total: Array = arrays[0].copy()
    for array in arrays[1:]:
        total += array
    total /= len(arrays)
    return total
