"""The page of all modules: a line each, the first sentence of its docstring, room by room."""

import ast
import pathlib

from reference_pages.markdown import code, table

PACKAGE = pathlib.Path(__file__).parents[2] / "raymlops"


def write_page() -> str:
    """The page of the package's folders and files."""
    folders = sorted({path.parent for path in PACKAGE.rglob("*.py")})
    parts = [
        "# Modules",
        "Every folder and file of the package, with the first sentence of its own text. How they hang together is told in "
        "[Architecture](../architecture.md).",
    ]
    for folder in folders:
        name = "/".join(folder.relative_to(PACKAGE.parent).parts)
        rows = [
            [code(path.name), first_sentence(path)]
            for path in sorted(folder.glob("*.py"))
            if path.stem[0] != "_"
        ]
        parts += [f"## {name}/", first_sentence(folder / "__init__.py")]
        if rows:
            parts.append(table(["file", "what it does"], rows))
    return "\n\n".join(parts) + "\n"


def first_sentence(path: pathlib.Path) -> str:
    """Of the docstring of a module."""
    told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(told.partition("\n\n")[0].split())
    end = paragraph.find(". ")
    return paragraph if end < 0 else paragraph[: end + 1]
