"""What counting and judging costs: bytes of state, time of a row, time of thresholds, and that counts of replicas give
the same verdict in any order, bit by bit.
"""

import io
import time

import numpy as np
import pyarrow.parquet as pq

from benchmarks.monitored_tables import MONITORED
from benchmarks.monitoring_false_alarms import NOMINAL, TICK_ROWS, Cell, random_of
from raymlops.monitoring import comparison, ticks
from raymlops.monitoring.baseline import Baseline, Thresholds
from raymlops.monitoring.reference import make_reference

BATCHES = (1, 256, 4_096)
SHARDS, ORDERS = 8, 20
_ROWS, _WINDOW = 16_384, 8_000
_REFERENCE_ROWS = 5_000
_TICKS = 200


def measure_counting() -> Cell:
    table, random = MONITORED["flights"](), random_of("counting")
    known, others = table.split(random)
    reference = table.refer(known)
    rows = others.iloc[:_ROWS]
    place = ticks.Place("flights", "endpoint", "flights", "1", "0" * 64)
    made = [
        ticks.Tick(
            place, 60 * start, 60, reference.count(table.values(rows.iloc[start * 60 : start * 60 + 60])), 60
        )
        for start in range(_TICKS)
    ]
    cell: Cell = {
        "columns": len(reference.columns),
        "inputs": len(table.columns),
        "bytes_in_memory": made[0].counts.nbytes / len(reference.columns),
        "bytes_in_file": _write(made) / _TICKS / len(reference.columns),
        "reference_bytes": len(reference.to_bytes()),
    }
    values = table.values(rows)
    for batch in BATCHES:
        parts = [
            {name: held[start : start + batch] for name, held in values.items()}
            for start in range(0, min(_ROWS, 400 * batch), batch)
        ]
        times = []
        for _ in range(3):
            began = time.process_time()
            for part in parts:
                reference.count(part)
            times.append((time.process_time() - began) / sum(len(part["score"]) for part in parts))
        cell[f"ns_a_row_{batch}"] = min(times) * 1e9
    return cell


def _write(made: list[ticks.Tick]) -> int:
    """Bytes of ticks as the store writes them."""
    stream = io.BytesIO()
    pq.write_table(ticks.to_table(made), stream, compression="zstd")
    return stream.tell()


def measure_merging() -> Cell:
    """Counts of shards, added in any order, and the verdict of each sum."""
    table, random = MONITORED["flights"](), random_of("merging")
    known, others = table.split(random)
    reference = table.refer(known)
    rows = others.iloc[:_WINDOW]
    maxima = comparison.simulate_maxima(reference, _WINDOW)
    shards = [reference.count(table.values(rows.iloc[place::SHARDS])) for place in range(SHARDS)]
    verdicts = set()
    for _ in range(ORDERS):
        total = np.zeros_like(shards[0])
        for place in random.permutation(SHARDS):
            total = ticks.add_counts(total, shards[place])
        compared = comparison.compare(reference, total, _WINDOW, level=NOMINAL, maxima=maxima)
        held = (total.tobytes(), compared.largest.hex(), compared.describe())
        verdicts.add(held)
    whole = reference.count(table.values(rows))
    return {
        "orders": ORDERS,
        "verdicts": len(verdicts),
        "as_whole": whole.tobytes() == next(iter(verdicts))[0],
    }


def measure_thresholds(columns: int) -> Cell:
    """Of a reference of so many columns of numbers, a quarter of them explained by others."""
    random = random_of("thresholds", columns)
    numbers = random.normal(size=(_REFERENCE_ROWS, columns))
    explained = columns // 4
    numbers[:, :explained] += numbers[:, explained : 2 * explained]
    values = {f"c{place}": numbers[:, place] for place in range(columns)}
    began = time.process_time()
    reference = make_reference({**values, "score": random.random(_REFERENCE_ROWS)}, {"score": "score"})
    made = time.process_time() - began
    began = time.process_time()
    Thresholds("").complete(Baseline.of(reference), TICK_ROWS, 60)
    return {
        "watched": len(reference.columns),
        "reference_seconds": made,
        "seconds": time.process_time() - began,
        "reference_bytes": len(reference.to_bytes()),
    }
