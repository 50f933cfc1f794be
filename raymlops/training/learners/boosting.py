"""The course of a boosted training, whichever library grows the trees: equal parts of its rounds, each measured, with
the best of them kept."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from raymlops.tensors import Batch
from raymlops.training.learners import Run, State
from raymlops.training.learners.objectives import Objective
from raymlops.training.learners.scoring import Progress

MOST_PARTS = 24
"""Reports of one training, at most: each is a share of its work, so that a search can compare learners by them."""
_STEPS = 3
"""Times that the validation metric is measured in a part, whose result is that of the best step."""
REPORT_SECONDS = 1.0
"""A report, with its checkpoint, costs as much as a training of a small table: parts that end sooner wait for the
next."""
_FILE_SHARE = 0.8
"""Bytes of the ONNX file to those of a booster's own format: 0.4 to 0.95, the more the deeper the trees."""


class Trees(Protocol):
    """A booster on its training rows."""

    def grow(self, rounds: int) -> int:
        """Train until it has so many rounds; returns how many it has, fewer if no split is left."""
        ...

    def margins(self) -> npt.NDArray[np.floating[Any]]:
        """Of the validation rows, (rows, outputs), by all rounds."""
        ...

    def dump(self) -> bytes:
        """The model, from which a training can go on."""
        ...


@dataclasses.dataclass(frozen=True)
class _Known:
    """The scores of the validation rows, which the trees know without being asked."""

    known: npt.NDArray[np.floating[Any]]

    def scores(self, batch: Batch) -> npt.NDArray[np.floating[Any]]:
        return self.known


def boost(
    run: Run,
    trees: Trees,
    objective: Objective,
    rounds: int,
    held: Callable[[], State],
    steps: int = _STEPS,
) -> None:
    """Train `rounds` rounds, or fewer if the validation metric stops rising, or if the next part would make the file
    larger than `gate.size_mb`; `held` is what else the state needs. The metric is measured `steps` times in a part."""
    progress = Progress(run, least_seconds=REPORT_SECONDS)
    ends = list_ends(run, rounds)
    best = int(run.state["best_rounds"]) if run.state else 0
    for wanted, before in list(zip(ends, [0, *ends[:-1]], strict=True))[progress.epoch :]:
        measured: list[tuple[int, dict[str, float]]] = []
        done = before
        for stop in sorted(
            {before + math.ceil((wanted - before) * step / steps) for step in range(1, steps + 1)}
        ):
            done = trees.grow(stop)
            scores = _Known(objective.to_scores(trees.margins()))
            measured.append((done, progress.find(scores)))
            if done < stop:
                break
        ahead = _find_best(measured, progress)
        progress.add(ahead[1])
        if progress.waited == 0:
            best = ahead[0]
        snapshot = functools.partial(_snapshot, trees, done, best, held)
        last = done < wanted or wanted == rounds or _is_full(run, trees, done, done + wanted - before)
        if not progress.tell(snapshot, last=last) or last:
            return


def _is_full(run: Run, trees: Trees, done: int, wanted: int) -> bool:
    """Whether the file of so many rounds would be over the limit, by the size of the model of those that are done."""
    limit = run.spec.gate.size_mb
    return limit is not None and len(trees.dump()) / done * wanted * _FILE_SHARE > limit * 1e6


def list_ends(run: Run, rounds: int) -> list[int]:
    """The rounds after which each part of a training ends."""
    parts = min(MOST_PARTS, run.spec.training.pace.epochs, rounds)
    return [round(rounds * part / parts) for part in range(1, parts + 1)]


def _find_best(
    measured: list[tuple[int, dict[str, float]]], progress: Progress
) -> tuple[int, dict[str, float]]:
    """Rounds and results of the best step of a part; of equal ones the first."""
    best = measured[0]
    for one in measured[1:]:
        if progress.is_better(one[1][progress.metric], best[1][progress.metric]):
            best = one
    return best


def _snapshot(trees: Trees, done: int, best: int, held: Callable[[], State]) -> State:
    model = np.frombuffer(trees.dump(), dtype=np.uint8).copy()  # that it may be written to
    return {"model": model, "rounds": done, "best_rounds": best, **held()}
