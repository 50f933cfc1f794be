"""The label that most models give, element by element."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from raymlops.errors import SpecError
from raymlops.graphs.node_kind import Combination, require_equal_shapes
from raymlops.graphs.plan import Port, Read
from raymlops.graphs.port_types import FLOATS, join_ports
from raymlops.specs.graph_nodes import VoteNode
from raymlops.tensors import Array


class Vote(Combination[VoteNode]):
    spec = VoteNode
    rows_independent = True

    def outputs(
        self, node: VoteNode, reads: Sequence[Read], answers: Mapping[str, tuple[Port, ...]]
    ) -> tuple[Port, ...]:
        port = join_ports(reads)
        if port.spec.datatype in FLOATS:
            raise SpecError(
                f"cannot vote on {port.spec}; expected labels: whole numbers, BOOL or BYTES (mean takes these)"
            )
        return (port,)

    def combine(self, node: VoteNode) -> Callable[[Sequence[Array]], Array]:
        return vote


def vote(arrays: Sequence[Array]) -> Array:
    """The most frequent label of the arrays, element by element; in a tie that of the earliest array."""
    require_equal_shapes(arrays)
    votes = np.zeros((len(arrays), *arrays[0].shape), dtype=np.int32)
    for i, first in enumerate(arrays):
        for j, second in enumerate(arrays[: i + 1]):
            equal = first == second
            votes[i] += equal
            if j != i:
                votes[j] += equal
    winner = votes.argmax(axis=0)
    chosen = arrays[0].copy()
    for i, array in enumerate(arrays):
        chosen[winner == i] = array[winner == i]
    return chosen
