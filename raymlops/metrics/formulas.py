"""Metrics as formulas of sums, (replicates, ...) -> (replicates,). Sees no rows.

A metric that its rows do not define (ROC AUC of one class, R2 of a constant) is nan, never an error.
"""

import numpy as np

from raymlops.metrics.sums import BIN_EDGES, CALIBRATION_BINS, Sums
from raymlops.tensors import Floats


def divide(upper: Floats, lower: Floats) -> Floats:
    """Quotient, nan if the divisor is 0."""
    upper, lower = np.broadcast_arrays(upper, lower)
    return np.asarray(np.divide(upper, lower, out=np.full(upper.shape, np.nan), where=lower != 0))


def by_bin(lows: Floats, cells: Floats) -> Floats:
    """(..., cells) -> (..., calibration bins), given the lower edge of each cell; no cell straddles two bins."""
    bins = np.searchsorted(BIN_EDGES, lows, side="right")
    starts = np.flatnonzero(np.diff(bins, prepend=-1))
    found = np.zeros((*cells.shape[:-1], CALIBRATION_BINS))
    if len(starts):
        found[..., bins[starts]] = np.add.reduceat(cells, starts, axis=-1)
    return found


def roc_auc(sums: Sums) -> Floats:
    """Area under the ROC curve; tied scores count one half (Mann-Whitney)."""
    return ranking_area(sums["positive"], sums["negative"])


def ranking_area(positive: Floats, negative: Floats) -> Floats:
    """For masses (..., cells)."""
    below = np.cumsum(negative, axis=-1) - negative
    wins = (positive * (below + negative / 2)).sum(axis=-1)
    return divide(wins, positive.sum(axis=-1) * negative.sum(axis=-1))


def average_precision(sums: Sums) -> Floats:
    """Sum of precision times the step in recall over falling thresholds; not interpolated.

    Rows of a cell with different scores count as randomly ordered: a positive is above half of the others.
    """
    positive, negative = sums["positive"][:, ::-1], sums["negative"][:, ::-1]
    both = positive + negative
    found, chosen = np.cumsum(positive, axis=1), np.cumsum(both, axis=1)
    if not sums.tied:
        one = divide(sums.rows, sums["count"][:, 0])[:, None]  # the mean weight of a row
        found, chosen = found - (positive - one) / 2, chosen - (both - one) / 2
    precision = np.divide(found, chosen, out=np.zeros_like(found), where=chosen > 0)
    return divide((precision * positive).sum(axis=1), positive.sum(axis=1))


def mean_log_loss(sums: Sums) -> Floats:
    """Mean negative log-likelihood in nats; probabilities of several classes are normalised."""
    return divide(sums["log_loss"][:, 0], sums.rows)


def mean_brier(sums: Sums) -> Floats:
    """Mean squared distance of the probability from the outcome (0 to 1); with several classes, of the probabilities
    from the one-hot label (0 to 2)."""
    return divide(sums["brier"][:, 0], sums.rows)


def calibration_error(sums: Sums) -> Floats:
    """Mean distance between rate and probability in 15 bins of equal width (ECE, Naeini et al. 2015); with several
    classes, for the likeliest one."""
    if sums.task == "binary":
        said, true = (by_bin(sums.lows, sums[name]) for name in ("chance", "positive"))
    else:
        said, true = sums["tops"], sums["hits"]
    return divide(np.abs(said - true).sum(axis=1), sums.rows)


def accuracy(sums: Sums) -> Floats:
    """Share of rows whose predicted class is the label; a binary one is predicted from 0.5 on."""
    if sums.task == "binary":
        half = int(np.searchsorted(sums.lows, 0.5, side="left"))
        hits = sums["positive"][:, half:].sum(axis=1) + sums["negative"][:, :half].sum(axis=1)
    else:
        hits = np.trace(_confusion(sums), axis1=1, axis2=2)
    return divide(hits, sums.rows)


def balanced_accuracy(sums: Sums) -> Floats:
    """Unweighted mean of the classes' recalls, over the classes that occur; a binary one is predicted from 0.5 on."""
    if sums.task == "binary":
        hits, misses, alarms, rejected = _binary_confusion(sums)
        recalls = np.stack([divide(hits, hits + misses), divide(rejected, rejected + alarms)], axis=1)
    else:
        confusion = _confusion(sums)
        recalls = divide(np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(axis=2))
    return _mean_defined(recalls)


def f_beta(sums: Sums, beta: float) -> Floats:
    """Harmonic mean of precision and recall, in which recall counts `beta` times as much; predicted from 0.5 on."""
    hits, misses, alarms, _ = _binary_confusion(sums)
    return divide((1 + beta**2) * hits, (1 + beta**2) * hits + beta**2 * misses + alarms)


def _binary_confusion(sums: Sums) -> tuple[Floats, Floats, Floats, Floats]:
    """Hits, misses, false alarms and right rejections, each (replicates,)."""
    half = int(np.searchsorted(sums.lows, 0.5, side="left"))
    positive, negative = sums["positive"], sums["negative"]
    return (
        positive[:, half:].sum(axis=1),
        positive[:, :half].sum(axis=1),
        negative[:, half:].sum(axis=1),
        negative[:, :half].sum(axis=1),
    )


def top_decile_lift(sums: Sums) -> Floats:
    """How many times as frequent positives are among the tenth of the rows with the highest scores; of equal scores at
    its edge a share is taken."""
    positive, negative = sums["positive"][:, ::-1], sums["negative"][:, ::-1]
    both = positive + negative
    room = both.sum(axis=1, keepdims=True) / 10 - (np.cumsum(both, axis=1) - both)
    taken = np.clip(np.divide(room, both, out=np.zeros_like(both), where=both > 0), 0, 1)
    found = divide((positive * taken).sum(axis=1), positive.sum(axis=1))
    return np.asarray(found * 10)


def macro_f1(sums: Sums) -> Floats:
    """Unweighted mean of F1 over the classes that occur in the labels or the predictions."""
    confusion = _confusion(sums)
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    return _mean_defined(divide(2 * hits, confusion.sum(axis=1) + confusion.sum(axis=2)))


def mean_roc_auc(sums: Sums) -> Floats:
    """Unweighted mean of each class's ROC AUC against the rest, over the classes that have one."""
    shape = (len(sums.rows), sums.classes, -1)
    if sums["positive"].size == 0:
        return np.full(len(sums.rows), np.nan)
    return _mean_defined(ranking_area(sums["positive"].reshape(shape), sums["negative"].reshape(shape)))


def rmse(sums: Sums) -> Floats:
    """Root of the mean squared error, in the target's unit."""
    return np.sqrt(divide(sums["square"][:, 0], sums.rows))


def mae(sums: Sums) -> Floats:
    """Mean absolute error, in the target's unit."""
    return divide(sums["distance"][:, 0], sums.rows)


def pinball(sums: Sums, quantile: float) -> Floats:
    """Mean pinball loss of a prediction of this quantile, in the target's unit."""
    under = sums["under"][:, 0]
    return divide(quantile * under + (1 - quantile) * (sums["distance"][:, 0] - under), sums.rows)


def r2(sums: Sums) -> Floats:
    """Share of the target's variance that is explained; nan where the target does not vary."""
    variance = target_variance(sums)
    # If constant, the sum of squares is only rounding error.
    varies = variance > 1e-12 * divide(sums["target_square"][:, 0], sums.rows)
    return 1 - divide(divide(sums["square"][:, 0], sums.rows), np.where(varies, variance, 0))


def target_variance(sums: Sums) -> Floats:
    mean = divide(sums["target"][:, 0], sums.rows)
    return divide(sums["target_square"][:, 0], sums.rows) - mean**2


def guessed_area(sums: Sums) -> Floats:
    """ROC AUC of one answer for all rows."""
    return np.full(len(sums.rows), 0.5)


def guessed_recall(sums: Sums) -> Floats:
    """Balanced accuracy of one answer for all rows."""
    return np.asarray(1 / (class_shares(sums) > 0).sum(axis=1), dtype=np.float64)


def guessed_lift(sums: Sums) -> Floats:
    """Lift of one answer for all rows."""
    return np.ones(len(sums.rows))


def guessed_precision(sums: Sums) -> Floats:
    """Average precision of one answer for all rows: the share of positives."""
    return class_shares(sums)[:, 1]


def guessed_log_loss(sums: Sums) -> Floats:
    """Log loss of the classes' own rates: their entropy."""
    shares = class_shares(sums)
    return np.asarray(-(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1))


def guessed_brier(sums: Sums) -> Floats:
    """Brier score of the classes' own rates."""
    shares = class_shares(sums)
    return shares[:, 0] * shares[:, 1] if sums.task == "binary" else 1 - (shares**2).sum(axis=1)


def guessed_accuracy(sums: Sums) -> Floats:
    """Accuracy of the most frequent class."""
    return np.asarray(class_shares(sums).max(axis=1))


def guessed_rmse(sums: Sums) -> Floats:
    """RMSE of the target's mean: its standard deviation."""
    return np.sqrt(np.maximum(target_variance(sums), 0))


def guessed_r2(sums: Sums) -> Floats:
    """R2 of the target's mean."""
    return np.zeros(len(sums.rows))


def class_shares(sums: Sums) -> Floats:
    """Share of the rows with each label, (replicates, classes)."""
    if sums.task == "binary":
        counts = np.stack([sums[name].sum(axis=1) for name in ("negative", "positive")], axis=1)
    else:
        counts = _confusion(sums).sum(axis=2)
    return divide(counts, sums.rows[:, None])


def _confusion(sums: Sums) -> Floats:
    """(replicates, label, predicted class)"""
    return sums["confusion"].reshape(-1, sums.classes, sums.classes)


def _mean_defined(values: Floats) -> Floats:
    defined = ~np.isnan(values)
    return divide(np.where(defined, values, 0).sum(axis=1), defined.sum(axis=1))
