"""Reference of specs and serving configs: a table for each pydantic model, with the type, default, bounds and meaning of
each key."""

import inspect
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import annotated_types
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from raymlops.specs.document import Document, documents_in
from raymlops.specs.experiment import ExperimentSpec
from raymlops.specs.graph import GraphSpec
from raymlops.specs.graph_nodes import NODE_DOCUMENTS
from raymlops.specs.notify import NotifySpec
from raymlops.specs.serving import ServingSpec
from reference_pages.markdown import code, sentence, table

_WORDS: Mapping[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    type(None): "none",
    Any: "any value",
}


def write_specs() -> str:
    """The page of experiment specs."""
    intro = (
        "An experiment spec is a YAML file that says what a model learns from, how, and what it must show. These are "
        "all its keys. `raymlops check FILE` tells what is wrong with one, with file, line and the nearest known key; "
        "`raymlops schema --output raymlops.schema.json` writes the JSON schema with which an editor completes it. "
        "Examples: `jobs/specs/flights.yaml` and `jobs/specs/digits.yaml`."
    )
    return _write_page("Experiment specs", intro, [ExperimentSpec])


def write_serving() -> str:
    """The page of serving specs."""
    intro = (
        "A serving spec is a YAML file that says what an application serves, and under which limits; "
        "`raymlops serve FILE` and `raymlops deploy FILE` take it. It also may stand as `args` in a config of Ray "
        "Serve, as in `serve_configs/flights.yaml`. What is under `graphs` has a [page of its own](graphs.md)."
    )
    return _write_page("Serving specs", intro, [ServingSpec], elsewhere=_graph_models())


def write_graphs() -> str:
    """The page of graphs and their kinds of nodes."""
    intro = (
        "A graph joins models: each node reads tensors of the request (`inputs.NAME`) or of other nodes "
        "(`NODE.TENSOR`), and `outputs` says what is answered. `raymlops graph FILE` checks and draws one. Examples "
        "are `serve_configs/graph_*.yaml`; [nodes in Python](../python_nodes.md) and [kinds of your own]"
        "(../node_kinds.md) have pages of their own."
    )
    return _write_page("Graphs", intro, [GraphSpec, *NODE_DOCUMENTS.values()])


def write_notify() -> str:
    """The page of notify.yaml."""
    intro = (
        "`notify.yaml` says whom events are told. `raymlops notify check` tells what is wrong with one, and what its "
        "channels still need. An example is `examples/notify.yaml`; [Notifications](../notifications.md) has the rest."
    )
    return _write_page("notify.yaml", intro, [NotifySpec])


def _graph_models() -> dict[type[Document], str]:
    return dict.fromkeys(models_below([GraphSpec, *NODE_DOCUMENTS.values()]), "graphs.md")


def models_below(roots: Sequence[type[Document]]) -> list[type[Document]]:
    """The models themselves and those of their keys, each once, parents first."""
    found: dict[type[Document], None] = {}
    waiting = list(roots)
    while waiting:
        model = waiting.pop(0)
        if model not in found:
            found[model] = None
            waiting += [
                inner for field in model.model_fields.values() for inner in documents_in(field.annotation)
            ]
    return list(found)


def _write_page(
    title: str,
    intro: str,
    roots: Sequence[type[Document]],
    elsewhere: Mapping[type[Document], str] | None = None,
) -> str:
    parts = [f"# {title}", intro]
    for model in models_below(roots):
        if model not in (elsewhere or {}):
            parts += [f"## {title_of(model)} {{ #{_anchor(model)} }}", *_write_model(model, elsewhere or {})]
    return "\n\n".join(parts) + "\n"


def title_of(model: type[Document]) -> str:
    """As a reader of YAML would call it: the kind of a node or a feature, or else the model's name."""
    kind = _kind_of(model)
    name = model.__name__.removesuffix("Spec")
    return f"kind: {kind}" if kind else name


def _kind_of(model: type[Document]) -> str | None:
    for key in ("kind", "by"):
        field = model.model_fields.get(key)
        if field is not None and typing.get_origin(field.annotation) is typing.Literal:
            found = typing.get_args(field.annotation)
            return f"{found[0]}" if key == "kind" else f"{found[0]} split"
    return None


def _anchor(model: type[Document]) -> str:
    return model.__name__.lower()


def _write_model(model: type[Document], elsewhere: Mapping[type[Document], str]) -> Iterator[str]:
    if told := docstring_of(model):
        yield sentence(told)
    rows = [
        [
            code(field.alias or name),
            _type_of(field, elsewhere),
            _default_of(field),
            sentence(meaning_of(field), _choices(field)),
        ]
        for name, field in model.model_fields.items()
    ]
    yield table(["key", "value", "default", "meaning"], rows)


def docstring_of(model: type[Document]) -> str:
    """Its own, not that of the class it is made from."""
    return inspect.cleandoc(vars(model).get("__doc__") or "")


def meaning_of(field: FieldInfo) -> str:
    """The description of a key, or else that of the model it holds."""
    if field.description:
        return field.description
    if typing.get_origin(field.annotation) is typing.Literal and len(typing.get_args(field.annotation)) == 1:
        return "chooses this kind"
    return next((docstring_of(model) for model in documents_in(field.annotation)), "")


def _choices(field: FieldInfo) -> tuple[str, ...]:
    """Words that are values of the key, and so have no capital."""
    literal = typing.get_origin(field.annotation) is typing.Literal
    return typing.get_args(field.annotation) if literal else ("mlp",)


def _type_of(field: FieldInfo, elsewhere: Mapping[type[Document], str]) -> str:
    told = _words(field.annotation, elsewhere)
    bounds = ", ".join(_bounds(field.metadata))
    return f"{told}; {bounds}" if bounds else told


def _words(annotation: Any, elsewhere: Mapping[type[Document], str]) -> str:
    if annotation in _WORDS:
        return _WORDS[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Document):
        return f"[{title_of(annotation)}]({elsewhere.get(annotation, '')}#{_anchor(annotation)})"
    if origin is typing.Literal:
        return " or ".join(code(value) for value in arguments)
    if origin is typing.Annotated:
        return _words(arguments[0], elsewhere)
    if origin in (typing.Union, types.UnionType):
        kept = [argument for argument in arguments if argument is not type(None)]
        return " or ".join(dict.fromkeys(_words(argument, elsewhere) for argument in kept))
    if origin in (list, tuple):
        inner = [argument for argument in arguments if argument is not Ellipsis]
        if origin is tuple and Ellipsis not in arguments and len(inner) > 1:
            return f"list of {len(inner)}: {_words(inner[0], elsewhere)}"
        return f"list of {_words(inner[0], elsewhere)}"
    if origin is dict:
        return f"mapping of {_words(arguments[0], elsewhere)} to {_words(arguments[1], elsewhere)}"
    return getattr(annotation, "__name__", str(annotation))


def _bounds(metadata: Sequence[Any]) -> Iterator[str]:
    for one in metadata:
        match one:
            case annotated_types.Ge(ge=bound):
                yield f"{bound} or more"
            case annotated_types.Gt(gt=bound):
                yield f"above {bound}"
            case annotated_types.Le(le=bound):
                yield f"{bound} at most"
            case annotated_types.Lt(lt=bound):
                yield f"below {bound}"
            case annotated_types.MinLen(min_length=bound):
                yield "not empty" if bound == 1 else f"{bound} entries at least"
            case annotated_types.MaxLen(max_length=bound):
                yield f"{bound} entries at most"


def _default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined:
        return "none"
    if isinstance(value, Document):
        return "its defaults"
    if value == "" or (isinstance(value, (dict, list, tuple)) and not value):
        return "empty"
    if isinstance(value, bool):
        return code(str(value).lower())
    if isinstance(value, (list, tuple)):
        return code(f"[{', '.join(map(str, value))}]")
    return code(value)
