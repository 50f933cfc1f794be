"""One ONNX model as an endpoint: warmed up, timed, run on the event loop when short and batched in a thread
when long. Requests that come together share a run either way."""

import dataclasses
from collections.abc import Callable

import numpy as np

from raymlops.errors import ProcessEndedError, RaymlopsError
from raymlops.models.isolated_session import IsolatedSession
from raymlops.models.parity import find_differing
from raymlops.models.session import Session
from raymlops.serving import cost
from raymlops.serving.batching import Batcher, BatchOptions
from raymlops.serving.statistics import Statistics
from raymlops.serving.turns import Turns
from raymlops.tensors import Batch, Signature, split_rows


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
        self._statistics = statistics
        self._deadline_s = deadline_s
        self.signature: Signature = session.signature
        self.version = statistics.version
        self.cost = cost.measure(session)
        options = options or BatchOptions()
        if isinstance(session, IsolatedSession):  # where one request may end the run of all that share it
            mode = "off"
        may_join = cost.is_joinable(session.signature) and (
            mode == "on" or (mode == "auto" and rows_stand_alone(session.infer, session.signature))
        )
        join = may_join and (mode == "on" or self.cost.joins)
        self._batcher = Batcher(
            lambda batch, control: session.infer(batch, control=control),
            dataclasses.replace(options, join=join),
            statistics,
            session.begin,
        )
        self._turns = Turns(statistics)
        self._most = min(options.max_rows, self.cost.inline_rows) if may_join else 0
        self.joins = join

    async def infer(self, batch: Batch, *, key: str | None = None) -> Batch:
        """Answer a batch. Raises InputError, OverloadedError, DeadlineError."""
        rows = cost.count_batch_rows(batch)
        if not self.cost.is_short(batch, rows):
            try:
                return await self._batcher.submit(batch, rows, self._deadline_s)
            except ProcessEndedError:
                self._statistics.ended += 1
                raise
        most = self.cost.count_joined_rows(batch, rows, self._most)
        return await self._turns.infer(lambda joined, _: self._session.infer(joined), batch, rows, most)

    def check(self) -> None:
        """Run the model once. Raises what the run raises, unless the sample row itself is to blame."""
        cost.check(self._session)

    def close(self) -> None:
        self._batcher.close()
        self._session.close()


def rows_stand_alone(infer: Callable[[Batch], Batch], signature: Signature) -> bool:
    """True if rows together are answered as each alone, on random numbers; requests may then share a run."""
    if not cost.is_joinable(signature):
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


def make_noise(signature: Signature, rows: int) -> Batch:
    """As `sample`, with random numbers where a tensor is of floats."""
    noise = np.random.default_rng(0)
    batch = cost.sample(signature, rows)
    for name, array in batch.items():
        if array.dtype.kind == "f":
            batch[name] = noise.normal(size=array.shape).astype(array.dtype)
    return batch
