"""Joins requests for one short model that come in the same turn of the event loop into one run. Knows no HTTP and no
Ray.

Nobody waits for company: a turn is what the sockets held at one moment, and who is alone in it runs when it ends.
"""

import dataclasses
import types
from collections.abc import Callable, Generator, Sequence

from raymlops.serving.batching import join, split
from raymlops.tensors import Batch

MOST_ROWS = 256
"""That share a run, where nobody says otherwise."""
Run = Callable[[Batch, Sequence[int]], Batch]
"""Answers joined batches of so many rows each, at once, and every row as if it were alone."""


@dataclasses.dataclass(slots=True)
class _Group:
    batches: list[Batch]
    rows: list[int]
    total: int
    answers: list[Batch] | None = None


class Turns:
    """The requests for one model. All on one event loop, which takes ready tasks in their order."""

    def __init__(self) -> None:
        self._open: _Group | None = None

    async def infer(self, run: Run, batch: Batch, rows: int, most: int) -> Batch:
        """The answer to this batch, joined with others up to `most` rows. Raises what it raises alone."""
        group = self._open
        if group is not None and group.total + rows <= most:
            number = len(group.batches)
            group.batches.append(batch)
            group.rows.append(rows)
            group.total += rows
            await _end_of_turn()  # who opened the group has waited for it since before, and so has run by now
            return run(batch, (rows,)) if group.answers is None else group.answers[number]
        group = self._open = _Group([batch], [rows], rows)
        try:
            await _end_of_turn()
        finally:
            if self._open is group:
                self._open = None
        if len(group.batches) > 1 and _are_alike(group.batches):
            try:
                group.answers = split(run(join(group.batches), group.rows), group.rows)
                return group.answers[0]
            except Exception:  # one of them may be to blame: each runs alone, and learns its own
                group.answers = None
        return run(batch, (rows,))


def _are_alike(batches: Sequence[Batch]) -> bool:
    """The same tensors, but for their numbers of rows."""
    first = batches[0]
    return all(
        other.keys() == first.keys()
        and all(
            array.dtype == first[name].dtype and array.shape[1:] == first[name].shape[1:]
            for name, array in other.items()
        )
        for other in batches
    )


@types.coroutine
def _end_of_turn() -> Generator[None, None, None]:
    """Let all that is ready go first."""
    yield
