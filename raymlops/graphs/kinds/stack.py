"""Concatenates tensors, as input of a further model."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from raymlops.errors import InputError, SpecError
from raymlops.graphs.node_kind import Combination
from raymlops.graphs.plan import Port, Read
from raymlops.graphs.port_types import join_shapes
from raymlops.specs.graph_nodes import StackNode
from raymlops.tensors import Array, TensorSpec


class Stack(Combination[StackNode]):
    spec = StackNode
    rows_independent = True

    def outputs(
        self, node: StackNode, reads: Sequence[Read], answers: Mapping[str, tuple[Port, ...]]
    ) -> tuple[Port, ...]:
        """Sizes along the axis add up; tensors of one value per row count as one column."""
        shapes = [
            (*port.spec.shape, 1) if len(port.spec.shape) == 1 else port.spec.shape for _, port in reads
        ]
        first = reads[0][1].spec
        axis = node.axis if node.axis > 0 else len(shapes[0]) + node.axis
        if not 0 < axis < len(shapes[0]):
            raise SpecError(f"axis {node.axis} is not a dimension after the rows of {first}")
        total, rest = 0, (*shapes[0][:axis], -1, *shapes[0][axis + 1 :])
        for (reference, port), shape in zip(reads, shapes, strict=True):
            free = (*shape[:axis], -1, *shape[axis + 1 :])
            joined = join_shapes(rest, free) if len(shape) == len(rest) else None
            if port.ragged or joined is None or port.spec.datatype != first.datatype:
                raise SpecError(
                    f"cannot stack {reference} ({port}) with {reads[0][0]} ({first}) along axis {axis}"
                )
            rest = joined
            total = -1 if -1 in (total, shape[axis]) else total + shape[axis]
        return (Port(TensorSpec(node.name, first.datatype, (*rest[:axis], total, *rest[axis + 1 :]))),)

    def combine(self, node: StackNode) -> Callable[[Sequence[Array]], Array]:
        axis = node.axis
        return lambda arrays: stack(arrays, axis)


def stack(arrays: Sequence[Array], axis: int) -> Array:
    """Concatenated along an axis; arrays of one value per row count as one column."""
    parts = [array[:, None] if array.ndim == 1 else array for array in arrays]
    try:
        return np.concatenate(parts, axis=axis)
    except ValueError as error:  # free sizes come from the request
        shapes = " and ".join(str(list(part.shape)) for part in parts)
        raise InputError(f"it cannot stack tensors of the shapes {shapes} along axis {axis}") from error
