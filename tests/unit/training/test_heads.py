"""Losses and weights do what they say: what a constant answer converges to, and what the exported file answers."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from raymlops.data.fitting import fit_target
from raymlops.data.statistics import measure_numbers
from raymlops.errors import DataError, SpecError
from raymlops.features import FittedTarget
from raymlops.models.export import _build_answer
from raymlops.models.session import open_session
from raymlops.specs.features import TargetSpec
from raymlops.specs.training import TrainingSpec
from raymlops.training.heads import make_head

DRAW = np.random.default_rng(0)
VALUES = DRAW.gamma(2.0, 50.0, 400)
NUMBERS = FittedTarget("y", "regression", "number", mean=float(VALUES.mean()), std=float(VALUES.std()))
CLASSES = FittedTarget("y", "multiclass", "string", ("a", "b", "c"), (0.7, 0.2, 0.1))


def best_constant(spec: TrainingSpec, target: FittedTarget, labels: Any, weights: Any = None) -> Any:
    """The scores of the constant outputs with the least loss."""
    head = make_head(spec, target)
    outputs = torch.zeros(1, target.outputs, requires_grad=True)
    optimiser = torch.optim.Adam([outputs], lr=0.04)
    given = torch.from_numpy(labels)
    seen = None if weights is None else torch.from_numpy(weights)
    for _ in range(700):
        optimiser.zero_grad()
        head.loss(outputs.expand(len(given), -1), given, 0.0, seen).backward()
        optimiser.step()
    return head.scores(outputs.detach()).numpy()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, VALUES.mean()),
        ({"loss": "mse"}, VALUES.mean()),
        ({"loss": "mae"}, np.median(VALUES)),
        ({"loss": "quantile", "quantile": 0.9}, np.quantile(VALUES, 0.9)),
        ({"loss": "poisson"}, VALUES.mean()),
    ],
)
def test_a_loss_is_least_at_the_mean_the_median_or_the_quantile(
    asked: dict[str, Any], expected: float
) -> None:
    found = best_constant(TrainingSpec(**asked), NUMBERS, NUMBERS.standardise(VALUES).astype(np.float32))
    assert NUMBERS.to_own_unit(found)[0] == pytest.approx(expected, rel=0.02)


def test_a_row_with_weight_two_counts_as_two_rows() -> None:
    weights = DRAW.integers(0, 4, len(VALUES)).astype(np.float32)
    labels = NUMBERS.standardise(VALUES).astype(np.float32)
    found = best_constant(TrainingSpec(), NUMBERS, labels, weights)
    assert NUMBERS.to_own_unit(found)[0] == pytest.approx(np.average(VALUES, weights=weights), rel=0.01)


def test_balanced_classes_weigh_alike_and_named_ones_as_they_say() -> None:
    labels = DRAW.choice(3, 2000, p=CLASSES.shares)
    shares = np.bincount(labels) / len(labels)
    target = dataclasses.replace(CLASSES, shares=tuple(shares))
    balanced = best_constant(TrainingSpec(class_weights="balanced"), target, labels)[0]
    np.testing.assert_allclose(balanced, 1 / 3, atol=0.01)
    named = best_constant(TrainingSpec(class_weights={"c": 5}), target, labels)[0]
    wanted = shares * [1, 1, 5]
    np.testing.assert_allclose(named, wanted / wanted.sum(), atol=0.01)


@pytest.mark.parametrize(
    ("asked", "target", "said"),
    [
        ({"loss": "mae"}, CLASSES, "training.loss: mae is for regression, and the task is multiclass"),
        ({"class_weights": "balanced"}, NUMBERS, "training.class_weights: the task is regression"),
        ({"class_weights": {"d": 2}}, CLASSES, "training.class_weights: Unknown class 'd'"),
        ({"loss": "poisson"}, dataclasses.replace(NUMBERS, mean=-1.0), "poisson takes counts"),
    ],
)
def test_what_the_target_does_not_have_is_refused(
    asked: dict[str, Any], target: FittedTarget, said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        make_head(TrainingSpec(**asked), target)


def transformed(kind: str, exponent: float = 0.5, values: Any = VALUES) -> FittedTarget:
    spec = TargetSpec(column="y", transform=kind, exponent=exponent)
    raw = FittedTarget("y", "regression", "number", transform=kind, exponent=exponent)  # type: ignore[arg-type]
    applied = np.asarray(raw.apply(values))
    measured = {
        "types": {"y": "number"},
        "target:number": measure_numbers(values),
        "target:transformed": measure_numbers(np.where(np.isfinite(applied), applied, np.nan)),
    }
    return fit_target(measured, spec)


@pytest.mark.parametrize(
    "target",
    [transformed("none"), transformed("log"), transformed("power"), transformed("power", 0.3, VALUES - 80)],
    ids=["none", "log", "power", "negative"],
)
def test_the_file_answers_in_the_unit_of_the_target_and_within_what_training_saw(
    target: FittedTarget,
) -> None:
    values = np.linspace(-60 if target.exponent == 0.3 else 20, 300, 50)
    outputs = target.standardise(values).astype(np.float32)[:, None]
    session = open_session(_build_answer(target).SerializeToString())
    np.testing.assert_allclose(
        session.infer({"outputs": outputs})["prediction"], values, rtol=2e-4, atol=1e-3
    )
    np.testing.assert_allclose(target.to_own_unit(target.standardise(values)), values, rtol=1e-9)
    wild = np.array([[1e6], [-1e6]], dtype=np.float32)
    given = session.infer({"outputs": wild})["prediction"]
    assert np.isfinite(given).all()
    if target.transform != "none":
        assert np.abs(given).max() < 20 * VALUES.max()


def test_a_logarithm_of_what_has_none_is_refused_with_the_remedy() -> None:
    with pytest.raises(DataError, match=r"log takes values above -1.*use power"):
        transformed("log", values=VALUES - 80)
