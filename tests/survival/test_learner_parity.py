"""Files of trees, linear models and table networks answer as the trained models do, over many random tables."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raymlops.training.blend_export import write_blend
from raymlops.training.blends import BlendScorer
from raymlops.training.learners import find_learner, read_by
from raymlops.training.packed import LABEL, WEIGHT
from tests.learner_rows import (
    TARGETS,
    TASKS,
    assert_agree,
    draw_rows,
    job_for,
    scores_of_file,
    scores_of_graph,
    spec_for,
    train,
)

OPTIONS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "lightgbm": st.fixed_dictionaries({
        "rounds": st.integers(1, 60), "num_leaves": st.integers(2, 60), "min_data_in_leaf": st.integers(1, 40),
        "learning_rate": st.floats(0.01, 1.0), "feature_fraction": st.floats(0.3, 1.0),
        "bagging_fraction": st.floats(0.3, 1.0), "extra_trees": st.booleans(), "max_bin": st.integers(15, 300),
        "path_smooth": st.floats(0, 5), "target_means": st.booleans(),
    }),
    "xgboost": st.fixed_dictionaries({
        "rounds": st.integers(1, 60), "max_depth": st.integers(1, 9), "subsample": st.floats(0.3, 1.0),
        "colsample_bytree": st.floats(0.3, 1.0), "max_leaves": st.integers(0, 20), "max_bin": st.integers(2, 300),
        "learning_rate": st.floats(0.01, 1.0), "gamma": st.sampled_from([0.0, 0.1, 2.0]), "target_means": st.booleans(),
    }),
    "forest": st.fixed_dictionaries({
        "trees": st.integers(1, 40), "min_samples_leaf": st.integers(1, 30), "max_depth": st.integers(0, 12),
        "max_features": st.floats(0.05, 1.0), "target_means": st.booleans(),
    }),
    "linear": st.fixed_dictionaries({"C": st.floats(1e-4, 1e4), "l1_ratio": st.sampled_from([0.0, 0.5])}),
    "ebm": st.fixed_dictionaries({
        "rounds": st.integers(1, 60), "outer_bags": st.integers(1, 2), "interactions": st.integers(0, 4),
        "max_bins": st.integers(3, 300), "max_interaction_bins": st.integers(3, 40),
        "smoothing_rounds": st.integers(0, 50),
    }),
    "realmlp": st.fixed_dictionaries({
        "steps": st.integers(1, 40), "batch_size": st.integers(2, 300), "lr": st.floats(1e-4, 0.5),
        "width": st.integers(1, 64), "layers": st.integers(1, 4), "frequency": st.floats(0.01, 3.0),
        "embedding": st.integers(1, 12), "dropout": st.floats(0, 0.8),
    }),
    "tabm": st.fixed_dictionaries({
        "steps": st.integers(1, 40), "batch_size": st.integers(2, 300), "lr": st.floats(1e-4, 0.1),
        "width": st.integers(1, 64), "layers": st.integers(1, 4), "members": st.integers(1, 9),
    }),
}  # fmt: skip


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("learner", OPTIONS)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), seed=st.integers(0, 10**6), rows=st.integers(30, 600), task=st.sampled_from(TASKS))
def test_a_random_training_and_its_file_agree_on_dirty_rows(
    learner: str, data: st.DataObject, seed: int, rows: int, task: str
) -> None:
    numbers = data.draw(st.integers(1, 8))
    categories = tuple(data.draw(st.lists(st.integers(1, 200), min_size=0 if numbers else 1, max_size=4)))
    options = data.draw(OPTIONS[learner])
    if task == "multiclass":
        options.pop("interactions", None)
    shape: dict[str, Any] = {"numbers": numbers, "categories": categories}
    found = draw_rows(rows, task, seed, **shape, missing=data.draw(st.sampled_from([0.0, 0.2, 0.9])))
    scale = np.float32(data.draw(st.sampled_from([1.0, 1e-6, 1e6, 3e30])))
    found, other, test = (
        {**one, "plain": one["plain"] * scale}
        for one in (
            found,
            draw_rows(100, task, seed + 1, **shape),
            draw_rows(500, task, seed + 2, **shape, missing=0.4, unseen=0.1, empty=0.1),
        )
    )
    if TARGETS[task].task != "regression" and len(np.unique(found[LABEL])) < 2:
        return
    if data.draw(st.booleans()):
        found[WEIGHT] = np.random.default_rng(seed).uniform(0, 2, rows).astype(np.float32)
    spec = spec_for(learner, options, seed=seed)
    job = job_for(spec, task, found, other, numbers=numbers, categories=categories)
    scorer, _, _ = train(job)
    assert_agree(scores_of_file(scorer, job, test), scorer.scores(test), task)


@pytest.mark.timeout(1800)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), seed=st.integers(0, 10**6), rows=st.integers(60, 400), task=st.sampled_from(TASKS))
def test_a_random_blend_and_its_file_agree_on_dirty_rows(
    data: st.DataObject, seed: int, rows: int, task: str
) -> None:
    names = data.draw(st.lists(st.sampled_from(["lightgbm", "xgboost", "forest", "linear", "realmlp"]), min_size=2,
                               max_size=4))  # fmt: skip
    weights = data.draw(st.lists(st.floats(0.02, 1.5), min_size=len(names), max_size=len(names)))
    numbers, categories = (
        data.draw(st.integers(1, 6)),
        tuple(data.draw(st.lists(st.integers(1, 60), max_size=3))),
    )
    shape: dict[str, Any] = {"numbers": numbers, "categories": categories}
    found, other = draw_rows(rows, task, seed, **shape), draw_rows(100, task, seed + 1, **shape)
    test = draw_rows(500, task, seed + 2, **shape, missing=0.4, unseen=0.1, empty=0.1)
    if TARGETS[task].task != "regression" and len(np.unique(found[LABEL])) < 2:
        return
    cores, members = [], []
    for place, (name, weight) in enumerate(zip(names, weights, strict=True)):
        options = data.draw(OPTIONS[name])
        job = job_for(spec_for(name, options, seed=seed + place), task, found, other, numbers=numbers,
                      categories=categories)  # fmt: skip
        scorer, _, _ = train(job)
        learner = find_learner(name)
        cores.append((learner.to_onnx(scorer, job.packing, job.target), weight))
        members.append((scorer, weight, read_by(learner)))
    blend = BlendScorer(tuple(members), TARGETS[task])
    assert_agree(
        scores_of_graph(write_blend(cores, TARGETS[task].task), test, TARGETS[task]), blend.scores(test), task
    )
