"""How much a model's answers depend on each raw column: the increase of its loss when the column's values are permuted
among the rows (Breiman 2001; Fisher, Rudin, Dominici 2019). Opens no model: a function gives the scores."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.tensors import Batch, count_rows

Floats = npt.NDArray[np.float64]
Score = Callable[[Batch], npt.NDArray[Any]]
"""Raw columns -> probabilities of the second class (rows,), of all classes (rows, classes), or predictions (rows,)."""
Loss = Callable[[npt.NDArray[Any], npt.NDArray[Any]], Floats]
"""Labels and scores -> the loss of each row."""

MOST_ROWS, MOST_REPEATS = 2_000, 5
_FEWEST_ROWS, _FEWEST_REPEATS = 200, 2
_TINY = 1e-7


@dataclasses.dataclass(frozen=True)
class ColumnImportance:
    """The increase of the loss without one column, with its interval."""

    column: str
    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class PermutationImportance:
    """Of all columns that there was time for, the largest first."""

    loss: str
    """`log loss`, `RMSE`, `MAE` or `quantile loss`; the increases have its unit."""
    unpermuted: float
    columns: tuple[ColumnImportance, ...]
    rows: int
    repeats: int
    left_out: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def measure_importance(
    score: Score,
    columns: Batch,
    labels: npt.NDArray[Any],
    *,
    task: str,
    loss: str | None = None,
    quantile: float = 0.5,
    weights: npt.NDArray[Any] | None = None,
    confidence: float = 0.95,
    seconds: float = 1.0,
    seed: int = 0,
) -> PermutationImportance | None:
    """Of each column, over at most `MOST_ROWS` rows and `MOST_REPEATS` permutations, fewer where these would take more
    than about `seconds`; columns that are not reached in three times that are left out. None without columns or finite
    answers.

    `labels` are class numbers, or values in the target's unit; `loss` is that of a regression's training. Intervals
    are normal ones over rows and repeats.
    """
    random = np.random.default_rng(seed)
    total = count_rows(columns) if columns else 0
    if not total:
        return None
    until = time.perf_counter() + 3 * seconds
    chosen = random.permutation(total)[:MOST_ROWS]
    first = _take(columns, chosen[:_FEWEST_ROWS])
    score(first)  # the first call of a session allocates
    began = time.perf_counter()
    score(first)
    spent = (time.perf_counter() - began) / count_rows(first)
    rows, repeats = plan_rows(len(columns), len(chosen), seconds / max(spent, 1e-9))
    chosen = np.sort(chosen[:rows])
    batch, true = _take(columns, chosen), labels[chosen]
    masses = np.ones(rows) if weights is None else np.asarray(weights, dtype=np.float64)[chosen]
    name, losses, is_squared = _find_loss(task, loss, quantile)
    base = losses(true, score(batch))
    masses = np.where(np.isfinite(base), masses, 0.0)
    if not masses.sum() > 0:
        return None
    deviates = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    orders = [random.permutation(rows) for _ in range(repeats)]
    found, left_out = [], []
    for column in columns:
        if time.perf_counter() > until:
            left_out.append(column)
            continue
        permuted = [losses(true, score({**batch, column: batch[column][order]})) for order in orders]
        value, error = _estimate(np.stack(permuted), base, masses, is_squared)
        found.append(ColumnImportance(column, value, value - deviates * error, value + deviates * error))
    mean = _mean(base, masses)
    return PermutationImportance(
        loss=name,
        unpermuted=float(np.sqrt(mean)) if is_squared else mean,
        columns=tuple(sorted(found, key=lambda one: -one.value)),
        rows=rows,
        repeats=repeats,
        left_out=tuple(left_out),
    )


def plan_rows(columns: int, rows: int, affordable: float) -> tuple[int, int]:
    """Rows and repeats for so many columns, of which so many rows can be scored: fewer repeats first, then rows."""
    repeats = int(np.clip(affordable // (columns * rows), _FEWEST_REPEATS, MOST_REPEATS))
    fewest = min(rows, _FEWEST_ROWS)
    return int(np.clip(affordable // (columns * repeats), fewest, rows)), repeats


def _take(columns: Batch, places: npt.NDArray[np.int64]) -> Batch:
    return {name: values[places] for name, values in columns.items()}


def _estimate(permuted: Floats, base: Floats, masses: Floats, is_squared: bool) -> tuple[float, float]:
    """The mean increase, and its standard error over rows and over repeats; `permuted` is (repeats, rows)."""
    increases = permuted - base
    # A row whose answer is not finite says nothing of the column.
    masses = np.where(np.isfinite(increases).all(axis=0), masses, 0.0)
    increases = np.where(masses > 0, increases, 0.0)
    total = masses.sum()
    if not total > 0:
        return float("nan"), float("nan")
    by_repeat = increases @ masses / total
    by_row = increases.mean(axis=0)
    value = float(by_repeat.mean())
    over_rows = float(np.sqrt(np.sum((masses * (by_row - value)) ** 2)) / total)
    over_repeats = float(by_repeat.std(ddof=1) / np.sqrt(len(by_repeat)))
    error = float(np.hypot(over_rows, over_repeats))
    if not is_squared:
        return value, error
    before = _mean(base, masses)
    scale = np.sqrt(before) + np.sqrt(max(before + value, 0.0))  # a² - b² = (a - b)(a + b)
    return (value / scale, error / scale) if scale > 0 else (0.0, 0.0)


def _mean(losses: Floats, masses: Floats) -> float:
    return float(np.sum(np.where(masses > 0, losses, 0.0) * masses) / masses.sum())


def _find_loss(task: str, loss: str | None, quantile: float) -> tuple[str, Loss, bool]:
    """Its name, the function, and whether it is squared."""
    if task == "binary":
        return "log loss", _log_loss_of_binary, False
    if task == "multiclass":
        return "log loss", _log_loss_of_classes, False
    if loss == "mae":
        return "MAE", lambda true, given: np.abs(true - given.astype(np.float64)), False
    if loss == "quantile":

        def pinball(true: npt.NDArray[Any], given: npt.NDArray[Any]) -> Floats:
            under = true - given.astype(np.float64)
            return np.asarray(np.maximum(quantile * under, (quantile - 1) * under))

        return "quantile loss", pinball, False
    return "RMSE", lambda true, given: (true - given.astype(np.float64)) ** 2, True


def _log_loss_of_binary(true: npt.NDArray[Any], given: npt.NDArray[Any]) -> Floats:
    chance = given.astype(np.float64)
    return np.asarray(-np.log(np.clip(np.where(true > 0, chance, 1 - chance), _TINY, 1.0)))


def _log_loss_of_classes(true: npt.NDArray[Any], given: npt.NDArray[Any]) -> Floats:
    chosen = np.take_along_axis(given.astype(np.float64), true.astype(np.int64)[:, None], axis=1)[:, 0]
    return -np.log(np.clip(chosen, _TINY, 1.0))
