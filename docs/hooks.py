"""mkdocs calls this: it adds to the site the pages that are made from the code, and those that are files of the
repository's root."""

import pathlib
import re
import sys

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import reference_pages


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to those that are files below docs/."""
    for path, write in reference_pages.PAGES.items():
        files.append(File.generated(config, path, content=write()))
    for path, name in reference_pages.INCLUDED.items():
        text = (reference_pages.ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, path, content=_without_links(text)))
    return files


def _without_links(text: str) -> str:
    """Links to files of the repository, which are no pages, stay as their text."""
    return re.sub(r"\[([^\]]*)\]\((?!https?://|#)[^)]*\)", r"\1", text)
