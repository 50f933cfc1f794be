"""Runs the Python nodes of a served graph: coroutines on the event loop, other functions in a thread. Loads none.

The run time of a user's `run` is unknown, and nothing else of a replica must wait for it. Each node has one thread,
so that its runs follow each other as they would on the event loop.
"""

import asyncio
import concurrent.futures
import contextlib
import contextvars
import dataclasses
import inspect
import time
from collections.abc import Callable, Iterator
from typing import Any

from raymlops.errors import ResourceError
from raymlops.graphs.answer_checks import Check, accept_all, copy_answer
from raymlops.graphs.execution import Implementation
from raymlops.runtime.open_graph import run_python
from raymlops.runtime.python_refusals import RefusalsAsInputErrors
from raymlops.serving.endpoints import queue_time
from raymlops.tensors import Batch, make_writable

MOST_LEFT = 8
"""Abandoned threads that still run, for each of which a node gets another one."""


@dataclasses.dataclass(frozen=True)
class ThreadedRuns:
    """Answers for a node, and checks whether it still can: raises if it cannot."""

    implementation: Implementation
    check: Callable[[], None]


def run_in_thread(instance: Any, name: str, check: Check = accept_all) -> ThreadedRuns:
    """Answers for a node while the event loop does other things; `check` compares outputs with its declaration."""
    own = getattr(instance, "check_health", None)
    own = own if callable(own) and not inspect.iscoroutinefunction(own) else _do_nothing
    if inspect.iscoroutinefunction(instance.run):
        coroutine = run_python(instance, check)

        async def run(batch: Batch) -> Batch:
            with _exits_as_errors():
                return await coroutine.run(batch)

        return ThreadedRuns(dataclasses.replace(coroutine, run=run), own)
    thread = _OwnThread(instance.run, name, check)

    def check_both() -> None:
        thread.require_room()
        own()

    return ThreadedRuns(Implementation(thread.run, suspends=True), check_both)


def _do_nothing() -> None: ...


@contextlib.contextmanager
def _exits_as_errors() -> Iterator[None]:
    """A node that calls `sys.exit`, as argparse does, fails at its request; the process serves others too."""
    try:
        yield
    except SystemExit as error:
        raise RuntimeError(f"it called sys.exit({error.code!r})") from error


class _OwnThread:
    def __init__(self, call: Callable[[Batch], Batch], name: str, check: Check) -> None:
        self._call = call
        self._check = check
        self._name = name
        self._left: list[concurrent.futures.Future[Any]] = []
        self._stuck: concurrent.futures.Future[Any] | None = None
        """A run that nobody waits for, and that occupies the last thread."""
        self._thread = self._make_thread()

    async def run(self, batch: Batch) -> Batch:
        arrived = time.perf_counter_ns()
        while True:
            thread, started = self._thread, list[int]()
            context = contextvars.copy_context()  # with the trace context of the request
            running = thread.submit(context.run, self._run, batch, started)
            try:
                with RefusalsAsInputErrors():
                    answer = await asyncio.wrap_future(running)
            except asyncio.CancelledError:
                if running.cancelled() and thread is not self._thread and not _is_given_up():
                    continue  # it waited behind a run that was left with its thread
                if not running.cancel() and not running.done():
                    self._leave(thread, running)
                raise
            queue_time.add(started[0] - arrived)
            return self._check(batch, answer)

    def _run(self, batch: Batch, started: list[int]) -> Any:
        started.append(time.perf_counter_ns())
        with _exits_as_errors():
            answer = self._call(make_writable(batch))
        return copy_answer(answer)  # here: the next run of this thread may begin at once

    def require_room(self) -> None:
        """Raises ResourceError if so many runs do not end that the node has no thread left."""
        if self._stuck is not None and not self._stuck.done():
            raise ResourceError(
                f"Node {self._name!r} has {MOST_LEFT + 1} runs that nobody waits for any more and that do not end"
            )

    def _leave(
        self, thread: concurrent.futures.ThreadPoolExecutor, running: concurrent.futures.Future[Any]
    ) -> None:
        """Leave its thread to a run that may never end, and use a new one for later runs."""
        if thread is not self._thread:
            return
        self._left = [left for left in self._left if not left.done()]
        if len(self._left) >= MOST_LEFT:
            self._stuck = running
            return
        self._left.append(running)
        self._thread = self._make_thread()
        thread.shutdown(wait=False, cancel_futures=True)  # what waits behind it goes to the new one

    def _make_thread(self) -> concurrent.futures.ThreadPoolExecutor:
        return concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix=f"python-{self._name}")


def _is_given_up() -> bool:
    """Whether the caller of this task does not wait for it any more."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
