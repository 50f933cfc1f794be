"""The profile of a table as one HTML page: what is in each column, what is missing, what relates to the target, which
rows repeat. A line a column, so that it stays readable at hundreds of them."""

import datetime
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from markupsafe import Markup

from raymlops.evaluation import charts
from raymlops.evaluation.page import (
    NOTHING,
    Section,
    write_badge,
    write_card,
    write_cards,
    write_facts,
    write_page,
    write_table,
)
from raymlops.table_profile import MODELLED, ColumnProfile, Conclusion, TableProfile

_CELLS = 30
_STRONGEST = 15
_SHOWN = 6
_MEASURES = {
    "binary": "ROC AUC of the column alone; 0.5 is chance",
    "regression": "R² of the column alone",
    "multiclass": "share of the errors of guessing that the column alone removes",
}


def write_table_page(
    table: TableProfile,
    concluded: Mapping[str, Conclusion],
    target: str,
    task: str,
    facts: Mapping[str, str],
    unsure: Sequence[str],
) -> str:
    """The HTML document; `facts` are what was decided for the whole table, such as its split."""
    missing = sum(column.nulls for column in table.columns) / max(1, table.rows * len(table.columns))
    used = sum(one.role in MODELLED for one in concluded.values())
    about = "" if table.exact else "about "
    return write_page(
        f"Profile of {table.source.rstrip('/').rpartition('/')[2]}",
        f"All {table.rows:,} rows of {table.source}; the target is {target}, a {task} task",
        NOTHING,
        (
            ("rows", f"{table.rows:,}", ""),
            ("columns", f"{len(table.columns):,}", f"{used:,} become features"),
            ("missing values", f"{missing:.1%}", "of all cells"),
            ("repeated rows", f"{about}{table.duplicates:,}", f"{about}{table.near_duplicates:,} nearly"),
        ),
        (
            Section(
                "unsure", "To look at", "What a person should decide; marked `unsure` in the spec.",
                write_card("", "", write_table(("",), [(text,) for text in unsure])),
            ),
            Section("target", "Target", "", _show_target(table.column(target), task, facts)),
            Section(
                "relations", "Relation to the target",
                f"The strongest columns on a sample: {_MEASURES[task]}.",
                _show_relations(concluded),
            ),
            Section("missing", "Missing values", "Columns with the most of them.", _show_missing(table)),
            Section(
                "columns", "Columns",
                "In the order of the table. Numbers: the middle 98 % of the rows; others: the most frequent values.",
                write_card("", "", _show_columns(table, concluded)),
            ),
        ),
    )  # fmt: skip


def _show_target(column: ColumnProfile, task: str, facts: Mapping[str, str]) -> Markup:
    if task == "regression":
        drawn = _draw_numbers(column)
    else:
        top = column.top[:20]
        drawn = charts.draw_bars(
            [show_value(value) for value, _ in top], [100 * rows / column.present for _, rows in top], " %"
        )
    return write_cards(
        write_card(column.name, f"{column.nulls:,} rows have none" if column.nulls else "", drawn),
        write_card("Decided", "", write_facts(facts)),
    )


def _draw_numbers(column: ColumnProfile) -> Markup:
    counts, edges = _count_cells(column)
    if not counts:
        return NOTHING
    middles = [(low + high) / 2 for low, high in itertools.pairwise(edges)]
    axis = charts.Axis(column.name, (edges[0], edges[-1]))
    assert column.numbers is not None
    return charts.draw_histograms(
        middles, [(column.name, counts)], axis, (column.numbers.quantiles[32], "median"), "share of rows"
    )


@np.errstate(all="ignore")
def _count_cells(column: ColumnProfile) -> tuple[list[float], list[float]]:
    """Rows in equal cells between the first and the last hundredth, by the quantiles; and the edges of the cells."""
    if column.numbers is None:
        return [], []
    quantiles = np.asarray(column.numbers.quantiles)
    low, high = (
        (quantiles[0], quantiles[-1]) if column.distinct <= _CELLS else np.quantile(quantiles, (0.01, 0.99))
    )
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low or not math.isfinite(high - low):
        return [], []
    edges = np.linspace(low, high, _CELLS + 1)
    if column.distinct <= _CELLS:  # each value is known
        values = [(float(value), rows) for value, rows in column.top if not isinstance(value, str)]
        counts, _ = np.histogram([value for value, _ in values], edges, weights=[rows for _, rows in values])
        return counts.tolist(), edges.tolist()
    # Equal quantiles are a jump; a hair apart they interpolate to it.
    steps = quantiles + np.arange(len(quantiles)) * (high - low) * 1e-9
    below = np.interp(edges, steps, np.linspace(0, 1, len(steps)))
    return (np.diff(below) * column.present).tolist(), edges.tolist()


def _show_relations(concluded: Mapping[str, Conclusion]) -> Markup:
    found = [(name, one.relation) for name, one in concluded.items() if one.relation is not None]
    found.sort(key=lambda item: -item[1])
    strongest = found[:_STRONGEST]
    if not strongest:
        return NOTHING
    return write_card(
        "", "", charts.draw_bars([name for name, _ in strongest], [max(0.0, value) for _, value in strongest])
    )


def _show_missing(table: TableProfile) -> Markup:
    found = sorted((column for column in table.columns if column.nulls), key=lambda column: -column.nulls)
    if not found:
        return NOTHING
    more = f"and {len(found) - _STRONGEST:,} other columns" if len(found) > _STRONGEST else ""
    shown = found[:_STRONGEST]
    shares = [100 * column.nulls / table.rows for column in shown]
    return write_card("", more, charts.draw_bars([column.name for column in shown], shares, " %"))


def _show_columns(table: TableProfile, concluded: Mapping[str, Conclusion]) -> Markup:
    rows = [list(_describe(column, concluded[column.name], table.rows)) for column in table.columns]
    head = ("column", "role", "missing", "different", "distribution", "values", "alone", "why")
    return write_table(head, rows, frozenset({2, 3, 6}))


def _describe(column: ColumnProfile, one: Conclusion, rows: int) -> Iterator[str]:
    yield column.name or "(no name)"
    yield write_badge(one.role in MODELLED or one.role == "target", one.role)
    yield f"{column.nulls / rows:.1%}" if column.nulls else ""
    yield f"{column.distinct:,}"
    yield _draw_small(column)
    yield _describe_values(column)
    yield f"{one.relation:.2f}" if one.relation is not None else ""
    yield "; ".join(text for text in (one.why, one.unsure) if text)


def _draw_small(column: ColumnProfile) -> Markup:
    if column.numbers is not None:
        counts, _ = _count_cells(column)
    else:
        counts = (
            [float(rows) for _, rows in column.top[:_CELLS]] if column.distinct < 0.9 * column.present else []
        )
    return charts.draw_small(counts)


def _describe_values(column: ColumnProfile) -> str:
    numbers = column.numbers
    if numbers is not None:
        show = show_instant if column.kind == "timestamp" else show_value
        return f"{show(numbers.min)} … {show(numbers.quantiles[32])} … {show(numbers.max)}"
    shown = ", ".join(
        f"{show_value(value)} {rows / max(1, column.present):.0%}" for value, rows in column.top[:_SHOWN]
    )
    return (
        shown
        if column.distinct < 0.9 * column.present
        else ", ".join(show_value(value) for value, _ in column.top[:3])
    )


def show_value(value: str | float) -> str:
    """A value in at most 40 characters."""
    if isinstance(value, str):
        return value if len(value) <= 40 else f"{value[:39]}…"
    return f"{value:,.0f}" if value == round(value, 0) and abs(value) < 1e9 else f"{value:.4g}"


def show_instant(value: float) -> str:
    """Milliseconds since 1970 as a date, with the time of day if it has one."""
    try:
        moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(milliseconds=value)
    except OverflowError:
        return f"{value:.4g}"
    return f"{moment:%Y-%m-%d %H:%M}" if value % 86_400_000 else f"{moment:%Y-%m-%d}"
