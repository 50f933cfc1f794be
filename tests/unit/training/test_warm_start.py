"""What is taken from trials of earlier searches."""

import dataclasses
from collections.abc import Mapping

import pytest

from raymlops.training.candidates import Candidate
from raymlops.training.learners import find_learner
from raymlops.training.warm_start import choose_points
from tests.learner_rows import spec_for

SPACE = find_learner("lightgbm").space
LEAVES = "training.options.num_leaves"


@dataclasses.dataclass(frozen=True)
class Ended:
    parameters: Mapping[str, str]
    value: float = 0.5
    run: str = "run"
    same_rows: bool = True


def ended(**options: str) -> Ended:
    named = {f"training.options.{key}": value for key, value in options.items()}
    return Ended({"training.learner": "lightgbm", **named})


def test_the_best_are_tried_again_and_the_others_of_the_same_rows_are_known() -> None:
    trials = [ended(num_leaves="9", extra_trees="True"), ended(num_leaves="8"), ended(num_leaves="7")]
    trials += [dataclasses.replace(ended(num_leaves="6"), same_rows=False), ended(num_leaves="7")]
    found = choose_points(trials, [Candidate("lightgbm", SPACE, {})], spec_for("lightgbm"))["lightgbm"]
    assert [one.values for one in found.tried] == [
        {LEAVES: 9, "training.options.extra_trees": True},
        {LEAVES: 8},
    ]
    assert [one.values for one in found.observed] == [{LEAVES: 7}]


@pytest.mark.parametrize(
    "parameters",
    [
        {"training.learner": "elsewhere"},
        {"training.learner": "lightgbm", LEAVES: "4000"},
        {"training.learner": "lightgbm", LEAVES: "many"},
        {"training.learner": "lightgbm", "training.options.unknown": "1"},
        {"training.learner": "lightgbm", "training.rows": "100"},
        {"training.learner": "lightgbm", "training.options.max_bin": "15"},
        {"training.learner": "lightgbm", LEAVES: "__import__('os').abort()"},
    ],
)
def test_what_may_not_be_tried_now_is_left_out(parameters: dict[str, str]) -> None:
    held = Candidate("lightgbm", SPACE, {"training.options.max_bin": 63})
    assert not choose_points([Ended(parameters)], [held], spec_for("lightgbm"))
