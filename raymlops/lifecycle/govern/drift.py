"""The reference of a version, and tables compared with it: what a person asks before training, or after an import."""

import contextlib
import dataclasses
import math
import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import ray.data

from raymlops.data import sources
from raymlops.errors import NotFoundError, SpecError
from raymlops.lifecycle import preflight
from raymlops.lifecycle.batch.watched_rows import (
    Period,
    Ticks,
    count_rows,
    read_watched,
    reference_of,
    require_columns,
    sample_rows,
)
from raymlops.lifecycle.cluster import join_cluster
from raymlops.models.safety import Model, read_model
from raymlops.monitoring import comparison
from raymlops.monitoring.comparison import Comparison
from raymlops.monitoring.reference import Reference
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
class Drift:
    """A table compared with a reference, as a whole or by periods of time."""

    reference: Reference
    periods: tuple[tuple[int, Comparison], ...]
    """Start of each period, in its unit since 1970; one at 0 for a table as a whole."""
    level: float

    @property
    def differs(self) -> bool:
        return any(one.differs for _, one in self.periods)

    def describe(self, unit: str | None = None) -> list[str]:
        """The verdict in a line, and a line for each column that differs; of several periods of a `unit`, a line for
        each that differs."""
        if unit is None:
            (_, whole), *_ = self.periods or ((0, None),)
            if whole is None:
                return ["No rows to compare"]
            lines = [
                f"{whole.rows:,} rows, {whole.watched} columns, reference of {whole.reference_rows:,} rows"
            ]
            lines.append(whole.describe())
            return lines + [f"  {finding.describe()}" for finding in whole.findings]
        changed = [(start, one) for start, one in self.periods if one.differs]
        lines = [f"{len(changed)} of {len(self.periods)} {unit}s differ beyond chance"]
        return lines + [
            f"  {name_period(start, unit)}  {one.rows:>7,} rows  {one.findings[0].describe()}"
            + (f", and {len(one.findings) - 1} more" if len(one.findings) > 1 else "")
            for start, one in changed
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "differs": self.differs,
            "level": self.level,
            "reference_rows": self.reference.rows,
            "not_watched": dict(self.reference.left_out),
            "periods": [{"start": start, **one.to_json()} for start, one in self.periods],
        }


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
    why: str = "",
    tell: Tell = lambda line: None,
) -> tuple[ModelVersion, Reference]:
    """Of the rows of `data`, through the version's model; stored with the version, and signed if the version is. `time`
    is a column with the times of rows.

    Raises NotFoundError, DataError for data that the model does not take, and UntrustedError if the record has
    problems.
    """
    client = connect(settings)
    found = registry.resolve(version, settings)
    _join(data, None, settings)
    tell(f"Reading {_name(data)} through {found.uri}")
    made = _reference_of(read_model(found.file, found.digest), data, time)
    content = made.to_bytes()
    write_files(client, found.uri, {evidence.reference_path(found.version): content})
    evidence.sign_reference(found, content, why, settings, client)
    return found, made


def find_drift(
    version: str,
    data: Data,
    settings: Settings,
    *,
    against: Data | None = None,
    level: float = 0.01,
    period: Period | None = None,
    tell: Tell = lambda line: None,
) -> Drift:
    """Compares `data` with the reference of a version, or with other data; each row passes through the model. `level`
    is the share of verdicts on data without a change that may find one; of several periods, all together.

    Raises NotFoundError, SpecError for a file that has no reference, and DataError for data that the model does not
    take.
    """
    model, reference = _open(version, against is None, settings)
    _join(data, against, settings)
    if against is not None:
        tell(f"Reading {_name(against)}")
        reference = _reference_of(model, against, None)
    assert reference is not None
    tell(f"Comparing {_name(data)}")
    with _reading(data):
        ticks = count_rows(_read(data, model, period.column if period else None), model, reference, period)
    return Drift(reference, tuple(compare_ticks(reference, ticks, level)), level)


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


def _reference_of(model: Model, data: Data, time: str | None) -> Reference:
    with _reading(data):
        table, rows = sample_rows(_read(data, model, time))
        return reference_of(model, table, rows, time)


def _join(data: Data, other: Data | None, settings: Settings) -> None:
    """Joins the cluster, unless all is in memory; files that are missing are told before."""
    given = [one for one in (data, other) if isinstance(one, DatasetSpec)]
    for one in given:
        preflight.require_files(one.tables)
    join_cluster(settings)


def _reading(data: Data) -> AbstractContextManager[Any]:
    return sources.reading(data) if isinstance(data, DatasetSpec) else contextlib.nullcontext()


def _read(data: Data, model: Model, also: str | None) -> ray.data.Dataset:
    if isinstance(data, DatasetSpec):
        return read_watched(data, model, also)
    dataset = ray.data.from_arrow(data)
    require_columns(model, data.column_names, "the table", also)
    return dataset


def _name(data: Data) -> str:
    return str(data.path) if isinstance(data, DatasetSpec) else "a table in memory"


def compare_ticks(reference: Reference, ticks: Ticks, level: float) -> list[tuple[int, Comparison]]:
    """Each tick with the reference; `level` is of all together. Ticks of about as many rows share a simulation."""
    own = level / max(len(ticks), 1)
    simulated: dict[int, Any] = {}
    found = []
    for tick, (rows, counts) in sorted(ticks.items()):
        size = round(1.2 ** round(math.log(max(rows, 1), 1.2)))
        if size not in simulated:
            simulated[size] = comparison.simulate_maxima(reference, size)
        found.append((tick, comparison.compare(reference, counts, rows, level=own, maxima=simulated[size])))
    return found
