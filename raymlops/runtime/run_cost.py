"""Measures the run time of a model by the sizes of its inputs, and decides which runs are short enough for the event
loop. Does not know requests.

Only measured sizes count as short: run time may grow faster than the sizes. A model whose run time depends on values
(`Session.by_value`) is of unknown run time, and never short.
"""

import contextlib
import dataclasses
import time
from typing import TypeAlias

import numpy as np

from raymlops.errors import DeadlineError, InputError, TooLargeError
from raymlops.models.session import LONGEST_CHECK_S, Session
from raymlops.tensors import Batch, Signature, sample

INLINE_S = 0.001
"""A run shorter than this stays on the event loop: passing it to a thread and back costs 0.1 ms and contention for
the GIL."""
_LARGEST = 2**20
"""Elements of the largest sample that is measured."""
_BLAMED = (InputError, TooLargeError, DeadlineError)
"""Errors of a model for a sample that it does not accept."""
_ALL = 2**31
"""More rows than any request has."""


Axes: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]
"""Input -> its axes, other than that of the rows, whose sizes a request chooses."""


@dataclasses.dataclass(frozen=True)
class FreeSizes:
    """Dimensions other than the rows' that a request chooses, and the sizes up to which runs were found short."""

    axes: Axes
    largest: int
    """Size of one of these axes."""
    elements: int
    """Elements of all inputs together."""

    def hold(self, batch: Batch) -> bool:
        return find_largest(batch, self.axes) <= self.largest and count_elements(batch) <= self.elements


@dataclasses.dataclass(frozen=True)
class Cost:
    """Seconds of a run: `fixed` plus those of each row; `joins` if rows together are cheaper than one by one.

    Runs of up to `inline_rows`, within `sizes` if requests choose some, stay on the event loop.
    """

    fixed: float
    row: float
    joins: bool
    inline_rows: int = 0
    sizes: FreeSizes | None = None

    def is_short(self, batch: Batch, rows: int) -> bool:
        return rows <= self.inline_rows and (self.sizes is None or self.sizes.hold(batch))

    @property
    def always_inline_rows(self) -> int:
        """Rows of the largest run that is short whatever its other sizes."""
        return self.inline_rows if self.sizes is None else 0

    def count_joined_rows(self, batch: Batch, rows: int, most: int) -> int:
        """Rows, at most `most`, of requests such as this one whose shared run is short too."""
        if self.sizes is None:
            return most
        return min(most, rows * (self.sizes.elements // max(1, count_elements(batch))))


def measure(session: Session, rows: int = 16) -> Cost:
    """Warm the session up and time it at one row and at several. A model that refuses zeros counts as expensive."""
    signature = session.signature
    joinable = is_joinable(signature)
    try:
        one = time_runs(session, sample(signature, 1))
        many = time_runs(session, sample(signature, rows)) if joinable else one
    except _BLAMED:
        return Cost(fixed=1.0, row=0.0, joins=False)
    slope = max(0.0, (many - one) / (rows - 1))
    cost = Cost(max(0.0, one - slope), slope, joins=joinable and many < 0.7 * rows * one)
    if session.by_value or one > INLINE_S:
        return cost
    inline_rows = _find_short_rows(session, {1: one, rows: many}) if joinable else _ALL
    return dataclasses.replace(cost, inline_rows=inline_rows, sizes=_find_short_sizes(session))


def is_joinable(signature: Signature) -> bool:
    """True if every tensor starts with a free dimension, so that rows can be joined and split."""
    return bool(signature.inputs) and all(spec.shape[:1] == (-1,) for spec in signature)


def count_batch_rows(batch: Batch) -> int:
    for array in batch.values():
        return len(array) if array.ndim else 1
    return 1


def count_elements(batch: Batch) -> int:
    return sum(array.size for array in batch.values())


def list_free_axes(signature: Signature) -> Axes:
    """If rows cannot be joined, the first axes are among them."""
    first = 1 if is_joinable(signature) else 0
    return tuple(
        (spec.name, free)
        for spec in signature.inputs
        if (free := tuple(axis for axis, fixed in enumerate(spec.shape) if axis >= first and fixed < 0))
    )


def find_largest(batch: Batch, axes: Axes) -> int:
    """The largest size of these axes; 0 if there are none."""
    return max((batch[name].shape[axis] for name, free in axes for axis in free), default=0)


def _find_short_rows(session: Session, times: dict[int, float]) -> int:
    """Rows of the longest run that is short, between the largest that was short and the smallest that was not."""
    short, took = 1, times[1]
    rows = max(times)
    while count_elements(sample(session.signature, rows)) <= _LARGEST:
        seconds = times[rows] if rows in times else _time_or_refuse(session, sample(session.signature, rows))
        if seconds > INLINE_S:
            return short + int((rows - short) * (INLINE_S - took) / (seconds - took))
        short, took = rows, seconds
        rows *= 16
    return short


def _find_short_sizes(session: Session) -> FreeSizes | None:
    """The free dimensions and their largest sizes; None if only the rows are free."""
    signature = session.signature
    axes = list_free_axes(signature)
    if not axes:
        return None
    joinable = is_joinable(signature)
    largest, elements, size = 1, count_elements(sample(signature, 1)), 2
    while True:
        batch = sample(signature, 1 if joinable else size, size)
        if count_elements(batch) > _LARGEST or _time_or_refuse(session, batch) > INLINE_S:
            return FreeSizes(axes, largest, elements)
        largest, elements, size = size, count_elements(batch), 2 * size


def _time_or_refuse(session: Session, batch: Batch) -> float:
    """Seconds of a run; infinite for sizes that the model does not accept."""
    try:
        return time_runs(session, batch)
    except _BLAMED:
        return float("inf")


def check(session: Session) -> None:
    """Run the model once. Raises what the run raises, unless the sample row itself is the cause."""
    with contextlib.suppress(*_BLAMED):
        session.check(sample(session.signature, 1))


def _infer(session: Session, batch: Batch) -> Batch:
    return session.infer_within(batch, LONGEST_CHECK_S) if session.by_value else session.infer(batch)


def time_runs(session: Session, batch: Batch) -> float:
    """Median seconds of a few runs after the first two; an expensive model is timed less often."""
    _infer(session, batch)
    times: list[float] = []
    ends = time.perf_counter() + 0.2
    while len(times) < 3 or (len(times) < 20 and time.perf_counter() < ends):
        started = time.perf_counter()
        _infer(session, batch)
        times.append(time.perf_counter() - started)
        if times[-1] > 100 * INLINE_S:
            break
    return float(np.median(times))
