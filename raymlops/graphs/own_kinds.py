"""Kinds of nodes written by users: `kind: module:Class`, imported when a graph is validated. Imports none of the
built-in kinds."""

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any, cast

from raymlops.errors import RaymlopsError, SpecError, describe_cause, shorten
from raymlops.graphs.node_kind import NodeKind
from raymlops.graphs.plan import Port
from raymlops.graphs.user_modules import import_class
from raymlops.specs.document import validate_document
from raymlops.specs.graph_nodes import NodeDocument, is_own


def load_kind(path: str, node: NodeDocument) -> NodeKind[Any]:
    """The kind that the node at `path` names. Raises SpecError."""
    with failures_named(path, node):
        kind = import_class(f"Node {path!r}", node.kind, node.list_code(), {})()
    if NodeKind not in type(kind).__mro__:
        raise SpecError(f"Node {path!r}: {node.kind} is not a subclass of raymlops.graphs.node_kind.NodeKind")
    spec = getattr(kind, "spec", None)
    if not (inspect.isclass(spec) and issubclass(spec, NodeDocument)):
        raise SpecError(
            f"Node {path!r}: {node.kind} has as its spec {spec!r}; expected a subclass of "
            "raymlops.specs.graph_nodes.NodeDocument"
        )
    if kind.is_leaf:
        raise SpecError(
            f"Node {path!r}: {node.kind} says is_leaf, but only models and Python nodes are opened by themselves; "
            "write a node of `kind: python`"
        )
    return cast(NodeKind[Any], kind)


def read_options(path: str, node: NodeDocument, kind: NodeKind[Any]) -> NodeDocument:
    """The document of a node, as the `spec` of its kind. Raises SpecError with one line per mistake."""
    options = node.model_dump(exclude_unset=True, exclude={"kind", "code"})
    with failures_named(path, node):
        document: NodeDocument = validate_document(options, kind.spec, source=f"Node {path!r}")
    if document.inner_graph is not None:
        raise SpecError(f"Node {path!r}: {node.kind} has a graph inside, which only `kind: graph` can have")
    return document


def require_ports(outputs: Any) -> tuple[Port, ...]:
    """The outputs that a kind says a node has. Raises TypeError, ValueError if they are none."""
    if not isinstance(outputs, tuple | list) or not all(isinstance(port, Port) for port in outputs):
        raise TypeError(f"its outputs are {shorten(repr(outputs))}; expected a tuple of graphs.plan.Port")
    names = [port.spec.name for port in outputs]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"its outputs are named {names}; expected at least one, each with a name of its own")
    return tuple(outputs)


@contextlib.contextmanager
def failures_named(path: str, node: NodeDocument) -> Iterator[None]:
    """Turns errors of a user's kind into a SpecError that names the node and the kind."""
    try:
        yield
    except RaymlopsError:
        raise
    except Exception as error:
        if not is_own(node.kind):
            raise
        raise SpecError(f"Node {path!r}: {node.kind} failed: {describe_cause(error)}") from error
