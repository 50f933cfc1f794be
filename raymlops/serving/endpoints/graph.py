"""Hosts a graph as one endpoint: decides where nodes run, opens those that run here. Does not import Ray."""

import asyncio
import dataclasses
import functools
import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from raymlops.errors import DeadlineError, SpecError
from raymlops.graphs.compiler import Merged
from raymlops.graphs.execution import Implementation, Request, Watch
from raymlops.graphs.graph import Graph
from raymlops.graphs.node_kind import on_loop
from raymlops.graphs.placement import Decision, Limits
from raymlops.graphs.row_independence import find_dependence
from raymlops.graphs.validation import list_leaves, validate
from raymlops.models.isolated_session import IsolatedSession
from raymlops.models.row_independence import Independence
from raymlops.models.session import Session, SessionOptions
from raymlops.runtime.leaf_kinds import Leaf
from raymlops.runtime.open_graph import Chain, find_columns, merge_chains, open_graph, open_leaves
from raymlops.runtime.run_cost import check, count_batch_rows
from raymlops.runtime.sources import make_locate
from raymlops.serving.endpoints import deadlines, queue_time
from raymlops.serving.endpoints.hosted import Hosted
from raymlops.serving.endpoints.model import ModelEndpoint, require_independence
from raymlops.serving.endpoints.python_runs import run_in_thread
from raymlops.serving.endpoints.queue_batcher import BatchOptions
from raymlops.serving.endpoints.statistics import Statistics, Tree
from raymlops.serving.endpoints.tick_batcher import MOST_ROWS, TickBatcher
from raymlops.serving.protocol.columns import read_columns
from raymlops.settings import Settings
from raymlops.specs.document import to_first_names
from raymlops.specs.graph import GraphSpec, list_nodes
from raymlops.specs.graph_nodes import PlacedNode, is_own
from raymlops.tensors import Batch, Signature

LOG = logging.getLogger("raymlops.serving")


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Decisions made once, when the application was built, for all its replicas."""

    spec: GraphSpec
    signatures: Mapping[str, Signature]
    decisions: Mapping[str, Decision]
    columns: Sequence[Mapping[str, Any]]
    """Of the request, with kind and conversion, from the contracts of the models that read them."""
    couplings: Mapping[str, str]
    """Why rows of a leaf may not share a run, by path; empty if they may."""
    joined_rows: Mapping[str, int]
    """Rows of several requests that may share a call of a node, by path: as many as a model runs in less time than
    the call takes."""

    @property
    def version(self) -> str:
        """Changes with the models and all other declarations."""
        return hashlib.sha256(TypeAdapter(dict).dump_json(to_first_names(self.spec))).hexdigest()[:12]

    @property
    def separate(self) -> list[str]:
        return [path for path, decision in self.decisions.items() if decision.place == "separate"]


def prepare_graph(spec: GraphSpec, settings: Settings) -> Prepared:
    """Open and measure everything once. Raises SpecError, NotFoundError, ArtifactError before anything is deployed."""
    options = SessionOptions(shared=True)
    opened = open_graph(spec.model_copy(update={"merge": False}), make_locate(settings), options)
    nodes = dict(list_leaves(spec))
    for path, decision in opened.decisions.items():
        LOG.info("%s %s: %s, because %s", spec.name, path, decision.place, decision.reason)
        if decision.place == "separate":
            require_independence(
                f"{spec.name}/{path}", _batching_of(nodes[path]), opened.leaves[path].independence
            )
    prepared = Prepared(
        spec,
        {path: leaf.signature for path, leaf in opened.leaves.items() if leaf.signature},
        opened.decisions,
        find_columns(opened.plan, opened.leaves),
        {path: leaf.independence.reason for path, leaf in opened.leaves.items()},
        {
            path: _count_rows_of_a_hop(opened.leaves[path], nodes[path])
            for path, decision in opened.decisions.items()
            if decision.place == "separate"
        },
    )
    for leaf in opened.leaves.values():
        if leaf.session is not None:
            leaf.session.close()
    return prepared


def _batching_of(node: PlacedNode) -> str:
    return "on" if node.resources is not None and node.resources.max_rows else "auto"


def _count_rows_of_a_hop(leaf: Leaf, node: PlacedNode) -> int:
    if not leaf.independence or isinstance(leaf.session, IsolatedSession):
        return 0
    if leaf.session is not None and leaf.session.by_value:
        return 0
    if leaf.measured is None:  # a Python node: its run time is unknown
        return node.resources.max_rows if node.resources is not None else 0
    return min(MOST_ROWS, int(Limits().hop_ms / max(1e-3, leaf.measured.milliseconds)))


class GraphEndpoint:
    """A graph that counts its answers."""

    def __init__(
        self, graph: Graph, statistics: "GraphStatistics", most: int = 0, deadline_s: float = 30.0
    ) -> None:
        """At most `most` rows of requests may share a run."""
        self._deadline_s = deadline_s
        self.graph = graph
        self.signature = graph.signature
        self.version = graph.version
        self._statistics = statistics
        self._turns = TickBatcher(statistics)
        self._most = most

    async def infer(self, batch: Batch, *, key: str | None = None) -> Batch:
        rows = count_batch_rows(batch)
        if 0 < rows <= self._most:
            return await self._turns.infer(self.graph.infer_joined, batch, rows, self._most)
        arrived, waited = time.perf_counter_ns(), 0
        if self.graph.suspends:
            with queue_time.measured() as waits:
                answer = await self._infer_within(batch, Request(key))
            (waited,) = waits
        else:
            answer = await self.graph.infer(batch, key=key)
        ended = time.perf_counter_ns()
        # Nodes that ran in parallel may have waited longer in total.
        self._statistics.record_run(rows, min(arrived + waited, ended), ended, (arrived,))
        return answer

    async def try_batch(self, batch: Batch) -> Batch:
        """The answer to a batch outside of any request: uncounted, without shadows. Raises what `infer` raises."""
        return await self._infer_within(batch, Request(live=False, counted=False))

    async def _infer_within(self, batch: Batch, request: Request) -> Batch:
        seconds = self._deadline_s
        try:
            with deadlines.bound(seconds):
                async with asyncio.timeout(seconds):
                    return await self.graph.infer(batch, request=request)
        except TimeoutError:
            raise DeadlineError(
                f"{_describe_waited_for(request)} did not answer within {seconds:g} s"
            ) from None
        except asyncio.CancelledError as error:  # a caller that gave up may say what it waited for
            error.add_note(_describe_waited_for(request))
            raise


def _describe_waited_for(request: Request) -> str:
    return f"Node {request.waited_for[0]!r}" if request.waited_for else "The graph"


def count_joinable_rows(graph: Graph, leaves: Mapping[str, Implementation]) -> int:
    """Rows up to which requests may share a run of a graph that is row by row, whose `leaves` run here."""
    if graph.suspends:
        return 0
    return min(MOST_ROWS, *(leaves[path].inline_rows for path in graph.plan.answering()))


class GraphStatistics(Statistics):
    """A model's counters, and those of the nodes."""

    def __init__(self, name: str, version: str, graph: Graph, decisions: Mapping[str, Decision]) -> None:
        super().__init__(name, version)
        self._graph, self._decisions = graph, decisions

    def stamp(self) -> object:
        counted = self._graph.statistics()
        return (
            super().stamp(),
            [clock.runs for clock in counted.clocks.values()],
            [dataclasses.astuple(shadow) for shadow in counted.shadows.values()],
            [dict(weights) for weights in counted.weights.values()],
        )

    def to_tree(self) -> Tree:
        tree, counted = super().to_tree(), self._graph.statistics()
        tree["counts"]["nodes"] = {path: clock.to_tree() for path, clock in counted.clocks.items()}
        tree["counts"]["shadows"] = {}
        for path, shadow in counted.shadows.items():
            counts = dataclasses.asdict(shadow)
            # JSON has no infinity.
            tree["latest"][f"largest difference of {path}"] = min(counts.pop("largest"), 1e308)
            tree["counts"]["shadows"][path] = counts
        tree["told"]["graph"] = {
            "weights": {path: dict(weights) for path, weights in counted.weights.items()},
            "placements": {path: dataclasses.asdict(decision) for path, decision in self._decisions.items()},
        }
        return tree


def host_graph(
    name: str,
    prepared: Prepared,
    remote: Mapping[str, Implementation],
    settings: Settings,
    *,
    threads: int = 1,
    gpus: Sequence[str | int] = (),
    queue: int = 128,
    memory: int = 0,
    watches: Mapping[str, Watch] | None = None,
) -> Hosted:
    """An endpoint whose fused nodes run here; `remote` answers for the separate ones. `watches` are told of the runs of
    nodes, by path; these stay as they are, as the tensors within a merged chain are not seen."""
    watches = watches or {}
    options = SessionOptions.for_device("auto", gpus, threads)
    options = dataclasses.replace(options, shared=True, memory=memory)
    fused = [path for path, decision in prepared.decisions.items() if decision.place == "fused"]
    leaves = open_leaves(prepared.spec, make_locate(settings), options, only=fused)
    plan = validate(prepared.spec, prepared.signatures)
    chains, unmerged = merge_chains(plan, prepared.decisions, leaves, options, apart=watches)
    for chain, reason in unmerged.items():
        LOG.info("%s: %s stays unmerged: %s", name, chain, reason)
    live = functools.partial(run_live, queue=queue, deadline_s=prepared.spec.deadline_s)
    beside = {
        path: run_in_thread(leaf.instance, path, leaf.check)
        for path, leaf in leaves.items()
        if leaf.session is None
    }
    implementations = {
        path: live(leaf.session, f"{name}/{path}", leaf.independence)
        if leaf.session
        else beside[path].implementation
        for path, leaf in leaves.items()
    }
    watched = {
        path: dataclasses.replace({**implementations, **remote}[path], watch=watch)
        for path, watch in watches.items()
    }
    merged = [_implement_chain(chain, live, name) for chain in chains]
    make = functools.partial(
        Graph, plan, {**implementations, **remote, **watched}, merged=merged, version=prepared.version
    )
    graph = make()
    statistics = GraphStatistics(name, prepared.version, graph, prepared.decisions)
    coupling = find_dependence(plan, prepared.couplings)
    most = 0 if coupling else count_joinable_rows(graph, implementations)
    statistics.sharing = (
        Independence(coupling).told if coupling or most else "some of its nodes are waited for"
    )
    LOG.info("%s: shared runs: %s", name, statistics.sharing)
    columns = read_columns(graph.signature, {"columns": prepared.columns})
    sessions = [leaf.session for leaf in leaves.values() if leaf.session]
    endpoint = GraphEndpoint(graph, statistics, most, prepared.spec.deadline_s)
    checks: list[Callable[[], None]] = [
        *(functools.partial(check, session) for session in sessions),
        *(node.check for node in beside.values()),
    ]
    hosted = Hosted(
        name, endpoint, statistics, columns, platform="raymlops_graph", try_batch=endpoint.try_batch
    )
    hosted.runs_python = bool(beside) or any(is_own(node.kind) for _, node in list_nodes(prepared.spec))
    hosted.check = lambda: _run_all(checks)
    return hosted


def _implement_chain(chain: Chain, live: Callable[..., Implementation], graph: str) -> Merged:
    name = f"{graph}/{chain.prefix}{'+'.join(chain.names)}"
    run = live(chain.session, name, chain.independence)
    return Merged(chain.names, run, chain.needs, chain.gives, chain.prefix)


def runs_python(spec: GraphSpec) -> bool:
    """Whether foreign code may work on tensors of a graph."""
    return any(is_own(node.kind) or node.kind == "python" for _, node in list_nodes(spec))


def set_weights(hosted: Hosted, weights: Mapping[str, Mapping[str, float]]) -> None:
    """Change the shares of a graph's splits while it serves. Raises SpecError."""
    if not isinstance(hosted.endpoint, GraphEndpoint):
        raise SpecError(f"{hosted.name!r} is a model, not a graph; only the splits of graphs have weights")
    hosted.endpoint.graph.set_weights(weights)


def run_live(
    session: Session, name: str, independence: Independence, queue: int = 128, deadline_s: float = 30.0
) -> Implementation:
    """Short runs on the event loop, long ones batched in a thread, like a model that is served alone."""
    statistics = Statistics(name, "1")
    endpoint = ModelEndpoint(
        session, statistics, BatchOptions(queue=queue), deadline_s=deadline_s, independence=independence
    )
    infer, cost = session.infer, endpoint.cost

    async def run(batch: Batch) -> Batch:
        if cost.is_short(batch, count_batch_rows(batch)) or not on_loop():
            return infer(batch)
        return await endpoint.infer(batch)

    return Implementation(run, cost.inline_rows < 1, cost.always_inline_rows)


def _run_all(checks: Sequence[Callable[[], None]]) -> None:
    for check_one in checks:
        check_one()
