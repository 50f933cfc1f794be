"""A Plan and the implementations of its leaves -> calls that are ready to run. Decides everything that does not
depend on the request."""

import asyncio
import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raymlops.errors import (
    DeadlineError,
    InputError,
    NodeError,
    OverloadedError,
    RaymlopsError,
    TooLargeError,
    describe_cause,
)
from raymlops.graphs.answer_checks import copy_answer, make_check
from raymlops.graphs.execution import Branch, Implementation, Request, Run, finish, work_in_thread
from raymlops.graphs.node_kind import Parts, Weights
from raymlops.graphs.own_kinds import failures_named
from raymlops.graphs.plan import Plan, Port, Step
from raymlops.histograms import Histogram
from raymlops.specs.graph_nodes import INPUTS, is_own
from raymlops.tensors import Batch, count_rows


@dataclasses.dataclass(frozen=True)
class Merged:
    """One model in place of a chain of leaves; its tensors are named `node.tensor` as in its graph."""

    names: tuple[str, ...]
    implementation: Implementation
    needs: tuple[str, ...]
    gives: tuple[str, ...]
    prefix: str = ""


@dataclasses.dataclass(slots=True)
class Clock:
    """Runs of a node: counts of requests and rows, times to the answer, failures, and answers by the fallback."""

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
    """A compiled step: the values that it reads and their names, and the keys under which its outputs are stored."""

    name: str
    run: Run
    needs: tuple[tuple[str, str], ...]
    gives: tuple[tuple[str, str], ...]
    after: tuple[str, ...]
    suspends: bool


class Program:
    """The compiled steps of one graph, without its inputs and outputs."""

    def __init__(self, plan: Plan, calls: Sequence[Call]) -> None:
        self._calls = calls
        self._inputs = [(port.spec.name, f"{INPUTS}.{port.spec.name}") for port in plan.inputs]
        self._outputs = [(name, str(reference)) for name, reference in plan.outputs]
        self.suspends = any(call.suspends for call in calls)
        self._ahead, self._overlapping = _find_overlap(calls)

    async def run(self, batch: Batch, request: Request) -> Batch:
        values = {key: batch[name] for name, key in self._inputs}
        for call in self._ahead:
            answer = await call.run({key: values[source] for key, source in call.needs}, request)
            for name, key in call.gives:
                values[key] = answer[name]
        if self._overlapping:
            await _overlap(self._overlapping, values, request)
        return {name: values[key] for name, key in self._outputs}


def _find_overlap(calls: Sequence[Call]) -> tuple[Sequence[Call], Sequence[Call]]:
    """Calls to run in order, and then those among which two may wait at the same time; often none."""
    above: dict[str, set[str]] = {}
    for call in calls:
        above[call.name] = set(call.after).union(*(above.get(name, ()) for name in call.after))
    waiting = [call.name for call in calls if call.suspends]
    together = any(first not in above[second] for i, second in enumerate(waiting) for first in waiting[:i])
    if not together:
        return calls, ()
    tasks = [call for call in calls if call.suspends or above[call.name] & set(waiting)]
    return [call for call in calls if call not in tasks], tasks


async def _overlap(calls: Sequence[Call], values: dict[str, Any], request: Request) -> None:
    """Each call starts as soon as the calls that it reads from have answered."""
    tasks: dict[str, asyncio.Task[None]] = {}

    async def run(call: Call) -> None:
        for name in call.after:
            if name in tasks:
                await tasks[name]
        answer = await call.run({key: values[source] for key, source in call.needs}, request)
        for name, key in call.gives:
            values[key] = answer[name]

    for call in calls:
        tasks[call.name] = asyncio.ensure_future(run(call))
    try:
        await asyncio.gather(*tasks.values())
    except BaseException:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        raise


class Compiler:
    """Compiles a graph and its inner graphs; keeps their counters and the weights that may change."""

    def __init__(
        self,
        implementations: Mapping[str, Implementation],
        merged: Sequence[Merged],
    ) -> None:
        self._implementations = implementations
        self._merged = merged
        self.clocks: dict[str, Clock] = {}
        self.shadows: dict[str, Any] = {}
        self.weights: dict[str, Weights] = {}

    def compile(self, plan: Plan, prefix: str = "") -> "Program":
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
        return Program(plan, _sort(calls))

    def _compile_merged(self, chain: Merged, prefix: str) -> Call:
        path = prefix + "+".join(chain.names)
        clock = self.clocks[path] = Clock()
        call = chain.implementation.run

        async def guarded(batch: Batch, request: Request) -> Batch:
            started = time.perf_counter_ns()
            try:
                return await call(batch)
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
        """The function that runs a node, and whether it may wait."""
        path = prefix + step.name
        suspends = any(branches[name].suspends for name in step.awaited)
        implementation = inner = None
        if step.kind.is_leaf:
            implementation = self._implementations[path]
            suspends = suspends or implementation.suspends
        if step.inner is not None:
            program = self.compile(step.inner, f"{path}/")
            inner = program.run
            suspends = suspends or program.suspends
        parts = Parts(step, path, branches, plan.port, implementation, inner)
        document = plan.spec.nodes[step.name]
        with failures_named(path, document):
            built = step.kind.build(parts)
            run = built.run
        if built.weights is not None:
            self.weights[path] = built.weights
        if built.shadow is not None:
            self.shadows[path] = built.shadow
        if is_own(document.kind):
            run = _hold(run, path, step.outputs)
        return run, suspends or built.suspends

    def _guard(self, run: Run, step: Step, branches: Mapping[str, Branch], path: str, suspends: bool) -> Run:
        """Times a node, adds its name to failures, applies its timeout, and answers by its fallback."""
        node = step.node
        clock = self.clocks[path] = Clock()
        fallback = _build_fallback(step, branches)
        prefix = step.own_prefix
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
                request.waited_for.clear()  # nodes that were given up are no longer waited for
                return await fallback(batch, request)
            finally:
                clock.record(started, batch, request)

        return guarded


def _hold(run: Run, path: str, outputs: Sequence[Port]) -> Run:
    """The function of a user's kind, whose outputs are checked against its declaration."""
    check = make_check(path, outputs)

    async def held(batch: Batch, request: Request) -> Batch:
        return check(batch, copy_answer(await run(batch, request)))

    return held


def _sort(calls: list[Call]) -> list[Call]:
    """A merged chain is placed where its last node was, which may be after a node that reads an earlier node of it."""
    names = {call.name for call in calls}
    placed: dict[str, Call] = {}
    waiting = calls
    while waiting:
        ready = [call for call in waiting if all(name in placed or name not in names for name in call.after)]
        placed.update({call.name: call for call in ready})
        waiting = [call for call in waiting if call.name not in placed]
        assert ready, "merging has made a cycle"
    return list(placed.values())


def _build_fallback(step: Step, branches: Mapping[str, Branch]) -> Run | None:
    values = step.node.fallback
    if values is None:
        return None
    if isinstance(values, str):
        return branches[values].call
    ports: Sequence[Port] = step.outputs

    async def fill(batch: Batch, request: Request) -> Batch:
        rows = count_rows(batch)
        return {
            port.spec.name: np.full((rows, *port.spec.shape[1:]), values[port.spec.name], port.spec.dtype)
            for port in ports
        }

    return fill


def _limit(run: Run, seconds: float, suspends: bool, path: str) -> Run:
    async def limited(batch: Batch, request: Request) -> Batch:
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                if suspends:
                    return await run(batch, request)
                # A call that never waits cannot be interrupted, only abandoned.
                return await work_in_thread(lambda beside: finish(run(batch, beside)), request)
        except TimeoutError:
            if not limit.expired():  # it is the node's own
                raise
            request.waited_for.clear()
            raise DeadlineError(f"Node {path!r} did not answer within {seconds:g} s") from None

    return limited


def _name_failure(error: Exception, path: str) -> RaymlopsError:
    """The same failure, with the name of the innermost node in which it occurred.

    An input that a node refuses is the caller's error, however deep the node: all that nodes read comes from the
    request.
    """
    if isinstance(error, NodeError):
        return error
    if not isinstance(error, DeadlineError | TooLargeError | OverloadedError | InputError):
        return NodeError(f"Node {path!r} failed: {describe_cause(error, 2000)}", path)
    told = str(error)
    message = told if told.startswith("Node ") else f"Node {path!r}: {told}"
    if isinstance(error, OverloadedError):
        return type(error)(message, error.retry_after)
    return InputError(message) if isinstance(error, InputError) else type(error)(message)
