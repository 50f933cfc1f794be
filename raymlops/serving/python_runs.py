"""Runs the Python nodes of a graph that is served: coroutines on the event loop, anything else in a thread. Loads none.

How long a user's `run` takes is not known beforehand, and nothing else of a replica must wait for it. Each node has
one thread, so that its runs follow each other as they would on the event loop.
"""

import asyncio
import concurrent.futures
import contextvars
import inspect
from collections.abc import Callable
from typing import Any

from raymlops.graphs.running import Implementation
from raymlops.serving.opening import run_python
from raymlops.serving.python_answers import Check, accept_all
from raymlops.serving.python_refusals import RefusalsNamed
from raymlops.tensors import Batch

MOST_LEFT = 8
"""Threads whose run goes on though its caller gave up, for each of which a node gets another."""


def run_beside(instance: Any, name: str, check: Check = accept_all) -> Implementation:
    """What answers for a node while the event loop does other things; `check` holds it to its declaration."""
    if inspect.iscoroutinefunction(instance.run):
        return run_python(instance, check)
    return Implementation(_OwnThread(instance.run, name, check).run, suspends=True)


class _OwnThread:
    def __init__(self, call: Callable[[Batch], Batch], name: str, check: Check) -> None:
        self._call = call
        self._check = check
        self._name = name
        self._left = 0
        self._thread = self._make_thread()

    async def run(self, batch: Batch) -> Batch:
        thread = self._thread
        context = contextvars.copy_context()  # with the trace of the request
        running = thread.submit(context.run, self._call, batch)
        try:
            with RefusalsNamed():
                answer = await asyncio.wrap_future(running)
        except asyncio.CancelledError:
            if not running.cancel() and not running.done():
                self._leave(thread)
            raise
        return self._check(batch, answer)

    def _leave(self, thread: concurrent.futures.ThreadPoolExecutor) -> None:
        """Let a run that may never end have its thread, and the next ones another."""
        if thread is self._thread and self._left < MOST_LEFT:
            self._left += 1
            self._thread = self._make_thread()
            thread.shutdown(wait=False)

    def _make_thread(self) -> concurrent.futures.ThreadPoolExecutor:
        return concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix=f"python-{self._name}")
