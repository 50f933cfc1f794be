"""Metrics from sums, (replicates, width of a layout) -> (replicates,), for value and bootstrap."""

from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.evaluation.partials import CALIBRATION_BINS, Layout, score_edges

Sums = npt.NDArray[np.float64]
Values = dict[str, npt.NDArray[np.float64]]


def estimate(layout: Layout, sums: Sums) -> Values:
    """Every metric of the task for each row of sums; nan where the rows do not define it."""
    parts = {name: sums[:, part] for name, part in layout.segments.items()}
    estimates: Values = _ESTIMATES[layout.task](layout, parts)
    return estimates


def divide(upper: Sums, lower: Sums) -> Sums:
    """Quotient, nan where the divisor is 0."""
    upper, lower = np.broadcast_arrays(upper, lower)
    return np.asarray(np.divide(upper, lower, out=np.full(upper.shape, np.nan), where=lower != 0))


def _binary(layout: Layout, parts: Values) -> Values:
    positive, negative, rows = parts["positive"], parts["negative"], parts["rows"][:, 0]
    half = int(np.searchsorted(score_edges(layout.cells), 0.5, side="right"))
    hits = positive[:, half:].sum(axis=1) + negative[:, :half].sum(axis=1)
    gap = _calibration_gap(layout, positive, parts["chance"])
    return {
        "roc_auc": ranking_area(positive, negative),
        "average_precision": _average_precision(positive, negative),
        "log_loss": divide(parts["log_loss"][:, 0], rows),
        "brier": divide(parts["brier"][:, 0], rows),
        "calibration_error": divide(gap, rows),
        "accuracy": divide(hits, rows),
    }


def ranking_area(positive: Sums, negative: Sums) -> Sums:
    """ROC AUC of histograms (..., cells); rows of one cell are ties."""
    below = np.cumsum(negative, axis=-1) - negative
    wins = (positive * (below + negative / 2)).sum(axis=-1)
    return divide(wins, positive.sum(axis=-1) * negative.sum(axis=-1))


def calibration_cells(layout: Layout) -> npt.NDArray[np.int64]:
    """The calibration bin of each score cell; cells never straddle a bin."""
    edges = score_edges(layout.cells)
    middles = np.concatenate([[0.0], (edges[:-1] + edges[1:]) / 2, [1.0]])
    return np.clip((middles * CALIBRATION_BINS).astype(np.int64), 0, CALIBRATION_BINS - 1)


def by_bin(layout: Layout, cells: Sums) -> Sums:
    """(..., cells) -> (..., calibration bins)."""
    starts = np.searchsorted(calibration_cells(layout), np.arange(CALIBRATION_BINS))
    return np.asarray(np.add.reduceat(cells, starts, axis=-1))


def _calibration_gap(layout: Layout, positive: Sums, chance: Sums) -> Sums:
    return np.asarray(np.abs(by_bin(layout, chance) - by_bin(layout, positive)).sum(axis=1))


def _average_precision(positive: Sums, negative: Sums) -> Sums:
    # Rows of a cell count as mixed at random: a positive sees half of the others, and itself.
    found = np.cumsum(positive[:, ::-1], axis=1) - (positive[:, ::-1] - 1) / 2
    both = positive[:, ::-1] + negative[:, ::-1]
    chosen = np.cumsum(both, axis=1) - (both - 1) / 2
    precision = np.divide(found, chosen, out=np.zeros_like(found), where=chosen > 0)
    return divide((precision * positive[:, ::-1]).sum(axis=1), positive.sum(axis=1))


def _multiclass(layout: Layout, parts: Values) -> Values:
    rows = parts["rows"][:, 0]
    confusion = parts["confusion"].reshape(-1, layout.classes, layout.classes)
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    both = confusion.sum(axis=1) + confusion.sum(axis=2)
    shape = (len(rows), layout.classes, -1)
    areas = ranking_area(parts["positive"].reshape(shape), parts["negative"].reshape(shape))
    return {
        "accuracy": divide(hits.sum(axis=1), rows),
        "macro_f1": _mean_defined(divide(2 * hits, both)),
        "log_loss": divide(parts["log_loss"][:, 0], rows),
        "brier": divide(parts["brier"][:, 0], rows),
        "roc_auc": _mean_defined(areas),
        "calibration_error": divide(np.abs(parts["tops"] - parts["hits"]).sum(axis=1), rows),
    }


def _mean_defined(values: Sums) -> Sums:
    defined = ~np.isnan(values)
    return divide(np.where(defined, values, 0).sum(axis=1), defined.sum(axis=1))


def _regression(layout: Layout, parts: Values) -> Values:
    rows = parts["rows"][:, 0]
    square = divide(parts["square"][:, 0], rows)
    spread = divide(parts["target_square"][:, 0], rows) - divide(parts["target"][:, 0], rows) ** 2
    return {
        "rmse": np.sqrt(square),
        "mae": divide(parts["distance"][:, 0], rows),
        "r2": 1 - divide(square, np.where(spread > 1e-12 * np.abs(square), spread, 0)),
    }


_ESTIMATES: dict[str, Any] = {"binary": _binary, "multiclass": _multiclass, "regression": _regression}


def guess_without_a_model(layout: Layout, sums: Sums) -> Values:
    """What the metrics would be if every row got the target's own rate or mean: the floor under any model."""
    parts = {name: sums[:, part] for name, part in layout.segments.items()}
    rows = parts["rows"][:, 0]
    if layout.task == "regression":
        spread = divide(parts["target_square"][:, 0], rows) - divide(parts["target"][:, 0], rows) ** 2
        return {"rmse": np.sqrt(np.maximum(spread, 0)), "r2": np.zeros(len(sums))}
    if layout.task == "binary":
        counts = np.stack([parts["negative"].sum(axis=1), parts["positive"].sum(axis=1)], axis=1)
        fixed = {"average_precision": divide(counts[:, 1], rows)}
    else:
        counts = parts["confusion"].reshape(-1, layout.classes, layout.classes).sum(axis=2)
        fixed = {}
    shares = divide(counts, rows[:, None])
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1)
    return {
        "roc_auc": np.full(len(sums), 0.5),
        "log_loss": entropy,
        "accuracy": shares.max(axis=1),
        "brier": shares[:, 0] * shares[:, 1] if layout.task == "binary" else 1 - (shares**2).sum(axis=1),
        **fixed,
    }
