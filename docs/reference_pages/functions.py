"""Reference of `import raymlops`: signatures and docstrings of its functions and of what they give."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

import raymlops
from raymlops import api
from reference_pages.markdown import sentence, table


def write_page() -> str:
    """The page of functions for notebooks and scripts."""
    parts = [
        "# Python functions",
        "`import raymlops` gives a few functions that do what the commands of the same names do, in this process. They "
        "read the same environment variables. What they give shows itself in Jupyter.",
    ]
    named = [(name, getattr(raymlops, name)) for name in raymlops.__all__]
    for name, found in named:
        parts += [f"## raymlops.{name}", *_write(found)]
    listed = {id(found) for _, found in named}
    for name, found in sorted(vars(api).items()):
        ours = inspect.isclass(found) and found.__module__.startswith("raymlops.api")
        if ours and not name.startswith("_") and id(found) not in listed:
            parts += [f"## {name}", *_write(found)]
    return "\n\n".join(parts) + "\n"


def _write(found: Any) -> Iterator[str]:
    if not inspect.isclass(found):
        yield f"```python\n{found.__name__}{_signature(found)}\n```"
    yield _text(found)
    if inspect.isclass(found):
        rows = [
            [_call(name, member), sentence(inspect.getdoc(member) or "")] for name, member in _members(found)
        ]
        if rows:
            yield table(["part", "meaning"], rows)


def _signature(found: Any) -> str:
    """As it stands in the source, a parameter a line where one line would be long."""
    (made,) = ast.parse(textwrap.dedent(inspect.getsource(found))).body
    assert isinstance(made, ast.FunctionDef)
    given = made.args
    defaults = [None] * (len(given.args) - len(given.defaults)) + [*given.defaults]
    parts = [_parameter(one, default) for one, default in zip(given.args, defaults, strict=True)]
    if given.kwonlyargs:
        parts.append("*")
        parts += [
            _parameter(one, default) for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)
        ]
    gives = f" -> {ast.unparse(made.returns).strip(chr(39))}" if made.returns else ""
    line = f"({', '.join(parts)}){gives}"
    if len(made.name) + len(line) <= 90:
        return line
    return "(\n" + "".join(f"    {part},\n" for part in parts) + f"){gives}"


def _parameter(one: ast.arg, default: ast.expr | None) -> str:
    told = one.arg + (f": {ast.unparse(one.annotation).strip(chr(39))}" if one.annotation else "")
    return told if default is None else f"{told} = {ast.unparse(default)}"


def _text(found: Any) -> str:
    """The docstring; what is indented in it is code."""
    paragraphs = (inspect.getdoc(found) or "").split("\n\n")
    return "\n\n".join(
        f"```python\n{textwrap.dedent(paragraph)}\n```"
        if paragraph.startswith("    ")
        else " ".join(paragraph.split())
        for paragraph in paragraphs
    )


def _members(found: Any) -> Iterator[tuple[str, Any]]:
    for name, member in vars(found).items():
        if not name.startswith("_") and (isinstance(member, property) or inspect.isfunction(member)):
            yield name, member


def _call(name: str, member: Any) -> str:
    return f"`.{name}`" if isinstance(member, property) else f"`.{name}()`"
