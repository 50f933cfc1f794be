"""Which columns explain that the mean score moved: rows are scored again, each column in turn with the distribution
that it had in the reference."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raymlops.lifecycle.batch.watched_rows import answer_batch, read_rows
from raymlops.models.safety import Model
from raymlops.monitoring.cells import NumberCells, count
from raymlops.monitoring.reference import Column, Reference
from raymlops.monitoring.restoration import ScoreChange, has_moved, restore_categories, restore_numbers
from raymlops.tensors import Batch

ROWS = 8_000
"""Rows that are scored again."""
_COLUMNS = 8


def explain_score_change(
    model: Model, reference: Reference, table: pa.Table, columns: Sequence[str], seed: int = 0
) -> ScoreChange | None:
    """Of rows of a table, by the first 8 of these columns; None if the mean score did not move by 5 standard errors."""
    score = _choose_score(reference)
    if not score:
        return None
    read = read_rows(model, table)
    batch = read.given
    rows = int(read.holds.sum())
    if not rows or score not in read.answers:
        return None
    answers = np.asarray(read.answers[score], np.float64)[read.holds]
    usual = reference.means[score]
    if not has_moved(answers, usual, len(reference.codes)):
        return None
    now = float(np.nanmean(answers))
    random = np.random.default_rng(seed)
    shares = count(reference.codes) / max(len(reference.codes), 1)
    found = {}
    for place, column in enumerate(reference.columns):
        if column.role == "input" and column.name in columns[:_COLUMNS]:
            restored = _restore(batch, rows, column, shares[place], random)
            if restored is not None:
                again = answer_batch(model, restored, rows)[score]
                found[column.name] = (now - float(np.nanmean(again))) / (now - usual[0])
    ordered = sorted(found.items(), key=lambda one: -one[1])
    return ScoreChange(score, usual[0], now, tuple(ordered))


def _choose_score(reference: Reference) -> str:
    """The score that labels are compared with, else the first one that is a number."""
    if reference.calibration is not None and reference.calibration.column in reference.means:
        return reference.calibration.column
    return next(iter(reference.means), "")


def _restore(
    batch: Batch, rows: int, column: Column, usual: npt.NDArray[Any], random: np.random.Generator
) -> Batch | None:
    """None for a column that is a measure of an input, as the length of a text."""
    name, place = column.name, None
    element = re.fullmatch(r"(.*)\[(\d+)\]", name)
    if name not in batch and element is not None:
        name, place = element.group(1), int(element.group(2))
    if name not in batch or (place is None and batch[name].size != rows):
        return None
    values = batch[name]
    flat = values.reshape(rows, -1)
    own = flat[:, place or 0]
    if isinstance(column.cells, NumberCells):
        made: npt.NDArray[Any] = restore_numbers(own, column.cells, usual, random)
        if values.dtype.kind != "f":
            if np.isnan(made).any():
                return None
            made = np.floor(made) if values.dtype.kind in "iu" else made >= 0.5
    else:
        texts = restore_categories(own, column.cells, usual, random)
        made = _to_kind(texts, values.dtype)
    changed = flat.copy()
    changed[:, place or 0] = made.astype(values.dtype)
    return {**batch, name: changed.reshape(values.shape)}


def _to_kind(texts: npt.NDArray[np.object_], kind: np.dtype[Any]) -> npt.NDArray[Any]:
    if kind.kind in "iub":
        return np.array([int(float(text)) if text else 0 for text in texts.tolist()])
    return np.array([text or "" for text in texts.tolist()], object)
