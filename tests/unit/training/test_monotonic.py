"""training.monotonic, as a property of exported files."""

import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymlops.errors import SpecError
from raymlops.features import (
    NETWORK_TENSORS,
    TREE_TENSORS,
    FittedColumn,
    FittedFeatures,
    FittedTarget,
    packing_of,
)
from raymlops.models import encoder
from raymlops.models.export import export_model
from raymlops.models.session import Session, open_session
from raymlops.specs.document import validate_document
from raymlops.specs.experiment import ExperimentSpec
from raymlops.tensors import Batch
from raymlops.training import candidates, learners
from raymlops.training.learners import Job, find_learner
from raymlops.training.packed import LABEL
from tests.learner_rows import COUNTS, TARGETS, Held, train

OPTIONS: dict[str, dict[str, Any]] = {
    "lightgbm": {"rounds": 60, "num_leaves": 15, "learning_rate": 0.2},
    "xgboost": {"rounds": 60, "max_depth": 4, "learning_rate": 0.2},
    "ebm": {"rounds": 80, "outer_bags": 2, "interactions": 4},
    "linear": {},
}
DIRECTIONS = {"up": "up", "down": "down"}
COLUMNS = (
    FittedColumn("free", "number", "number"),
    FittedColumn("up", "number", "number", indicator=True, edges=(-2.0, -0.5, 0.5, 2.0)),
    FittedColumn("down", "number", "integer", mean=50.0, std=30.0),
    FittedColumn("word", "category", "string", values=("a", "b", "c", "d", "e", "f", "g", "h")),
)
TARGETS_OF = {**TARGETS, "counts": COUNTS}


def draw(rows: int, seed: int) -> tuple[Batch, Any]:
    """Columns that mostly go against their direction, and a sum to be learned."""
    random = np.random.default_rng(seed)
    free, up = random.normal(size=(2, rows)).astype(np.float32)
    down = random.integers(0, 100, rows).astype(np.float64)
    letters = random.integers(0, 8, rows)
    word = np.array(list("abcdefgh"), dtype=object)[letters]
    total = (
        np.sin(3 * up)
        - 1
        - up * (free > 0)
        + np.cos(down / 8)
        + down / 60
        + letters % 3
        + 0.3 * random.normal(size=rows)
    )
    up[random.random(rows) < 0.1] = np.nan
    return {"free": free, "up": up, "down": down, "word": word}, total


def to_labels(total: Any, task: str) -> Any:
    if task == "binary":
        return (total > 0).astype(np.int64)
    if task == "counts":
        counts = np.maximum(np.round(3 + 2 * total), 0)
        return ((counts - COUNTS.mean) / COUNTS.std).astype(np.float32)
    return total.astype(np.float32)


def features_for(target: FittedTarget) -> FittedFeatures:
    return FittedFeatures(COLUMNS, target)


def spec_of(learner: str, task: str, **more: Any) -> ExperimentSpec:
    options = {"options": OPTIONS[learner]} if learner in OPTIONS else {}
    loss = {"loss": "poisson"} if task == "counts" else {}
    value = {
        "name": "toy", "dataset": {"path": "rows.csv"},
        "features": {"target": {"column": "y"}, "numbers": ["free", "up", "down"], "categories": ["word"]},
        "training": {"learner": learner, **options, **loss, "monotonic": DIRECTIONS, **more},
    }  # fmt: skip
    return validate_document(value, ExperimentSpec)


@functools.cache
def file_of(learner: str, task: str) -> Session:
    features = features_for(TARGETS_OF[task])
    pack = open_session(encoder.build_encoder(features, NETWORK_TENSORS | TREE_TENSORS).SerializeToString())
    splits = []
    for rows, seed in ((2000, 1), (500, 2)):
        batch, total = draw(rows, seed)
        packed = {**encoder.run_encoder(pack, batch), LABEL: to_labels(total, task)}
        splits.append(Held(rows, rows=packed))
    job = Job(spec_of(learner, task), packing_of(features), features.target, *splits)
    scorer, _, _ = train(job)
    core = find_learner(learner).to_onnx(scorer, job.packing, job.target)
    return open_session(export_model(core, features, name="toy").SerializeToString())


def answers(session: Session, batch: Batch) -> Any:
    found = session.infer(batch)
    return found.get("probability", found.get("prediction")).astype(np.float64)


@pytest.mark.parametrize("task", ["binary", "regression", "counts"])
@pytest.mark.parametrize("learner", OPTIONS)
@given(seed=st.integers(0, 10**6), column=st.sampled_from(["up", "down"]))
def test_raising_a_column_never_moves_the_answer_against_its_direction(
    learner: str, task: str, seed: int, column: str
) -> None:
    session, (batch, _) = file_of(learner, task), draw(64, seed)
    random = np.random.default_rng(seed)
    low = np.nan_to_num(batch[column])
    step = np.abs(random.normal(size=64)) * random.choice([1e-6, 0.1, 3.0, 1e6], 64)
    before = answers(session, {**batch, column: low})
    after = answers(session, {**batch, column: (low + step).astype(low.dtype)})
    sign = 1 if column == "up" else -1
    assert (sign * (after - before) >= -1e-5 * np.maximum(1, np.abs(before))).all()


@pytest.mark.parametrize("learner", OPTIONS)
def test_the_answer_still_follows_the_columns(learner: str) -> None:
    batch, total = draw(2000, 5)
    assert np.corrcoef(answers(file_of(learner, "regression"), batch), total)[0, 1] > 0.3


def test_learners_that_keep_no_direction_are_refused_by_name_and_left_out_of_auto() -> None:
    for learner in ("network", "forest", "realmlp", "tabm"):
        with pytest.raises(SpecError, match="keeps no directions"):
            learners.check(spec_of(learner, "binary"))
    told: list[str] = []
    value = spec_of("lightgbm", "binary").model_dump()
    spec = validate_document(
        {**value, "training": {"monotonic": DIRECTIONS}, "search": {"learners": "auto"}}, ExperimentSpec
    )
    target = TARGETS["binary"]
    found = candidates.choose_candidates(spec, packing_of(features_for(target)), target, told.append)
    assert {one.name for one in found} == set(OPTIONS)
    assert sum("is left out" in line for line in told) == 3


def test_directions_that_no_model_can_have_are_refused() -> None:
    with pytest.raises(SpecError, match="more than two classes"):
        learners.check(spec_of("lightgbm", "multiclass"), None, TARGETS["multiclass"])
    with pytest.raises(SpecError, match="leaves are set anew"):
        learners.check(spec_of("lightgbm", "regression", loss="mae"))
    for wrong, said in (
        ({"word": "up"}, "category, which does not rise"),
        ({"upp": "up"}, "did you mean 'up'"),
    ):
        with pytest.raises(SpecError, match=said):
            spec_of("lightgbm", "binary", monotonic=wrong)
    value = spec_of("lightgbm", "binary").model_dump()
    value["features"]["columns"] = {"both": {"kind": "number", "expression": "up * down"}}
    with pytest.raises(SpecError, match="also read by the expression of 'both'"):
        validate_document(value, ExperimentSpec)
