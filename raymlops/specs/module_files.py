"""The files of a user's module, such as a Python node's, found beside the document that names it: modules that its
text imports from there, and text files that it names. Imports and runs nothing.

They are stored with the document, so that every process on every node of a cluster runs the code that was beside it.
"""

import ast
import importlib.machinery
import importlib.util
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated

import pydantic

from raymlops.errors import SpecError, unknown_name

LIMIT = 2**20
"""Maximum bytes of all files of a module: they are stored with the application's config."""


def _require_inside(code: dict[str, str]) -> dict[str, str]:
    for name in code:
        path = pathlib.PurePosixPath(name)
        if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
            raise ValueError(f"file name {name!r} must be a path below the document's folder")
    return code


CodeFiles = Annotated[dict[str, str], pydantic.AfterValidator(_require_inside)]
"""Relative path -> text, as in a spec."""
_NEVER = frozenset(sys.stdlib_module_names | {"raymlops", "__main__"})


def collect_files(folder: pathlib.Path, module: str) -> dict[str, str]:
    """Relative path -> text, for a module and what it imports from `folder`; empty if it does not exist.

    Raises SpecError if the module cannot be read, or is larger than `LIMIT`.
    """
    top = module.partition(".")[0]
    if top in _NEVER or not any(_find(folder, module)):
        return {}
    if _is_installed(folder, top):
        raise SpecError(
            f"Module {module!r} beside the document has the name of an installed package; rename one of them"
        )
    found: dict[str, str] = {}
    waiting = [module]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if (name.partition(".")[0] in _NEVER) or (
            name != module and _is_installed(folder, name.partition(".")[0])
        ):
            continue
        for path, owner in _find(folder, name):
            relative = path.relative_to(folder).as_posix()
            if relative in found:
                continue
            found[relative] = text = _read(path)
            tree = _parse(text, path)
            waiting += _imported(tree, owner, path.name == "__init__.py")
            found |= _named_files(tree, folder, path)
    size = sum(len(text.encode()) for text in found.values())
    if size > LIMIT:
        raise SpecError(
            f"Module {module!r} and what it imports from {str(folder)!r} have {size:,} bytes, more than {LIMIT:,}; "
            "install them as a package on every node instead"
        )
    return dict(sorted(found.items()))


def collect_target(folder: pathlib.Path, target: str) -> dict[str, str]:
    """Like `collect_files`, for a `module:Class`; also checks that the text defines such a class. Raises SpecError."""
    module, _, name = target.partition(":")
    files = collect_files(folder, module)
    require_name(files, module, name)
    return files


def require_name(files: Mapping[str, str], module: str, name: str) -> None:
    """Raises SpecError if the text of a module, one of `files`, cannot define a class of this name."""
    stem = module.replace(".", "/")
    file = next((found for found in (f"{stem}.py", f"{stem}/__init__.py") if found in files), "")
    if not file:
        return
    known: set[str] = set()
    for node in ast.walk(_parse(files[file], pathlib.Path(file))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            known.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            known.add(node.id)
        elif isinstance(node, ast.alias):
            known.add(node.asname or node.name)
    if name not in known and "*" not in known:
        raise SpecError(unknown_name(f"class of {module}:", name, known))


def _find(folder: pathlib.Path, module: str) -> Iterator[tuple[pathlib.Path, str]]:
    """The files that importing a module runs, outermost first, each with the name of its module; empty if it does not
    exist."""
    parts = module.split(".")
    files = []
    for i in range(1, len(parts) + 1):
        stem, name = folder.joinpath(*parts[:i]), ".".join(parts[:i])
        if (stem / "__init__.py").is_file():
            files.append((stem / "__init__.py", name))
        elif stem.with_name(f"{stem.name}.py").is_file():
            if i < len(parts):
                return
            files.append((stem.with_name(f"{stem.name}.py"), name))
        elif not stem.is_dir():
            return
    yield from files


def _is_installed(folder: pathlib.Path, top: str) -> bool:
    """Whether an installed package has this name, which other code may have imported."""
    try:
        spec = importlib.machinery.PathFinder.find_spec(top)
    except (ImportError, ValueError):
        return False
    places = [spec.origin] if spec and spec.origin else list((spec and spec.submodule_search_locations) or ())
    return any(
        {"site-packages", "dist-packages"} & set(pathlib.Path(place).parts)
        and not pathlib.Path(place).resolve().is_relative_to(folder.resolve())
        for place in places
    )


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"Cannot read module {str(path)!r}: {error}") from None


def _parse(text: str, path: pathlib.Path) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise SpecError(f"{path}{f':{line}' if line else ''}: not valid Python: {error}") from None


def _imported(tree: ast.Module, module: str, is_package: bool) -> Iterator[str]:
    """Names of modules that a text imports, anywhere in it; some may be names inside modules."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)


def _named_files(tree: ast.Module, folder: pathlib.Path, path: pathlib.Path) -> dict[str, str]:
    """Text files beside a module that its text names, such as "labels.txt"."""
    found = {}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Constant) and isinstance(node.value, str) and 0 < len(node.value) < 200):
            continue
        name = pathlib.PurePosixPath(node.value)
        if not name.suffix or name.is_absolute() or ".." in name.parts or "\0" in node.value:
            continue
        file = path.parent / name
        try:
            if file.is_file() and file.stat().st_size <= LIMIT:
                found[file.relative_to(folder).as_posix()] = file.read_text(encoding="utf-8")
        except (OSError, ValueError):  # a name that is too long, or not a text file
            continue
    return found
