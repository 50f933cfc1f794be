"""The newest counts of one version, for judging: ticks summed to several widths, as many of each as windows need. The
same ticks give the same counts in any order. Judges nothing."""

import copy
import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from raymlops.monitoring.cells import CATEGORY_CELLS, NUMBER_CELLS, Counts
from raymlops.monitoring.reference import Reference
from raymlops.monitoring.season import UTC, Hours
from raymlops.monitoring.ticks import ALL_ROWS, Tick
from raymlops.monitoring.windows import SCALES

HOUR_S = 3600
WIDTHS_S = (60, 300, 900, HOUR_S)
"""Widths of judged ticks, each a part of the next."""
ENOUGH_ROWS = 30
"""Of a tick: of the widths, the smallest that usually has as many is judged."""
_KEPT = SCALES[-1] + 32
"""Ticks of each width that are kept; of the hours of all rows more, as they are shown."""
_HOURS = 14 * 24
_REPEATS = 2 * 24 * 60
"""Maps of repeats that are kept."""


@dataclasses.dataclass(frozen=True)
class _Sum:
    rows: int
    counts: Counts

    def add(self, tick: Tick) -> "_Sum":
        return _Sum(self.rows + tick.rows, self.counts + tick.counts)


@dataclasses.dataclass(frozen=True)
class RepeatCounts:
    """Of consecutive ticks (ticks,): start in seconds since 1970, rows, and bits that are set in the map of hashes."""

    starts: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    bits: npt.NDArray[np.int64]


def find_cells(reference: Reference) -> npt.NDArray[np.bool_]:
    """Which places (columns, 32) of counts are cells: beyond those of a number, residuals are summed."""
    used = np.ones((len(reference.columns), CATEGORY_CELLS), bool)
    used[np.array([kind == "number" for kind in reference.kinds], bool), NUMBER_CELLS:] = False
    return used


class RecentCounts:
    """Bounded: of each segment and width the newest ticks. `add` takes ticks of any replicas and segments, each
    once."""

    def __init__(self, reference: Reference, zone: str = UTC) -> None:
        self._zone = zone
        self._columns = len(reference.columns)
        self._used = find_cells(reference)
        self._sums: dict[tuple[str, int], dict[int, _Sum]] = {}
        self._repeats: dict[int, tuple[int, int]] = {}
        self.last = 0
        """End of the newest tick."""

    def copy(self) -> "RecentCounts":
        """To which ticks may be added that this has not."""
        found = copy.copy(self)
        found._sums = {key: dict(held) for key, held in self._sums.items()}
        found._repeats = dict(self._repeats)
        return found

    def add(self, ticks: Iterable[Tick]) -> None:
        """Of this version; those of another reference, whose columns differ, are passed over."""
        kept = [tick for tick in ticks if tick.rows and len(tick.counts) == self._columns]
        for tick in kept:
            self.last = max(self.last, tick.start + tick.seconds)
            if tick.place.segment == ALL_ROWS:
                for width in WIDTHS_S:
                    self._add(tick, width)
                rows, bits = self._repeats.get(tick.start, (0, 0))
                self._repeats[tick.start] = rows + tick.rows, bits | int.from_bytes(tick.repeats, "little")
        widths = {self.choose_width(), HOUR_S}
        for tick in kept:
            if tick.place.segment != ALL_ROWS:
                for width in widths:
                    self._add(tick, width)
        self._trim()

    def _add(self, tick: Tick, width: int) -> None:
        if width < tick.seconds and width < HOUR_S:
            return
        held = self._sums.setdefault((tick.place.segment, width), {})
        start = tick.start // width * width
        known = held.get(start)
        held[start] = known.add(tick) if known else _Sum(tick.rows, tick.counts)

    def _trim(self) -> None:
        for (segment, width), held in self._sums.items():
            kept = _HOURS if segment == ALL_ROWS and width == HOUR_S else _KEPT
            for start in sorted(held)[:-kept]:
                del held[start]
        for start in sorted(self._repeats)[:-_REPEATS]:
            del self._repeats[start]

    @property
    def segments(self) -> tuple[str, ...]:
        return tuple(sorted({segment for segment, _ in self._sums}))

    def choose_width(self) -> int:
        """The smallest width whose ticks usually have enough rows, else an hour."""
        for width in WIDTHS_S[:-1]:
            rows = [one.rows for one in self._sums.get((ALL_ROWS, width), {}).values()]
            if rows and np.median(rows) >= ENOUGH_ROWS:
                return width
        return HOUR_S

    def ticks(self, segment: str, width: int, until: float, least: float = 0.0) -> Hours:
        """Those that end by `until`, or the first one, and begin at `least` or later; without the sums of
        residuals."""
        chosen = list(self._choose(segment, width, until, least))
        starts = np.array([start for start, _ in chosen], np.int64)
        rows = np.array([one.rows for _, one in chosen], np.int64)
        counts = np.zeros((len(chosen), self._columns, CATEGORY_CELLS))
        for place, (_, one) in enumerate(chosen):
            counts[place] = one.counts
        counts *= self._used
        return Hours.at(counts, rows, starts, self._zone)

    def sum_residuals(self, segment: str, width: int, since: float, until: float) -> npt.NDArray[np.int64]:
        """What stands in the last cell of each column (columns,), of the ticks from `since` until before `until`."""
        total = np.zeros(self._columns, np.int64)
        for _, one in self._choose(segment, width, until, since):
            total += np.where(self._used[:, -1], 0, one.counts[:, -1])
        return total

    def _choose(self, segment: str, width: int, until: float, least: float) -> Iterator[tuple[int, _Sum]]:
        held = self._sums.get((segment, width), {})
        starts = [start for start in sorted(held) if least <= start < until]
        whole = [start for start in starts if start + width <= until]
        # the first one need not be over: who has just begun to send rows waits for no hour
        for start in whole or starts[-1:]:
            yield start, held[start]

    def list_repeats(self, until: float) -> RepeatCounts:
        kept = [(start, *self._repeats[start]) for start in sorted(self._repeats) if start < until]
        return RepeatCounts(
            np.array([start for start, _, _ in kept], np.int64),
            np.array([rows for _, rows, _ in kept], np.int64),
            np.array([bits.bit_count() for _, _, bits in kept], np.int64),
        )
