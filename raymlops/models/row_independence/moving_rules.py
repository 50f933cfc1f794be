"""Rules for operators that move elements: gather, reshape, slice, concatenate, tile, resize."""

from collections.abc import Sequence
from typing import Any

from raymlops.models.row_independence.abstract_values import (
    CoupledError,
    Node,
    Outputs,
    Value,
    broadcast_sizes,
    keep_axis,
    normalise,
    only_rows,
    per_row,
    rows_on,
    same_shape,
)
from raymlops.models.row_independence.symbolic_dims import (
    ROWS,
    Dim,
    UndecidedError,
    counts_rows,
    divide,
    multiply,
    same,
)


def gather(node: Node) -> Outputs:
    data, indices = node.tensor(0), node.tensor(1)
    axis = node.axis(data.rank)
    dims = (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])
    if data.axis is None:
        if indices.axis is None:
            raise CoupledError("the axis of the rows is not known")
        indices.rank  # noqa: B018 - raises where it is unknown
        return [rows_on(dims, axis + indices.axis, per_row(indices))]
    if indices.axis is not None:
        raise CoupledError("both its data and its indices differ between rows")
    if data.axis == axis:
        raise CoupledError("it picks among the rows")
    moved = data.axis if data.axis < axis else data.axis - 1 + indices.rank
    return [rows_on(dims, moved, per_row(data))]


def gather_elements(node: Node) -> Outputs:
    data, indices = node.tensor(0), node.tensor(1)
    axis = node.axis(data.rank)
    if indices.axis is None:
        raise CoupledError("its indices are the same for all rows, by their place")
    if data.axis is None:
        if axis != indices.axis:
            raise CoupledError("it reads its data by the place in the batch")
        return [same_shape(indices)]
    if data.axis != indices.axis or axis == data.axis or not same(per_row(data), per_row(indices)):
        raise CoupledError("it picks among the rows")
    return [same_shape(indices)]


def gather_nd(node: Node) -> Outputs:
    data, indices = node.tensor(0), node.tensor(1)
    batch = int(node.attribute("batch_dims", 0))
    if indices.axis is None or indices.axis >= indices.rank - 1:
        raise CoupledError("its indices are not those of the rows")
    if data.axis is None and batch > indices.axis:
        raise CoupledError("it reads its data by the place in the batch")
    if data.axis is not None and (
        data.axis != indices.axis or data.axis >= batch or not same(per_row(data), per_row(indices))
    ):
        raise CoupledError("it picks among the rows")
    return [rows_on(node.shape(), indices.axis, per_row(indices))]


def scatter_elements(node: Node) -> Outputs:
    data, indices, updates = (node.tensor(place) for place in range(3))
    axis = node.axis(data.rank)
    if data.axis is None or data.axis == axis:
        raise CoupledError("it writes among the rows")
    for value in (indices, updates):
        if value.axis != data.axis or not same(per_row(value), per_row(data)):
            raise CoupledError("its indices and updates are not those of the rows")
    return [same_shape(data)]


def reshape_rows(value: Value, shape: Sequence[Dim]) -> Value:
    """Rows in row-major order stay separate if the product of the sizes before them is unchanged."""
    if value.axis is None:
        raise CoupledError("the axis of the rows is not known")
    before = multiply(value.shape[: value.axis])
    for axis, size in enumerate(shape):
        if counts_rows(size):
            if not same(multiply(shape[:axis]), before):
                raise CoupledError("it mixes the axis of the rows with another")
            return rows_on(shape, axis, divide(size, ROWS))
    raise CoupledError("it puts the rows on an axis of fixed size")


def reshape(node: Node) -> Outputs:
    value = node.tensor(0)
    wanted = node.numbers(1) if node.has(1) else list(node.attribute("shape", ()))
    shape: list[Dim] = []
    free = None
    for place, size in enumerate(wanted):
        if not counts_rows(size) and isinstance(size, int) and size == -1:
            free, size = place, 1
        elif isinstance(size, int) and size == 0 and not node.attribute("allowzero", 0):
            if place >= value.rank:
                raise CoupledError("it copies a size that its input does not have")
            size = value.size(place)
        shape.append(size)
    if free is not None:
        shape[free] = divide(multiply(value.shape), multiply(shape))
    return [reshape_rows(value, shape)]


def flatten(node: Node) -> Outputs:
    value = node.tensor(0)
    axis = int(node.attribute("axis", 1))
    axis = axis if axis == value.rank else normalise(axis, value.rank)
    dims = value.shape
    return [reshape_rows(value, (multiply(dims[:axis]), multiply(dims[axis:])))]


def squeeze(node: Node) -> Outputs:
    value = node.tensor(0)
    axes = node.numbers(1) if node.has(1) else list(node.attribute("axes") or ())
    if not axes or value.axis is None:
        raise CoupledError("it drops the axis of the rows where there is one row")
    gone = {normalise(int(axis), value.rank) for axis in axes}
    if value.axis in gone:
        raise CoupledError("it drops the axis of the rows")
    dims = [size for place, size in enumerate(value.shape) if place not in gone]
    return [rows_on(dims, value.axis - sum(axis < value.axis for axis in gone), per_row(value))]


def unsqueeze(node: Node) -> Outputs:
    value = node.tensor(0)
    axes = node.numbers(1) if node.has(1) else list(node.attribute("axes") or ())
    rank = value.rank + len(axes)
    new = {normalise(int(axis), rank) for axis in axes}
    if len(new) != len(axes) or value.axis is None:
        raise CoupledError("its axes are not known")
    old = iter(value.shape)
    dims = [1 if place in new else next(old) for place in range(rank)]
    axis = [place for place in range(rank) if place not in new][value.axis]
    return [rows_on(dims, axis, per_row(value))]


def transpose(node: Node) -> Outputs:
    value = node.tensor(0)
    order = list(node.attribute("perm") or reversed(range(value.rank)))
    if sorted(order) != list(range(value.rank)) or value.axis is None:
        raise CoupledError("its order of axes is not known")
    return [rows_on([value.size(place) for place in order], order.index(value.axis), per_row(value))]


def expand(node: Node) -> Outputs:
    value = node.tensor(0)
    wanted = node.numbers(1)
    target = Value(tuple(wanted))
    rank = max(value.rank, len(wanted))
    counting = [place for place, size in enumerate(wanted) if counts_rows(size)]
    dims = broadcast_sizes([value, target], rank)
    if value.axis is None:
        if len(counting) != 1:
            raise CoupledError("two of its axes change with the number of rows")
        right = len(wanted) - counting[0]
        if value.rank >= right and not same(value.size(value.rank - right), 1):
            raise CoupledError("it repeats a value for each place in the batch")
        return [rows_on(dims, rank - right, divide(wanted[counting[0]], ROWS))]
    right = value.rank - value.axis
    for place, size in enumerate(wanted):
        here = len(wanted) - place == right
        if here and not (same(size, 1) or same(size, value.size(value.axis))):
            raise CoupledError("it repeats the rows")
        if not here and counts_rows(size):
            raise CoupledError("two of its axes change with the number of rows")
    return [rows_on(dims, rank - right, per_row(value))]


def tile(node: Node) -> Outputs:
    value = node.tensor(0)
    repeats = node.numbers(1)
    if len(repeats) != value.rank:
        raise CoupledError("its repeats are not known")
    dims = [multiply([size, times]) for size, times in zip(value.shape, repeats, strict=True)]
    if value.axis is None:
        counting = [place for place, times in enumerate(repeats) if counts_rows(times)]
        if len(counting) != 1:
            raise CoupledError("two of its axes change with the number of rows")
        return [rows_on(dims, counting[0], divide(dims[counting[0]], ROWS))]
    if not same(repeats[value.axis], 1):
        raise CoupledError("it repeats the rows")
    return [rows_on(dims, value.axis, per_row(value))]


def constant_of_shape(node: Node) -> Outputs:
    shape = node.numbers(0)
    counting = [place for place, size in enumerate(shape) if counts_rows(size)]
    if len(counting) != 1:
        raise CoupledError("two of its axes change with the number of rows")
    return [rows_on(shape, counting[0], divide(shape[counting[0]], ROWS))]


def concat(node: Node) -> Outputs:
    values = [node.tensor(place) for place in range(len(node))]
    first = values[0]
    axis = node.axis(first.rank, default=1)
    if any(value.axis != first.axis or value.axis is None for value in values):
        raise CoupledError("not all that it joins carries the rows on the same axis")
    if any(not same(per_row(value), per_row(first)) or value.rank != first.rank for value in values):
        raise CoupledError("not all that it joins has as many places for each row")
    if axis == first.axis:
        raise CoupledError("it joins along the axis of the rows")
    dims = list(first.shape)
    try:
        dims[axis] = sum((value.size(axis) for value in values[1:]), values[0].size(axis))
    except UndecidedError:
        raise CoupledError("its sizes are not known") from None
    assert first.axis is not None
    return [rows_on(dims, first.axis, per_row(first))]


def split(node: Node) -> Outputs:
    value = node.tensor(0)
    if node.has(1):
        node.constant(1)
    if value.axis is None or value.axis == node.axis(value.rank):
        raise CoupledError("it splits the axis of the rows")
    return [keep_axis(node, value, output) for output in range(len(node.inferred))]


def slice_axes(node: Node) -> Outputs:
    value = node.tensor(0)
    if value.axis is None:
        raise CoupledError("where it cuts differs between rows")
    if node.opset < 10:
        starts, ends = list(node.attribute("starts")), list(node.attribute("ends"))
        axes, steps = list(node.attribute("axes") or range(len(starts))), [1] * len(starts)
    else:
        if node.has(3):
            axes = [int(axis) for axis in node.numbers(3)]
        else:
            length = node.tensor(1).size(0)
            if not isinstance(length, int) or length < 0:
                raise CoupledError("its axes are not known")
            axes = list(range(length))
        for place in (1, 2, 4):
            if node.has(place) and not node.inputs[place].known is not None:  # type: ignore[union-attr]
                node.constant(place)
        starts, ends, steps = (
            _numbers_or_unknown(node, place, len(axes), missing)
            for place, missing in ((1, 0), (2, 0), (4, 1))
        )
    known = node.inferred[0] if node.inferred else None
    dims: list[Dim] = list(known or value.shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        place = normalise(axis, value.rank)
        if place != value.axis:
            if counts_rows(start) or counts_rows(end):
                raise CoupledError("it cuts another axis by the number of rows")
            if known is None:
                dims[place] = node.make_unknown()
            continue
        whole = end is not None and (
            same(end, value.size(place)) or (isinstance(end, int) and end >= 2**31 - 1)
        )
        if not (whole and step == 1 and isinstance(start, int) and start == 0):
            raise CoupledError("it cuts the axis of the rows")
    return [rows_on(dims, value.axis, per_row(value))]


def _numbers_or_unknown(node: Node, place: int, length: int, missing: int) -> list[Any]:
    if not node.has(place):
        return [missing] * length
    value = node.inputs[place]
    assert value is not None
    if value.known is None:
        return [None] * length
    if value.known.size != length:
        raise CoupledError("its axes are not known")
    return list(value.known.flat)


def pad(node: Node) -> Outputs:
    value = node.tensor(0)
    node.constants(*range(2, len(node)))
    pads = node.numbers(1) if node.has(1) else list(node.attribute("pads", ()))
    axes = [int(axis) for axis in node.numbers(3)] if node.has(3) else list(range(value.rank))
    if len(pads) != 2 * len(axes) or value.axis is None:
        raise CoupledError("how much it pads is not known")
    for number, axis in enumerate(axes):
        if normalise(axis, value.rank) == value.axis and not (
            same(pads[number], 0) and same(pads[number + len(axes)], 0)
        ):
            raise CoupledError("it pads the axis of the rows")
    return [keep_axis(node, value)]


def one_hot(node: Node) -> Outputs:
    indices = only_rows(node)
    axis = normalise(int(node.attribute("axis", -1)), indices.rank + 1)
    assert indices.axis is not None
    return [rows_on(node.shape(), indices.axis + (axis <= indices.axis), per_row(indices))]


def along_axis(node: Node) -> Outputs:
    """Works along one axis, an attribute; each place of the other axes is independent."""
    value = only_rows(node)
    if value.axis == node.axis(value.rank, default=-1):
        raise CoupledError("it works along the axis of the rows")
    return [keep_axis(node, value, output) for output in range(len(node.inferred))]


def cumulative(node: Node) -> Outputs:
    value = only_rows(node)
    if value.axis == normalise(int(node.numbers(1)[0]), value.rank):
        raise CoupledError("it works along the axis of the rows")
    return [same_shape(value)]


def on_last_two(node: Node) -> Outputs:
    """Takes the last two axes as a matrix."""
    value = only_rows(node)
    assert value.axis is not None
    if value.axis >= value.rank - 2:
        raise CoupledError("it takes the rows as part of a matrix")
    return [keep_axis(node, value)]


_RESIZING = (b"half_pixel", b"half_pixel_symmetric", b"pytorch_half_pixel", b"align_corners", b"asymmetric")
"""How places of the output map to those of the input; with these, an axis of scale 1 is unchanged."""


def resize(node: Node) -> Outputs:
    value = node.tensor(0)
    if value.axis is None:
        raise CoupledError("its sizes differ between rows")
    mode = node.attribute("coordinate_transformation_mode", b"half_pixel")
    policy = node.attribute("keep_aspect_ratio_policy", b"stretch")
    if mode not in _RESIZING or policy != b"stretch":
        raise CoupledError("how it reads the rows is not known to keep them apart")
    for place in range(1, len(node)):
        if node.has(place) and node.inputs[place].known is None:  # type: ignore[union-attr]
            node.constant(place)
    places = {"Upsample": (1, None), "Resize": (1, None) if node.opset < 11 else (2, 3)}[node.operator]
    axes = list(node.attribute("axes") or range(value.rank))
    if value.axis in {normalise(axis, value.rank) for axis in axes}:
        index = [normalise(axis, value.rank) for axis in axes].index(value.axis)
        if places[1] is not None and node.has(places[1]):
            if not same(node.numbers(places[1])[index], value.size(value.axis)):
                raise CoupledError("it changes the number of rows")
        else:
            scales = node.numbers(places[0]) if node.has(places[0]) else list(node.attribute("scales", ()))
            if index >= len(scales) or float(scales[index]) != 1.0:
                raise CoupledError("it changes the number of rows")
    return [keep_axis(node, value)]


def affine_grid(node: Node) -> Outputs:
    theta, size = node.tensor(0), node.numbers(1)
    if theta.axis != 0 or not same(size[0], theta.size(0)) or any(counts_rows(other) for other in size[1:]):
        raise CoupledError("its size is not that of the rows")
    return [keep_axis(node, theta)]


def reverse_sequence(node: Node) -> Outputs:
    value, lengths = node.tensor(0), node.tensor(1)
    batch = int(node.attribute("batch_axis", 1))
    if value.axis != batch or lengths.axis != 0 or not same(per_row(value), per_row(lengths)):
        raise CoupledError("the rows are not on the axis of the batch")
    return [same_shape(value)]


def feature_extractor(node: Node) -> Outputs:
    value = only_rows(node)
    if value.rank < 2 or value.axis == value.rank - 1:
        raise CoupledError("it picks among the rows")
    assert value.axis is not None
    picked = multiply(node.tensor(1).shape)
    return [rows_on([*value.shape[:-1], picked], value.axis, per_row(value))]


def feature_vector(node: Node) -> Outputs:
    values = [node.tensor(place) for place in range(len(node))]
    if any(value.axis != 0 or value.rank != 2 or not same(per_row(value), 1) for value in values):
        raise CoupledError("not all that it joins is a table of rows and features")
    try:
        width = sum((value.size(1) for value in values[1:]), values[0].size(1))
    except UndecidedError:
        raise CoupledError("its sizes are not known") from None
    return [rows_on((ROWS, width), 0)]


def one_hot_encoder(node: Node) -> Outputs:
    value = only_rows(node)
    width = len(node.attribute("cats_int64s") or node.attribute("cats_strings") or ())
    assert value.axis is not None
    return [rows_on([*value.shape, width], value.axis, per_row(value))]
