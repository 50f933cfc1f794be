"""Sums over the rows of a pass by groups and slices: observe a batch, merge two. Knows no metric's formula, and does
not import Ray.

A hash of a row's content assigns it to a group, and each group has its own sums. The bootstrap later resamples
groups, so that intervals, and comparisons of two models on the same rows, need no second pass. Scores of binary and
multiclass models are kept as histograms with cells that are narrow in log-odds (0.02 by default), so that ranking
metrics stay right for rare classes. As long as rows are few, they are kept too, and `to_exact` gives each score a cell.
"""

import dataclasses
import functools
import io
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from raymlops.errors import InputError
from raymlops.metrics.sums import BIN_EDGES, CALIBRATION_BINS, Adder, Sums, are_finite, sizes_of, sum_rows
from raymlops.tensors import Array, Floats

PREDICTION_BINS, ERROR_BINS = 30, 400
EXACT_SCORES = 4000
"""Rows times classes up to which scores are kept one by one, so that every metric is exact: 2,000 rows of two."""
WHOLE = ("", "")
"""The key of all rows, beside (column, value) of a slice."""
OTHER = "other"
HELD_SLICES = 1000
"""Number of values of a column that are kept apart during a pass; one that appears later may be counted only in
part."""
ERROR_SPAN = 2.0  # range of the histograms, in deviations of the target, to either side
_ODDS = 12.0  # largest log-odds with cells of their own


_CHARTS = {
    "multiclass": {"binned": CALIBRATION_BINS},
    "regression": {
        "predicted": PREDICTION_BINS,
        "predicted_sum": PREDICTION_BINS,
        "target_sum": PREDICTION_BINS,
        "errors": ERROR_BINS,
    },
}
"""Sums that only charts use, and their sizes."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Shape of the sums. `shift` and `spread` are near the mean and the deviation of a regression's target: `shift`
    avoids cancellation in sums of squares, both place the cells of its histograms."""

    task: str
    classes: int = 2
    cells: int = 1000
    groups: int = 256
    shift: float = 0.0
    spread: float = 1.0
    scores: tuple[float, ...] = ()
    """Of exact sums: the score of each cell, in order; of several classes, which have scores of their own, its number.
    Empty for fixed cells."""

    @property
    def lows(self) -> npt.NDArray[np.float64]:
        """Lower edge of every cell of a score."""
        return np.array(self.scores) if self.scores else score_lows(self.cells)

    @property
    def fixed(self) -> "Layout":
        """With fixed cells."""
        return dataclasses.replace(self, scores=())

    @functools.cached_property
    def segments(self) -> dict[str, slice]:
        """Name of a sum -> its slice of a row of sums."""
        sizes = {
            **sizes_of(self.task, self.classes, len(self.scores) or len(score_edges(self.cells)) + 1),
            **_CHARTS.get(self.task, {}),
        }
        stops = np.cumsum(list(sizes.values()))
        return {
            name: slice(int(stop - size), int(stop))
            for (name, size), stop in zip(sizes.items(), stops, strict=True)
        }

    def read(self, sums: Floats) -> Sums:
        """Rows of sums, (replicates, width), by name."""
        return Sums(
            self.task,
            {name: sums[:, part] for name, part in self.segments.items()},
            self.classes,
            self.lows,
            tied=bool(self.scores),
        )

    @property
    def width(self) -> int:
        return max(int(part.stop) for part in self.segments.values())

    @property
    def for_slices(self) -> "Layout":
        """The coarser layout of slices, since there are many of them."""
        return dataclasses.replace(self, cells=min(self.cells, 120), groups=min(self.groups, 64), scores=())


@dataclasses.dataclass(frozen=True)
class HeldRows:
    """Rows in memory: labels, scores, and the group and weight of each."""

    labels: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    """(rows,) or (rows, classes)"""
    groups: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64] | None = None

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {name: values for name, values in vars(self).items() if values is not None}


@dataclasses.dataclass(frozen=True)
class Partial:
    """Sums by (column, value); each is (groups, width of its layout)."""

    layout: Layout
    sums: Mapping[tuple[str, str], npt.NDArray[np.float64]]
    held: HeldRows | None = None
    """All rows of a classifier, while they are few."""

    def layout_of(self, key: tuple[str, str]) -> Layout:
        return self.layout if key == WHOLE else self.layout.for_slices

    @property
    def rows(self) -> int:
        """Rows with a finite score, whatever their weights."""
        return int(self.sums[WHOLE][:, self.layout.segments["count"]].sum()) if self.sums else 0

    def to_bytes(self) -> bytes:
        """Compressed; most cells of a batch are zero."""
        stream = io.BytesIO()
        names = [f"{column}\x1f{value}" for column, value in self.sums]
        shape = np.array([self.layout.classes, self.layout.cells, self.layout.groups])
        held: dict[str, Any] = {f"sums{place}": values for place, values in enumerate(self.sums.values())}
        if self.held is not None:
            held |= self.held.to_arrays()
        np.savez(
            stream,
            task=self.layout.task,
            shape=shape,
            place=np.array([self.layout.shift, self.layout.spread]),
            names=np.array(names, dtype=np.str_),
            **held,
        )
        return zlib.compress(stream.getvalue(), 1)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Partial":
        with np.load(io.BytesIO(zlib.decompress(data)), allow_pickle=False) as held:
            classes, cells, groups = (int(size) for size in held["shape"])
            shift, spread = (float(value) for value in held["place"])
            layout = Layout(str(held["task"]), classes, cells, groups, shift, spread)
            keys = [tuple(str(name).split("\x1f", 1)) for name in held["names"]]
            sums = {(key[0], key[1]): held[f"sums{place}"] for place, key in enumerate(keys)}
            weights = held.get("weights")
            rows = (
                HeldRows(held["labels"], held["scores"], held["groups"], weights)
                if "labels" in held
                else None
            )
        return cls(layout, sums, rows)


def start(layout: Layout) -> Partial:
    """The sums of no rows, to merge into."""
    width = (0,) if layout.task != "multiclass" else (0, layout.classes)
    none = HeldRows(np.zeros(0), np.zeros(width), np.zeros(0, dtype=np.int64))
    sums = {WHOLE: np.zeros((layout.groups, layout.width))}
    return Partial(layout, sums, None if layout.task == "regression" else none)


def observe(
    layout: Layout,
    labels: Array,
    scores: Array,
    groups: Array,
    slices: Mapping[str, Array] | None = None,
    weights: Array | None = None,
) -> Partial:
    """Sums of one batch, whose rows weigh alike unless `weights` are given.

    Labels are 0/1, class indexes or targets; scores are (rows,) or (rows, classes). `groups` come from `spread`;
    `slices` are the values of the columns that are measured value by value.
    """
    sums = {WHOLE: _sum_rows(layout, labels, scores, groups, weights)}
    for column, values in (slices or {}).items():
        names = _as_names(values)
        for name in np.unique(names):
            chosen = names == name
            sums[column, str(name)] = _sum_rows(
                layout.for_slices,
                labels[chosen],
                scores[chosen],
                groups[chosen],
                None if weights is None else weights[chosen],
            )
    return Partial(layout, sums, _hold(layout, labels, scores, groups, weights))


def _hold(
    layout: Layout, labels: Array, scores: Array, groups: Array, weights: Array | None
) -> HeldRows | None:
    if layout.task == "regression" or len(labels) * layout.classes > EXACT_SCORES:
        return None
    places = np.asarray(groups, dtype=np.int64) % layout.groups
    weights = None if weights is None else np.asarray(weights, np.float64)
    return HeldRows(np.asarray(labels, np.float64), np.asarray(scores, np.float64), places, weights)


def to_exact(partial: Partial) -> Partial:
    """With a cell for each score where the rows are held, so that no metric loses the order of two rows; else as it is.
    The sums of slices stay as they are. It cannot be merged."""
    held, layout = partial.held, partial.layout
    if held is None or not len(held.labels):
        return partial
    found = sum_rows(
        layout.task,
        held.labels,
        held.scores,
        classes=layout.classes,
        weights=held.weights,
        groups=held.groups,
        group_count=layout.groups,
    )
    binary = layout.task == "binary"
    cells = found.lows if binary else np.arange(found["positive"].shape[1] // layout.classes)
    if not len(cells):
        return partial  # no row has a finite score
    exact = dataclasses.replace(layout, scores=tuple(cells.tolist()))
    sums = np.zeros((layout.groups, exact.width))
    charts = {name: partial.sums[WHOLE][:, layout.segments[name]] for name in _CHARTS.get(layout.task, {})}
    for name, part in {**found.parts, **charts}.items():
        sums[:, exact.segments[name]] = part
    return Partial(exact, {**partial.sums, WHOLE: sums}, held)


def merge(first: Partial, second: Partial, max_slices: int = HELD_SLICES) -> Partial:
    """The merged sums. If a column has over `max_slices` values, the rarest are merged into 'other', which bounds
    memory."""
    if first.layout != second.layout:
        raise InputError(f"Sums of {first.layout} and of {second.layout} cannot be merged")
    sums = dict(first.sums)
    for key, values in second.sums.items():
        sums[key] = sums[key] + values if key in sums else values
    return Partial(
        first.layout,
        merge_rare_values(sums, first.layout.for_slices, max_slices),
        _join(first.layout, first.held, second.held),
    )


def _join(layout: Layout, first: HeldRows | None, second: HeldRows | None) -> HeldRows | None:
    if first is None or second is None:
        return None
    if (len(first.labels) + len(second.labels)) * layout.classes > EXACT_SCORES:
        return None
    if not len(first.labels):
        return second
    if not len(second.labels):
        return first
    parts = first.to_arrays(), second.to_arrays()
    return HeldRows(**{name: np.concatenate([values, parts[1][name]]) for name, values in parts[0].items()})


def spread(hashes: npt.NDArray[np.uint64], groups: int = 256) -> npt.NDArray[np.int64]:
    """A group for each hash; the second of two equal rows of a batch goes to another group."""
    series = pd.Series(hashes)
    again = series.groupby(series).cumcount().to_numpy().astype(np.uint64)
    mixed = (hashes + again * np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xBF58476D1CE4E5B9)
    return ((mixed >> np.uint64(33)) % np.uint64(groups)).astype(np.int64)


@functools.cache
def score_edges(cells: int) -> npt.NDArray[np.float64]:
    """Lower edges of the score cells but the first: even in log-odds, plus those of the calibration bins."""
    odds = np.linspace(-_ODDS, _ODDS, cells)
    edges = np.unique(np.concatenate([1 / (1 + np.exp(-odds)), [0.5], BIN_EDGES]))
    edges.flags.writeable = False
    return edges


@functools.cache
def score_lows(cells: int) -> npt.NDArray[np.float64]:
    """Lower edge of every score cell."""
    lows = np.concatenate([[-np.inf], score_edges(cells)])
    lows.flags.writeable = False
    return lows


def _sum_rows(
    layout: Layout, labels: Array, scores: Array, groups: Array, weights: Array | None
) -> npt.NDArray[np.float64]:
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    groups = np.asarray(groups, dtype=np.int64) % layout.groups
    found = sum_rows(
        layout.task,
        labels,
        scores,
        classes=layout.classes,
        edges=score_edges(layout.cells),
        shift=layout.shift,
        weights=weights,
        groups=groups,
        group_count=layout.groups,
    ).parts
    sums = np.zeros((layout.groups, layout.width))
    for name, part in {**found, **_sum_charts(layout, labels, scores, groups, weights)}.items():
        sums[:, layout.segments[name]] = part
    return sums


def _sum_charts(
    layout: Layout, labels: Array, scores: Floats, groups: Array, weights: Array | None
) -> Mapping[str, Floats]:
    if layout.task == "binary":
        return {}
    finite = are_finite(scores)
    mass = None if weights is None else np.asarray(weights, dtype=np.float64)[finite]
    adder = Adder(groups[finite], mass, layout.groups)
    labels, scores = labels[finite], scores[finite]
    if layout.task == "multiclass":
        top = scores.max(axis=1) if len(scores) else np.zeros(0)
        bins = np.searchsorted(BIN_EDGES, top, side="right")
        adder.add("binned", None, bins, CALIBRATION_BINS)
        return adder.parts
    given, target = scores - layout.shift, labels.astype(np.float64) - layout.shift
    places = _to_bins(given / layout.spread, 3.0, PREDICTION_BINS)
    adder.add("predicted", None, places, PREDICTION_BINS)
    adder.add("predicted_sum", given, places, PREDICTION_BINS)
    adder.add("target_sum", target, places, PREDICTION_BINS)
    errors = _to_bins((scores - labels) / layout.spread, ERROR_SPAN, ERROR_BINS)
    adder.add("errors", None, errors, ERROR_BINS)
    return adder.parts


def _to_bins(values: Array, span: float, bins: int) -> Array:
    """Equal cells between -span and span; the outermost cells hold all values beyond."""
    return np.clip(((values + span) / (2 * span) * bins).astype(np.int64), 0, bins - 1)


def _as_names(values: Array) -> npt.NDArray[np.str_]:
    missing = pd.isna(values)
    return np.where(missing, "(missing)", np.asarray(values).astype(np.str_))


def merge_rare_values(
    sums: dict[tuple[str, str], npt.NDArray[np.float64]], layout: Layout, max_slices: int
) -> dict[tuple[str, str], npt.NDArray[np.float64]]:
    rows = layout.segments["count"]
    for column in {key[0] for key in sums if key != WHOLE}:
        keys = [key for key in sums if key[0] == column and key[1] != OTHER]
        if len(keys) <= max_slices:
            continue
        keys.sort(key=lambda key: -sums[key][:, rows].sum())
        rare = [sums.pop(key) for key in keys[max_slices:]]
        sums[column, OTHER] = sum(rare, start=sums.get((column, OTHER), np.zeros_like(rare[0])))
    return sums


def fold_small(partial: Partial, least: int) -> Partial:
    """Values of a column with fewer rows than `least` are merged into 'other', which is kept if it has as many.

    A bootstrap of a handful of rows underestimates its own error, and many such slices cause false alarms.
    """

    def count(sums: npt.NDArray[np.float64]) -> float:
        parts = partial.layout.for_slices.segments
        return float(sums[:, parts["count"]].sum() + sums[:, parts["nonfinite"]].sum())

    kept = {key: sums for key, sums in partial.sums.items() if key == WHOLE or count(sums) >= least}
    for key in partial.sums.keys() - kept.keys():
        other = (key[0], OTHER)
        kept[other] = kept.get(other, 0.0) + partial.sums[key]
    return Partial(
        partial.layout,
        {key: sums for key, sums in kept.items() if key == WHOLE or count(sums) >= least},
        partial.held,
    )
