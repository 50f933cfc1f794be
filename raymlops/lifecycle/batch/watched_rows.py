"""Rows of a table as the columns that monitoring watches: what the model is given and what it answers. Ray Data reads;
each block passes through the model where it lies."""

import dataclasses
import functools
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import ray.data

from raymlops.conversions.conversion import Conversion
from raymlops.data import sources
from raymlops.data.column_conversions import read_as_text
from raymlops.data.scan import fold, fold_here
from raymlops.errors import DataError, unknown_name
from raymlops.features import FittedColumn, column_to_tensor, convert_columns
from raymlops.lifecycle.batch.predict import OnnxScorer, columns_of, open_scorer, to_rules
from raymlops.lifecycle.batch.row_times import read_times, require_times
from raymlops.lifecycle.batch.table_values import explain_values, find_time_column, read_values
from raymlops.lifecycle.batch.watched_labels import (
    find_labelled_answer,
    guess_labelled_answer,
    labelled_answer_of,
)
from raymlops.models.safety import Model
from raymlops.monitoring import row_values
from raymlops.monitoring.calibration import Labelled, Labels
from raymlops.monitoring.cells import Counts
from raymlops.monitoring.reference import SAMPLE_ROWS, Reference, Role, make_reference
from raymlops.monitoring.row_values import Values
from raymlops.monitoring.segments import find_segments
from raymlops.specs.dataset import DatasetSpec
from raymlops.tensors import Batch

_ROWS = 4096
"""Rows of a run of the model."""
_HERE = 20_000
"""Rows that pass through the model in this process."""


@dataclasses.dataclass(frozen=True)
class CountedRows:
    """Rows of a tick, their counts (columns, 32), and those that have a label; None if no labels are looked for."""

    rows: int
    counts: Counts
    labelled: Labelled | None = None

    def __add__(self, other: "CountedRows") -> "CountedRows":
        labelled = self.labelled
        if labelled is not None and other.labelled is not None:
            labelled = labelled + other.labelled
        return CountedRows(self.rows + other.rows, self.counts + other.counts, labelled or other.labelled)


Ticks = dict[int, CountedRows]
"""Start of a tick, in its unit since 1970 -> its rows."""


@dataclasses.dataclass(frozen=True)
class Period:
    """Ticks of a table: the column with the time of a row, and the unit `hour` or `day`."""

    column: str
    unit: str = "day"


def read_watched(data: DatasetSpec, model: Model, also: str | None = None) -> ray.data.Dataset:
    """The table as training read it: with the conversions of the model's columns. `also` is a further column that it
    must have. Raises DataError."""
    opened, _ = open_scorer(model)
    # a value that a reader's guess of the type would refuse is a missing one here, so all are read as texts
    converted = {column.name for column in columns_of(opened) if column.conversion is not None}
    table = read_as_text(data, to_rules(columns_of(opened)), converted)
    with sources.reading(table):
        dataset = sources.read_dataset(table)
        names = dataset.columns() or []
    require_columns(model, names, str(data.path), also)
    return dataset


def require_columns(model: Model, names: Collection[str], source: str, also: str | None = None) -> None:
    """Raises DataError if a table lacks `also`, or so much that the model can say nothing. A single column that is lost
    is a difference like others."""
    if not names:
        raise DataError(f"{source} has no rows")
    opened, _ = open_scorer(model)
    wanted = [spec.name for spec in opened.signature.inputs]
    missing = [name for name in wanted if name not in names]
    if missing and (len(missing) == len(wanted) or not columns_of(opened)):
        raise DataError(f"{source}: {unknown_name('column', missing[0], names)}; the model takes it")
    if also is not None and also not in names:
        raise DataError(f"{source}: {unknown_name('column', also, names)}")


def sample_rows(dataset: ray.data.Dataset, seed: int = 0) -> tuple[pa.Table, int]:
    """About 20,000 rows from everywhere, or all, and the number of all. Raises DataError if there are none."""
    count = dataset.count()
    if not count:
        raise DataError("The data have no rows; a reference needs some")
    if count > SAMPLE_ROWS:
        dataset = dataset.random_sample(min(1.0, 1.02 * SAMPLE_ROWS / count), seed=seed)
    tables = [table for table in ray.get(dataset.to_arrow_refs()) if table.num_rows]
    return pa.concat_tables(tables, promote_options="permissive"), count


@dataclasses.dataclass(frozen=True)
class LabelColumn:
    """The column of a table with labels, and the output that they are compared with; empty for those of the model's
    contract."""

    column: str = ""
    output: str = ""
    is_required: bool = True
    """Whether labels that the model does not know are an error."""


def reference_of(
    model: Model | None,
    table: pa.Table,
    rows: int,
    time: str | None = None,
    label: LabelColumn | None = None,
) -> Reference:
    """Of a sample of rows; `time` is a column with their times, if they have one, and `label` one with their labels,
    which need not be there unless it is named. Without a model, of the columns of the table. Raises DataError."""
    if model is None:
        return _refer_to_table(table, rows)
    read = read_rows(model, table)
    times = None if time is None else require_times(table, time)
    labels = _find_labels(model, table, read, label or LabelColumn(is_required=False))
    return _make_reference(model, read, rows, times, labels)


def _refer_to_table(table: pa.Table, rows: int) -> Reference:
    batch = read_values(table)
    if not batch:
        raise DataError(f"The data have no column that can be watched: {', '.join(table.column_names)}")
    texts = row_values.find_texts(batch)
    time = find_time_column(table)
    times = read_times(table, time, Conversion("timestamp")) if time else None
    made = make_reference(row_values.read_inputs(batch, texts), {}, times=times, rows=rows, texts=texts)
    told = {
        **made.left_out,
        **row_values.explain_inputs(batch, table.num_rows, texts),
        **explain_values(table),
    }
    return dataclasses.replace(made, left_out=told)


def reference_of_batch(
    model: Model,
    batch: Batch,
    rows: int,
    labels: npt.NDArray[Any] | None = None,
    times: npt.NDArray[np.datetime64] | None = None,
    segments: Sequence[str] = (),
) -> Reference:
    """Of rows in the form of the model's inputs, a sample of `rows`. `labels` (rows,) are class numbers or numbers, as
    training has them; `segments` are columns whose values are watched by themselves."""
    count = len(next(iter(batch.values())))
    answered = _answer(model, batch, count)
    read = WatchedRows(batch, batch, answered, np.ones(count, bool))
    known = find_labelled_answer(open_scorer(model)[0].contract)
    joined = None
    if labels is not None and known is not None and known.output in answered:
        joined = known.join(answered, labels, tuple(batch))
    made = _make_reference(model, read, rows, times, joined)
    singles = [one for one in find_segments(made, segments) if len(one.cells) == 1] if segments else []
    parts = [one.name.partition("=") for one in singles]
    return dataclasses.replace(made, segments=tuple((column, value) for column, _, value in parts))


def _answer(model: Model, batch: Batch, rows: int) -> Batch:
    return _concatenate(_scorer(model).run_batch(batch, rows))[1]


def answer_batch(model: Model, batch: Batch, rows: int) -> Values:
    """What a model answers to rows in the form of its inputs, as columns."""
    answers = row_values.read_answers(_answer(model, batch, rows), rows)
    return row_values.name_answers(answers, batch)


def _find_labels(model: Model, table: pa.Table, read: "WatchedRows", label: LabelColumn) -> Labels | None:
    """None if the rows have none."""
    known = find_labelled_answer(open_scorer(model)[0].contract)
    name = label.column or (known.column if known else "")
    if name not in table.column_names:
        if label.column:
            raise DataError(unknown_name("column", label.column, table.column_names))
        return None
    values = table[name].filter(pa.array(read.holds))
    if known is None or label.output not in ("", known.output):
        known = guess_labelled_answer(name, values, read.answered, label.output)
    known = dataclasses.replace(known, column=name)
    if known.output not in read.answered:
        return None
    labels = np.full(len(read.holds), np.nan)
    labels[read.holds] = known.read(values)
    if label.is_required and known.classes and (labels[~np.isnan(labels)] < 0).all():
        found = ", ".join(map(repr, values.unique().to_pylist()[:5]))
        raise DataError(
            f"Column {name!r} has no label that the model knows: {found}; its classes are {', '.join(known.classes)}"
        )
    answered = {known.output: _spread(read.answered[known.output], read.holds)}
    return known.join(answered, labels, tuple(read.batch))


def _make_reference(
    model: Model,
    read: "WatchedRows",
    rows: int,
    times: npt.NDArray[np.datetime64] | None,
    labels: Labels | None,
) -> Reference:
    instants = [column.name for column in _scorer(model).columns if column.type == "timestamp"]
    kept = {name: values for name, values in read.batch.items() if name not in instants}
    texts = row_values.find_texts(kept)
    known = find_labelled_answer(open_scorer(model)[0].contract)
    classes = (known.output,) if known is not None and known.classes else ()
    chosen, unwatched = row_values.choose_answers(read.answered, int(read.holds.sum()), classes)
    names = {*row_values.name_answers(chosen, read.batch), *([labels.column] if labels else ())}
    answers = {name: values for name, values in read.answers.items() if name in names}
    roles: dict[str, Role] = dict.fromkeys(answers, "score")
    values = {**row_values.read_inputs(kept, texts), **answers}
    made = make_reference(values, roles, times=times, rows=rows, texts=texts, labels=labels)
    told = {
        **made.left_out,
        **row_values.explain_inputs(kept, len(read.holds), texts),
        **{f"predicted {name}" if name in read.batch else name: why for name, why in unwatched.items()},
        **dict.fromkeys(instants, "it tells the time, which goes on"),
    }
    return dataclasses.replace(made, left_out=told)


@dataclasses.dataclass(frozen=True)
class WatchedRows:
    """Rows as columns, (rows, ...), with missing values where they have none, and which of them the model takes,
    `holds` (rows,). Of these what it is given, and what it answered."""

    batch: Batch
    given: Batch
    answered: Batch
    holds: npt.NDArray[np.bool_]

    @functools.cached_property
    def answers(self) -> Values:
        """As columns (rows,), missing where the model refused a row."""
        answers = row_values.read_answers(self.answered, int(self.holds.sum())) if self.answered else {}
        named = row_values.name_answers(answers, self.batch)
        return {name: _spread(values, self.holds) for name, values in named.items()}


def read_rows(model: Model, table: pa.Table) -> WatchedRows:
    """What the model is given, and what it answers, of all rows. Values that do not convert are missing, and so are
    columns that the table lacks; rows that the model refuses for that have no answer."""
    scorer = _scorer(model)
    names = [column.name for column in scorer.columns]
    table = table.select([name for name in table.column_names if name in names or not scorer.columns])
    for column in scorer.columns:
        if column.name not in table.column_names and column.type != "image":
            table = table.append_column(column.name, pa.nulls(table.num_rows))
    converted, _ = convert_columns(table, scorer.columns)
    _, refused = convert_columns(converted, scorer.columns)
    holds = np.ones(table.num_rows, bool)
    for one in refused:
        holds &= ~one.rows
    batch: Batch = {
        column.name: column_to_tensor(converted, _with_missing(column)) for column in scorer.columns
    }
    given, answered = _concatenate(
        scorer.run(converted if holds.all() else converted.filter(pa.array(holds)))
    )
    if not scorer.columns:  # a file of another origin
        batch = given
    return WatchedRows(batch, given, answered, holds)


def _with_missing(column: FittedColumn) -> FittedColumn:
    """The column as numbers with NaN for missing ones, where the model takes no missing ones."""
    if column.type in ("integer", "boolean"):
        return dataclasses.replace(column, type="number", nullable=True, conversion=None)
    return dataclasses.replace(column, conversion=None)


def _spread(values: npt.NDArray[Any], holds: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """Values of some rows at the places of these rows; others are missing."""
    if holds.all():
        return values
    if values.dtype.kind in "fiu":
        numbers = np.full((len(holds), *values.shape[1:]), np.nan)
        numbers[holds] = values
        return numbers
    texts = np.full((len(holds), *values.shape[1:]), None, object)
    texts[holds] = values
    return texts


def _concatenate(parts: Iterable[tuple[Batch, Batch]]) -> tuple[Batch, Batch]:
    listed = list(parts)
    if not listed:
        return {}, {}
    return tuple(  # type: ignore[return-value]
        {name: np.concatenate([part[side][name] for part in listed]) for name in listed[0][side]}
        for side in (0, 1)
    )


@functools.lru_cache(maxsize=2)
def _scorer(model: Model) -> OnnxScorer:
    return OnnxScorer(model, (), threads=1, max_rows=_ROWS)


def count_rows(
    dataset: ray.data.Dataset, model: Model | None, reference: Reference, period: Period | None = None
) -> Ticks:
    """The counts of all rows, by tick; without a period there is one tick, 0."""
    rows = dataset.count()
    if not rows:
        raise DataError("The data have no rows; nothing can be compared")
    chosen = fold_here if rows <= _HERE else fold
    total: Ticks = {}
    for part in chosen(dataset, _count_block, model=model, reference=reference, period=period):
        for tick, counted in part.items():
            total[tick] = total[tick] + counted if tick in total else counted
    return total


def _count_block(table: pa.Table, model: Model | None, reference: Reference, period: Period | None) -> Ticks:
    if table.num_rows == 0 or table.num_columns == 0:
        return {}
    ticks = np.zeros(table.num_rows, np.int64) if period is None else find_ticks(table, period)
    found: Ticks = {}
    for tick in np.unique(ticks):
        part = table.filter(pa.array(ticks == tick))
        if model is None:
            batch = read_values(part, _list_kinds(reference))
            found[int(tick)] = CountedRows(part.num_rows, _count_table(batch, part.num_rows, reference))
            continue
        read = read_rows(model, part)
        inputs = row_values.read_inputs(read.batch, reference.texts)
        counts = reference.count({**inputs, **read.answers})
        found[int(tick)] = CountedRows(part.num_rows, counts, _count_labels(part, read, model, reference))
    return found


def _list_kinds(reference: Reference) -> dict[str, str]:
    texts = dict.fromkeys(reference.texts.words, "category")
    return {**{one.name: one.kind for one in reference.columns if one.role == "input"}, **texts}


def _count_table(batch: Batch, rows: int, reference: Reference) -> Counts:
    """Columns that the table lacks are missing in each row."""
    inputs = row_values.read_inputs(batch, reference.texts)
    return reference.count(inputs or {"": np.full(rows, np.nan)})


def find_ticks(table: pa.Table, period: Period) -> npt.NDArray[np.int64]:
    """The tick of each row (rows,), in its unit since 1970. Raises DataError."""
    unit = {"hour": "datetime64[h]", "day": "datetime64[D]"}[period.unit]
    return require_times(table, period.column).astype(unit).astype(np.int64)


def _count_labels(table: pa.Table, read: WatchedRows, model: Model, reference: Reference) -> Labelled | None:
    """Of rows that the model takes; None if the reference has no labels, or the table no such column."""
    calibration = reference.calibration
    if calibration is None or calibration.target not in table.column_names:
        return None
    answer = labelled_answer_of(calibration, open_scorer(model)[0].contract)
    if answer.output not in read.answered:
        return None
    labels = answer.read(table[calibration.target].filter(pa.array(read.holds)))
    return calibration.count(answer.join(read.answered, labels, tuple(read.batch)))
