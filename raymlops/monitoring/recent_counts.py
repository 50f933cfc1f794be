"""The newest counts of one version, for judging: ticks summed to several widths, as many of each as windows need. The
same ticks give the same counts in any order. Judges nothing."""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from raymlops.monitoring.cells import NUMBER_CELLS, Counts
from raymlops.monitoring.reference import Reference
from raymlops.monitoring.season import Hours
from raymlops.monitoring.ticks import ALL_ROWS, Tick
from raymlops.monitoring.windows import SCALES

HOUR_S = 3600
WIDTHS_S = (60, 300, 900, HOUR_S)
"""Widths of judged ticks, each a part of the next."""
ENOUGH_ROWS = 100
"""Of a tick: of the widths, the smallest that usually has as many is judged."""
_KEPT = 2 * SCALES[-1]
"""Ticks of each width that are kept; of hours more, as they are shown."""
_HOURS = 14 * 24
_REPEATS = 2 * 24 * 60
"""Maps of repeats that are kept."""


@dataclasses.dataclass
class _Sum:
    rows: int
    counts: Counts


@dataclasses.dataclass(frozen=True)
class RepeatCounts:
    """Of consecutive ticks (ticks,): start in seconds since 1970, rows, and bits that are set in the map of hashes."""

    starts: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    bits: npt.NDArray[np.int64]


class RecentCounts:
    """Bounded: of each segment and width the newest ticks. `add` takes ticks of any replicas and segments, each
    once."""

    def __init__(self, reference: Reference) -> None:
        self._columns = len(reference.columns)
        kinds = np.array([kind == "number" for kind in reference.kinds], bool)
        self._used = np.ones((self._columns, 32), bool)
        # what lies beyond the cells of a number is no count: there the residuals are summed
        self._used[kinds, NUMBER_CELLS:] = False
        self._sums: dict[tuple[str, int], dict[int, _Sum]] = {}
        self._repeats: dict[int, tuple[int, int]] = {}
        self.last = 0
        """End of the newest tick."""

    def add(self, ticks: Iterable[Tick]) -> None:
        """Of this version; those of another reference, whose columns differ, are passed over."""
        for tick in ticks:
            if not tick.rows or len(tick.counts) != self._columns:
                continue
            segment = tick.place.segment
            self.last = max(self.last, tick.start + tick.seconds)
            for width in WIDTHS_S:
                if width >= tick.seconds:
                    self._add(segment, width, tick)
            if segment == ALL_ROWS:
                rows, bits = self._repeats.get(tick.start, (0, 0))
                self._repeats[tick.start] = rows + tick.rows, bits | int.from_bytes(tick.repeats, "little")
        self._trim()

    def _add(self, segment: str, width: int, tick: Tick) -> None:
        held = self._sums.setdefault((segment, width), {})
        start = tick.start // width * width
        known = held.get(start)
        if known is None:
            held[start] = _Sum(tick.rows, tick.counts.astype(np.int64))
        else:
            known.rows += tick.rows
            known.counts += tick.counts

    def _trim(self) -> None:
        for (_, width), held in self._sums.items():
            for start in sorted(held)[: -(_HOURS if width == HOUR_S else _KEPT)]:
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
        """Those that end by `until`, and begin at `least` or later, without the sums of residuals."""
        chosen = list(self._choose(segment, width, until, least))
        starts = np.array([start for start, _ in chosen], np.int64)
        rows = np.array([one.rows for _, one in chosen], np.int64)
        counts = np.zeros((len(chosen), self._columns, 32))
        for place, (_, one) in enumerate(chosen):
            counts[place] = one.counts
        counts *= self._used
        return Hours(counts, rows, starts)

    def sum_residuals(self, segment: str, width: int, since: float, until: float) -> npt.NDArray[np.int64]:
        """What stands in the last cell of each column (columns,), of the ticks from `since` until before `until`."""
        total = np.zeros(self._columns, np.int64)
        for _, one in self._choose(segment, width, until, since):
            total += np.where(self._used[:, -1], 0, one.counts[:, -1])
        return total

    def _choose(self, segment: str, width: int, until: float, least: float) -> Iterator[tuple[int, _Sum]]:
        held = self._sums.get((segment, width), {})
        for start in sorted(held):
            if least <= start and start + width <= until:
                yield start, held[start]

    def list_repeats(self, until: float) -> RepeatCounts:
        kept = [(start, *self._repeats[start]) for start in sorted(self._repeats) if start < until]
        return RepeatCounts(
            np.array([start for start, _, _ in kept], np.int64),
            np.array([rows for _, rows, _ in kept], np.int64),
            np.array([bits.bit_count() for _, _, bits in kept], np.int64),
        )
