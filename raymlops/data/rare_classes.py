"""Refuses a target with a class too rare for every side of a split, before anything is trained. Changes no row."""

from collections.abc import Mapping
from typing import Any

from raymlops.data.scan import Scan
from raymlops.data.splits import SMALL
from raymlops.errors import DataError
from raymlops.specs.dataset import RandomSplit, TimeSplit

_MOST = 50
"""Distinct whole numbers up to which a target without a stated task has classes."""
_SHOWN = 5
_FOLDED = 3
"""Rows that a class needs at least, one for each side."""


def require(scan: Scan, task: str) -> None:
    """Raises DataError if a side has no row of a class; a split by time may lack some of several classes after the
    training rows. Targets of regressions, and splits of versions before 0.2, are not checked."""
    classes, split = scan.classes, scan.rule.spec
    if classes is None or task == "regression" or getattr(split, "version", 2) == 1:
        return
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in classes)
    if len(classes) < 2 or (task == "auto" and whole and len(classes) > _MOST):
        return
    late = isinstance(split, TimeSplit) and len(classes) > 2
    missing = [value for value, rows in classes.items() if not (rows[0] if late else all(rows))]
    if missing:
        raise DataError(_describe(scan.rule.target, missing, classes, scan))


def _describe(
    target: str, missing: list[Any], classes: Mapping[Any, tuple[int, int, int]], scan: Scan
) -> str:
    named = "; ".join(
        f"{value!r} has {classes[value][0]} training, {classes[value][1]} validation and {classes[value][2]} test rows"
        for value in missing[:_SHOWN]
    )
    more = f"; and {len(missing) - _SHOWN} others" if len(missing) > _SHOWN else ""
    remedies = []
    column = target if target.isidentifier() else f"`{target}`"
    many = sum(map(sum, classes.values())) >= SMALL  # sides are left to a hash, and shares are not exact
    few = [value for value in missing if many or sum(classes[value]) < _FOLDED]
    if few and len(classes) - len(few) >= 2:
        listed = ", ".join(repr(value) for value in few)
        together = sum(sum(classes[value]) for value in few)
        if together >= _FOLDED and all(isinstance(value, str) for value in classes):
            folded = f"where({column} in [{listed}], 'other', {column})"
            remedies.append(f'fold them, dataset.derive: {{{target!r}: "{folded}"}}')
        remedies.append(f'leave them out, dataset.where: "{column} not in [{listed}]"')
    if isinstance(scan.rule.spec, TimeSplit):
        remedies.append("give other split.fractions, or a split that is not by time")
    elif not isinstance(scan.rule.spec, RandomSplit) or scan.rule.spec.key:
        remedies.append(
            "give another split.seed or other split.fractions, since rows that belong together do not part"
        )
    elif any(sum(classes[value]) >= _FOLDED for value in missing):
        remedies.append("give another split.seed or other split.fractions")
    remedies.append("give more rows of them")
    return (
        f"Target {target!r} has classes that are too rare for training, validation and test: {named}{more}; "
        + ", or ".join(remedies)
    )
