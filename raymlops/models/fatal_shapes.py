"""Operators with which the shapes of one request could crash the process that runs a model, and what is checked
before.

ONNX Runtime 1.31 crashes, or never ends the run, if some operators get an axis of length 0 or a tensor with fewer
axes than they index (`tests/survival/test_hostile_shapes.py`). The declared shapes of the graph's inputs prove most
tensors safe. The size of an input's own axis is checked before a run; sizes known only during the run are checked by
nodes before the operator, whose error is the caller's: 400.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import onnx
import onnx.shape_inference
from onnx import helper

from raymlops.models.guard_nodes import Maker, Names
from raymlops.models.optional_inputs import list_optional
from raymlops.models.value_flow import LARGEST_CONSTANT, ONNX_DOMAINS, Visit, bodies_of, list_nodes

Shape = tuple[int | str | None, ...]
"""Each axis: its size, the name of a free size of the graph's inputs, or None if unknown."""
_INT64 = onnx.TensorProto.INT64


@dataclasses.dataclass(frozen=True)
class Check:
    """Requirements on the input at `place`. `rank` is its exact number of axes, `least` the minimum; from axis
    `filled` on, no axis may have length 0. `alike` are inputs that all have the same number of axes."""

    place: int
    rank: int | None = None
    least: int = 0
    filled: int | None = None
    alike: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Guarded:
    """The nodes that replace a node; none if it is safe as it is."""

    nodes: tuple[onnx.NodeProto, ...] = ()
    sizes: frozenset[str] = frozenset()
    """Names of free sizes of the graph's inputs that must not be 0."""
    refused: str = ""


def _read(node: onnx.NodeProto, name: str, otherwise: int) -> int:
    return int(next((attribute.i for attribute in node.attribute if attribute.name == name), otherwise))


def _check_einsum(node: onnx.NodeProto) -> Iterator[Check]:
    equation = next((a.s.decode() for a in node.attribute if a.name == "equation"), "")
    for place, term in enumerate(equation.replace(" ", "").partition("->")[0].split(",")):
        letters = len(term.replace("...", ""))
        exact = None if "..." in term else letters
        yield Check(place, rank=exact, least=letters, filled=0)


def _check_concat(node: onnx.NodeProto) -> Iterator[Check]:
    alike = tuple(range(len(node.input)))
    return (Check(place, alike=alike) for place in alike)


def _check_quantised_concat(node: onnx.NodeProto) -> Iterator[Check]:
    alike = tuple(range(2, len(node.input), 3))
    return (Check(place, alike=alike) for place in alike)


def _check_unique(node: onnx.NodeProto) -> Iterator[Check]:
    if any(attribute.name == "axis" for attribute in node.attribute):
        yield Check(0, filled=0)


def _check_quantised(node: onnx.NodeProto) -> Iterator[Check]:
    if _read(node, "block_size", 0):
        yield Check(0, filled=0)
        yield Check(1, filled=0)


def _always(*checks: Check) -> Callable[[onnx.NodeProto], Iterator[Check]]:
    return lambda node: iter(checks)


def _check_attention(node: onnx.NodeProto) -> Iterator[Check]:
    """Three axes can be split into heads only if an attribute gives their number."""
    split = _read(node, "q_num_heads", 0) > 0 and _read(node, "kv_num_heads", 0) > 0
    for place in (0, 1, 2):
        yield Check(place, rank=None if split else 4, filled=0)
    yield Check(4, rank=4)
    yield Check(5, rank=4)


_RECURRENT = _always(Check(0, rank=3, filled=0), Check(1, rank=3, filled=0), Check(2, rank=3, filled=0))
_CONVOLUTION = _always(Check(0, least=3), Check(1, least=3, filled=1))
_HEADS = tuple(Check(place, filled=0) for place in (0, 1, 2))
_CHECKS: Mapping[tuple[str, str], Callable[[onnx.NodeProto], Iterator[Check]]] = {
    ("", "Attention"): _check_attention,
    ("", "Concat"): _check_concat,
    ("", "Conv"): _CONVOLUTION,
    ("", "ConvInteger"): _CONVOLUTION,
    ("", "ConvTranspose"): _always(Check(0, least=3, filled=2), Check(1, least=3, filled=1)),
    ("", "DequantizeLinear"): _check_quantised,
    ("", "Einsum"): _check_einsum,
    ("", "GRU"): _RECURRENT,
    ("", "Loop"): _always(Check(0, filled=0), Check(1, filled=0)),
    ("", "LSTM"): _RECURRENT,
    ("", "QLinearConv"): _always(Check(0, least=3), Check(3, least=3, filled=1)),
    ("", "QuantizeLinear"): _check_quantised,
    ("", "RNN"): _RECURRENT,
    ("", "ReverseSequence"): _always(Check(0, least=2), Check(1, rank=1)),
    ("", "RoiAlign"): _always(Check(0, rank=4), Check(1, rank=2), Check(2, rank=1)),
    ("", "STFT"): _always(Check(0, least=2)),
    ("", "StringConcat"): _always(Check(0, filled=0), Check(1, filled=0)),
    ("", "Unique"): _check_unique,
    ("com.microsoft", "CropAndResize"): _always(
        Check(0, rank=4, filled=0), Check(1, rank=2), Check(2, rank=1), Check(3, rank=1)
    ),
    ("com.microsoft", "DecoderMaskedMultiHeadAttention"): _always(*_HEADS),
    ("com.microsoft", "DynamicQuantizeLSTM"): _RECURRENT,
    ("com.microsoft", "FusedConv"): _CONVOLUTION,
    ("com.microsoft", "GroupQueryAttention"): _always(Check(0, rank=3, filled=0)),
    ("com.microsoft", "MatMulIntegerToFloat"): _always(Check(2, filled=0), Check(3, filled=0)),
    ("com.microsoft", "MoE"): _always(*_HEADS, Check(4, filled=0)),
    ("com.microsoft", "MultiHeadAttention"): _always(*_HEADS),
    ("com.microsoft", "QAttention"): _always(Check(0, filled=0), Check(1, filled=0)),
    ("com.microsoft", "QLinearConcat"): _check_quantised_concat,
    ("com.microsoft", "RotaryEmbedding"): _always(Check(0, filled=0), Check(2, filled=0), Check(3, filled=0)),
    ("com.microsoft", "SkipLayerNormalization"): _always(Check(1, filled=0)),
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): _always(Check(1, filled=0)),
}
"""Domain and name of an operator -> requirements on its inputs."""
_UNPROVEN = ("ArgMax", "ArgMin", "ConcatFromSequence", "OptionalGetElement", "SequenceAt", "SequenceMap")
"""Operators whose outputs may have other shapes than onnx infers: of elements that a loop changes, or of no
elements."""
_REFUSED = frozenset(
    ("com.microsoft", name) for name in ("AttnLSTM", "DynamicQuantizeMatMul", "Inverse", "QLinearAveragePool")
)
"""Operators that cannot be checked by nodes."""
_NORMALISATIONS = frozenset(
    ("LayerNormalization", "ReduceMean", "RMSNormalization", "SimplifiedLayerNormalization")
)
"""ONNX Runtime fuses an addition with the following nodes if the graph's inputs have sizes of the same names; then it
divides by a size."""
OPERATORS = frozenset((*_CHECKS, *_REFUSED, *(("", name) for name in _NORMALISATIONS), ("", "Scan")))


class Shapes:
    """Shapes of a model's tensors, derived from the declared shapes of its inputs."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.inputs: dict[str, list[tuple[str, int]]] = {}
        """Name of a free size -> the inputs and axes that have this size."""
        copy = self._copy_bare(model)
        # If inference fails, the shapes of inputs and weights are still known.
        with contextlib.suppress(onnx.shape_inference.InferenceError, ValueError):
            copy = onnx.shape_inference.infer_shapes(copy, data_prop=True)
        self._nodes: list[tuple[Shape | None, ...]] = []
        self.conditions: dict[int, str] = {}
        """Number of a node -> the output that is its loop condition, if that may have no elements."""
        self._collect(copy.graph, {})

        self.normalises = any(node.op_type in _NORMALISATIONS for node in list_nodes(model.graph))

    def of(self, number: int, place: int) -> Shape | None:
        """The shape of the input at `place` of the node of this number; None if even its rank is unknown."""
        shapes = self._nodes[number]
        return shapes[place] if place < len(shapes) else None

    def _copy_bare(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Without the file's own value_info of inner tensors, which may be wrong, and without large weights."""
        copy = onnx.ModelProto()
        copy.ir_version = model.ir_version
        copy.opset_import.extend(model.opset_import)
        graph = copy.graph
        graph.name = model.graph.name
        graph.node.extend(model.graph.node)
        optional = set(list_optional(model))
        for tensor in model.graph.initializer:
            if tensor.name in optional:  # a run may override it: only the input's declaration counts
                continue
            kept = graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            if sum(tensor.dims) <= 64 and tensor.ByteSize() < LARGEST_CONSTANT:
                kept.CopyFrom(tensor)
        graph.input.extend(model.graph.input)
        for info in model.graph.output:
            graph.output.add(name=info.name)
        for info in graph.input:
            if info.type.WhichOneof("value") != "tensor_type":
                continue
            if not info.type.tensor_type.shape.dim:
                info.type.tensor_type.ClearField("shape")  # ONNX Runtime accepts any shape for a scalar
            for axis, size in enumerate(info.type.tensor_type.shape.dim):
                if size.HasField("dim_value") and size.dim_value >= 0:
                    continue
                name = size.dim_param or f"{info.name}/{axis}"
                size.Clear()
                size.dim_param = name
                self.inputs.setdefault(name, []).append((info.name, axis))
        _strip_bodies(graph)
        _hide_unproven(graph)
        return copy

    def _collect(
        self, graph: onnx.GraphProto, outer: Mapping[str, Shape | None], *, loop: bool = False
    ) -> None:
        known = dict(outer)
        known.update((tensor.name, tuple(tensor.dims)) for tensor in graph.initializer)
        for info in (*graph.value_info, *graph.output, *graph.input):
            known[info.name] = _shape_of(info.type)
        if loop:
            name = graph.output[0].name
            number = len(self._nodes)
            for node in graph.node:
                if name in node.output and (known.get(name) is None or not all(_sure(known[name]))):
                    self.conditions[number] = name
                number += 1 + sum(1 for body in bodies_of(node) for _ in list_nodes(body))
        for node in graph.node:
            if node.op_type == "Constant" and node.domain in ONNX_DOMAINS:
                for attribute in node.attribute:
                    if attribute.name == "value":
                        known[node.output[0]] = tuple(attribute.t.dims)
            self._nodes.append(tuple(known.get(name) for name in node.input))
            for body in bodies_of(node):
                self._collect(body, known, loop=node.op_type == "Loop")


def _sure(shape: Shape | None) -> Iterator[bool]:
    return (isinstance(size, int) and size > 0 for size in shape or ())


def guard_condition(nodes: Sequence[onnx.NodeProto], name: str, names: Names) -> list[onnx.NodeProto]:
    """Make a loop condition a scalar: of an empty one, ONNX Runtime would read one element."""
    make = Maker(names)
    made = [onnx.NodeProto() for _ in nodes]
    asked = names.make("condition")
    for copy, node in zip(made, nodes, strict=True):
        copy.CopyFrom(node)
        for place, output in enumerate(copy.output):
            copy.output[place] = asked if output == name else output
    make("Reshape", asked, make.constants([], _INT64))
    make.nodes[-1].output[0] = name
    return [*made, *make.nodes]


def _strip_bodies(graph: onnx.GraphProto) -> None:
    for node in list_nodes(graph):
        for body in bodies_of(node):
            del body.value_info[:]
            counter = 1 if node.op_type == "Loop" else 0  # ONNX Runtime takes its shape from here
            for info in (*body.input[counter:], *body.output):
                if info.type.WhichOneof("value") == "tensor_type":
                    info.type.tensor_type.ClearField("shape")


def _hide_unproven(graph: onnx.GraphProto) -> None:
    """Rename, for their readers, tensors whose inferred shape may be wrong; also the stacked outputs of a loop, which
    have one axis if it never ran."""
    for number, node in enumerate(list_nodes(graph)):
        first = len(node.output)
        if node.op_type in _UNPROVEN:
            first = 0
        elif node.op_type == "Loop":
            first = max(len(node.input) - 2, 0)
        for place in range(first, len(node.output)):
            if node.output[place]:
                node.output[place] = f"hidden {number} {place}"


def _shape_of(kind: onnx.TypeProto) -> Shape | None:
    if kind.WhichOneof("value") != "tensor_type" or not kind.tensor_type.HasField("shape"):
        return None
    return tuple(
        size.dim_value if size.HasField("dim_value") else (size.dim_param or None)
        for size in kind.tensor_type.shape.dim
    )


def guard(visit: Visit, shapes: Shapes, names: Names) -> Guarded:
    """Check the requirements on a node's inputs that are not proven."""
    node = visit.node
    key = "" if node.domain in ONNX_DOMAINS else node.domain, node.op_type
    if key == ("", "Scan"):
        return _turn_scan(visit, shapes, names)
    if key == ("", "Add") and shapes.normalises:
        return Guarded(sizes=_find_shared(visit, shapes))
    if key in _REFUSED:
        return Guarded(refused=_refuse(visit, shapes))
    if key not in _CHECKS:
        return Guarded()
    sizes: set[str] = set()
    make = Maker(names)
    guarded = onnx.NodeProto()
    guarded.CopyFrom(node)
    for check in _CHECKS[key](node):
        if check.place >= len(node.input) or not node.input[check.place]:
            continue
        guarded.input[check.place] = _apply(visit, check, shapes, make, sizes)
    if not make.nodes:
        return Guarded(sizes=frozenset(sizes))
    oldest = 10 if any(made.op_type == "Slice" for made in make.nodes) else 7
    if not key[0] and visit.opset < oldest:
        return Guarded(refused=f"{node.op_type} of opset {visit.opset} takes shapes that cannot be inferred")
    what = f"{node.op_type} {node.name!r}" if node.name else node.op_type
    for number, made in enumerate(make.nodes):
        made.name = f"{number}: {what} takes another number of axes, or none of length 0"
    return Guarded((*make.nodes, guarded), frozenset(sizes))


def _find_shared(visit: Visit, shapes: Shapes) -> frozenset[str]:
    """Free sizes that both sides of an addition share, as several inputs of the graph do: a request may violate
    that."""
    one, other = (shapes.of(visit.number, place) for place in (0, 1))
    if one is None or one != other:
        return frozenset()
    return frozenset(size for size in one if isinstance(size, str) and len(shapes.inputs.get(size, ())) > 1)


def _refuse(visit: Visit, shapes: Shapes) -> str:
    """Why a request's shapes could crash the process in an operator of com.microsoft; empty if its shapes are fixed."""
    name = visit.node.op_type
    shape = shapes.of(visit.number, 0)
    fixed = shape is not None and all(isinstance(size, int) and size > 0 for size in shape[1:])
    if name == "Inverse" and fixed and shape is not None and len(shape) > 2 and shape[-1] == shape[-2]:
        return ""
    if name == "QLinearAveragePool" and fixed:
        return ""
    if name == "DynamicQuantizeMatMul" and not any(visit.input(place).sent for place in (1, 2, 3)):
        return ""
    return f"com.microsoft.{name} does not check all shapes that a request may hold"


def _apply(visit: Visit, check: Check, shapes: Shapes, make: Maker, sizes: set[str]) -> str:
    """The name of the input, or of its checked copy."""
    name = str(visit.node.input[check.place])
    shape = shapes.of(visit.number, check.place)
    rank, like = check.rank, ""
    if check.alike:
        known = (shapes.of(visit.number, place) for place in check.alike)
        rank = next((len(other) for other in known if other is not None), None)
        like = visit.node.input[check.alike[0]] if rank is None and check.place != check.alike[0] else ""
    if shape is None:
        fits = rank is None and not check.least and not like
    else:
        fits = len(shape) >= check.least and rank in (None, len(shape))
    full = check.filled is None or _is_full(shape, check.filled, shapes, sizes)
    if fits and full:
        return name
    checked = make("Shape", name)
    if not fits and like:
        count = make("Reshape", make("Size", make("Shape", like)), make.constants([1], _INT64))
        checked = make("Reshape", checked, count)
    elif not fits and rank:
        checked = make("Reshape", checked, make.constants([rank], _INT64))
    elif not fits and check.least:
        last = make("Gather", checked, make.constants([check.least - 1], _INT64))
        checked = make("Add", checked, make("Mul", last, make.constant(0, _INT64)))
    if not full and check.filled:
        bounds = [make.constants([bound], _INT64) for bound in (check.filled, 2**31 - 1)]
        elements = make("ReduceProd", make("Slice", checked, *bounds), keepdims=0)
        checked = make("Mul", checked, make("Div", elements, elements))
    elif not full:
        elements = make("Size", name)
        checked = make("Mul", checked, make("Div", elements, elements))
    return make("Reshape", name, checked)


def _is_full(shape: Shape | None, first: int, shapes: Shapes, sizes: set[str]) -> bool:
    """True if no axis from the first on has length 0, provided that no size that is added to `sizes` is 0."""
    if shape is None:
        return False
    named = {size for size in shape[first:] if isinstance(size, str)}
    if not named.issubset(shapes.inputs) or any(size is None or size == 0 for size in shape[first:]):
        return False
    sizes.update(named)
    return True


def _turn_scan(visit: Visit, shapes: Shapes, names: Names) -> Guarded:
    """Move the scanned axes to the front, and back, with other operators: Scan itself divides by sizes."""
    node = visit.node
    if visit.opset < 9:
        return Guarded(refused=f"Scan of opset {visit.opset}, which takes no batch of 0")
    lists = {attribute.name: list(attribute.ints) for attribute in node.attribute}
    body = next(bodies_of(node), onnx.GraphProto())
    scanned = _read(node, "num_scan_inputs", 0)
    states = len(node.input) - scanned
    before, after = Maker(names), Maker(names)
    turned = onnx.NodeProto()
    turned.CopyFrom(node)
    for place, axis in enumerate(lists.get("scan_input_axes", [])):
        if axis == 0:
            continue
        shape = shapes.of(visit.number, states + place)
        rank = len(shape) if shape is not None else _rank_in_body(body.input, states + place)
        if rank is None or not -rank <= axis < rank:
            return Guarded(refused=f"Scan {node.name!r} goes along an axis of a tensor of unknown rank")
        axis %= rank
        order = [axis, *(other for other in range(rank) if other != axis)]
        turned.input[states + place] = before("Transpose", node.input[states + place], perm=order)
    for place, axis in enumerate(lists.get("scan_output_axes", [])):
        output = node.output[states + place] if states + place < len(node.output) else ""
        if axis == 0 or not output:
            continue
        rank = _rank_in_body(body.output, states + place)
        if rank is None or not -rank <= axis < rank:
            return Guarded(refused=f"Scan {node.name!r} stacks tensors of unknown rank")
        axis %= rank
        order = [*range(1, axis + 1), 0, *range(axis + 1, rank)]
        turned.output[states + place] = names.make("stacked")
        after.nodes.append(
            helper.make_node("Transpose", [turned.output[states + place]], [output], perm=order)
        )
    if not before.nodes and not after.nodes:
        return Guarded()
    kept = [a for a in turned.attribute if a.name not in ("scan_input_axes", "scan_output_axes")]
    del turned.attribute[:]
    turned.attribute.extend(kept)
    return Guarded((*before.nodes, turned, *after.nodes))


def _rank_in_body(infos: Sequence[onnx.ValueInfoProto], place: int) -> int | None:
    """Axes of a tensor that a Scan runs along or stacks, of which its body sees one fewer; Transpose checks them at
    run time."""
    shape = _shape_of(infos[place].type) if place < len(infos) else None
    return None if shape is None else len(shape) + 1
