"""Opens the leaves of a graph: one entry for each kind of node that is a leaf. Imports neither plans nor Ray."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from raymlops.graphs.answer_checks import Check, accept_all, make_check
from raymlops.graphs.placement import Measurement
from raymlops.graphs.plan import Port
from raymlops.models.isolated_session import open_isolated
from raymlops.models.row_independence import Independence, prove_rows
from raymlops.models.safety import Model, read_model, size_of
from raymlops.models.session import Session, SessionOptions, open_session
from raymlops.runtime.python_modules import check_python, load_python
from raymlops.runtime.run_cost import measure
from raymlops.specs.graph_nodes import ModelNode, PythonNode
from raymlops.specs.serving import HostedModel
from raymlops.tensors import Signature

Locate = Callable[[str], pathlib.Path]
"""`models:/...` or a path -> the ONNX file."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """An opened model or Python class; `data` is the checked model."""

    path: str
    session: Session | None
    instance: Any
    data: Model
    measured: Measurement | None
    independence: Independence
    """Whether requests may share a run of it."""
    check: Check = accept_all
    """Checks a Python node's outputs against its declaration."""

    @property
    def signature(self) -> Signature | None:
        return self.session.signature if self.session else None


class LeafKind(Protocol):
    """A kind of node that a model or a class implements; `node` is a document of that kind."""

    def open(self, path: str, node: Any, locate: Locate, options: SessionOptions | None) -> Leaf:
        """Load the model or class of the node at `path`. Raises NotFoundError, ArtifactError, SpecError."""
        ...

    def check(self, path: str, node: Any) -> None:
        """Check that it can be opened where it will run, without opening it. Raises SpecError."""
        ...

    def model_of(self, node: Any) -> HostedModel | None:
        """Its model, which nodes may share; None if it runs code."""
        ...

    def with_model(self, node: Any, model: HostedModel) -> Any:
        """The same node with another source and digest of its model."""
        ...


class ModelLeaf:
    def open(self, path: str, node: ModelNode, locate: Locate, options: SessionOptions | None) -> Leaf:
        file = locate(node.model)
        data = read_model(file, node.digest)
        session = (
            open_isolated(path, file, data, options or SessionOptions())
            if node.isolate
            else open_session(data, options)
        )
        cost = measure(session)
        measured = Measurement((cost.fixed + cost.row) * 1000, size_of(data))
        return Leaf(path, session, None, data, measured, prove_rows(data))

    def check(self, path: str, node: ModelNode) -> None: ...

    def model_of(self, node: ModelNode) -> HostedModel | None:
        return HostedModel(source=node.model, digest=node.digest, isolate=node.isolate)

    def with_model(self, node: ModelNode, model: HostedModel) -> ModelNode:
        return node.model_copy(update={"model": model.source, "digest": model.digest})


class PythonLeaf:
    def open(self, path: str, node: PythonNode, locate: Locate, options: SessionOptions | None) -> Leaf:
        instance = load_python(path, node)
        check = make_check(path, [Port(tensor.to_spec(), tensor.ragged) for tensor in node.outputs])
        return Leaf(path, None, instance, b"", None, ask_independence(instance), check)

    def check(self, path: str, node: PythonNode) -> None:
        check_python(path, node)

    def model_of(self, node: PythonNode) -> HostedModel | None:
        return None

    def with_model(self, node: PythonNode, model: HostedModel) -> PythonNode:
        raise AssertionError("a Python node has no model")


LEAF_KINDS: Mapping[str, LeafKind] = {"model": ModelLeaf(), "python": PythonLeaf()}
"""Leaf kinds of `graphs.kinds.KINDS` -> how to open them."""


def open_leaf(path: str, node: Any, locate: Locate, options: SessionOptions | None = None) -> Leaf:
    """Load the model or class of a node. Raises NotFoundError, ArtifactError, SpecError."""
    return LEAF_KINDS[node.kind].open(path, node, locate, options)


def ask_independence(instance: Any) -> Independence:
    """A Python node declares it itself, as an attribute of its class: it cannot be determined otherwise."""
    if getattr(instance, "rows_independent", False) is True:
        return Independence()
    return Independence(f"{type(instance).__name__} does not say rows_independent = True")
