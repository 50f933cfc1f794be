"""A learner that fails after its training does not end a search that others finished."""

import dataclasses
import time
from typing import Any

import numpy as np
import pytest

from raymlops.errors import StorageError
from raymlops.features import FittedTarget, Packing
from raymlops.lifecycle.train import winners
from raymlops.training.blends import Bag, Bags
from raymlops.training.learners import Job
from raymlops.training.packed import NO_ROWS
from raymlops.training.trials import SearchResult, Trial
from tests.unit.specs.test_search_learners import spec_of

ROWS = 400
LABELS = np.random.default_rng(0).integers(0, 2, ROWS)


@dataclasses.dataclass(frozen=True)
class Answering:
    """The scores of a trained model, or what it raises."""

    scores_of: Any

    def scores(self, batch: Any) -> Any:
        if isinstance(self.scores_of, Exception):
            raise self.scores_of
        return self.scores_of


class HeldRows:
    count = ROWS

    def load_evenly(self, most: int) -> Any:
        return {"numeric": np.zeros((ROWS, 1), np.float32), "label": LABELS}

    def step_of(self, most: int) -> int:
        return 1


def search(monkeypatch: pytest.MonkeyPatch, answers: dict[str, Any]) -> tuple[Any, list[str]]:
    monkeypatch.setattr(
        winners, "_open_state", lambda spec, packing, target, trial, state: Answering(answers[trial.name])
    )
    monkeypatch.setattr(winners, "read_state", lambda trial: {})
    trials = tuple(
        Trial(
            name,
            {"training.learner": "linear"},
            {"epoch": 1.0, "best_log_loss": 0.5},
            1.0,
            "somewhere",
            place=place,
        )
        for place, name in enumerate(answers)
    )
    told: list[str] = []
    target = FittedTarget("y", "binary", "boolean", (False, True), (0.5, 0.5))
    spec = spec_of({"learners": ["linear"], "folds": 0})
    job = Job(spec, Packing(numeric=1), target, NO_ROWS, HeldRows())  # type: ignore[arg-type]
    found = winners.choose_winner(
        job, SearchResult("log_loss", trials, 1.0), location="", seconds=None, tell=told.append
    )
    return found, told


GOOD = np.clip(LABELS * 0.6 + 0.2, 0, 1).astype(np.float32)


@pytest.mark.parametrize(
    "broken",
    [
        ValueError("no such file"),
        MemoryError(),
        np.full(ROWS, np.nan),
        np.zeros(ROWS - 1),
        np.zeros((ROWS, 2)),
    ],
    ids=["raises", "no memory", "nan", "rows", "shape"],
)
def test_a_trial_that_cannot_answer_is_left_out_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, broken: Any
) -> None:
    (winner, bags), told = search(monkeypatch, {"good": GOOD, "broken": broken})
    assert [share.trial.name for share in winner.shares] == ["good"]
    assert [bag.trial.name for bag in bags.bags] == ["good"]
    if not (isinstance(broken, np.ndarray) and broken.shape == (ROWS,)):
        assert any("Trial broken cannot be a part of a blend" in line for line in told)


def test_the_best_trial_wins_where_none_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    (winner, bags), _ = search(monkeypatch, {"first": ValueError(), "second": ValueError()})
    assert winner.best.name == "first"
    assert bags is None


def test_a_storage_that_does_not_answer_ends_it_so_that_it_can_be_resumed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(StorageError):
        search(monkeypatch, {"good": GOOD, "far": StorageError("gone")})


@pytest.mark.parametrize(
    ("search", "workers", "held", "wanted", "told"),
    [
        ({}, 1, True, False, ""),
        ({"max_minutes": 1}, 1, True, True, ""),
        ({"max_minutes": 1, "refit": False}, 1, True, False, ""),
        ({"refit": True}, 1, True, True, ""),
        ({"refit": True}, 2, True, False, "several workers"),
        ({"refit": True}, 1, False, False, "resident_bytes"),
        ({"max_minutes": 1}, 1, False, False, ""),
    ],
)
def test_models_are_trained_on_all_rows_where_that_is_asked_for_and_can_be_done(
    search: dict[str, Any], workers: int, held: bool, wanted: bool, told: str
) -> None:
    spec = spec_of({"learners": ["lightgbm"], **search})
    spec = spec.model_copy(update={"training": spec.training.model_copy(update={"workers": workers})})
    target = FittedTarget("y", "binary", "boolean", (False, True), (0.5, 0.5))
    rows: Any = dataclasses.replace(NO_ROWS, arrays=object() if held else None)
    lines: list[str] = []
    assert winners._wants_refits(Job(spec, Packing(numeric=1), target, rows, rows), lines.append) is wanted
    assert told in "".join(lines)
    assert bool(lines) is bool(told)


def noisy_bag(name: str, seed: int, size: int = 1, noise: float = 1.0) -> Bag:
    trial = Trial(name, {"training.learner": name}, {"epoch": 1.0}, 1.0, "somewhere")
    margins = 2.0 * LABELS - 1 + noise * np.random.default_rng(seed).normal(size=ROWS)
    return Bag(trial, (trial,), margins[:, None], size)


@pytest.mark.parametrize(
    ("late", "size", "deals"),
    [(0, 1, [1, 2, 3]), (2, 1, [1, 2]), (0, 10**7, [])],
    ids=["all", "late", "large"],
)
def test_the_same_trials_are_trained_on_each_deal_so_that_a_record_tells_which_models_they_have(
    late: int, size: int, deals: list[int]
) -> None:
    found = Bags(tuple(noisy_bag(name, seed, size) for seed, name in enumerate("abc")), LABELS, None)
    asked: list[tuple[int, str]] = []

    def train(trials: Any, deal: int) -> Bags:
        asked.append((deal, "".join(sorted(trial.name for trial in trials))))
        # answers that would change which of them a blend has
        bags = [noisy_bag(trial.name, 10 * deal + ord(trial.name), noise=0.1) for trial in trials]
        return dataclasses.replace(found, bags=tuple(bags[: 1 if deal == late else None]))

    spec = spec_of({"learners": ["linear"], "folds": 5})
    target = FittedTarget("y", "binary", "boolean", (False, True), (0.5, 0.5))
    job = Job(spec, Packing(numeric=1), target, NO_ROWS, NO_ROWS)
    trained = winners._train_again(found, found, job, 1e9, time.monotonic(), train)
    assert [deal for deal, _ in asked] == deals
    assert len({names for _, names in asked}) == len(deals[:1])
    whole = 1 + len([deal for deal in deals if deal != late])
    assert {len(bag.parts) for bag in trained.bags} <= {1, whole}
    assert max(len(bag.parts) for bag in trained.bags) == whole


@pytest.mark.parametrize(
    ("left", "names"), [(None, "abc"), (100.0, "abc"), (14.0, "ac"), (9.0, "a"), (7.0, ""), (0.0, "")]
)
def test_the_slowest_beside_the_best_are_not_trained_on_folds_where_there_is_no_time(
    monkeypatch: pytest.MonkeyPatch, left: float | None, names: str
) -> None:
    monkeypatch.setattr(winners, "count_places", lambda spec: 1)
    chance, bags = np.random.default_rng(0), []
    for name, seconds in (("a", 1.0), ("b", 10.0), ("c", 1.0)):
        trial = Trial(name, {"training.learner": name}, {"epoch": 1.0}, seconds, "somewhere")
        margins = (2.0 * LABELS - 1 + chance.normal(size=ROWS))[:, None]
        bags.append(Bag(trial, (trial,), margins))
    spec = spec_of({"learners": ["linear"], "folds": 5})
    target = FittedTarget("y", "binary", "boolean", (False, True), (0.5, 0.5))
    picked = winners._pick_for_folds(Bags(tuple(bags), LABELS, None), spec, target, left)
    assert "".join(trial.name for trial in picked) == names
