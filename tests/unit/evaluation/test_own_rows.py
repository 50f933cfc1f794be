"""The gate judges no model by rows that it was trained on: by the others, if these are enough, else not at all."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from raymlops.data import training_rows
from raymlops.evaluation import gate, partials
from raymlops.evaluation.gate import Evidence
from raymlops.evaluation.partials import Layout
from raymlops.evaluation.verdict import Verdict
from raymlops.lifecycle.govern.own_rows import OwnRows
from raymlops.specs.evaluation import GateSpec, LeakSpec

CHANCE = np.random.default_rng(8)
LABELS = CHANCE.integers(0, 2, 900)
OURS, THEIRS = np.arange(900) >= 600, np.arange(900) >= 750
SPEC = GateSpec(leak=LeakSpec(error_cut=1))


def evidence(name: str, skill: Any, new: Any = None, **facts: Any) -> Evidence:
    """Of a model whose scores follow the label by so much; `new` are the rows of no training."""
    scores = 1 / (1 + np.exp(-(skill * (LABELS - 0.5) + CHANCE.normal(size=900))))

    def sum_up(rows: Any) -> partials.Partial:
        groups = np.flatnonzero(rows) % 256
        return partials.to_exact(partials.observe(Layout("binary"), LABELS[rows], scores[rows], groups))

    every = np.ones(900, dtype=bool)
    return Evidence(name, partial=sum_up(every), new=sum_up(every if new is None else new), **facts)


def checks(verdict: Verdict) -> dict[str, bool]:
    return {check.name: check.passed for check in verdict.checks}


def test_a_champion_that_knows_the_rows_by_heart_blocks_no_better_candidate() -> None:
    by_heart = np.where(OURS, 1.0, 5.0)  # on its 600 training rows it is nearly perfect
    unsaid = gate.judge(evidence("new", 1.6), evidence("old", by_heart), SPEC)
    assert not unsaid.passed
    champion = evidence("old", by_heart, OURS, own="600 of 900 rows were training rows of old")
    verdict = gate.judge(evidence("new", 1.6, OURS), champion, SPEC)
    assert verdict.passed
    text = next(check.text for check in verdict.checks if check.name == "rows of the champion")
    assert text == "600 of 900 rows were training rows of old; judged on the other 300 rows"


def test_a_worse_candidate_is_still_blocked_on_the_rows_of_neither() -> None:
    champion = evidence(
        "old", np.where(OURS, 2.0, 5.0), OURS, own="600 of 900 rows were training rows of old"
    )
    verdict = gate.judge(evidence("new", 0.7, OURS), champion, SPEC)
    assert {name for name, passed in checks(verdict).items() if not passed} == {
        "roc_auc gain on the champion"
    }


@pytest.mark.parametrize("left", [0, 40])
def test_too_few_rows_of_neither_are_refused_with_the_remedy(left: int) -> None:
    rows = np.arange(900) >= 900 - left
    champion = evidence("old", 3.0, rows, own="860 of 900 rows were training rows of old")
    verdict = gate.judge(evidence("new", 1.0, rows), champion, SPEC)
    assert [check.name for check in verdict.failures] == ["rows of the champion"]
    assert f"leaves {left} rows" in verdict.failures[0].text
    assert "--data PATH" in verdict.failures[0].text
    assert "roc_auc gain on the champion" not in checks(verdict)


def test_a_candidate_is_judged_without_its_own_rows() -> None:
    by_heart = np.where(THEIRS, 0.0, 5.0)
    own = {"own": "750 of 900 rows were training rows of new"}
    assert gate.judge(evidence("new", by_heart), None, SPEC).passed
    verdict = gate.judge(evidence("new", by_heart, THEIRS, **own), evidence("old", 1.5, THEIRS), SPEC)
    failed = {check.name for check in verdict.failures}
    assert "roc_auc against guessing" in failed
    assert "own rows" not in failed
    few = gate.judge(evidence("new", by_heart, np.arange(900) >= 890, **own), None, SPEC)
    assert "own rows" in {check.name for check in few.failures}


def test_what_is_not_known_of_a_champion_is_said_and_blocks_nothing() -> None:
    champion = evidence("old", 1.5, unknown="it is not known which rows it had")
    verdict = gate.judge(evidence("new", 1.6), champion, SPEC)
    assert verdict.passed
    assert "it is not known which rows it had" in str(verdict)


def test_own_rows_are_told_beyond_the_errors_of_their_record() -> None:
    mistaken = OwnRows.from_marks(
        np.repeat([training_rows.NEW, training_rows.TRAIN], [993, 7]).astype(np.int8)
    )
    assert not mistaken.found
    assert mistaken.describe("v") == ""
    marks = np.repeat([training_rows.NEW, training_rows.TRAIN, training_rows.VALIDATION], [34, 157, 34])
    found = OwnRows.from_marks(marks.astype(np.int8))
    assert found.describe("v") == (
        "157 of 225 rows (about 70%) were training rows of v, and 34 were its validation rows"
    )
    half = dataclasses.replace(found, rows=450, left_out=225)
    assert half.describe("v").startswith("157 of a sample of 225 rows (about 70%)")
    assert (found + found).train == 314
