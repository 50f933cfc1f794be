"""Reads a YAML file into a spec. Every mistake becomes a sentence with file, line, key, value and the most similar
known key."""

import pathlib
import re
import types
import typing
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import pydantic
import yaml

from raymlops.errors import NotFoundError, RenamedWarning, SpecError, unknown_name
from raymlops.specs.text_documents import read_json, read_yaml

__all__ = [
    "Document",
    "Renamed",
    "apply_override",
    "parse_document",
    "read_document",
    "read_json",
    "read_yaml",
    "to_first_names",
    "update_recorded",
    "validate_document",
]

Key = tuple[int | str, ...]
_RECORDED = {"recorded": True}
"""Validation context without warnings, for recorded documents, which nobody rewrites."""
DISCRIMINATORS = ("kind", "by")
"""Keys by which a mapping says which member of a union it is."""
_OLD_NAMES: dict[str, set[str]] = {}
"""All documents, to find lines in files that contain them."""


class Renamed(NamedTuple):
    """The new name of a key, and the factor of its value if the unit changed."""

    name: str
    factor: float = 1


class Document(pydantic.BaseModel):
    """A part of a spec: frozen, and unknown keys are errors.

    `renamed` are old names of keys. They are still accepted, with a warning that gives the new ones; schemas do not
    show them.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    renamed: ClassVar[Mapping[str, Renamed]] = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        for old, new in cls.renamed.items():
            _OLD_NAMES.setdefault(new.name, set()).add(old)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _take_old_names(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        if not isinstance(value, Mapping) or cls.renamed.keys().isdisjoint(value):
            return value
        taken = {key: held for key, held in value.items() if key not in cls.renamed}
        for old in value.keys() & cls.renamed.keys():
            new, factor = cls.renamed[old]
            if new in taken:
                raise ValueError(f"{old} is the old name of {new}; give {new} alone")
            taken[new] = _multiply(value[old], factor)
            if not (info.context or {}).get("recorded"):
                unit = f", with {taken[new]} for {value[old]}" if factor != 1 else ""
                text = (
                    f"{old} is now called {new}{unit}; the old name is still accepted, but write the new one"
                )
                warnings.warn(text, RenamedWarning, stacklevel=2)
        return taken


def _multiply(value: Any, factor: float) -> Any:
    try:
        return value if factor == 1 or value is None else float(value) * factor
    except (TypeError, ValueError):  # not a number, as the validation will report
        return value


D = TypeVar("D", bound=Document)
_MOST_MISTAKES = 100  # mistakes that are reported for one document


def read_document(path: str | pathlib.Path, kind: type[D], overrides: Sequence[str] = ()) -> D:
    """Read a YAML file as `kind`; `overrides` are `key.path=value` strings with YAML values.

    Raises NotFoundError if the file is missing, else SpecError with one line per mistake.
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
    """Like `read_document`, from a text; `source` names it in errors."""
    value, node = read_yaml(text, source)
    if not isinstance(value, dict):
        raise SpecError(f"{source} holds {_show(value)}; expected a mapping of keys to values")
    for override in overrides:
        apply_override(value, override, kind)
    return validate_document(value, kind, source, lines=lambda key: _find_line(node, key))


def validate_document(
    value: Mapping[str, Any],
    kind: type[D],
    source: str = "value",
    lines: typing.Callable[[Key], int | None] | None = None,
    *,
    recorded: bool = False,
) -> D:
    """Validate a mapping as `kind`; a `recorded` one causes no warnings about old names. Raises SpecError with one
    line per mistake."""
    try:
        return kind.model_validate(value, context=_RECORDED if recorded else None)
    except pydantic.ValidationError as error:
        where = lines or (lambda key: None)
        mistakes = [
            _explain(
                _without_tags(mistake["loc"], value, mistake["type"] == "missing"),
                mistake,
                kind,
                source,
                where,
            )
            for mistake in error.errors(include_url=False)[:_MOST_MISTAKES]
        ]
        raise SpecError("\n".join(dict.fromkeys(mistakes))) from None


def update_recorded(value: Mapping[str, Any], kind: type[Document]) -> dict[str, Any]:
    """A document as recorded by an earlier version, in today's form; unchanged if it is not one."""
    try:
        return kind.model_validate(value, context=_RECORDED).model_dump(mode="json")
    except pydantic.ValidationError:
        return dict(value)


def to_first_names(document: Document) -> dict[str, Any]:
    """A document as JSON with the original names of its keys, so that digests do not change when a key is renamed."""
    return dict(_rename(document, document.model_dump(mode="json")))


def _rename(value: Any, dumped: Any) -> Any:
    if isinstance(value, Document):
        first = {new.name: (old, new.factor) for old, new in type(value).renamed.items()}
        found = {}
        for name, held in dumped.items():
            old, factor = first.get(name, (name, 1))
            found[old] = _rename(getattr(value, name), held if factor == 1 else held / factor)
        return found
    if isinstance(value, Mapping):
        return {name: _rename(value[name], held) for name, held in dumped.items()}
    if isinstance(value, list | tuple):
        return [_rename(inner, held) for inner, held in zip(value, dumped, strict=True)]
    return dumped


def _explain(
    tagged: tuple[Key, Key],
    mistake: Any,
    kind: type[Document],
    source: str,
    lines: typing.Callable[[Key], int | None],
) -> str:
    location, tags = tagged
    message = str(mistake["msg"]).removeprefix("Value error, ")
    if not location and (
        named := re.match(r"[a-z][a-z0-9_.-]*(?=: )", message)
    ):  # a check of several parts names one
        location, message = tuple(named[0].split(".")), message[named.end() + 2 :]
    line = lines(location)
    place = f"{source}:{line}" if line else source
    key = ".".join(str(part) for part in location)
    if mistake["type"] == "extra_forbidden":
        known = set(_known_keys(kind, location[:-1], tags))
        parent = ".".join(str(part) for part in location[:-1])
        return f"{place}: {unknown_name('key', location[-1], known)}" + (
            f" (under {parent!r})" if parent else ""
        )
    if mistake["type"] == "missing":
        return f"{place}: key {key!r} is missing; add it"
    if mistake["type"] == "union_tag_invalid":
        kinds = re.findall(r"'([^']*)'", mistake["ctx"]["expected_tags"])
        discriminator = mistake["ctx"]["discriminator"].strip("'")
        return f"{place}: {key}: {unknown_name(discriminator, mistake['ctx']['tag'], kinds)}"
    got = f", got {_show(mistake['input'])}" if mistake["loc"] else ""
    return f"{place}: {key or 'the document'}: {message}{got}"


def _without_tags(location: Key, value: Any, missing: bool) -> tuple[Key, Key]:
    """The keys of a location, and the names of union members that pydantic inserts: not keys of the user."""
    keys: list[int | str] = []
    tags: list[int | str] = []
    is_chosen = False  # whether the tag of the present mapping was passed
    for position, part in enumerate(location):
        last = position == len(location) - 1
        # A mistake of the whole member ends with its tag; the key that is missing may have the name of one.
        may_be_tag = not last or (not missing and part not in value)
        if may_be_tag and not is_chosen and _is_tag(part, value):
            tags.append(part)
            is_chosen = True
            continue
        is_chosen = False
        if isinstance(value, Mapping) and (part in value or last):
            keys.append(part)
            value = value.get(part)
        elif isinstance(value, Sequence) and not isinstance(value, str) and isinstance(part, int):
            keys.append(part)
            value = value[part] if part < len(value) else None
        else:
            tags.append(part)
    return tuple(keys), tuple(tags)


def _is_tag(part: int | str, value: Any) -> bool:
    """Whether a mapping says that it is this member of a union, which may have a key of the same name."""
    return isinstance(value, Mapping) and part in [value.get(key) for key in DISCRIMINATORS]


def _known_keys(kind: type[Document], location: Key, tags: Key) -> Iterator[str]:
    owners: list[Any] = [kind]
    for part in location:
        stepped = [inner for owner in owners for inner in _step(owner, part)]
        owners = stepped or owners
    chosen = [owner for owner in owners if any(_answers_to(owner, tag) for tag in tags)]
    for owner in chosen or owners:
        yield from (field.alias or name for name, field in owner.model_fields.items())


def _answers_to(owner: type[Document], tag: int | str) -> bool:
    return any(tag in typing.get_args(field.annotation) for field in owner.model_fields.values())


def _step(owner: type[Document], part: int | str) -> Iterator[type[Document]]:
    for name, field in owner.model_fields.items():
        if part in (name, field.alias):
            yield from documents_in(field.annotation)


def documents_in(annotation: Any) -> Iterator[type[Document]]:
    """The documents that a type names, also within lists and unions."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, Document):
            yield annotation
        return
    for argument in typing.get_args(annotation):
        yield from documents_in(argument)


def _find_line(node: Any, key: Key) -> int | None:
    """The line of a key in the file, counted from 1; of its nearest parent if the key itself is missing."""
    line = None
    for part in key:
        if isinstance(node, yaml.MappingNode):
            names = {str(part), *_OLD_NAMES.get(str(part), ())}
            match = next(((k, v) for k, v in node.value if k.value in names), None)
            if match is not None:
                line, node = match[0].start_mark.line + 1, match[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


_QUOTES = ("'", '"', "`")
_PART = re.compile(r"""'[^']+'|"[^"]+"|`[^`]+`|[^.='"`]+""")
_OVERRIDE = re.compile(rf"(?P<key>(?:{_PART.pattern})(?:\.(?:{_PART.pattern}))*)=(?P<text>.*)", re.DOTALL)


def _count_parts(target: Mapping[str, Any], parts: Sequence[str], kinds: Sequence[Any], given: Any) -> int:
    """How many parts of a path are one key: as many as a key of the mapping has; of a name that it lacks, all that
    stand before a key of what names stand for; else one."""
    for count in range(len(parts), 1, -1):
        if ".".join(parts[:count]) in target:
            return count
    named = [inner for kind in kinds if (inner := _values_of(kind)) is not None]
    if not named or Any in named:
        return 1
    fields = {key for inner in named for owner in documents_in(inner) for key in _keys_of(owner)}
    if not fields:
        return len(parts)
    keyed = next((count for count in range(1, len(parts)) if parts[count] in fields), None)
    return keyed or (len(parts) if isinstance(given, dict) else 1)


def _keys_of(owner: type[Document]) -> set[str]:
    return {field.alias or name for name, field in owner.model_fields.items()} | owner.renamed.keys()


def _values_of(kind: Any) -> Any:
    """The type of a mapping's values, by name; None for another type."""
    if typing.get_origin(kind) in (dict, Mapping):
        return typing.get_args(kind)[1]
    inner = typing.get_args(kind) if typing.get_origin(kind) is not None else ()
    return next((found for one in inner if (found := _values_of(one)) is not None), None)


def _kinds_of(kind: Any, key: str) -> list[Any]:
    """The types that a key of a document or a name of a mapping may have."""
    if (named := _values_of(kind)) is not None:
        return [named]
    owners = list(documents_in(kind))
    return [
        field.annotation
        for owner in owners
        for name, field in owner.model_fields.items()
        if key in (name, field.alias)
    ]


def apply_override(value: dict[str, Any], override: str, kind: type[Document] | None = None) -> None:
    """Apply `key.path=value` to a document of a kind. A name with dots needs quotes only where the document lacks it
    and its parts could be keys: `contract.columns.'Solar.max'.max=400`. Raises SpecError."""
    found = _OVERRIDE.fullmatch(override)
    if found is None:
        raise SpecError(f"Override {override!r} is not of the form key.path=value, such as search.trials=20")
    parts = [part[1:-1] if part[:1] in _QUOTES else part for part in _PART.findall(found["key"])]
    text, target, kinds = found["text"], value, [kind] if kind else []
    try:
        given, _ = read_yaml(text)
    except SpecError:
        raise SpecError(f"Override {override!r}: {text!r} is not a YAML value") from None
    while (count := _count_parts(target, parts, kinds, given)) < len(parts):
        part, parts = ".".join(parts[:count]), parts[count:]
        kinds = [inner for one in kinds for inner in _kinds_of(one, part)]
        inner = target.setdefault(part, {})
        if not isinstance(inner, dict):
            raise SpecError(f"Override {override!r}: {part!r} is {_show(inner)}, not a mapping")
        target = inner
    target[".".join(parts)] = given


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
