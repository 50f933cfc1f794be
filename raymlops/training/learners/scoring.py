"""What all learners report: the metrics of scores on the validation rows, and the progress of a training."""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops import metrics
from raymlops.features import FittedTarget
from raymlops.training.learners import Run, State
from raymlops.training.packed import LABEL, WEIGHT


def measure(
    target: FittedTarget,
    labels: npt.NDArray[Any],
    scores: npt.NDArray[np.floating[Any]],
    weights: npt.NDArray[Any] | None = None,
) -> dict[str, float]:
    """Every metric of the task, in the target's own unit; all NaN if a score is not finite."""
    return metrics.measure(target.task, to_own_unit(target, labels), to_own_unit(target, scores), weights)


def to_own_unit(target: FittedTarget, values: Any) -> Any:
    """Labels or scores in the raw column's unit: those of a regression are standardised during training."""
    return target.to_own_unit(values) if target.task == "regression" else values


class Progress:
    """The epochs of a training: the results of each, and which was the best. Part of the state that it reports.

    The workers of a team each score their share of the validation rows, and all have the same results.
    """

    def __init__(self, run: Run, least_seconds: float = 0.0) -> None:
        """`least_seconds` are between two reports of epochs that are not the last."""
        self._run, self._least_seconds = run, least_seconds
        self._told, self._astray = time.monotonic(), False
        self.metric = run.spec.training.metric_of(run.job.target.task)
        self._falling = self.metric in metrics.FALLING
        self.history: list[dict[str, float]] = list(run.state["history"]) if run.state else []
        self._validation = run.own(run.job.validation).load()
        self._labels, self._weights = map(self._join, (self._validation[LABEL], self._validation.get(WEIGHT)))

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    @property
    def best(self) -> float:
        """Best value so far of the metric for early stopping; infinite before the first epoch."""
        worst = math.inf if self._falling else -math.inf
        values = [learned[self.metric] for learned in self.history]
        return (min if self._falling else max)(values, default=worst)

    @property
    def waited(self) -> int:
        """Epochs since the best one, which is the last if `Run.until` says how far it goes."""
        if self._run.until is not None:
            return 0
        values = [learned[self.metric] for learned in self.history]
        return len(values) - 1 - values.index(self.best) if values else 0

    def report(self, scorer: Any, snapshot: Callable[[], State], **more: float) -> bool:
        """Measure one more epoch on the validation rows and report it, with `more`; false if it is time to stop.

        `snapshot` returns the learner's own part of the state.
        """
        self.measure(scorer, **more)
        return self.tell(snapshot)

    def measure(self, scorer: Any, **more: float) -> None:
        """Measure one more epoch on the validation rows, and keep the results with `more`."""
        self.add(self.find(scorer), **more)

    def find(self, scorer: Any) -> dict[str, float]:
        """The metrics of a model on the validation rows."""
        rows = {name: values for name, values in self._validation.items() if name not in (LABEL, WEIGHT)}
        scores = self._join(scorer.scores(rows))
        return measure(self._run.job.target, self._labels, scores, self._weights)

    def _join(self, values: Any) -> Any:
        """Of all workers, one after another."""
        team = self._run.workers
        return values if values is None or team.world == 1 else np.concatenate(team.gather(values))

    def is_better(self, value: float, than: float) -> bool:
        """By the metric for early stopping."""
        return value < than if self._falling else value > than

    def add(self, found: dict[str, float], **more: float) -> None:
        """Keep the results of one more epoch, with `more`."""
        found = {**found}
        self._astray = math.isnan(found[self.metric])
        if self._astray:  # makes the trial the worst one, without ending the search
            found[self.metric] = math.inf if self._falling else -math.inf
        if self._run.spec.training.workers > 1:
            more["workers"] = self._run.workers.world
        self.history.append({"epoch": self.epoch + 1, **more, **found})
        self.history[-1] = {**self.history[-1], f"best_{self.metric}": self.best}

    def tell(self, snapshot: Callable[[], State], last: bool = True) -> bool:
        """Report the epoch that was measured; false if it is time to stop. One that is not the last waits for a later
        one if too little time has passed."""
        until = self._run.until
        ended = self.waited >= self._run.spec.training.pace.patience if until is None else self.epoch >= until
        go_on = not self._astray and not ended
        # The clocks of workers differ, and all of a team must report, or none: the first decides.
        soon = self._run.workers.gather(time.monotonic() - self._told < self._least_seconds)[0]
        if go_on and not last and soon:
            return True
        told = self._run.report(self.history[-1], lambda: {**snapshot(), "history": [*self.history]})
        self._told = time.monotonic()
        return told and go_on
