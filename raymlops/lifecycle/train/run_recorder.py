"""What a search leaves in the tracking store: its run, its trials' runs, its version.

Everything here may be done twice and leaves one thing: a search that was cut off goes on and does it again.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

from raymlops.artifact import FEATURES_FILE, PROFILE_FILE
from raymlops.errors import UnreachableError
from raymlops.lifecycle.govern import provenance
from raymlops.lifecycle.train import run_heartbeat
from raymlops.lifecycle.train.prepare import Prepared, describe_source
from raymlops.lifecycle.train.verify_export import Proof
from raymlops.models import export
from raymlops.settings import Settings
from raymlops.tracking import registry, runs, store
from raymlops.training.trials import SearchResult, read_state

Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Record:
    """One search in the tracking store."""

    client: store.Client
    settings: Settings
    prepared: Prepared
    why: str
    run: str
    trials: runs.TrialRuns
    tell: Tell


def open_record(
    client: store.Client,
    prepared: Prepared,
    settings: Settings,
    name: str,
    why: str,
    tell: Tell,
    *,
    resumed: bool,
) -> Record:
    """The runs of a search, made, or found again when it goes on; ends those of searches that nobody runs."""
    experiment = store.ensure_experiment(client, prepared.spec.name, settings).experiment_id
    _end_lost(client, experiment, settings, tell)
    run = store.retry_until_answered(
        lambda: _start_run(client, experiment, prepared, settings, name, why), tell
    )
    trials = runs.TrialRuns(
        client,
        experiment,
        run,
        spool=settings.home / "spool" / f"{name}.jsonl",
        tell=tell,
        tags={
            "raymlops.fingerprint": prepared.scan.fingerprint.digest,
            "raymlops.commit": provenance.git_commit(),
            "mlflow.user": settings.user,
        },
        resumed=resumed,
    )
    return Record(client, settings, prepared, why, run, trials, tell)


def _end_lost(client: store.Client, experiment: str, settings: Settings, tell: Tell) -> None:
    def is_lost(name: str) -> bool:
        mark = run_heartbeat.read_mark(settings.storage_path, name)
        return mark is not None and not mark.done and run_heartbeat.is_lost(settings.storage_path, mark)

    for name in runs.end_lost(client, experiment, is_lost):
        tell(f"{name} was cut off: its runs are ended as KILLED")


def _start_run(
    client: store.Client, experiment: str, prepared: Prepared, settings: Settings, name: str, why: str
) -> str:
    spec = prepared.spec
    run = runs.start_run(
        client,
        experiment,
        search=name,
        parent=settings.parent_run,
        tags={
            "raymlops.fingerprint": prepared.scan.fingerprint.digest,
            "raymlops.why": why,
            "raymlops.commit": provenance.git_commit(),
            "mlflow.user": settings.user,
            "mlflow.source.git.commit": provenance.git_commit(),
            "mlflow.note.content": spec.description,
        },
        parameters={
            "algorithm": spec.search.algorithm,
            "scheduler": spec.search.scheduler,
            "trials": spec.search.trials,
            "learner": spec.training.learner,
            "network": spec.network.name,
            "workers": spec.training.workers,
            "epochs": spec.training.epochs,
            "rows_train": prepared.train.count,
        },
    )
    runs.log_json(client, run, "spec.json", spec.model_dump(mode="json"))
    runs.log_json(client, run, "data.json", {
        "fingerprint": prepared.scan.fingerprint.to_json(),
        "source": describe_source(spec),
        "rows": prepared.scan.rows,
        "failed": prepared.scan.failed,
        "findings": [dataclasses.asdict(finding) for finding in prepared.scan.findings],
    })  # fmt: skip
    client.log_text(run, provenance.environment_lock(), "requirements.lock.txt")
    return run


def complete_trials(record: Record, found: SearchResult) -> None:
    """Bring the trials' runs to what the trials know of themselves: epochs that a killed driver never sent."""
    for trial in found.trials:
        if trial.checkpoint is not None:
            record.trials.fill_gaps(trial.name, read_state(trial)["history"])
        checkpoint = str(trial.checkpoint or "none")
        record.trials.describe(
            trial.name, {"raymlops.seconds": f"{trial.seconds:.1f}", "raymlops.checkpoint": checkpoint}
        )
        record.trials.trial_ended(trial.name, trial.error)


def register_best(record: Record, found: SearchResult, proof: Proof, model: pathlib.Path) -> str:
    """Register the winner's file as a version, once all that was learned of its trial is sent.

    Raises UnreachableError when the store stays away; the file is kept.
    """
    left = record.trials.close(store.PATIENCE)
    try:
        if left:
            raise UnreachableError(f"The tracking store does not answer; {left} operations were not sent")
        return store.retry_until_answered(lambda: _register(record, found, proof, model), record.tell)
    except UnreachableError as error:
        raise UnreachableError(
            f"{error}. The model is kept as {model}; go on with this search once the store answers, and it will be "
            "registered"
        ) from None


def _register(record: Record, found: SearchResult, proof: Proof, model: pathlib.Path) -> str:
    prepared, best = record.prepared, found.best
    record.trials.settle()
    version, _ = registry.register_version(
        record.client,
        name=prepared.spec.name,
        run=record.run,
        model=model.read_bytes(),
        settings=record.settings,
        signature=export.signature_of(prepared.features),
        example=proof.example,
        tags={
            "raymlops.search_run": record.run,
            "raymlops.trial": best.name,
            "raymlops.trial_run": record.trials.run_of(best.name) or "",
            "raymlops.fingerprint": prepared.scan.fingerprint.digest,
            "raymlops.commit": provenance.git_commit(),
            "raymlops.who": record.settings.user,
            "raymlops.why": record.why or f"best of {len(found.trials)} trials",
            "raymlops.when": provenance.now(),
            "raymlops.parameters": json.dumps(best.parameters, default=str),
            "raymlops.parity": json.dumps(proof.parity.to_json()),
            "raymlops.test": json.dumps(proof.metrics),
        },
        files={
            PROFILE_FILE: {"columns": prepared.profile, "predictions": proof.predictions},
            FEATURES_FILE: prepared.features.to_json(),
        },
        description=prepared.spec.description,
    )
    return version


def finish_record(record: Record, metrics: dict[str, float], tags: dict[str, Any]) -> None:
    """Log what came of the search, and end its run."""
    record.trials.close()
    store.retry_until_answered(
        lambda: runs.finish_run(record.client, record.run, metrics=metrics, tags=tags), record.tell
    )


def fail_record(record: Record, error: BaseException) -> None:
    """End every run of a search that did not come to its end."""
    record.trials.abandon()
    record.trials.close()
    runs.finish_run(record.client, record.run, metrics={}, tags={runs.ERROR_TAG: str(error)}, failed=True)
