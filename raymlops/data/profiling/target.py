"""The task that a target asks for, and why."""

import dataclasses
import re
from typing import Literal

from raymlops.data.splits import SMALL
from raymlops.errors import DataError, unknown_name
from raymlops.table_profile import ColumnProfile, TableProfile

Task = Literal["binary", "multiclass", "regression"]
_POSITIVE = frozenset((
    "yes", "y", "true", "t", "1", "positive", "pos", "bad", "default", "defaulted", "fraud", "churned", "churn", "died",
    "dead", "deceased", "malignant", "m", "late", "fail", "failed", "spam", "success", "won", ">50k",
))  # fmt: skip
"""Words for the class that a model is to find."""
_MOST_CLASSES, _COUNTED = 1000, 50
_RARE, _RARE_OF_MANY = 10, 50
"""Rows below which a class may have none in a part: shares are exact for few rows, and left to a hash for many."""
_USABLE = "expected numbers, texts or booleans: choose another, or write one as a column of the table"


@dataclasses.dataclass(frozen=True)
class Target:
    """The target, its task and what is unusual about it."""

    column: str
    task: Task
    why: str
    unsure: str = ""
    positive: str | int | bool | None = None
    classes: tuple[tuple[str | float, int], ...] = ()
    """Of a classification, with their rows, the most frequent first."""
    rare: tuple[str | float, ...] = ()
    """Classes with too few rows for three parts."""


def find_target(table: TableProfile, name: str, task: Task | None = None) -> Target:
    """Raises DataError if the table has no such column, or it can be no target."""
    names = [column.name for column in table.columns]
    if name not in names:
        near = [known for known in names if known.strip().casefold() == name.strip().casefold()]
        if len(near) != 1:
            given = all(re.fullmatch(r"f\d+", known) for known in names)
            hint = (
                "; the first line of the file looks like data, so columns are numbered: if it names them, give "
                "--option 'read_options={autogenerate_column_names: false}'"
            )
            raise DataError(f"--target: {unknown_name('column', name, names)}{hint if given else ''}")
        name = near[0]
    column = table.column(name)
    _require_usable(column)
    found, why, unsure = _find_task(column) if task is None else (task, "as asked", "")
    if found == "regression":
        if column.numbers is None and (column.text is None or not column.text.written):
            raise DataError(
                f"Target {name!r} is {column.stored}; a regression predicts numbers: leave --task out"
            )
        return Target(name, found, why, unsure)
    counts = tuple((_plain(value), rows) for value, rows in column.top if value != "")
    if found == "binary" and column.distinct != 2:
        raise DataError(
            f"Target {name!r} has {column.distinct:,} values; a binary task takes two: --task multiclass"
        )
    if column.distinct > _MOST_CLASSES:
        raise DataError(
            f"Target {name!r} has about {column.distinct:,} different values; a classification takes {_MOST_CLASSES} "
            "at most: choose another target"
        )
    least = _RARE if table.rows < SMALL else _RARE_OF_MANY
    rare = tuple(value for value, rows in counts if rows < least) if found == "multiclass" else ()
    if found == "binary" and counts[-1][1] < 3:
        value, rows = counts[-1]
        raise DataError(
            f"Class {value!r} of target {name!r} has {rows} rows, too few to train, validate and test on; "
            "give more rows of it"
        )
    if len(counts) - len(rare) < 2:
        raise DataError(
            f"Target {name!r} has {len(counts) - len(rare)} classes with {least} rows or more; expected two at least: "
            "give more rows, or another target"
        )
    positive = _find_positive(counts, column) if found == "binary" else None
    return Target(name, found, why, unsure, positive, counts, rare)


def _require_usable(column: ColumnProfile) -> None:
    name = column.name
    if column.kind in ("timestamp", "image", "other"):
        raise DataError(f"Target {name!r} is {column.stored[:80]}; {_USABLE}")
    if not column.present:
        raise DataError(f"Target {name!r} is null in all {column.rows:,} rows; choose another")
    if column.distinct < 2:
        raise DataError(
            f"Target {name!r} has one value only, {_plain(column.top[0][0])!r}, in all {column.present:,} rows; there "
            "is nothing to predict"
        )
    if column.text is not None and column.text.formats:
        raise DataError(f"Target {name!r} has dates; {_USABLE}")


def _find_task(column: ColumnProfile) -> tuple[Task, str, str]:
    count = column.distinct
    if column.text is not None and column.text.written and count > 20:
        return "regression", "numbers written as text", ""
    if column.kind in ("text", "boolean"):
        share = count / max(column.present, 1)
        if count > 2 and share > 0.5 and column.present > 20:
            raise DataError(
                f"Target {column.name!r} has {count:,} different texts in {column.present:,} rows; a class must "
                "repeat: choose another target"
            )
        return ("binary" if count == 2 else "multiclass"), f"{count} values", ""
    assert column.numbers is not None
    if not column.numbers.whole:
        return "regression", "numbers with a fraction", ""
    if count == 2:
        return "binary", "two whole numbers", ""
    if count > _COUNTED:
        return "regression", f"{count:,} different whole numbers", ""
    consecutive = column.numbers.max - column.numbers.min + 1 == count
    if count > 12 or (column.numbers.max - column.numbers.min > 3 * count):
        told = f"{count} whole numbers could also be classes: task: multiclass"
        return "regression", f"{count} whole numbers", told
    told = f"{count} whole numbers whose order means something are better predicted by task: regression"
    return "multiclass", f"{count} whole numbers", told if consecutive and count > 3 else ""


def _plain(value: str | float) -> str | float:
    return int(value) if isinstance(value, float) and value == int(value) else value


def _find_positive(
    counts: tuple[tuple[str | float, int], ...], column: ColumnProfile
) -> str | int | bool | None:
    """A word that says so, else the default: the larger value."""
    values = [value for value, _ in counts]
    if column.kind == "boolean":
        return True
    if not all(isinstance(value, str) for value in values):
        return None
    said = [value for value in values if str(value).strip().casefold().rstrip(".") in _POSITIVE]
    return said[0] if len(said) == 1 else max(values)  # type: ignore[return-value]
