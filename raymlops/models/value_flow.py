"""Tracks through an ONNX graph what a request's values can influence: the type of each tensor, whether it depends on
values that were sent (not only on shapes), and its value if it is constant. Changes nothing, runs nothing.

Bodies of `If`, `Loop`, `Scan` and the like are visited; local functions are not: inline them first.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.defs
import onnx.numpy_helper

ONNX_DOMAINS = ("", "ai.onnx")
LARGEST_CONSTANT = 2**20
"""Elements of the largest constant that is examined; a larger one may hold any value of its type."""
_INTEGERS = (2, 3, 4, 5, 6, 7, 12, 13)
_SHAPES = ("Shape", "Size")
"""Operators that depend on a tensor's shape, not on its values."""

Schema = Callable[[str, str, int], Any]
"""Operator, domain, opset -> its schema as onnx describes one, or None."""


@dataclasses.dataclass(frozen=True, slots=True)
class Value:
    """What is known of a tensor; `dtype` is onnx.TensorProto's number, for a sequence that of its elements."""

    dtype: int | None = None
    sent: bool = True
    """It depends on values of the request."""
    constant: "np.ndarray[Any, Any] | None" = None


UNKNOWN = Value()
ABSENT = Value(sent=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Visit:
    """A node, its number in the order of `list_nodes`, and what is known of its inputs; ABSENT for an omitted one."""

    number: int
    node: onnx.NodeProto
    opset: int
    inputs: tuple[Value, ...]

    def input(self, index: int) -> Value:
        return self.inputs[index] if index < len(self.inputs) else ABSENT


def follow(model: onnx.ModelProto, schema: Schema | None = None) -> Iterator[Visit]:
    """Every node of the graph and of the bodies in it, each after those that it reads."""
    opsets = {
        "" if entry.domain in ONNX_DOMAINS else entry.domain: entry.version for entry in model.opset_import
    }
    walk = _Walk(opsets, schema or find_onnx_schema)
    scope = collections.ChainMap[str, Value]()
    yield from walk.enter(model.graph, scope, [])


def list_nodes(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    """Every node, and after it those of its bodies."""
    for node in graph.node:
        yield node
        for body in bodies_of(node):
            yield from list_nodes(body)


def list_operators(model: onnx.ModelProto) -> set[tuple[str, str]]:
    """Domain and name of every operator that the graph, its bodies and the local functions use."""
    found: set[tuple[str, str]] = set()
    for part in (model.graph, *model.functions):
        found.update((node.domain, node.op_type) for node in list_nodes(part))
    return found


def find_onnx_schema(operator: str, domain: str, opset: int) -> Any:
    """The operator's schema in onnx itself; None for an unknown operator."""
    try:
        return onnx.defs.get_schema(operator, opset, domain)
    except onnx.defs.SchemaError:
        return None


def dtype_of(info: onnx.TypeProto) -> int | None:
    """The element type of a tensor, a sequence or an optional; None if it is not declared."""
    kind = info.WhichOneof("value")
    if kind in ("tensor_type", "sparse_tensor_type"):
        return int(getattr(info, kind).elem_type) or None
    if kind in ("sequence_type", "optional_type"):
        return dtype_of(getattr(info, kind).elem_type)
    return None


class _Walk:
    def __init__(self, opsets: Mapping[str, int], schema: Schema) -> None:
        self._opsets = opsets
        self._schema = schema
        self._schemas: dict[tuple[str, str], Any] = {}
        self._visited = 0

    def enter(
        self,
        graph: onnx.GraphProto,
        scope: "collections.ChainMap[str, Value]",
        given: Sequence[Value],
    ) -> Iterator[Visit]:
        """`scope` receives the graph's tensors; `given` are the inputs of a body, in order."""
        for tensor in graph.initializer:
            scope[tensor.name] = Value(tensor.data_type, False, read_constant(tensor))
        for sparse in graph.sparse_initializer:
            scope[sparse.values.name] = Value(sparse.values.data_type, False)
        for place, info in enumerate(graph.input):
            known = given[place] if place < len(given) else UNKNOWN
            # A request may override a weight that is also an input.
            scope[info.name] = Value(dtype_of(info.type) or known.dtype, known.sent)
        declared = {info.name: dtype_of(info.type) for info in (*graph.value_info, *graph.output)}
        for node in graph.node:
            inputs = tuple(scope.get(name, UNKNOWN) if name else ABSENT for name in node.input)
            yield Visit(self._visited, node, self._opset(node), inputs)
            self._visited += 1
            bodies: list[list[Value]] = []
            for body in bodies_of(node):
                inner = scope.new_child()
                yield from self.enter(body, inner, _give(node, inputs))
                bodies.append([inner.get(info.name, UNKNOWN) for info in body.output])
            for place, name in enumerate(node.output):
                if name:
                    value = self._produce(node, inputs, place, bodies)
                    if value.dtype is None and declared.get(name):
                        value = dataclasses.replace(value, dtype=declared[name])
                    scope[name] = value

    def _produce(
        self, node: onnx.NodeProto, inputs: tuple[Value, ...], place: int, bodies: list[list[Value]]
    ) -> Value:
        plain = node.domain in ONNX_DOMAINS
        if plain and node.op_type == "Constant":
            return _read_constant_node(node)
        if bodies:
            place = place + 1 if node.op_type == "Loop" else place
            made = [body[place] for body in bodies if place < len(body)]
            dtype = next((value.dtype for value in made if value.dtype), None)
            if node.op_type == "If":
                return Value(dtype, inputs[0].sent or any(value.sent for value in made))
            return Value(dtype)
        sent = not (plain and node.op_type in _SHAPES) and any(value.sent for value in inputs)
        return Value(self._type_output(node, inputs, place), sent)

    def _type_output(self, node: onnx.NodeProto, inputs: tuple[Value, ...], place: int) -> int | None:
        """By an attribute, or by the schema: a fixed type, or that of an input with the same type variable."""
        said = _type_said(node) if place == 0 else None
        if said:
            return said
        like = _LIKE_INPUT.get(node.op_type) if node.domain in ONNX_DOMAINS else None
        if like is not None and like < len(inputs):
            return inputs[like].dtype
        schema = self._find(node)
        if schema is None or not schema.outputs:
            return None
        formal = schema.outputs[min(place, len(schema.outputs) - 1)]
        for index, value in enumerate(inputs):
            if value.dtype and schema.inputs:
                taken = schema.inputs[min(index, len(schema.inputs) - 1)]
                if _variable_of(formal) == _variable_of(taken):
                    return value.dtype
        allowed = set(formal.types) or {_variable_of(formal)}
        dtypes = {_DTYPE_OF_NAME.get(_element_name(name)) for name in allowed}
        return dtypes.pop() if len(dtypes) == 1 else _DEFAULTS.get(node.op_type)

    def _opset(self, node: onnx.NodeProto) -> int:
        return self._opsets.get("" if node.domain in ONNX_DOMAINS else node.domain, 1)

    def _find(self, node: onnx.NodeProto) -> Any:
        domain = "" if node.domain in ONNX_DOMAINS else node.domain
        key = domain, node.op_type
        if key not in self._schemas:
            self._schemas[key] = self._schema(node.op_type, domain, self._opset(node))
        return self._schemas[key]


def bodies_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def read_constant(tensor: onnx.TensorProto) -> "np.ndarray[Any, Any] | None":
    """The integers of a tensor; None for other types, and if they are in another file or too many to examine."""
    if (
        tensor.data_type not in _INTEGERS
        or tensor.data_location == onnx.TensorProto.EXTERNAL
        or math.prod(tensor.dims) > LARGEST_CONSTANT
    ):
        return None
    try:
        return np.asarray(onnx.numpy_helper.to_array(tensor))
    except (TypeError, ValueError):
        return None


def _read_constant_node(node: onnx.NodeProto) -> Value:
    for attribute in node.attribute:
        match attribute.name:
            case "value":
                return Value(attribute.t.data_type, False, read_constant(attribute.t))
            case "value_int":
                return Value(onnx.TensorProto.INT64, False, np.array(attribute.i, np.int64))
            case "value_ints":
                return Value(onnx.TensorProto.INT64, False, np.array(attribute.ints, np.int64))
            case "value_float" | "value_floats":
                return Value(onnx.TensorProto.FLOAT, False)
            case "value_string" | "value_strings":
                return Value(onnx.TensorProto.STRING, False)
            case "sparse_value":
                return Value(attribute.sparse_tensor.values.data_type, False)
    return ABSENT


def _give(node: onnx.NodeProto, inputs: tuple[Value, ...]) -> list[Value]:
    """The inputs of a node's body. State that a loop carries counts as sent: a body may make it so."""
    if node.domain in ONNX_DOMAINS:
        if node.op_type == "Loop":
            state = [Value(value.dtype) for value in inputs[2:]]
            return [Value(onnx.TensorProto.INT64, False), Value(onnx.TensorProto.BOOL), *state]
        if node.op_type == "Scan":
            return [Value(value.dtype) for value in inputs]
        if node.op_type == "If":
            return []
    return [Value(value.dtype) for value in inputs]


_TYPES_SAID = ("to", "dtype", "output_dtype", "output_datatype")
_LIKE_INPUT = {
    **dict.fromkeys(
        ("Bernoulli", "ConcatFromSequence", "EyeLike", "Optional", "OptionalGetElement", "RandomNormalLike",
         "RandomUniformLike", "SequenceAt", "SequenceConstruct", "SequenceErase", "SequenceInsert",
         "SplitToSequence"), 0,
    ),
    "DequantizeLinear": 1,
}  # fmt: skip
"""Operator -> input of the same type unless an attribute gives another; also the elements of sequences and
optionals."""
_DEFAULTS = {
    **dict.fromkeys(
        ("BlackmanWindow", "ConstantOfShape", "HammingWindow", "HannWindow", "MelWeightMatrix", "RandomNormal",
         "RandomUniform", "SequenceEmpty"), onnx.TensorProto.FLOAT,
    ),
    "GroupNormalization": onnx.TensorProto.FLOAT,
    "LayerNormalization": onnx.TensorProto.FLOAT,
    "Multinomial": onnx.TensorProto.INT32,
    "QuantizeLinear": onnx.TensorProto.UINT8,
}  # fmt: skip
"""Output types that neither an attribute nor an input determines."""
_LISTS = (
    ("int64s", onnx.TensorProto.INT64), ("strings", onnx.TensorProto.STRING), ("floats", onnx.TensorProto.FLOAT)
)  # fmt: skip


def _type_said(node: onnx.NodeProto) -> int | None:
    """The type that an attribute gives the first output, as list attributes of tree and label operators do."""
    for attribute in node.attribute:
        if attribute.name in _TYPES_SAID and attribute.i:
            return int(attribute.i)
        if attribute.name in ("value", "values_tensor") and attribute.HasField("t"):
            return int(attribute.t.data_type)
        for suffix, dtype in _LISTS:
            if node.domain == "ai.onnx.ml" and attribute.name in (
                f"values_{suffix}",
                f"classlabels_{suffix}",
            ):
                return int(dtype)
    return None


def _variable_of(formal: Any) -> str:
    """`T` of a formal input or output of that type; onnx and ONNX Runtime spell the attribute differently."""
    return str(formal.type_str if hasattr(formal, "type_str") else formal.typeStr)


def _element_name(name: str) -> str:
    """`tensor(int64)`, also inside `seq(...)` and `optional(...)` -> `int64`."""
    return name.rpartition("(")[2].rstrip(")")


_DTYPE_OF_NAME = {
    name.lower(): number for name, number in onnx.TensorProto.DataType.items() if name != "UNDEFINED"
}
