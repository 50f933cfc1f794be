"""Imports users' classes from the files that are stored with a graph or a serving spec. Finds no files: see
`specs.module_files`.

A process has one folder of such files for all classes whose files agree, and which share their modules as in one
program. Files that differ from those, as those of an edited module, get another folder, and are imported again.
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

from raymlops.errors import RaymlopsError, SpecError, describe_cause, unknown_name

_LOCK = threading.RLock()
_FILES: dict[str, str] = {}
"""The folder from which this process imports."""


def import_class(where: str, target: str, files: Mapping[str, str], arguments: Mapping[str, Any]) -> Any:
    """The class of `module:Class` that a document names at `where`, whose module is among `files`, path -> text, or
    installed.

    Raises SpecError if it cannot be imported, or does not accept `arguments` by name.
    """
    module_name, _, class_name = target.partition(":")
    try:
        with _LOCK:
            if files:
                _prepare_import(files)
            module = importlib.import_module(module_name)
    except ImportError as error:
        beside = "" if files else "; it is neither beside the document nor installed"
        raise SpecError(f"{where}: {target!r} cannot be imported: {error}{beside}") from error
    except RaymlopsError:
        raise
    except Exception as error:
        raise SpecError(f"{where}: importing {module_name!r} failed: {describe_cause(error)}") from error
    if not hasattr(module, class_name):
        classes = [name for name, value in vars(module).items() if inspect.isclass(value)]
        raise SpecError(f"{where}: " + unknown_name(f"class of {module_name}:", class_name, classes))
    found = getattr(module, class_name)
    try:
        inspect.signature(found).bind(**arguments)
    except TypeError as error:
        raise SpecError(f"{where}: {target} does not take config {arguments}: {error}") from None
    except ValueError:  # a class of C has no signature
        pass
    return found


def _prepare_import(files: Mapping[str, str]) -> None:
    """Write files to the import folder; modules with the same names from other files are unloaded."""
    tops = list_top_level_modules(files)
    conflict = any(_FILES.get(name, text) != text for name, text in files.items())
    known = list_top_level_modules(_FILES)
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
    for name, module in list(sys.modules.items()):  # already loaded packages may have further modules there
        places = getattr(module, "__path__", None)
        if name.partition(".")[0] in tops and isinstance(places, list):
            places.append(str(pathlib.Path(folder, *name.split("."))))
    importlib.invalidate_caches()


def list_top_level_modules(files: Iterable[str]) -> set[str]:
    """The module names of these files."""
    return {pathlib.PurePosixPath(name).parts[0].removesuffix(".py") for name in files}


def _write(files: Mapping[str, str]) -> pathlib.Path:
    """A folder of this user that holds these files; the same one for equal files."""
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
