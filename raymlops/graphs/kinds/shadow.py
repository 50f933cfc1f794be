"""The node that mirrors requests: callers never wait for a mirror, and under load mirrors are dropped first.

Nothing is queued for a mirror. A request is mirrored if the node was idle for as long as a mirror takes, and was so
between earlier requests too; while requests follow closely, only a small share of the time goes to mirrors.
"""

import asyncio
import collections
import concurrent.futures
import dataclasses
import math
import random
import threading
import time
from collections.abc import Mapping, Sequence

import numpy as np

from raymlops.graphs.execution import Branch, Request, Run, finish, work_in_thread
from raymlops.graphs.node_kind import Built, NodeKind, Parts
from raymlops.graphs.plan import Port, Read
from raymlops.graphs.port_types import join_answers
from raymlops.specs.graph_nodes import ShadowNode
from raymlops.tensors import Batch, split_rows

PAUSE_S = 0.002
"""Requests within this time of each other count as load, however short a mirror's run is."""
_LAST = 10
"""Number of requests whose idle times are examined: on a busy machine, a single idle time may occur under any load."""


class Shadow(NodeKind[ShadowNode]):
    spec = ShadowNode
    rows_independent = True

    def calls(self, node: ShadowNode) -> Sequence[str]:
        return [node.primary, node.mirror]

    def unawaited(self, node: ShadowNode) -> Sequence[str]:
        return [node.mirror]

    def outputs(
        self, node: ShadowNode, reads: Sequence[Read], answers: Mapping[str, tuple[Port, ...]]
    ) -> tuple[Port, ...]:
        return join_answers(answers)

    def build(self, parts: Parts) -> Built:
        node: ShadowNode = parts.step.node
        count = ShadowCount()
        run = build_shadow(node, parts.branches[node.primary], parts.branches[node.mirror], count)
        return Built(run, shadow=count)

    def label_call(self, node: ShadowNode, called: str) -> str:
        return "mirror" if called == node.mirror else "answers"


@dataclasses.dataclass
class ShadowCount:
    compared: int = 0
    different: int = 0
    failed: int = 0
    dropped: int = 0
    largest: float = 0.0
    """Largest difference of numbers seen."""


@dataclasses.dataclass(slots=True)
class MirrorThrottle:
    """Decides which requests may be mirrored; all times are in seconds of one clock."""

    share: float
    """Share of the time that mirrors may take while requests follow closely."""
    inside: int = 0
    """Number of requests in progress."""
    mirrored: int = 0
    """Number of mirrors in progress."""
    left: float = -1e9
    """When the last request was answered."""
    took: float = 0.0
    """Duration of the mirror's last run."""
    rests_until: float = -1e9
    entered: collections.deque[float] = dataclasses.field(
        default_factory=lambda: collections.deque([-1e9] * _LAST, _LAST)
    )
    """Arrival times of the last requests, the oldest first."""

    def enter(self, now: float) -> bool:
        """A request arrives; True if it may be mirrored."""
        pause = max(PAUSE_S, self.took)
        paused = not self.inside and now - self.left >= pause and now - self.entered[0] >= _LAST * pause
        self.entered.append(now)
        self.inside += 1
        return paused or (not self.mirrored and now >= self.rests_until)

    def leave(self, now: float) -> None:
        self.inside -= 1
        self.left = now

    def spend(self, began: float, ended: float) -> None:
        """A mirror has run."""
        self.mirrored -= 1
        self.took = ended - began
        self.rests_until = ended + self.took * (1 / self.share - 1)


def build_shadow(node: ShadowNode, primary: Branch, mirror: Branch, counted: ShadowCount) -> Run:
    """The mirror starts after the answer, and is dropped rather than waited for."""
    running: set[asyncio.Task[None]] = set()  # asyncio itself keeps only weak references
    choose = random.Random()  # noqa: S311
    thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix=f"shadow-{mirror.name}")
    throttle = MirrorThrottle(node.load)
    entering = threading.Lock()  # requests with a timeout run in threads
    clock = time.monotonic

    async def reflect(batch: Batch, request: Request, answer: Batch) -> None:
        began, callers = clock(), len(request.rows) or 1
        try:
            if mirror.suspends:
                other = await mirror.call(batch, request)
                different, largest = compare(answer, other, request.rows, node.tolerance)
            else:  # in a thread, since a mirror that hangs must not block callers
                different, largest = await work_in_thread(
                    lambda beside: compare(
                        answer, finish(mirror.call(batch, beside)), request.rows, node.tolerance
                    ),
                    request,
                    thread,
                )
        except Exception:  # no failure of a mirror may affect callers
            counted.failed += callers
            return
        finally:
            throttle.spend(began, clock())
        counted.compared += callers
        counted.different += different
        counted.largest = max(counted.largest, largest)

    def begin(batch: Batch, request: Request, answer: Batch, may: bool) -> None:
        if may and throttle.mirrored < node.queue:
            throttle.mirrored += 1
            task = asyncio.get_running_loop().create_task(reflect(batch, request, answer))
            running.add(task)
            task.add_done_callback(running.discard)
        else:
            counted.dropped += len(request.rows) or 1

    async def run(batch: Batch, request: Request) -> Batch:
        if not request.live:
            return await primary.call(batch, request)
        with entering:
            may = throttle.enter(clock())
        try:
            answer = await primary.call(batch, request)
        finally:
            with entering:
                throttle.leave(clock())
        if node.sample >= 1 or choose.random() < node.sample:
            if request.loop is None:
                begin(batch, request, dict(answer), may)
            else:
                request.loop.call_soon_threadsafe(begin, batch, request, dict(answer), may)
        return answer

    return run


def compare(answer: Batch, other: Batch, rows: Sequence[int], tolerance: float) -> tuple[int, float]:
    """The number of callers, of so many rows each, whose answers would differ, and the largest difference."""
    different, largest = differ(answer, other, tolerance)
    if not rows or not different:
        return int(different), largest
    parts = [
        differ(ours, theirs, tolerance)
        for ours, theirs in zip(split_rows(answer, rows), split_rows(other, rows), strict=True)
    ]
    return sum(different for different, _ in parts), max(gap for _, gap in parts)


def differ(first: Batch, second: Batch, tolerance: float) -> tuple[bool, float]:
    """Whether two answers differ in any shared tensor, and the largest difference of numbers."""
    differs, largest = False, 0.0
    for name in first.keys() & second.keys():
        a, b = first[name], second[name]
        if a.shape != b.shape or a.dtype.kind != b.dtype.kind:
            return True, math.inf
        if a.dtype.kind == "f" and a.size:
            gap = float(np.nanmax(np.abs(a.astype(np.float64) - b), initial=0.0))
            unequal = bool((np.isnan(a) != np.isnan(b)).any())
            differs, largest = differs or gap > tolerance or unequal, max(largest, gap)
        elif a.dtype == object:
            differs = differs or any(not np.array_equal(x, y) for x, y in zip(a.flat, b.flat, strict=True))
        else:
            differs = differs or not np.array_equal(a, b)
    return differs, largest
