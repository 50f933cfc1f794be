"""Reads YAML and JSON of unknown origin as plain values: with limits, and without YAML's features beyond data. Knows
no specs."""

import json
from collections.abc import Hashable
from typing import Any

import yaml

from raymlops.errors import SpecError

MAX_BYTES = 8 * 2**20
MAX_NODES = 200_000
"""Maximum number of values in a document; those that aliases repeat count each time."""
MAX_ALIASES = 1_000
MAX_DEPTH = 60
MAX_JSON_BYTES = 64 * 2**20

_EVENTS = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key: Any = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise _DoubledKeyError(str(key_node.value), key_node.start_mark.line + 1)
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _DoubledKeyError(Exception):
    pass


def read_yaml(text: str, source: str = "text") -> tuple[Any, Any]:
    """The value of a YAML text, and its node, which has the line numbers. `source` names it in errors.

    Raises SpecError for text that is not YAML, has tags or duplicate keys, or is larger, deeper or more repetitive
    than documents written by people are.
    """
    if len(text) > MAX_BYTES:
        raise SpecError(f"{source} has {len(text):,} characters; a document has {MAX_BYTES:,} at most")
    try:
        _check_budget(text, source)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            value = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
        return value, node
    except _DoubledKeyError as error:
        raise SpecError(f"{source}:{error.args[1]}: key {error.args[0]!r} is given twice; keep one") from None
    except (
        yaml.YAMLError,
        ValueError,
        TypeError,
        OverflowError,
    ) as error:  # a date such as 2024-13-01 is a ValueError
        raise SpecError(f"{source} is not valid YAML: {' '.join(str(error).split())[:500]}") from None
    except RecursionError:
        raise SpecError(f"{source} is nested too deeply; {MAX_DEPTH} levels are allowed") from None


def _check_budget(text: str, source: str) -> None:
    """Counts over the parser's events, before anything is built. Raises SpecError."""
    sizes: dict[str, int | None] = {}  # size of what an anchor names; None while it is open
    open_parts: list[tuple[str | None, int]] = []  # anchor, and the count at its start
    count = aliases = 0
    for event in yaml.parse(text, Loader=_EVENTS):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent):
            aliases += 1
            size = sizes.get(str(event.anchor), 1)
            if size is None:
                raise SpecError(f"{source}:{line}: the alias *{event.anchor} stands inside of what it names")
            count += size
        elif isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            _check_tag(event, f"{source}:{line}")
            count += 1
            if isinstance(event, yaml.CollectionStartEvent):
                open_parts.append((event.anchor, count - 1))
                if event.anchor:
                    sizes[event.anchor] = None
            elif event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, began = open_parts.pop()
            if anchor:
                sizes[anchor] = count - began
        if count > MAX_NODES or aliases > MAX_ALIASES:
            raise SpecError(
                f"{source}:{line}: the document has more than {MAX_NODES:,} values or {MAX_ALIASES:,} aliases, "
                "those that aliases repeat counted each time"
            )
        if len(open_parts) > MAX_DEPTH:
            raise SpecError(f"{source}:{line}: the document is nested deeper than {MAX_DEPTH} levels")


def _check_tag(event: Any, place: str) -> None:
    tag = event.tag
    if tag is None or tag in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
        return
    raise SpecError(f"{place}: the tag {tag} is not allowed; write plain values")


def read_json(text: str | bytes, source: str = "text") -> Any:
    """The value of a JSON text. Raises SpecError for text that is not JSON, has duplicate keys, or is larger or
    deeper than any recorded document."""
    if len(text) > MAX_JSON_BYTES:
        raise SpecError(f"{source} has {len(text):,} characters; {MAX_JSON_BYTES:,} are read at most")
    try:
        value = json.loads(text, object_pairs_hook=_to_object)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise SpecError(f"{source} is not valid JSON: {' '.join(reason.split())[:300]}") from None
    _check_depth(value, source)
    return value


def _to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        doubled = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {doubled[:100]!r} is given twice")
    return value


def _check_depth(value: Any, source: str) -> None:
    level, depth = [value], 0
    while level:
        if depth > MAX_DEPTH:
            raise SpecError(f"{source} is nested deeper than {MAX_DEPTH} levels")
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        depth += 1
