"""Imports the modules of Python nodes from the files that travel with a graph. Finds no files: see `module_files`.

A process has one folder of such files for all nodes whose files agree, which share their modules as in one program.
Files that differ from those, as those of an edited module, get another folder, and are imported anew.
"""

import hashlib
import importlib
import inspect
import os
import pathlib
import stat
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from raymlops.errors import ArtifactError, RaymlopsError, SpecError, shorten, unknown_name
from raymlops.specs.graph_nodes import PythonNode

_LOCK = threading.RLock()
_FILES: dict[str, str] = {}
"""Those that this process imports from."""


def load_python(path: str, node: PythonNode) -> Any:
    """An instance of a Python node's class. Raises SpecError for what the document says wrongly, ArtifactError for what
    the class itself raises."""
    target = _import_class(path, node)
    try:
        instance = target(**node.config)
    except RaymlopsError:
        raise
    except Exception as error:
        raise ArtifactError(f"Node {path!r}: {node.target} cannot be made: {_tell(error)}") from error
    if not callable(getattr(instance, "run", None)):
        raise SpecError(f"Node {path!r}: {node.target} has no method run(batch)")
    return instance


def check_python(path: str, node: PythonNode) -> None:
    """Import a node's class, and make none: what it needs may be on other machines only, as a GPU or a package.

    Raises SpecError.
    """
    try:
        target = _import_class(path, node)
    except SpecError as error:
        cause = error.__cause__
        missing = cause.name or "" if isinstance(cause, ModuleNotFoundError) else ""
        if missing and missing.partition(".")[0] not in _find_tops(node.code):
            return
        raise
    if inspect.isclass(target) and not callable(getattr(target, "run", None)):
        raise SpecError(f"Node {path!r}: {node.target} has no method run(batch)")


def _import_class(path: str, node: PythonNode) -> Any:
    module_name, _, class_name = node.target.partition(":")
    try:
        with _LOCK:
            if node.code:
                _prepare_import(node.code)
            module = importlib.import_module(module_name)
    except ImportError as error:
        beside = "" if node.code else "; it is neither beside the document nor installed"
        raise SpecError(f"Node {path!r}: {node.target!r} cannot be imported: {error}{beside}") from error
    except RaymlopsError:
        raise
    except Exception as error:
        raise SpecError(f"Node {path!r}: importing {module_name!r} failed: {_tell(error)}") from error
    if not hasattr(module, class_name):
        classes = [name for name, value in vars(module).items() if inspect.isclass(value)]
        raise SpecError(f"Node {path!r}: " + unknown_name(f"class of {module_name}:", class_name, classes))
    target = getattr(module, class_name)
    try:
        inspect.signature(target).bind(**node.config)
    except TypeError as error:
        raise SpecError(f"Node {path!r}: {node.target} does not take config {node.config}: {error}") from None
    except ValueError:  # a class of C has no signature
        pass
    return target


def _tell(error: Exception) -> str:
    return shorten(f"{type(error).__name__}: {error}", 500)


def _prepare_import(files: Mapping[str, str]) -> None:
    """Put files where they are imported from; modules of other files by their names are forgotten."""
    tops = _find_tops(files)
    conflict = any(_FILES.get(name, text) != text for name, text in files.items())
    known = _find_tops(_FILES)
    if conflict:
        _FILES.clear()
    elif all(name in _FILES for name in files):
        return
    for name in [
        name for name in sys.modules if name.partition(".")[0] in (tops if conflict else tops - known)
    ]:
        del sys.modules[name]
    _FILES.update(files)
    folder = str(_write(_FILES))
    sys.path[:] = [folder, *(place for place in sys.path if place != folder)]
    for name, module in list(
        sys.modules.items()
    ):  # packages that are loaded already may have further modules there
        places = getattr(module, "__path__", None)
        if name.partition(".")[0] in tops and isinstance(places, list):
            places.append(str(pathlib.Path(folder, *name.split("."))))
    importlib.invalidate_caches()


def _find_tops(files: Iterable[str]) -> set[str]:
    """The names by which they are imported."""
    return {pathlib.PurePosixPath(name).parts[0].removesuffix(".py") for name in files}


def _write(files: Mapping[str, str]) -> pathlib.Path:
    """A folder of this user that holds these files; the same one for the same files."""
    text = repr(sorted(files.items())).encode(errors="surrogatepass")
    folder = _own_folder() / hashlib.sha256(text).hexdigest()[:16]
    for name, content in files.items():
        file = folder / name
        if file.is_file() and file.read_text(encoding="utf-8") == content:
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f"{file.name}.{os.getpid()}.part")
        partial.write_text(content, encoding="utf-8")
        partial.replace(file)
    return folder


def _own_folder() -> pathlib.Path:
    folder = pathlib.Path(tempfile.gettempdir()) / f"raymlops-modules-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
        return folder
    return pathlib.Path(
        tempfile.mkdtemp(prefix="raymlops-modules-")
    )  # another user could write into that one
