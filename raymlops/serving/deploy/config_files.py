"""Serving files: our spec alone, or inside a file for `serve deploy`, so that both commands read the same file; or
the model itself in place of a file."""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from raymlops.errors import SpecError
from raymlops.events.notify_file import find_notify, read_notify
from raymlops.settings import Settings
from raymlops.specs.document import apply_override, read_document, read_yaml, validate_document
from raymlops.specs.graph import GraphSpec, complete, list_nodes, read_graph
from raymlops.specs.module_files import collect_target
from raymlops.specs.serving import ObserverSpec, ServingSpec


def read_spec(path: pathlib.Path, overrides: Sequence[str] = ()) -> ServingSpec:
    """The spec of a file; for a Serve config file, the `args` of its only application with its name and route.

    An ONNX file, a folder that holds one, or `models:/NAME@ALIAS` stands for a spec of that model alone. Graph files
    and modules of Python nodes and observers that it names are also read, relative to the file. Raises NotFoundError,
    SpecError.
    """
    spec = _read(path, overrides)
    graphs = {name: complete(graph, path.parent) for name, graph in spec.graphs.items()}
    observers = {name: _attach_code(name, one, path.parent) for name, one in spec.observers.items()}
    require_one_module_of_a_name(graphs, observers)
    return spec.model_copy(
        update={"graphs": graphs, "observers": observers, **_attach_notify(spec, path.parent)}
    )


def _attach_notify(spec: ServingSpec, folder: pathlib.Path) -> dict[str, Any]:
    """What notify.yaml says, for the nodes that do not have the file."""
    if spec.notify is not None:
        return {}
    file = find_notify(Settings.from_env(), folder)
    return {"notify": read_notify(file), "notify_file": str(file.absolute())} if file else {}


def _attach_code(name: str, observer: ObserverSpec, folder: pathlib.Path) -> ObserverSpec:
    if ":" not in observer.target or observer.code:
        return observer
    try:
        return observer.model_copy(update={"code": collect_target(folder, observer.target)})
    except SpecError as error:
        raise SpecError(f"Observer {name!r}: {error}") from None


def parse_spec(value: Mapping[str, Any], overrides: Sequence[str] = ()) -> ServingSpec:
    """The same of a document that is at hand: paths in it are of the working directory."""
    spec = _validate(dict(value), "the serving spec", overrides)
    graphs = {name: complete(graph, pathlib.Path()) for name, graph in spec.graphs.items()}
    require_one_module_of_a_name(graphs)
    return spec.model_copy(update={"graphs": graphs, **_attach_notify(spec, pathlib.Path())})


def _read(path: pathlib.Path, overrides: Sequence[str]) -> ServingSpec:
    if (name := _name_model(path)) is not None:
        return _validate({"name": name, "models": {name: {"source": str(path)}}}, str(path), overrides)
    value = _read_yaml(path)
    if not isinstance(value, dict) or "applications" not in value:
        return read_document(path, ServingSpec, overrides)
    applications = value["applications"]
    if not isinstance(applications, list) or len(applications) != 1 or not isinstance(applications[0], dict):
        raise SpecError(f"{path} must hold one application; put each into its own file")
    app = applications[0]
    arguments = dict(app.get("args") or {})
    arguments.setdefault("name", app.get("name", "raymlops"))
    arguments.setdefault("route", app.get("route_prefix", "/"))
    http = value.get("http_options") or {}
    for key in ("host", "port"):
        if key in http:
            arguments.setdefault(key, http[key])
    return _validate(arguments, f"{path} (args)", overrides)


def require_one_module_of_a_name(
    graphs: Mapping[str, GraphSpec], observers: Mapping[str, ObserverSpec] | None = None
) -> None:
    """Graphs and observers of an application may share a process, which has only one module of each name. Raises
    SpecError."""
    code: dict[str, Mapping[str, str]] = {
        f"observer {name}": observer.code for name, observer in (observers or {}).items()
    }
    for name, graph in graphs.items():
        code |= {f"{name}/{path}": node.list_code() for path, node in list_nodes(graph)}
    seen: dict[str, tuple[str, str]] = {}
    for name, files in code.items():
        for file, text in files.items():
            place, known = seen.setdefault(file, (name, text))
            if known != text:
                raise SpecError(
                    f"{place!r} and {name!r} have different files {file!r} beside their documents, but a process "
                    "imports only one module of a name; rename one of them"
                )


def _validate(arguments: dict[str, Any], source: str, overrides: Sequence[str]) -> ServingSpec:
    for override in overrides:
        apply_override(arguments, override, ServingSpec)
    return validate_document(arguments, ServingSpec, source)


def _name_model(path: pathlib.Path) -> str | None:
    """The served name of a model that is given in place of a spec; None for a spec."""
    if str(path).startswith("models:/"):
        return re.split("[/@]", str(path).removeprefix("models:/"))[0]
    if path.suffix == ".onnx" or path.is_dir():
        return re.sub(r"[^A-Za-z0-9._-]+", "-", path.absolute().name.removesuffix(".onnx"))
    return None


def _read_yaml(path: pathlib.Path) -> Any:
    try:
        return read_yaml(path.read_text(encoding="utf-8"), str(path))[0]
    except (OSError, SpecError, UnicodeDecodeError):
        return None  # read_document reports the problem


def write_config(config: dict[str, Any]) -> str:
    """One application as a file for `serve deploy`."""
    args = config["args"]
    document: dict[str, Any] = {
        "proxy_location": "EveryNode",
        "http_options": {"host": args["host"], "port": args["port"]},
        "applications": [config],
    }
    return yaml.safe_dump(document, sort_keys=False)


def read_graphs(path: pathlib.Path) -> list[GraphSpec]:
    """The graph of a file, or all graphs of a serving file. Raises SpecError, NotFoundError."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if not re.search(r"^\s*(graphs|applications):", text, re.MULTILINE):
        spec_alone = read_graph(path)
        require_one_module_of_a_name({spec_alone.name: spec_alone})
        return [spec_alone]
    spec = read_spec(path)
    if not spec.graphs:
        raise SpecError(f"{path} serves no graph")
    return [graph.model_copy(update={"name": name}) for name, graph in spec.graphs.items()]
