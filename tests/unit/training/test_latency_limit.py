"""What a model takes for a row is predicted before its trial: learners and values that cannot keep the limit of the
gate are not tried, and a boosting ends before it would be slower."""

import dataclasses
from typing import Any

import pytest

from raymlops.features import FittedColumn, FittedFeatures
from raymlops.lifecycle.train import stages
from raymlops.models.session import open_session
from raymlops.models.speed import measure_median
from raymlops.specs import defaults
from raymlops.specs.document import validate_document
from raymlops.specs.experiment import ExperimentSpec
from raymlops.specs.training import Dimension
from raymlops.training import candidates
from raymlops.training.latency_limit import LatencyLimit, keep_within
from raymlops.training.learner_search import LearnerSearch
from raymlops.training.learners import find_learner, row_us_of
from raymlops.training.row_latency import of_trees
from tests.learner_rows import TARGETS, draw_rows, job_for, packing_for, spec_for, train

NAMES = tuple(f"n{place}" for place in range(6))
PACKING = dataclasses.replace(packing_for(), plain_of=NAMES, numeric_of=NAMES)


def limit_of(learners: Any, milliseconds: float | None, rows: int = 50_000) -> LatencyLimit:
    value = {
        "name": "toy",
        "dataset": {"path": "toy.csv"},
        "features": {"target": {"column": "y"}, "numbers": ["x"]},
        "search": {"learners": learners},
        "gate": {"latency_ms": milliseconds},
    }
    return LatencyLimit(validate_document(value, ExperimentSpec), PACKING, TARGETS["binary"], rows)


def kept(limit: LatencyLimit, told: list[str] | None = None) -> dict[str, candidates.Candidate]:
    found = candidates.find_candidates(limit.spec, limit.rows, "binary")
    within = keep_within(found, limit, (told if told is not None else []).append)
    return {one.name: one for one in within}


@pytest.mark.parametrize(
    ("learner", "options"),
    [
        ("forest", {"trees": 200, "min_samples_leaf": 5}),
        ("realmlp", {"steps": 5, "width": 512}),
        ("tabm", {"steps": 3}),
        ("lightgbm", {"rounds": 300, "num_leaves": 31}),
        ("xgboost", {"rounds": 300, "max_depth": 6}),
    ],
)
def test_what_is_predicted_is_no_more_than_what_a_file_takes(learner: str, options: dict[str, Any]) -> None:
    """With room for a machine that is twice as fast; on a slow one a file takes more."""
    spec = spec_for(learner, options)
    job = job_for(spec, "binary", draw_rows(2000, "binary", 1), draw_rows(200, "binary", 2))
    scorer, _, _ = train(job)
    model = find_learner(learner).to_onnx(scorer, job.packing, job.target)
    rows = draw_rows(50, "binary", 3)
    given = {value.name: rows[value.name] for value in model.graph.input}
    taken = 1e3 * measure_median(open_session(model.SerializeToString()), given, 300)
    predicted = row_us_of(spec, job.packing, job.target, 2000)
    if "rounds" in options:  # whose least is one round
        predicted = of_trees(scorer.rounds, options.get("num_leaves", 64))
    assert 1 < predicted < 2 * taken


def test_learners_whose_models_are_too_slow_are_left_out_and_told() -> None:
    told: list[str] = []
    assert set(kept(limit_of("auto", 0.03), told)) >= {"linear", "lightgbm", "xgboost", "ebm"}
    assert any(line.startswith("Learner forest is left out: its model takes at least ") for line in told)
    assert "forest" in kept(limit_of("auto", None)), "without a limit all stay"
    assert "forest" in kept(limit_of("auto", 0.5))
    told.clear()
    assert set(kept(limit_of("auto", 0.001), told)) == set(candidates.AUTO), "the gate tells by how much"
    assert not told


def test_values_that_are_too_slow_are_not_tried() -> None:
    told: list[str] = []
    spaces = {
        "tabm": {"width": {"choices": [64, 256, 2048]}, "members": 8},
        "realmlp": {"width": {"low": 16, "high": 4096, "log": True, "integer": True}, "layers": 2},
        "linear": {},
    }
    limit = limit_of(spaces, 0.06)
    found = kept(limit, told)
    assert found["tabm"].varied["training.options.width"].choices == (64, 256)
    width = found["realmlp"].varied["training.options.width"]
    assert width.high is not None
    assert 500 < width.high < 1500
    assert limit.keeps(found["realmlp"], {"training.options.width": int(width.high)})
    assert not limit.keeps(found["realmlp"], {"training.options.width": int(width.high) + 2})
    assert sum("other values take longer for a row than gate.latency_ms, 0.06" in line for line in told) == 2


def test_a_first_trial_lies_in_the_space_that_was_given() -> None:
    limit = limit_of({"lightgbm": {"num_leaves": {"low": 100, "high": 200}, "learning_rate": 0.2}}, None)
    (found,) = candidates.find_candidates(limit.spec, limit.rows, "binary")
    search = LearnerSearch((found,), metric="best_log_loss", mode="min", seed=0)
    first: Any = search.suggest("a")
    assert first["training.options.num_leaves"] == 100
    assert first["training.options.learning_rate"] == 0.2
    search.on_trial_complete("a", {"best_log_loss": 0.5, "time_total_s": 1.0})
    for number in range(12):
        one: Any = search.suggest(str(number))
        assert 100 <= one["training.options.num_leaves"] <= 200
        search.on_trial_complete(str(number), {"best_log_loss": 0.5, "time_total_s": 1.0})
    (usual,) = candidates.find_candidates(limit_of({"lightgbm": {}}, None).spec, 50_000, "binary")
    assert not usual.begin, "the defaults of a learner lie in its own space"


@pytest.mark.parametrize(
    ("dimension", "value", "nearest"),
    [
        ({"low": 2, "high": 9, "integer": True}, 31, 9),
        ({"low": 2, "high": 9, "integer": True}, 1.5, 2),
        ({"low": 0.1, "high": 0.5}, 0.3, 0.3),
        ({"low": 0.1, "high": 0.5}, 7, 0.5),
        ({"choices": [64, 128, 512]}, 200, 128),
        ({"choices": ["a", "b"]}, "c", "a"),
        ({"choices": ["a", "b"]}, "b", "b"),
    ],
)
def test_the_nearest_value_of_a_space(dimension: dict[str, Any], value: Any, nearest: Any) -> None:
    assert Dimension.model_validate(dimension).nearest(value) == nearest


@pytest.mark.parametrize("learner", ["lightgbm", "xgboost"])
def test_a_boosting_ends_before_its_file_would_be_slower(learner: str) -> None:
    rows, validation = draw_rows(1500, "binary", 1), draw_rows(300, "binary", 2)

    def count_trees(milliseconds: float | None) -> int:
        spec = spec_for(learner, {"rounds": 400, "learning_rate": 0.01}, epochs=24, patience=24)
        spec = spec.model_copy(update={"gate": spec.gate.model_copy(update={"latency_ms": milliseconds})})
        job = job_for(spec, "binary", rows, validation)
        return int(train(job)[1]["rounds"])

    assert count_trees(None) == 400
    assert 50 < count_trees(0.012) < 200
    assert count_trees(0.001) == 400, "no round keeps it, and the gate tells by how much"


def test_what_is_left_out_is_recorded_with_the_choices_of_the_spec() -> None:
    columns = tuple(FittedColumn(name, "number", "number") for name in NAMES)
    features, rows = FittedFeatures(columns, TARGETS["binary"]), {"train": 50_000, "validation": 9_000}
    told: list[str] = []
    spec = limit_of(["forest", "linear"], 0.03).spec
    chosen = {one.key: one for one in stages.decide(spec, features, rows, told.append)}
    assert set(chosen["search.learners"].value) == {"linear"}
    assert "forest is left out" in chosen["search.learners"].why
    assert len(told) == 1
    space = {"training.options.width": {"low": 16, "high": 4096, "integer": True}}
    one = spec_for("realmlp", {}, seed=3).model_dump() | {"gate": {"latency_ms": 0.06}}
    one["search"] |= {"space": space}
    spec = validate_document(one, ExperimentSpec)
    chosen = {one.key: one for one in stages.decide(spec, features, rows, told.append)}
    assert chosen["search.space"].value["training.options.width"]["high"] < 1000
    again = stages.decide(defaults.settle(spec, chosen.values()), features, rows, told.append)
    assert "search.space" not in {one.key for one in again}
