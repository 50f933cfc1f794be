"""Sums of rows, from which every metric is computed. Adds up labels and scores, by groups of rows if wanted; knows no
metric's formula.

The scores of a classifier are kept as the mass of rows per cell of scores. Rows in memory get a cell for each
distinct score, so that metrics are exact. Streamed rows get fixed cells, so that sums of a pass can be merged.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from raymlops.errors import InputError
from raymlops.tensors import Array, Floats

Places = npt.NDArray[np.int64]

CALIBRATION_BINS = 15
BIN_EDGES = np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS
"""Lower edges of the bins of probability but the first."""
_SMALLEST = float(np.finfo(np.float64).eps)


@dataclasses.dataclass(frozen=True, eq=False)
class Sums:
    """Named sums, each (replicates, its size): of one set of rows, or of many bootstrap replicates of it."""

    task: str
    parts: Mapping[str, Floats]
    classes: int = 2
    lows: Floats = dataclasses.field(default_factory=lambda: np.zeros(0))
    """Lower edge of each cell of a binary task's scores, rising."""
    tied: bool = True
    """Whether all scores of a cell are equal. In fixed cells they are not, and their order is lost."""

    def __getitem__(self, name: str) -> Floats:
        return self.parts[name]

    @property
    def rows(self) -> Floats:
        """(replicates,): rows with a finite score, or the sum of their weights."""
        return self.parts["rows"][:, 0]


def sizes_of(task: str, classes: int, cells: int) -> dict[str, int]:
    """Name of each sum of a task -> its size, if every column of scores has so many cells."""
    of_task = {
        "binary": {"positive": cells, "negative": cells, "chance": cells, "log_loss": 1, "brier": 1},
        "multiclass": {
            "confusion": classes**2,  # (label, predicted class)
            "log_loss": 1,
            "brier": 1,
            "hits": CALIBRATION_BINS,
            "tops": CALIBRATION_BINS,
            "positive": classes * cells,
            "negative": classes * cells,
        },
        "regression": {"square": 1, "distance": 1, "under": 1, "target": 1, "target_square": 1},
    }
    return {"rows": 1, "count": 1, "nonfinite": 1, **of_task[task]}


def sum_rows(
    task: str,
    labels: Array,
    scores: Array,
    *,
    classes: int = 2,
    edges: Floats | None = None,
    shift: float = 0.0,
    weights: Array | None = None,
    groups: Places | None = None,
    group_count: int = 1,
) -> Sums:
    """The sums of rows, (group_count, size) each; without `groups` all rows are in one group.

    Labels are 0/1, class indexes or targets; scores (rows,) or (rows, classes). `edges` are the lower edges of fixed
    cells but the first; without them each distinct score is a cell. `shift`, near the mean of a regression's target,
    avoids cancellation in sums of squares. Rows without a finite score are counted as "nonfinite" and are in no other
    sum; these and the "count" of others have no weights. Raises InputError if labels and scores have different numbers
    of rows.
    """
    if len(labels) != len(scores):
        raise InputError(f"{len(labels)} labels do not match {len(scores)} scores; score the same rows")
    values = np.asarray(scores, dtype=np.float64)
    finite = are_finite(values)
    adder = Adder(
        np.zeros(len(values), dtype=np.int64) if groups is None else groups % group_count,
        None if weights is None else np.asarray(weights, dtype=np.float64),
        group_count,
    )
    labels = np.asarray(labels)
    adder.only(~finite).count("nonfinite")
    if not finite.all():
        adder, labels, values = adder.only(finite), labels[finite], values[finite]
    adder.count("count")
    adder.add("rows")
    lows = np.zeros(0)
    if task == "binary":
        lows = _sum_binary(adder, labels, values, edges)
    elif task == "multiclass":
        _sum_multiclass(adder, labels.astype(np.int64), values, classes, edges)
    else:
        _sum_regression(adder, labels.astype(np.float64), values, shift)
    return Sums(task, adder.parts, classes, lows, tied=edges is None)


def are_finite(scores: Floats) -> npt.NDArray[np.bool_]:
    """(rows,): whether a row's scores, (rows,) or (rows, classes), are all finite."""
    return np.asarray(np.isfinite(scores) if scores.ndim == 1 else np.isfinite(scores).all(axis=1))


class Adder:
    """Adds up one value per row, times its weight, by group and position."""

    def __init__(
        self, groups: Places, weights: Floats | None, count: int, parts: dict[str, Floats] | None = None
    ) -> None:
        self._groups, self._weights, self._count = groups, weights, count
        self.parts: dict[str, Floats] = {} if parts is None else parts

    def only(self, rows: npt.NDArray[np.bool_]) -> "Adder":
        """Adds some of the rows to the same sums."""
        weights = None if self._weights is None else self._weights[rows]
        return Adder(self._groups[rows], weights, self._count, self.parts)

    def count(self, name: str) -> None:
        """The number of rows, whatever their weights."""
        found = np.bincount(self._groups, minlength=self._count)
        self.parts[name] = found.reshape(self._count, 1).astype(np.float64)

    def add(self, name: str, values: Floats | None = None, places: Places | int = 0, size: int = 1) -> None:
        self.parts[name] = self.total(values, places, size)

    def total(self, values: Floats | None, places: Places | int, size: int) -> Floats:
        """(groups, size); without `values` the rows themselves are counted."""
        if self._weights is not None:
            values = self._weights if values is None else self._weights * values
        if self._count == size == 1 and values is not None:
            # pairwise summation loses fewer digits than adding one after another
            return np.array([[values.sum()]])
        flat = places if self._count == 1 and size > 1 else self._groups * size + places
        sums = np.bincount(flat, weights=values, minlength=self._count * size)
        return sums.reshape(self._count, size).astype(np.float64, copy=False)


def to_places(scores: Floats, edges: Floats | None) -> tuple[Floats, Places]:
    """Lower edge of each cell, rising, and the cell of each score."""
    if edges is None:
        return np.unique(scores, return_inverse=True)
    return np.concatenate([[-np.inf], edges]), np.searchsorted(edges, scores, side="right")


def _sum_binary(adder: Adder, labels: Array, chance: Floats, edges: Floats | None) -> Floats:
    lows, places = to_places(chance, edges)
    positive = (labels > 0).astype(np.float64)
    inside = np.clip(chance, _SMALLEST, 1 - _SMALLEST)
    adder.add("positive", positive, places, len(lows))
    adder.add("negative", 1 - positive, places, len(lows))
    adder.add("chance", chance, places, len(lows))
    adder.add("log_loss", -np.log(np.where(positive > 0, inside, 1 - inside)))
    adder.add("brier", (chance - positive) ** 2)
    return lows


def _sum_multiclass(
    adder: Adder, labels: Places, chances: Floats, classes: int, edges: Floats | None
) -> None:
    rows = np.arange(len(labels))
    guess, top = chances.argmax(axis=1), chances.max(axis=1) if len(chances) else np.zeros(0)
    share = np.clip(chances / np.maximum(chances.sum(axis=1, keepdims=True), _SMALLEST), _SMALLEST, 1)
    onehot = np.arange(classes) == labels[:, None]
    bins = np.searchsorted(BIN_EDGES, top, side="right")
    adder.add("confusion", None, labels * classes + guess, classes**2)
    adder.add("log_loss", -np.log(share[rows, labels]))
    adder.add("brier", ((chances - onehot) ** 2).sum(axis=1))
    adder.add("hits", (guess == labels).astype(np.float64), bins, CALIBRATION_BINS)
    adder.add("tops", top, bins, CALIBRATION_BINS)
    columns = []
    for place in range(classes):
        lows, places = to_places(chances[:, place], edges)
        true = onehot[:, place].astype(np.float64)
        columns.append([adder.total(values, places, len(lows)) for values in (true, 1 - true)])
    for name, parts in zip(("positive", "negative"), zip(*columns, strict=True), strict=True):
        adder.parts[name] = _side_by_side(parts)


def _side_by_side(parts: tuple[Floats, ...]) -> Floats:
    """(groups, classes * cells) from (groups, cells) a class; classes with fewer cells get empty ones."""
    cells = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(part, ((0, 0), (0, cells - part.shape[1]))) for part in parts], axis=1)


def _sum_regression(adder: Adder, labels: Floats, predictions: Floats, shift: float) -> None:
    error, target = predictions - labels, labels - shift
    adder.add("square", error**2)
    adder.add("distance", np.abs(error))
    adder.add("under", np.maximum(-error, 0))
    adder.add("target", target)
    adder.add("target_square", target**2)
