"""Tries every model of a serving spec before anything is deployed: a replica that cannot start does not say which of
its models failed, nor why."""

import concurrent.futures
import pathlib
from collections.abc import Iterator, Sequence

from raymlops.errors import NotFoundError, SpecError
from raymlops.graphs.validation import list_leaves, validate
from raymlops.models.model_trial import try_model, try_together
from raymlops.models.row_independence import prove_rows
from raymlops.models.safety import read_model
from raymlops.models.session import SessionOptions
from raymlops.runtime import sources
from raymlops.runtime.leaf_kinds import LEAF_KINDS
from raymlops.runtime.model_files import find_file, open_folder
from raymlops.runtime.open_graph import open_leaves
from raymlops.runtime.sources import make_locate
from raymlops.serving.endpoints.model import require_independence
from raymlops.serving.endpoints.observers import check_observers
from raymlops.settings import Settings
from raymlops.specs.graph import GraphSpec
from raymlops.specs.serving import HostedModel, ServingSpec

AT_ONCE = 2
"""Number of processes, which share the machine with what it serves."""


def try_models(spec: ServingSpec, settings: Settings) -> None:
    """Raises ArtifactError for the first model that cannot be opened and run once, with its name and file;
    NotFoundError for a missing folder; StorageError for a bucket that does not answer; SpecError for a Python node
    whose class cannot be imported, or a graph whose nodes do not fit together.

    Models for a GPU are left out, since this machine may have none.
    """
    if spec.many is not None:
        _require_folder(spec.many.folder)
    check_observers(spec.observers)
    for name, graph in spec.graphs.items():
        for path, node in list_leaves(graph):
            LEAF_KINDS[node.kind].check(f"{name}/{path}", node)
    listed = list(_list(spec))
    parts = [listed[number::AT_ONCE] for number in range(AT_ONCE)]
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE, thread_name_prefix="trial") as pool:
        waiting = [pool.submit(_try_part, part, settings) for part in parts]
        try:
            for future in waiting:
                future.result()
        finally:
            for future in waiting:
                future.cancel()
    if not spec.gpus:
        for name, graph in spec.graphs.items():
            _validate(name, graph, settings)


def _require_folder(location: str) -> None:
    """Models of a folder that cannot be served do not stop the others: the index has the reasons."""
    try:
        open_folder(location).list()
    except NotFoundError:
        raise NotFoundError(
            f"The folder of models {location!r} does not exist; every node must have it"
        ) from None


def _validate(name: str, graph: GraphSpec, settings: Settings) -> None:
    """Does not create its Python nodes: they may need resources that only cluster nodes have."""
    models = [path for path, node in list_leaves(graph) if LEAF_KINDS[node.kind].model_of(node)]
    leaves = open_leaves(graph, make_locate(settings), SessionOptions(shared=True), models)
    try:
        validate(graph, {path: leaf.signature for path, leaf in leaves.items() if leaf.signature})
    except SpecError as error:
        raise SpecError(f"Graph {name!r}: {error}") from None
    finally:
        for leaf in leaves.values():
            if leaf.session is not None:
                leaf.session.close()


def _list(spec: ServingSpec) -> Iterator[tuple[str, HostedModel]]:
    if spec.gpus:
        return
    seen = set()
    for name, model in spec.models.items():
        if model.device in ("auto", "cpu"):
            seen.add(model.digest)
            yield name, model
    for name, graph in spec.graphs.items():
        for path, node in list_leaves(graph):
            on_gpu = node.resources is not None and node.resources.gpus
            served = LEAF_KINDS[node.kind].model_of(node)
            if served and not on_gpu and served.digest not in seen:
                seen.add(served.digest)
                yield f"{name}/{path}", served


Trial = tuple[str, HostedModel, pathlib.Path]
"""Name, model, and its file."""


def _try_part(part: Sequence[tuple[str, HostedModel]], settings: Settings) -> None:
    trials = [(name, model, find_file(sources.locate(model, settings).path)) for name, model in part]
    _try_all(trials)
    for name, model, file in trials:
        require_independence(name, model.batching.mode, prove_rows(read_model(file, model.digest)))


def _try_all(trials: Sequence[Trial]) -> None:
    """All together; if that fails, half by half, to find the model at fault."""
    if len(trials) == 1:
        name, model, file = trials[0]
        source = model.source if model.source.startswith("models:/") else str(file)
        try_model(f"Model {name!r} ({source})", read_model(file, model.digest), model.optimisation)
    elif trials and not try_together([(file, model.digest, model.optimisation) for _, model, file in trials]):
        _try_all(trials[: len(trials) // 2])
        _try_all(trials[len(trials) // 2 :])
