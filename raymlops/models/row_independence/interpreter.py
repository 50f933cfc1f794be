"""Proves that each row of a model's output depends on the same row of its inputs alone, so that requests may share a
run.

An abstract interpretation of the ONNX graph: each tensor is the same for all rows, or carries the rows on a known
axis (operator_table.py says what each operator does to that axis), or is coupled. Nothing is run or sampled: what
cannot be shown is not claimed, and the operator at which the proof fails is named. Answers of a shared run then
differ from those of separate runs only by the rounding of floating-point sums.
"""

import dataclasses
import itertools
from collections import ChainMap
from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import onnx
import onnx.shape_inference
from onnx import TensorProto

from raymlops.errors import shorten
from raymlops.models.external_data import ModelFiles
from raymlops.models.row_independence.abstract_values import (
    OLDEST_OPSET,
    CoupledError,
    Node,
    Value,
    per_row,
    rows_on,
)
from raymlops.models.row_independence.branches import WIDENED, are_alike, is_widened, join_values, take_slice
from raymlops.models.row_independence.operator_table import RANDOM, RULES
from raymlops.models.row_independence.shape_arithmetic import fold, read_tensor, to_tensor
from raymlops.models.row_independence.symbolic_dims import Dim, Term, UndecidedError, same, symbol
from raymlops.models.runtime_messages import explain_failure
from raymlops.models.traversal import short_domain

MOST_NODES = 200_000
"""Largest number of nodes that are visited; those of called functions and of repeated bodies count each time."""
BUILT_IN = ("", "ai.onnx.ml", "com.microsoft")
"""Operator domains that ONNX Runtime includes."""
MOST_DEPTH = 40
"""Deepest nesting of graphs and functions."""


@dataclasses.dataclass(frozen=True)
class Independence:
    """`reason` says why rows may not share a run, with the operator's name; empty if they may."""

    reason: str = ""

    def __bool__(self) -> bool:
        return not self.reason

    @property
    def told(self) -> str:
        """For logs and metadata."""
        return self.reason or "proven by the model's operators"


def prove_rows(model: bytes | ModelFiles, weights: Collection[str] = ()) -> Independence:
    """Whether each row of every output follows from the same row of the inputs alone.

    `model` is a checked file, `weights` are inputs that are set once for all runs. All inputs of a run must have the
    same number of rows; callers must ensure it, since ONNX files do not promise it.
    """
    data = model.data if isinstance(model, ModelFiles) else model
    try:
        _Interpreter(onnx.ModelProto.FromString(data)).prove(weights)
    except CoupledError as coupled:
        return Independence(str(coupled))
    except Exception as error:  # a broken or hostile file proves nothing, whatever error it causes here
        return Independence(
            f"its graph cannot be followed: {type(error).__name__}: {shorten(explain_failure(error))}"
        )
    return Independence()


Environment = MutableMapping[str, Value | None]
"""Name -> value; None is an input that the call of a function omits."""


@dataclasses.dataclass(frozen=True)
class _Scope:
    """The context of a node: operator versions, and the attributes that the calling node gave to its function."""

    opsets: Mapping[str, int]
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    depth: int = 0

    def deeper(
        self, opsets: Mapping[str, int] | None = None, given: Mapping[str, Any] | None = None
    ) -> "_Scope":
        if self.depth >= MOST_DEPTH:
            raise CoupledError(f"graphs or functions lie over {MOST_DEPTH} deep in each other")
        return _Scope(
            self.opsets if opsets is None else opsets, self.given if given is None else given, self.depth + 1
        )


@dataclasses.dataclass(frozen=True)
class _ControlStep:
    """A node with graphs among its attributes, and its context; `environment` is what these see of outside."""

    inputs: Sequence[Value | None]
    attributes: Mapping[str, Any]
    environment: Environment
    scope: _Scope


class _Interpreter:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._functions = {(short_domain(f.domain), f.name, f.overload): f for f in model.functions}
        self._numbers = itertools.count()
        self._seen = 0
        self._names: dict[str, Dim] = {}

    def prove(self, weights: Collection[str]) -> None:
        graph = self._model.graph
        scope = _Scope({short_domain(opset.domain): opset.version for opset in self._model.opset_import})
        if scope.opsets.get("", OLDEST_OPSET) < OLDEST_OPSET:
            raise CoupledError(f"its operators are of opset {scope.opsets['']}, older than {OLDEST_OPSET}")
        environment: Environment = {}
        held = {tensor.name for tensor in graph.initializer}
        held |= {tensor.values.name for tensor in graph.sparse_initializer}
        for value in graph.input:
            if value.name in weights:
                environment[value.name] = self._read_weight(value)
            elif value.name not in held:
                environment[value.name] = self._read_input(value)
        self._run(graph, environment, scope)
        for value in graph.output:
            answer = _require(environment, value.name)
            if answer.axis != 0 or not same(per_row(answer), 1):
                raise CoupledError(f"output {value.name!r} has no row for each row of the input")
        if not graph.output:
            raise CoupledError("it has no output")

    def _read_input(self, value: onnx.ValueInfoProto) -> Value:
        tensor = value.type.tensor_type
        dims = tensor.shape.dim
        if not value.type.HasField("tensor_type") or not tensor.HasField("shape") or not dims:
            raise CoupledError(f"input {value.name!r} has no axis for rows")
        if dims[0].HasField("dim_value"):
            raise CoupledError(f"input {value.name!r} takes {dims[0].dim_value} rows, no more and no less")
        sizes = [d.dim_value if d.HasField("dim_value") else self._unknown() for d in dims]
        return dataclasses.replace(rows_on(sizes, 0), datatype=tensor.elem_type)

    def _read_weight(self, value: onnx.ValueInfoProto) -> Value:
        tensor = value.type.tensor_type
        sizes = tuple(d.dim_value if d.HasField("dim_value") else self._unknown() for d in tensor.shape.dim)
        return Value(sizes if tensor.HasField("shape") else None, datatype=tensor.elem_type)

    def _unknown(self) -> Term:
        """A size that nothing determines, but that does not change with the number of rows."""
        return symbol(f"s{next(self._numbers)}")

    def _run(
        self, graph: onnx.GraphProto | onnx.FunctionProto, environment: Environment, scope: _Scope
    ) -> None:
        """Add the outputs of a graph's nodes to the environment. Raises CoupledError at the first that couples rows."""
        if isinstance(graph, onnx.GraphProto):
            for tensor in graph.initializer:
                environment[tensor.name] = read_tensor(tensor)
            for sparse in graph.sparse_initializer:
                environment[sparse.values.name] = Value(tuple(sparse.dims), datatype=sparse.values.data_type)
        for node in graph.node:
            self._seen += 1
            if self._seen > MOST_NODES:
                raise CoupledError(f"it has over {MOST_NODES} nodes to follow")
            try:
                values = self._run_node(node, environment, scope)
            except UndecidedError:
                raise CoupledError(f"{_name(node)}: its sizes are not known before it runs") from None
            except _LocatedError:
                raise
            except CoupledError as coupled:
                raise _LocatedError(f"{_name(node)}: {coupled}") from None
            for name, value in zip(node.output, values, strict=False):
                if name:
                    environment[name] = value
            if missing := [name for name in node.output[len(values) :] if name]:
                raise _LocatedError(f"{_name(node)}: what its output {missing[0]!r} holds is not known")

    def _run_node(self, node: onnx.NodeProto, environment: Environment, scope: _Scope) -> Sequence[Value]:
        domain = short_domain(node.domain)
        attributes = dict(_read_attributes(node, scope.given))
        if unknown := [name for name in node.input if name and name not in environment]:
            raise CoupledError(f"its input {unknown[0]!r} is made by no node before it")
        inputs = tuple(environment[name] if name else None for name in node.input)
        function = self._functions.get((domain, node.op_type, node.overload))
        if function is not None:
            if domain in BUILT_IN:  # which of the two ONNX Runtime uses is not specified
                raise CoupledError("a function of the model has the name of an operator")
            return self._call(function, inputs, attributes, scope)
        if not domain and node.op_type in _CONTROL:
            return _CONTROL[node.op_type](self, _ControlStep(inputs, attributes, environment, scope))
        if not domain and node.op_type in RANDOM:
            raise CoupledError("it is random")
        opset = scope.opsets.get(domain, 1)
        if not domain:
            folded = fold(node.op_type, inputs, attributes, opset, len(node.output))
            if folded is not None:
                return folded
        shapes, datatypes = self._infer(node, domain, inputs, attributes, scope)
        if all(value is None or value.is_constant for value in inputs):
            if domain not in BUILT_IN:
                raise CoupledError("it is an operator of a foreign library")
            return [Value(dims, datatype=kind) for dims, kind in zip(shapes, datatypes, strict=True)]
        rule = RULES.get((domain, node.op_type))
        if rule is None:
            raise CoupledError("it is not known to keep rows apart")
        view = Node(node.op_type, inputs, attributes, opset, tuple(shapes), self._unknown)
        values = rule(view)
        kinds = [kind or (inputs[0].datatype if inputs and inputs[0] else 0) for kind in datatypes]
        return [dataclasses.replace(value, datatype=kind) for value, kind in zip(values, kinds, strict=False)]

    def _infer(
        self,
        node: onnx.NodeProto,
        domain: str,
        inputs: Sequence[Value | None],
        attributes: Mapping[str, Any],
        scope: _Scope,
    ) -> tuple[list[tuple[Dim, ...] | None], list[int]]:
        """Shapes and datatypes of the outputs, by the operator's own inference; None if it fails."""
        nothing: tuple[list[tuple[Dim, ...] | None], list[int]] = (
            [None] * len(node.output),
            [0] * len(node.output),
        )
        try:
            schema = onnx.defs.get_schema(node.op_type, scope.opsets.get(domain, 1), domain)
            plain = onnx.helper.make_node(
                node.op_type,
                [f"i{k}" if v else "" for k, v in enumerate(inputs)],
                [f"o{k}" for k in range(len(node.output))],
                domain=domain,
                **attributes,
            )
            types = {f"i{k}": self._to_type(value) for k, value in enumerate(inputs) if value is not None}
            data = {
                f"i{k}": found
                for k, value in enumerate(inputs)
                if value is not None and (found := to_tensor(value)) is not None
            }
            opsets = [onnx.helper.make_opsetid(key, version) for key, version in scope.opsets.items()]
            found_types = onnx.shape_inference.infer_node_outputs(
                schema, plain, types, data, opset_imports=opsets
            )
        except (
            Exception
        ):  # the C++ side raises RuntimeError, InferenceError and others; not every rule needs the shape
            return nothing
        shapes: list[tuple[Dim, ...] | None] = []
        kinds: list[int] = []
        for place in range(len(node.output)):
            tensor = found_types[f"o{place}"].tensor_type if f"o{place}" in found_types else None
            kinds.append(tensor.elem_type if tensor is not None else 0)
            shapes.append(
                tuple(self._from_dim(dim) for dim in tensor.shape.dim)
                if tensor is not None and tensor.HasField("shape")
                else None
            )
        return shapes, kinds

    def _to_type(self, value: Value) -> onnx.TypeProto:
        if value.dims is None:
            return onnx.helper.make_tensor_type_proto(value.datatype, None)
        sizes: list[int | str] = []
        for size in value.dims:
            if isinstance(size, Term):
                self._names[str(size)] = size
                sizes.append(str(size))
            else:
                sizes.append(int(size))
        return onnx.helper.make_tensor_type_proto(value.datatype, sizes)

    def _from_dim(self, dim: onnx.TensorShapeProto.Dimension) -> Dim:
        if dim.HasField("dim_value"):
            return int(dim.dim_value)
        return (
            self._names.get(dim.dim_param) or self._unknown()
            if dim.HasField("dim_param")
            else self._unknown()
        )

    def _call(
        self,
        function: onnx.FunctionProto,
        inputs: Sequence[Value | None],
        attributes: Mapping[str, Any],
        scope: _Scope,
    ) -> Sequence[Value]:
        given = {a.name: onnx.helper.get_attribute_value(a) for a in function.attribute_proto}
        given |= {name: value for name, value in attributes.items() if name in {*function.attribute, *given}}
        opsets = {short_domain(opset.domain): opset.version for opset in function.opset_import}
        inner: Environment = dict(itertools.zip_longest(function.input, inputs[: len(function.input)]))
        self._run(function, inner, scope.deeper(opsets, given))
        return [_require(inner, name) for name in function.output]

    def _if(self, step: _ControlStep) -> Sequence[Value]:
        condition = step.inputs[0]
        if condition is None or not condition.is_constant:
            raise CoupledError("which branch it takes depends on the rows")
        branches = ["then_branch", "else_branch"]
        if condition.known is not None and condition.known.size == 1:
            branches = [branches[not bool(condition.known.flat[0])]]
        answers = [self._run_body(step.attributes[branch], {}, step) for branch in branches]
        return [join_values(values, self._unknown) for values in zip(*answers, strict=True)]

    def _loop(self, step: _ControlStep) -> Sequence[Value]:
        body: onnx.GraphProto = step.attributes["body"]
        for value in step.inputs[:2]:
            if value is not None and not value.is_constant:
                raise CoupledError("how often it runs depends on the rows")
        states = [value for value in step.inputs[2:] if value is not None]
        formal = [value.name for value in body.input]
        if len(formal) != 2 + len(states) or len(step.inputs) != len(formal):
            raise CoupledError("its body does not fit its inputs")
        turn = {
            formal[0]: Value((), datatype=TensorProto.INT64),
            formal[1]: Value((), datatype=TensorProto.BOOL),
        }
        states, scanned = self._settle(body, turn, formal[2:], states, step, conditions=1)
        return [self._leave(value) for value in (*states, *(self._stack(v, 0) for v in scanned))]

    def _scan(self, step: _ControlStep) -> Sequence[Value]:
        if step.scope.opsets.get("", 0) < 9:
            raise CoupledError("its batch axis is of the past")
        body: onnx.GraphProto = step.attributes["body"]
        count = int(step.attributes["num_scan_inputs"])
        given_values = [value for value in step.inputs if value is not None]
        states, scanned = given_values[: len(step.inputs) - count], given_values[len(step.inputs) - count :]
        formal = [value.name for value in body.input]
        if len(given_values) != len(step.inputs) or len(formal) != len(step.inputs):
            raise CoupledError("its body does not fit its inputs")
        axes = list(step.attributes.get("scan_input_axes") or [0] * count)
        taken = zip(formal[len(states) :], scanned, axes, strict=True)
        turn = {name: take_slice(value, axis) for name, value, axis in taken}
        states, outputs = self._settle(body, turn, formal[: len(states)], states, step)
        places = list(step.attributes.get("scan_output_axes") or [0] * len(outputs))
        stacked = [self._stack(value, axis) for value, axis in zip(outputs, places, strict=True)]
        return [self._leave(value) for value in (*states, *stacked)]

    def _settle(
        self,
        body: onnx.GraphProto,
        turn: Mapping[str, Value],
        names: Sequence[str],
        states: list[Value],
        step: _ControlStep,
        conditions: int = 0,
    ) -> tuple[list[Value], list[Value]]:
        """The state of a loop once an iteration adds nothing to it, and the other outputs of that iteration.

        `turn` are the inputs of each iteration; the first `conditions` of its outputs say whether it continues.
        """
        for _ in range(_ROUNDS):
            found = self._run_body(body, {**turn, **dict(zip(names, states, strict=True))}, step)
            if not all(condition.is_constant for condition in found[:conditions]):
                raise CoupledError("how often it runs depends on the rows")
            rest = found[conditions:]
            after, outputs = rest[: len(states)], rest[len(states) :]
            joined = self._carry(states, after)
            if joined is None:
                return states, outputs
            states = joined
        raise CoupledError("what its body carries along does not settle")

    def _run_body(self, body: onnx.GraphProto, given: Mapping[str, Value], step: _ControlStep) -> list[Value]:
        inner = ChainMap[str, Value | None](dict(given), step.environment)
        self._run(body, inner, step.scope.deeper())
        return [_require(inner, value.name) for value in body.output]

    def _carry(self, states: Sequence[Value], after: Sequence[Value]) -> list[Value] | None:
        """The state of a loop's next iteration; None if it equals the present one."""

        def widened() -> Dim:
            return symbol(f"{WIDENED}{next(self._numbers)}")

        joined = [join_values(pair, self._unknown, widened) for pair in zip(states, after, strict=True)]
        return None if all(map(are_alike, states, joined)) else joined

    def _leave(self, value: Value) -> Value:
        """The outputs of a loop: sizes that changed from iteration to iteration get new names."""
        if value.dims is None:
            return value
        if value.axis is not None and is_widened(value.size(value.axis)):
            raise CoupledError("the places for each row change from turn to turn")
        sizes = tuple(self._unknown() if is_widened(size) else size for size in value.dims)
        return dataclasses.replace(value, dims=sizes)

    def _stack(self, value: Value, axis: int) -> Value:
        """The stacked outputs of a loop's iterations, along a new axis, whose size does not change with the rows."""
        rank = value.rank + 1
        if not -rank <= axis < rank:
            raise CoupledError(f"axis {axis} does not fit rank {rank}")
        place = axis % rank
        dims = [*value.shape[:place], self._unknown(), *value.shape[place:]]
        if value.axis is None:
            if value.counts:
                raise CoupledError("it computes with the number of rows")
            return Value(tuple(dims), datatype=value.datatype)
        moved = rows_on(dims, value.axis + (place <= value.axis), per_row(value))
        return dataclasses.replace(moved, datatype=value.datatype)


_CONTROL = {"If": _Interpreter._if, "Loop": _Interpreter._loop, "Scan": _Interpreter._scan}
_ROUNDS = 4
"""Iterations after which the abstract state of a loop must be stable; each can only lose knowledge."""


class _LocatedError(CoupledError):
    """Its text already names the operator."""


def _name(node: onnx.NodeProto) -> str:
    operator = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
    return f"{operator} {(node.name or (node.output[0] if node.output else ''))!r}"


def _read_attributes(node: onnx.NodeProto, given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            yield attribute.name, onnx.helper.get_attribute_value(attribute)
        elif attribute.ref_attr_name in given:
            yield attribute.name, given[attribute.ref_attr_name]


def _require(environment: Environment, name: str) -> Value:
    value = environment.get(name)
    if value is None:
        raise CoupledError(f"output {name!r} is made by no node")
    return value
