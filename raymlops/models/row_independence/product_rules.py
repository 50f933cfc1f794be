"""Rules for operators that multiply: matrices, convolutions, recurrent networks, attention, models on tables."""

from raymlops.models.row_independence.abstract_values import (
    CoupledError,
    Node,
    Outputs,
    Rule,
    Value,
    broadcast,
    keep_axis,
    only_rows,
    per_row,
    require_single,
    rows_on,
    same_shape,
)
from raymlops.models.row_independence.symbolic_dims import ROWS, Dim, same


def _matrix(node: Node, first: int = 0, second: int = 1) -> Value:
    """The product of two of its inputs, as numpy.matmul; at most one of their axes may carry rows, or a shared batch
    axis."""
    a, b = node.tensor(first), node.tensor(second)
    shape = node.shape()
    if a.axis is not None and a.rank >= 2 and a.axis == a.rank - 2:
        if b.axis is not None:
            raise CoupledError("both factors differ between rows")
        return rows_on(shape, len(shape) - (2 if b.rank >= 2 else 1), per_row(a))
    if b.axis is not None and b.rank >= 2 and b.axis == b.rank - 1:
        if a.axis is not None:
            raise CoupledError("both factors differ between rows")
        return rows_on(shape, len(shape) - 1, per_row(b))
    if (a.axis is not None and a.axis == a.rank - 1) or (b.axis is not None and b.axis == max(0, b.rank - 2)):
        raise CoupledError("it sums over the rows")
    batch = [
        Value(value.shape[:-2], value.axis, None)
        for value in (a, b)
        if value.rank > 2 or value.axis is not None
    ]
    _, axis, each = broadcast(batch)
    if axis is None:
        raise CoupledError("the axis of the rows is not known")
    return rows_on(shape, axis, each)


def matmul(node: Node) -> Outputs:
    return [_matrix(node)]


def matmul_integer(node: Node) -> Outputs:
    for place in (2, 3):
        require_single(node.constant(place))
    return [_matrix(node)]


def qlinear_matmul(node: Node) -> Outputs:
    for place in (1, 2, 4, 5, 6, 7):
        constant = node.constant(place)
        if place not in (4, 5):  # the second factor may have one scale per column
            require_single(constant)
    if node.tensor(3).axis is not None:
        raise CoupledError("its second factor differs between rows")
    return [_matrix(node, 0, 3)]


def fused_matmul(node: Node) -> Outputs:
    if any(node.attribute(name, 0) for name in ("transA", "transB", "transBatchA", "transBatchB")):
        raise CoupledError("it transposes its factors")
    return [_matrix(node)]


def matmul_by_blocks(node: Node) -> Outputs:
    """A product with packed weights: rows on any axis but the last."""
    value = only_rows(node)
    if value.axis == value.rank - 1:
        raise CoupledError("it sums over the rows")
    assert value.axis is not None
    width = node.attribute("N", 0) or node.make_unknown()
    return [rows_on([*value.shape[:-1], width], value.axis, per_row(value))]


def gemm(node: Node) -> Outputs:
    a, b = node.tensor(0), node.tensor(1)
    if a.rank != 2 or b.rank != 2:
        raise CoupledError("its factors are no matrices")
    on_a = None if a.axis is None else a.axis ^ bool(node.attribute("transA", 0))
    on_b = None if b.axis is None else b.axis ^ bool(node.attribute("transB", 0))
    if on_a == 1 or on_b == 0:
        raise CoupledError("it sums over the rows")
    if (on_a is None) == (on_b is None):
        raise CoupledError("both factors differ between rows")
    axis, each = (0, per_row(a)) if on_a is not None else (1, per_row(b))
    product = rows_on(node.shape(), axis, each)
    if node.has(2):
        broadcast([product, node.tensor(2)])
        if node.tensor(2).rank > 2:
            raise CoupledError("its addend is no matrix")
    return [product]


def einsum(node: Node) -> Outputs:
    equation = node.attribute("equation", b"")
    text = (equation.decode() if isinstance(equation, bytes) else str(equation)).replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if "." in text or not arrow or len(terms) != len(node):
        raise CoupledError("its equation has no output or an ellipsis")
    values = [node.tensor(place) for place in range(len(node))]
    label = ""
    each: Dim = 1
    for value, term in zip(values, terms, strict=True):
        if value.rank != len(term):
            raise CoupledError("its equation does not fit its inputs")
        if value.axis is not None:
            found = term[value.axis]
            if term.count(found) > 1 or (label and (label != found or not same(per_row(value), each))):
                raise CoupledError("its inputs have their rows under different letters")
            label, each = found, per_row(value)
    for value, term in zip(values, terms, strict=True):
        if value.axis is None and label in term:
            raise CoupledError("an input has a value for each place in the batch")
    if right.count(label) != 1:
        raise CoupledError("it sums over the rows")
    return [rows_on(node.shape(), right.index(label), each)]


def batch_first(node: Node) -> Outputs:
    """By definition its first axis is the batch, and the other inputs are weights."""
    value = only_rows(node, axis=0)
    if value.rank < 2:
        raise CoupledError("its input has no axis but that of the rows")
    return [keep_axis(node, value, output) for output in range(len(node.inferred))]


def batch_first_keeping_shape(node: Node) -> Outputs:
    value = only_rows(node, axis=0)
    if value.rank < 2:
        raise CoupledError("its input has no axis but that of the rows")
    return [same_shape(value)]


def max_pool(node: Node) -> Outputs:
    if len(node.inferred) > 1:
        raise CoupledError("its second output counts places through the whole batch")
    return batch_first(node)


def conv(node: Node) -> Outputs:
    return batch_first(node)


def qlinear_conv(node: Node) -> Outputs:
    for place in (1, 2, 6, 7):
        require_single(node.constant(place))
    return batch_first(node)


def conv_integer(node: Node) -> Outputs:
    require_single(node.constant(2))
    return batch_first(node)


def recurrent(node: Node) -> Outputs:
    layout = int(node.attribute("layout", 0))
    state = 0 if layout else 1
    value = node.tensor(0)
    if value.axis != (0 if layout else 1) or not same(per_row(value), 1):
        raise CoupledError("the rows are not on the axis of the batch")
    node.constants(1, 2, 3, 7)
    for place, axis in ((4, 0), (5, state), (6, state)):  # lengths, first hidden state, first cell state
        if node.has(place):
            given = node.tensor(place)
            if given.axis != axis or not same(per_row(given), 1):
                raise CoupledError("a state or length is not given for each row")
    outputs = []
    for output in range(len(node.inferred)):
        axis = (0 if layout else 2) if output == 0 else state
        outputs.append(rows_on(node.shape(output), axis))
    return outputs


def with_rows_of(*places: int) -> Rule:
    """These inputs all have their rows on axis 0, and so has the output; the other inputs are constants."""

    def rule(node: Node) -> Outputs:
        first = node.tensor(places[0])
        for place in range(len(node)):
            if place not in places:
                node.constant(place)
                continue
            if not node.has(place):
                continue
            value = node.tensor(place)
            if value.axis != 0 or not same(per_row(value), per_row(first)):
                raise CoupledError("not all of its inputs have the rows on their first axis")
        return [keep_axis(node, first, output) for output in range(len(node.inferred))]

    return rule


def attention(node: Node) -> Outputs:
    query = node.tensor(0)
    for place in range(len(node)):
        if not node.has(place):
            continue
        value = node.tensor(place)
        if place == 3 and value.axis is None:  # a mask that is the same for all
            if value.rank == 4 and not same(value.size(0), 1):
                raise CoupledError("its mask has a value for each place in the batch")
            continue
        if value.axis != 0 or not same(per_row(value), 1) or (place == 3 and value.rank != 4):
            raise CoupledError("not all of its inputs have the rows on their first axis")
    return [keep_axis(node, query, output) for output in range(len(node.inferred))]


def tfidf(node: Node) -> Outputs:
    value = only_rows(node, axis=0)
    if value.rank != 2:
        raise CoupledError("its input is one row")
    return [rows_on(node.shape(), 0, per_row(value))]


def table_first(node: Node) -> Outputs:
    """Takes a table (rows, features)."""
    value = only_rows(node, axis=0)
    if value.rank != 2:
        raise CoupledError("its input is no table of rows and features")
    shapes = [node.inferred[output] for output in range(len(node.inferred))]
    outputs = []
    for output, shape in enumerate(shapes):
        # The labels of a classifier are a vector; for the rest a missing shape is that of scores.
        is_labels = node.operator.endswith("Classifier") and output == 0
        fallback: tuple[Dim, ...] = (ROWS,) if is_labels else (ROWS, node.make_unknown())
        outputs.append(rows_on(shape or fallback, 0, per_row(value)))
    return outputs
