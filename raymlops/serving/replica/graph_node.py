"""Separate nodes of graphs as Ray Serve deployments, and calls to them. Does not decide which nodes are separate: see
placement."""

import asyncio
import dataclasses
import json
import time
from collections.abc import Mapping
from typing import Any

import ray
from ray import serve
from ray.serve.schema import LoggingConfig

from raymlops.errors import DeadlineError, describe_cause
from raymlops.graphs.execution import Implementation
from raymlops.graphs.validation import list_leaves
from raymlops.models.session import SessionOptions
from raymlops.runtime.leaf_kinds import open_leaf
from raymlops.runtime.run_cost import count_batch_rows
from raymlops.runtime.sources import make_locate
from raymlops.serving import serve_internals
from raymlops.serving.endpoints import deadlines
from raymlops.serving.endpoints.access_log import ACCESS
from raymlops.serving.endpoints.graph import Prepared
from raymlops.serving.endpoints.model import ModelEndpoint
from raymlops.serving.endpoints.python_runs import run_in_thread
from raymlops.serving.endpoints.queue_batcher import BatchOptions
from raymlops.serving.endpoints.run_memory import share_memory
from raymlops.serving.endpoints.statistics import Statistics
from raymlops.serving.endpoints.tick_batcher import JoinedCalls
from raymlops.serving.proxy import listeners
from raymlops.serving.replica.handle_calls import call_handle
from raymlops.serving.transport import trace_context
from raymlops.serving.transport.asgi import log_to_stderr
from raymlops.serving.transport.trace_context import Trace
from raymlops.settings import Settings
from raymlops.specs.graph_nodes import PlacedNode, Resources
from raymlops.tensors import Batch, make_writable

DEAR_S = 1.0
"""A model with longer runs is not run to check that it still answers."""


class Node:
    """A replica of one node; `name` is that of the graph and the node's path in it."""

    def __init__(
        self,
        name: str,
        path: str,
        node: PlacedNode,
        resources: Resources,
        deadline_s: float = 30.0,
    ) -> None:
        self._name = name
        listeners.close_replica_ports()
        log_to_stderr()
        gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
        options = SessionOptions.for_device("auto", gpus, max(1, int(resources.cpus)))
        memory = share_memory(resources.cpus, (resources.memory_mb or 0) * 2**20)
        options = dataclasses.replace(options, shared=True, memory=memory)
        leaf = open_leaf(path, node, make_locate(Settings.from_env()), options)
        if leaf.session is None:
            beside = run_in_thread(leaf.instance, path, leaf.check)
            self._run, self._check, self._is_checked = beside.implementation.run, beside.check, True
            return
        batching = BatchOptions(max(1, resources.max_rows), resources.wait_ms / 1000, True, resources.queue)
        mode = "on" if resources.max_rows else "off"
        statistics = Statistics(path, "1")
        endpoint = ModelEndpoint(leaf.session, statistics, batching, mode, deadline_s, leaf.independence)
        self._run, self._check = endpoint.infer, endpoint.check
        # An expensive model that is busy would not answer a check in time; its requests show that it answers.
        self._is_checked = endpoint.cost.fixed + endpoint.cost.row < DEAR_S

    async def check_health(self) -> None:
        """Run the model once, off the event loop; if it fails or takes too long, Serve replaces the replica."""
        if self._is_checked:
            await asyncio.to_thread(self._check)

    async def infer(self, batch: Batch, trace: Trace, within_s: float | None = None) -> Batch:
        """Answer a batch. Raises DeadlineError if it takes longer than `within_s`, and what the node raises."""
        trace_context.follow(lambda: trace)
        started = time.perf_counter()
        failure = ""
        try:
            async with asyncio.timeout(within_s) as scope:
                return await self._run(batch)
        except TimeoutError as error:
            failure = describe_cause(error)
            if not scope.expired():
                raise
            raise DeadlineError(f"it did not answer within the {within_s or 0:.3g} s that it had") from None
        except BaseException as error:
            failure = describe_cause(error)
            raise
        finally:
            if trace.logged or failure:
                self._log(trace, count_batch_rows(batch), time.perf_counter() - started, failure)

    def _log(self, trace: Trace, rows: int, seconds: float, failure: str) -> None:
        entry = {
            "time": round(time.time(), 3),
            "request_id": trace.request_id,
            "node": self._name,
            "rows": rows,
            "ms": round(seconds * 1000, 3),
            "failure": failure,
            "trace": trace.parent,
        }
        ACCESS.info(json.dumps(entry))


def bind_nodes(name: str, prepared: Prepared) -> dict[str, serve.Application]:
    """A deployment for each separate node of a graph, by path."""
    leaves = dict(list_leaves(prepared.spec))
    return {
        path: _make_deployment(name, path, leaves[path], prepared.spec.deadline_s)
        for path in prepared.separate
    }


def _make_deployment(graph: str, path: str, node: PlacedNode, deadline_s: float) -> serve.Application:
    resources = node.resources or Resources()
    actor: dict[str, Any] = {"num_cpus": resources.cpus, "num_gpus": resources.gpus}
    if resources.memory_mb:
        actor["memory"] = resources.memory_mb * 2**20
    options: dict[str, Any] = {
        "max_ongoing_requests": max(64, int(4 * resources.target)),
        "max_queued_requests": resources.queue,
        "ray_actor_options": actor,
        "logging_config": LoggingConfig(enable_access_log=False, log_level="WARNING"),
        "graceful_shutdown_wait_loop_s": 0.5,
        "health_check_period_s": 5,
        "health_check_timeout_s": 15,
    }
    if resources.max_replicas is None:
        options["num_replicas"] = resources.replicas
    else:
        options["autoscaling_config"] = {
            "min_replicas": resources.replicas,
            "max_replicas": resources.max_replicas,
            "target_ongoing_requests": resources.target,
        }
    deployment = serve.deployment(name=f"{graph}.{path.replace('/', '.')}", **options)(Node)
    return deployment.bind(f"{graph}/{path}", path, node, resources, deadline_s)


def call_nodes(handles: Mapping[str, Any], prepared: Prepared) -> dict[str, Implementation]:
    nodes = dict(list_leaves(prepared.spec))
    return {
        path: call_node(handle, prepared.joined_rows.get(path, 0), nodes[path].timeout_s)
        for path, handle in handles.items()
    }


BY_REFERENCE = 4 * 2**20
"""Bytes from which on tensors travel through Ray's object store: it is then faster than a message, ten times so for
an image of 22 MB."""


def _make_remotes(handle: Any) -> tuple[Any, Any]:
    """How to call a node with messages, and through the object store if this Serve can."""
    by_value = handle.options(
        method_name="infer", request_serialization="pickle", response_serialization="pickle"
    ).remote
    return by_value, serve_internals.by_reference(handle, "infer") or by_value


def _count_bytes(batch: Batch) -> int:
    return sum([array.nbytes for array in batch.values()])


def call_node(handle: Any, joined_rows: int = 0, timeout_s: float | None = None) -> Implementation:
    """Call a separate node. A call that a replica had started when it died is not sent to another one, which could
    die of it too: ProcessEndedError.

    Concurrent requests share a call of up to `joined_rows`, except those that are traced or whose callers set a
    deadline. A call ends at the request's deadline, or after the node's own `timeout_s`.
    """
    by_value, by_reference = _make_remotes(handle)
    answered = 0
    """Bytes of the last answer: a node's answers usually have similar sizes."""

    async def call(batch: Batch) -> Batch:
        nonlocal answered
        left = deadlines.count_remaining()
        within_s = timeout_s if left is None or (timeout_s is not None and timeout_s < left) else left
        is_large = max(answered, _count_bytes(batch)) >= BY_REFERENCE
        remote = by_reference if is_large else by_value
        answer: Batch = await call_handle(remote, batch, trace_context.current(), within_s)
        answered = _count_bytes(answer)
        return make_writable(answer) if is_large else answer

    joined = JoinedCalls(call, joined_rows)

    async def run(batch: Batch) -> Batch:
        trace = trace_context.current()
        rows = count_batch_rows(batch)
        if rows >= joined_rows or trace.parent or trace.logged or deadlines.is_asked():
            return await call(batch)
        return await joined.infer(batch, rows)

    return Implementation(run, suspends=True)
