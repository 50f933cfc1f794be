"""Holds a winner to the limits of the gate on size and latency before it is registered: where the best is too large or
too slow, the next best that keeps them leaves the search. Judges no quality."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from raymlops.data import sources
from raymlops.data.split_rows import SplitRows
from raymlops.evaluation.learner_ranking import LearnerRanking, LimitCost
from raymlops.features import FittedFeatures, table_to_batch
from raymlops.lifecycle.train import stages
from raymlops.metrics import FALLING
from raymlops.models.session import open_session
from raymlops.models.speed import measure_speed
from raymlops.specs.evaluation import GateSpec
from raymlops.specs.experiment import ExperimentSpec
from raymlops.training.blends import Winner, list_firsts, to_learner, to_single
from raymlops.training.trials import SearchResult, Trial

_ROWS, _SECONDS = 200, 0.3


@dataclasses.dataclass(frozen=True)
class GivenUp:
    """A winner that broke a limit."""

    winner: Winner
    broken: str
    """The limit, and what the file has."""


@dataclasses.dataclass(frozen=True)
class Fitting:
    """A winner and its file."""

    winner: Winner
    model: bytes
    given_up: tuple[GivenUp, ...] = ()
    """What was better and broke a limit, in the order in which it was tried."""


def export_within(
    spec: ExperimentSpec,
    rows: SplitRows,
    features: FittedFeatures,
    winner: Winner,
    trials: SearchResult,
    teach: Callable[[], Winner | None] = lambda: None,
    tell: Callable[[str], None] = lambda line: None,
) -> Fitting:
    """The winner, or where it breaks a limit of the gate, the best that keeps them of the best trial of each learner
    and, in the place of a blend, the network that `teach` gives; the winner itself if all break one, so that the gate
    tells by how much."""
    (model,) = stages.export(spec, features, winner)
    first = Fitting(winner, model)
    if spec.gate.size_mb is None and spec.gate.latency_ms is None:
        return first
    sample = _read_sample(rows, features) if spec.gate.latency_ms is not None else {}
    broken = find_broken(spec.gate, model, sample)
    if broken is None:
        return first
    given_up = [GivenUp(winner, broken)]
    tell(f"{name_winner(winner, trials)} is over a limit: {broken}")
    for other in _list_others(winner, trials, teach() if winner.is_blend else None):
        tell(f"Trying {name_winner(other, trials)}")
        (model,) = stages.export(spec, features, other)
        broken = find_broken(spec.gate, model, sample)
        if broken is None:
            return Fitting(other, model, tuple(given_up))
        given_up.append(GivenUp(other, broken))
        tell(f"{name_winner(other, trials)} is over a limit: {broken}")
    tell("No trial keeps the limits on size and latency")
    return first


def _list_others(winner: Winner, trials: SearchResult, student: Winner | None) -> Iterator[Winner]:
    """The best trial of each learner, and among them, by the same metric, the network that learned from the blend."""
    sign = 1 if trials.metric in FALLING else -1
    for trial in list_firsts(trials.trials):
        if student is not None and sign * _value(student.best, trials) < sign * _value(trial, trials):
            yield student
            student = None
        if len(winner.members) > 1 or trial.name != winner.best.name:
            yield to_single(trial, winner.judged)
    if student is not None:
        yield student


def _value(trial: Trial, trials: SearchResult) -> float:
    return trial.learned.get(f"best_{trials.metric}", float("nan"))


def name_winner(winner: Winner, trials: SearchResult) -> str:
    """For a person, with its value on validation rows if it is one model."""
    if winner.is_blend:
        return "the blend"
    trial = winner.best
    learner = " that learned from the blend" if winner.teacher else f" of {to_learner(trial)}"
    if not winner.teacher and not to_learner(trial):
        learner = ""
    name = "the network" if winner.teacher else trial.name
    return f"{name}{learner}, {trials.metric} {_value(trial, trials):.4g}"


def find_costs(ranking: LearnerRanking, found: Fitting, trials: SearchResult) -> tuple[LimitCost, ...]:
    """What each limit cost, by values of the same rows where there are some."""
    taken = found.winner
    values = {line.trials: line.value.value for line in ranking.lines}
    costs = []
    for one in found.given_up:
        own = tuple(share.trial.name for share in one.winner.shares)
        held = tuple(share.trial.name for share in taken.shares)
        before, after = values.get(own), values.get(held)
        if taken.distilled is not None and one.winner.is_blend:
            before, after = taken.distilled.teacher, taken.distilled.student
        elif before is None or after is None:
            key = f"best_{trials.metric}"
            before = one.winner.best.learned.get(key) if not one.winner.is_blend else None
            after = taken.best.learned.get(key)
        costs.append(
            LimitCost(
                one.broken,
                name_winner(one.winner, trials),
                name_winner(taken, trials),
                trials.metric,
                float("nan") if before is None else before,
                float("nan") if after is None else after,
            )
        )
    return tuple(costs)


def _read_sample(rows: SplitRows, features: FittedFeatures) -> dict[str, Any]:
    with sources.reading(rows.table):
        tables = list(
            rows.of("validation").limit(_ROWS).iter_batches(batch_size=None, batch_format="pyarrow")
        )
    return table_to_batch(pa.concat_tables([one for one in tables if one.num_rows]), features)


def find_broken(gate: GateSpec, model: bytes, sample: dict[str, Any]) -> str | None:
    """The first limit that a file breaks; None if it keeps them."""
    size = len(model) / 1e6
    if gate.size_mb is not None and size > gate.size_mb:
        return f"{size:.3g} MB, and gate.size_mb is {gate.size_mb:g}"
    if gate.latency_ms is not None:
        slow = measure_speed(open_session(model), sample, seconds=_SECONDS).p99_ms
        if slow > gate.latency_ms:
            return f"p99 of one row {slow:.3g} ms, and gate.latency_ms is {gate.latency_ms:g}"
    return None
