"""Whether alarms keep their word: false alarms against those asked for; rows from a fault to the alarm at equal false
alarms, beside Evidently, NannyML and Kolmogorov-Smirnov with chi-square; causes named first; what counting costs.

    python -m benchmarks.monitoring [PART ...] [--output results.json] [--packages FOLDER]
        [--evidently PYTHON] [--nannyml PYTHON]

Parts: windows, days, streams, hours, segments, faults, cost. Everything is seeded; each cell is kept in the output, so
that a run that was stopped goes on; the tables at the end have counts. The rules of the others are as their
documentation has them; with a Python in which a package is installed (evidently needs `pandas<3`), the package judges
200 windows, too. Intervals are Wilson's at 95%, of fewer windows where splits of the table differ by more than chance:
windows of a split share its reference.
"""

import argparse
import functools
import json
import math
import pathlib
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import monitoring_false_alarms as false_alarms
from benchmarks import monitoring_state
from benchmarks.monitored_tables import MONITORED
from benchmarks.monitoring_delays import RULES, Rig, find_best, measure_fault
from benchmarks.monitoring_false_alarms import LEVELS, NOMINAL, OURS, RATES, Cell, random_of
from benchmarks.monitoring_faults import FAULTS, SIXTEEN
from benchmarks.monitoring_rivals import CHUNKS, EVIDENTLY, FIXED, HALF, NANNYML, Chunks, Rivals, summarise
from raymlops.monitoring.baseline import Thresholds

WINDOW_TABLES, WINDOW_ROWS, COLUMNS = ("flights", "census"), (300, 500, 2_000), (20, 500, 1_000)
_CALIBRATED = 20
"""Streams that share one calibration."""
_PEERS = pathlib.Path(__file__).parent / "peers"
_PEER_WINDOWS = 200


class Store:
    """Cells by name, kept in a file as they are made."""

    def __init__(self, path: pathlib.Path | None) -> None:
        self.path = path
        self.cells: dict[str, Cell] = json.loads(path.read_text()) if path and path.exists() else {}

    def keep(self, name: str, make: Callable[[], Cell]) -> Cell:
        if name not in self.cells:
            self.cells[name] = make()
            if self.path:
                self.path.write_text(json.dumps(self.cells, indent=1))
            print(f"  {name}", file=sys.stderr, flush=True)
        return self.cells[name]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default all: {', '.join(PARTS)}")
    parser.add_argument("--output", type=pathlib.Path, help="write cells as JSON, and go on from there")
    parser.add_argument("--packages", type=pathlib.Path, help="folder in which tables were installed")
    parser.add_argument("--evidently", help="a Python that has evidently")
    parser.add_argument("--nannyml", help="a Python that has nannyml")
    parser.add_argument("--tables", nargs="+", default=list(MONITORED), choices=MONITORED)
    parser.add_argument("--windows", type=int, default=4_000, help="of each table and size")
    parser.add_argument("--rival-windows", type=int, default=1_000, help="of those, for the others' rules")
    parser.add_argument("--splits", type=int, default=40, help="of each table, over which windows are spread")
    parser.add_argument("--streams", type=int, default=160, help="of 100,000 rows")
    parser.add_argument("--segment-streams", type=int, default=60)
    parser.add_argument("--hour-splits", type=int, default=40, help="each of 125 days that were held out")
    parser.add_argument("--day-splits", type=int, default=40, help="each of 125 days that were held out")
    parser.add_argument("--faults", nargs="+", default=list(FAULTS), choices=FAULTS, metavar="FAULT")
    parser.add_argument("--fault-streams", type=int, default=16)
    parser.add_argument("--fault-windows", type=int, default=60, help="of each size, for the others' rules")
    parser.add_argument("--null-windows", type=int, default=1_000, help="that set the others' thresholds")
    given = parser.parse_args()
    if given.packages:
        sys.path.append(str(given.packages))
    unknown = [part for part in given.parts if part not in PARTS]
    if unknown:
        parser.error(f"no part {unknown[0]!r}; there are: {', '.join(PARTS)}")
    store = Store(given.output)
    for part in given.parts or PARTS:
        print(f"\n== {part}", flush=True)
        PARTS[part](given, store)


def run_windows(given: argparse.Namespace, store: Store) -> None:
    print(
        f"{'table':<10}{'rows':>6}  {'rule':<28}{'alarms':>8}{'of':>7}  share and 95% interval, 5% asked for"
    )
    for name in [one for one in WINDOW_TABLES if one in given.tables]:
        for rows in WINDOW_ROWS:
            cells = [
                store.keep(
                    f"windows/{name}/{rows}/{split}/{given.windows // given.splits}/{given.rival_windows}",
                    functools.partial(
                        false_alarms.measure_windows,
                        name,
                        rows,
                        split,
                        given.windows // given.splits,
                        -(-given.rival_windows // given.splits),
                    ),
                )
                for split in range(given.splits)
            ]
            for rule in dict.fromkeys(rule for cell in cells for rule in cell["alarms"]):
                size = "windows" if rule == OURS else "rival_windows"
                told = describe_share(
                    [cell["alarms"].get(rule, 0) for cell in cells], [cell[size] for cell in cells]
                )
                nominal = f", {told[2] / NOMINAL:.2f} of nominal" if rule == OURS else ""
                print(
                    f"{name:<10}{rows:>6}  {rule:<28}{told[0]:>8}{told[1]:>7}  {told[3]}{nominal}", flush=True
                )
            for rule, python in ((EVIDENTLY, given.evidently), (NANNYML, given.nannyml)):
                if python:
                    run_peer(store, rule, python, name, rows)


def describe_share(alarms: Sequence[int], windows: Sequence[int]) -> tuple[int, int, float, str]:
    """Alarms, windows, their share, and that in words with its interval: of fewer windows, if splits differ by more
    than chance."""
    total, size = sum(alarms), sum(windows)
    share = total / max(size, 1)
    shares = np.array(alarms) / np.maximum(windows, 1)
    chance = share * (1 - share) / max(np.mean(windows), 1)
    effect = max(float(shares.var(ddof=1)) / chance, 1.0) if len(shares) > 1 and chance > 0 else 1.0
    low, high = wilson(share, size / effect)
    return total, size, share, f"{share:.1%} ({low:.1%} to {high:.1%})"


def wilson(share: float, size: float, deviate: float = 1.96) -> tuple[float, float]:
    """The interval of a share (Wilson, 1927)."""
    if not size:
        return 0.0, 1.0
    square = deviate**2 / size
    middle = (share + square / 2) / (1 + square)
    half = deviate * math.sqrt(share * (1 - share) / size + square / size / 4) / (1 + square)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def run_peer(store: Store, rule: str, python: str, name: str, rows: int) -> None:
    """The package itself, on windows of the first split, beside its rule as documented."""
    cell = store.keep(f"peer/{rule}/{name}/{rows}", lambda: measure_peer(rule, python, name, rows))
    what = f"{rule} {cell['version']}, package"
    print(
        f"{name:<10}{rows:>6}  {what:<28}{cell['alarms']:>8}{cell['windows']:>7}  "
        f"as its rule here in {cell['equal']} of {cell['windows']}; any column"
    )


def measure_peer(rule: str, python: str, name: str, rows: int) -> Cell:
    table, random = MONITORED[name](), random_of("peer", name, rows)
    known, others = table.split(random)
    rivals = Rivals.of(table, known)
    chunks = Chunks.of(rivals, known, len(known) // CHUNKS)
    places = [random.choice(len(others), rows, replace=False) for _ in range(_PEER_WINDOWS)]
    mine = []
    for place in places:
        measured = rivals.measure(others.iloc[place])
        found = summarise(measured, chunks)
        mine.append(found[EVIDENTLY] >= FIXED[EVIDENTLY] if rule == EVIDENTLY else found[NANNYML] > 3)
    with tempfile.TemporaryDirectory() as held:
        folder = pathlib.Path(held)
        known[list(table.columns)].to_parquet(folder / "reference.parquet")
        for number, place in enumerate(places):
            others.iloc[place][list(table.columns)].to_parquet(folder / f"window-{number:04}.parquet")
        script = _PEERS / f"monitoring_{rule.lower()}.py"
        subprocess.run([python, str(script), str(folder), ",".join(table.categories)], check=True)
        told = json.loads((folder / "verdicts.json").read_text())
    return {
        "version": told["version"],
        "windows": len(places),
        "alarms": sum(told["drift"]),
        "equal": sum(bool(one) == bool(other) for one, other in zip(mine, told["drift"], strict=True)),
    }


def run_days(given: argparse.Namespace, store: Store) -> None:
    cells = [
        store.keep(f"days/{split}", functools.partial(false_alarms.measure_days, split))
        for split in range(given.day_splits)
    ]
    for level in LEVELS:
        alarms, days, share, words = describe_share(
            [cell["alarms"].get(str(level), 0) for cell in cells], [cell["windows"] for cell in cells]
        )
        print(
            f"flights, {level:.0%} asked for: {alarms} of {days} days, {words}, {share / level:.2f} of nominal"
        )


def run_streams(given: argparse.Namespace, store: Store) -> None:
    _show_alarms(_run_streams(given.streams, store, False), "streams of 100,000 rows")


def run_segments(given: argparse.Namespace, store: Store) -> None:
    cells = _run_streams(given.segment_streams, store, True)
    _show_alarms(cells, f"streams of 100,000 rows, {cells[0]['segments']} segments")


def _run_streams(streams: int, store: Store, segments: bool) -> list[Cell]:
    kind = "segments" if segments else "streams"
    cells = []
    for split in range(streams):
        seed = split // _CALIBRATED
        held = store.keep(
            f"{kind}/thresholds/{seed}",
            lambda seed=seed: false_alarms.calibrate_streams(seed, segments).to_json(),
        )
        made = Thresholds.from_json(held)
        cells.append(
            store.keep(
                f"{kind}/{split}",
                functools.partial(false_alarms.measure_stream, split, made, segments),
            )
        )
    return cells


def run_hours(given: argparse.Namespace, store: Store) -> None:
    cells = [
        store.keep(f"hours/{split}", functools.partial(false_alarms.measure_hours, split))
        for split in range(given.hour_splits)
    ]
    _show_alarms(cells, "months of real hours")


def _show_alarms(cells: Sequence[Cell], what: str) -> None:
    """Alarms beside those asked for. The interval is of the mean over streams, which share rows of one table."""
    size = sum(cell["streams"] for cell in cells)
    print(
        f"{size:.0f} {what}\n{'family':<12}{'asked for':>10}{'raised':>8}{'expected':>10}  of nominal, 95% interval"
    )
    total: Counter[str] = Counter()
    for cell in cells:
        total.update(cell["alarms"])
    for name in dict.fromkeys(name.rsplit(" ", 1)[0] for name in total):
        for rate in RATES:
            held = [cell["alarms"].get(f"{name} {rate:g}", 0) for cell in cells]
            raised, expected = sum(held), rate * size
            error = 1.96 * math.sqrt(max(np.var(held, ddof=1) * len(held) if len(held) > 1 else 0, raised, 1))
            print(
                f"{name:<12}{rate:>10g}{raised:>8}{expected:>10.1f}  {raised / expected:.2f} "
                f"({max(raised - error, 0) / expected:.2f} to {(raised + error) / expected:.2f})"
            )


def run_faults(given: argparse.Namespace, store: Store) -> None:
    for name in given.tables:
        rig: list[Rig] = []

        def make(fault: str, name: str = name, rig: list[Rig] = rig) -> Cell:
            if not rig:
                rig.append(Rig.of(name, given.null_windows))
            return measure_fault(rig[0], fault, given.fault_streams, given.fault_windows)

        sizes = f"{given.fault_streams}/{given.fault_windows}/{given.null_windows}"
        cells = {
            fault: store.keep(f"faults/{name}/{fault}/{sizes}", functools.partial(make, fault))
            for fault in given.faults
        }
        _show_faults(name, cells)


def _show_faults(name: str, cells: dict[str, Cell]) -> None:
    some = next(iter(cells.values()))
    print(
        f"\n{name}: mean rows to the alarm, 1 false alarm in 100,000 rows; {some['streams']} streams, others "
        f"{some['windows']} windows of each of 4 sizes; default: of {some['windows']} windows of 2,000 rows\n"
        f"{'fault':<28}{OURS:>10}{'alarmed':>9}{'first':>7}"
        + "".join(f"{rule:>16}" for rule in RULES)
        + f"{'default':>9}{'50% rule':>9}"
    )
    for fault, cell in cells.items():
        rows = f"{cell['rows']:,.0f}" if cell["alarmed"] == cell["streams"] else f">{cell['rows']:,.0f}"
        best = [find_best(cell, rule) for rule in RULES]
        print(
            f"{fault:<28}{rows:>10}{cell['alarmed']:>9}{cell['first']:>7}"
            + "".join(f"{one:>16,.0f}" if math.isfinite(one) else f"{'never':>16}" for one in best)
            + f"{cell['defaults'][EVIDENTLY]:>9}{cell['defaults'][HALF]:>9}"
        )
    for what, names in (("the sixteen", SIXTEEN), ("the further ten", FAULTS.keys() - SIXTEEN.keys())):
        held = [cells[fault] for fault in names if fault in cells]
        if held:
            print(f"{what}: {summarise_faults(held)}")


def summarise_faults(cells: Sequence[Cell]) -> str:
    """Against Evidently, against the best of all, and the causes. All are looked at every 100 rows at most."""
    later = sum(cell["rows"] > find_best(cell, EVIDENTLY) for cell in cells)
    best = [min(find_best(cell, rule) for rule in RULES) for cell in cells]
    ratios = [one / cell["rows"] for one, cell in zip(best, cells, strict=True)]
    first, alarmed = sum(cell["first"] for cell in cells), sum(cell["alarmed"] for cell in cells)
    return (
        f"later than Evidently on {later} of {len(cells)}; within 1.1 times the best of the others on "
        f"{sum(ratio >= 1 / 1.1 for ratio in ratios)}; at least 5 times sooner than it on "
        f"{sum(ratio >= 5 for ratio in ratios)}; cause first in {first} of {alarmed} alarms "
        f"({sum(2 * cell['first'] > cell['alarmed'] for cell in cells)} of {len(cells)} faults)"
    )


def run_cost(given: argparse.Namespace, store: Store) -> None:
    counting: Any = store.keep("cost/counting", monitoring_state.measure_counting)
    print(
        f"flights: {counting['inputs']} columns, {counting['columns']} with residuals; a column and tick has "
        f"{counting['bytes_in_memory']:.0f} bytes in memory, {counting['bytes_in_file']:.0f} in a file of ticks of 60 "
        f"rows; a reference has {counting['reference_bytes']:,} bytes as a file"
    )
    for batch in monitoring_state.BATCHES:
        print(f"counting, batches of {batch:,}: {counting[f'ns_a_row_{batch}']:,.0f} ns of CPU a row")
    merging = store.keep("cost/merging", monitoring_state.measure_merging)
    print(
        f"{monitoring_state.SHARDS} shards in {merging['orders']} orders: {merging['verdicts']} different verdict, "
        f"counts as of the whole: {merging['as_whole']}"
    )
    for columns in COLUMNS:
        made = store.keep(
            f"cost/thresholds/{columns}",
            functools.partial(monitoring_state.measure_thresholds, columns),
        )
        print(
            f"{columns:,} columns ({made['watched']:,} with residuals): thresholds {made['seconds']:.0f} s, reference "
            f"{made['reference_seconds']:.1f} s, {made['reference_bytes'] / 2**20:.1f} MiB"
        )


PARTS: dict[str, Callable[[argparse.Namespace, Store], None]] = {
    "windows": run_windows,
    "days": run_days,
    "streams": run_streams,
    "hours": run_hours,
    "segments": run_segments,
    "faults": run_faults,
    "cost": run_cost,
}

if __name__ == "__main__":
    main()
