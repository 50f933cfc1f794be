"""Counts answered rows into ticks: rows wait until some thousand of them can be counted at once, which takes a tenth of
the time, or until their tick is taken. Memory is bounded whatever the rows are. Has no thread."""

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from raymlops.errors import describe_cause
from raymlops.histograms import Histogram
from raymlops.monitoring import repeats, row_values
from raymlops.monitoring.reference import Reference
from raymlops.monitoring.segments import Segment
from raymlops.monitoring.ticks import REPEAT_BITS, Place, Tick, no_counts
from raymlops.tensors import Batch

LOG = logging.getLogger(__name__)
BULK_ROWS = 1024
"""Rows that are counted at once."""
BULK_BYTES = 4 * 2**20
"""Of the tensors that wait; beyond, fewer rows are counted at once."""
_MOST_BYTES = 32 * 2**20
"""Of all that waits for one counter."""
_CHUNK = 4096
"""Rows of a large request that are counted at once."""
_TEXT_BYTES = 64


@dataclasses.dataclass(frozen=True)
class WatchedModel:
    """A version at one place; without a reference, requests and rows alone are counted."""

    place: Place
    reference: Reference | None = None
    segments: tuple[Segment, ...] = ()

    @property
    def columns(self) -> int:
        return len(self.reference.columns) if self.reference is not None else 0


class _Waiting(NamedTuple):
    """Rows that are not counted yet."""

    batch: Batch
    answer: Batch
    rows: int


class Cost:
    """Rows that were counted, and the CPU time that it took, in seconds."""

    def __init__(self) -> None:
        self.rows, self.seconds = 0.0, 0.0

    def fade(self, factor: float) -> None:
        self.rows, self.seconds = self.rows * factor, self.seconds * factor


class OpenTick:
    """One tick of one place while it is counted. The fields without a comment are those of `Tick`."""

    def __init__(self, watched: WatchedModel, start: int, seconds: int, cost: Cost | None = None) -> None:
        self._cost = cost or Cost()
        self.watched, self.start, self.seconds = watched, start, seconds
        self.rows = self.answered = self.retried = self.lost = 0
        self.requests: dict[str, int] = {}
        self.latencies: list[int] = []
        """Nanoseconds of answered requests."""
        self.first = self.last = 0.0
        self.bytes = 0
        """Of what waits."""
        self._latency = Histogram()
        self._bits = np.zeros(REPEAT_BITS, bool)
        self._counts = no_counts(watched.columns)
        self._parts: dict[str, list[Any]] = {}
        self._waiting: list[_Waiting] = []
        self._waiting_rows = 0

    def add_rows(self, batch: Batch, answer: Batch, rows: int, size: int | None = None) -> None:
        """Rows that are to be counted: arrays (rows, ...) by name, of about `size` bytes, which nobody changes
        afterwards."""
        if self.watched.reference is None:
            self.rows += rows
            return
        self._waiting.append(_Waiting(batch, answer, rows))
        self._waiting_rows += rows
        self.bytes += _count_bytes(batch) + _count_bytes(answer) if size is None else size
        if self._waiting_rows >= BULK_ROWS or self.bytes >= BULK_BYTES:
            self._count_waiting()

    def count(self) -> None:
        """Count what waits."""
        self._count_waiting()
        if self.latencies:
            latencies, self.latencies = self.latencies, []
            self._latency.add_all(np.array(latencies, np.int64))

    def _count_waiting(self) -> None:
        waiting, self._waiting, self._waiting_rows, self.bytes = self._waiting, [], 0, 0
        if not waiting:
            return
        began = time.thread_time()
        self._count_together(waiting)
        self._cost.rows += sum([one.rows for one in waiting])
        self._cost.seconds += time.thread_time() - began

    def _count_together(self, waiting: Sequence[_Waiting]) -> None:
        """Rows that cannot be counted, whatever the reason, are lost, and the others are not."""
        rows, done = sum([one.rows for one in waiting]), 0
        try:
            batch = _join([one.batch for one in waiting])
            answer = _join([one.answer for one in waiting])
            for begin in range(0, rows, _CHUNK):
                part, size = slice(begin, begin + _CHUNK), min(_CHUNK, rows - begin)
                self._count_rows(_take(batch, part, rows), _take(answer, part, rows), size)
                done += size
        except Exception as error:
            if len(waiting) == 1 or done:
                self.lost += rows - done
                LOG.error("%s: rows cannot be counted: %s", self.watched.place.path, describe_cause(error))
                return
            groups = _group(waiting)
            for group in groups if len(groups) > 1 else [[one] for one in waiting]:
                self._count_together(group)

    def _count_rows(self, batch: Batch, answer: Batch, rows: int) -> None:
        reference = self.watched.reference
        assert reference is not None
        with np.errstate(all="ignore"):
            by_row = {name: values for name, values in batch.items() if values.ndim and len(values) == rows}
            inputs = row_values.read_inputs(by_row, reference.texts)
            answers = row_values.name_answers(row_values.read_answers(answer, rows), batch)
            measured = reference.measure({**inputs, **answers})
            if len(measured.codes) != rows:
                raise ValueError(f"{len(measured.codes)} rows of tensors, but {rows} of the request")
            hashes = repeats.hash_rows(batch, rows)
        # from here on nothing fails: rows are counted whole or not at all
        self._counts += measured.count()
        self.rows += rows
        repeats.set_bits(self._bits, hashes)
        for segment in self.watched.segments:
            marked = segment.find_rows(measured.codes)
            size = int(np.count_nonzero(marked))
            if size:
                held = self._parts.setdefault(segment.name, [0, no_counts(self.watched.columns)])
                held[0] += size
                held[1] += measured.count(marked)

    def to_ticks(self, replica: str = "") -> list[Tick]:
        """All rows, then each segment that has any."""
        self.count()
        place = self.watched.place
        whole = Tick(
            place,
            self.start,
            self.seconds,
            self._counts if self.rows and self.watched.columns else no_counts(),
            rows=self.rows,
            answered=self.answered,
            retried=self.retried,
            lost=self.lost,
            requests=dict(sorted(self.requests.items())),
            latency=tuple(self._latency.counts),
            repeats=repeats.to_bytes(self._bits),
            first=self.first,
            last=self.last,
            replica=replica,
        )
        times = {"first": self.first, "last": self.last, "replica": replica}
        return [
            whole,
            *(
                Tick(
                    place._replace(segment=name),
                    self.start,
                    self.seconds,
                    counts,
                    rows=rows,
                    answered=rows,
                    **times,  # type: ignore[arg-type]
                )
                for name, (rows, counts) in sorted(self._parts.items())
            ),
        ]


class TickCounter:
    """The ticks of a replica. `seconds` is their width."""

    def __init__(self, seconds: int, replica: str = "") -> None:
        self.seconds, self.replica = seconds, replica
        self.cost = Cost()
        self._open: dict[tuple[Place, int], OpenTick] = {}

    def open(self, watched: WatchedModel, instant: float) -> OpenTick:
        """The tick in which this time is, in seconds since 1970; clocks may jump."""
        start = int(instant // self.seconds) * self.seconds
        key = watched.place, start
        found = self._open.get(key)
        if found is None:
            found = self._open[key] = OpenTick(watched, start, self.seconds, self.cost)
        return found

    def bound(self) -> None:
        """Count what waits if it has become large; call it after a batch of requests."""
        if sum(tick.bytes for tick in self._open.values()) > _MOST_BYTES:
            for tick in self._open.values():
                tick.count()

    def take(self) -> list[Tick]:
        """All that was counted since the last call."""
        ticks, self._open = self._open, {}
        return [one for _, tick in sorted(ticks.items()) for one in tick.to_ticks(self.replica)]


def count_table(
    watched: WatchedModel, batch: Batch, answer: Batch, rows: int, instant: float, seconds: int
) -> list[Tick]:
    """The ticks of rows that were all answered at this time, such as those of a block of a file."""
    tick = OpenTick(watched, int(instant // seconds) * seconds, seconds)
    tick.answered, tick.first, tick.last = rows, instant, instant
    tick.add_rows(batch, answer, rows)
    return tick.to_ticks()


def _group(waiting: Sequence[_Waiting]) -> list[list[_Waiting]]:
    """By the shapes and types of their tensors: callers choose lengths, and whether they send optional inputs."""
    groups: dict[tuple[Any, ...], list[_Waiting]] = {}
    for one in waiting:
        key = tuple(
            (name, values.dtype.char, values.shape[1:])
            for held in (one.batch, one.answer)
            for name, values in held.items()
        )
        groups.setdefault(key, []).append(one)
    return list(groups.values())


def _join(batches: list[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    names = [name for name, values in batches[0].items() if values.ndim]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in names}


def _take(batch: Batch, part: slice, rows: int) -> Batch:
    if rows <= _CHUNK:
        return batch
    return {
        name: values[part] if values.ndim and len(values) == rows else values
        for name, values in batch.items()
    }


def _count_bytes(batch: Mapping[str, npt.NDArray[Any]]) -> int:
    """Texts are taken as of 64 bytes; the queue before has the sizes of their bodies."""
    return sum(
        [
            values.nbytes if values.dtype.kind != "O" else values.size * (_TEXT_BYTES + 8)
            for values in batch.values()
        ]
    )
