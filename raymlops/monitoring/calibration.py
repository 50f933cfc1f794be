"""The calibration table of a reference: what was right where the score was so high. It is counted from labelled rows,
adds over any of them, and predicts the quality of rows without labels. Reads no table and draws nothing.

The score is cut where its cells are cut and where the 20 bins of the labels are; the parts between two cuts are the
pieces, so that counts of cells and counts of bins are both sums of pieces. Labels are wrong and right answers, of a
binary target its two values, and of numbers 19 cells of the residual, label minus prediction.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from raymlops.errors import ArtifactError
from raymlops.monitoring import cells as cells_of
from raymlops.monitoring.cells import ABOVE, BELOW, MISSING, NumberCells

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.int64]
Task = Literal["binary", "multiclass", "regression"]

BINS = 20
LOSSES: Mapping[str, tuple[str, ...]] = {
    "binary": ("log_loss", "accuracy"),
    "multiclass": ("log_loss", "accuracy"),
    "regression": ("square", "distance"),
}
"""Task -> what is averaged over rows; of numbers the square and the size of the residual."""
CHUNKS = 40
_CHUNK_ROWS = 100
_RANDOM_CHUNKS = 20
_LEAST_ROWS = 100
"""Labelled rows of a calibration."""
LARGEST = 1e150
"""Residuals are at most so large, whose square is still a number."""
_SMALLEST = 1e-7
"""Probabilities are at least so large in a log loss, as FP32 is no finer near 1."""


@dataclasses.dataclass(frozen=True)
class Labels:
    """Labels of rows beside what was answered, as they are counted. `column` is the column of the reference with the
    score: the probability of the second class, that of the likeliest class, or the prediction. `values` (rows,) are 0
    or 1, whether the likeliest class was right, or numbers; NaN without a label. `chances` (rows,) is the probability
    that the class of the label was given, of several classes."""

    task: Task
    column: str
    target: str
    scores: Floats
    values: Floats
    chances: Floats | None = None
    output: str = ""
    """The output of the model with the answers."""
    classes: tuple[str, ...] = ()
    """Its classes, in the order of their numbers, as texts."""

    @classmethod
    def of_answers(
        cls, task: Task, column: str, target: str, answers: npt.NDArray[Any], labels: npt.NDArray[Any]
    ) -> "Labels":
        """Of answers (rows,) or (rows, classes) and labels (rows,): class numbers, negative if of no class that the
        model has; or numbers. NaN is missing."""
        labels = np.asarray(labels, np.float64)
        answers = np.asarray(answers, np.float64)
        if task == "regression":
            return cls(task, column, target, answers.reshape(len(labels)), labels)
        if task == "binary":
            scores = answers[:, 1] if answers.ndim == 2 and answers.shape[1] == 2 else answers
            known = (labels == 0) | (labels == 1)
            return cls(task, column, target, scores.reshape(len(labels)), np.where(known, labels, np.nan))
        known = np.isfinite(labels)
        places = np.where(known, labels, 0).astype(np.int64)
        held = (places >= 0) & (places < answers.shape[1])  # a class that the model lacks has no probability
        chances = np.where(held, answers[np.arange(len(places)), np.where(held, places, 0)], 0.0)
        right = np.where(known, held & (answers.argmax(axis=1) == places), np.nan)
        return cls(task, column, target, answers.max(axis=1), right.astype(np.float64), chances)

    @property
    def holds(self) -> npt.NDArray[np.bool_]:
        """Whether a row has both a label and a finite score, (rows,)."""
        found: npt.NDArray[np.bool_] = np.isfinite(self.values) & np.isfinite(self.scores)
        return found

    @property
    def weights(self) -> Floats:
        """(rows,), so that both values of a label weigh alike: of a rare one most rows would lie in one bin."""
        count = len(self.values)
        if self.task == "regression":
            return np.ones(count)
        shares = [max(float((self.values == one).mean()), 1.0 / max(count, 1)) for one in (0, 1)]
        by_value = np.where(self.values == 1, 0.5 / shares[1], 0.5 / shares[0])
        return np.where(np.isnan(self.values), 1.0, by_value)

    def take(self, places: Any) -> "Labels":
        return dataclasses.replace(
            self,
            scores=self.scores[places],
            values=self.values[places],
            chances=None if self.chances is None else self.chances[places],
        )

    def find_losses(self) -> Floats:
        """(losses, rows), in the order of LOSSES."""
        if self.task == "regression":
            residuals = np.clip(self.values - self.scores, -LARGEST, LARGEST)
            return np.stack([residuals**2, np.abs(residuals)])
        if self.chances is not None:
            chances, right = self.chances, self.values
        else:
            chances = np.where(self.values == 1, self.scores, 1.0 - self.scores)
            right = (self.scores >= 0.5) == (self.values == 1)
        return np.stack([-np.log(np.clip(chances, _SMALLEST, 1.0)), right.astype(np.float64)])


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Labelled rows of any time: `counts` (pieces, labels), and `sums` (losses,) over them. They add in any order."""

    counts: Ints
    sums: Floats

    @property
    def rows(self) -> int:
        return int(self.counts.sum())

    def __add__(self, other: "Labelled") -> "Labelled":
        return Labelled(self.counts + other.counts, self.sums + other.sums)


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """`edges` (pieces - 1,) rise, each the smallest score of the piece above it. `cells` and `bins` (pieces,) say in
    which cell of the score and which of the bins of labels a piece lies. `counts` (chunks, pieces, labels) are the
    reference's rows, by parts of its time if rows have one, else by chance. `losses` (losses, pieces, labels) are the
    means of the rows of a piece."""

    task: Task
    column: str
    target: str
    edges: Floats
    cells: npt.NDArray[np.uint8]
    bins: npt.NDArray[np.uint8]
    counts: Ints
    losses: Floats
    output: str = ""
    classes: tuple[str, ...] = ()
    """As in `Labels`."""
    residuals: NumberCells | None = None
    """Of numbers, the cells of the residual."""
    chunk_days: float = 0.0
    """Days of a chunk, about; 0 if rows have no time."""

    @classmethod
    def fit(
        cls, labels: Labels, cells: NumberCells, days: npt.NDArray[np.int32] | None = None, seed: int = 0
    ) -> "Calibration | None":
        """Of labelled reference rows, and the cells of their score; `days` (rows,) if rows have a time. None if fewer
        than 100 rows have a label, or if all labels of a binary target are equal."""
        held = labels.holds
        labels = labels.take(held)
        constant = labels.task == "binary" and len(np.unique(labels.values)) < 2
        if len(labels.values) < _LEAST_ROWS or constant:
            return None
        own = _find_edges(labels)
        edges = np.unique([*own, *cells.edges])
        lows = np.concatenate([[-np.inf], edges])
        residuals = None
        if labels.task == "regression":
            residuals = NumberCells.from_values(labels.values - labels.scores)
        places, chunk_days = _choose_chunks(None if days is None else days[held], len(labels.values), seed)
        made = cls(
            labels.task,
            labels.column,
            labels.target,
            edges,
            np.clip(np.searchsorted(cells.edges, lows, side="right") + 2, 2, ABOVE - 1).astype(np.uint8),
            np.searchsorted(own, lows, side="right").astype(np.uint8),
            np.empty((0, len(lows), 0), np.int64),
            np.empty((0, len(lows), 0)),
            labels.output,
            labels.classes,
            residuals,
            chunk_days,
        )
        counts = np.stack([made.count(labels.take(places == one)).counts for one in range(places.max() + 1)])
        return dataclasses.replace(made, counts=counts, losses=made._average_losses(labels))

    @property
    def table(self) -> Ints:
        """All rows of the reference: (pieces, labels)."""
        found: Ints = self.counts.sum(axis=0)
        return found

    @property
    def rows(self) -> int:
        return int(self.counts.sum())

    @property
    def labels(self) -> int:
        """The number of different labels that are counted."""
        return cells_of.NUMBER_CELLS if self.task == "regression" else 2

    def count(self, labels: Labels) -> Labelled:
        """The rows of any time that have a label."""
        labels = labels.take(labels.holds)
        pieces = np.searchsorted(self.edges, labels.scores, side="right")
        size = (len(self.cells), self.labels)
        flat = pieces * size[1] + self._to_places(labels)
        counts = np.bincount(flat, minlength=size[0] * size[1]).reshape(size)
        return Labelled(counts.astype(np.int64), labels.find_losses().sum(axis=1))

    def to_bins(self, counts: npt.NDArray[Any]) -> Floats:
        """Counts (..., pieces, labels) by the 20 bins, (..., bins, labels)."""
        starts = np.flatnonzero(np.diff(self.bins, prepend=-1))  # the pieces of a bin lie side by side
        found: Floats = np.add.reduceat(counts.astype(np.float64), starts, axis=-2)
        return found

    def spread(self, counts: npt.NDArray[Any], table: npt.NDArray[Any] | None = None) -> Floats:
        """Rows (..., pieces) of counts (..., 19 or more) of the score's cells, each cell in the shares that its pieces
        have in the reference, or in another table of it. Scores below or above all of the reference count as its lowest
        and highest ones; those that are missing are left out."""
        rows = np.asarray(counts, np.float64).copy()
        rows[..., 2] += rows[..., BELOW]
        rows[..., int(self.cells.max())] += rows[..., ABOVE]
        rows[..., [MISSING, BELOW, ABOVE]] = 0.0
        held = (self.table if table is None else table).sum(axis=-1) + 1e-3  # a cell may have no labelled row
        totals = np.bincount(self.cells, held, minlength=ABOVE + 1)
        shares: Floats = rows[..., self.cells] * (held / totals[self.cells])
        return shares

    def find_rates(self, table: npt.NDArray[Any] | None = None) -> Floats:
        """The share of each label in each piece, (pieces, labels): of right answers and of a binary target rising with
        the score (isotonic regression; Zadrozny and Elkan 2002)."""
        held = (self.table if table is None else table).astype(np.float64)
        if self.task == "regression":
            whole = held.sum(axis=0) / max(held.sum(), 1.0)
            mixed = held + whole  # a piece without rows has the rates of all
            rates: Floats = mixed / mixed.sum(axis=-1, keepdims=True)
            return rates
        rate = fit_isotonic(held[:, 1], held.sum(axis=-1))
        return np.stack([1.0 - rate, rate], axis=-1)

    def _to_places(self, labels: Labels) -> npt.NDArray[np.int64]:
        if self.residuals is None:
            return labels.values.astype(np.int64)
        return self.residuals.encode(labels.values - labels.scores).astype(np.int64)

    def _average_losses(self, labels: Labels) -> Floats:
        """(losses, pieces, labels). A binary target's are of all rows of the piece under either label, so that each
        label has a loss."""
        size = (len(self.cells), self.labels)
        pieces = np.searchsorted(self.edges, labels.scores, side="right")
        if self.task == "binary":
            found = np.empty((len(LOSSES["binary"]), *size))
            for label in (0, 1):
                supposed = dataclasses.replace(labels, values=np.full(len(pieces), float(label)))
                found[:, :, label] = _average(supposed.find_losses(), pieces, size[0])
            return found
        flat = pieces * size[1] + self._to_places(labels)
        losses = labels.find_losses()
        by_label = _average(losses, self._to_places(labels), size[1])
        return _average(losses, flat, size[0] * size[1], np.tile(by_label, size[0])).reshape(-1, *size)

    def to_json(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "column": self.column,
            "target": self.target,
            "output": self.output,
            "classes": list(self.classes),
            "chunk_days": self.chunk_days,
            "residuals": None if self.residuals is None else self.residuals.to_json(),
        }

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {name: getattr(self, name) for name in ARRAYS}

    @classmethod
    def from_parts(
        cls, head: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], columns: Mapping[str, Any]
    ) -> "Calibration":
        """Raises ArtifactError if the parts do not fit together, or not with the cells of the reference by column."""
        residuals = None if head["residuals"] is None else cells_of.from_json(head["residuals"])
        found = cls(
            head["task"],
            str(head["column"]),
            str(head["target"]),
            arrays["edges"].astype(np.float64),
            arrays["cells"].astype(np.uint8),
            arrays["bins"].astype(np.uint8),
            arrays["counts"].astype(np.int64),
            arrays["losses"].astype(np.float64),
            str(head.get("output", "")),
            tuple(map(str, head.get("classes", ()))),
            residuals if isinstance(residuals, NumberCells) else None,
            float(head["chunk_days"]),
        )
        pieces = len(found.edges) + 1
        shapes = found.cells.shape, found.bins.shape, found.counts.shape[1:], found.losses.shape
        wanted = (
            (pieces,),
            (pieces,),
            (pieces, found.labels),
            (len(LOSSES.get(found.task, ())), pieces, found.labels),
        )
        if (
            shapes != wanted
            or not isinstance(columns.get(found.column), NumberCells)
            or found.cells.max(initial=0) >= ABOVE
            or found.bins.max(initial=0) >= BINS
            or (found.task == "regression") != (found.residuals is not None)
        ):
            raise ArtifactError(f"The calibration of the reference has shapes {shapes}; expected {wanted}")
        return found


ARRAYS = ("edges", "cells", "bins", "counts", "losses")


def fit_isotonic(hits: Floats, rows: Floats) -> Floats:
    """Rates that never fall, (pieces,), closest to hits / rows in least squares weighted by rows: neighbours that
    would fall are pooled (Ayer and others 1955). Pieces without rows have the rate before them."""
    pooled: list[list[float]] = []  # hits, rows, pieces
    for hit, row in zip(hits.tolist(), rows.tolist(), strict=True):
        pooled.append([hit, row, 1])
        while len(pooled) > 1 and pooled[-1][0] * pooled[-2][1] <= pooled[-2][0] * pooled[-1][1]:
            last = pooled.pop()
            pooled[-1] = [one + other for one, other in zip(pooled[-1], last, strict=True)]
    return np.concatenate([np.full(int(count), hit / max(row, 1e-9)) for hit, row, count in pooled])


def _average(
    losses: Floats, places: npt.NDArray[np.int64], size: int, otherwise: Floats | None = None
) -> Floats:
    """Means (losses, size) of losses (losses, rows) at places; where none are, `otherwise`, or the mean of all."""
    rows = np.bincount(places, minlength=size)
    sums = np.stack([np.bincount(places, one, minlength=size) for one in losses])
    whole = losses.mean(axis=1, keepdims=True) if otherwise is None else otherwise
    found: Floats = np.where(rows > 0, sums / np.maximum(rows, 1), whole)
    return found


def _find_edges(labels: Labels) -> Floats:
    """Bounds of the 20 bins."""
    order = np.argsort(labels.scores, kind="stable")
    scores, weights = labels.scores[order], labels.weights[order]
    share = np.cumsum(weights) / weights.sum()
    places = np.searchsorted(share, np.arange(1, BINS) / BINS)
    edges = np.unique(scores[np.minimum(places, len(scores) - 1)])
    found: Floats = edges[edges > scores[0]]
    return found


def _choose_chunks(
    days: npt.NDArray[np.int32] | None, rows: int, seed: int
) -> tuple[npt.NDArray[np.int64], float]:
    """The chunk of each row, and its days: as many consecutive days as have enough rows; without times by chance."""
    if days is None or not len(days):
        count = max(1, min(_RANDOM_CHUNKS, rows // _CHUNK_ROWS))
        return np.random.default_rng(seed).permutation(rows) % count, 0.0
    found, places, counts = np.unique(days, return_inverse=True, return_counts=True)
    length = max(1, int(np.ceil(len(found) / CHUNKS)))
    while length < len(found) and np.median(counts) * length < _CHUNK_ROWS:
        length += 1
    return places // length, float((found[-1] - found[0] + 1) / len(found) * length)
