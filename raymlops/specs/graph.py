"""Compositions of models as a user writes them: named nodes, inner graphs, outputs. Does not define how they run."""

import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union

import pydantic
from pydantic import Field

from raymlops.errors import SpecError, unknown_name
from raymlops.specs.document import Document, read_document
from raymlops.specs.graph_nodes import (
    INPUTS,
    NODE_DOCUMENTS,
    Bindings,
    GraphNode,
    NodeDocument,
    OwnNode,
    Tensor,
    is_own,
)
from raymlops.specs.module_files import collect_target

if TYPE_CHECKING:
    AnyNode = NodeDocument
else:
    AnyNode = Union[tuple(NODE_DOCUMENTS.values())]  # noqa: UP007 (of a dict)


def _read_node(value: Any, read: pydantic.ValidatorFunctionWrapHandler) -> NodeDocument:
    """Nodes of a user's kind have no class among those of `AnyNode`."""
    kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    node: NodeDocument = OwnNode.model_validate(value) if is_own(kind) else read(value)
    return node


class GraphSpec(Document):
    """A composition of models: nodes, and outputs."""

    name: str = Field("graph", pattern=r"^[\w.-]+$", description="the model name that clients call")
    inputs: list[Tensor] | None = Field(
        None, description="the request's tensors; without it they are inferred from the nodes"
    )
    nodes: dict[
        str,
        pydantic.SerializeAsAny[
            Annotated[AnyNode, Field(discriminator="kind"), pydantic.WrapValidator(_read_node)]
        ],
    ] = Field(min_length=1, description="name -> node")
    outputs: Bindings = Field(
        min_length=1, description="output name -> reference; or nodes whose tensors are all outputs"
    )
    deadline_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="a request not answered in this time gets 504; an inner graph has the outer one's limit",
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
GraphSpec.model_rebuild()


def _explain_node(name: str, node: Any) -> Iterator[str]:
    """Mistakes that a union of kinds would report only in terms of all the kinds."""
    if name == INPUTS or not re.fullmatch(r"[A-Za-z_][\w-]*", name):
        yield f"node name {name!r} is not allowed; expected letters, digits, - and _, and not {INPUTS!r}"
    if not isinstance(node, Mapping):
        return
    kind = node.get("kind")
    if is_own(kind):
        return
    if not isinstance(kind, str) or kind not in NODE_DOCUMENTS:
        yield unknown_name(f"kind of node {name!r}:", kind, NODE_DOCUMENTS)
        return
    known, renamed = NODE_DOCUMENTS[str(kind)].model_fields, NODE_DOCUMENTS[str(kind)].renamed
    for key in node:
        if key not in known and key not in renamed:
            yield unknown_name(f"key of {kind} node {name!r}:", key, known)


def read_graph(path: str | pathlib.Path) -> GraphSpec:
    """Read a graph file and the files of its inner graphs. Raises SpecError, NotFoundError."""
    path = pathlib.Path(path)
    return complete(read_document(path, GraphSpec), path.parent, (path.resolve(),))


def complete(spec: GraphSpec, folder: pathlib.Path, above: tuple[pathlib.Path, ...] = ()) -> GraphSpec:
    """The graph of a document in `folder` with all files that it names there: inner graph files, and the modules of
    its Python nodes. Except for its models, the result does not depend on the machine. Raises SpecError,
    NotFoundError."""
    return _attach_code(expand_files(spec, folder, above), folder)


def change_nodes(spec: GraphSpec, change: Callable[[str, NodeDocument], NodeDocument]) -> GraphSpec:
    """The same graph with other nodes; `change` gets the name and the node."""
    nodes = {name: change(name, node) for name, node in spec.nodes.items()}
    return spec.model_copy(update={"nodes": nodes})


def list_nodes(spec: GraphSpec, prefix: str = "") -> Iterator[tuple[str, NodeDocument]]:
    """Every node of a graph and of its inner graphs, by path: `node`, or `outer/inner`."""
    for name, node in spec.nodes.items():
        yield prefix + name, node
        if node.inner_graph is not None:
            yield from list_nodes(node.inner_graph, f"{prefix}{name}/")


def _attach_code(spec: GraphSpec, folder: pathlib.Path) -> GraphSpec:
    def attach(name: str, node: NodeDocument) -> NodeDocument:
        try:
            completed = node.complete_code(lambda target: collect_target(folder, target))
        except SpecError as error:
            raise SpecError(f"Node {name!r}: {error}") from None
        return completed.change_graph(lambda inner: _attach_code(inner, folder))

    return change_nodes(spec, attach)


def expand_files(spec: GraphSpec, folder: pathlib.Path, above: tuple[pathlib.Path, ...] = ()) -> GraphSpec:
    """The same graph with its inner graph files read in, relative to `folder`; `above` are the files being read."""

    def read(file: str) -> GraphSpec:
        path = folder / file
        if path.resolve() in above:
            raise SpecError(f"{path} contains itself, by way of {' -> '.join(file.name for file in above)}")
        return complete(read_document(path, GraphSpec), path.parent, (*above, path.resolve()))

    def expand(name: str, node: NodeDocument) -> NodeDocument:
        return node.change_graph(lambda inner: expand_files(inner, folder, above)).read_graph(read)

    return change_nodes(spec, expand)
