"""A graph spec -> the models and classes of its leaves, opened, measured, and merged if that is faster. Does not
import Ray.

`OfflineGraph` runs the same graph over batches of a file.
"""

import dataclasses
import inspect
import pathlib
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from typing import Any

from raymlops.errors import ArtifactError, InputError, NotFoundError, SpecError, unknown_name
from raymlops.features import read_conversion
from raymlops.graphs.answer_checks import Check, accept_all, copy_answer
from raymlops.graphs.compiler import Merged
from raymlops.graphs.drawing import Sketch, sketch
from raymlops.graphs.execution import Implementation
from raymlops.graphs.graph import Graph
from raymlops.graphs.placement import Decision, Limits, decide, find_chains
from raymlops.graphs.plan import Plan
from raymlops.graphs.row_independence import find_dependence
from raymlops.graphs.validation import list_leaves, validate
from raymlops.models.merge import load_part, merge_models
from raymlops.models.parity import find_differing
from raymlops.models.row_independence import Independence, prove_rows
from raymlops.models.session import Session, SessionOptions, as_model_input, open_session
from raymlops.runtime.leaf_kinds import LEAF_KINDS, Leaf, Locate, open_leaf
from raymlops.runtime.model_files import find_file
from raymlops.runtime.python_refusals import RefusalsAsInputErrors
from raymlops.specs.graph import GraphSpec
from raymlops.specs.graph_nodes import INPUTS
from raymlops.tensors import ELEMENTS, Batch, TensorSpec, make_noise, make_writable


@dataclasses.dataclass(frozen=True)
class Chain:
    """Leaves of one graph that became one model."""

    prefix: str
    names: tuple[str, ...]
    session: Session
    independence: Independence
    needs: tuple[str, ...]
    gives: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Opened:
    """A graph with everything that is needed to place or run it."""

    plan: Plan
    leaves: Mapping[str, Leaf]
    decisions: Mapping[str, Decision]
    chains: tuple[Chain, ...] = ()
    unmerged: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Chain -> why it was not merged."""

    def sketch(self) -> Sketch:
        """How it is drawn: where each node would run, how long it took, and which chains are merged."""
        times = {path: leaf.measured.milliseconds for path, leaf in self.leaves.items() if leaf.measured}
        chains = [[chain.prefix + name for name in chain.names] for chain in self.chains]
        return sketch(self.plan, self.decisions, times, chains)


def locate_file(source: str) -> pathlib.Path:
    """A path on this machine. Raises NotFoundError."""
    if source.startswith("models:/"):
        raise NotFoundError(f"{source!r} is in the registry, which is not available here; give an ONNX file")
    return find_file(pathlib.Path(source))


def open_leaves(
    spec: GraphSpec,
    locate: Locate = locate_file,
    options: SessionOptions | None = None,
    only: Iterable[str] | None = None,
) -> dict[str, Leaf]:
    """Load the models and classes of a graph's leaves; nodes with the same model share a session."""
    leaves: dict[str, Leaf] = {}
    shared: dict[Hashable, Leaf] = {}
    for path, node in list_leaves(spec):
        if only is not None and path not in only:
            continue
        model = LEAF_KINDS[node.kind].model_of(node)
        key = (node.kind, model.source, model.digest, model.isolate) if model else path
        known = shared.get(key)
        leaf = dataclasses.replace(known, path=path) if known else open_leaf(path, node, locate, options)
        leaves[path] = shared[key] = leaf
    return leaves


def open_graph(
    spec: GraphSpec,
    locate: Locate = locate_file,
    options: SessionOptions | None = None,
    limits: Limits | None = None,
    fuse_all: bool = False,
) -> Opened:
    """Load, validate, place and merge. `fuse_all` is for a single process, as in batch scoring."""
    leaves = open_leaves(spec, locate, options)
    plan = validate(spec, {path: leaf.signature for path, leaf in leaves.items() if leaf.signature})
    measured = {path: leaf.measured for path, leaf in leaves.items() if leaf.measured}
    decisions = decide(plan, measured, limits)
    if fuse_all:
        decisions = {path: Decision("fused", "there is one process only") for path in decisions}
    chains, unmerged = merge_chains(plan, decisions, leaves, options)
    return Opened(plan, leaves, decisions, tuple(chains), unmerged)


def merge_chains(
    plan: Plan,
    decisions: Mapping[str, Decision],
    leaves: Mapping[str, Leaf],
    options: SessionOptions | None = None,
    prefix: str = "",
    apart: Collection[str] = (),
) -> tuple[list[Chain], dict[str, str]]:
    """One model for every chain that can be merged and then gives the same outputs; for the others, the reason. Nodes
    whose paths are in `apart` stay as they are."""
    chains: list[Chain] = []
    unmerged: dict[str, str] = {}
    for names in find_chains(plan, decisions, prefix, apart):
        try:
            chains.append(_merge_chain(plan, names, leaves, options, prefix))
        except (ArtifactError, InputError) as error:
            unmerged[prefix + "+".join(names)] = str(error)
    for name, step in plan.steps.items():
        if step.inner is not None:
            inner, reasons = merge_chains(step.inner, decisions, leaves, options, f"{prefix}{name}/", apart)
            chains += inner
            unmerged |= reasons
    return chains, unmerged


def _merge_chain(
    plan: Plan,
    names: tuple[str, ...],
    leaves: Mapping[str, Leaf],
    options: SessionOptions | None,
    prefix: str,
) -> Chain:
    parts = []
    for name in names:
        reads = {key: str(reference) for key, reference in plan.steps[name].needs}
        parts.append(load_part(name, leaves[prefix + name].data, reads))
    outside = [step for name, step in plan.steps.items() if name not in names]
    read = [reference for step in outside for _, reference in step.needs] + [
        reference for _, reference in plan.outputs
    ]
    gives = tuple(dict.fromkeys(str(reference) for reference in read if reference.node in names))
    merged = merge_models(parts, gives)
    session = open_session(merged, options)
    sessions = {name: leaves[prefix + name].session for name in names}
    _compare(plan, names, {name: found for name, found in sessions.items() if found}, session)
    needs = tuple(spec.name for spec in session.signature.inputs)
    return Chain(prefix, names, session, prove_rows(merged), needs, gives)


def _compare(plan: Plan, names: tuple[str, ...], sessions: Mapping[str, Session], merged: Session) -> None:
    """Raises ArtifactError if the merged model does not give the same outputs as its parts in sequence."""
    values = make_noise(merged.signature, rows=4)
    answer = merged.infer(values)
    for name in names:
        batch = {key: values[str(reference)] for key, reference in plan.steps[name].needs}
        values |= {f"{name}.{key}": array for key, array in sessions[name].infer(batch).items()}
    differing = find_differing({name: values[name] for name in answer}, answer)
    if differing:
        raise ArtifactError(f"The merged model of {', '.join(names)} answers {differing} differently")


def implement_now(opened: Opened) -> tuple[dict[str, Implementation], list[Merged]]:
    """Implementations that run each model in the caller's thread, and never wait unless a Python node does."""
    leaves = {path: run_leaf(leaf) for path, leaf in opened.leaves.items()}
    merged = [
        Merged(chain.names, run_session(chain.session), chain.needs, chain.gives, chain.prefix)
        for chain in opened.chains
    ]
    return leaves, merged


def run_leaf(leaf: Leaf) -> Implementation:
    return run_session(leaf.session) if leaf.session else run_python(leaf.instance, leaf.check)


def run_session(session: Session) -> Implementation:
    infer = session.infer

    async def run(batch: Batch) -> Batch:
        return infer(batch)

    return Implementation(run, suspends=False)


def run_python(instance: Any, check: Check = accept_all) -> Implementation:
    """A user's Python node. Errors of ValueError's kind mean that the request is at fault; `check` compares its
    outputs with its declaration."""
    if inspect.iscoroutinefunction(instance.run):

        async def wait(batch: Batch) -> Batch:
            with RefusalsAsInputErrors():
                answer = copy_answer(await instance.run(make_writable(batch)))
            return check(batch, answer)

        return Implementation(wait, suspends=True)

    async def run(batch: Batch) -> Batch:
        with RefusalsAsInputErrors():
            answer = copy_answer(instance.run(make_writable(batch)))
        return check(batch, answer)

    return Implementation(run, suspends=False)


def find_columns(plan: Plan, leaves: Mapping[str, Leaf]) -> tuple[Mapping[str, Any], ...]:
    """The graph's inputs as in a model's contract: with kind and conversion, from the models that read them.

    Raises SpecError for an input that two models convert differently: each request would be wrong for one of them.
    """
    found = {
        port.spec.name: {"name": port.spec.name, "kind": ELEMENTS} for port in plan.inputs if port.ragged
    }
    converted_by: dict[str, str] = {}
    for tensor, path, entry in _read_entries(plan, leaves):
        kept = {key: entry[key] for key in ("kind", "conversion") if key in entry}
        known = found.setdefault(tensor, {"name": tensor, **kept})
        if (rule := read_conversion(entry)) is None:
            continue
        other = read_conversion(known)
        if other is not None and other != rule:
            raise SpecError(
                f"Input {tensor!r} is converted by {converted_by[tensor]} ({other}) and by {path} ({rule}); give "
                "each model an input of its own"
            )
        if "conversion" not in known and known["kind"] == entry["kind"]:
            known["conversion"] = entry["conversion"]
        converted_by.setdefault(tensor, path)
    return tuple(found.values())


def _read_entries(
    plan: Plan, leaves: Mapping[str, Leaf], prefix: str = ""
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Input of a graph, path of a model that reads it as it is, and the entry of that model's contract."""
    for name, step in plan.steps.items():
        path = prefix + name
        taken = {key: reference.tensor for key, reference in step.own_needs if reference.node == INPUTS}
        if step.inner is not None:
            for tensor, inner, entry in _read_entries(step.inner, leaves, f"{path}/"):
                if tensor in taken:
                    yield taken[tensor], inner, entry
        elif step.kind.is_leaf and (session := leaves[path].session) is not None:
            for column in session.contract.get("columns", ()):
                if column["name"] in taken:
                    yield taken[column["name"]], path, column


@dataclasses.dataclass(frozen=True)
class Ragged:
    """Tensors of a graph's inputs and outputs with a different number of elements in each row."""

    inputs: Mapping[str, TensorSpec] = dataclasses.field(default_factory=dict)
    outputs: tuple[str, ...] = ()


class OfflineGraph:
    """A graph over batches of a file: every node in this process, no shadows. Created once in each worker."""

    def __init__(self, spec: GraphSpec, locate: Locate = locate_file, threads: int = 1) -> None:
        opened = open_graph(spec, locate, SessionOptions(threads=threads), fuse_all=True)
        implementations, merged = implement_now(opened)
        self._graph = Graph(opened.plan, implementations, merged=merged)
        reasons = {path: leaf.independence.reason for path, leaf in opened.leaves.items()}
        self.independence = Independence(find_dependence(opened.plan, reasons))
        self.signature = self._graph.signature
        plan = opened.plan
        self.ragged = Ragged(
            {port.spec.name: port.spec for port in plan.inputs if port.ragged},
            tuple(port.spec.name for port in plan.output_ports if port.ragged),
        )
        self.contract = {"columns": find_columns(plan, opened.leaves)}
        """Like a model's: the kinds of its input columns."""

    def infer(self, batch: Batch) -> Batch:
        """Like a session's: tensors that already match the signature."""
        return self._graph.infer_now(batch)

    def __call__(self, batch: Batch) -> Batch:
        """Columns by name -> the graph's outputs. Raises InputError if a column is missing."""
        taken: Batch = {}
        for spec in self.signature.inputs:
            if spec.name not in batch:
                raise InputError(unknown_name("column", spec.name, batch))
            values = as_model_input(batch[spec.name], spec)
            taken[spec.name] = values[:, None] if values.ndim == 1 and len(spec.shape) == 2 else values
        return self._graph.infer_now(taken)
