"""How good answers are: estimated from the scores alone, and measured where labels came. Pure functions of counts.

An estimate takes the labels that the reference has at such scores (confidence-based performance estimation). That is
right where only the rows changed; where the same rows came to have other labels, no score tells. So each estimate has
an interval from the errors that the same estimate made on parts of the reference, and where there is no ground for
one there is none, with the reason.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from raymlops.metrics.formulas import divide, ranking_area
from raymlops.monitoring import deviates
from raymlops.monitoring.calibration import LOSSES, Calibration, Labelled
from raymlops.monitoring.cells import MISSING, NUMBER_CELLS, Counts, NumberCells, count
from raymlops.monitoring.reference import Reference

Floats = npt.NDArray[np.floating[Any]]
Kind = Literal["estimate", "measured"]

METRICS: Mapping[str, tuple[str, ...]] = {
    "binary": ("roc_auc", "log_loss", "accuracy"),
    "multiclass": ("accuracy", "log_loss"),
    "regression": ("rmse", "mae"),
}
"""Task -> metrics that are estimated and measured, the first one first. Others depend on more than the score's cells
tell, such as the ROC AUC of several classes, or the R2 of numbers."""
LABEL_TESTS = ("level", "slope", "shape")
"""Of labels given the score: whether more are positive (or right), whether it ranks them as before, and the rest."""
NUMBER_LABEL_TESTS = ("shift", "spread", "shape")
"""Of the residuals of numbers, given the prediction."""

UNDATED = "the reference has no times, so the intervals leave out what changes with time"
LEAST_EFFECTIVE = 0.1
"""Share of the reference's rows that must be like the rows at hand, in effect, by each column. Of the weeks of a year
of flights, estimates at 10% to 30% were as close as others (benchmarks/monitoring_quality.py)."""
_LEAST_ROWS = 100
_MOST_WEIGHT = 20.0
"""Of a reference row: rows unlike all of the reference would have endless ones, though they be few."""
_DRAWS = 200
_COVERAGE = 0.9


@dataclasses.dataclass(frozen=True)
class Quality:
    """A metric of some rows. `usual` is that of the reference. Without a `value`, which is NaN then, `why` says why
    there is none; with one, what its interval leaves out."""

    metric: str
    kind: Kind
    value: float
    low: float
    high: float
    usual: float
    rows: int
    why: str = ""

    @property
    def is_silent(self) -> bool:
        return math.isnan(self.value)

    def describe(self) -> str:
        """`roc_auc is estimated at 0.62 (0.55 to 0.69), was 0.75`."""
        if self.is_silent:
            return (
                f"{self.metric}: no {'estimate' if self.kind == 'estimate' else 'measurement'}, as {self.why}"
            )
        verb = "is estimated at" if self.kind == "estimate" else "is"
        interval = f" ({self.low:.3g} to {self.high:.3g})" if math.isfinite(self.low) else ""
        return f"{self.metric} {verb} {self.value:.3g}{interval}, was {self.usual:.3g}"

    def to_json(self) -> dict[str, Any]:
        numbers = {
            name: None if math.isnan(value) else value
            for name, value in (
                ("value", self.value),
                ("low", self.low),
                ("high", self.high),
                ("usual", self.usual),
            )
        }
        return {
            "metric": self.metric,
            "kind": self.kind,
            **numbers,
            "rows": self.rows,
            "text": self.describe(),
        }


def estimate_quality(reference: Reference, counts: Floats | Counts, *, seed: int = 0) -> list[Quality]:
    """Of counts (columns, 32) of rows without labels, by metric. Intervals hold in 90% of such rows as far as the
    reference tells."""
    calibration = reference.calibration
    if calibration is None:
        return []
    place = next(
        number for number, column in enumerate(reference.columns) if column.name == calibration.column
    )
    usual = find_metrics(calibration, calibration.table)
    silent = _explain_silence(reference, counts, place)
    rows = int(counts[place].sum())
    if silent:
        return [
            Quality(name, "estimate", math.nan, math.nan, math.nan, float(usual[name]), rows, silent)
            for name in METRICS[calibration.task]
        ]
    weights = calibration.spread(counts[place])
    found = find_metrics(calibration, weights[:, None] * calibration.find_rates())
    spreads = _draw_spreads(calibration, weights, seed)
    past = find_past_errors(calibration)
    why = "" if calibration.chunk_days else UNDATED
    made = []
    for name in METRICS[calibration.task]:
        errors = past[name]
        wide = _widen(spreads[name], errors)
        value = float(found[name])
        made.append(
            Quality(
                name,
                "estimate",
                value,
                *_bound(name, value - wide, value + wide),
                float(usual[name]),
                rows,
                why,
            )
        )
    return made


def measure_quality(calibration: Calibration, labelled: Labelled, *, seed: int = 0) -> list[Quality]:
    """Of rows with labels, by metric, with intervals of 90% from draws of these rows."""
    usual = find_metrics(calibration, calibration.table)
    names = METRICS[calibration.task]
    if not labelled.rows:
        why = "no row has a label"
        return [
            Quality(name, "measured", math.nan, math.nan, math.nan, float(usual[name]), 0, why)
            for name in names
        ]
    own = find_metrics(calibration, labelled.counts)
    random = np.random.default_rng(seed)
    drawn = find_metrics(calibration, random.poisson(labelled.counts, (_DRAWS, *labelled.counts.shape)))
    # means are exact from the sums of the rows; what rows are likely to be is taken from the cells
    means = labelled.sums / labelled.rows
    exact = dict(zip(LOSSES[calibration.task], means.tolist(), strict=True))
    if calibration.task == "regression":
        exact = {"rmse": math.sqrt(exact["square"]), "mae": exact["distance"]}
    made = []
    for name in names:
        value = float(exact.get(name, own[name]))
        if math.isnan(value):
            why = f"all {labelled.rows:,} labels are of one class"
            made.append(
                Quality(
                    name,
                    "measured",
                    math.nan,
                    math.nan,
                    math.nan,
                    float(usual[name]),
                    labelled.rows,
                    why,
                )
            )
            continue
        wide = _normal(_COVERAGE) * float(np.nanstd(drawn[name]))
        low, high = _bound(name, value - wide, value + wide)
        made.append(Quality(name, "measured", value, low, high, float(usual[name]), labelled.rows))
    return made


def correct_estimate(estimate: Quality, past: Sequence[tuple[float, float]]) -> Quality:
    """The estimate with the error of the last labelled rows taken off, if that would have been closer before. `past`
    are estimate and measurement of earlier rows, the latest last; the interval is then from the errors of those."""
    held = np.array([one for one in past if np.isfinite(one).all()], np.float64).reshape(-1, 2)
    if estimate.is_silent or len(held) < 4:
        return estimate
    errors = held[:, 1] - held[:, 0]
    follows = np.diff(errors)  # what is left after taking off the error before
    is_closer = np.abs(follows).mean() < np.abs(errors[1:]).mean()
    left = follows if is_closer else errors[1:]
    value = estimate.value + (errors[-1] if is_closer else 0.0)
    wide = _student(_COVERAGE, len(left)) * math.sqrt(float((left**2).mean()) * (1 + 1 / len(left)))
    low, high = _bound(estimate.metric, value - wide, value + wide)
    value = min(max(value, low), high)
    return dataclasses.replace(estimate, value=value, low=low, high=high, why="")


def find_metrics(calibration: Calibration, table: npt.NDArray[Any]) -> dict[str, Floats]:
    """By name, of rows (..., pieces, labels); NaN where they have none."""
    whole = table.sum(axis=(-2, -1))
    means: dict[str, Floats] = {
        name: divide((table * losses).sum(axis=(-2, -1)), whole)
        for name, losses in zip(LOSSES[calibration.task], calibration.losses, strict=True)
    }
    if calibration.task == "regression":
        return {"rmse": np.sqrt(means["square"]), "mae": means["distance"]}
    if calibration.task == "binary":
        means["roc_auc"] = ranking_area(table[..., 1], table[..., 0])
    return means


@functools.lru_cache(maxsize=32)
def find_past_errors(calibration: Calibration) -> Mapping[str, tuple[float, int]]:
    """Metric -> how far the quality of a part of the reference's time is from its estimate beyond what its number of
    labels explains, as a standard deviation, and the number of parts. Each part is estimated by the others. Without
    times 0: parts that chance chose say no more than the number of labels."""
    whole = calibration.table
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in METRICS[calibration.task]}
    for number, part in enumerate(calibration.counts if calibration.chunk_days else ()):
        rest = whole - part
        if not part.sum() or not rest.sum():
            continue
        weights = part.sum(axis=-1)
        estimated = find_metrics(calibration, weights[:, None] * calibration.find_rates(rest))
        measured = find_metrics(calibration, part)
        spreads = _draw_spreads(calibration, weights, number, rest)
        for name, errors in found.items():
            error = float(measured[name] - estimated[name])
            if math.isfinite(error):
                errors.append((error**2, spreads[name] ** 2))
    made = {}
    for name, errors in found.items():
        squares = np.array(errors).reshape(-1, 2).mean(axis=0) if errors else np.zeros(2)
        made[name] = math.sqrt(max(float(squares[0] - squares[1]), 0.0)), len(errors)
    return made


def find_effective_share(reference: Reference, counts: Floats | Counts) -> tuple[float, str]:
    """The effective share of the reference's rows once they are weighted to look like the rows at hand (Kish 1965), by
    the column where it is smallest, and that column. The shares of all columns together are smaller still."""
    smallest = 1.0, ""
    usual = count(reference.codes) / max(len(reference.codes), 1)
    for place, column in enumerate(reference.columns):
        used = column.cells.cells
        rows = counts[place, :used].sum()
        if column.role != "input" or not rows:
            continue
        now = counts[place, :used] / rows
        weights = np.minimum(now / np.maximum(usual[place, :used], 1e-12), _MOST_WEIGHT)
        # of so few rows the squares of the shares are too large by chance
        excess = min((now > 0).sum() - 1, used) / rows
        share = 1.0 / max(float((now * weights).sum()) - excess, 1.0)
        if share < smallest[0]:
            smallest = share, column.name
    return smallest


def _explain_silence(reference: Reference, counts: Floats | Counts, place: int) -> str:
    rows = counts[place].sum()
    if rows < _LEAST_ROWS:
        return f"{int(rows):,} rows are too few; {_LEAST_ROWS} are needed"
    missing = counts[place, MISSING] / rows
    if missing > 0.5:
        return f"{missing:.0%} of rows have no score"
    share, column = find_effective_share(reference, counts)
    if share < LEAST_EFFECTIVE:
        return f"few reference rows are like these: by {column!r} alone the reference counts as {share:.0%} of itself"
    return ""


def _draw_spreads(
    calibration: Calibration, weights: Floats | Counts, seed: int, table: npt.NDArray[Any] | None = None
) -> dict[str, float]:
    """The standard deviation of each metric of rows with these scores, whose labels are drawn from the rates of a
    reference that is drawn, too."""
    random = np.random.default_rng(seed)
    held = calibration.table if table is None else table
    rates = np.stack([calibration.find_rates(random.poisson(held)) for _ in range(_DRAWS // 4)])
    rows = random.poisson(weights, (4, len(rates), len(weights)))
    drawn = random.multinomial(rows, rates / rates.sum(axis=-1, keepdims=True))
    return {name: float(np.nanstd(values)) for name, values in find_metrics(calibration, drawn).items()}


def _widen(spread: float, past: tuple[float, int]) -> float:
    """Half the width of an interval."""
    beyond, parts = past
    if not beyond:
        return _normal(_COVERAGE) * spread
    return _student(_COVERAGE, max(parts - 1, 1)) * math.sqrt(spread**2 + beyond**2 * (1 + 1 / parts))


def _normal(coverage: float) -> float:
    return float(special.ndtri(0.5 + coverage / 2))


def _student(coverage: float, freedom: int) -> float:
    return float(special.stdtrit(freedom, 0.5 + coverage / 2))


def _bound(metric: str, low: float, high: float) -> tuple[float, float]:
    """Within what the metric can be."""
    return max(low, 0.0), min(high, 1.0) if metric in ("roc_auc", "accuracy") else high


def find_label_deviates(calibration: Calibration, counts: Floats | Counts) -> Floats:
    """Deviates (..., 3) of labelled rows (..., pieces, labels) given their scores, in the order of LABEL_TESTS or
    NUMBER_LABEL_TESTS: so that other rows with the same rates are no finding. The reference is a sample, too."""
    observed = calibration.to_bins(counts)
    table = calibration.to_bins(calibration.table)
    if calibration.task == "regression":
        return _test_residuals(observed, table)
    return _test_rates(observed, table)


@dataclasses.dataclass(frozen=True)
class LabelChange:
    """The labels given the scores, compared with the reference: the least likely test, the chance of so much without a
    change, and the share of positive or right labels now and as the scores would have it; of numbers, the mean error
    now and usually."""

    task: str
    target: str
    test: str
    deviate: float
    chance: float
    now: float
    expected: float
    rows: int

    def describe(self) -> str:
        what = {
            "binary": f"{self.target}: {self.now:.1%} of labels are positive, {self.expected:.1%} by the scores",
            "multiclass": f"{self.target}: {self.now:.1%} of answers are right, {self.expected:.1%} by the scores",
            "regression": f"{self.target}: the mean error is {self.now:.3g}, usually {self.expected:.3g}",
        }[self.task]
        said = {
            "level": "the share moved",
            "slope": "the score ranks them otherwise",
            "shift": "errors moved",
            "spread": "errors are of another size",
            "shape": "labels have another distribution",
        }[self.test]
        return f"{what}; {said}, given the score"

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "text": self.describe()}


def find_label_change(calibration: Calibration, labelled: Labelled) -> LabelChange | None:
    """None without labels. Where the reference has times, rows of one of its parts count as alike as they are there."""
    rows = labelled.rows
    if not rows:
        return None
    found = find_label_deviates(calibration, labelled.counts)
    alike, part_rows = find_label_dependence(calibration)
    found = found / np.sqrt(1.0 + max(min(rows, part_rows) - 1.0, 0.0) * alike)
    names = NUMBER_LABEL_TESTS if calibration.task == "regression" else LABEL_TESTS
    place = int(found.argmax())
    clear = int(found[:2].argmax())  # whether labels moved says more than that their distribution is another
    place = clear if found[clear] > found[place] / 2 else place
    chance = float(-np.expm1(len(found) * special.log_ndtr(found.max())))
    now, expected = _compare_labels(calibration, labelled)
    return LabelChange(
        calibration.task, calibration.target, names[place], float(found[place]), chance, now, expected, rows
    )


def find_label_dependence(calibration: Calibration) -> tuple[Floats, float]:
    """The correlation of two rows of one part of the reference's time, by label test (3,), and the rows of a part: 0
    without times."""
    if not calibration.chunk_days or len(calibration.counts) < 8:
        return np.zeros(len(LABEL_TESTS)), 1.0
    rows = float(calibration.counts.sum(axis=(1, 2)).mean())
    found = find_label_deviates(calibration, calibration.counts)
    alike = np.zeros(found.shape[-1])
    for share, normal in ((0.84134, 1.0), (0.93319, 1.5)):
        spread = np.quantile(found, share, axis=0) / normal
        alike = np.maximum(alike, (spread**2 - 1.0) / max(rows - 1.0, 1.0))
    return alike, rows


def _compare_labels(calibration: Calibration, labelled: Labelled) -> tuple[float, float]:
    counts, table = labelled.counts, calibration.table
    if calibration.residuals is not None:
        middles = _find_middles(calibration.residuals)
        return float((counts @ middles).sum() / counts.sum()), float((table @ middles).sum() / table.sum())
    expected = (counts.sum(axis=-1) * calibration.find_rates()[:, 1]).sum()
    return float(counts[:, 1].sum() / counts.sum()), float(expected / counts.sum())


def _find_middles(cells: NumberCells) -> Floats:
    """Of each cell of residuals, (19,)."""
    found = np.zeros(NUMBER_CELLS)
    bounds = np.array([cells.low, *cells.edges, cells.high])
    found[2 : 1 + len(bounds)] = (bounds[:-1] + bounds[1:]) / 2
    found[1], found[-1] = cells.low, cells.high
    return found


def _test_residuals(observed: Floats, table: Floats) -> Floats:
    rates = table / np.maximum(table.sum(axis=-1, keepdims=True), 1.0)
    expected = (observed.sum(axis=-1, keepdims=True) * rates).sum(axis=-2)
    found = deviates.test_numbers(observed.sum(axis=-2), expected, float(table.sum()))
    chosen = [deviates.NUMBER_TESTS.index(name) for name in NUMBER_LABEL_TESTS]
    beyond = found[..., [deviates.NUMBER_TESTS.index(name) for name in ("below", "above")]].max(axis=-1)
    tests = found[..., chosen]
    # residuals beyond all of the reference are a wider spread, whatever the ranks say
    tests[..., 1] = np.maximum(tests[..., 1], deviates.fold(beyond))
    return tests


def _test_rates(observed: Floats, table: Floats) -> Floats:
    """Score tests of a logistic model with the reference's rate of each bin as its offset (Cox 1958): of the intercept,
    of the slope given the intercept, and what is left by bin."""
    rows, held = observed.sum(axis=-1), table.sum(axis=-1)
    hits, held_hits = observed[..., 1], table[..., 1]
    rate = (hits + held_hits + 0.5) / (rows + held + 1.0)  # of both samples, if nothing changed
    part = held / np.maximum(rows + held, 1.0)  # the share of the surprise that the window's rows have alone
    surprise = (hits - rows * (held_hits + 0.5) / (held + 1.0)) * part
    variance = rows * part * rate * (1.0 - rate)
    height = np.log(rate / (1.0 - rate))
    total = np.maximum(variance.sum(axis=-1), 1e-12)
    centred = height - ((variance * height).sum(axis=-1) / total)[..., None]
    steep = np.maximum((variance * centred**2).sum(axis=-1), 1e-12)
    level = surprise.sum(axis=-1) / np.sqrt(total)
    slope = (surprise * centred).sum(axis=-1) / np.sqrt(steep)
    used = variance > 1.0
    squares = np.where(used, surprise**2 / np.where(used, variance, 1.0), 0.0).sum(axis=-1)
    shape = deviates.deviate_of_chi_square(squares, used.sum(axis=-1).astype(np.float64))
    return np.stack([deviates.fold(level), deviates.fold(slope), shape], axis=-1)
