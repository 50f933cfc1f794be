"""A class too rare for every side is refused with what mends it."""

from typing import Any

import pytest

from raymlops.data import rare_classes
from raymlops.data.scan import Scan
from raymlops.data.splits import SplitRule
from raymlops.errors import DataError
from raymlops.specs.dataset import GroupSplit, RandomSplit, TimeSplit

BY_ROW = RandomSplit()


def scan(classes: Any, spec: Any = BY_ROW) -> Any:
    rule = SplitRule(spec, target="kind")
    facts = dict.fromkeys(("fingerprint", "findings", "rows", "failed", "doubled", "training"))
    return Scan(**facts, rule=rule, classes=classes)  # type: ignore[arg-type]


ENOUGH = {"a": (70, 15, 15), "b": (30, 6, 6)}


def refused(classes: Any, task: str = "auto", spec: Any = BY_ROW) -> str:
    with pytest.raises(DataError) as error:
        rare_classes.require(scan(classes, spec), task)
    return str(error.value)


def test_rare_classes_are_folded_together_where_that_makes_a_class_and_left_out_else() -> None:
    several = {**ENOUGH, "x": (2, 0, 0), "y": (1, 0, 0)}
    assert """dataset.derive: {'kind': "where(kind in ['x', 'y'], 'other', kind)"}""" in refused(several)
    one = refused({**ENOUGH, "x": (2, 0, 0)})
    assert "dataset.derive" not in one
    assert "dataset.where: \"kind not in ['x']\"" in one
    assert "dataset.derive" not in refused({1: (9, 3, 3), 2: (9, 3, 3), 3: (1, 0, 0)})
    assert "give more rows" in refused({"a": (70, 15, 15), "b": (1, 1, 0)}, "binary")
    many = refused({"a": (7000, 1500, 1500), "b": (70, 15, 15), "x": (11, 1, 0)})
    assert "not in ['x']" in many
    assert "another split.seed" in many


def test_groups_and_times_that_leave_a_side_without_a_class_have_remedies_of_their_own() -> None:
    assert "another split.seed" in refused(
        {**ENOUGH, "x": (40, 0, 9)}, spec=GroupSplit(by="group", column="g")
    )
    by_time = TimeSplit(by="time", column="t")
    assert "other split.fractions" in refused({"a": (9, 9, 9), "b": (9, 9, 0)}, spec=by_time)
    rare_classes.require(scan({**ENOUGH, "x": (40, 0, 9)}, by_time), "auto")
    assert "'x' has 0 training" in refused({**ENOUGH, "x": (0, 4, 9)}, spec=by_time)


@pytest.mark.parametrize(
    ("classes", "task", "spec"),
    [
        (None, "auto", RandomSplit()),
        (ENOUGH, "auto", RandomSplit()),
        ({**ENOUGH, "x": (1, 0, 0)}, "regression", RandomSplit()),
        ({**ENOUGH, "x": (1, 0, 0)}, "auto", RandomSplit(version=1)),
        (dict.fromkeys(range(60), (1, 0, 0)), "auto", RandomSplit()),
        ({"a": (1, 0, 0)}, "auto", RandomSplit()),
    ],
    ids=[
        "uncounted",
        "enough",
        "regression",
        "split of before",
        "whole numbers",
        "one class, told elsewhere",
    ],
)
def test_other_targets_are_not_refused(classes: Any, task: str, spec: Any) -> None:
    rare_classes.require(scan(classes, spec), task)
