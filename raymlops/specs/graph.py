"""What a user may write to compose models: named nodes, inner graphs, outputs. Not how it runs."""

import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from raymlops.errors import SpecError, unknown_name
from raymlops.specs.document import Document, read_document
from raymlops.specs.graph_nodes import (
    INPUTS,
    Bindings,
    CascadeNode,
    EachNode,
    MeanNode,
    ModelNode,
    NodeDocument,
    PythonNode,
    ShadowNode,
    SplitNode,
    StackNode,
    SwitchNode,
    Tensor,
    VoteNode,
    WeightedNode,
)
from raymlops.specs.module_files import collect_files, require_name


class GraphNode(NodeDocument):
    kind: Literal["graph"] = "graph"
    inputs: Bindings = Field([INPUTS], description="where each input of the inner graph is read")
    graph: "GraphSpec | None" = Field(None, description="the inner graph")
    file: str | None = Field(None, description="a graph file to read it from, relative to this file")

    @pydantic.model_validator(mode="after")
    def _one_source(self) -> "GraphNode":
        if (self.graph is None) == (self.file is None):
            raise ValueError("give exactly one of graph and file")
        return self


AnyNode = (
    ModelNode
    | PythonNode
    | MeanNode
    | WeightedNode
    | VoteNode
    | StackNode
    | SwitchNode
    | CascadeNode
    | SplitNode
    | ShadowNode
    | EachNode
    | GraphNode
)
KINDS: dict[str, type[NodeDocument]] = {
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


class GraphSpec(Document):
    name: str = Field("graph", pattern=r"^[\w.-]+$", description="the model name that clients call")
    inputs: list[Tensor] | None = Field(
        None, description="the request's tensors; none infers them from the nodes"
    )
    nodes: dict[str, Annotated[AnyNode, Field(discriminator="kind")]] = Field(
        min_length=1, description="name -> node"
    )
    outputs: Bindings = Field(
        min_length=1, description="output name -> reference; or nodes whose tensors are all answered"
    )
    deadline_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="a request not answered in this time gets 504; of an inner graph that of the outer one counts",
    )
    merge: bool = Field(True, description="merge fused chains of ONNX models into one graph")

    @pydantic.field_validator("nodes", mode="before")
    @classmethod
    def _known_kinds(cls, nodes: Any) -> Any:
        if isinstance(nodes, Mapping):
            mistakes = [mistake for name, node in nodes.items() for mistake in _explain_node(str(name), node)]
            if mistakes:
                raise ValueError("; ".join(mistakes))
        return nodes


GraphNode.model_rebuild()


def _explain_node(name: str, node: Any) -> Iterator[str]:
    """Mistakes that a union of kinds would tell only in terms of all the kinds."""
    if name == INPUTS or not re.fullmatch(r"[A-Za-z_][\w-]*", name):
        yield f"node name {name!r} is not allowed; expected letters, digits, - and _, and not {INPUTS!r}"
    if not isinstance(node, Mapping):
        return
    kind = node.get("kind")
    if kind not in KINDS:
        yield unknown_name(f"kind of node {name!r}:", kind, KINDS)
        return
    known = KINDS[str(kind)].model_fields
    for key in node:
        if key not in known:
            yield unknown_name(f"key of {kind} node {name!r}:", key, known)


def read_graph(path: str | pathlib.Path) -> GraphSpec:
    """Read a graph file and the files of its inner graphs. Raises SpecError, NotFoundError."""
    path = pathlib.Path(path)
    return complete(read_document(path, GraphSpec), path.parent, (path.resolve(),))


def complete(spec: GraphSpec, folder: pathlib.Path, above: tuple[pathlib.Path, ...] = ()) -> GraphSpec:
    """The graph of a document in `folder` with all that it names there: inner graph files, and the modules of its
    Python nodes. What it gives is independent of the machine but for its models. Raises SpecError, NotFoundError."""
    return _attach_code(expand_files(spec, folder, above), folder)


def _attach_code(spec: GraphSpec, folder: pathlib.Path) -> GraphSpec:
    nodes: dict[str, AnyNode] = {}
    for name, node in spec.nodes.items():
        nodes[name] = node
        if isinstance(node, PythonNode) and not node.code:
            module, _, target = node.target.partition(":")
            try:
                files = collect_files(folder, module)
                require_name(files, module, target)
            except SpecError as error:
                raise SpecError(f"Node {name!r}: {error}") from None
            nodes[name] = node.model_copy(update={"code": files})
        elif isinstance(node, GraphNode) and node.graph is not None:
            nodes[name] = node.model_copy(update={"graph": _attach_code(node.graph, folder)})
    return spec.model_copy(update={"nodes": nodes})


def expand_files(spec: GraphSpec, folder: pathlib.Path, above: tuple[pathlib.Path, ...] = ()) -> GraphSpec:
    """The same graph with its inner graph files read in, relative to `folder`; `above` are those being
    read."""
    nodes: dict[str, AnyNode] = {}
    for name, node in spec.nodes.items():
        nodes[name] = node
        if not isinstance(node, GraphNode):
            continue
        if node.graph is not None:
            nodes[name] = node.model_copy(update={"graph": expand_files(node.graph, folder, above)})
            continue
        assert node.file is not None
        path = folder / node.file
        if path.resolve() in above:
            raise SpecError(f"{path} contains itself, by way of {' -> '.join(file.name for file in above)}")
        inner = complete(read_document(path, GraphSpec), path.parent, (*above, path.resolve()))
        nodes[name] = node.model_copy(update={"graph": inner, "file": None})
    return spec.model_copy(update={"nodes": nodes})
