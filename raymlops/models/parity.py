"""Compares two sets of answers to the same rows: the network's and the ONNX file's, or those of two graphs. Pure
functions of arrays."""

import dataclasses
from typing import Any

import numpy as np

from raymlops.errors import ParityError
from raymlops.features import FittedTarget
from raymlops.tensors import Array, Batch

TOLERANCE = 1e-5
"""Relative difference that two graphs of one model may show: ONNX Runtime fuses operators of one, not of the other."""


@dataclasses.dataclass(frozen=True)
class Parity:
    """Over `rows` rows: the largest absolute difference of a score, and the number of labels that differ."""

    rows: int = 0
    difference: float = 0.0
    flipped: int = 0

    def merge(self, other: "Parity") -> "Parity":
        return Parity(
            self.rows + other.rows, max(self.difference, other.difference), self.flipped + other.flipped
        )

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def compare(expected: Array, answers: Batch, target: FittedTarget) -> Parity:
    """`expected` are the network's scores: probabilities, or predictions in the target's unit over its
    spread."""
    if target.task == "regression":
        # Relative to the spread of the target, so that one limit serves metres and millimetres.
        found = target.standardise(answers["prediction"].astype(np.float64))
        if target.transform != "none":  # answers are kept within the bounds of training
            low, high = ((bound - target.mean) / target.std for bound in (target.low, target.high))
            expected = np.clip(expected, low, high)
        return Parity(len(found), _largest(found - expected), 0)
    if target.task == "binary":
        found = answers["probability"]
        position = (expected >= np.float32(target.threshold)).astype(np.int64)
    else:
        found = answers["probabilities"]
        position = expected.argmax(axis=1)
    labels = np.array(target.classes, dtype=answers["label"].dtype)[position]
    return Parity(len(found), _largest(found - expected), int((labels != answers["label"]).sum()))


def compare_beyond_ties(expected: Array, answers: Batch, target: FittedTarget, limit: float) -> Parity:
    """As `compare`, but labels of rows whose scores are this near to another label are not counted."""
    found = compare(expected, answers, target)
    if target.task == "regression":
        return found
    if target.task == "binary":
        distance = np.abs(expected - target.threshold)
    else:
        best = np.sort(expected, axis=1)[:, -2:]
        distance = best[:, 1] - best[:, 0]
    clear = distance > limit
    counted = compare(expected[clear], {name: array[clear] for name, array in answers.items()}, target)
    return dataclasses.replace(found, flipped=counted.flipped)


def _largest(difference: Array) -> float:
    if not difference.size:
        return 0.0
    return float("inf") if np.isnan(difference).any() else float(np.abs(difference).max())


def require(parity: Parity, *, limit: float, flipped: int) -> None:
    """Raises ParityError unless the two agree within the limits."""
    if parity.difference > limit or parity.flipped > flipped:
        raise ParityError(
            f"The ONNX file differs from the network by up to {parity.difference:.2e} (limit "
            f"{limit:.0e}) and "
            f"{parity.flipped} labels (limit {flipped}) on {parity.rows:,} rows; it is not registered"
        )


def find_differing(expected: Batch, answers: Batch) -> str | None:
    """The first expected output that differs by more than the tolerance; None if all agree."""
    for name, array in expected.items():
        same = (
            np.allclose(answers[name], array, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
            if array.dtype.kind == "f"
            else np.array_equal(answers[name], array)
        )
        if not same:
            return name
    return None
