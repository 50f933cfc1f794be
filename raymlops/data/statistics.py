"""Column statistics that can be merged: moments, quantiles and value counts of blocks, combined in order.

Everything is deterministic, sketches included, so that a training repeats bit for bit from the same rows.
"""

import collections
import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raymlops.features import stack_images
from raymlops.tensors import Floats

_POINTS = 2048
_MOST_VALUES = 100_000


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Statistics of a numeric column; `points` and `weights` are a quantile summary: each point stands for `weight`
    rows."""

    rows: int
    missing: int
    mean: float = 0.0
    squares: float = 0.0  # sum of squared deviations from the mean
    min: float = math.inf
    max: float = -math.inf
    whole: bool = True
    points: Floats = dataclasses.field(default_factory=lambda: np.empty(0))
    weights: Floats = dataclasses.field(default_factory=lambda: np.empty(0))

    @property
    def present(self) -> int:
        return self.rows - self.missing

    @property
    def std(self) -> float:
        return math.sqrt(self.squares / self.present) if self.present else 0.0

    def merge(self, other: "Numbers") -> "Numbers":
        """Chan, Golub, LeVeque 1979 for the moments; the summaries are joined and reduced to points of equal weight."""
        if not other.present or not self.present:
            kept = self if self.present else other
            return dataclasses.replace(
                kept, rows=self.rows + other.rows, missing=self.missing + other.missing
            )
        present = self.present + other.present
        gap = other.mean - self.mean
        points, weights = _thin(np.append(self.points, other.points), np.append(self.weights, other.weights))
        return Numbers(
            rows=self.rows + other.rows,
            missing=self.missing + other.missing,
            mean=self.mean + gap * other.present / present,
            squares=self.squares + other.squares + gap * gap * self.present * other.present / present,
            min=min(self.min, other.min),
            max=max(self.max, other.max),
            whole=self.whole and other.whole,
            points=points,
            weights=weights,
        )

    def quantiles(self, shares: Floats) -> Floats:
        """The quantiles at these shares of the rows; exact within about 1/2048 of a share."""
        if not self.present:
            return np.full(len(shares), np.nan)
        middle = (np.cumsum(self.weights) - self.weights / 2) / self.weights.sum()
        values = np.interp(shares, middle, self.points)
        return np.where(shares <= 0, self.min, np.where(shares >= 1, self.max, values))

    def to_json(self) -> dict[str, Any]:
        shares = np.linspace(0, 1, 65)
        return {
            "kind": "number",
            "rows": self.rows,
            "missing": self.missing,
            "mean": self.mean,
            "std": self.std,
            "min": self.min if self.present else None,
            "max": self.max if self.present else None,
            "quantiles": self.quantiles(shares).tolist() if self.present else [],
        }


@dataclasses.dataclass(frozen=True)
class Categories:
    """Statistics of a categorical column; `other` counts values beyond the most frequent ones kept."""

    rows: int
    missing: int
    counts: dict[str | int, int]
    other: int = 0

    def merge(self, other: "Categories") -> "Categories":
        counts = collections.Counter(self.counts)
        counts.update(other.counts)
        dropped = 0
        if len(counts) > _MOST_VALUES:
            kept = dict(
                sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))[: _MOST_VALUES // 2]
            )
            dropped = counts.total() - sum(kept.values())
            counts = collections.Counter(kept)
        return Categories(
            self.rows + other.rows,
            self.missing + other.missing,
            dict(counts),
            self.other + other.other + dropped,
        )

    def ranked(self) -> list[tuple[str | int, int]]:
        """Values with their counts, the most frequent first."""
        return sorted(self.counts.items(), key=lambda item: (-item[1], str(item[0])))

    def to_json(self) -> dict[str, Any]:
        kept = self.ranked()[:1000]
        rest = self.rows - self.missing - sum(count for _, count in kept)
        return {
            "kind": "category",
            "rows": self.rows,
            "missing": self.missing,
            "distinct": len(self.counts),
            "counts": [[value, count] for value, count in kept],
            "other": rest,
        }


@dataclasses.dataclass(frozen=True)
class Images:
    """Statistics of a column of images of one shape; pixel moments over all images."""

    rows: int
    shape: tuple[int, ...]
    pixels: Numbers
    missing: int = 0

    def merge(self, other: "Images") -> "Images":
        shape = self.shape if self.shape == other.shape else ()
        return Images(
            self.rows + other.rows, shape, self.pixels.merge(other.pixels), self.missing + other.missing
        )

    def to_json(self) -> dict[str, Any]:
        pixels = self.pixels.to_json()
        return {
            "kind": "image",
            "rows": self.rows,
            "missing": self.missing,
            "shape": list(self.shape),
            "pixels": pixels,
        }


@dataclasses.dataclass(frozen=True)
class Texts:
    """Statistics of a column of texts: in how many of them each word stands, as it is written."""

    rows: int
    missing: int
    words: Categories

    def merge(self, other: "Texts") -> "Texts":
        return Texts(self.rows + other.rows, self.missing + other.missing, self.words.merge(other.words))

    def to_json(self) -> dict[str, Any]:
        held = self.words.to_json()
        return {
            "kind": "text",
            "rows": self.rows,
            "missing": self.missing,
            "words": held["distinct"],
            "counts": held["counts"][:100],
        }


Statistics = Numbers | Categories | Images | Texts


MOST_WORDS = 256
"""Words of a text that are read."""
_LONGEST_WORD = 40


def measure_texts(column: pa.ChunkedArray) -> Texts:
    """From an arrow column of strings. Long words, and what stands behind the first `MOST_WORDS`, do not count."""
    counts: collections.Counter[str | int] = collections.Counter()
    for text in column.drop_null().to_pylist():
        # As many characters as so many words have at most: of a text of megabytes the rest is not looked at.
        words = text[: MOST_WORDS * _LONGEST_WORD].split(maxsplit=MOST_WORDS)[:MOST_WORDS]
        counts.update({word for word in words if len(word) <= _LONGEST_WORD})
    rows = len(column)
    return Texts(
        rows, column.null_count, Categories(rows, column.null_count, {}).merge(Categories(0, 0, dict(counts)))
    )


def measure_counts(values: Floats, counts: npt.NDArray[np.int64], missing: int) -> Numbers:
    """From different values in rising order, with the rows of each, and the rows without one."""
    with np.errstate(over="ignore"):
        finite = np.isfinite(values.astype(np.float32))
    missing += int(counts[~finite].sum())
    values, counts = values[finite], counts[finite]
    rows = int(counts.sum())
    if not rows:
        return Numbers(missing, missing)
    mean = float((values * counts).sum()) / rows
    # A frequent value is several points: quantiles are interpolated between the middles of points.
    times = np.ceil(counts * (_POINTS / 4 / rows)).astype(np.int64)
    points, weights = _thin(np.repeat(values, times), np.repeat(counts / times, times))
    return Numbers(
        rows=rows + missing,
        missing=missing,
        mean=mean,
        squares=float((counts * (values - mean) ** 2).sum()),
        min=float(values[0]),
        max=float(values[-1]),
        whole=bool((values == np.round(values)).all()),
        points=points,
        weights=weights,
    )


def measure_numbers(values: Floats) -> Numbers:
    """From an array; NaN and infinities are missing, and so are numbers that FP32, which models take, cannot hold."""
    with np.errstate(over="ignore"):
        finite = np.sort(values[np.isfinite(values.astype(np.float32))])
    missing = len(values) - len(finite)
    if not len(finite):
        return Numbers(len(values), missing)
    mean = float(finite.mean())
    points, weights = _thin(finite, np.ones(len(finite)))
    return Numbers(
        rows=len(values),
        missing=missing,
        mean=mean,
        squares=float(((finite - mean) ** 2).sum()),
        min=float(finite[0]),
        max=float(finite[-1]),
        whole=bool((finite == np.round(finite)).all()),
        points=points,
        weights=weights,
    )


def measure_column(column: pa.ChunkedArray, kind: str) -> Statistics:
    """From an arrow column, by the kind of feature: number, category, timestamp, image or text."""
    if kind == "image":
        try:
            images = stack_images(column)
        except ValueError:
            return Images(len(column), (), measure_numbers(np.empty(0)))
        pixels = measure_numbers(images[:64].astype(np.float64).ravel())
        return Images(len(images), images.shape[1:], pixels)
    if kind == "text":
        return measure_texts(column)
    if kind == "category":
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.int64())
        counted = pc.value_counts(column.drop_null())
        counts = dict(
            zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)
        )
        missing = column.null_count
        if "" in counts:  # a BYTES tensor has no null, so the empty string stands for it
            missing += counts.pop("")
        return Categories(len(column), missing, counts)
    if kind == "timestamp":
        column = column.cast(pa.timestamp("ms", tz=getattr(column.type, "tz", None)), safe=False).cast(
            pa.int64()
        )
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    return measure_numbers(np.asarray(column.to_numpy(), dtype=np.float64))


def measure_whole(values: npt.NDArray[Any]) -> Categories:
    """From integers held as floats, NaN where missing."""
    present = values[np.isfinite(values)]
    numbers, counts = np.unique(np.floor(present).astype(np.int64), return_counts=True)
    return Categories(
        len(values), len(values) - len(present), dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    )


def merge_all(total: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """Statistics by column, merged."""
    return {
        name: total[name].merge(part[name]) if name in total else part[name] for name in {**total, **part}
    }


def _thin(points: Floats, weights: Floats) -> tuple[Floats, Floats]:
    order = np.argsort(points, kind="stable")
    points, weights = points[order], weights[order]
    if len(points) <= _POINTS:
        return points, weights
    total = weights.sum()
    middle = np.cumsum(weights) - weights / 2
    wanted = (np.arange(_POINTS) + 0.5) * total / _POINTS
    return points[np.searchsorted(middle, wanted).clip(0, len(points) - 1)], np.full(_POINTS, total / _POINTS)
