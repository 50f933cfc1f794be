"""Private names of other packages: looks them up, and describes the consequence if one is missing. The names
themselves are in one adapter per package: `ray_internals`, `serve_internals`, `uvicorn_internals`."""

import dataclasses
import importlib
import importlib.metadata
import inspect
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any

from packaging.specifiers import SpecifierSet

_MISSING = object()


@dataclasses.dataclass(frozen=True)
class PrivateName:
    """The used properties of a name, as far as they can be inspected."""

    without: str
    """The consequence if it is missing."""
    takes: tuple[str, ...] = ()
    """Parameters that are passed to the function, the first ones in order."""
    sets: tuple[str, ...] = ()
    """Attributes that instances of a class have."""
    kind: type = object
    """Type of a value."""


class PrivateNames:
    """The names of one package, by `module:name.of.it`."""

    def __init__(
        self, package: str, tested: str, names: Mapping[str, PrivateName], log: str = "raymlops"
    ) -> None:
        """`tested` are the versions in which the names were checked; any other version is logged, once per process."""
        self.names = names
        self._log = logging.getLogger(log)
        self._version = importlib.metadata.version(package)
        self._title = f"{package.capitalize()} {self._version}"
        self._missed: set[str] = set()
        if not SpecifierSet(tested).contains(self._version, prereleases=True):
            self._log.warning(
                "%s is not a tested version (%s): each private name that it lacks is logged when it is needed",
                self._title,
                tested,
            )

    def find(self, path: str) -> Any:
        """The object of this name, or None if this version has none, which is logged once."""
        found = self._look_up(path, importlib.import_module)
        if found is _MISSING:
            self._miss(path)
            return None
        return found

    def find_loaded(self, path: str) -> Any:
        """The same, but None if its module is not imported yet."""
        found = self._look_up(path, sys.modules.__getitem__)
        return None if found is _MISSING else found

    def call(self, path: str, *arguments: Any, **options: Any) -> Any:
        """The result of the function of this name. Raises NotImplementedError if there is none."""
        found = self._look_up(path, importlib.import_module)
        if found is _MISSING:
            raise NotImplementedError(self._describe(path))
        return found(*arguments, **options)

    def replace(self, path: str, make: Callable[[Any], Any]) -> bool:
        """Replace the function of this name by the result of `make`, once per process. False if there is none, which
        is logged."""
        original = self.find(path)
        if original is None:
            return False
        if not hasattr(original, "replaced"):
            new = make(original)
            new.replaced = original
            self.put(path, new)
        return True

    def put(self, path: str, value: Any) -> None:
        """Set the name to another value. Raises AttributeError or ImportError if its owner is missing."""
        module, _, name = path.partition(":")
        owner: Any = importlib.import_module(module)
        *parents, last = name.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        setattr(owner, last, value)

    def explain(self, path: str) -> str:
        """How the name differs from what was tested, and the consequence; empty if it does not."""
        name = self.names[path]
        found = self._look_up(path, importlib.import_module)
        if found is _MISSING:
            return self._describe(path)
        found = getattr(found, "replaced", found)  # by us
        if not isinstance(found, name.kind):
            return (
                f"{self._title}: {path} is {type(found).__name__}, not {name.kind.__name__}; {name.without}"
            )
        if name.takes:
            try:
                given = tuple(inspect.signature(found).parameters)  # type: ignore[arg-type]
            except (TypeError, ValueError):  # a C function without a signature
                given = name.takes
            if given[: len(name.takes)] != name.takes and not set(name.takes) <= set(given):
                return f"{self._title}: {path} takes {', '.join(given)}, not {', '.join(name.takes)}; {name.without}"
        lost = [attribute for attribute in name.sets if not _sets(found, attribute)]
        if lost:
            return f"{self._title}: {path} has no attribute {', '.join(lost)}; {name.without}"
        return ""

    def are_known(self) -> bool:
        """Whether all names are as tested; differences are logged once."""
        wrong = [path for path in self.names if self.explain(path)]
        for path in wrong:
            self._miss(path)
        return not wrong

    def _describe(self, path: str) -> str:
        return f"{self._title} is not a known version: it has no {path}; {self.names[path].without}"

    def _miss(self, path: str) -> None:
        if path not in self._missed:
            self._missed.add(path)
            self._log.error("%s", self.explain(path) or self._describe(path))

    def _look_up(self, path: str, load: Callable[[str], Any]) -> Any:
        assert path in self.names, f"{path} is in no adapter"
        module, _, name = path.partition(":")
        try:
            found = load(module)
            for part in name.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError, KeyError):
            return _MISSING
        return found


def _sets(kind: Any, attribute: str) -> bool:
    """Whether instances of a class have an attribute, judged by the class and by the names in its methods."""
    if hasattr(kind, attribute):
        return True
    return any(
        attribute in vars(base).get("__annotations__", ())
        or any(
            attribute in method.__code__.co_names
            for method in vars(base).values()
            if inspect.isfunction(method)
        )
        for base in inspect.getmro(kind)
    )
