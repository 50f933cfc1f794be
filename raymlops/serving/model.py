"""One ONNX model as an endpoint: warmed up, timed, run on the event loop when short and batched in a thread
when long. Requests that come together share a run either way."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from raymlops.errors import InputError, RaymlopsError
from raymlops.models.parity import find_differing
from raymlops.models.session import Session
from raymlops.serving.batching import Batcher, BatchOptions
from raymlops.serving.statistics import Statistics
from raymlops.serving.turns import Turns
from raymlops.tensors import Batch, Signature, TensorSpec, split_rows

INLINE_S = 0.001
"""A run shorter than this stays on the event loop: handing it to a thread and back costs 0.1 ms and a lock
fight."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """Seconds of a run: `fixed` and for each row; `joins` if rows together are cheaper than one by one."""

    fixed: float
    row: float
    joins: bool

    def of(self, rows: int) -> float:
        return self.fixed + rows * self.row

    @property
    def inline_rows(self) -> int:
        """Rows of the longest run that stays on the event loop."""
        return int(min(2**31, max(0.0, INLINE_S - self.fixed) / max(self.row, 1e-12)))


class ModelEndpoint:
    """Answers batches with one session. Make it on the event loop that will serve it."""

    def __init__(
        self,
        session: Session,
        statistics: Statistics,
        options: BatchOptions | None = None,
        mode: str = "auto",
        deadline_s: float = 30.0,
    ) -> None:
        self._session = session
        self._deadline_s = deadline_s
        self.signature: Signature = session.signature
        self.version = statistics.version
        self.cost = measure(session)
        options = options or BatchOptions()
        may_join = is_joinable(session.signature) and (
            mode == "on" or (mode == "auto" and rows_stand_alone(session.infer, session.signature))
        )
        join = may_join and (mode == "on" or self.cost.joins)
        self._batcher = Batcher(session.infer, dataclasses.replace(options, join=join), statistics)
        self._turns = Turns(statistics)
        self._most = min(options.max_rows, self.cost.inline_rows) if may_join else 0
        self.joins = join

    async def infer(self, batch: Batch, *, key: str | None = None) -> Batch:
        """Answer a batch. Raises InputError, OverloadedError, DeadlineError."""
        rows = count_batch_rows(batch)
        if self.cost.of(rows) > INLINE_S:
            return await self._batcher.submit(batch, rows, self._deadline_s)
        return await self._turns.infer(lambda joined, _: self._session.infer(joined), batch, rows, self._most)

    def check(self) -> None:
        """Run the model once. Raises what the run raises, unless the sample row itself is to blame."""
        try:
            self._session.infer(sample(self.signature, 1))
        except InputError:
            return

    def close(self) -> None:
        self._batcher.close()


def count_batch_rows(batch: Batch) -> int:
    for array in batch.values():
        return len(array) if array.ndim else 1
    return 1


def is_joinable(signature: Signature) -> bool:
    """True if every tensor starts with a free dimension, so that rows can be joined and split."""
    return bool(signature.inputs) and all(spec.shape[:1] == (-1,) for spec in signature)


def rows_stand_alone(infer: Callable[[Batch], Batch], signature: Signature) -> bool:
    """True if rows together are answered as each alone, on random numbers; requests may then share a run."""
    if not is_joinable(signature):
        return False
    noise = make_noise(signature, 3)
    try:
        together = infer(noise)
        if any(array.shape[:1] != (3,) for array in together.values()):
            return False
        rows = zip(split_rows(together, (1, 1, 1)), split_rows(noise, (1, 1, 1)), strict=True)
        return not any(find_differing(answer, infer(row)) for answer, row in rows)
    except RaymlopsError:
        return False


def sample(signature: Signature, rows: int) -> Batch:
    """Harmless values that the model takes: zeros and empty strings, free inner dimensions of size 1."""
    return {spec.name: _sample_tensor(spec, rows) for spec in signature.inputs}


def make_noise(signature: Signature, rows: int) -> Batch:
    """As `sample`, with random numbers where a tensor is of floats."""
    noise = np.random.default_rng(0)
    batch = sample(signature, rows)
    for name, array in batch.items():
        if array.dtype.kind == "f":
            batch[name] = noise.normal(size=array.shape).astype(array.dtype)
    return batch


def _sample_tensor(spec: TensorSpec, rows: int) -> np.ndarray[Any, Any]:
    shape = [size if size >= 0 else (rows if axis == 0 else 1) for axis, size in enumerate(spec.shape)]
    return np.full(shape, "", dtype=object) if spec.datatype == "BYTES" else np.zeros(shape, spec.dtype)


def measure(session: Session, rows: int = 16) -> Cost:
    """Warm the session up and time it at one row and at several. A model that refuses zeros counts as
    dear."""
    try:
        one = _time(session, sample(session.signature, 1))
        if not is_joinable(session.signature):
            return Cost(one, 0.0, joins=False)
        many = _time(session, sample(session.signature, rows))
    except InputError:
        return Cost(fixed=1.0, row=0.0, joins=False)
    slope = max(0.0, (many - one) / (rows - 1))
    return Cost(fixed=max(0.0, one - slope), row=slope, joins=many < 0.7 * rows * one)


def _time(session: Session, batch: Batch) -> float:
    """Median seconds of a few runs after the first two; a dear model is timed less often."""
    session.infer(batch)
    times: list[float] = []
    ends = time.perf_counter() + 0.2
    while len(times) < 3 or (len(times) < 20 and time.perf_counter() < ends):
        started = time.perf_counter()
        session.infer(batch)
        times.append(time.perf_counter() - started)
    return float(np.median(times))
