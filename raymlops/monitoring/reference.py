"""The reference of a version: what its columns and answers were on rows that trained nothing. One file.

Holds the cells of each column, a sample of rows as cells (at most 20,000; joint, so that streams of them can be drawn),
and, of rows with a time, the day and the part of the week. Reads no table and runs no model.
"""

import dataclasses
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from raymlops.errors import ArtifactError
from raymlops.monitoring import calibration as calibrations
from raymlops.monitoring import cells as cells_of
from raymlops.monitoring import clock_columns
from raymlops.monitoring.calibration import Calibration, Labels
from raymlops.monitoring.cells import Cells, Codes, Counts, NumberCells
from raymlops.monitoring.residuals import Residuals, round_residuals
from raymlops.monitoring.row_values import Texts

Floats = npt.NDArray[np.floating[Any]]
Role = Literal["input", "score", "label", "residual"]

SAMPLE_ROWS = 20_000
_LEAST_DAYS = 7
"""Days of rows from which chance is measured by days: of fewer, windows would hardly differ."""
SLOTS = 48
"""Parts of a week for the season: hours of working days, then hours of weekends."""
_FORMAT = 2
_OLD_FORMATS = (1,)
"""Without a calibration and without means."""
_MAX_BYTES = 256 * 2**20
_ARRAYS = ("codes", "days", "slots", "means", "scales", "weights", "spreads")
RESIDUAL_UNIT = 1024
"""Parts of a standard deviation in which residuals are summed, and the standard deviations at which they are cut."""
_CUT = 64.0


@dataclasses.dataclass(frozen=True)
class Column:
    """A column that is watched. `residual` columns are named as the column that they are of."""

    name: str
    role: Role
    cells: Cells

    @property
    def kind(self) -> str:
        return "number" if isinstance(self.cells, cells_of.NumberCells) else "category"

    @property
    def label(self) -> str:
        return f"{self.name} given the other columns" if self.role == "residual" else self.name


@dataclasses.dataclass(frozen=True)
class Reference:
    """`codes` (rows, columns) is the sample; `days` (rows,) counts days since 1970 and `slots` (rows,) is the part of
    the week, both UTC and empty if rows have no time. `rows` is the number of rows of which it is a sample."""

    columns: tuple[Column, ...]
    residuals: Residuals
    codes: Codes
    rows: int
    days: npt.NDArray[np.int32] = dataclasses.field(default_factory=lambda: np.empty(0, np.int32))
    slots: npt.NDArray[np.uint8] = dataclasses.field(default_factory=lambda: np.empty(0, np.uint8))
    segments: tuple[tuple[str, str], ...] = ()
    """Column and value of the parts of the rows that are watched by themselves."""
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Columns that are not watched, each with the reason."""
    texts: Texts = dataclasses.field(default_factory=lambda: Texts({}))
    calibration: Calibration | None = None
    """None if no labels were known."""
    means: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    """Mean and standard deviation of each score that is a number."""

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(column.kind for column in self.columns)

    def encode(self, values: Mapping[str, npt.NDArray[Any]]) -> Codes:
        """The cells (rows, columns) of rows by column, each (rows,); a column that is absent is missing in each row."""
        return self._encode(values, self._find_residuals(values))

    def count(self, values: Mapping[str, npt.NDArray[Any]]) -> Counts:
        """Rows a cell, (columns, 32). Of residual columns the last place has the sum of the residuals, in 1/1024 of
        their standard deviation."""
        return self.measure(values).count()

    def measure(self, values: Mapping[str, npt.NDArray[Any]]) -> "Measured":
        """What `count` counts, row by row, so that parts of the rows can be counted."""
        residuals = self._find_residuals(values)
        scaled = np.clip(residuals / self.residuals.spreads, -_CUT, _CUT)
        units = np.rint(np.nan_to_num(scaled) * RESIDUAL_UNIT).astype(np.int64)
        return Measured(self._encode(values, residuals), units)

    def _find_residuals(self, values: Mapping[str, npt.NDArray[Any]]) -> Floats:
        rows = len(next(iter(values.values())))
        numbers = np.full((rows, len(self.residuals.columns)), np.nan)
        for place, name in enumerate(self.residuals.columns):
            if name in values:
                numbers[:, place] = values[name]
        return self.residuals.find(numbers)

    def _encode(self, values: Mapping[str, npt.NDArray[Any]], residuals: Floats) -> Codes:
        """Residual columns are the last ones, in their order."""
        codes = np.zeros((len(residuals), len(self.columns)), np.uint8)
        first = len(self.columns) - residuals.shape[1]
        for place, column in enumerate(self.columns):
            if place >= first:
                codes[:, place] = column.cells.encode(residuals[:, place - first])
            elif column.name in values:
                codes[:, place] = column.cells.encode(values[column.name])
        return codes

    def to_bytes(self) -> bytes:
        """A ZIP of JSON and plain arrays; equal references give equal bytes."""
        head = {
            "format": _FORMAT,
            "rows": self.rows,
            "columns": [
                {"name": column.name, "role": column.role, **column.cells.to_json()}
                for column in self.columns
            ],
            "residuals": {"columns": list(self.residuals.columns), "of": list(self.residuals.of)},
            "segments": [list(one) for one in self.segments],
            "left_out": dict(self.left_out),
            "texts": self.texts.to_json(),
            "calibration": None if self.calibration is None else self.calibration.to_json(),
            "means": {name: list(one) for name, one in self.means.items()},
        }
        arrays = {
            "codes": self.codes,
            "days": self.days,
            "slots": self.slots,
            "means": self.residuals.means,
            "scales": self.residuals.scales,
            "weights": self.residuals.weights,
            "spreads": self.residuals.spreads,
        }
        if self.calibration is not None:
            held = self.calibration.to_arrays()
            arrays |= {f"calibration_{name}": array for name, array in held.items()}
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            _write(archive, "reference.json", json.dumps(head, allow_nan=False).encode())
            for name, array in arrays.items():
                content = io.BytesIO()
                np.save(content, np.ascontiguousarray(array), allow_pickle=False)
                _write(archive, f"{name}.npy", content.getvalue())
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Reference":
        """Raises ArtifactError for anything that `to_bytes` did not write."""
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > _MAX_BYTES:
                    raise ArtifactError(f"The reference has more than {_MAX_BYTES // 2**20} MiB unpacked")
                head = json.loads(archive.read("reference.json"))
                further = calibrations.ARRAYS if head.get("calibration") else ()
                arrays = {
                    name: np.load(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)
                    for name in (*_ARRAYS, *(f"calibration_{name}" for name in further))
                }
            return cls._from_parts(head, arrays)
        except ArtifactError:
            raise
        except (zipfile.BadZipFile, KeyError, ValueError, TypeError, EOFError, OSError) as error:
            raise ArtifactError(
                f"The reference cannot be read ({type(error).__name__}: {error}); make it again with "
                "`raymlops reference VERSION DATA`"
            ) from None

    @classmethod
    def _from_parts(cls, head: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> "Reference":
        if head["format"] not in (_FORMAT, *_OLD_FORMATS):
            raise ArtifactError(
                f"The reference has format {head['format']!r}, but this version reads {_FORMAT}; make it again with "
                "`raymlops reference VERSION DATA`"
            )
        columns = tuple(_read_column(one) for one in head["columns"])
        codes = arrays["codes"].astype(np.uint8)
        residuals = Residuals(
            tuple(head["residuals"]["columns"]),
            tuple(head["residuals"]["of"]),
            arrays["means"],
            arrays["scales"],
            arrays["weights"],
            arrays["spreads"],
        )
        numbers = len(residuals.columns)
        if (
            codes.ndim != 2
            or codes.shape[1] != len(columns)
            or codes.max(initial=0) >= cells_of.CATEGORY_CELLS
        ):
            raise ValueError(f"codes are {codes.shape} for {len(columns)} columns")
        shapes = (
            residuals.weights.shape,
            residuals.means.shape,
            residuals.scales.shape,
            residuals.spreads.shape,
        )
        if shapes != ((numbers, len(residuals.of)), (numbers,), (numbers,), (len(residuals.of),)):
            raise ValueError(f"residuals are {shapes} for {numbers} numbers")
        if [column.role for column in columns].count("residual") != len(residuals.of):
            raise ValueError("residual columns are not those of the residuals")
        return cls(
            columns,
            residuals,
            codes,
            int(head["rows"]),
            arrays["days"].astype(np.int32),
            arrays["slots"].astype(np.uint8),
            tuple((str(column), str(value)) for column, value in head["segments"]),
            dict(head["left_out"]),
            Texts.from_json(head["texts"]),
            _read_calibration(head, arrays, columns),
            {str(name): (float(one[0]), float(one[1])) for name, one in head.get("means", {}).items()},
        )


@dataclasses.dataclass(frozen=True)
class Measured:
    """Rows as their cells (rows, columns), and as their residuals (rows, residuals) in 1/1024 of a standard deviation;
    residual columns are the last ones."""

    codes: Codes
    units: npt.NDArray[np.int64]

    def count(self, rows: npt.NDArray[np.bool_] | None = None) -> Counts:
        """Of all rows, or of those that are marked."""
        codes = self.codes if rows is None else self.codes[rows]
        units = self.units if rows is None else self.units[rows]
        counts = cells_of.count(codes)
        counts[counts.shape[0] - units.shape[1] :, cells_of.SUM] = units.sum(axis=0)
        return counts


def _read_calibration(
    head: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], columns: Sequence[Column]
) -> Calibration | None:
    if not head.get("calibration"):
        return None
    own = {name: arrays[f"calibration_{name}"] for name in calibrations.ARRAYS}
    cells = {column.name: column.cells for column in columns if column.role == "score"}
    return Calibration.from_parts(head["calibration"], own, cells)


def _write(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, data)


def make_reference(
    values: Mapping[str, npt.NDArray[Any]],
    roles: Mapping[str, Role],
    *,
    times: npt.NDArray[np.datetime64] | None = None,
    segments: Sequence[tuple[str, str]] = (),
    rows: int | None = None,
    texts: Texts | None = None,
    labels: Labels | None = None,
    seed: int = 0,
) -> Reference:
    """Of reference rows by column, each (rows,): arrays of numbers are numbers, all others categories. `roles` names
    those that are not inputs; `times` (rows,) is UTC, and not used if there are fewer than 7 days. `rows` is the number
    of which they are a sample; `labels` are of the same rows, and of one of the columns that are scores.

    Columns that tell only time, or that have a value of its own in nearly each row, are left out.
    """
    count = len(next(iter(values.values())))
    if times is not None and len(np.unique(times.astype("datetime64[D]"))) < _LEAST_DAYS:
        times = None
    kept, left_out = _choose_columns(values, roles, times)
    names = tuple(name for name in kept if _is_number(values[name]) and roles.get(name, "input") == "input")
    numbers = (
        np.stack([values[name].astype(np.float64) for name in names], axis=1)
        if names
        else np.empty((count, 0))
    )
    residuals = Residuals.fit(names, numbers)
    found = residuals.find(numbers[:, : len(residuals.columns)])
    balanced = {labels.column: labels.weights} if labels is not None else {}
    columns = [
        Column(name, roles.get(name, "input"), make_cells(values[name], balanced.get(name))) for name in kept
    ]
    columns += [
        Column(name, "residual", cells_of.NumberCells.from_values(found[:, place]))
        for place, name in enumerate(residuals.names)
    ]
    chosen = np.sort(np.random.default_rng(seed).permutation(count)[:SAMPLE_ROWS])
    held = Reference(tuple(columns), residuals, np.empty((0, len(columns)), np.uint8), rows or count)
    codes = held.encode({name: values[name][chosen] for name in kept}) if kept else held.codes
    days, slots = split_times(times[chosen]) if times is not None else (held.days, held.slots)
    calibration = None
    if labels is not None:
        cells = next(column.cells for column in columns if column.name == labels.column)
        assert isinstance(cells, cells_of.NumberCells)
        calibration = Calibration.fit(labels.take(chosen), cells, days if len(days) else None, seed)
    return dataclasses.replace(
        held,
        codes=codes,
        days=days,
        slots=slots,
        segments=tuple(segments),
        left_out=left_out,
        texts=texts or Texts({}),
        calibration=calibration,
        means=_find_means(values, columns),
    )


def _read_column(held: Mapping[str, Any]) -> Column:
    """Edges of residuals are rounded as residuals are, if an earlier release wrote them."""
    cells = cells_of.from_json(dict(held))
    if held["role"] == "residual" and isinstance(cells, NumberCells):
        edges = np.unique(round_residuals(np.array(cells.edges, np.float64)))
        if len(edges) == len(cells.edges):
            cells = dataclasses.replace(cells, edges=tuple(edges.tolist()))
    return Column(str(held["name"]), held["role"], cells)


def _find_means(
    values: Mapping[str, npt.NDArray[Any]], columns: Sequence[Column]
) -> dict[str, tuple[float, float]]:
    found = {}
    for column in columns:
        if column.role == "score" and column.kind == "number":
            numbers = np.asarray(values[column.name], np.float64)
            numbers = np.clip(numbers[np.isfinite(numbers)], -calibrations.LARGEST, calibrations.LARGEST)
            if len(numbers):
                found[column.name] = float(numbers.mean()), float(numbers.std())
    return found


def make_cells(values: npt.NDArray[Any], weights: Floats | None = None) -> Cells:
    """Of reference rows (rows,); bins of numbers have about equal shares of the weights (rows,)."""
    if _is_number(values):
        return cells_of.NumberCells.from_values(values, weights)
    texts = [cells_of.to_text(value) for value in values.tolist()]
    counts: dict[str, int] = {}
    for text in texts:
        if text is not None:
            counts[text] = counts.get(text, 0) + 1
    return cells_of.CategoryCells.from_counts(counts)


def split_times(times: npt.NDArray[np.datetime64]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """The day since 1970 and the part of the week of each time."""
    hours = times.astype("datetime64[h]").astype(np.int64)
    days = hours // 24
    weekend = (days + 3) % 7 >= 5  # day 0 was a Thursday
    return days.astype(np.int32), (hours % 24 + 24 * weekend).astype(np.uint8)


def _is_number(values: npt.NDArray[Any]) -> bool:
    return values.dtype.kind in "fiu"


def _choose_columns(
    values: Mapping[str, npt.NDArray[Any]],
    roles: Mapping[str, Role],
    times: npt.NDArray[np.datetime64] | None,
) -> tuple[list[str], dict[str, str]]:
    """Those that are watched, and why the others are not."""
    kept, left_out = [], {}
    for name, column in values.items():
        if times is not None and roles.get(name, "input") == "input" and _is_number(column):
            told = clock_columns.name_clock(name, column, times)
            if told:
                left_out[name] = f"it tells the {told} of a row, which goes on"
                continue
        if roles.get(name, "input") == "input" and not _is_number(column):
            distinct = len({cells_of.to_text(value) for value in column.tolist()})
            if distinct > 100 and distinct > 0.9 * len(column):
                left_out[name] = f"{distinct:,} values in {len(column):,} rows: each row has its own"
                continue
        kept.append(name)
    return kept, left_out
