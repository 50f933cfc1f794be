"""What keeps the limits is chosen by its value among all that keep them, and what they cost is told."""

import dataclasses
from typing import Any

import pytest

from raymlops.evaluation.intervals import Interval
from raymlops.evaluation.learner_ranking import LearnerLine, LearnerRanking
from raymlops.lifecycle.train import limits, stages
from raymlops.training.blends import Distilled, Member, Winner, to_single
from raymlops.training.trials import SearchResult, Trial
from tests.unit.specs.test_search_learners import spec_of


def trial(name: str, learner: str, value: float) -> Trial:
    return Trial(name, {"training.learner": learner}, {"best_log_loss": value, "epoch": 1.0}, 1.0, "here")


TRIALS = SearchResult("log_loss", (trial("a", "lightgbm", 0.3), trial("b", "linear", 0.4)), 1.0)
BLEND = Winner((Member(TRIALS.trials[0], 0.6), Member(TRIALS.trials[1], 0.4)))
SIZES = {"blend": 900_000, "a": 500_000, "b": 1_000, "student": 20_000}


def student(value: float) -> Winner:
    found = Distilled("log_loss", value, 0.25, 0.3, 5000)
    return dataclasses.replace(
        to_single(trial("student", "network", value)), teacher=BLEND.members, distilled=found
    )


def export(monkeypatch: pytest.MonkeyPatch, size_mb: float, taught: Winner | None) -> tuple[Any, list[str]]:
    def write(spec: Any, features: Any, winner: Winner) -> Any:
        return stages.Exported(b"x" * SIZES["blend" if winner.is_blend else winner.best.name])

    monkeypatch.setattr(stages, "export", write)
    spec = spec_of({"learners": ["linear"]})
    spec = spec.model_copy(update={"gate": spec.gate.model_copy(update={"size_mb": size_mb})})
    nothing: Any = None
    told: list[str] = []
    found = limits.export_within(spec, nothing, nothing, BLEND, TRIALS, lambda: taught, told.append)
    return found, told


@pytest.mark.parametrize(
    ("size_mb", "taught", "taken"),
    [
        (1.0, 0.2, ("a", "b")),  # the blend itself
        (0.6, 0.28, ("student",)),  # better than the best trial
        (0.6, 0.35, ("a",)),  # worse than it
        (0.1, 0.35, ("student",)),  # better than the best trial that keeps the limit
        (0.1, 0.45, ("b",)),
        (0.6, None, ("a",)),
    ],
)
def test_the_best_that_keeps_a_limit_is_taken(
    monkeypatch: pytest.MonkeyPatch, size_mb: float, taught: float | None, taken: tuple[str, ...]
) -> None:
    found, _ = export(monkeypatch, size_mb, None if taught is None else student(taught))
    assert tuple(share.trial.name for share in found.winner.shares) == taken


def test_what_a_limit_cost_is_told_by_values_of_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    found, told = export(monkeypatch, 0.1, student(0.45))
    assert "the blend is over a limit: 0.9 MB, and gate.size_mb is 0.1" in told
    line = LearnerLine("linear", ("b",), Interval(0.41, 0.4, 0.42), 0.4, 0.1, 0.01, 0.0, 1.0)
    mixed = dataclasses.replace(line, name="blend", trials=("a", "b"), value=Interval(0.33, 0.3, 0.4))
    ranking = LearnerRanking("log_loss", 100, 1, (mixed, line))
    costs = limits.find_costs(ranking, found, TRIALS)
    assert [(one.given_up.split(",")[0], one.before, one.after) for one in costs] == [
        ("the blend", 0.33, 0.41), ("a of lightgbm", 0.3, 0.4),
    ]  # fmt: skip
    again = dataclasses.replace(ranking, limits=costs, remarks=("left out",))
    assert LearnerRanking.from_json(again.to_json()) == again


def test_the_limits_are_named_where_nothing_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    found, told = export(monkeypatch, 1e-4, None)
    assert found.winner is BLEND
    assert told[-1] == "No trial keeps the limits on size and latency"
