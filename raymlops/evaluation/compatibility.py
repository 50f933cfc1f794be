"""Finds changes of a new version that break callers of the old one, from the contracts of both. Reads no file."""

from collections.abc import Mapping
from typing import Any


def find_breaking_changes(new: Mapping[str, Any], old: Mapping[str, Any]) -> tuple[str, ...]:
    """One sentence for each change that callers of the old model would notice; empty if there is none.

    Empty contracts, of models of another origin, are not compared.
    """
    if not new.get("columns") or not old.get("columns"):
        return ()
    return (*_compare_columns(new["columns"], old["columns"]), *_compare_targets(new, old))


def _compare_columns(new: list[dict[str, Any]], old: list[dict[str, Any]]) -> list[str]:
    known = {column["name"]: column for column in old}
    breaks = []
    for column in new:
        name, before = column["name"], known.get(column["name"])
        if before is None:
            if not column.get("nullable", False):
                breaks.append(f"column {name!r} is new and required; callers do not send it")
            continue
        if column.get("kind") != before.get("kind"):
            breaks.append(f"column {name!r} was {before.get('kind')} and is now {column.get('kind')}")
        if before.get("nullable", False) and not column.get("nullable", False):
            breaks.append(f"column {name!r} could be missing and is now required")
    return breaks


def _compare_targets(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    after, before = new.get("target") or {}, old.get("target") or {}
    if after.get("task") != before.get("task"):
        return [f"the task was {before.get('task')} and is now {after.get('task')}"]
    classes, held = list(after.get("classes") or ()), list(before.get("classes") or ())
    if classes == held:
        return []
    if sorted(map(str, classes)) == sorted(map(str, held)):
        return [
            f"the order of the classes was {held} and is now {classes}; probabilities would be read wrongly"
        ]
    return [f"the classes were {held} and are now {classes}"]
