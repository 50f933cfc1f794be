"""What is known before a search: what earlier searches of the same table are worth to it, and which have memory
for how many rows. What is taken is told and recorded. Tries nothing itself."""

from collections.abc import Mapping

from raymlops.features import packing_of
from raymlops.lifecycle.train.prepare import Prepared
from raymlops.lifecycle.train.run_recorder import Record
from raymlops.tracking import runs, store
from raymlops.tracking.earlier_trials import find_earlier
from raymlops.training import demand
from raymlops.training.candidates import find_candidates, list_names
from raymlops.training.memory_demand import find_most_rows, predict_bytes
from raymlops.training.warm_start import NOTHING_KNOWN, SearchPrior, WarmStart, choose_points

WARM_START_FILE = "warm_start.json"


def find_prior(record: Record, prepared: Prepared, concurrent: int) -> SearchPrior:
    """Of the learners of a search over several; `concurrent` trials run at a time."""
    if prepared.spec.search.learners is None:
        return NOTHING_KNOWN
    return SearchPrior(find_warm_start(record, prepared), find_fitting_rows(record, prepared, concurrent))


def find_fitting_rows(record: Record, prepared: Prepared, concurrent: int) -> Mapping[str, int]:
    """The training rows of the learners that have no memory for all, which is told; 0 for those that are left out."""
    free, rows = demand.find_free_bytes(prepared.spec, concurrent), prepared.train.count
    packing = packing_of(prepared.features)
    found = find_most_rows(list_names(prepared.spec), rows, packing, free)
    for name, fitting in found.items():
        needed = (
            f"a trial on all {rows:,} rows takes about {predict_bytes(name, rows, packing) / 2**30:.1f} GiB"
        )
        remedy = f"and has {(free or 0) / 2**30:.1f}; lower search.concurrent, or use nodes with more memory"
        does = f"trains on {fitting:,} rows" if fitting else "is left out"
        record.tell(f"Learner {name} {does}: {needed} {remedy}")
    return found


def find_warm_start(record: Record, prepared: Prepared) -> Mapping[str, WarmStart]:
    """By learner; empty where the spec wants none, or there is none. What is taken is told, and kept with the run."""
    spec, target = prepared.spec, prepared.features.target
    if spec.search.warm_start is False:
        return {}
    fingerprint = prepared.rows.scan.fingerprint.digest
    metric = spec.training.metric_of(target.task)
    earlier = store.retry_until_answered(
        lambda: find_earlier(
            record.client, record.experiment, fingerprint=fingerprint, table=record.table, metric=metric
        ),
        record.tell,
    )
    found = choose_points(earlier, find_candidates(spec, prepared.train.count, target.task), spec)
    if found:
        held = {name: one.to_json() for name, one in found.items()}
        store.retry_until_answered(
            lambda: runs.log_json(record.client, record.run, WARM_START_FILE, held), record.tell
        )
        told = ", ".join(
            f"{name} ({len(one.tried)} to try again, {len(one.observed)} known)"
            for name, one in found.items()
        )
        record.tell(
            f"Earlier searches of this table give good values of {told}; search.warm_start: false takes none"
        )
    return found
