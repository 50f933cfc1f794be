"""The pages of the site that are made from the code, by their paths. Writes no file: `docs/hooks.py` hands them to mkdocs.

Everything a reader may look up (keys of specs, commands, functions, metrics, ports, files, variables) is read from the
code itself, so it cannot be out of date.
"""

import pathlib
from collections.abc import Callable

from reference_pages import commands, documents, expressions, functions, modules, operations

ROOT = pathlib.Path(__file__).parents[2]

PAGES: dict[str, Callable[[], str]] = {
    "reference/specs.md": documents.write_specs,
    "reference/serving.md": documents.write_serving,
    "reference/graphs.md": documents.write_graphs,
    "reference/notify.md": documents.write_notify,
    "reference/expressions.md": expressions.write_page,
    "reference/commands.md": commands.write_page,
    "reference/python.md": functions.write_page,
    "reference/modules.md": modules.write_page,
    "operations.md": operations.write_page,
}
"""Path in the site -> what writes its Markdown."""

INCLUDED: dict[str, str] = {
    "clusters.md": "clusters/README.md",
    "scale.md": "clusters/scale.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "security.md": "SECURITY.md",
}
"""Path in the site -> file of the repository that is the page."""
