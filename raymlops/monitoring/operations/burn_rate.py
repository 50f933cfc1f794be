"""Whether requests miss an objective so fast that its budget ends early. Pure functions of counts in windows.

The windows are those of the Site Reliability Workbook of Google, chapter 5, "Alerting on SLOs", table 5-8, for a budget
of 30 days: a long window says that it matters, a short one that it goes on. https://sre.google/workbook/alerting-on-slos
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from scipy import special

from raymlops.events.event import Severity

BUDGET_DAYS = 30
LEAST = 5
"""Requests that must have missed the objective, whatever their share."""
LEAST_OF_BAD_STARTS = 20
CHANCE = 1e-3
"""An objective that is met shows as many misses in so few windows; else a night of ten requests would alarm."""
HOLD = 0.8
"""An alarm that is open goes on until the share has fallen this far below where it was raised: it does not flap."""


class Window(NamedTuple):
    """`rate` is how many times faster than the objective allows the budget is used."""

    long_s: float
    short_s: float
    rate: float
    severity: Severity


WINDOWS: Sequence[Window] = (
    Window(3600.0, 300.0, 14.4, "page"),
    Window(6 * 3600.0, 1800.0, 6.0, "page"),
    Window(86_400.0, 7200.0, 3.0, "note"),
    Window(3 * 86_400.0, 6 * 3600.0, 1.0, "note"),
)
OUTAGE = Window(300.0, 60.0, 0.0, "page")
"""Beside them: most requests of some minutes. With an objective of some percent the windows above would need longer."""
OUTAGE_SHARE = 0.5


class Missed(NamedTuple):
    """Of the requests of a window."""

    bad: int
    total: int
    lasting_s: float = math.inf
    """Seconds since the first request, which are fewer than the window's while a version is young."""

    @property
    def share(self) -> float:
        return self.bad / self.total if self.total else 0.0


@dataclasses.dataclass(frozen=True)
class Burning:
    window: Window
    long: Missed
    short: Missed
    objective: float

    @property
    def rate(self) -> float:
        """How many times as many requests miss the objective as may."""
        return self.long.share / self.objective

    @property
    def days_left(self) -> float:
        """Until a whole budget is used at this rate."""
        return BUDGET_DAYS / self.rate


def find_burning(
    count: Callable[[float], Missed], objective: float, *, is_open: bool = False, starts_badly: bool = False
) -> Burning | None:
    """The most urgent window in which `objective`, a share of the requests, is missed; `count` counts the last so many
    seconds. `is_open` says that an alarm of it was raised before, `starts_badly` that the first requests to a version
    may miss it, as cold caches make them slow."""
    needed = LEAST_OF_BAD_STARTS if starts_badly else LEAST
    hold = HOLD if is_open else 1.0
    for window in (OUTAGE, *WINDOWS):
        least = hold * min(window.rate * objective or OUTAGE_SHARE, OUTAGE_SHARE)
        least = max(least, hold * objective)
        long, short = count(window.long_s), count(window.short_s)
        if window is not OUTAGE and (starts_badly or window.severity == "note"):
            # What was not seen yet counts as good, or some bad minutes would alarm for days after a start.
            least /= min(1.0, max(long.lasting_s, 1.0) / window.long_s)
        # Without requests nothing is known: an alarm that is open goes on, and none is raised.
        now = long.share if is_open and not short.total else short.share
        if min(long.share, now) >= least and long.bad >= needed and _is_no_chance(long, objective):
            return Burning(window, long, short, objective)
    return None


def _is_no_chance(found: Missed, objective: float) -> bool:
    """Whether an objective that is just met hardly ever gives as many misses."""
    return bool(special.bdtrc(found.bad - 1, found.total, objective) <= CHANCE)
