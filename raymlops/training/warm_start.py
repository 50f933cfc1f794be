"""What earlier trials of the same table are worth to a search: good values of theirs are tried first, and the studies
know the others. Reads no tracking store, and runs no trial."""

import ast
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from raymlops.errors import SpecError
from raymlops.specs.experiment import ExperimentSpec, with_parameters
from raymlops.training import learners
from raymlops.training.candidates import LEARNER, ROWS, Candidate
from raymlops.training.learner_track import Values

_TRIED, _OBSERVED = 2, 30
"""Values of a learner that are tried again first, and that its study knows, at most."""


class Earlier(Protocol):
    """A trial that ended."""

    @property
    def run(self) -> str: ...
    @property
    def parameters(self) -> Mapping[str, str]: ...
    @property
    def value(self) -> float: ...
    @property
    def same_rows(self) -> bool: ...


@dataclasses.dataclass(frozen=True)
class Known:
    """Values of an earlier trial, and what they gave on the same rows; None on others."""

    run: str
    values: Values
    value: float | None


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """Of one learner."""

    tried: tuple[Known, ...] = ()
    """To be tried again, after the defaults."""
    observed: tuple[Known, ...] = ()
    """Of the same rows: for its study alone."""

    def to_json(self) -> dict[str, Any]:
        return {
            "tried": [dataclasses.asdict(one) for one in self.tried],
            "observed": [dataclasses.asdict(one) for one in self.observed],
        }


@dataclasses.dataclass(frozen=True)
class SearchPrior:
    """What is known before the first trial, by learner."""

    warm: Mapping[str, WarmStart] = dataclasses.field(default_factory=dict)
    most_rows: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Training rows of a trial, where it has no memory for all; 0 where it has none for few, either."""


NOTHING_KNOWN = SearchPrior()


def choose_points(
    earlier: Iterable[Earlier], candidates: Sequence[Candidate], spec: ExperimentSpec
) -> dict[str, WarmStart]:
    """By learner, of trials that are sorted by their metric, those of the same rows first. What a learner or its space
    does not take now is left out, and so are trials on a sample of the rows."""
    by_name = {candidate.name: candidate for candidate in candidates}
    known: dict[str, list[Known]] = {name: [] for name in by_name}
    for trial in earlier:
        candidate = by_name.get(trial.parameters.get(LEARNER, ""))
        if candidate is None or ROWS in trial.parameters:
            continue
        values = _read_values(trial.parameters, candidate, spec)
        if values is not None and all(values != one.values for one in known[candidate.name]):
            known[candidate.name].append(Known(trial.run, values, trial.value if trial.same_rows else None))
    return {
        name: WarmStart(
            tuple([one for one in found[:_TRIED] if one.values]),
            tuple([one for one in found[_TRIED : _TRIED + _OBSERVED] if one.value is not None]),
        )
        for name, found in known.items()
        if found
    }


def _read_values(
    parameters: Mapping[str, str], candidate: Candidate, spec: ExperimentSpec
) -> dict[str, Any] | None:
    """What a trial had beside the learner and what is held; None if that may not be tried now."""
    found = {
        key: _read(text) for key, text in parameters.items() if key != LEARNER and key not in candidate.held
    }
    for key, value in found.items():
        varied = candidate.varied.get(key)
        if varied is not None and not varied.takes(value):
            return None
    if any(str(value) != parameters.get(key, str(value)) for key, value in candidate.held.items()):
        return None
    try:
        learners.check(with_parameters(spec, candidate.with_learner(found)))
    except SpecError:
        return None
    return found


def _read(text: str) -> Any:
    """A parameter as it was before it was stored."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
