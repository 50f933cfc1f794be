"""Holds trials to `gate.latency_ms` before they are started: by what their models take for a row at least, learners and
values that cannot keep it are left out of a search. Times nothing."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from raymlops.features import FittedTarget, Packing
from raymlops.specs.experiment import ExperimentSpec, with_parameters
from raymlops.specs.training import Dimension
from raymlops.training.candidates import Candidate
from raymlops.training.learners import row_us_of
from raymlops.training.row_latency import of_columns

_HALVINGS = 20
"""Of a range, until its end is near enough to what keeps the limit."""


@dataclasses.dataclass(frozen=True)
class LatencyLimit:
    """What is known of a search before its trials."""

    spec: ExperimentSpec
    packing: Packing
    target: FittedTarget
    rows: int
    """Of training."""

    def predict_ms(self, candidate: Candidate, values: Mapping[str, Any]) -> float:
        """What the model of a trial with these values takes for a row, at least."""
        trial = with_parameters(self.spec, candidate.with_learner(values))
        least = of_columns(self.packing) + row_us_of(trial, self.packing, self.target, self.rows)
        return least / 1e3

    def keeps(self, candidate: Candidate, values: Mapping[str, Any]) -> bool:
        return self.predict_ms(candidate, values) <= (self.spec.gate.latency_ms or float("inf"))

    def narrow(self, candidate: Candidate) -> Candidate | None:
        """With what each parameter may be, the others at their defaults; None if nothing keeps the limit."""
        if self.keeps(candidate, {}):
            kept = {key: self._narrow(candidate, key) for key in candidate.varied}
            return dataclasses.replace(
                candidate, varied={key: one or candidate.varied[key] for key, one in kept.items()}
            )
        for key in candidate.varied:
            if (found := self._narrow(candidate, key)) is not None:
                return dataclasses.replace(candidate, varied={**candidate.varied, key: found})
        return None

    def _narrow(self, candidate: Candidate, key: str) -> Dimension | None:
        """What keeps the limit of a parameter's values; None if none does."""
        dimension = candidate.varied[key]
        if dimension.choices is not None:
            kept = tuple(one for one in dimension.choices if self.keeps(candidate, {key: one}))
            return dimension.model_copy(update={"choices": kept}) if kept else None
        ends: dict[str, Any] = {"low": dimension.low, "high": dimension.high}
        keeping = {end: self.keeps(candidate, {key: dimension.nearest(at)}) for end, at in ends.items()}
        if all(keeping.values()):
            return dimension
        if not any(keeping.values()):
            return None
        good, bad = ("low", "high") if keeping["low"] else ("high", "low")
        within, beyond = float(ends[good]), float(ends[bad])
        for _ in range(_HALVINGS):
            middle = (within + beyond) / 2
            if self.keeps(candidate, {key: dimension.nearest(middle)}):
                within = middle
            else:
                beyond = middle
        end = dimension.nearest(within)
        if end == ends[good]:
            return dimension.model_copy(update={"choices": (end,), "low": None, "high": None})
        return dimension.model_copy(update={bad: float(end)})


def keep_within(
    candidates: Iterable[Candidate], limit: LatencyLimit, tell: Callable[[str], None] = lambda line: None
) -> tuple[Candidate, ...]:
    """The learners that can keep the limit, each with the values that do; all as they are where none can, for which the
    gate then has the numbers. What is left out is told."""
    given = tuple(candidates)
    if limit.spec.gate.latency_ms is None:
        return given
    kept, told = [], []
    for candidate in given:
        found = limit.narrow(candidate)
        if found is None:
            least = limit.predict_ms(candidate, {})
            told.append(
                f"Learner {candidate.name} is left out: its model takes at least {least:.3g} ms for a row, and "
                f"gate.latency_ms is {limit.spec.gate.latency_ms:g}"
            )
            continue
        changed = [key for key, one in found.varied.items() if one != candidate.varied[key]]
        told += [
            f"Learner {candidate.name} varies {key} within {_describe(found.varied[key])}: other values take longer "
            f"for a row than gate.latency_ms, {limit.spec.gate.latency_ms:g}"
            for key in changed
        ]
        kept.append(found)
    if not kept:
        return given
    for line in told:
        tell(line)
    return tuple(kept)


def _describe(dimension: Dimension) -> str:
    if dimension.choices is not None:
        return ", ".join(map(str, dimension.choices))
    return f"{dimension.low:g} to {dimension.high:g}"
