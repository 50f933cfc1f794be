"""Creates instances of the classes that a user's document names, for Python nodes and observers, or only checks that
they can be created."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from raymlops.errors import ArtifactError, RaymlopsError, SpecError, describe_cause
from raymlops.graphs.user_modules import import_class, list_top_level_modules
from raymlops.specs.graph_nodes import PythonNode
from raymlops.specs.serving import ObserverSpec


@dataclasses.dataclass(frozen=True)
class UserClass:
    """The `module:Class` of a document, with the files of its module and its constructor arguments; `method` is a
    method that it must have."""

    where: str
    target: str
    code: Mapping[str, str]
    config: Mapping[str, Any]
    method: str

    def load(self) -> Any:
        """An instance. Raises SpecError for mistakes of the document, ArtifactError for errors of the class itself."""
        target = import_class(self.where, self.target, self.code, self.config)
        try:
            instance = target(**self.config)
        except RaymlopsError:
            raise
        except Exception as error:
            raise ArtifactError(
                f"{self.where}: {self.target} cannot be made: {describe_cause(error)}"
            ) from error
        self._require_method(instance)
        return instance

    def check(self) -> Any:
        """Import it without creating an instance: what it needs, such as a GPU or a package, may be on other machines
        only.

        Returns the class, or None if a package is missing here. Raises SpecError.
        """
        try:
            target = import_class(self.where, self.target, self.code, self.config)
        except SpecError as error:
            cause = error.__cause__
            missing = cause.name or "" if isinstance(cause, ModuleNotFoundError) else ""
            if missing and missing.partition(".")[0] not in list_top_level_modules(self.code):
                return None
            raise
        if inspect.isclass(target):
            self._require_method(target)
        return target

    def _require_method(self, owner: Any) -> None:
        if not callable(getattr(owner, self.method.partition("(")[0], None)):
            raise SpecError(f"{self.where}: {self.target} has no method {self.method}")


def find_python(path: str, node: PythonNode) -> UserClass:
    """The class of a Python node."""
    return UserClass(f"Node {path!r}", node.target, node.code, node.config, "run(batch)")


def find_observer(name: str, spec: ObserverSpec) -> UserClass:
    """The class of a user's observer."""
    return UserClass(f"Observer {name!r}", spec.target, spec.code, spec.config, "observe(events)")


def load_python(path: str, node: PythonNode) -> Any:
    """An instance of a Python node's class. Raises SpecError for mistakes of the document, ArtifactError for errors
    of the class itself."""
    return find_python(path, node).load()


def check_python(path: str, node: PythonNode) -> None:
    """Import a node's class, without creating an instance. Raises SpecError."""
    find_python(path, node).check()
