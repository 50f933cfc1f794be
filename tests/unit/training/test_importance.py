"""What decided how good the trials of a search were."""

import numpy as np
import pytest

from raymlops.training.importance import rank_parameters


def test_importance_finds_the_parameter_that_matters_and_drops_the_one_that_never_moves():
    random = np.random.default_rng(0)
    trials = [{"lr": random.random(), "width": int(random.integers(3)), "seed": 1} for _ in range(60)]
    found = rank_parameters(trials, [trial["lr"] ** 2 + random.normal() * 0.05 for trial in trials])
    assert list(found) == ["lr", "width"]
    assert found["lr"] > 0.8
    assert found["width"] < 0.15


def test_importance_knows_which_way_is_better_and_takes_names_and_leaves_out_what_some_trials_lack():
    random = np.random.default_rng(1)
    trials = [{"lr": 10 ** random.uniform(-5, 0), "kind": str(random.choice(["a", "b"]))} for _ in range(60)]
    values = [(trial["kind"] == "b") + random.normal() * 0.05 for trial in trials]
    for number, trial in enumerate(trials):
        if number % 3 == 0:
            trial["depth"] = number
    for falling in (False, True):
        found = rank_parameters(trials, [*values], falling=falling)
        assert list(found) == ["kind", "lr"]
        assert sum(found.values()) == pytest.approx(1)
    assert rank_parameters(trials[:4], values[:4]) == {}
    assert rank_parameters(trials, [0.5] * 60) == {}
    assert rank_parameters(trials, [float("nan")] * 60) == {}
