"""Finds single columns that predict the target alone, as a label that leaked into the features does.

Works on a sample of raw columns in memory; fits nothing but means per bin.
"""

import numpy as np
import numpy.typing as npt
import pandas as pd

from raymlops.metrics import METRICS
from raymlops.tensors import Array, Batch

_BINS = 100


def measure_columns(columns: Batch, labels: Array, task: str, seed: int = 0) -> dict[str, float]:
    """Column -> how well it alone predicts the target, on the half of the rows that its means were not fitted on.

    ROC AUC for binary targets, R2 for regression; for multiclass targets, the share removed of the errors of always
    guessing the most frequent class. Columns of unique strings score low: their values do not repeat.
    """
    half = np.random.default_rng(seed).random(len(labels)) < 0.5
    labels = np.asarray(labels)
    return {
        name: _measure(_to_bins(values), labels, half, task)
        for name, values in columns.items()
        if values.ndim == 1
    }


def _measure(bins: npt.NDArray[np.int64], labels: Array, half: npt.NDArray[np.bool_], task: str) -> float:
    measured = [_measure_half(bins, labels, fitted, task) for fitted in (half, ~half)]
    value = float(np.mean(measured))
    return 0.0 if np.isnan(value) else value


def _measure_half(
    bins: npt.NDArray[np.int64], labels: Array, fitted: npt.NDArray[np.bool_], task: str
) -> float:
    if not fitted.any() or fitted.all():
        return float("nan")
    count = int(bins.max()) + 1
    rows = np.bincount(bins[fitted], minlength=count)
    tested, true = bins[~fitted], labels[~fitted]
    if task == "multiclass":
        classes = int(labels.max()) + 1
        table = np.bincount(
            bins[fitted] * classes + labels[fitted].astype(np.int64), minlength=count * classes
        )
        usual = np.bincount(labels[fitted].astype(np.int64), minlength=classes).argmax()
        guess = np.where(rows > 0, table.reshape(count, classes).argmax(axis=1), usual)
        base = float(np.mean(true == usual))
        return (float(np.mean(true == guess[tested])) - base) / (1 - base) if base < 1 else float("nan")
    mean = float(labels[fitted].mean())
    sums = np.bincount(bins[fitted], weights=labels[fitted], minlength=count)
    guess = (sums + mean) / (rows + 1)  # shrinks to the overall mean with the weight of one row
    return METRICS[task]["roc_auc" if task == "binary" else "r2"](true, guess[tested])


def _to_bins(values: Array) -> npt.NDArray[np.int64]:
    """Quantile bins of numbers, codes of other values; missing values have their own bin."""
    codes, unique = pd.factorize(pd.Series(values), use_na_sentinel=True)
    if pd.api.types.is_numeric_dtype(unique.dtype) and len(unique) > _BINS:
        numbers = np.asarray(values, dtype=np.float64)
        finite = numbers[np.isfinite(numbers)]
        edges = np.unique(np.quantile(finite, np.linspace(0, 1, _BINS + 1)[1:-1]))
        codes = np.where(np.isnan(numbers), -1, np.searchsorted(edges, numbers, side="right"))
    return np.asarray(codes, dtype=np.int64) + 1
