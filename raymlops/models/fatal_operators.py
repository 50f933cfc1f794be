"""Operators with which one request's values could crash the process that runs a model, and what is done about each:
guarded with standard operators, bounded while it runs, or refused unless the model runs in a process of its own.

What ONNX Runtime 1.31 does with hostile values was tried on its CPU kernels (`tests/survival/test_hostile_values.py`),
and under a checker of memory: none was seen to read or write beside its tensors.

| operator | values | by itself | here |
|---|---|---|---|
| Div, Mod of INT32 and INT64 | the least integer by -1 | SIGFPE | guarded: wraps around, and 0, as for INT8 and INT16 |
| Div, Mod of any integers | a divisor of 0 | an error | the same: 400 |
| STFT | a frame or a window of length 0 | SIGFPE | guarded: 400 |
| RoiAlign, sampling as a region needs | a region of 1e10 | does not end, and cannot be ended | guarded: 400 |
| Range, Expand, Resize, Pad, OneHot ... | a size of 2**40 | takes the machine's memory | bounded: 413 |
| Loop | 2**62 iterations | does not end | off the event loop, ended at the deadline: 504 |
| Expand, Gather, Where ... of strings | one long one, many times | takes the machine's memory | refused: isolate |
| indices, axes, counts, masks | out of range | an error, or as if in range | the same: 400, or an answer |
| of com.microsoft with integers that were not tried | any | not known | refused: isolate |
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx
import onnx.inliner

from raymlops.models import fatal_shapes
from raymlops.models.guard_nodes import Maker, Names, replace_nodes
from raymlops.models.optional_inputs import list_optional
from raymlops.models.value_flow import (
    ABSENT,
    ONNX_DOMAINS,
    Schema,
    Value,
    Visit,
    follow,
    list_operators,
)

TRAPPING = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
"""C++ computes narrower integers in 32 bits, where their minimum divided by -1 does not overflow."""

SIZED_BY = {
    "AffineGrid": (1,), "BlackmanWindow": (0,), "CenterCropPad": (1,), "Col2Im": (1, 2), "ConstantOfShape": (0,),
    "DFT": (1,), "Expand": (1,), "HammingWindow": (0,), "HannWindow": (0,), "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1), "OneHot": (1,), "Pad": (1,), "Range": (0, 1, 2), "Resize": (2, 3), "STFT": (1, 3),
    "Tile": (1,), "Upsample": (1,),
    # of com.microsoft
    "ConvTransposeWithDynamicPads": (2,), "CropAndResize": (3,), "RelativePositionBias": (1, 2),
}  # fmt: skip
"""Operator -> inputs whose values determine the size of its output."""
_TEXTS = ("RegexFullMatch", "StringNormalizer", "StringSplit", "Tokenizer")
"""Operators whose run time depends on the lengths of strings."""
_REPEATING = {"Expand": 1, "Gather": 1, "GatherElements": 1, "GatherND": 1, "Tile": 1}
"""Operator -> input that gives how often elements of input 0 are repeated."""
_BROADCASTING = ("StringConcat", "Where")
"""Operators that repeat strings if their inputs have different shapes."""


TRIED = frozenset((
    "AttnLSTM", "Attention", "BifurcationDetector", "ConvTransposeWithDynamicPads", "CropAndResize",
    "DecoderMaskedMultiHeadAttention", "DequantizeLinear", "DynamicQuantizeLSTM", "EmbedLayerNormalization",
    "ExpandDims", "GatherBlockQuantized", "GatherND", "GroupQueryAttention", "MatMulInteger16", "MatMulNBits",
    "MaxpoolWithMask", "MulInteger", "MultiHeadAttention", "MurmurHash3", "NGramRepeatBlock", "Pad", "QAttention",
    "QEmbedLayerNormalization", "QuantizeLinear", "Range", "ReduceSumInteger", "RotaryEmbedding", "Trilu", "Unique",
    "WordConvEmbedding",
))  # fmt: skip
"""Operators of com.microsoft that were tested with hostile integers."""
_INDICES = (*TRAPPING, onnx.TensorProto.UINT32, onnx.TensorProto.UINT64)
"""Types of indices, counts and lengths; narrower integers are quantised numbers."""
_REGIONS = 4.0
"""Maximum size of a region's coordinates, as a multiple of the longer side of the picture."""


@dataclasses.dataclass(frozen=True)
class OperatorFindings:
    """What a model's operators do with values; `model` is the guarded model, None if the original is safe."""

    model: onnx.ModelProto | None
    by_value: tuple[str, ...]
    """Operators whose run time or output grows with input values, not with the number of elements."""
    refused: tuple[str, ...]
    """Operators that could crash the process and cannot be guarded, each with a short reason."""
    filled: tuple[tuple[str, int], ...] = ()
    """Inputs and their axes that must not be empty: operators that crash on none work on them."""


def examine(model: onnx.ModelProto, schema: Schema | None = None) -> OperatorFindings:
    """Guard what can be guarded, and list the rest. The given model is not changed."""
    operators = {("" if domain in ONNX_DOMAINS else domain, name) for domain, name in list_operators(model)}
    by_shape = not operators.isdisjoint(fatal_shapes.OPERATORS)
    if not by_shape and not any(name in _LOOKED_AT or domain == _FOREIGN for domain, name in operators):
        return OperatorFindings(None, (), ())
    whole = onnx.inliner.inline_local_functions(model) if model.functions else model
    names = Names(whole.graph)
    fixed = {tensor.name for tensor in whole.graph.initializer} - set(list_optional(whole))
    regular = _is_regular(whole.graph, fixed)
    by_value: dict[str, None] = {}
    refused: dict[str, None] = {}
    guarded: dict[int, list[onnx.NodeProto]] = {}
    shapes = fatal_shapes.Shapes(whole) if by_shape else None
    sizes: set[str] = set()
    for visit in follow(whole, schema):
        node = visit.node
        if _goes_by_value(visit):
            by_value[node.op_type] = None
        reason = _refuse(visit, regular=regular)
        if reason:
            refused[reason] = None
        guard = _GUARDS.get(node.op_type) if node.domain in ONNX_DOMAINS else None
        nodes = guard(visit, names) if guard else []
        if shapes is not None:
            last = dataclasses.replace(visit, node=nodes[-1]) if nodes else visit
            checked = fatal_shapes.guard(last, shapes, names)
            sizes.update(checked.sizes)
            if checked.refused:
                refused[checked.refused] = None
            if checked.nodes:
                nodes = [*nodes[:-1], *checked.nodes]
            if visit.number in shapes.conditions:
                nodes = fatal_shapes.guard_condition(nodes or [node], shapes.conditions[visit.number], names)
        if nodes:
            guarded[visit.number] = nodes
    result = None
    if guarded:
        result = onnx.ModelProto()
        result.CopyFrom(whole)
        replace_nodes(result.graph, guarded, 0)
    filled = [place for size in sorted(sizes) if shapes is not None for place in shapes.inputs[size]]
    return OperatorFindings(result, tuple(by_value), tuple(refused), tuple(filled))


def _goes_by_value(visit: Visit) -> bool:
    match visit.node.op_type:
        case "If":
            return visit.input(0).sent
        case "Loop":  # without a count, its body ends it
            return visit.input(0) is ABSENT or visit.input(0).sent
        case operator if operator in _TEXTS:
            return visit.input(0).sent
        case operator:
            return any(visit.input(place).sent for place in SIZED_BY.get(operator, ()))


def _is_regular(graph: onnx.GraphProto, fixed: set[str]) -> bool:
    """True if all inputs but those that are `fixed` are rows of one size, equally many in each: then none is
    broadcast."""
    for info in graph.input:
        shape = info.type.tensor_type.shape.dim
        if info.name not in fixed and (
            not shape
            or shape[0].HasField("dim_value")
            or not all(size.HasField("dim_value") for size in shape[1:])
        ):
            return False
    return True


def _refuse(visit: Visit, *, regular: bool) -> str:
    """Why a model with this node may not share a process; `regular` says that its inputs are rows of one size."""
    node = visit.node
    texts = any(value.sent and value.dtype == onnx.TensorProto.STRING for value in visit.inputs)
    if texts and (
        (node.op_type in _REPEATING and visit.input(_REPEATING[node.op_type]).constant is None)
        or (node.op_type in _BROADCASTING and not regular)
    ):
        return f"{_describe(node)} repeats strings of the request as often as it says"
    foreign = node.domain == _FOREIGN and node.op_type not in TRIED
    if foreign and any(value.sent and value.dtype in _INDICES for value in visit.inputs):
        return f"{_describe(node)} was not tested with all integers that a request may hold"
    if node.op_type in ("Div", "Mod") and node.domain in ONNX_DOMAINS and _divided(visit) is None:
        return f"{_describe(node)} divides tensors whose type cannot be inferred"
    return ""


def _describe(node: onnx.NodeProto) -> str:
    domain = "" if node.domain in ONNX_DOMAINS else f"{node.domain}."
    return f"{domain}{node.op_type} {node.name!r}" if node.name else f"{domain}{node.op_type}"


def _divided(visit: Visit) -> int | None:
    return visit.input(0).dtype or visit.input(1).dtype


def _guard_division(visit: Visit, names: Names) -> list[onnx.NodeProto]:
    """Divide by 1 in place of -1, and negate the quotient: the result of a division that wraps around."""
    node, dtype = visit.node, _divided(visit)
    fmod = any(attribute.name == "fmod" and attribute.i for attribute in node.attribute)
    if (
        dtype is None
        or dtype not in TRAPPING
        or fmod
        or _cannot_hold(visit.input(0), np.iinfo)
        or _cannot_hold(visit.input(1))
    ):
        return []
    make = Maker(names)
    minus_one = make.constant(-1, dtype)
    is_minus_one = make("Cast", make("Equal", node.input[1], minus_one), to=dtype)
    two = make("Add", is_minus_one, is_minus_one)
    divided = onnx.NodeProto()
    divided.CopyFrom(node)
    divided.input[1] = make("Add", node.input[1], two)
    make.nodes.append(divided)
    if node.op_type == "Div":
        divided.output[0] = names.make("quotient")
        sign = make("Sub", make.constant(1, dtype), two)
        make.nodes.append(onnx.helper.make_node("Mul", [divided.output[0], sign], [node.output[0]]))
    return make.nodes


def _cannot_hold(value: Value, limits: Callable[..., "np.iinfo[np.signedinteger]"] | None = None) -> bool:
    """True for a constant without -1, or without its type's minimum if `limits` are given."""
    if value.constant is None:
        return False
    fatal = -1 if limits is None else limits(value.constant.dtype).min
    return not bool(np.any(value.constant == fatal))


def _guard_frames(visit: Visit, names: Names) -> list[onnx.NodeProto]:
    """Refuse a frame or a window of length 0: n // n is 1, or the error of a division by zero."""
    node = visit.node
    make = Maker(names)
    frames = onnx.NodeProto()
    frames.CopyFrom(node)
    step = node.input[1]
    if len(node.input) > 3 and node.input[3] and not _is_positive(visit.input(3)):
        step = make("Mul", step, make("CastLike", make("Div", node.input[3], node.input[3]), step))
    if len(node.input) > 2 and node.input[2] and not _has_elements(visit.input(2)):
        size = make("Size", node.input[2])
        step = make("Mul", step, make("CastLike", make("Div", size, size), step))
    if not make.nodes:
        return []
    frames.input[1] = step
    return [*make.nodes, frames]


def _guard_regions(visit: Visit, names: Names) -> list[onnx.NodeProto]:
    """Refuse regions that are far larger than their picture: an adaptive sampling takes as many samples as they are
    long."""
    node, dtype = visit.node, visit.input(1).dtype or onnx.TensorProto.FLOAT
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if not visit.input(1).sent or ("sampling_ratio" in attributes and attributes["sampling_ratio"].i > 0):
        return []
    scale = attributes["spatial_scale"].f if "spatial_scale" in attributes else 1.0
    make = Maker(names)
    sides = make("Gather", make("Shape", node.input[0]), make.constants([2, 3], onnx.TensorProto.INT64))
    limit = make(
        "Mul",
        make("ReduceMax", make("Cast", sides, to=onnx.TensorProto.FLOAT), keepdims=0),
        make.constant(_REGIONS / max(abs(scale), 1e-6), onnx.TensorProto.FLOAT),
    )
    flat = make("Reshape", node.input[1], make.constants([-1], onnx.TensorProto.INT64))
    coordinates = make(
        "Concat",
        make("Cast", flat, to=onnx.TensorProto.FLOAT),
        make.constants([0.0], onnx.TensorProto.FLOAT),
        axis=0,
    )
    beyond = make("Not", make("Less", make("Abs", coordinates), limit))  # false for NaN
    some = make("ReduceMax", make("Cast", beyond, to=onnx.TensorProto.FLOAT), keepdims=0)
    none = make(
        "Cast", make("Sub", make.constant(1.0, onnx.TensorProto.FLOAT), some), to=onnx.TensorProto.INT64
    )
    one = make("Div", none, none)
    make.nodes[
        -1
    ].name = f"regions of {node.name or 'RoiAlign'}, at most {_REGIONS:g} times as long as their picture"
    regions = onnx.NodeProto()
    regions.CopyFrom(node)
    regions.input[1] = make("Mul", node.input[1], make("Cast", one, to=dtype))
    return [*make.nodes, regions]


def _has_elements(value: Value) -> bool:
    return value.constant is not None and value.constant.size > 0


def _is_positive(value: Value) -> bool:
    return value.constant is not None and bool(np.all(value.constant > 0))


_GUARDS: dict[str, Callable[[Visit, Names], list[onnx.NodeProto]]] = {
    "Div": _guard_division,
    "Mod": _guard_division,
    "RoiAlign": _guard_regions,
    "STFT": _guard_frames,
}
"""Operator of ONNX -> the nodes that replace it; none if it is safe as it is."""


_FOREIGN = "com.microsoft"
_LOOKED_AT = frozenset(("If", "Loop", *SIZED_BY, *_TEXTS, *_REPEATING, *_BROADCASTING, *_GUARDS))
"""A model without any of these is safe as it is."""
