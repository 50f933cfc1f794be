"""Measures a model's speed on this machine, one row at a time and in batches. Takes limited time."""

import dataclasses
import time

import numpy as np

from raymlops.models.session import Session
from raymlops.tensors import Batch, count_rows


@dataclasses.dataclass(frozen=True)
class Speed:
    """Milliseconds for one row, and rows per second in batches of `batch`; one caller."""

    p50_ms: float
    p99_ms: float
    rows_per_second: float
    batch: int


def measure_speed(session: Session, rows: Batch, batch: int = 256, seconds: float = 0.5) -> Speed:
    """Time the model on these rows, used in turn; up to `seconds` for each of the two."""
    count = count_rows(rows)
    batch = min(batch, count)
    singles = _time_calls(session, rows, 1, seconds, most=5000)
    batches = _time_calls(session, rows, batch, seconds, most=500)  # of which the median is enough
    return Speed(
        p50_ms=float(np.quantile(singles, 0.5) * 1e3),
        p99_ms=float(np.quantile(singles, 0.99) * 1e3),
        rows_per_second=float(batch / np.median(batches)),
        batch=batch,
    )


def measure_median(session: Session, rows: Batch, calls: int, seconds: float = 0.5) -> float:
    """Milliseconds for one of these rows: the median of so many calls, in at most so many seconds."""
    return float(np.median(_time_calls(session, rows, 1, seconds, most=calls)) * 1e3)


def _time_calls(session: Session, rows: Batch, size: int, seconds: float, most: int) -> list[float]:
    pieces = [
        {name: values[start : start + size] for name, values in rows.items()}
        for start in range(0, min(count_rows(rows), 50 * size) - size + 1, size)
    ]
    for piece in pieces[:5]:
        session.infer(piece)
    times: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until and len(times) < most:
        piece = pieces[len(times) % len(pieces)]
        start = time.perf_counter()
        session.infer(piece)
        times.append(time.perf_counter() - start)
    return times
