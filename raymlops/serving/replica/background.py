"""Work that a replica repeats while it serves: each its own task, which continues after failures. Imports neither Ray
nor models."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from raymlops.errors import RaymlopsError

LOG = logging.getLogger("raymlops.serving")
LONGEST_PAUSE_S = 60.0
"""Seconds between two tries of a step that fails."""


class Repeated:
    """Runs `step` every `period_s` seconds. A failure is logged and retried after pauses that double.

    A step that takes longer than `patience_s` has failed: what it waits for may never come.
    """

    def __init__(
        self, name: str, step: Callable[[], Awaitable[None]], period_s: float, patience_s: float = 30.0
    ) -> None:
        self.name = name
        self.failures = 0
        """Consecutive failures, 0 if the last step succeeded."""
        self._step = step
        self._period_s = period_s
        self._patience_s = patience_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start, on the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._repeat(), name=self.name)

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def check(self) -> None:
        """Raises RaymlopsError if the task has ended, which should happen only when the replica ends."""
        if self._task is not None and self._task.done():
            raise RaymlopsError(f"The background task {self.name!r} has ended; the replica must be replaced")

    @property
    def pause_s(self) -> float:
        """Seconds until the next step."""
        return min(LONGEST_PAUSE_S, self._period_s * 2.0 ** min(self.failures, 16))

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(self.pause_s)
            try:
                async with asyncio.timeout(self._patience_s):
                    await self._step()
            except Exception as error:
                self.failures += 1
                LOG.error(
                    "background task %r failed %d times in a row; it is tried again in %.0f s: %s",
                    self.name,
                    self.failures,
                    self.pause_s,
                    f"{type(error).__name__}: {error}",
                    exc_info=error,
                )
            else:
                if self.failures:
                    LOG.info("background task %r works again", self.name)
                self.failures = 0
