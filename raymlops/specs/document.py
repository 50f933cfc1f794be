"""Reads a YAML file into a spec. Every mistake becomes a sentence with file, line, key, value and the
nearest known key."""

import pathlib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import pydantic
import yaml

from raymlops.errors import NotFoundError, SpecError, unknown_name

Key = tuple[int | str, ...]


class Document(pydantic.BaseModel):
    """A part of a spec: frozen, and unknown keys are errors."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


D = TypeVar("D", bound=Document)


def read_document(path: str | pathlib.Path, kind: type[D], overrides: Sequence[str] = ()) -> D:
    """Read a YAML file as `kind`; `overrides` are `key.path=value` strings, their values YAML.

    Raises NotFoundError when the file is missing, SpecError with one line a mistake otherwise.
    """
    path = pathlib.Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFoundError(f"No file {str(path)!r}; give the path of a {kind.__name__} YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"Cannot read {str(path)!r}: {error}") from None
    return parse_document(text, kind, source=str(path), overrides=overrides)


def parse_document(text: str, kind: type[D], source: str = "text", overrides: Sequence[str] = ()) -> D:
    """As `read_document`, from text that is at hand; `source` names it in errors."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise SpecError(f"{source} holds {_show(value)}; expected a mapping of keys to values")
    for override in overrides:
        _apply_override(value, override)
    return validate_document(value, kind, source, lines=lambda key: _find_line(node, key))


def validate_document(
    value: Mapping[str, Any],
    kind: type[D],
    source: str = "value",
    lines: typing.Callable[[Key], int | None] | None = None,
) -> D:
    """Check a mapping as `kind`. Raises SpecError with one line a mistake."""
    try:
        return kind.model_validate(value)
    except pydantic.ValidationError as error:
        where = lines or (lambda key: None)
        mistakes = [
            _explain(mistake["loc"], mistake, kind, source, where)
            for mistake in error.errors(include_url=False)
        ]
        raise SpecError("\n".join(dict.fromkeys(mistakes))) from None


def _explain(
    location: Key, mistake: Any, kind: type[Document], source: str, lines: typing.Callable[[Key], int | None]
) -> str:
    line = lines(location)
    place = f"{source}:{line}" if line else source
    key = ".".join(str(part) for part in location if not _is_tag(part))
    if mistake["type"] == "extra_forbidden":
        known = sorted(_known_keys(kind, location[:-1]))
        parent = ".".join(str(part) for part in location[:-1] if not _is_tag(part))
        return f"{place}: {unknown_name('key', location[-1], known)}" + (
            f" (under {parent!r})" if parent else ""
        )
    if mistake["type"] == "missing":
        return f"{place}: key {key!r} is missing; add it"
    message = str(mistake["msg"]).removeprefix("Value error, ")
    got = (
        ""
        if mistake["type"] in ("value_error", "union_tag_invalid") and not key
        else f", got {_show(mistake['input'])}"
    )
    return f"{place}: {key or 'the document'}: {message}{got}"


def _is_tag(part: int | str) -> bool:
    """Pydantic puts type names of unions into locations; they are no keys of the user's."""
    return isinstance(part, str) and (
        part.startswith("function-") or "[" in part or part in ("str", "int", "float", "bool")
    )


def _known_keys(kind: type[Document], location: Key) -> Iterator[str]:
    owners: list[Any] = [kind]
    for part in location:
        stepped = [inner for owner in owners for inner in _step(owner, part)]
        owners = stepped or owners
    for owner in owners:
        yield from (field.alias or name for name, field in owner.model_fields.items())


def _step(owner: type[Document], part: int | str) -> Iterator[type[Document]]:
    for name, field in owner.model_fields.items():
        if part in (name, field.alias):
            yield from _documents_in(field.annotation)


def _documents_in(annotation: Any) -> Iterator[type[Document]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, Document):
            yield annotation
        return
    for argument in typing.get_args(annotation):
        yield from _documents_in(argument)


def _find_line(node: Any, key: Key) -> int | None:
    """The line of a key in the file, counted from 1; of its nearest parent when the key itself is not
    there."""
    line = None
    for part in key:
        if isinstance(node, yaml.MappingNode):
            match = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if match is not None:
                line, node = match[0].start_mark.line + 1, match[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _apply_override(value: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise SpecError(f"Override {override!r} is not of the form key.path=value, such as search.trials=20")
    *parents, last = key.split(".")
    target = value
    for part in parents:
        inner = target.setdefault(part, {})
        if not isinstance(inner, dict):
            raise SpecError(f"Override {override!r}: {part!r} is {_show(inner)}, not a mapping")
        target = inner
    try:
        target[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise SpecError(f"Override {override!r}: {text!r} is not a YAML value") from None


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
