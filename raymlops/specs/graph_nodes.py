"""Nodes of a graph as a user writes them, one class per kind, collected in one dict. Does not define how they run:
see `graphs.kinds`.

A reference is `node.tensor`, or `node` for all tensors of a node; the node `inputs` stands for the request.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import pydantic
from pydantic import Field

from raymlops.errors import SpecError, unknown_name
from raymlops.specs.document import Document, Renamed, read_yaml
from raymlops.specs.module_files import CodeFiles
from raymlops.tensors import DATATYPES, TensorSpec

if TYPE_CHECKING:
    from raymlops.specs.graph import GraphSpec

INPUTS = "inputs"
"""The name by which nodes read the request."""

OPERATORS = ("==", "!=", "<=", ">=", "<", ">", "not in", "in")
_CONDITION = re.compile(rf"^\s*(\S+)\s+({'|'.join(OPERATORS)})\s+(.+?)\s*$")


class Tensor(Document):
    """A tensor of a request or of an answer."""

    name: str = Field(min_length=1, description="name of the tensor")
    datatype: str = Field(
        "FP32", description="Open Inference Protocol datatype, such as FP32, INT64 or BYTES"
    )
    shape: tuple[int, ...] = Field((-1,), description="sizes, the rows first; -1 is known only at run time")
    ragged: bool = Field(
        False, description="each row has its own number of elements; shape is (-1, *element)"
    )

    @pydantic.field_validator("datatype")
    @classmethod
    def _known_datatype(cls, value: str) -> str:
        if value not in DATATYPES:
            raise ValueError(unknown_name("datatype", value, DATATYPES))
        return value

    def to_spec(self) -> TensorSpec:
        return TensorSpec(self.name, self.datatype, self.shape)


class Resources(Document):
    """Resources of a separate node; setting any of them makes an `auto` node separate."""

    renamed = {
        "target_ongoing": Renamed("target"),
        "max_queued": Renamed("queue"),
        "batch_rows": Renamed("max_rows"),
        "batch_wait_ms": Renamed("wait_ms"),
    }

    cpus: float = Field(1, gt=0, description="CPUs of a replica, and threads of its ONNX session")
    gpus: float = Field(0, ge=0, description="GPUs of a replica; a fraction below 1 shares a GPU")
    memory_mb: int | None = Field(None, gt=0, description="memory that a replica reserves")
    replicas: int = Field(1, ge=1, description="replicas, or the minimum if max_replicas is given")
    max_replicas: int | None = Field(None, ge=1, description="maximum of replicas; turns autoscaling on")
    target: float = Field(8, gt=0, description="requests in a replica from which on autoscaling adds another")
    queue: int = Field(512, ge=1, description="requests waiting for a replica before new ones are refused")
    max_rows: int = Field(0, ge=0, description="rows joined in one run of the model; 0 joins none")
    wait_ms: float = Field(2, ge=0, description="longest wait for rows to join, in milliseconds")

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> "Resources":
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas {self.max_replicas} is below replicas {self.replicas}")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus {self.gpus}: above 1 only whole GPUs can be reserved")
        return self


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Bindings = Annotated[dict[str, str] | list[str], pydantic.BeforeValidator(_as_list)]
"""Input name -> reference; or references from which every input is taken by its name."""


def list_references(bindings: Bindings) -> list[str]:
    return list(bindings.values()) if isinstance(bindings, dict) else list(bindings)


class NodeDocument(Document):
    """What every node has beside its `kind`, and what a graph needs of a node without knowing its kind."""

    if TYPE_CHECKING:  # each kind's own class has it as a field, after these

        @property
        def kind(self) -> str: ...

    timeout_s: float | None = Field(None, gt=0, description="longest time for the node to answer, in seconds")
    fallback: str | dict[str, bool | int | float | str] | None = Field(
        None, description="answers if the node fails: another node, or a value for each of its outputs"
    )

    @property
    def inner_graph(self) -> "GraphSpec | None":
        """The graph inside it."""
        return None

    def change_graph(self, change: Callable[["GraphSpec"], "GraphSpec"]) -> Self:
        """The same node with the graph inside it changed, if it has one."""
        return self

    def read_graph(self, read: Callable[[str], "GraphSpec"]) -> Self:
        """The same node with the graph of the file that it names, if it names one."""
        return self

    def complete_code(self, collect: Callable[[str], Mapping[str, str]]) -> Self:
        """The same node with the files, path -> text, that `collect` finds for its `module:Class`."""
        return self

    def list_code(self) -> Mapping[str, str]:
        """The files from which it imports its code, path -> text."""
        return {}


class PlacedNode(NodeDocument):
    """A node that may run in its own replicas."""

    inputs: Bindings = Field(
        [INPUTS], description="where each input is read: a mapping, or sources matched by name"
    )
    placement: Literal["auto", "fused", "separate"] = Field(
        "auto", description="fused: in the ingress process; separate: in its own replicas; auto: as measured"
    )
    resources: Resources | None = Field(None, description="what a separate node reserves")


class ModelNode(PlacedNode):
    """Runs an ONNX model."""

    kind: Literal["model"] = "model"
    model: str = Field(min_length=1, description="an ONNX file, or models:/name@alias, models:/name/version")
    digest: str = Field("", description="expected sha256 of the ONNX file in hex; deploying fills it in")
    isolate: bool = Field(
        False,
        description="run it in its own process, so that a request that crashes it affects nothing else",
    )
    ragged: dict[str, str] = Field(
        {},
        description="output whose first axis is the elements of all rows -> output that counts them",
    )


class PythonNode(PlacedNode):
    """Runs a class of your own; see docs/python_nodes.md."""

    kind: Literal["python"] = "python"
    target: str = Field(
        pattern=r"^[\w.]+:\w+$", description="module:Class with __init__(**config) and run(batch)"
    )
    code: CodeFiles = Field(
        {},
        description="files of its module, path -> text; filled in from beside the document; else the installed "
        "module is imported",
    )
    config: dict[str, Any] = Field({}, description="arguments of the class")
    takes: list[Tensor] | None = Field(None, description="its inputs; without it, all bound tensors")
    outputs: list[Tensor] = Field(min_length=1, description="its outputs")

    def complete_code(self, collect: Callable[[str], Mapping[str, str]]) -> Self:
        return self if self.code else self.model_copy(update={"code": collect(self.target)})

    def list_code(self) -> Mapping[str, str]:
        return self.code


class OwnNode(NodeDocument):
    """A node of a user's own kind. Its other keys are those of the kind's `spec`, which is known when the class is
    imported."""

    model_config = pydantic.ConfigDict(extra="allow")

    kind: str = Field(pattern=r"^[\w.]+:\w+$", description="module:Class of a graphs.node_kind.NodeKind")
    code: CodeFiles = Field(
        {},
        description="files of its module, path -> text; filled in from beside the document; else the installed "
        "module is imported",
    )

    def complete_code(self, collect: Callable[[str], Mapping[str, str]]) -> Self:
        return self if self.code else self.model_copy(update={"code": collect(self.kind)})

    def list_code(self) -> Mapping[str, str]:
        return self.code


class MeanNode(NodeDocument):
    """The mean of tensors of one shape, such as the probabilities of an ensemble."""

    kind: Literal["mean"] = "mean"
    of: list[str] = Field(min_length=1, description="tensors to average, element by element")


class WeightedNode(NodeDocument):
    """The weighted mean of tensors of one shape."""

    kind: Literal["weighted"] = "weighted"
    of: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        min_length=1, description="tensor -> weight"
    )

    @pydantic.field_validator("of")
    @classmethod
    def _some_weight(cls, value: dict[str, float]) -> dict[str, float]:
        return _require_weight(value)


class VoteNode(NodeDocument):
    """The label that most of several models give."""

    kind: Literal["vote"] = "vote"
    of: list[str] = Field(
        min_length=1, description="labels; the most frequent wins, the earlier one in a tie"
    )


class StackNode(NodeDocument):
    """Concatenates several tensors, for a model that takes them as one."""

    kind: Literal["stack"] = "stack"
    of: list[str] = Field(min_length=1, description="tensors to concatenate, as input of a further model")
    axis: int = Field(1, description="axis to join; never the rows")
    name: str = Field("stacked", description="name of its output")

    @pydantic.field_validator("axis")
    @classmethod
    def _not_the_rows(cls, value: int) -> int:
        if value == 0:
            raise ValueError("axis 0 is the rows, which cannot be joined")
        return value


class Case(Document):
    """One case of a switch."""

    when: str = Field(description="node.tensor OPERATOR value, such as `inputs.distance > 1000`")
    then: str = Field(description="node that answers these rows")

    @pydantic.field_validator("when")
    @classmethod
    def _readable(cls, value: str) -> str:
        parse_condition(value)
        return value


class SwitchNode(NodeDocument):
    """Sends each row to the node of the first case that holds for it."""

    kind: Literal["switch"] = "switch"
    cases: list[Case] = Field(min_length=1, description="the first case that holds answers a row")
    otherwise: str = Field(description="node that answers rows for which no case holds")


class CascadeNode(NodeDocument):
    """Runs a cheap model first, and sends on the rows of which it is not confident."""

    kind: Literal["cascade"] = "cascade"
    steps: list[str] = Field(min_length=2, description="nodes from the cheapest to the most expensive")
    confidence: str = Field(description="tensor of their outputs with their confidence")
    measure: Literal["max", "binary", "margin"] = Field(
        "max", description="max: largest of a row; binary: max(p, 1-p); margin: largest less the second"
    )
    threshold: float | list[float] = Field(
        0.8, description="rows below it go on; one for all steps, or one per step"
    )

    @pydantic.model_validator(mode="after")
    def _one_a_step(self) -> "CascadeNode":
        if isinstance(self.threshold, list) and len(self.threshold) != len(self.steps) - 1:
            raise ValueError(
                f"threshold has {len(self.threshold)} values for {len(self.steps) - 1} passings on"
            )
        return self


class SplitNode(NodeDocument):
    """Divides callers among nodes, as for a canary; a caller stays on one branch."""

    kind: Literal["split"] = "split"
    weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        min_length=1, description="node -> share of the requests; can be changed while it runs"
    )
    by: str | None = Field(
        None, description="tensor whose value decides, row by row; without it, the request's key"
    )
    salt: str = Field("", description="change it to distribute the keys differently")

    @pydantic.field_validator("weights")
    @classmethod
    def _some_weight(cls, value: dict[str, float]) -> dict[str, float]:
        return _require_weight(value)


class ShadowNode(NodeDocument):
    """Answers by one node, and compares its answers with those of another one."""

    renamed = {"max_pending": Renamed("queue")}

    kind: Literal["shadow"] = "shadow"
    primary: str = Field(description="node that answers")
    mirror: str = Field(description="node that sees the same rows; its answers are compared and counted only")
    sample: float = Field(1.0, ge=0, le=1, description="share of the requests that are mirrored")
    queue: int = Field(8, ge=1, description="mirrored requests waiting; further ones are dropped")
    load: float = Field(
        0.01,
        gt=0,
        le=1,
        description=(
            "share of the time for mirrors while requests leave no idle time for them; the rest is dropped"
        ),
    )
    tolerance: float = Field(1e-5, ge=0, description="difference of numbers that still counts as equal")


class EachNode(NodeDocument):
    """Runs a node for each element of a ragged tensor, such as each box in an image."""

    kind: Literal["each"] = "each"
    over: str = Field(description="ragged tensor: the node runs once for each of its elements")
    run: str = Field(description="node to run; its other inputs are repeated for the elements of their row")


class GraphNode(NodeDocument):
    """A graph inside the graph."""

    kind: Literal["graph"] = "graph"
    inputs: Bindings = Field([INPUTS], description="where each input of the inner graph is read")
    graph: "GraphSpec | None" = Field(None, description="the inner graph")
    file: str | None = Field(None, description="a graph file to read it from, relative to this file")

    @pydantic.model_validator(mode="after")
    def _one_source(self) -> "GraphNode":
        if (self.graph is None) == (self.file is None):
            raise ValueError("give exactly one of graph and file")
        return self

    @property
    def inner_graph(self) -> "GraphSpec | None":
        return self.graph

    def change_graph(self, change: Callable[["GraphSpec"], "GraphSpec"]) -> Self:
        return self if self.graph is None else self.model_copy(update={"graph": change(self.graph)})

    def read_graph(self, read: Callable[[str], "GraphSpec"]) -> Self:
        return self if self.file is None else self.model_copy(update={"graph": read(self.file), "file": None})


NODE_DOCUMENTS: dict[str, type[NodeDocument]] = {
    "model": ModelNode,
    "python": PythonNode,
    "mean": MeanNode,
    "weighted": WeightedNode,
    "vote": VoteNode,
    "stack": StackNode,
    "switch": SwitchNode,
    "cascade": CascadeNode,
    "split": SplitNode,
    "shadow": ShadowNode,
    "each": EachNode,
    "graph": GraphNode,
}
"""Kind -> the class of the keys that a user may write for it."""


def is_own(kind: object) -> bool:
    """Whether a kind is a user's own, `module:Class`."""
    return isinstance(kind, str) and ":" in kind


def _require_weight(weights: dict[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    if not 0 < total < math.inf:
        raise ValueError(f"weights {weights} sum to {total:g}; expected a finite number above 0")
    return weights


def parse_condition(text: str) -> tuple[str, str, Any]:
    """`inputs.x > 3` -> reference, operator, value. Raises ValueError."""
    match = _CONDITION.match(text)
    if match is None:
        raise ValueError(
            f"{text!r} is not a condition; expected `node.tensor OPERATOR value`, with one of {OPERATORS}"
        )
    reference, operator, literal = match.groups()
    try:
        value, _ = read_yaml(literal)
    except SpecError:
        raise ValueError(f"{text!r}: {literal!r} is not a value") from None
    if operator.endswith("in") != isinstance(value, list):
        raise ValueError(f"{text!r}: {operator} takes {'a list' if operator.endswith('in') else 'one value'}")
    return reference, operator, value
