"""Holds a winner to the limits of the gate on size and latency before it is registered: where the best is too large or
too slow, the next best that keeps them leaves the search. Judges no quality."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from raymlops.data import sources
from raymlops.data.split_rows import SplitRows
from raymlops.features import FittedFeatures, table_to_batch
from raymlops.lifecycle.train import stages
from raymlops.models.session import open_session
from raymlops.models.speed import measure_speed
from raymlops.specs.evaluation import GateSpec
from raymlops.specs.experiment import ExperimentSpec
from raymlops.training.blends import Winner, list_firsts, to_learner, to_single
from raymlops.training.trials import SearchResult

_ROWS, _SECONDS = 200, 0.3


@dataclasses.dataclass(frozen=True)
class Fitting:
    """A winner and its file."""

    winner: Winner
    model: bytes


def export_within(
    spec: ExperimentSpec,
    rows: SplitRows,
    features: FittedFeatures,
    winner: Winner,
    trials: SearchResult,
    tell: Callable[[str], None] = lambda line: None,
) -> Fitting:
    """The winner, or where it breaks a limit of the gate, the best trial of each learner in turn; the winner itself if
    all do, so that the gate tells by how much."""
    (model,) = stages.export(spec, features, winner)
    first = Fitting(winner, model)
    if spec.gate.size_mb is None and spec.gate.latency_ms is None:
        return first
    sample = _read_sample(rows, features) if spec.gate.latency_ms is not None else {}
    broken = find_broken(spec.gate, model, sample)
    if broken is None:
        return first
    for other in _list_others(winner, trials):
        tell(f"{_name(first.winner, trials)} is over a limit: {broken}; trying {_name(other, trials)}")
        (model,) = stages.export(spec, features, other)
        found = find_broken(spec.gate, model, sample)
        if found is None:
            return Fitting(other, model)
    tell("No trial keeps the limits on size and latency")
    return first


def _list_others(winner: Winner, trials: SearchResult) -> Iterator[Winner]:
    for trial in list_firsts(trials.trials):
        if winner.is_blend or trial.name != winner.best.name:
            yield to_single(trial, winner.judged)


def _name(winner: Winner, trials: SearchResult) -> str:
    if winner.is_blend:
        return "the blend"
    trial = winner.best
    learner = f" of {to_learner(trial)}" if to_learner(trial) else ""
    value = trial.learned.get(f"best_{trials.metric}", float("nan"))
    return f"{trial.name}{learner}, {trials.metric} {value:.4g}"


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
