"""Decides when a training saves in the middle of an epoch: if a node is about to be taken away, or much time has
passed. Saves nothing itself."""

import contextlib
import threading
import time
from types import TracebackType

import ray
import torch
from torch import distributed

from raymlops import ray_internals
from raymlops.specs.training import TrainingSpec
from raymlops.training.learners import Team

_PAUSE = 1.0
"""Seconds between two checks: a cloud's notice is at least half a minute, and the workers must agree."""


_LONGEST = 100
"""Steps between two checks at most: steps may become slower."""


class Saving:
    """Called after each step, returns the same on all workers of a team. A context manager: its thread ends with it."""

    def __init__(self, spec: TrainingSpec, device: torch.device, team: Team) -> None:
        self._seconds = spec.checkpoint_minutes * 60
        if spec.fewest_workers < spec.workers:  # steps that are not saved before a resize are repeated
            self._seconds = min(self._seconds, spec.resize_s)
        self._device, self._team = device, team
        self._notice, self._closed = threading.Event(), threading.Event()
        self._heeded = False
        self._asked = self._saved = time.monotonic()
        self._every = self._left = 1  # steps between two checks
        self._thread = threading.Thread(target=self._watch, name="notice", daemon=True)

    def __enter__(self) -> "Saving":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()

    def saved(self) -> None:
        """A checkpoint was just written."""
        self._saved = time.monotonic()

    def __call__(self) -> bool:
        self._left -= 1
        if self._left > 0:
            return False
        now = time.monotonic()
        noticed = self._notice.is_set() and not self._heeded
        due = noticed or now - self._saved > self._seconds
        answer = torch.tensor([float(due), (now - self._asked) / self._every], device=self._device)
        if self._team.world > 1:
            distributed.all_reduce(answer, distributed.ReduceOp.MAX)
        save, seconds_a_step = answer.tolist()
        self._heeded |= noticed
        self._asked = now
        self._every = self._left = min(_LONGEST, max(1, round(_PAUSE / max(seconds_a_step, 1e-6))))
        return bool(save)

    def _watch(self) -> None:
        """In its own thread, so that training never waits for the head node, which may be restarting."""
        node = ray.get_runtime_context().get_node_id()
        while not self._closed.wait(2 * _PAUSE):
            with contextlib.suppress(Exception):
                if node in ray_internals.list_draining_nodes():
                    self._notice.set()
                    return
