"""The profile of a column, from its summary over all blocks. Reads no rows."""

from typing import Any

import numpy as np

from raymlops.data import statistics
from raymlops.data.profiling.summaries import Column, Texts
from raymlops.data.profiling.written_numbers import COMMAS, WRITINGS
from raymlops.table_profile import ColumnProfile, NumberProfile, TextProfile


def finish(name: str, column: Column, twin: str = "") -> ColumnProfile:
    """The profile of a column, from the summary of all blocks. One of texts that all are plain numbers, but for words
    that stand for a missing value, is one of numbers."""
    top: list[tuple[Any, int]] = sorted(column.frequent.items(), key=lambda item: (-item[1], str(item[0])))
    order, kind, nulls, distinct = column.order, column.kind, column.nulls, column.distinct.count
    numbers, texts = column.numbers, column.texts
    written = _find_writing(texts) if texts is not None else ""
    if texts is not None and kind == "text":
        if written:
            numbers = texts.commas if written in COMMAS else texts.points
        present = texts.rows - sum(texts.absent.values())
        if written == "plain" and texts.written["plain"] == present:
            kind = "integer" if texts.written["integer"] == present else "number"
            nulls += column.rows - column.nulls - present
            distinct -= len(texts.absent)
            top = [(float(value), count) for value, count in top if value not in texts.absent]
    varies = order.first != order.last
    return ColumnProfile(
        name,
        kind,
        " | ".join(sorted(column.stored - {"null"})) or "null",
        column.rows,
        nulls,
        distinct,
        tuple(top),
        _finish_numbers(numbers) if numbers is not None and numbers.present else None,
        _finish_texts(texts, written) if texts is not None else None,
        ("rising" if order.rising else "falling" if order.falling else "") if varies else "",
        bool(varies and order.rising and order.steps and not column.nulls and column.kind == "integer"),
        twin,
        column.beyond,
        column.infinite,
        column.absent,
    )


def _find_writing(texts: Texts) -> str:
    """The way in which nearly all of its texts are numbers; empty if they are none."""
    present = texts.rows - sum(texts.absent.values())
    best = max(list(WRITINGS)[1:], key=lambda name: texts.written[name])  # the first of equals
    return best if present and texts.written[best] >= 0.9 * present else ""


def _finish_numbers(numbers: statistics.Numbers) -> NumberProfile:
    return NumberProfile(
        numbers.mean,
        numbers.std,
        numbers.min,
        numbers.max,
        tuple(numbers.quantiles(np.linspace(0, 1, 65)).tolist()),
        numbers.whole,
    )


def _find_formats(texts: Texts) -> tuple[str, ...]:
    """Formats of nearly all of its texts; more than one if no row tells them apart."""
    if texts.others > 0.02 * (texts.times.values + texts.others):
        return ()
    return tuple(texts.times.find() or texts.times.find(0.98))


def _finish_texts(texts: Texts, written: str) -> TextProfile:
    total = max(texts.rows, 1)
    return TextProfile(
        texts.shortest,
        texts.longest,
        texts.characters / total,
        texts.words / total,
        written,
        _find_formats(texts) if not written else (),
        texts.images / total,
        tuple(texts.absent),
        tuple((text, count, row + 1) for text, (count, row) in texts.odd.items()),
        texts.rows - sum(texts.absent.values()) - texts.written[written] if written else 0,
    )
