"""Labels of nodes and selectors of workers, in Ray's syntax: value, !value, in(a, b), !in(a, b)."""

import re
from collections.abc import Mapping

_VALUE = r"[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_SELECTOR = re.compile(rf"!?({_VALUE}|in\({_VALUE}(, ?{_VALUE})*\))")


def explain_mistake(selectors: Mapping[str, str]) -> str | None:
    """What is wrong with a mapping of label to selector; None if nothing is."""
    for label, selector in selectors.items():
        if not _SELECTOR.fullmatch(selector):
            return f"label {label!r} asks for {selector!r}; expected value, !value, in(a, b) or !in(a, b)"
    return None


def match(selectors: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a node with these labels matches the selectors."""
    return all(_answers(labels.get(label), selector) for label, selector in selectors.items())


def _answers(value: str | None, selector: str) -> bool:
    wanted = selector.removeprefix("!").removeprefix("in(").removesuffix(")").split(",")
    return (value in [part.strip() for part in wanted]) != selector.startswith("!")
