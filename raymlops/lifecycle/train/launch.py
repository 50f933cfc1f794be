"""Starts searches, trainings and evaluations, for the command line and for notebooks. The work itself is in
develop.py and govern/evaluate.py."""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from raymlops.errors import RaymlopsError, SpecError
from raymlops.lifecycle import preflight
from raymlops.lifecycle.cluster import join_cluster
from raymlops.lifecycle.train import run_heartbeat
from raymlops.settings import Settings
from raymlops.specs.dataset import with_version
from raymlops.specs.experiment import ExperimentSpec
from raymlops.training import learners
from raymlops.training.storage import require_writable

if TYPE_CHECKING:
    from raymlops.lifecycle.govern.evaluate import EvaluatedVersion
    from raymlops.lifecycle.train.develop import Outcome

Tell = Callable[[str], None]


def find_search(
    spec: ExperimentSpec, settings: Settings, name: str | None, resume: bool, warn: Tell
) -> str | None:
    """The interrupted search of this spec to resume; None to start over. Raises SpecError if there is none and
    `resume` asks for it or the search has nothing to vary, NotFoundError for a missing file, StorageError if nothing
    can be stored."""
    learners.check_space(spec)
    preflight.require_files(spec.dataset.tables)
    storage = settings.storage_path
    require_writable(storage)  # before a cluster is started in vain
    lost = run_heartbeat.find_lost(storage, spec, name, warn if resume else None)
    if resume and lost is None:
        raise SpecError(
            f"Nothing to resume: {run_heartbeat.explain_none(storage, spec, name)}; run it without --resume"
        )
    if lost is not None and not resume:
        warn(f"{lost.name} was cut off; this starts over, and `--resume` resumes that one")
        return None
    return lost.name if lost else None


def find_training(
    spec: ExperimentSpec, settings: Settings, name: str | None, fresh: bool, warn: Tell
) -> str | None:
    """The same for one training, which resumes by default unless it is to be `fresh`."""
    preflight.require_files(spec.dataset.tables)
    require_writable(settings.storage_path)
    lost = None if fresh else run_heartbeat.find_lost(settings.storage_path, spec, name, warn)
    if lost is None:
        return None
    warn(f"Resuming {lost.name}, which was cut off, from its last checkpoint; --fresh starts over")
    return lost.name


def join(settings: Settings, spec: ExperimentSpec) -> None:
    """Join the cluster, or start one for a spec, and open the tracking store meanwhile, whose database may be new and
    has to be made. Raises ResourceError; what is wrong with the store is told when it is used."""
    imported = threading.Event()

    def open_store() -> None:
        try:
            from raymlops.tracking import store
        finally:
            imported.set()
        with contextlib.suppress(RaymlopsError):
            store.connect(settings)

    # Not a daemon: a database must not be left half made.
    threading.Thread(target=open_store, name="open-store").start()
    join_cluster(settings, teams=spec.training.workers > 1)
    imported.wait()  # before this thread imports the same libraries


def run(
    spec: ExperimentSpec,
    settings: Settings,
    lost: str | None,
    *,
    observers: Sequence[Any] = (),
    tell: Tell = lambda line: None,
    name: str | None = None,
    **request: Any,
) -> "Outcome":
    """Run it, or resume the one named `lost`. `request` are the fields of develop.Request."""
    request.setdefault("began", time.monotonic())
    join(settings, spec)  # Ray starts its workers during the imports below, which take seconds
    from raymlops.lifecycle.train.develop import Request, develop_model

    begun = run_heartbeat.read_heartbeat(settings.storage_path, lost) if lost else None
    if begun is not None:  # its rows stay on their sides
        spec = spec.model_copy(update={"split": with_version(spec.split, begun.split)})
    asked = Request(name=lost or name, resume=lost is not None, **request)
    return develop_model(spec, settings, asked, observers=observers, tell=tell)


def evaluate(
    version: str,
    settings: Settings,
    *,
    data: str | None = None,
    spec: ExperimentSpec | None = None,
    trusted: bool = False,
    store: bool | None = None,
    tell: Tell = lambda line: None,
    warn: Tell = lambda line: None,
) -> "EvaluatedVersion":
    """Measure a version on the test split of its spec, or on other data, judge it, and write its report.

    Results on its own test split are stored with the version, unless `store` says otherwise. `trusted` runs what the
    version's record names.
    """
    from raymlops.lifecycle.govern import version_record
    from raymlops.lifecycle.govern.evaluate import evaluate_version, open_version
    from raymlops.lifecycle.govern.evaluation_rows import choose_table, read_rows
    from raymlops.tracking import registry
    from raymlops.tracking.store import connect

    client = connect(settings)
    found = registry.resolve(version, settings)
    spec = spec or version_record.read_spec(client, found, trusted=trusted, training=False, tell=warn)
    if data is not None:  # the files of a version are compared on its own test rows only
        spec = spec.model_copy(update={"gate": spec.gate.model_copy(update={"variants": ()})})
    table = choose_table(spec, data)
    preflight.require_files(table.tables)
    join_cluster(settings)
    opened = open_version(found)
    rows = read_rows(spec, None if data is None else table, opened.columns)
    for line in rows.describe() if data is not None else ():
        tell(line)
    stored = data is None if store is None else store
    evaluated = evaluate_version(client, opened, spec, rows, settings, store=stored, tell=tell)
    for sentence in filter(None, evaluated.own_rows.values()):
        warn(sentence)
    return evaluated
