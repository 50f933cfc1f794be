"""One window of rows compared with a reference: which columns differ beyond chance, and in what. The window may be a
file, a day, or all that an endpoint saw since noon."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from raymlops.monitoring.cells import ABOVE, BELOW, MISSING, SUM, Counts, NumberCells, count
from raymlops.monitoring.day_windows import DayWindows
from raymlops.monitoring.deviates import INDEPENDENT, QUALITY_TESTS
from raymlops.monitoring.reference import RESIDUAL_UNIT, Column, Reference
from raymlops.monitoring.windows import Tests

Floats = npt.NDArray[np.floating[Any]]

_WINDOWS = 400
"""Simulated windows of a comparison."""
_MOST_ROWS = 20_000
"""Rows of a simulated window; larger ones have the same distribution, as the tests allow for the reference's error."""
_NO_TAIL = 37.0
"""Deviates of which a double does not hold the chance any more."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One test of one column, with what it is about: shares of rows, or medians."""

    column: Column
    test: str
    deviate: float
    chance: float
    """That so large a deviate comes of chance in any of the tests."""
    usual: float
    now: float
    cell: str = ""
    """In words: where rows are more or fewer, for the test of the shape."""
    moved: float = 0.0
    """Of a residual column, how far its mean lies from 0, in standard deviations of the residual. Of those that changed
    together, the cause has moved most: a shift of a column moves its own residual by more standard deviations than any
    other's (Cauchy and Schwarz on the precision matrix)."""
    widened: float = 0.0
    """Of a residual column, by how many of its standard deviations it is wider, as far as cells tell. Values that came
    into other rows move no mean, but widen the own residual most, for the same reason."""
    medians: tuple[float, float] | None = None
    """Usual and now, where another test is more certain but the median moved, too."""

    def describe(self) -> str:
        """`temp: 5.2% of rows are missing, usually 0.1%`."""
        what = self._describe_test()
        if self.medians is None or self.column.role == "residual":
            return what
        return f"{what}; the median is {self.medians[1]:.4g}, usually {self.medians[0]:.4g}"

    def _describe_test(self) -> str:
        name = self.column.label
        if self.test in QUALITY_TESTS and self.column.role != "residual":
            what = {
                "missing": "missing",
                "new": "of values that the reference does not have",
                "below": self.column.cells.describe(1),
                "above": self.column.cells.describe(18),
            }[self.test]
            return f"{name}: {_share(self.now)} of rows are {what}, usually {_share(self.usual)}"
        if self.test == "shape" and self.column.role != "residual":
            return f"{name}: {_share(self.now)} of rows are {self.cell}, usually {_share(self.usual)}"
        if self.column.role == "residual":
            return f"{name}: no longer what it was; by itself the column may look as before"
        word = "median" if self.test == "shift" else "width of the middle half"
        return f"{name}: the {word} is {self.now:.4g}, usually {self.usual:.4g}"


@dataclasses.dataclass(frozen=True)
class ColumnShares:
    """All that was compared of a column: its largest deviate, and the shares of rows in its cells."""

    column: Column
    deviate: float
    usual: Floats
    now: Floats


@dataclasses.dataclass(frozen=True)
class Comparison:
    """`findings` are those beyond the threshold, one a column: columns that changed by themselves, then those that no
    longer follow from others, then answers."""

    rows: int
    reference_rows: int
    findings: tuple[Finding, ...]
    watched: int
    """Columns that were compared."""
    tests: int
    threshold: float
    """Of the largest deviate."""
    largest: float
    chance: float
    """That the largest deviate of all comes of chance."""
    level: float
    columns: tuple[ColumnShares, ...] = ()
    """All of them, the least likely first."""

    @property
    def differs(self) -> bool:
        return bool(self.findings)

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "differs": self.differs,
            "chance": self.chance,
            "verdict": self.describe(),
            "findings": [
                {
                    "column": one.column.name,
                    "role": one.column.role,
                    "test": one.test,
                    "deviate": one.deviate,
                    "chance": one.chance,
                    "usual": one.usual,
                    "now": one.now,
                    "text": one.describe(),
                }
                for one in self.findings
            ],
        }

    def describe(self) -> str:
        """The verdict in a sentence."""
        if not self.rows:
            return "No rows to compare"
        if not self.differs:
            return (
                f"No difference beyond chance in {self.watched} columns of {self.rows:,} rows: "
                f"so much is seen in {_share(self.chance)} of such comparisons without a change"
            )
        first = self.findings[0]
        rest = len(self.findings) - 1
        more = f", and {rest} more column{'s' * (rest > 1)}" if rest else ""
        return f"{first.describe()}{more}; by chance in {_chance(self.chance)} of such comparisons"


def simulate_maxima(
    reference: Reference,
    rows: int,
    *,
    windows: int = _WINDOWS,
    seed: int = 0,
    days: DayWindows | None = None,
) -> Floats:
    """The largest deviate of each of so many windows of `rows` reference rows, each against a reference drawn anew.
    Where rows have a time, whole days are drawn, so that what hangs together in a day does so; `days` are those of the
    reference, if they are known."""
    random = np.random.default_rng(seed)
    days = days or DayWindows.of(reference)
    if days is not None:
        return days.simulate_maxima(rows, windows, random)
    tests = Tests.of(reference.kinds)
    codes = reference.codes
    held = min(rows, _MOST_ROWS)
    observed, expected = [], []
    for _ in range(windows):
        drawn = codes[random.integers(0, len(codes), len(codes))]
        expected.append(count(drawn) * (held / len(codes)))
        observed.append(count(codes[random.integers(0, len(codes), held)]))
    found = [
        tests.find(np.stack(observed[start : start + 50]), np.stack(expected[start : start + 50]), len(codes))
        for start in range(0, windows, 50)
    ]
    largest: Floats = np.concatenate(found).max(axis=1)
    return largest


def find_chance(maxima: Floats, value: float) -> float:
    """That the largest of a window is at least `value`: counted where enough are, beyond that by the tail of the
    largest of so many independent normal deviates as gives the upper quartile."""
    above = int((maxima >= value).sum())
    if above >= 10:
        return above / len(maxima)
    upper = float(np.quantile(maxima, 0.75))
    if upper > _NO_TAIL:
        return (above + 1) / len(maxima)
    independent = math.log(0.75) / max(float(special.log_ndtr(upper)), -1e300)
    tail = -math.expm1(independent * float(special.log_ndtr(value)))
    return min(max(tail, 0.0), (above + 1) / len(maxima))


def compare(
    reference: Reference,
    counts: Floats | Counts,
    rows: int,
    *,
    level: float = 0.01,
    seed: int = 0,
    maxima: Floats | None = None,
    days: DayWindows | None = None,
) -> Comparison:
    """Of counts (columns, 32) of `rows` rows. `level` is the share of comparisons without a change in which any column
    may be found to differ; `maxima` are what `simulate_maxima` gave for about as many rows, and `days` those of the
    reference, if they are known."""
    tests = Tests.of(reference.kinds)
    size = len(reference.codes)
    if not rows or not size:
        return Comparison(rows, reference.rows, (), len(reference.columns), len(tests.names), 0, 0, 1, level)
    usual = count(reference.codes) / size
    days = days or DayWindows.of(reference)
    variance = INDEPENDENT if days is None else days.find_variance(rows)
    found = tests.find(counts.astype(np.float64), usual * rows, size, variance)
    if maxima is None:
        maxima = simulate_maxima(reference, rows, seed=seed, days=days)
    threshold = _find_threshold(maxima, level)
    findings = find_findings(
        reference, found, threshold, counts / rows, usual, lambda deviate: find_chance(maxima, deviate)
    )
    largest = float(found.max())
    return Comparison(
        rows,
        reference.rows,
        findings,
        len(reference.columns),
        len(tests.names),
        threshold,
        largest,
        find_chance(maxima, largest),
        level,
        list_columns(reference, tests, found, usual, counts / rows),
    )


def find_findings(
    reference: Reference,
    deviates: Floats,
    threshold: float,
    now: Floats,
    usual: Floats,
    chance: Callable[[float], float],
) -> tuple[Finding, ...]:
    """What exceeds a threshold, one a column, the likeliest cause first: of the deviates (tests,) of a window, and the
    shares (columns, 32) of its rows and of those that are usual at its time."""
    tests = Tests.of(reference.kinds)
    best: dict[int, tuple[float, str]] = {}
    shifted = {
        place
        for (place, test), deviate in zip(tests.names, deviates.tolist(), strict=True)
        if test == "shift" and deviate > threshold
    }
    for (place, test), deviate in zip(tests.names, deviates.tolist(), strict=True):
        if deviate > threshold and deviate > best.get(place, (-math.inf, ""))[0]:
            best[place] = deviate, test
    for place in shifted & best.keys():  # a moved median says more to a person than the bin that it left
        if best[place][1] in ("shape", "spread"):
            best[place] = best[place][0], "shift"
    findings = []
    for place, (deviate, test) in best.items():
        found = _explain(reference, place, test, deviate, chance(deviate), now[place], usual[place])
        cells = reference.columns[place].cells
        moved = widened = 0.0
        if reference.columns[place].role == "residual":
            moved = abs(float(now[place, SUM])) / RESIDUAL_UNIT
            widened = _find_widening(now[place], usual[place])
        medians = None
        if place in shifted and test != "shift" and isinstance(cells, NumberCells):
            medians = find_quantile(cells, usual[place], 0.5), find_quantile(cells, now[place], 0.5)
        findings.append(dataclasses.replace(found, moved=moved, widened=widened, medians=medians))
    return tuple(_order(findings))


def list_columns(
    reference: Reference, tests: Tests, found: Floats, usual: Floats, now: Floats
) -> tuple[ColumnShares, ...]:
    """All columns, the least likely first."""
    largest = np.zeros(len(reference.columns))
    for (place, _), deviate in zip(tests.names, found.tolist(), strict=True):
        largest[place] = max(largest[place], deviate)
    return tuple(
        ColumnShares(
            column,
            float(largest[place]),
            usual[place, : column.cells.cells],
            now[place, : column.cells.cells],
        )
        for place in np.argsort(-largest, kind="stable").tolist()
        for column in (reference.columns[place],)
    )


def _find_threshold(maxima: Floats, level: float) -> float:
    low, high = 0.0, max(40.0, 2.0 * float(maxima.max()))
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if find_chance(maxima, middle) > level else (low, middle)
    return high


def _order(findings: Sequence[Finding]) -> list[Finding]:
    """A column that changed by itself comes before those whose residuals changed with it."""
    own = [one for one in findings if one.column.role != "residual"]
    named = {one.column.name for one in own}
    rest = [one for one in findings if one.column.role == "residual" and one.column.name not in named]
    inputs = sorted((one for one in own if one.column.role == "input"), key=lambda one: -one.deviate)
    others = sorted((one for one in own if one.column.role != "input"), key=lambda one: -one.deviate)
    most = max((one.moved for one in rest), default=0.0), max((one.widened for one in rest), default=0.0)
    shifted = most[0] > most[1] / 2  # a shift widens as well, by as much
    rest.sort(key=lambda one: (-one.moved if shifted else -one.widened, -one.deviate))
    return [*inputs, *rest, *others]


def _find_widening(now: Floats, usual: Floats) -> float:
    """The root of how much larger the mean square is, of shares (32,) of a column of numbers: bins are taken for those
    of a normal distribution."""
    held, known = (
        now[BELOW : ABOVE + 1],
        usual[BELOW : ABOVE + 1] / max(usual[BELOW : ABOVE + 1].sum(), 1e-12),
    )
    scores = special.ndtri(np.clip(np.cumsum(known) - known / 2, 1e-4, 1 - 1e-4)) ** 2
    return math.sqrt(max(float((held / max(held.sum(), 1e-12) - known) @ scores), 0.0))


def _explain(
    reference: Reference, place: int, test: str, deviate: float, chance: float, now: Floats, usual: Floats
) -> Finding:
    column = reference.columns[place]
    cells = column.cells
    now, usual = now[: cells.cells], usual[: cells.cells]  # without the sum of a residual column
    if test == "shift" and isinstance(cells, NumberCells):
        return Finding(
            column, test, deviate, chance, find_quantile(cells, usual, 0.5), find_quantile(cells, now, 0.5)
        )
    if test == "spread" and isinstance(cells, NumberCells):
        widths = [
            find_quantile(cells, shares, 0.75) - find_quantile(cells, shares, 0.25) for shares in (usual, now)
        ]
        return Finding(column, test, deviate, chance, widths[0], widths[1])
    if test == "shape":
        size = len(reference.codes)
        gap = np.abs(now - usual) / np.sqrt(usual + 1.0 / size)
        gap[MISSING] = 0.0
        cell = int(gap.argmax())
        return Finding(
            column, test, deviate, chance, float(usual[cell]), float(now[cell]), cells.describe(cell)
        )
    cell = {"missing": 0, "new": 1, "below": 1, "above": 18}[test]
    return Finding(column, test, deviate, chance, float(usual[cell]), float(now[cell]))


def find_quantile(cells: NumberCells, shares: Floats, part: float) -> float:
    """Of the rows that are not missing, by interpolation within a bin."""
    held = shares[1 : cells.cells]  # below the range, bins, above it
    total = held.sum()
    if not total:
        return math.nan
    bounds = [cells.low, cells.low, *cells.edges]
    bounds += [cells.high] * (len(held) + 1 - len(bounds))
    cumulative = np.concatenate([[0.0], np.cumsum(held) / total])
    place = min(int(np.searchsorted(cumulative, part, side="right")) - 1, len(held) - 1)
    width = cumulative[place + 1] - cumulative[place]
    inside = (part - cumulative[place]) / width if width else 0.0
    return float(bounds[place] + inside * (bounds[place + 1] - bounds[place]))


def _share(value: float) -> str:
    return f"{value:.2g}" if value < 0 else f"{100 * value:.3g}%"


def _chance(value: float) -> str:
    return f"fewer than 1 in {10**9:,}" if value < 1e-9 else f"1 in {round(1 / value):,}"


def describe_left_out(left_out: Mapping[str, str]) -> list[str]:
    return [f"Not watched: {name}: {reason}" for name, reason in left_out.items()]
