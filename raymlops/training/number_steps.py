"""Fitted computations on a matrix of numbers as values: numpy applies them, and ONNX nodes do the same, in float64.

Knows neither the libraries that fit them nor raw columns. Arrays are (rows, columns); each step takes and gives one.
"""

import dataclasses
import functools
import io
import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper
from scipy.special import expit, softmax

from raymlops.errors import StorageError
from raymlops.onnx_builder import GraphBuilder
from raymlops.training.native_trees import predict_trees
from raymlops.training.tree_ensemble_export import add_trees
from raymlops.training.tree_ensembles import TreeEnsemble, check_trees, from_arrays, to_arrays

Floats = npt.NDArray[np.float64]

_AT_ONCE = 1024
"""Rows whose distances to all points are in memory."""

_BINARY: Mapping[str, tuple[Callable[[Any, Any], Any], str]] = {
    "add": (np.add, "Add"),
    "sub": (np.subtract, "Sub"),
    "mul": (np.multiply, "Mul"),
    "div": (np.divide, "Div"),
    "max": (np.maximum, "Max"),
    "min": (np.minimum, "Min"),
    "pow": (np.power, "Pow"),
    "equal": (np.equal, "Equal"),
    "above": (np.greater, "Greater"),
    "at_least": (np.greater_equal, "GreaterOrEqual"),
}
_COMPARISONS = ("equal", "above", "at_least")
_UNARY: Mapping[str, tuple[Callable[[Any], Any], str]] = {
    "exp": (np.exp, "Exp"),
    "log": (np.log, "Log"),
    "sqrt": (np.sqrt, "Sqrt"),
    "abs": (np.abs, "Abs"),
    "neg": (np.negative, "Neg"),
    "tanh": (np.tanh, "Tanh"),
    "relu": (lambda values: np.maximum(values, 0), "Relu"),
    "sigmoid": (expit, "Sigmoid"),
    "softmax": (functools.partial(softmax, axis=1), "Softmax"),
    "missing": (np.isnan, "IsNaN"),
    "float32": (lambda values: values.astype(np.float32), ""),
}


class Step(Protocol):
    """A computation of rows, each by itself."""

    def apply(self, rows: Floats) -> Floats:
        """(rows, columns) -> (rows, columns), in the precision of the rows."""
        ...

    def add(self, build: GraphBuilder, rows: str) -> str:
        """The same as nodes: from a DOUBLE tensor to a DOUBLE tensor."""
        ...


@dataclasses.dataclass(frozen=True)
class Chain:
    """One after another; none of them is the identity."""

    steps: tuple[Step, ...]

    def apply(self, rows: Floats) -> Floats:
        for step in self.steps:
            rows = step.apply(rows)
        return rows

    def add(self, build: GraphBuilder, rows: str) -> str:
        for step in self.steps:
            rows = step.add(build, rows)
        return rows


@dataclasses.dataclass(frozen=True)
class Beside:
    """All of the same rows; their columns one after another."""

    steps: tuple[Step, ...]

    def apply(self, rows: Floats) -> Floats:
        return np.concatenate([step.apply(rows) for step in self.steps], axis=1)

    def add(self, build: GraphBuilder, rows: str) -> str:
        return build.concat([step.add(build, rows) for step in self.steps])


@dataclasses.dataclass(frozen=True)
class Both:
    """Two of the same rows, joined by an operator of _BINARY."""

    operator: str
    first: Step
    second: Step

    def apply(self, rows: Floats) -> Floats:
        return _compute(self.operator, self.first.apply(rows), self.second.apply(rows))

    def add(self, build: GraphBuilder, rows: str) -> str:
        return _add_binary(build, self.operator, self.first.add(build, rows), self.second.add(build, rows))


@dataclasses.dataclass(frozen=True)
class With:
    """An operator of _BINARY with a number, or one for each column; a single column is compared with each of them."""

    operator: str
    values: Floats

    def apply(self, rows: Floats) -> Floats:
        return _compute(self.operator, rows, self.values)

    def add(self, build: GraphBuilder, rows: str) -> str:
        return _add_binary(build, self.operator, rows, _constant(build, self.values))


def with_number(operator: str, value: float) -> With:
    """The operator with one number."""
    return With(operator, np.array([value], dtype=np.float64))


@dataclasses.dataclass(frozen=True)
class Each:
    """A function of _UNARY, of each number or row."""

    function: str

    def apply(self, rows: Floats) -> Floats:
        with np.errstate(all="ignore"):
            return np.asarray(_UNARY[self.function][0](rows), dtype=rows.dtype)

    def add(self, build: GraphBuilder, rows: str) -> str:
        if self.function == "float32":
            return build.cast(build.cast(rows, TensorProto.FLOAT), TensorProto.DOUBLE)
        attributes: dict[str, Any] = {"axis": 1} if self.function == "softmax" else {}
        found = build.add(_UNARY[self.function][1], rows, **attributes)
        return build.cast(found, TensorProto.DOUBLE) if self.function == "missing" else found


@dataclasses.dataclass(frozen=True)
class Product:
    """`weights` (columns, outputs)"""

    weights: Floats

    def apply(self, rows: Floats) -> Floats:
        return np.asarray(rows @ self.weights)

    def add(self, build: GraphBuilder, rows: str) -> str:
        return build.add("MatMul", rows, _constant(build, self.weights))


@dataclasses.dataclass(frozen=True)
class Take:
    """Some of the columns, in this order."""

    columns: npt.NDArray[np.int64]

    def apply(self, rows: Floats) -> Floats:
        return rows[:, self.columns]

    def add(self, build: GraphBuilder, rows: str) -> str:
        columns = build.constant(np.asarray(self.columns, dtype=np.int64), "columns")
        return build.add("Gather", rows, columns, axis=1)


@dataclasses.dataclass(frozen=True)
class Fill:
    """The number of its column in place of each missing one."""

    values: Floats

    def apply(self, rows: Floats) -> Floats:
        return np.where(np.isnan(rows), self.values, rows)

    def add(self, build: GraphBuilder, rows: str) -> str:
        return build.add("Where", build.add("IsNaN", rows), _constant(build, self.values), rows)


@dataclasses.dataclass(frozen=True)
class Total:
    """The sum or the largest of each row, (rows, 1)."""

    operator: str = "sum"

    def apply(self, rows: Floats) -> Floats:
        reduce = np.sum if self.operator == "sum" else np.max
        return np.asarray(reduce(rows, axis=1, keepdims=True))

    def add(self, build: GraphBuilder, rows: str) -> str:
        operator = "ReduceSum" if self.operator == "sum" else "ReduceMax"
        axis = build.constant(np.array([1], dtype=np.int64), "axis")
        return build.add(operator, rows, axis, keepdims=1)


@dataclasses.dataclass(frozen=True)
class Nearest:
    """The mean of `values` (points, outputs) of the `count` points that are nearest by their squared distance."""

    points: Floats
    values: Floats
    count: int

    def apply(self, rows: Floats) -> Floats:
        distance, found = squared_distance(self.points), np.empty((len(rows), self.values.shape[1]))
        for start in range(0, len(rows), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            places = np.argsort(distance.apply(rows[part]), axis=1, kind="stable")[:, : self.count]
            found[part] = self.values[places].mean(axis=1)
        return found

    def add(self, build: GraphBuilder, rows: str) -> str:
        distances = squared_distance(self.points).add(build, rows)
        count = build.constant(np.array([self.count], dtype=np.int64), "count")
        places = f"{distances}_places"
        outputs = [f"{distances}_least", places]
        build.nodes.append(helper.make_node("TopK", [distances, count], outputs, largest=0, axis=1))
        found = build.add("Gather", _constant(build, self.values), places, axis=0)
        axis = build.constant(np.array([1], dtype=np.int64), "axis")
        return build.add("ReduceMean", found, axis, keepdims=0)


def squared_distance(points: Floats) -> Step:
    """To each point, (rows, points)."""
    squares = np.sum(points**2, axis=1)
    own = Chain((with_number("pow", 2.0), Total()))
    cross = Chain((Product(-2 * points.T), With("add", squares)))
    return Chain((Both("add", cross, own), with_number("max", 0.0)))


@dataclasses.dataclass(frozen=True)
class Trees:
    """Sums of trees, which read their rows as float32. The arrays are those of `tree_ensembles.to_arrays`, one tree
    after another, and `targets` (trees, values of a leaf)."""

    arrays: Mapping[str, npt.NDArray[Any]]
    targets: npt.NDArray[np.int64]
    base: Floats
    columns: int

    @classmethod
    def of(cls, ensemble: TreeEnsemble, columns: int) -> "Trees":
        """Of an ensemble that has a tree, and whose leaves all have as many values."""
        targets = np.array([tree.targets for tree in ensemble.trees], dtype=np.int64)
        return cls(to_arrays(ensemble.trees), targets, np.asarray(ensemble.base, dtype=np.float64), columns)

    @property
    def ensemble(self) -> TreeEnsemble:
        """Raises StorageError for arrays that are no trees."""
        trees = from_arrays(dict(self.arrays), ())
        found = tuple(
            dataclasses.replace(tree, targets=tuple(row))
            for tree, row in zip(trees, self.targets.tolist(), strict=True)
        )
        return TreeEnsemble(found, len(self.base), tuple(self.base.tolist()))

    def apply(self, rows: Floats) -> Floats:
        with np.errstate(over="ignore"):
            return predict_trees(self.ensemble, rows.astype(np.float32))

    def add(self, build: GraphBuilder, rows: str) -> str:
        found = add_trees(build, self.ensemble, build.cast(rows, TensorProto.FLOAT))
        return build.cast(found, TensorProto.DOUBLE)


KINDS: Mapping[str, type] = {
    kind.__name__: kind
    for kind in (Chain, Beside, Both, With, Each, Product, Take, Fill, Total, Nearest, Trees)
}


def to_bytes(step: Step) -> bytes:
    """To be saved: numbers and names alone."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    text = json.dumps(_to_json(step, arrays))
    file = io.BytesIO()
    held: dict[str, Any] = {"tree": np.frombuffer(text.encode(), dtype=np.uint8), **arrays}
    np.savez(file, **held)
    return file.getvalue()


def from_bytes(content: bytes) -> Step:
    """The inverse of `to_bytes`; runs nothing of it. Raises StorageError for what it did not write."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            step = _from_json(json.loads(arrays["tree"].tobytes()), arrays)
    except StorageError:
        raise
    except Exception as error:  # of numpy, zip and JSON
        raise StorageError(
            f"The checkpoint holds no computation ({type(error).__name__}: {error}); train it again"
        ) from None
    return cast(Step, step)


def limit_trees(step: Any, count: int) -> Any:
    """The same with the first `count` trees of each sum of trees."""
    if isinstance(step, Trees):
        kept = step.ensemble.trees[:count]
        return dataclasses.replace(step, arrays=to_arrays(kept), targets=step.targets[:count])
    if isinstance(step, tuple):
        return tuple(limit_trees(one, count) for one in step)
    if not dataclasses.is_dataclass(step) or isinstance(step, type):
        return step
    fields = {field.name: limit_trees(getattr(step, field.name), count) for field in dataclasses.fields(step)}
    return type(step)(**fields)


def _to_json(value: Any, arrays: dict[str, npt.NDArray[Any]]) -> Any:
    if isinstance(value, np.ndarray):
        name = f"array_{len(arrays)}"
        arrays[name] = value
        return {"array": name}
    if dataclasses.is_dataclass(value):
        held = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **{key: _to_json(one, arrays) for key, one in held.items()}}
    if isinstance(value, Mapping):
        return {"map": {key: _to_json(one, arrays) for key, one in value.items()}}
    return [_to_json(one, arrays) for one in value] if isinstance(value, tuple) else value


def _from_json(value: Any, arrays: Any) -> Any:
    if isinstance(value, list):
        return tuple(_from_json(one, arrays) for one in value)
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]]
    if "map" in value:
        return {key: _from_json(one, arrays) for key, one in value["map"].items()}
    fields = {key: _from_json(one, arrays) for key, one in value.items() if key != "kind"}
    step = KINDS[value["kind"]](**fields)
    if isinstance(step, Trees):
        check_trees(step.ensemble, step.columns)  # so that a prediction ends, and reads nothing outside
    return step


def _compute(operator: str, first: Any, second: Any) -> Floats:
    with np.errstate(all="ignore"):
        return np.asarray(_BINARY[operator][0](first, second), dtype=first.dtype)


def _add_binary(build: GraphBuilder, operator: str, first: str, second: str) -> str:
    found = build.add(_BINARY[operator][1], first, second)
    return build.cast(found, TensorProto.DOUBLE) if operator in _COMPARISONS else found


def _constant(build: GraphBuilder, values: Any) -> str:
    return build.constant(np.asarray(values, dtype=np.float64), "values")
