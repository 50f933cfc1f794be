"""The split that suits a profiled table: by time where time orders the rows, by group where an id repeats, else random.
Reads no rows."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Literal

from raymlops.data.profiling.target import Target
from raymlops.table_profile import ColumnProfile, Conclusion, TableProfile

_DAY = 86_400_000.0
_OF_A_THING = re.compile(r"birth|dob|born|expir|valid|founded|built|release", re.IGNORECASE)
"""Names of times that a row has, rather than that it was made at."""
_STEPS = 20
_FEWEST_THINGS, _DISPERSION = 30, 0.3
_NAMING = ("number", "category")


@dataclasses.dataclass(frozen=True)
class SplitChoice:
    """A split and why."""

    by: Literal["time", "group", "random"]
    column: str = ""
    why: str = ""
    unsure: str = ""


def choose_split(
    table: TableProfile,
    target: Target,
    concluded: Mapping[str, Conclusion],
    *,
    everywhere: Mapping[str, bool],
) -> SplitChoice:
    """`everywhere` says of columns of times whether each class is in the first and in the last rows by them."""
    unsure = ""
    for column in _times(table, concluded):
        if not everywhere.get(column.name, True):
            unsure = f"by time of {column.name}, some class would lack in a part"
            continue
        if column.order:
            return SplitChoice("time", column.name, f"{column.name} orders the rows")
        if _is_event(column):
            told = f"whether {column.name} is when a row came to be; if not, use by: random"
            return SplitChoice("time", column.name, "train on the past, test on what came later", told)
    groups = [column for column in table.columns if concluded[column.name].role == "group"]
    if groups:
        chosen = max(groups, key=lambda column: column.distinct)
        others = [column.name for column in groups if column is not chosen]
        told = (
            f"{' and '.join(others)} repeat, too; choose the one that new rows will not share"
            if others
            else unsure
        )
        return SplitChoice("group", chosen.name, concluded[chosen.name].why, told)
    if table.duplicates > 0.01 * table.rows:
        about = "" if table.exact else "about "
        unsure = f"{about}{table.duplicates:,} rows repeat another; split.key keeps rows that share columns together"
    panel = next(
        (one for one in table.columns if concluded[one.name].role in _NAMING and _is_panel(one)), None
    )
    if panel is not None:
        told = (
            f"{panel.name} has {panel.distinct:,} values of about {panel.repeats:.0f} rows each: if new rows bring "
            f"others, use by: group, column: {panel.name}"
        )
        unsure = f"{unsure}; {told}" if unsure else told
    kind = "each class" if target.task != "regression" else "each range of the target"
    return SplitChoice(
        "random", "", f"stratified: {kind} in its share on every side of a small table", unsure
    )


def _is_panel(column: ColumnProfile) -> bool:
    """Whether each value has nearly the same number of rows, as where things are observed several times: the counts
    vary far less than those of values that are drawn (an index of dispersion far below one)."""
    counts = [rows for _, rows in column.top]
    if column.kind not in ("integer", "text"):
        return False
    if not _FEWEST_THINGS <= column.distinct == len(counts) or not 2 <= column.repeats <= column.present / 20:
        return False
    mean = sum(counts) / len(counts)
    return sum((count - mean) ** 2 for count in counts) / mean < _DISPERSION * len(counts)


def _times(table: TableProfile, concluded: Mapping[str, Conclusion]) -> list[ColumnProfile]:
    """Columns that may say when a row was made, without gaps."""
    found = [
        column
        for column in table.columns
        if concluded[column.name].role == "timestamp"
        and not column.nulls
        and column.distinct >= _STEPS
        and not _OF_A_THING.search(column.name)
        and len(column.text.formats if column.text else ()) < 2
    ]
    return sorted(found, key=lambda column: not column.order)


def _is_event(column: ColumnProfile) -> bool:
    """Whether times come as events do: with a time of day, or on most days between the first and the last."""
    if column.numbers is None:
        return False
    days = (column.numbers.max - column.numbers.min) / _DAY + 1
    with_clock = any(isinstance(value, int | float) and value % _DAY for value, _ in column.top)
    return with_clock or column.distinct > 0.5 * days
