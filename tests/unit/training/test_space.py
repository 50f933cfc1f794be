import random

import numpy as np
import pytest
from ray import tune

from raymlops.specs.document import parse_document
from raymlops.specs.experiment import ExperimentSpec
from raymlops.training import space

SPEC = """\
name: toy
dataset: {path: rows.parquet}
features: {target: {column: y}, numbers: [a]}
search:
  algorithm: ALGORITHM
  space:
    lr: {low: 0.001, high: 0.1, log: true}
    training.weight_decay: {low: 0, high: 0.5}
    batch_size: {choices: [32, 64]}
    epochs: {low: 2, high: 4, integer: true}
    network.options.hidden: {low: 8, high: 64, log: true, integer: true}
"""


def spec_of(algorithm: str) -> ExperimentSpec:
    return parse_document(SPEC.replace("ALGORITHM", algorithm), ExperimentSpec)


def test_every_dimension_is_drawn_from_its_range_bounds_included() -> None:
    domains = space.to_tune_space(spec_of("random"))
    assert list(domains) == list(spec_of("random").search.space)
    np.random.seed(0)
    random.seed(0)
    drawn = {name: [domain.sample() for _ in range(300)] for name, domain in domains.items()}
    assert set(drawn["epochs"]) == {2, 3, 4}
    assert set(drawn["batch_size"]) == {32, 64}
    assert min(drawn["lr"]) >= 0.001
    assert max(drawn["lr"]) <= 0.1
    assert all(isinstance(value, int) and 8 <= value <= 64 for value in drawn["network.options.hidden"])
    assert np.median(drawn["lr"]) == pytest.approx(0.01, rel=0.5)


def test_a_grid_visits_every_choice() -> None:
    grid = parse_document(
        SPEC.split("  space:")[0].replace("ALGORITHM", "grid")
        + "  space: {lr: {choices: [0.1, 0.2]}, epochs: {choices: [1, 2]}}\n",
        ExperimentSpec,
    )
    assert space.to_tune_space(grid) == {
        "lr": tune.grid_search([0.1, 0.2]),
        "epochs": tune.grid_search([1, 2]),
    }


def test_population_based_training_changes_only_what_a_running_training_can() -> None:
    assert set(space.to_mutations(spec_of("random"))) == {"lr", "training.weight_decay"}
