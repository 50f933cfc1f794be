"""Records a search in the tracking store: its run, its trials' runs, its version.

Every operation here may be repeated without a second effect, since a resumed search repeats them.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raymlops.artifact import DEFAULTS_FILE, FEATURES_FILE, LEFT_OUT_FILE, PROFILE_FILE
from raymlops.data.scan import Scan, describe_split
from raymlops.data.split_rows import SplitRows, describe_source
from raymlops.errors import UnreachableError
from raymlops.features import FittedFeatures
from raymlops.lifecycle.govern import provenance
from raymlops.lifecycle.train import run_heartbeat
from raymlops.lifecycle.train.training_checks import NOT_CHECKED, TrainingChecks
from raymlops.lifecycle.train.verify_export import Proof
from raymlops.models import export
from raymlops.models.session import open_session
from raymlops.settings import Settings
from raymlops.specs.defaults import Choice
from raymlops.specs.experiment import ExperimentSpec
from raymlops.tracking import registry, runs, store
from raymlops.tracking.earlier_trials import FINGERPRINT_TAG, TABLE_TAG, name_table
from raymlops.tracking.evidence import FOLDS, LEARNERS, TRAINING_ROWS
from raymlops.training import candidates
from raymlops.training.blends import Winner
from raymlops.training.trials import SearchResult, read_state

Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Record:
    """One search in the tracking store."""

    client: store.Client
    settings: Settings
    why: str
    experiment: str
    run: str
    table: str
    """The name under which the trials of this table and target are found again."""
    trials: runs.TrialRuns
    tell: Tell


def open_record(
    client: store.Client,
    spec: ExperimentSpec,
    rows: SplitRows,
    settings: Settings,
    name: str,
    why: str,
    tell: Tell,
    *,
    resumed: bool,
    chosen: Sequence[Choice] = (),
    checks: TrainingChecks = NOT_CHECKED,
) -> Record:
    """The runs of a search, created, or found again if it is resumed; ends the runs of searches that no longer run."""
    experiment = store.ensure_experiment(client, spec.name, settings).experiment_id
    _end_lost(client, experiment, settings, tell)
    run = store.retry_until_answered(
        lambda: _start_run(client, experiment, spec, rows, settings, name, why, chosen, checks), tell
    )
    table = name_table(describe_source(spec.dataset), spec.features.target.column)
    trials = runs.TrialRuns(
        client,
        experiment,
        run,
        spool=settings.home / "spool" / f"{name}.jsonl",
        tell=tell,
        tags={
            FINGERPRINT_TAG: rows.scan.fingerprint.digest,
            TABLE_TAG: table,
            "raymlops.commit": provenance.git_commit(),
            "mlflow.user": settings.user,
        },
        resumed=resumed,
    )
    return Record(client, settings, why, experiment, run, table, trials, tell)


def _end_lost(client: store.Client, experiment: str, settings: Settings, tell: Tell) -> None:
    def is_lost(name: str) -> bool:
        heartbeat = run_heartbeat.read_heartbeat(settings.storage_path, name)
        return (
            heartbeat is not None
            and not heartbeat.done
            and run_heartbeat.is_lost(settings.storage_path, heartbeat)
        )

    for name in runs.end_lost(client, experiment, is_lost):
        tell(f"{name} was cut off: its runs are ended as KILLED")


def _start_run(
    client: store.Client,
    experiment: str,
    spec: ExperimentSpec,
    rows: SplitRows,
    settings: Settings,
    name: str,
    why: str,
    chosen: Sequence[Choice],
    checks: TrainingChecks,
) -> str:
    scanned = rows.scan
    run = runs.start_run(
        client,
        experiment,
        search=name,
        parent=settings.parent_run,
        tags={
            "raymlops.fingerprint": scanned.fingerprint.digest,
            "raymlops.why": why,
            "raymlops.commit": provenance.git_commit(),
            "mlflow.user": settings.user,
            "mlflow.source.git.commit": provenance.git_commit(),
            "mlflow.note.content": spec.description,
        },
        parameters={
            "algorithm": spec.search.algorithm,
            "scheduler": spec.search.scheduler,
            "trials": spec.search.budget,
            "learner": ", ".join(candidates.list_names(spec)),
            "network": spec.network.name,
            "workers": spec.training.workers,
            "epochs": spec.training.pace.epochs,
            "rows_train": scanned.fingerprint.rows["train"],
        },
    )
    runs.log_json(client, run, "spec.json", spec.model_dump(mode="json"))
    told = {choice.key: {"value": choice.value, "why": choice.why} for choice in chosen}
    runs.log_json(client, run, DEFAULTS_FILE, told)
    runs.log_json(client, run, "data.json", {
        "fingerprint": scanned.fingerprint.to_json(),
        "source": describe_source(spec.dataset),
        "rows": scanned.rows,
        "failed": scanned.failed,
        "findings": [dataclasses.asdict(finding) for finding in scanned.findings],
        "split": describe_split(scanned),
        **checks.to_json(),
        "conversions": {
            name: rule.conversion.to_json() for name, rule in rows.contract.columns.items() if rule.conversion
        },
    })  # fmt: skip
    if scanned.left_out:
        client.log_text(run, "\n".join([*scanned.left_out, ""]), LEFT_OUT_FILE)
    runs.log_json(client, run, TRAINING_ROWS, scanned.training.to_json())
    client.log_text(run, provenance.environment_lock(), "requirements.lock.txt")
    return run


def complete_trials(record: Record, found: SearchResult) -> list[float]:
    """Complete the trials' runs from the trials' own records: epochs that a killed driver never sent. Returns the
    metric of the best trial after each epoch."""
    curve: list[float] = []
    for trial in found.trials:
        if trial.checkpoint is not None:
            history = read_state(trial)["history"]
            record.trials.fill_gaps(trial.name, history)
            curve = curve or [learned.get(found.metric, float("nan")) for learned in history]
        checkpoint = str(trial.checkpoint or "none")
        record.trials.describe(
            trial.name, {"raymlops.seconds": f"{trial.seconds:.1f}", "raymlops.checkpoint": checkpoint}
        )
        record.trials.trial_ended(trial.name, trial.error)
    return curve


def keep_folds(record: Record, found: Mapping[str, Any]) -> None:
    """Store the results over folds with the run, before its version is signed."""
    store.retry_until_answered(lambda: runs.log_json(record.client, record.run, FOLDS, found), record.tell)


def keep_ranking(record: Record, found: Mapping[str, Any]) -> None:
    """Store the ranking of the learners with the run, before its version is signed."""
    store.retry_until_answered(lambda: runs.log_json(record.client, record.run, LEARNERS, found), record.tell)


def register_best(
    record: Record,
    spec: ExperimentSpec,
    scanned: Scan,
    features: FittedFeatures,
    profile: dict[str, Any],
    found: SearchResult,
    winner: Winner,
    model: bytes,
    proof: Proof,
) -> str:
    """Register the winner's file as a version, once all results of its trial are sent.

    Raises UnreachableError if the store stays unreachable.
    """
    left = record.trials.close(store.PATIENCE)
    if left:
        raise UnreachableError(f"The tracking store does not answer; {left} operations were not sent")
    best = winner.best

    def send() -> str:
        record.trials.settle()
        version, _ = registry.register_version(
            record.client,
            name=spec.name,
            run=record.run,
            model=model,
            settings=record.settings,
            # with the contributions of terms, where the file has them
            signature=dataclasses.replace(
                export.signature_of(features), outputs=open_session(model).signature.outputs
            ),
            example=proof.example,
            tags={
                "raymlops.search_run": record.run,
                "raymlops.trial": best.name,
                "raymlops.trial_run": record.trials.run_of(best.name) or "",
                "raymlops.fingerprint": scanned.fingerprint.digest,
                "raymlops.commit": provenance.git_commit(),
                "raymlops.who": record.settings.user,
                "raymlops.why": record.why or f"best of {len(found.trials)} trials",
                "raymlops.when": provenance.now(),
                "raymlops.parameters": json.dumps(best.parameters, default=str),
                "raymlops.members": json.dumps(winner.to_json(), default=str),
                "raymlops.parity": json.dumps(proof.parity.to_json()),
                "raymlops.test": json.dumps(proof.metrics),
            },
            files={
                PROFILE_FILE: {"columns": profile, "predictions": proof.predictions},
                FEATURES_FILE: features.to_json(),
            },
            description=spec.description,
        )
        return version

    return store.retry_until_answered(send, record.tell)


def finish_record(record: Record, metrics: dict[str, float], tags: dict[str, Any]) -> None:
    """Log the results of the search, and end its run."""
    record.trials.close()
    store.retry_until_answered(
        lambda: runs.finish_run(record.client, record.run, metrics=metrics, tags=tags), record.tell
    )


def fail_record(record: Record, error: BaseException) -> None:
    """End every run of a search that did not finish."""
    record.trials.abandon()
    record.trials.close()
    runs.finish_run(record.client, record.run, metrics={}, tags={runs.ERROR_TAG: str(error)}, failed=True)
