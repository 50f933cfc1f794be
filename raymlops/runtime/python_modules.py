"""Makes the classes of Python nodes, or only looks whether they can be made."""

import inspect
from typing import Any

from raymlops.errors import ArtifactError, RaymlopsError, SpecError
from raymlops.graphs.user_modules import find_tops, import_class, tell
from raymlops.specs.graph_nodes import PythonNode


def load_python(path: str, node: PythonNode) -> Any:
    """An instance of a Python node's class. Raises SpecError for what the document says wrongly, ArtifactError for what
    the class itself raises."""
    target = import_class(path, node.target, node.code, node.config)
    try:
        instance = target(**node.config)
    except RaymlopsError:
        raise
    except Exception as error:
        raise ArtifactError(f"Node {path!r}: {node.target} cannot be made: {tell(error)}") from error
    if not callable(getattr(instance, "run", None)):
        raise SpecError(f"Node {path!r}: {node.target} has no method run(batch)")
    return instance


def check_python(path: str, node: PythonNode) -> None:
    """Import a node's class, and make none: what it needs may be on other machines only, as a GPU or a package.

    Raises SpecError.
    """
    try:
        target = import_class(path, node.target, node.code, node.config)
    except SpecError as error:
        cause = error.__cause__
        missing = cause.name or "" if isinstance(cause, ModuleNotFoundError) else ""
        if missing and missing.partition(".")[0] not in find_tops(node.code):
            return
        raise
    if inspect.isclass(target) and not callable(getattr(target, "run", None)):
        raise SpecError(f"Node {path!r}: {node.target} has no method run(batch)")
