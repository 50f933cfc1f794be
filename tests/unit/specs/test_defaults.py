"""What a spec leaves open follows from the table; what it says stays."""

import math
from typing import Any

import pytest

from raymlops.specs import defaults
from raymlops.specs.defaults import Facts
from raymlops.specs.document import validate_document
from raymlops.specs.experiment import ExperimentSpec
from raymlops.specs.training import Dimension

SPACE = {"lr": Dimension(low=1e-4, high=1e-2), "network.options.hidden": Dimension(choices=(64, 128))}
OPTIONS = ("linear", "hidden", "dropout")


def spec_of(recorded: bool = False, **parts: Any) -> ExperimentSpec:
    value = {
        "name": "toy",
        "dataset": {"path": "toy.csv"},
        "features": {"target": {"column": "y"}, "numbers": ["x"]},
        **parts,
    }
    return validate_document(value, ExperimentSpec, recorded=recorded)


def settled(
    rows: int, spec: ExperimentSpec | None = None, options: tuple[str, ...] = OPTIONS
) -> ExperimentSpec:
    spec = spec or spec_of()
    facts = Facts(train=rows, validation=rows // 5, test=rows // 5, columns=10)
    return defaults.settle(spec, defaults.choose(spec, facts, SPACE, options))


@pytest.mark.parametrize("rows", [30, 200, 700, 5_000, 40_000, 300_000, 5_000_000, 2 * 10**9])
def test_every_table_gets_enough_steps_in_batches_of_a_sensible_size(rows: int) -> None:
    pace = settled(rows).training.pace
    steps = pace.epochs * pace.passes * math.ceil(rows / pace.batch_size)
    assert steps >= defaults.LEAST_STEPS
    assert 12 <= pace.epochs <= 24  # an epoch is a report, a checkpoint and a decision of the scheduler
    assert 16 <= pace.batch_size <= 4096
    assert pace.batch_size <= max(16, rows / 2)
    assert pace.patience == math.ceil(pace.epochs / 4)
    if rows >= 5_000:  # not many times more than needed, where passes cost most
        assert steps <= max(5 * defaults.LEAST_STEPS, 12 * math.ceil(rows / 4096))


def test_a_small_table_distinguishes_categories_that_a_large_one_does_not() -> None:
    counts = [settled(rows).features.least_count for rows in (300, 5_000, 40_000, 10**7)]
    assert counts == [2, 5, 20, 20]


def test_what_the_spec_says_stays() -> None:
    said = spec_of(
        training={"batch_size": 33, "epochs": 3, "lr": 0.5, "patience": 2, "weight_decay": 0.0},
        network={"options": {"hidden": 9, "linear": False}},
        search={"trials": 4, "grace_epochs": 1},
        gate={"bootstrap": 300},
        evaluation={"bootstrap": 301},
        features={"target": {"column": "y"}, "numbers": ["x"], "min_count": 7},
    )
    found = settled(1_000, said)
    training = found.training
    assert (training.batch_size, training.epochs, training.passes, training.lr) == (33, 3, 1, 0.5)
    assert (training.patience, training.weight_decay) == (2, 0.0)
    assert found.network.options["hidden"] == 9
    assert found.network.options["linear"] is False
    assert (found.search.trials, found.search.grace_epochs, found.features.min_count) == (4, 1, 7)
    assert (found.gate.replicates, found.evaluation.replicates) == (300, 301)
    assert set(found.search.varied) == set()  # lr and hidden are said, so that no trial varies them


def test_a_settled_spec_is_settled_for_every_other_table_too() -> None:
    small = settled(300)
    assert settled(10**6, small) == small


def test_a_spec_that_was_recorded_before_keeps_the_numbers_of_then() -> None:
    recorded = {
        "features": {"target": {"column": "y"}, "categories": ["c"]},
        "training": {"epochs": 10, "batch_size": 1024, "lr": 1e-3, "weight_decay": 1e-4, "patience": 5},
        "search": {"trials": 10, "grace_epochs": 2, "space": {}, "algorithm": "random"},
    }
    found = settled(300, spec_of(recorded=True, **recorded))
    assert found.features.least_count == 20
    assert found.network.options == {}  # no linear path: another network than the one that was trained
    assert found.training.pace == spec_of().training.pace
    assert settled(300, spec_of(**recorded)).features.least_count == 2  # a person's file


def test_fixed_defaults_are_those_of_a_spec_that_says_so() -> None:
    fixed = settled(300, spec_of(defaults="fixed"))
    assert fixed.training.pace == spec_of().training.pace
    assert fixed.network.options == {}


def test_a_network_gets_only_options_that_it_takes() -> None:
    assert settled(300, options=()).network.options == {}
    network = spec_of(training={"learner": "network"})
    assert set(settled(300, network, options=()).search.varied) == {"lr"}


def test_every_choice_is_told_with_its_reason() -> None:
    chosen = defaults.choose(spec_of(), Facts(300, 100, 100), SPACE, OPTIONS)
    assert all(choice.why for choice in chosen)
    assert len({choice.key for choice in chosen}) == len(chosen)
