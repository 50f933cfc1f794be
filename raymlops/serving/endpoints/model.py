"""One ONNX model as an endpoint: warmed up, timed, run on the event loop if short, and batched in a thread if long.
Concurrent requests share a run in both cases."""

import asyncio
import dataclasses

from raymlops.errors import ArtifactError, ProcessEndedError
from raymlops.models.isolated_session import IsolatedSession
from raymlops.models.row_independence import Independence
from raymlops.models.session import LONGEST_CHECK_S, Session
from raymlops.runtime import run_cost
from raymlops.serving.endpoints.queue_batcher import BatchOptions, QueueBatcher
from raymlops.serving.endpoints.statistics import Statistics
from raymlops.serving.endpoints.tick_batcher import TickBatcher
from raymlops.tensors import Batch, Signature

UNKNOWN = Independence("its operators were not examined")
ISOLATED = Independence(
    "a request may end the process that answers it, and with it all requests that share its run"
)


class ModelEndpoint:
    """Answers batches with one session. Create it on the event loop that will serve it."""

    def __init__(
        self,
        session: Session,
        statistics: Statistics,
        options: BatchOptions | None = None,
        mode: str = "auto",
        deadline_s: float = 30.0,
        independence: Independence = UNKNOWN,
    ) -> None:
        """Requests share runs only if the rows are proven to be independent.

        Raises ArtifactError if `mode` is "on" and they are not.
        """
        self._session = session
        self._statistics = statistics
        self._deadline_s = deadline_s
        self.signature: Signature = session.signature
        self.version = statistics.version
        self.cost = run_cost.measure(session)
        options = options or BatchOptions()
        if isinstance(session, IsolatedSession):
            mode, independence = "auto", ISOLATED
        require_independence(statistics.name, mode, independence)
        statistics.sharing = independence.told if mode != "off" else "switched off"
        may_join = mode != "off" and bool(independence)
        join = may_join and (mode == "on" or self.cost.joins)
        self._batcher = QueueBatcher(
            lambda batch, control: session.infer(batch, control=control),
            dataclasses.replace(options, join=join),
            statistics,
            session.begin,
        )
        self._turns = TickBatcher(statistics)
        self._most = min(options.max_rows, self.cost.inline_rows) if may_join else 0
        self._required = len(session.signature.inputs)

    async def infer(self, batch: Batch, *, key: str | None = None) -> Batch:
        """Answer a batch. Raises InputError, OverloadedError, DeadlineError.

        A batch with values for optional inputs has its own run, off the event loop: row independence and run time are
        known for the default values only.
        """
        alone = len(batch) > self._required
        rows = run_cost.count_batch_rows(self._leave_optional(batch) if alone else batch)
        if alone or not self.cost.is_short(batch, rows):
            try:
                return await self._batcher.submit(batch, rows, self._deadline_s, alone=alone)
            except ProcessEndedError:
                self._statistics.ended += 1
                raise
        most = self.cost.count_joined_rows(batch, rows, self._most)
        return await self._turns.infer(lambda joined, _: self._session.infer(joined), batch, rows, most)

    def _leave_optional(self, batch: Batch) -> Batch:
        return {spec.name: batch[spec.name] for spec in self.signature.inputs}

    async def try_batch(self, batch: Batch) -> Batch:
        """The answer to a batch outside of any request: uncounted, in a thread. Raises what a run raises."""
        return await asyncio.to_thread(self._session.infer_within, batch, LONGEST_CHECK_S)

    def check(self) -> None:
        """Run the model once. Raises what the run raises, unless the sample row itself is the cause."""
        run_cost.check(self._session)

    def close(self) -> None:
        self._batcher.close()
        self._session.close()


def require_independence(name: str, mode: str, independence: Independence) -> None:
    """Raises ArtifactError if requests must share runs of a model whose rows are not proven to be independent."""
    if mode == "on" and not independence:
        raise ArtifactError(
            f"Requests for {name!r} cannot share a run, as batching asks: its rows are not proven to be "
            f"independent ({independence.reason}); set batching: {{mode: off}}, or auto"
        )
