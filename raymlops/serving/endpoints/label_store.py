"""Takes labels of earlier requests from the body of a request, and stores them beside the captured requests. A label
that was acknowledged is stored; a store that hangs holds no other request up."""

import asyncio
import concurrent.futures
from typing import Any

from raymlops.captures.labels import LabelColumns, Stored, choose_columns, read_body, store_labels
from raymlops.captures.selection import Selection, is_in_share
from raymlops.captures.store import CaptureStore
from raymlops.errors import DataError, OverloadedError, StorageError
from raymlops.serving.protocol.json_text import parse_json
from raymlops.serving.protocol.request_limits import RequestLimits
from raymlops.specs.monitoring import Capture

_WAITING, _WITHIN_S = 8, 30.0
"""Bodies that a replica stores at once, and how long it tries."""


class LabelStore:
    """The labels of an application that captures."""

    def __init__(self, spec: Capture, selection: Selection, limits: RequestLimits) -> None:
        self._store, self._spec, self._selection, self._limits = (
            CaptureStore(spec.path),
            spec,
            selection,
            limits,
        )
        self._threads = concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="labels")
        self._waiting = 0

    async def take(self, model: str, body: bytes) -> dict[str, Any]:
        """Store the labels of a body, and tell how many. Raises InputError, DataError, TooLargeError; OverloadedError
        if the store does not take them."""
        if self._waiting >= _WAITING:
            raise OverloadedError(f"{_WAITING} bodies of labels are being stored here; try again later")
        self._waiting += 1
        storing = asyncio.get_running_loop().run_in_executor(self._threads, self._put, model, body)
        storing.add_done_callback(self._end)
        try:
            return await asyncio.wait_for(asyncio.shield(storing), _WITHIN_S)
        except (StorageError, OSError, TimeoutError) as error:
            cause = str(error) or f"no answer within {_WITHIN_S:g} s"
            raise OverloadedError(f"The labels are not stored; send them again later: {cause}") from None

    def _end(self, storing: "asyncio.Future[Any]") -> None:
        self._waiting -= 1
        if not storing.cancelled():
            storing.exception()  # taken, although nobody may wait for it any more

    def _put(self, model: str, body: bytes) -> dict[str, Any]:
        table = read_body(parse_json(body, self._limits) if body else {})
        keys = tuple(name for name in table.column_names if name not in ("id", "row", "label", "time"))
        is_by_id = "id" in table.column_names
        columns = choose_columns(table.column_names, LabelColumns(id="id" if is_by_id else "", key=keys))
        hashed = [name for name in keys if self._selection.hashes_column(name)]
        stored = store_labels(self._store, model, table, columns, hashed, self._selection.secret)
        if not stored.labels:
            raise DataError(
                f"All {stored.missing} labels lack a value, an id or a key; there is nothing to store"
            )
        return self._describe(model, stored)

    def _describe(self, model: str, stored: Stored) -> dict[str, Any]:
        share = self._spec.share
        outside = sum(not is_in_share(one, share) for one in stored.ids.to_pylist()) if share < 1 else 0
        return {
            "model_name": model,
            "labels": stored.labels,
            "new": stored.is_new,
            "missing": stored.missing,
            "outside_share": outside,
        }
