"""What the rows of a category's value, and the texts with an n-gram, say of the target: sums that can be merged, and
what is fitted from them. Knows no ONNX.

A target mean is drawn to that of all rows as if by 20 more of them (Micci-Barreca 2001). Rows are dealt to folds by a
hash of their values; a training row gets the means of the other folds, and so never finds its own target there.
"""

import dataclasses
from collections.abc import Collection, Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raymlops.data import row_keys, rowhash
from raymlops.errors import DataError
from raymlops.features import FittedColumn, FittedTarget
from raymlops.tensors import Array, Floats

FOLDS = 5
_SMOOTHING = 20.0
_MOST_CLASSES = 8
"""A mean for each class; of more, only for the most frequent."""
_MOST_NGRAMS = 200_000
_MOST_SCORED = 20_000
_OF_NGRAMS = 2.0
"""Texts with the mean of all that are added to those with an n-gram."""
_HIGHEST_SCORE, _STEPS = 4.0, 1024
_SAME = 0.9
"""Share of the texts with a word that have a pair of it, from which on the pair says the same."""
_FOLD_SEED = np.uint64(0x5851F42D4C957F2D)

Sums = Floats
"""Of a category: (1 + outputs, places, folds): the weight of rows, and the weighted sums of their targets."""


def deal_folds(table: pa.Table, columns: Collection[str], *, together: bool) -> npt.NDArray[np.int64]:
    """The fold of each row of a block, by its values in these columns; of rows that are equal there, one for each, or
    the same for all if they are to stay `together`.

    The target must not be among the columns: rows that differ in nothing else would be dealt by it.
    """
    chosen = [name for name in row_keys.drop_keys(table).column_names if name in columns]
    keys = rowhash.hash_rows(table.select(chosen))
    if not together:
        keys = keys + rowhash.mix(row_keys.number_equal(keys).astype(np.uint64))
    return np.asarray(rowhash.mix(keys ^ _FOLD_SEED) % FOLDS, np.int64)


def to_outputs(labels: Array, target: FittedTarget) -> Floats:
    """(rows, outputs), of which means are taken, from encoded labels: an indicator of each class, or the number."""
    if target.task != "multiclass":
        return np.asarray(labels, dtype=np.float64)[:, None]
    ranked = np.argsort(-np.asarray(target.shares), kind="stable")[:_MOST_CLASSES]
    return np.asarray(labels[:, None] == np.sort(ranked), dtype=np.float64)


def sum_by_value(
    ids: npt.NDArray[np.int64], places: int, outputs: Floats, mass: Floats, folds: npt.NDArray[np.int64]
) -> Sums:
    """From the id of each row's value, 0 for those that are not among `values`."""
    keys, cells = ids * FOLDS + folds, places * FOLDS
    columns = [mass, *(mass * outputs[:, place] for place in range(outputs.shape[1]))]
    return _sum_at(keys, columns, cells).reshape(len(columns), places, FOLDS)


def _sum_at(places: npt.NDArray[np.int64], columns: Iterable[Floats], size: int) -> Floats:
    """(columns, size): the sum of each column at each place."""
    return np.stack([np.asarray(np.bincount(places, one, size), np.float64) for one in columns])


def fit_means(column: FittedColumn, sums: Sums, without: int | None = None) -> FittedColumn:
    """The column with the means of its values, of all rows or of those of other folds than `without`."""
    kept = sums.sum(2) if without is None else sums.sum(2) - sums[:, :, without]
    weight, totals = kept[0], kept[1:]
    prior = totals.sum(1) / max(weight.sum(), 1e-12)
    means = (totals + _SMOOTHING * prior[:, None]) / (weight + _SMOOTHING)  # (outputs, places)
    found = dataclasses.replace(
        column, means=tuple(map(tuple, means[:, 1:].T.tolist())), prior=tuple(prior.tolist())
    )
    if without is not None:
        return found
    means[:, 0] = prior
    off = ((means - prior[:, None]) ** 2 * weight).sum(1) / max(weight.sum(), 1e-12)
    spread = tuple(float(value) or 1.0 for value in np.sqrt(off))
    return dataclasses.replace(found, centre=found.prior, spread=spread)


@dataclasses.dataclass(frozen=True)
class Moments:
    """Of the numbers that an encoder gives: the sums of each and of their squares."""

    rows: int
    sums: Floats
    squares: Floats

    @classmethod
    def of(cls, numbers: Array) -> "Moments":
        exact = numbers.astype(np.float64)
        return cls(len(exact), exact.sum(0), (exact**2).sum(0))

    def merge(self, other: "Moments") -> "Moments":
        return Moments(self.rows + other.rows, self.sums + other.sums, self.squares + other.squares)

    def fit(self, column: FittedColumn) -> FittedColumn:
        """The column with the centre and the spread of each number. Raises DataError for numbers that are none."""
        mean = self.sums / max(1, self.rows)
        spread = np.sqrt(np.maximum(self.squares / max(1, self.rows) - mean**2, 0))
        if not np.isfinite(spread).all():
            raise DataError(
                f"Encoder {column.encoder!r} gives NaN or infinite numbers for column {column.name!r}; fill missing "
                "values before, by dataset.derive, or mend the file"
            )
        known = spread > 1e-6 * np.maximum(1, np.abs(mean))
        return dataclasses.replace(
            column, centre=tuple(mean.tolist()), spread=tuple(np.where(known, spread, 1.0).tolist())
        )


@dataclasses.dataclass(frozen=True)
class Ngrams:
    """How many texts have each n-gram, and the sums of their targets."""

    rows: int
    keys: npt.NDArray[np.int64]
    """In rising order: of a word its id, of a pair first * (words + 1) + second."""
    sums: Floats
    """(1 + outputs, keys, folds)."""
    classes: bool
    """Whether targets are shares of classes."""
    totals: Floats
    """(2 + 2 * outputs,): the sums of the number of words and of targets, then those of their squares."""

    def merge(self, other: "Ngrams") -> "Ngrams":
        """Of many different ones, only the most frequent are kept."""
        keys, places = np.unique(np.concatenate([self.keys, other.keys]), return_inverse=True)
        joined = np.concatenate([self.sums, other.sums], axis=1)
        cells = (places[:, None] * FOLDS + np.arange(FOLDS)).ravel()
        sums = _sum_at(cells, joined.reshape(len(joined), -1), len(keys) * FOLDS)
        sums = sums.reshape(len(joined), len(keys), FOLDS)
        if len(keys) > _MOST_NGRAMS:
            kept = np.sort(np.argsort(-sums[0].sum(1), kind="stable")[: _MOST_NGRAMS // 2])
            keys, sums = keys[kept], sums[:, kept]
        return Ngrams(self.rows + other.rows, keys, sums, self.classes, self.totals + other.totals)


def count_ngrams(
    words: npt.NDArray[np.int64],
    neighbours: npt.NDArray[np.int64],
    count: npt.NDArray[np.int64],
    outputs: Floats,
    known: int,
    folds: npt.NDArray[np.int64],
    *,
    classes: bool,
) -> Ngrams:
    """From the ids (rows, words) of words, of `known` ones, and 0; pairs are those of `neighbours`. `count` is the
    number of words of each row."""
    found = [_find_present(words, words > 0)]
    if neighbours.shape[1] > 1:
        first, second = neighbours[:, :-1], neighbours[:, 1:]
        found.append(_find_present(first * (known + 1) + second, (first > 0) & (second > 0)))
    of_row, keys = (np.concatenate([part[place] for part in found]) for place in (0, 1))
    values, places = np.unique(keys, return_inverse=True)
    cells = np.unique(of_row * max(1, len(values)) + places)  # each text counts once
    of_row, places = cells // max(1, len(values)), cells % max(1, len(values))
    columns = [np.ones(len(cells)), *(outputs[of_row, place] for place in range(outputs.shape[1]))]
    sums = _sum_at(places * FOLDS + folds[of_row], columns, len(values) * FOLDS)
    sums = sums.reshape(len(columns), len(values), FOLDS)
    measured = np.column_stack([np.log1p(count.astype(np.float64)), outputs])
    return Ngrams(len(words), values, sums, classes, np.concatenate([measured.sum(0), (measured**2).sum(0)]))


def _find_present(keys: npt.NDArray[np.int64], present: npt.NDArray[np.bool_]) -> tuple[Array, Array]:
    """The row and the key of each that is there."""
    of_row = np.broadcast_to(np.arange(len(keys))[:, None], keys.shape)
    return of_row[present], keys[present]


def choose_ngrams(
    column: FittedColumn, found: Ngrams, most: int | None, least: int, *, pairs: bool
) -> FittedColumn:
    """The column with the n-grams that tell most of the target, by how far the mean of the texts with one is from that
    of all, in standard errors; and with the scores of the most frequent ones."""
    words, rows = max(column.ids, default=0), max(1, found.rows)
    most = most or min(200, max(20, rows // 50))
    half = len(found.totals) // 2
    averages = found.totals / rows
    mean, variance = averages[1:half], np.maximum(averages[half + 1 :] - averages[1:half] ** 2, 1e-12)
    counts, *sums = found.sums.sum(2)
    error = np.sqrt(counts * np.maximum(1 - counts / rows, 1 / rows) * variance[:, None])
    scores = np.max(np.abs(sums - counts * mean[:, None]) / np.maximum(error, 1e-12), axis=0)
    usable = (counts >= least) & (counts <= rows - least)
    first, second = found.keys // (words + 1), found.keys % (words + 1)
    of_word = np.zeros(words + 1)
    of_word[found.keys[found.keys <= words]] = counts[found.keys <= words]
    is_pair = found.keys > words
    usable &= ~is_pair | (pairs & (counts < _SAME * np.minimum(of_word[first], of_word[second])))
    ranked = np.flatnonzero(usable)[np.argsort(-scores[usable], kind="stable")][:most]
    chosen = np.sort(ranked)  # words before pairs
    frequent = np.flatnonzero((counts >= 2) & ~(is_pair & (len(sums) > 1 or not pairs)))
    scored = np.sort(frequent[np.argsort(-counts[frequent], kind="stable")][:_MOST_SCORED])
    shares = counts[chosen] / rows
    length = averages[0], max(averages[half] - averages[0] ** 2, 0.0) ** 0.5 or 1.0

    def name(places: npt.NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
        keys = found.keys[places].tolist()
        return tuple((key,) if key <= words else (key // (words + 1), key % (words + 1)) for key in keys)

    column = fit_scores(dataclasses.replace(column, ngrams=name(chosen), scored=name(scored)), found)
    weights, times = (
        np.array(column.scores).reshape(len(scored), len(sums) if len(scored) else 0),
        counts[scored],
    )
    centre = (weights * times[:, None]).sum(0) / max(times.sum(), 1.0)
    spread = (((weights - centre) ** 2) * times[:, None]).sum(0) / max(times.sum(), 1.0)
    spread = np.sqrt(spread / max(1.0, times.sum() / rows))  # of a mean of so many
    return dataclasses.replace(
        _keep_words(column, {word for ngram in (*column.ngrams, *column.scored) for word in ngram}),
        centre=(*shares.tolist(), length[0], *centre.tolist()),
        spread=(
            *np.sqrt(shares * (1 - shares)).tolist(),
            length[1],
            *(value or 1.0 for value in spread.tolist()),
        ),
    )


def fit_scores(column: FittedColumn, found: Ngrams, without: int | None = None) -> FittedColumn:
    """The column with the scores of its n-grams, by the texts of all rows or of those of other folds than `without`:
    how much higher the log odds of a class are among the texts with one, or the target of a regression."""
    base = max(column.ids, default=0) + 1
    keys = np.array([one[0] if len(one) == 1 else one[0] * base + one[1] for one in column.scored], np.int64)
    sums = found.sums.sum(2) if without is None else found.sums.sum(2) - found.sums[:, :, without]
    places = np.searchsorted(found.keys, keys).clip(0, max(0, len(found.keys) - 1))
    known = found.keys[places] == keys if len(found.keys) else np.zeros(len(keys), dtype=bool)
    counts, totals = (np.where(known, part, 0.0) for part in (sums[0][places], sums[1:][:, places]))
    half = len(found.totals) // 2
    mean = found.totals[1:half, None] / max(1, found.rows)
    means = (totals + _OF_NGRAMS * mean) / (counts + _OF_NGRAMS)
    scores = _log_odds(means) - _log_odds(mean) if found.classes else means - mean
    # Multiples of a power of two: their sums are the same in any order.
    scores = np.round(np.clip(scores, -_HIGHEST_SCORE, _HIGHEST_SCORE) * _STEPS) / _STEPS
    return dataclasses.replace(column, scores=tuple(map(tuple, scores.T.tolist())))


def _log_odds(shares: Floats) -> Floats:
    inside = np.clip(shares, 1e-4, 1 - 1e-4)
    return np.asarray(np.log(inside / (1 - inside)))


def _keep_words(column: FittedColumn, kept: Collection[int]) -> FittedColumn:
    """Without the spellings of other words."""
    pairs = [
        (value, number) for value, number in zip(column.values, column.ids, strict=True) if number in kept
    ]
    return dataclasses.replace(
        column, values=tuple(value for value, _ in pairs), ids=tuple(number for _, number in pairs)
    )
