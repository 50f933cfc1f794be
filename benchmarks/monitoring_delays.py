"""How many rows pass from a fault to the alarm, all rules at 1 false alarm in 100,000 rows, and whether the cause is
named first. Gives one cell a fault and table; `benchmarks.monitoring` adds them up.

Ours are ticks of 100 rows, 128 of them without a fault before it. Others have windows of each of four sizes, that begin
with the fault, and a threshold that is reset to the same false alarms on windows without one; the best size of each
counts, chosen after the fact. Both favour the others.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from benchmarks.monitored_tables import MONITORED, Monitored
from benchmarks.monitoring_false_alarms import TICK_ROWS, Cell, random_of
from benchmarks.monitoring_faults import break_rows
from benchmarks.monitoring_rivals import EVIDENTLY, FIXED, NANNYML, TESTS, Chunks, Rivals, summarise
from raymlops.monitoring.baseline import Baseline, Levels, Thresholds
from raymlops.monitoring.comparison import find_findings
from raymlops.monitoring.deviates import Floats
from raymlops.monitoring.judge import open_window
from raymlops.monitoring.season import Hours
from raymlops.monitoring.windows import SCALES

FALSE_ALARMS = 1e-5
"""A row."""
SIZES = (100, 500, 2_000, 10_000)
RULES = (EVIDENTLY, NANNYML, TESTS)
TICKS = 160
"""After the fault; a stream without an alarm counts as one more tick."""
_LOOKS = (4, 16, 48, TICKS)


@dataclasses.dataclass(frozen=True)
class Rig:
    """A table ready to be broken: what judges it, and the thresholds of the others by rule and size."""

    table: Monitored
    baseline: Baseline
    levels: Levels
    rivals: Rivals
    chunks: Mapping[int, Chunks]
    thresholds: Mapping[int, Mapping[str, float]]

    @classmethod
    def of(cls, name: str, null_windows: int) -> "Rig":
        table, random = MONITORED[name](), random_of("delays", name)
        known, others = table.split(random)
        baseline = Baseline.of(table.refer(known))
        levels = Thresholds("").complete(baseline, TICK_ROWS, 60).choose(TICK_ROWS, 60)
        rivals = Rivals.of(table, known)
        chunks = {size: Chunks.of(rivals, known, min(size, len(known) // 2)) for size in SIZES}
        found = {}
        for size in SIZES:
            drawn = [
                summarise(rivals.measure(others.iloc[random.integers(0, len(others), size)]), chunks[size])
                for _ in range(null_windows)
            ]
            level = 1 - min(FALSE_ALARMS * size, 1.0)
            found[size] = {rule: float(np.quantile([one[rule] for one in drawn], level)) for rule in RULES}
        rest = dataclasses.replace(table, rows=others)
        return cls(rest, baseline, levels, rivals, chunks, found)

    @property
    def rate(self) -> float:
        """False alarms a tick and family."""
        return FALSE_ALARMS * TICK_ROWS / len(self.baseline.families)


def measure_fault(rig: Rig, fault: str, streams: int, windows: int) -> Cell:
    random = random_of("fault", fault)
    followed = [_follow(rig, fault, random) for _ in range(streams)]
    ticks = [tick for tick, _ in followed]
    cell: Cell = {
        "rows": ticks_to_rows(ticks),
        "streams": streams,
        "alarmed": sum(tick <= TICKS for tick in ticks),
        "first": sum(first for _, first in followed),
        "windows": windows,
        "others": {rule: {} for rule in RULES},
        "defaults": {},
    }
    for size in SIZES:
        held = _draw_windows(rig, fault, size, windows, random)
        for rule in RULES:
            cell["others"][rule][str(size)] = sum(one[rule] > rig.thresholds[size][rule] for one in held)
        if size == 2_000:
            cell["defaults"] = {rule: sum(one[rule] >= FIXED[rule] for one in held) for rule in FIXED}
    return cell


def ticks_to_rows(ticks: list[int]) -> float:
    return float(np.mean(ticks)) * TICK_ROWS


def find_best(cell: Cell, rule: str) -> float:
    """Mean rows to the alarm of a rule by its best size; infinite if no window had one."""
    found = [
        int(size) * cell["windows"] / count if count else math.inf
        for size, count in cell["others"][rule].items()
    ]
    return min(found)


def _draw_windows(
    rig: Rig, fault: str, size: int, windows: int, random: np.random.Generator
) -> list[dict[str, float]]:
    found = []
    for _ in range(windows):
        rows = rig.table.rows.iloc[random.integers(0, len(rig.table.rows), size)]
        broken, _ = break_rows(rig.table, rows, fault, random)
        found.append(summarise(rig.rivals.measure(broken), rig.chunks[size]))
    return found


def _follow(rig: Rig, fault: str, random: np.random.Generator) -> tuple[int, bool]:
    """The ticks from the fault to the alarm, and whether the cause was named first."""
    before, table = SCALES[-1], rig.table
    drawn = table.rows.iloc[random.integers(0, len(table.rows), (before + TICKS) * TICK_ROWS)]
    broken, causes = break_rows(table, drawn.iloc[before * TICK_ROWS :], fault, random)
    reference = rig.baseline.reference
    counts = []
    for rows in (drawn.iloc[: before * TICK_ROWS], broken):
        measured = reference.measure(table.values(rows))
        ticks = np.arange(len(rows)) // TICK_ROWS
        counts += [measured.count(ticks == tick) for tick in range(ticks[-1] + 1)]
    hours = Hours.at(
        np.stack(counts).astype(np.float64), np.full(len(counts), TICK_ROWS), np.arange(len(counts)) * 60
    )
    for looks in _LOOKS:
        part = hours.part(slice(0, before + looks))
        statistics = rig.baseline.whole.find_statistics(part, looks) / rig.levels.roots
        excess = np.full((looks, len(rig.baseline.families)), -np.inf)
        for place, (family, tests) in enumerate(rig.baseline.families.items()):
            threshold = rig.levels.find_threshold(family, rig.rate)
            excess[:, place] = statistics[:, list(tests)].max(axis=1) - threshold
        above = np.flatnonzero(excess.max(axis=1) > 0)
        if len(above):
            tick = int(above[0])
            family = list(rig.baseline.families)[int(excess[tick].argmax())]
            return tick + 1, _name_first(rig, hours, before + tick + 1, statistics[tick], family) in causes
    return TICKS + 1, False


def _name_first(rig: Rig, hours: Hours, end: int, statistics: Floats, family: str) -> str:
    """The column that an alarm would name as the likeliest cause."""
    tests = rig.baseline.families[family]
    test = max(tests, key=lambda one: float(statistics[one]))
    window, cut, _ = open_window(rig.baseline.whole, rig.levels.roots, hours, end, test)
    rows = max(window.rows, 1.0)
    found = find_findings(
        rig.baseline.reference,
        window.deviates / rig.levels.roots,
        cut,
        window.seen / rows,
        window.expected / rows,
        lambda deviate: 0.0,
    )
    return found[0].column.name if found else ""
