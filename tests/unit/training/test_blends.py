"""Blends gain where they are chosen, and their one file answers as their members together."""

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from raymlops.features import FittedTarget
from raymlops.models.session import open_session
from raymlops.onnx_builder import GraphBuilder, to_value_info
from raymlops.specs.training import TrainingSpec
from raymlops.tensors import TensorSpec
from raymlops.training import blends
from raymlops.training.blend_export import write_blend
from raymlops.training.trials import Trial

TARGETS = {
    "binary": FittedTarget("y", "binary", "boolean", (False, True), (0.5, 0.5)),
    "multiclass": FittedTarget("y", "multiclass", "string", ("a", "b", "c"), (0.3, 0.3, 0.4)),
    "regression": FittedTarget("y", "regression", "number", mean=3.0, std=2.0),
}
SPEC = TrainingSpec()


def trial(name: str, learner: str = "trees") -> Trial:
    return Trial(name, {"training.learner": learner}, {"epoch": 1.0}, 1.0, "somewhere")


def blend_trials(trials: Any, margins: Any, task: str, labels: Any) -> blends.Winner:
    bags = [blends.Bag(one, (one,), margin) for one, margin in zip(trials, margins, strict=True)]
    return blends.blend_bags(blends.Bags(tuple(bags), labels, None), SPEC, TARGETS[task])


def noisy(task: str, labels: Any, noise: float, seed: int) -> Any:
    """Margins of a model that knows the labels as well as `noise` lets it."""
    chance = np.random.default_rng(seed)
    if task == "multiclass":
        return np.eye(3)[labels] + noise * chance.normal(size=(len(labels), 3))
    known = labels.astype(float) if task == "regression" else 2.0 * labels - 1
    return (known + noise * chance.normal(size=len(labels)))[:, None]


def labels_of(task: str, rows: int = 2000) -> Any:
    chance = np.random.default_rng(7)
    if task == "regression":
        return chance.normal(size=rows)
    return chance.integers(0, 3 if task == "multiclass" else 2, size=rows)


@pytest.mark.parametrize("task", TARGETS)
def test_models_that_err_apart_are_blended_and_the_blend_is_better_on_rows_of_its_own(task: str) -> None:
    labels = labels_of(task)
    margins = np.stack([noisy(task, labels, 1.0, seed) for seed in range(4)])
    trials = [trial(f"t{place}") for place in range(4)]
    found = blend_trials(trials, margins, task, labels)
    assert found.is_blend
    assert found.judged is not None
    assert found.judged.beyond_doubt
    fresh = np.random.default_rng(8).permutation(labels)
    unseen = [noisy(task, fresh, 1.0, 100 + seed) for seed in range(4)]
    loss = blends.make_loss(SPEC, TARGETS[task], fresh)
    places = [int(member.trial.name[1:]) for member in found.members]
    mixed = sum(member.weight * unseen[place] for member, place in zip(found.members, places, strict=True))
    assert loss(mixed).mean() < min(loss(one).mean() for one in unseen)


@pytest.mark.parametrize("task", TARGETS)
def test_one_good_model_among_useless_ones_stays_alone(task: str) -> None:
    labels = labels_of(task)
    far = 10.0 if task == "regression" else 0.0  # so that none of it is good for a shrinkage to the mean
    useless = [
        far + noisy(task, np.random.default_rng(seed).permutation(labels), 1.0, seed) for seed in range(3)
    ]
    margins = np.stack([noisy(task, labels, 0.3, 9), *useless])
    found = blend_trials([trial(f"t{n}") for n in range(4)], margins, task, labels)
    assert [member.trial.name for member in found.members] == ["t0"]


def test_equal_models_do_not_gain_and_rows_without_weight_do_not_count() -> None:
    labels = labels_of("binary")
    same = noisy("binary", labels, 1.0, 1)
    trials = [trial("t0"), trial("t1")]
    assert not blend_trials(trials, np.stack([same, same]), "binary", labels).is_blend
    first, wrong = noisy("binary", labels, 0.3, 2), -noisy("binary", labels, 0.3, 3)
    half = np.arange(len(labels)) < len(labels) // 2
    mixed = np.where(half[:, None], wrong, noisy("binary", labels, 0.1, 4))
    margins = np.stack([first, mixed])
    chosen = blends.select_members(
        margins[:, ~half], blends.make_loss(SPEC, TARGETS["binary"], labels[~half])
    )
    loss = blends.make_loss(SPEC, TARGETS["binary"], labels)
    np.testing.assert_allclose(blends.select_members(margins, loss, (~half).astype(float)), chosen)


def test_a_model_that_has_no_number_for_a_row_is_no_member() -> None:
    labels = labels_of("binary")
    whole, broken = noisy("binary", labels, 1.0, 1), noisy("binary", labels, 0.1, 2)
    broken[3] = np.nan
    bags = tuple(blends.Bag(trial(name), (trial(name),), one) for name, one in (("a", whole), ("b", broken)))
    assert [bag.trial.name for bag in blends.Bags(bags, labels, None).finite.bags] == ["a"]


def test_the_best_of_each_learner_may_be_a_member_and_failed_trials_may_not() -> None:
    held = [trial(f"t{place}") for place in range(20)]
    held += [trial("line", "linear"), Trial("failed", {}, {}, 1.0, None, "it failed")]
    names = [one.name for one in blends.choose_trials(held, most=5)]
    assert names == ["t0", "t1", "t2", "t3", "line"]


def core_of(columns: int, outputs: int, weights: Any, bias: Any) -> onnx.ModelProto:
    build = GraphBuilder()
    build.add("Gemm", "numeric", build.constant(weights), build.constant(bias), name="outputs")
    taken = TensorSpec("numeric", "FP32", (-1, columns))
    return build.to_model(
        "core", [to_value_info(taken)], [to_value_info(TensorSpec("outputs", "FP32", (-1, outputs)))]
    )


class Line:
    def __init__(self, task: str, weights: Any, bias: Any) -> None:
        self.task, self.weights, self.bias = task, weights, bias

    def scores(self, batch: Any) -> Any:
        return blends.to_scores(self.task, (batch["numeric"] @ self.weights + self.bias).astype(np.float64))


@settings(max_examples=25, deadline=None)
@given(
    task=st.sampled_from(sorted(TARGETS)),
    rows=arrays.arrays(
        np.float32, (7, 2), elements=st.floats(-1e4, 1e4, width=32) | st.sampled_from([0.0, 1e-30, 60.0])
    ),
    seed=st.integers(0, 99),
    parts=st.lists(st.floats(0.05, 1.5), min_size=2, max_size=4),
)
def test_the_file_of_a_blend_answers_as_its_members(
    task: str, rows: Any, seed: int, parts: list[float]
) -> None:
    chance, outputs = np.random.default_rng(seed), TARGETS[task].outputs
    lines = [
        (chance.normal(size=(2, outputs)).astype("f4"), chance.normal(size=outputs).astype("f4"))
        for _ in parts
    ]
    model = write_blend(
        [(core_of(2, outputs, *line), part) for line, part in zip(lines, parts, strict=True)], task
    )
    onnx.checker.check_model(model, full_check=True)
    found = open_session(model.SerializeToString()).infer({"numeric": rows})["outputs"]
    scorer = blends.BlendScorer(
        tuple(
            (Line(task, *line), part, frozenset(["numeric"])) for line, part in zip(lines, parts, strict=True)
        ),
        TARGETS[task],
    )
    expected = scorer.scores({"numeric": rows})
    if task == "regression":
        np.testing.assert_allclose(found[:, 0], expected, rtol=1e-5, atol=1e-2)
    else:
        # A float32 probability tells log odds m to within 2^-24 e^|m|; the file has the log odds themselves.
        odds = [np.abs(rows @ weights + bias).max(axis=1).clip(0, 16) for weights, bias in lines]
        told = sum(part * 2**-24 * np.exp(one) for one, part in zip(odds, parts, strict=True))
        differ = np.abs(blends.to_scores(task, found.astype(np.float64)) - expected)
        assert (differ.reshape(len(rows), -1).max(axis=1) <= 2e-5 + told).all()


def test_of_few_rows_the_first_of_each_learner_is_trained_again_unless_there_is_no_time() -> None:
    labels = labels_of("binary", rows=200)
    good = [noisy("binary", labels, 0.3, seed) for seed in range(2)]
    weak = noisy("binary", np.random.default_rng(1).permutation(labels), 5.0, 3)
    trials = [trial("t0"), trial("t1"), trial("line", "linear")]
    bags = tuple(blends.Bag(one, (one,), held) for one, held in zip(trials, [*good, weak], strict=True))
    found = blends.Bags(bags, labels, None)
    names = [
        {one.name for one in blends.choose_bags(found, SPEC, TARGETS["binary"], 6, firsts=firsts)}
        for firsts in (True, False)
    ]
    assert "line" in names[0]
    assert "line" not in names[1]
    assert "t0" in names[1]
