"""Labels that came, against those that the reference has at such scores: whether more are positive, whether the score
still ranks them, and the rest; over the last 1, 2, 4 ... 64 days with labels. Reads no store and tells nobody."""

from collections.abc import Mapping

import numpy as np
from scipy import special

from raymlops.monitoring import sentences
from raymlops.monitoring.baseline import MONTH_S
from raymlops.monitoring.calibration import Calibration, Labelled
from raymlops.monitoring.deviates import Floats
from raymlops.monitoring.judgement import Verdict
from raymlops.monitoring.quality import LABEL_TESTS, NUMBER_LABEL_TESTS, find_label_deviates, measure_quality

_DAY_S = 86_400
_SCALES = (1, 2, 4, 8, 16, 32, 64)
_LEAST_ROWS = 30
_FAMILIES = 5
"""Labels have a fifth of the false alarms."""
_INDEPENDENT = 10.0
"""Of all windows and tests of a day, about as many are like independent ones."""
_NAMES = {
    "level": "other shares of them are positive, or right, than at such scores before",
    "slope": "the score ranks them less well, or better, than before",
    "shape": "they fit their scores otherwise than before",
    "shift": "predictions are off to one side by more than before",
    "spread": "predictions are further off than before",
}


def judge_labels(
    calibration: Calibration,
    days: Mapping[int, Labelled],
    model: str,
    version: str,
    false_alarms_per_month: float = 1.0,
) -> Verdict | None:
    """Of days with labels, by their start in seconds since 1970 UTC; None if their newest windows are as usual."""
    starts = sorted(days)
    tests = NUMBER_LABEL_TESTS if calibration.task == "regression" else LABEL_TESTS
    factors = np.sqrt(_find_factors(calibration))
    rate = false_alarms_per_month / _FAMILIES * _DAY_S / MONTH_S
    threshold = float(-special.ndtri(min(rate / _INDEPENDENT, 0.5)))
    best: tuple[float, int, int, Labelled] | None = None
    for scale in _SCALES:
        held = starts[-scale:]
        if len(held) < scale:
            break
        total = days[held[0]]
        for start in held[1:]:
            total = total + days[start]
        if total.rows >= _LEAST_ROWS:
            deviates = find_label_deviates(calibration, total.counts) / factors
            test = int(deviates.argmax())
            if best is None or deviates[test] > best[0]:
                best = float(deviates[test]), test, held[0], total
    if best is None or best[0] <= threshold:
        return None
    deviate, test, since, total = best
    chance = max(float(special.ndtr(-deviate)) * _INDEPENDENT, 1e-300)
    measured = measure_quality(calibration, total)[0]
    seconds = _DAY_S / chance
    told = sentences.describe_chance(seconds, false_alarms_per_month)
    quality = "" if measured.is_silent else f" Measured, {measured.describe()}."
    begin = sentences.write_time(since)
    return Verdict(
        family="labels",
        segment="",
        severity="page",
        since=float(since),
        until=float(starts[-1] + _DAY_S),
        rows=total.rows,
        findings=(),
        columns=(calibration.target,),
        deviate=deviate,
        threshold=threshold,
        seconds_by_chance=seconds,
        sentence=f"{model} v{version}: labels differ. Since {begin} ({total.rows:,} labelled rows) "
        f"{_NAMES[tests[test]]}.{quality} {told}",
        chance=told,
        damage=quality.strip(),
    )


def _find_factors(calibration: Calibration) -> Floats:
    """How much larger the variance of each test is than that of independent rows, from the parts of the reference's
    time: what makes labels of a day alike, such as its weather, is no change."""
    ones: Floats = np.ones(3)
    if not calibration.chunk_days or len(calibration.counts) < 4:
        return ones
    parts = find_label_deviates(calibration, calibration.counts)
    usual = np.quantile(parts, 0.8, axis=0) / 0.8416
    found: Floats = np.maximum(ones, usual) ** 2
    return found
