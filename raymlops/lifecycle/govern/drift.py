"""The reference of a version, and tables compared with it: what a person asks before training, or after an import."""

import contextlib
import dataclasses
import math
import shlex
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import ray.data

from raymlops.data import sources
from raymlops.errors import NotFoundError, SpecError
from raymlops.lifecycle import preflight
from raymlops.lifecycle.batch import score_change
from raymlops.lifecycle.batch.score_change import explain_score_change
from raymlops.lifecycle.batch.watched_rows import (
    LabelColumn,
    Period,
    Ticks,
    count_rows,
    find_ticks,
    read_watched,
    reference_of,
    require_columns,
    sample_rows,
)
from raymlops.lifecycle.cluster import join_cluster
from raymlops.models.safety import Model, read_model
from raymlops.monitoring import comparison, quality
from raymlops.monitoring.comparison import Comparison
from raymlops.monitoring.day_windows import DayWindows
from raymlops.monitoring.quality import LabelChange, Quality
from raymlops.monitoring.reference import Reference
from raymlops.monitoring.replay import compare_hours
from raymlops.monitoring.restoration import ScoreChange
from raymlops.runtime.sources import read_source
from raymlops.settings import Settings
from raymlops.specs.dataset import DatasetSpec
from raymlops.tracking import evidence, registry
from raymlops.tracking.registry import ModelVersion
from raymlops.tracking.run_reader import Client, write_files
from raymlops.tracking.store import connect

Data: TypeAlias = DatasetSpec | pa.Table
Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class AnswerQuality:
    """How good the answers to some rows are: estimated without their labels; and, of those that have one, measured, and
    whether labels are as the scores would have them."""

    estimates: tuple[Quality, ...] = ()
    measured: tuple[Quality, ...] = ()
    labels: LabelChange | None = None

    def describe_labels(self) -> str:
        return self.labels.describe() if self.labels is not None else ""


@dataclasses.dataclass(frozen=True)
class Drift:
    """A table compared with a reference, as a whole or by periods of time."""

    reference: Reference
    periods: tuple[tuple[int, Comparison], ...]
    """Start of each period, in its unit since 1970; one at 0 for a table as a whole."""
    level: float
    answers: Mapping[int, AnswerQuality] = dataclasses.field(default_factory=dict)
    """Start of a period -> how good the answers are."""
    score: ScoreChange | None = None
    """Of the table, or the period that differs most: None if the mean score did not move beyond chance."""
    added: tuple[str, ...] = ()
    """Columns that only the later of two tables has; of a model's rows none, as it takes what it takes."""

    @property
    def differs(self) -> bool:
        return any(one.differs for _, one in self.periods) or any(
            self.labels_differ(start) for start in self.answers
        )

    def labels_differ(self, start: int) -> bool:
        """Whether labels given the scores are others beyond chance. Labels have half of the level."""
        change = self.answers[start].labels if start in self.answers else None
        return change is not None and change.chance < self.level / 2 / max(len(self.periods), 1)

    @property
    def worst(self) -> int | None:
        """The start of the period that differs most."""
        return max(self.periods, key=lambda one: one[1].largest, default=(None, None))[0]

    def describe(self, unit: str | None = None) -> list[str]:
        """The verdict in a line, and a line for each column that differs; of several periods of a `unit`, a line for
        each that differs."""
        new = (
            [f"  Columns that are new, and compared with nothing: {', '.join(self.added)}"]
            if self.added
            else []
        )
        return self._describe(unit) + new

    def _describe(self, unit: str | None) -> list[str]:
        if unit is None:
            (_, whole), *_ = self.periods or ((0, None),)
            if whole is None:
                return ["No rows to compare"]
            lines = [
                f"{whole.rows:,} rows, {whole.watched} columns, reference of {whole.reference_rows:,} rows"
            ]
            only_labels = self.labels_differ(0) and not whole.differs
            lines.append(self.answers[0].describe_labels() if only_labels else whole.describe())
            lines += [f"  {finding.describe()}" for finding in whole.findings]
            return lines + self._describe_answers(0)
        changed = [(start, one) for start, one in self.periods if one.differs or self.labels_differ(start)]
        lines = [f"{len(changed)} of {len(self.periods)} {unit}s differ beyond chance"]
        lines += [
            f"  {name_period(start, unit)}  {one.rows:>7,} rows  {self._name(start)}"
            for start, one in changed
        ]
        if changed and self.worst is not None:
            told = self._describe_answers(self.worst)
            lines += [f"Of {name_period(self.worst, unit)}, which differs most:", *told] if told else []
        return lines

    def _name(self, start: int) -> str:
        """What differs in a period, in a line."""
        found = [finding.describe() for finding in dict(self.periods)[start].findings]
        if self.labels_differ(start):
            found.append(self.answers[start].describe_labels())
        return found[0] + (f", and {len(found) - 1} more" if len(found) > 1 else "")

    def _describe_answers(self, start: int) -> list[str]:
        lines = [f"  {self.score.describe()}"] if self.score is not None else []
        if start not in self.answers:
            return lines
        found = self.answers[start]
        if self.labels_differ(start) and dict(self.periods)[start].differs:
            lines.append(f"  {found.describe_labels()}")
        lines += [f"  {one.describe()}" for one in (*found.measured, *found.estimates)]
        left_out = dict.fromkeys(one.why for one in found.estimates if one.why and not one.is_silent)
        return lines + [f"  ({why})" for why in left_out]

    def to_json(self) -> dict[str, Any]:
        return {
            "differs": self.differs,
            "level": self.level,
            "reference_rows": self.reference.rows,
            "not_watched": dict(self.reference.left_out),
            "new_columns": list(self.added),
            "periods": [
                {"start": start, **one.to_json(), **self._answers_to_json(start)}
                for start, one in self.periods
            ],
            "score": None if self.score is None else self.score.to_json(),
        }

    def _answers_to_json(self, start: int) -> dict[str, Any]:
        found = self.answers.get(start)
        if found is None:
            return {}
        quality = [one.to_json() for one in (*found.estimates, *found.measured)]
        changed = {"labels": found.labels.to_json()} if found.labels is not None else {}
        return {"quality": quality, **changed, "labels_differ": self.labels_differ(start)}


def name_period(start: int, unit: str) -> str:
    """`2013-11-02`, or `2013-11-02 14h`, UTC."""
    if unit == "day":
        return str(np.datetime64(start, "D"))
    return str(np.datetime64(start, "h")).replace("T", " ") + "h"


def make_reference(
    version: str,
    data: Data,
    settings: Settings,
    *,
    time: str | None = None,
    label: LabelColumn | None = None,
    why: str = "",
    tell: Tell = lambda line: None,
) -> tuple[ModelVersion, Reference]:
    """Of the rows of `data`, through the version's model; stored with the version, and signed if the version is. `time`
    is a column with the times of rows, `label` one with what was right, by default the one that the model was trained
    on.

    Raises NotFoundError, DataError for data that the model does not take, and UntrustedError if the record has
    problems.
    """
    client = connect(settings)
    found = registry.resolve(version, settings)
    _join(data, None, settings)
    tell(f"Reading {_name(data)} through {found.uri}")
    made = _reference_of(read_model(found.file, found.digest), data, time, label)
    content = made.to_bytes()
    write_files(client, found.uri, {evidence.reference_path(found.version): content})
    evidence.sign_reference(found, content, why, settings, client)
    return found, made


def find_drift(
    version: str | None,
    data: Data,
    settings: Settings,
    *,
    against: Data | None = None,
    level: float = 0.01,
    period: Period | None = None,
    tell: Tell = lambda line: None,
) -> Drift:
    """Compares `data` with the reference of a version, or with other data; each row passes through the model. Without a
    version, the columns of two tables are compared. `level` is the share of verdicts on data without a change that
    may find one; of several periods, all together.

    Raises NotFoundError, SpecError for a file that has no reference, and DataError for data that the model does not
    take.
    """
    if version is None and against is None:
        raise SpecError("Without a version, data are compared with other data; give --against DATA")
    model, reference = (None, None) if version is None else _open(version, against is None, settings)
    _join(data, against, settings)
    names: list[str] = []
    if against is not None:
        tell(f"Reading {_name(against)}")
        reference = _reference_of(model, against, None)
        with _reading(against):
            names = _read(against, None, None).columns() or [] if model is None else []
    assert reference is not None
    tell(f"Comparing {_name(data)}")
    with _reading(data):
        dataset = _read(data, model, period.column if period else None)
        added = tuple(name for name in dataset.columns() or () if name not in names) if names else ()
        ticks = count_rows(dataset, model, reference, period)
        has_labels = any(one.labelled is not None and one.labelled.rows for one in ticks.values())
        unit = period.unit if period else ""
        periods = tuple(compare_ticks(reference, ticks, level / 2 if has_labels else level, unit))
        found = Drift(reference, periods, level, find_answers(reference, ticks), added=added)
        table = _sample_worst(dataset, found, period) if model is not None else None
    if model is None or table is None or found.worst is None:
        return found
    columns = _list_suspects(dict(periods)[found.worst])
    return dataclasses.replace(found, score=explain_score_change(model, reference, table, columns))


def find_answers(reference: Reference, ticks: Ticks) -> dict[int, AnswerQuality]:
    """By tick; empty for a reference without labels."""
    calibration = reference.calibration
    if calibration is None:
        return {}
    found = {}
    for tick, one in ticks.items():
        estimates = tuple(quality.estimate_quality(reference, one.counts))
        if one.labelled is None or not one.labelled.rows:
            found[tick] = AnswerQuality(estimates)
            continue
        measured = tuple(quality.measure_quality(calibration, one.labelled))
        found[tick] = AnswerQuality(estimates, measured, quality.find_label_change(calibration, one.labelled))
    return found


def _list_suspects(worst: Comparison) -> list[str]:
    """Columns that may explain a change of the score: those that differ, then the least likely ones."""
    differing = [one.column.name for one in worst.findings if one.column.role in ("input", "residual")]
    others = [one.column.name for one in worst.columns if one.column.role == "input"]
    return list(dict.fromkeys([*differing, *others]))


def _sample_worst(dataset: ray.data.Dataset, found: Drift, period: Period | None) -> pa.Table | None:
    """Some rows of the period that differs most; None if none does."""
    start = found.worst
    if start is None or not found.differs:
        return None
    rows = dict(found.periods)[start].rows
    if period is not None:
        dataset = dataset.map_batches(
            _take_period,
            batch_format="pyarrow",
            batch_size=None,
            fn_kwargs={"period": period, "start": start},
        )
    if rows > score_change.ROWS:
        dataset = dataset.random_sample(min(1.0, 1.02 * score_change.ROWS / rows), seed=0)
    tables = [table for table in ray.get(dataset.to_arrow_refs()) if table.num_rows]
    return pa.concat_tables(tables, promote_options="permissive") if tables else None


def _take_period(table: pa.Table, period: Period, start: int) -> pa.Table:
    if not table.num_rows:
        return table
    return table.filter(pa.array(find_ticks(table, period) == start))


def _open(version: str, needed: bool, settings: Settings) -> tuple[Model, Reference | None]:
    if not version.startswith("models:/"):
        if needed:
            raise SpecError(
                f"{version} is not a registered version, so it has no reference; give --against DATA"
            )
        return read_source(version, settings), None
    found = registry.resolve(version, settings)
    reference = read_reference(connect(settings), found) if needed else None
    return read_model(found.file, found.digest), reference


def read_reference(client: Client, version: ModelVersion) -> Reference:
    """The reference that was stored with a version. Raises NotFoundError if there is none."""
    content = evidence.read_reference(client, version)
    if content is None:
        raise NotFoundError(
            f"{version.uri} has no reference; make one: raymlops reference {shlex.quote(version.uri)} DATA, of rows "
            "that did not train it; or compare with other data: --against DATA"
        )
    return Reference.from_bytes(content)


def _reference_of(
    model: Model | None, data: Data, time: str | None, label: LabelColumn | None = None
) -> Reference:
    with _reading(data):
        table, rows = sample_rows(_read(data, model, time))
        return reference_of(model, table, rows, time, label)


def describe_labels(reference: Reference) -> str:
    """What its quality is, or that none can be estimated."""
    calibration = reference.calibration
    if calibration is None:
        return (
            "No quality is estimated: that needs 100 rows with labels, of a binary target both; name their column with "
            "--label"
        )
    metrics = quality.find_metrics(calibration, calibration.table)
    told = ", ".join(f"{name} {float(metrics[name]):.3g}" for name in quality.METRICS[calibration.task])
    return f"Quality by {calibration.target!r}: {told}, of {calibration.rows:,} rows with labels"


def _join(data: Data, other: Data | None, settings: Settings) -> None:
    """Joins the cluster, unless all is in memory; files that are missing are told before."""
    given = [one for one in (data, other) if isinstance(one, DatasetSpec)]
    for one in given:
        preflight.require_files(one.tables)
    join_cluster(settings)


def _reading(data: Data) -> AbstractContextManager[Any]:
    return sources.reading(data) if isinstance(data, DatasetSpec) else contextlib.nullcontext()


def _read(data: Data, model: Model | None, also: str | None) -> ray.data.Dataset:
    if model is None:
        return sources.read_dataset(data) if isinstance(data, DatasetSpec) else ray.data.from_arrow(data)
    if isinstance(data, DatasetSpec):
        return read_watched(data, model, also)
    dataset = ray.data.from_arrow(data)
    require_columns(model, data.column_names, "the table", also)
    return dataset


def _name(data: Data) -> str:
    return str(data.path) if isinstance(data, DatasetSpec) else "a table in memory"


def compare_ticks(
    reference: Reference, ticks: Ticks, level: float, unit: str = ""
) -> list[tuple[int, Comparison]]:
    """Each tick with the reference; `level` is of all together. Ticks of about as many rows share a simulation. Hours
    are judged as those of an endpoint are, each with those before it and against what is usual at its time, if the
    reference has times enough."""
    if unit == "hour":
        hours = {tick: (one.rows, one.counts) for tick, one in ticks.items()}
        judged = compare_hours(reference, hours, level)
        if judged is not None:
            return judged
    own = level / max(len(ticks), 1)
    simulated: dict[int, Any] = {}
    days = DayWindows.of(reference)
    found = []
    for tick, counted in sorted(ticks.items(), key=lambda one: one[0]):
        rows, counts = counted.rows, counted.counts
        size = round(1.2 ** round(math.log(max(rows, 1), 1.2)))
        if size not in simulated:
            simulated[size] = comparison.simulate_maxima(reference, size, days=days)
        compared = comparison.compare(reference, counts, rows, level=own, maxima=simulated[size], days=days)
        found.append((tick, compared))
    return found
