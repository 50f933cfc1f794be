"""Predictions of files are counted as those of endpoints are: into the version's cells, as one tick of the application
`predict`, where its judge and `raymlops monitor` find them."""

import dataclasses
import logging
import time
from collections.abc import Sequence

from raymlops.errors import StorageError
from raymlops.monitoring.reference import Reference
from raymlops.monitoring.segments import find_segments
from raymlops.monitoring.tick_counter import WatchedModel
from raymlops.monitoring.tick_store import TickStore, day_of, find_root
from raymlops.monitoring.ticks import Place, Tick, sum_ticks
from raymlops.settings import Settings

LOG = logging.getLogger(__name__)
APPLICATION = "predict"
TICK_S = 60


def find_watched(source: str, settings: Settings) -> tuple[WatchedModel, bytes] | None:
    """The version of a source that is registered and has a reference, and the reference's bytes. Raises NotFoundError,
    UntrustedError for a reference that was changed."""
    if not source.startswith("models:/"):
        return None
    from raymlops.attestation import digest_of
    from raymlops.tracking import evidence, registry  # MLflow is loaded only if the registry is used
    from raymlops.tracking.store import connect

    found = registry.resolve(source, settings)
    content = evidence.read_reference(connect(settings), found)
    if content is None:
        return None
    reference = Reference.from_bytes(content)
    place = Place(f"{APPLICATION}/{found.name}", "table", found.name, found.version, digest_of(content))
    return WatchedModel(place, reference, find_segments(reference)), content


def write_counts(ticks: Sequence[Tick], reference: bytes, settings: Settings) -> str:
    """Keep what was counted of a file as one tick of now; says in a line where, or why not."""
    start = int(time.time() // TICK_S) * TICK_S
    held = sum_ticks(dataclasses.replace(tick, start=start, seconds=TICK_S) for tick in ticks)
    if not held:
        return ""
    store = TickStore(find_root(settings.storage_path), APPLICATION)
    try:
        store.write_reference(reference)
        store.write(day_of(start), held, {})
        store.expire(day_of(start - 90 * 86_400))
    except StorageError as error:
        return f"The rows were not counted for monitoring: {error}"
    rows = next(tick.rows for tick in held if not tick.place.segment)
    return f"{rows:,} rows are counted for monitoring, in the application {APPLICATION!r}"
