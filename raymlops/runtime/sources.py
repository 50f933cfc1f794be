"""Locates a model's file: a registry version, or a path. Pins an alias to the version that it names now."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator

from raymlops import locations
from raymlops.artifact import MODEL_FILE
from raymlops.captures.store import find_root
from raymlops.errors import NotFoundError, SpecError
from raymlops.graphs.validation import list_leaves
from raymlops.models.safety import Model, digest_of, read_model
from raymlops.models.session import check_shareable
from raymlops.runtime.leaf_kinds import LEAF_KINDS
from raymlops.runtime.model_files import digest_listing, find_file
from raymlops.runtime.monitored_versions import pin_monitoring
from raymlops.settings import Settings
from raymlops.specs.graph import GraphSpec, change_nodes, expand_files
from raymlops.specs.graph_nodes import NodeDocument
from raymlops.specs.monitoring import Capture
from raymlops.specs.serving import HostedModel, ServingSpec


def pin(spec: ServingSpec, settings: Settings) -> ServingSpec:
    """The same spec with exact versions and digests, so that every replica and every rollback serves the same files.

    Raises NotFoundError for a missing model, SpecError for a wrong source.
    """
    models = {name: pin_model(model, settings) for name, model in spec.models.items()}
    graphs = {name: pin_graph(graph, settings) for name, graph in spec.graphs.items()}
    many = spec.many
    if many is not None:
        folder = many.folder
        if not locations.is_remote(folder):
            folder = str(pathlib.Path(folder).expanduser().absolute())
        many = many.model_copy(update={"folder": folder, "listing": many.listing or digest_listing(folder)})
    keys = str(pathlib.Path(spec.keys).expanduser().absolute()) if spec.keys else ""
    tls = spec.tls.absolute() if spec.tls else None
    capture = _pin_capture(spec.capture, settings) if spec.capture else None
    update = {"models": models, "graphs": graphs, "many": many, "keys": keys, "tls": tls, "capture": capture}
    pinned = spec.model_copy(update=update)
    return pinned.model_copy(update={"monitoring": pin_monitoring(pinned, settings)})


def describe(spec: ServingSpec) -> dict[str, str]:
    """What answers under each name of a pinned spec: versions of the registry, or files with their digests; those of
    a graph in the order of its nodes."""
    models = {name: _describe_model(model) for name, model in spec.models.items()}
    graphs = {name: ", ".join(dict.fromkeys(_describe_nodes(graph))) for name, graph in spec.graphs.items()}
    return models | graphs


def _describe_model(model: HostedModel) -> str:
    if model.source.startswith("models:/"):
        return model.source
    return f"{model.source} (sha256 {model.digest[:12]})" if model.digest else model.source


def _describe_nodes(graph: GraphSpec) -> Iterator[str]:
    for _, model in list_models(graph):
        yield _describe_model(model)


def list_models(graph: GraphSpec) -> Iterator[tuple[str, HostedModel]]:
    """Path and model of each node that has one, those of inner graphs among them."""
    for path, node in list_leaves(graph):
        leaf = LEAF_KINDS.get(node.kind)
        model = leaf.model_of(node) if leaf else None
        if model:
            yield path, model


def _pin_capture(capture: Capture, settings: Settings) -> Capture:
    """With the folder for all replicas, whatever their own environment says."""
    path = capture.path or find_root(settings.storage_path)
    if not locations.is_remote(path):
        path = str(pathlib.Path(path).expanduser().absolute())
    return capture.model_copy(update={"path": path})


def pin_model(model: HostedModel, settings: Settings) -> HostedModel:
    if model.source.startswith("models:/"):
        from raymlops.tracking.registry import resolve  # MLflow is loaded only if the registry is used

        found = resolve(model.source, settings)
        _read(find_file(found.path), model, found.digest)
        digest = digest_of(read_model(found.file, found.digest))
        update = {"source": found.uri, "version": model.version or found.version, "digest": digest}
        return model.model_copy(update=update)
    if "://" in model.source or model.source.startswith("models:"):
        raise SpecError(f"Model source {model.source!r} must be models:/name@alias, models:/name/3 or a path")
    path = pathlib.Path(model.source).expanduser().absolute()
    file = find_file(path)
    digest = digest_of(_read(file, model, model.digest))
    return model.model_copy(update={"source": str(path), "version": model.version or "1", "digest": digest})


def _read(file: pathlib.Path, model: HostedModel, digest: str) -> Model:
    """Models that are broken, hostile, or may not share a process are refused here, before anything is changed."""
    read = read_model(file, digest)
    if not model.isolate:
        check_shareable(read, repr(file.name))
    return read


def pin_graph(spec: GraphSpec, settings: Settings) -> GraphSpec:
    """The same graph with exact versions and digests, and with the files of its inner graphs read in."""
    return _pin_nodes(expand_files(spec, pathlib.Path()), settings)


def _pin_nodes(spec: GraphSpec, settings: Settings) -> GraphSpec:
    def pin_node(name: str, node: NodeDocument) -> NodeDocument:
        leaf = LEAF_KINDS.get(node.kind)
        model = leaf.model_of(node) if leaf else None
        if leaf and model:
            node = leaf.with_model(node, pin_model(model, settings))
        return node.change_graph(lambda inner: _pin_nodes(inner, settings))

    return change_nodes(spec, pin_node)


@dataclasses.dataclass(frozen=True)
class Located:
    path: pathlib.Path
    model: HostedModel


def locate(model: HostedModel, settings: Settings) -> Located:
    """The file on this machine, downloaded from the registry if necessary."""
    if not model.source.startswith("models:/"):
        return Located(pathlib.Path(model.source), model)
    from raymlops.tracking.registry import resolve

    found = resolve(model.source, settings)
    update = {"version": model.version or found.version, "digest": model.digest or found.digest}
    return Located(found.path, model.model_copy(update=update))


def make_locate(settings: Settings) -> Callable[[str], pathlib.Path]:
    """`models:/...` or a path -> the ONNX file; passed to the code that opens graphs."""
    return lambda source: find_file(locate(HostedModel(source=source), settings).path)


def read_source(model: str, settings: Settings) -> Model:
    """The checked model of a version, a file, or a folder with one. Raises NotFoundError, ArtifactError,
    UntrustedError."""
    if model.startswith("models:/"):
        from raymlops.tracking.registry import resolve  # MLflow is loaded only where the registry is asked

        found = resolve(model, settings)
        return read_model(found.file, found.digest)
    path = pathlib.Path(model)
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise NotFoundError(
            f"No model {model!r}; give an ONNX file, models:/NAME@ALIAS or models:/NAME/VERSION"
        )
    return read_model(file)
