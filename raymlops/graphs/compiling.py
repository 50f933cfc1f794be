"""A Plan and the implementations of its leaves -> calls that are ready to run. Decides all that a request
need not."""

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

import numpy as np

from raymlops.errors import (
    DeadlineError,
    InputError,
    NodeError,
    OverloadedError,
    RaymlopsError,
    TooLargeError,
)
from raymlops.graphs import arrays, routing, shadowing
from raymlops.graphs.plan import Plan, Port, Step
from raymlops.graphs.routing import Branch, Request, Run
from raymlops.graphs.shadowing import ShadowCount
from raymlops.histograms import Histogram
from raymlops.specs.graph_nodes import (
    INPUTS,
    CascadeNode,
    EachNode,
    MeanNode,
    ModelNode,
    PythonNode,
    ShadowNode,
    SplitNode,
    StackNode,
    SwitchNode,
    VoteNode,
    WeightedNode,
)
from raymlops.tensors import Batch

LARGE = 2**16
"""Elements that are combined in a thread: a vote over as many takes 10 ms."""


@dataclasses.dataclass(frozen=True)
class Implementation:
    """What answers for a leaf. `suspends` is False when `run` never waits, as for a short model in this
    process."""

    run: Callable[[Batch], Coroutine[Any, Any, Batch]]
    suspends: bool = True
    inline_rows: int = 0
    """Rows of the largest batch that it does not wait for either, where that is known."""


@dataclasses.dataclass(frozen=True)
class Merged:
    """One model in place of a chain of leaves; its tensors are named `node.tensor` as in the graph that it
    serves."""

    names: tuple[str, ...]
    implementation: Implementation
    needs: tuple[str, ...]
    gives: tuple[str, ...]
    prefix: str = ""


@dataclasses.dataclass(slots=True)
class Clock:
    """Runs of a node, of how many requests and rows, their times to the answer, and how many failed, or were answered
    by the fallback."""

    runs: int = 0
    requests: int = 0
    rows: int = 0
    failures: int = 0
    fallbacks: int = 0
    times: Histogram = dataclasses.field(default_factory=Histogram)

    def record(self, started: int, batch: Batch, request: Request) -> None:
        """A run since `started`, in nanoseconds."""
        if not request.counted:
            return
        self.times.add(time.perf_counter_ns() - started)
        self.runs += 1
        self.requests += len(request.rows) or 1
        for values in batch.values():
            self.rows += len(values)
            break

    def to_tree(self) -> dict[str, Any]:
        counts = {name: getattr(self, name) for name in ("runs", "requests", "rows", "failures", "fallbacks")}
        return {**counts, "times": self.times.to_tree()}


@dataclasses.dataclass(frozen=True)
class Call:
    """A step, compiled: which values it takes under which names, and under which keys its answers are
    kept."""

    name: str
    run: Run
    needs: tuple[tuple[str, str], ...]
    gives: tuple[tuple[str, str], ...]
    after: tuple[str, ...]
    suspends: bool


class Compiler:
    """Compiles a graph and those inside it; keeps what they count and the weights that may change."""

    def __init__(
        self,
        implementations: Mapping[str, Implementation],
        merged: Sequence[Merged],
        program: Callable[..., Any],
    ) -> None:
        self._implementations = implementations
        self._merged = merged
        self._program = program
        self.clocks: dict[str, Clock] = {}
        self.shadows: dict[str, ShadowCount] = {}
        self.weights: dict[str, dict[str, float]] = {}

    def compile(self, plan: Plan, prefix: str = "") -> Any:
        merged = [chain for chain in self._merged if chain.prefix == prefix]
        inside = {name: chain for chain in merged for name in chain.names}
        branches: dict[str, Branch] = {}
        calls: list[Call] = []
        for name, step in plan.steps.items():
            if name in inside:
                if name == inside[name].names[-1]:
                    calls.append(self._compile_merged(inside[name], prefix))
                continue
            run, suspends = self._compile_step(plan, step, branches, prefix)
            run = self._guard(run, step, branches, prefix + name, suspends)
            suspends = suspends or step.node.timeout_s is not None
            needs = tuple((key, str(reference)) for key, reference in step.needs)
            if name in plan.branches:
                branches[name] = Branch(name, run, needs, suspends)
                continue
            gives = tuple((port.spec.name, f"{name}.{port.spec.name}") for port in step.outputs)
            after = {inside[other].names[-1] if other in inside else other for other in step.after}
            calls.append(Call(name, run, needs, gives, tuple(sorted(after)), suspends))
        return self._program(plan, _sort(calls))

    def _compile_merged(self, chain: Merged, prefix: str) -> Call:
        path = prefix + "+".join(chain.names)
        clock = self.clocks[path] = Clock()
        run = _call_leaf(chain.implementation, {})

        async def guarded(batch: Batch, request: Request) -> Batch:
            started = time.perf_counter_ns()
            try:
                return await run(batch, request)
            except asyncio.CancelledError:
                request.waited_for.append(path)
                raise
            except Exception as error:
                clock.failures += request.counted
                raise _name_failure(error, path) from error
            finally:
                clock.record(started, batch, request)

        after = {source.partition(".")[0] for source in chain.needs} - {INPUTS}
        same = tuple((key, key) for key in chain.needs)
        gives = tuple((key, key) for key in chain.gives)
        return Call(
            chain.names[-1], guarded, same, gives, tuple(sorted(after)), chain.implementation.suspends
        )

    def _compile_step(
        self, plan: Plan, step: Step, branches: Mapping[str, Branch], prefix: str
    ) -> tuple[Run, bool]:
        node, path = step.node, prefix + step.name
        fallback = isinstance(node.fallback, str) and branches[node.fallback].suspends
        if isinstance(node, ModelNode | PythonNode):
            implementation = self._implementations[path]
            ragged = node.ragged if isinstance(node, ModelNode) else {}
            return _call_leaf(implementation, ragged), implementation.suspends or fallback
        if step.inner is not None:
            inner = self.compile(step.inner, f"{path}/")
            return inner.run, inner.suspends or fallback
        if isinstance(node, MeanNode | WeightedNode | VoteNode | StackNode):
            return _build_combination(node, step), fallback
        called = [branches[name] for name in step.branches]
        if isinstance(node, ShadowNode):
            called = [branches[node.primary]]
        suspends = any(branch.suspends for branch in called)
        return self._build_router(plan, step, branches, path), suspends or fallback

    def _build_router(self, plan: Plan, step: Step, branches: Mapping[str, Branch], path: str) -> Run:
        node = step.node
        own = [str(reference) for reference in step.reads]
        match node:
            case SwitchNode():
                return routing.build_switch(node, own, branches)
            case CascadeNode():
                return routing.build_cascade(node, branches)
            case SplitNode():
                self.weights[path] = dict(node.weights)
                return routing.build_split(
                    node, own[0] if node.by else None, branches, lambda: self.weights[path]
                )
            case ShadowNode():
                self.shadows[path] = ShadowCount()
                return shadowing.build_shadow(
                    node, branches[node.primary], branches[node.mirror], self.shadows[path]
                )
            case EachNode():
                ports = {str(reference): plan.port(reference) for _, reference in step.needs}
                ragged = {name: port for name, port in ports.items() if port.ragged}
                return routing.build_each(node, own[0], branches[node.run], ragged, step.outputs)
        raise AssertionError(f"no way to run {node.kind}")

    def _guard(self, run: Run, step: Step, branches: Mapping[str, Branch], path: str, suspends: bool) -> Run:
        """Time a node, name its failures, hold it to its timeout, and answer by its fallback."""
        node = step.node
        clock = self.clocks[path] = Clock()
        fallback = _build_fallback(step, branches)
        apart = isinstance(node, ModelNode | PythonNode) or step.inner is not None
        prefix = f"{INPUTS}/" if apart and step.branches else ""
        if node.timeout_s is not None:
            run = _limit(run, node.timeout_s, suspends, path)

        async def guarded(batch: Batch, request: Request) -> Batch:
            started = time.perf_counter_ns()
            try:
                if prefix:
                    own = {
                        key[len(prefix) :]: values for key, values in batch.items() if key.startswith(prefix)
                    }
                    return await run(own, request)
                return await run(batch, request)
            except asyncio.CancelledError:
                request.waited_for.append(path)
                raise
            except Exception as error:
                clock.failures += request.counted
                if fallback is None:
                    raise _name_failure(error, path) from error
                clock.fallbacks += request.counted
                request.waited_for.clear()  # what was given up before is not what is waited for now
                return await fallback(batch, request)
            finally:
                clock.record(started, batch, request)

        return guarded


def _sort(calls: list[Call]) -> list[Call]:
    """A merged chain stands where its last node stood, which may be after one that reads an earlier node of
    it."""
    names = {call.name for call in calls}
    placed: dict[str, Call] = {}
    waiting = calls
    while waiting:
        ready = [call for call in waiting if all(name in placed or name not in names for name in call.after)]
        placed.update({call.name: call for call in ready})
        waiting = [call for call in waiting if call.name not in placed]
        assert ready, "merging has made a circle"
    return list(placed.values())


def _call_leaf(implementation: Implementation, ragged: Mapping[str, str]) -> Run:
    call = implementation.run

    def run(batch: Batch, request: Request) -> Coroutine[Any, Any, Batch]:
        return call(batch)

    async def run_ragged(batch: Batch, request: Request) -> Batch:
        answer = dict(await call(batch))
        for values, lengths in ragged.items():
            answer[values] = arrays.group_elements(answer[values], answer[lengths])
        return answer

    return run_ragged if ragged else run


def _build_combination(node: MeanNode | WeightedNode | VoteNode | StackNode, step: Step) -> Run:
    name = step.outputs[0].spec.name
    combine: Callable[[list[arrays.Array]], arrays.Array]
    match node:
        case MeanNode():
            combine = arrays.mean
        case VoteNode():
            combine = arrays.vote
        case WeightedNode():
            weights = list(node.of.values())
            combine = lambda values: arrays.weigh(values, weights)  # noqa: E731
        case StackNode():
            axis = node.axis
            combine = lambda values: arrays.stack(values, axis)  # noqa: E731
    members = [str(reference) for reference in step.reads]

    async def run(batch: Batch, request: Request) -> Batch:
        values = [batch[member] for member in members]
        # Requests that were joined are small, and are run by what cannot wait.
        if not request.rows and sum(array.size for array in values) > LARGE and _on_loop():
            return {name: await asyncio.to_thread(combine, values)}
        return {name: combine(values)}

    return run


def _on_loop() -> bool:
    """False where a graph is run without an event loop: in threads, and over files."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _build_fallback(step: Step, branches: Mapping[str, Branch]) -> Run | None:
    values = step.node.fallback
    if values is None:
        return None
    if isinstance(values, str):
        return branches[values].call
    ports: Sequence[Port] = step.outputs

    async def fill(batch: Batch, request: Request) -> Batch:
        rows = routing.count(batch)
        return {
            port.spec.name: np.full((rows, *port.spec.shape[1:]), values[port.spec.name], port.spec.dtype)
            for port in ports
        }

    return fill


def _limit(run: Run, seconds: float, suspends: bool, path: str) -> Run:
    async def limited(batch: Batch, request: Request) -> Batch:
        if suspends:
            waiting: Awaitable[Batch] = run(batch, request)
        else:  # what never waits cannot be interrupted, only left behind
            loop = asyncio.get_running_loop()
            waiting = loop.run_in_executor(None, lambda: routing.finish(run(batch, request)))
        try:
            return await asyncio.wait_for(waiting, seconds)
        except TimeoutError:
            request.waited_for.clear()
            raise DeadlineError(f"Node {path!r} did not answer within {seconds:g} s") from None

    return limited


def _name_failure(error: Exception, path: str) -> RaymlopsError:
    """The same failure, with the name of the innermost node where it arose.

    What a node refuses is the caller's to mend however deep it lies: all that nodes read comes from the request.
    """
    if isinstance(error, NodeError):
        return error
    told = str(error)
    message = told if told.startswith("Node ") else f"Node {path!r}: {told}"
    if isinstance(error, DeadlineError | TooLargeError):
        return type(error)(message)
    if isinstance(error, OverloadedError):
        return type(error)(message, error.retry_after)
    if isinstance(error, InputError):
        return InputError(message)
    return NodeError(f"Node {path!r} failed: {type(error).__name__}: {error}", path)
