"""What a spec says of the learners of a search is read in one form, and a mistake is one sentence."""

from typing import Any

import pytest

from raymlops.errors import SpecError
from raymlops.specs.document import validate_document
from raymlops.specs.experiment import ExperimentSpec, with_parameters
from raymlops.training import candidates, demand
from tests.learner_rows import TARGETS, packing_for


def spec_of(search: dict[str, Any], **parts: Any) -> ExperimentSpec:
    value = {
        "name": "toy",
        "dataset": {"path": "toy.csv"},
        "features": {"target": {"column": "y"}, "numbers": ["x"]},
        "search": search,
        **parts,
    }
    return validate_document(value, ExperimentSpec)


@pytest.mark.parametrize(
    ("learners", "names"),
    [
        ("auto", candidates.AUTO),
        ("lightgbm", ("lightgbm",)),
        (["linear", "ebm"], ("linear", "ebm")),
        ({"linear": None, "lightgbm": {"num_leaves": 7}}, ("linear", "lightgbm")),
    ],
)
def test_learners_are_named_in_any_form(learners: Any, names: tuple[str, ...]) -> None:
    assert candidates.list_names(spec_of({"learners": learners})) == names


@pytest.mark.parametrize(
    ("search", "told"),
    [
        ({"learners": []}, "names none"),
        ({"learners": 7}, "expected auto, a list of names, or name -> space"),
        ({"learners": [1]}, "expected auto, a list of names, or name -> space"),
        ({"learners": ["ebm", "ebm"]}, "a name stands twice"),
        ({"learners": {"ebm": [1]}}, "ebm: expected a mapping"),
        ({"learners": {"ebm": {"rounds": [1, 2]}}}, r"ebm: rounds: expected a value, .*choices"),
        ({"learners": {"ebm": {"rounds": {"low": 3, "hihg": 4}}}}, "ebm: rounds: "),
        ({"learners": {"ebm": {"rounds": {"low": 9, "high": 4}}}}, "low 9.0 is not below high"),
        ({"learners": {"ebm": {"training.learner": "linear"}}}, "is no parameter that a search chooses"),
        ({"learners": {"ebm": {"network.options.hidden": 3}}}, "is of networks"),
        ({"learners": "auto", "space": {"lr": {"low": 0.1, "high": 1}}}, "space is for one learner"),
        ({"learners": "auto", "scheduler": "pbt"}, "searches one learner"),
        ({"folds": 1}, "expected 0, or 2 and more"),
    ],
)
def test_a_mistake_is_one_sentence(search: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError, match=told) as error:
        spec_of(search)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    "split", [{"by": "group", "column": "g"}, {"by": "time", "column": "t"}, {"by": "random", "key": ["k"]}]
)
def test_folds_that_would_part_rows_that_belong_together_are_refused(split: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="would part those"):
        spec_of({"folds": 5}, split=split)


def test_learners_that_cannot_do_what_is_asked_are_left_out_and_told() -> None:
    told: list[str] = []
    spec = spec_of({}, training={"loss": "quantile"})
    names = {one.name for one in candidates.choose_candidates(spec, tell=told.append)}
    assert "lightgbm" in names
    assert "forest" not in names
    assert any("forest is left out" in line for line in told)


@pytest.mark.parametrize(
    ("learners", "blends"),
    [
        ("auto", True),
        ({"ebm": {"explanations": True}}, False),
        ({"ebm": {"training.options.explanations": True}}, False),
        ({"ebm": {"explanations": False}}, True),
        ({"ebm": {"explanations": True}, "lightgbm": {}}, True),
    ],
)
def test_a_model_that_is_to_explain_its_answers_is_one_trial(learners: Any, blends: bool) -> None:
    assert spec_of({"learners": learners}).search.blends is blends
    if not blends:
        with pytest.raises(SpecError, match=r"distill: true takes a blend.*explanations"):
            spec_of({"learners": learners, "distill": True})
        with pytest.raises(SpecError, match=r"refit: true trains the winner.*explanations"):
            spec_of({"learners": learners, "refit": True})


@pytest.mark.parametrize("name", candidates.AUTO)
def test_the_spec_of_a_trial_is_that_of_its_learner_alone(name: str) -> None:
    trial = with_parameters(spec_of({"learners": "auto"}), {"training.learner": name})
    assert trial.training.learner == name
    assert trial.search.learners is None


@pytest.mark.parametrize(
    ("parts", "several"),
    [
        ({}, True),
        ({"training": {"metric": "rmse", "seed": 3}}, True),
        ({"training": {"lr": 0.1}}, False),
        ({"training": {"workers": 2}}, False),
        ({"network": {"name": "mlp"}}, False),
        ({"defaults": "fixed"}, False),
        ({"search": {"space": {"lr": {"low": 0.1, "high": 1}}}}, False),
        ({"search": {"algorithm": "grid"}}, False),
    ],
)
def test_a_spec_that_says_anything_of_networks_searches_networks_alone(
    parts: dict[str, Any], several: bool
) -> None:
    assert (spec_of(**{"search": {}, **parts}).search.learners == "auto") is several


def test_learners_that_read_all_rows_at_once_are_left_out_where_those_are_not_held_in_memory() -> None:
    told: list[str] = []
    rows = packing_for(), TARGETS["binary"]
    names = {one.name for one in candidates.choose_candidates(spec_of({}), *rows, told.append, 10**8)}
    assert names == {"lightgbm", "xgboost", "network"}
    assert any("forest is left out" in line and "100,000,000 training rows take" in line for line in told)
    with pytest.raises(SpecError, match=r"forest: .*training\.resident_bytes.*use lightgbm"):
        candidates.choose_candidates(spec_of({"learners": ["forest"]}), *rows, rows=10**8)


@pytest.mark.parametrize(
    ("size", "memory", "workers"),
    [
        (3, [4, 4, 4], 2),
        (2, [4, 4, 4], 1),
        (10, [4, 4, 4], 3),
        (3, [4, 100], 2),
        (9, [4], 1),
        (9, [], 1),
        (9, [0, 0], 1),
    ],
)
def test_rows_beyond_half_the_memory_of_a_node_are_shared_out(
    size: int, memory: list[int], workers: int
) -> None:
    assert demand.share_out(size * 2**30, [one * 2**30 for one in memory]) == workers
