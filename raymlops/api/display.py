"""What notebooks and terminals show of the functions: progress, tables, reports."""

import html
import pathlib
from collections.abc import Callable, Mapping

import pandas as pd


def is_shown(progress: bool | None) -> bool:
    """Whether to print progress: by default in notebooks and terminals only."""
    if progress is not None:
        return progress
    from rich.console import Console

    console = Console()
    return console.is_jupyter or console.is_terminal


def teller(progress: bool | None) -> Callable[[str], None]:
    """Prints a line, or nothing."""
    return print if is_shown(progress) else lambda line: None


def to_table(values: Mapping[str, float]) -> str:
    return pd.DataFrame([values]).to_html(index=False, float_format="{:.4f}".format)


def to_frame(report: pathlib.Path) -> str:
    """A separate page within the notebook's: its styles do not leak, and scripts do not run."""
    content = html.escape(report.read_text(encoding="utf-8"), quote=True)
    return f'<iframe srcdoc="{content}" sandbox="" style="width: 100%; height: 40em; border: 0"></iframe>'
