"""How many false alarms are raised where nothing changed, of how many that were asked for. Each cell is of one split of
a table into reference and other rows: a fixed split has an error of its own. Gives counts; `benchmarks.monitoring` adds
them up.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.monitored_tables import MONITORED, Monitored
from benchmarks.monitoring_rivals import (
    CHUNKS,
    EVIDENTLY,
    FIXED,
    HALF,
    NANNYML,
    TESTS,
    Chunks,
    Rivals,
    summarise,
)
from raymlops.monitoring import comparison, thresholds
from raymlops.monitoring.baseline import MONTH_S, SEGMENTS, Baseline, Levels, Thresholds
from raymlops.monitoring.cells import CATEGORY_CELLS, Codes
from raymlops.monitoring.day_windows import DayWindows
from raymlops.monitoring.deviates import Floats
from raymlops.monitoring.recent_counts import HOUR_S
from raymlops.monitoring.reference import Reference
from raymlops.monitoring.season import Hours, Ints
from raymlops.monitoring.segments import Segment, find_segments

Cell = dict[str, Any]
OURS = "raymlops"
NOMINAL = 0.05
LEVELS = (0.2, 0.1, 0.05, 0.02)
TICK_ROWS, STREAM_TICKS = 100, 1_000
RATES = (3.0, 1.0, 0.3)
"""False alarms asked for, in a stream of 100,000 rows or in a month of hours."""
REFERENCE_DAYS = 240
_DEFAULTS = "NannyML, 10 chunks"
_PART = 0.02
"""Of a table's rows, the least of a segment."""


def random_of(*names: object) -> np.random.Generator:
    """The same for the same names."""
    return np.random.default_rng([ord(letter) for letter in "/".join(map(str, names))])


def measure_windows(name: str, rows: int, split: int, windows: int, rival_windows: int) -> Cell:
    """Windows of independent rows: how many were found to differ at 5%, and by the rules of others as they come."""
    table, random = MONITORED[name](), random_of("windows", name, rows, split)
    known, others = table.split(random)
    reference = table.refer(known, seed=split)
    maxima = comparison.simulate_maxima(reference, rows, seed=split)
    rivals = Rivals.of(table, known)
    chunks = {
        NANNYML: Chunks.of(rivals, known, rows),
        _DEFAULTS: Chunks.of(rivals, known, len(known) // CHUNKS),
    }
    found: Counter[str] = Counter()
    for place in range(windows):
        window = others.iloc[random.choice(len(others), rows, replace=False)]
        compared = comparison.compare(
            reference, reference.count(table.values(window)), rows, level=NOMINAL, maxima=maxima
        )
        found[OURS] += compared.differs
        if place < rival_windows:
            found.update(_apply_rules(rivals, chunks, window))
    return {"windows": windows, "rival_windows": min(windows, rival_windows), "alarms": dict(found)}


def _apply_rules(rivals: Rivals, chunks: Mapping[str, Chunks], window: pd.DataFrame) -> dict[str, int]:
    measured = rivals.measure(window)
    found = summarise(measured, chunks[NANNYML])
    return {
        EVIDENTLY: int(found[EVIDENTLY] >= FIXED[EVIDENTLY]),
        HALF: int(found[HALF] >= FIXED[HALF]),
        NANNYML: int(found[NANNYML] > 3),
        _DEFAULTS: int(chunks[_DEFAULTS].find(measured[:, 1]) > 3),
        TESTS: int(found[TESTS] > -np.log10(NOMINAL / len(rivals.columns))),
    }


def split_days(table: Monitored, random: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of the days of a reference, and of those that were held out."""
    days = table.rows["time"].to_numpy("datetime64[D]")
    known = np.isin(days, random.permutation(np.unique(days))[:REFERENCE_DAYS])
    return table.rows[known], table.rows[~known]


def measure_days(split: int) -> Cell:
    """Whole days that were held out, each a window, as `raymlops drift --by` compares them."""
    table, random = MONITORED["flights"](), random_of("days", split)
    known, others = split_days(table, random)
    reference = table.refer(known, seed=split, timed=True)
    days, maxima = DayWindows.of(reference), {}
    alarms: Counter[str] = Counter()
    groups = list(others.groupby(others["time"].dt.floor("D")))
    for _, rows in groups:
        size = round(1.2 ** round(np.log(len(rows)) / np.log(1.2)))
        if size not in maxima:
            maxima[size] = comparison.simulate_maxima(reference, size, seed=split, days=days)
        counts = reference.count(table.values(rows))
        compared = comparison.compare(reference, counts, len(rows), maxima=maxima[size], days=days)
        alarms.update({str(level): int(compared.chance <= level) for level in LEVELS})
    return {"windows": len(groups), "alarms": dict(alarms)}


def count_ticks(codes: Codes, ticks: Ints, length: int) -> Floats:
    """Counts (ticks, columns, 32) of codes (rows, columns), each row of a tick."""
    columns = codes.shape[1]
    flat = (
        codes.astype(np.int64)
        + np.arange(columns) * CATEGORY_CELLS
        + ticks[:, None] * (columns * CATEGORY_CELLS)
    )
    counts = np.bincount(flat.ravel(), minlength=length * columns * CATEGORY_CELLS)
    return counts.reshape(length, columns, CATEGORY_CELLS).astype(np.float64)


def measure_stream(split: int, calibrated: Thresholds, segments: bool) -> Cell:
    """A stream of 100,000 rows in ticks of 100, all different."""
    table, random = MONITORED["flights"](), random_of("streams", split)
    known, others = table.split(random)
    reference = table.refer(known, seed=split)
    listed = choose_segments(reference) if segments else ()
    baseline = Baseline.of(reference, listed)
    levels = calibrated.choose(TICK_ROWS, 60)
    rows = others.iloc[random.permutation(len(others))[: TICK_ROWS * STREAM_TICKS]]
    codes = reference.encode(table.values(rows))
    ticks = np.arange(len(codes)) // TICK_ROWS
    if not segments:
        hours = _at_minutes(count_ticks(codes, ticks, STREAM_TICKS), np.full(STREAM_TICKS, TICK_ROWS))
        alarms = count_alarms(baseline, levels, hours, 1 / STREAM_TICKS)
        return {"streams": 1, "alarms": alarms}
    return {
        "streams": 1,
        "segments": len(listed),
        "alarms": _count_in_segments(baseline, listed, levels, codes, ticks),
    }


def _count_in_segments(
    baseline: Baseline, segments: Sequence[Segment], levels: Levels, codes: Codes, ticks: Ints
) -> dict[str, int]:
    alarms: Counter[str] = Counter()
    used = sorted({place for places in baseline.families.values() for place in places})
    for segment in segments:
        inside = segment.find_rows(codes)
        hours = _at_minutes(
            count_ticks(codes[inside], ticks[inside], STREAM_TICKS),
            np.bincount(ticks[inside], minlength=STREAM_TICKS),
        )
        statistic = baseline.parts[segment.name].find_statistics(hours)[:, used].max(axis=1)
        for rate in RATES:
            threshold = levels.find_threshold(SEGMENTS, rate / STREAM_TICKS)
            alarms[f"{SEGMENTS} {rate:g}"] += thresholds.find_events(statistic, threshold)
    return dict(alarms)


def choose_segments(reference: Reference) -> tuple[Segment, ...]:
    return find_segments(reference, ("origin", "carrier"), _PART)


def calibrate_streams(seed: int, segments: bool) -> Thresholds:
    """Of one reference; they hardly depend on it, and take half a minute."""
    table = MONITORED["flights"]()
    known, _ = table.split(random_of("calibration", seed))
    reference = table.refer(known, seed=seed)
    baseline = Baseline.of(reference, choose_segments(reference) if segments else ())
    return Thresholds("").complete(baseline, TICK_ROWS, 60)


def measure_hours(split: int) -> Cell:
    """Real hours of days that were held out, with the thresholds of the reference of the others."""
    table, random = MONITORED["flights"](), random_of("hours", split)
    known, others = split_days(table, random)
    reference = table.refer(known, seed=split, timed=True)
    baseline = Baseline.of(reference)
    levels = Thresholds("").complete(baseline, 0.0, HOUR_S).choose(0.0, HOUR_S)
    hour = others["time"].to_numpy("datetime64[h]").astype(np.int64)
    starts, places, rows = np.unique(hour, return_inverse=True, return_counts=True)
    counts = count_ticks(reference.encode(table.values(others)), places, len(starts))
    hours = Hours.at(counts, rows, starts * HOUR_S)
    month = HOUR_S / MONTH_S
    return {"streams": len(starts) * month, "alarms": count_alarms(baseline, levels, hours, month)}


def _at_minutes(counts: Floats, rows: Ints) -> Hours:
    return Hours.at(counts, rows, np.arange(len(rows)) * 60)


def count_alarms(baseline: Baseline, levels: Levels, hours: Hours, stream: float) -> dict[str, int]:
    """Of each family, by how many were asked for in a stream, of which a tick is so small a part; `all` families
    together have an equal part each."""
    statistics = baseline.whole.find_statistics(hours) / levels.roots
    alarms: Counter[str] = Counter()
    for family, places in baseline.families.items():
        statistic = statistics[:, list(places)].max(axis=1)
        for rate in RATES:
            own = levels.find_threshold(family, rate * stream)
            part = levels.find_threshold(family, rate * stream / len(baseline.families))
            alarms[f"{family} {rate:g}"] += thresholds.find_events(statistic, own)
            alarms[f"all {rate:g}"] += thresholds.find_events(statistic, part)
    return dict(alarms)
