"""The quality of the versions of an application over the last day, estimated without labels from the counts in its
store. Records nothing and starts no process."""

from raymlops.errors import RaymlopsError
from raymlops.monitoring.cells import Counts
from raymlops.monitoring.quality import Quality, estimate_quality
from raymlops.monitoring.reference import Reference
from raymlops.monitoring.tick_store import TickStore
from raymlops.monitoring.ticks import ALL_ROWS, add_counts

_DAY_S = 86_400.0


class DailyEstimates:
    """References are read once."""

    def __init__(self, store: TickStore) -> None:
        self._store = store
        self._references: dict[str, Reference | None] = {}

    def estimate(self, at: float) -> dict[tuple[str, str], list[Quality]]:
        """By model and version, of the day before `at`; those whose reference has no calibration table are left out.
        Raises StorageError."""
        seen: dict[tuple[str, str, str], Counts] = {}
        for tick in self._store.read(at - _DAY_S, at, ALL_ROWS):
            place = tick.place
            if place.reference and place.role != "table" and tick.rows:
                key = place.model, place.version, place.reference
                seen[key] = add_counts(seen[key], tick.counts) if key in seen else tick.counts
        found = {}
        for (model, version, digest), counts in seen.items():
            reference = self._read(digest)
            if reference is not None and (made := estimate_quality(reference, counts)):
                found[model, version] = made
        return found

    def _read(self, digest: str) -> Reference | None:
        if digest not in self._references:
            try:
                self._references[digest] = self._store.read_reference(digest)
            except RaymlopsError:  # the judge tells it
                self._references[digest] = None
        return self._references[digest]
