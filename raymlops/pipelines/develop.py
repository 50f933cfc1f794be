"""The main job: prepare, search, export, prove, register. Each step is another module's; this is their
order."""

import dataclasses
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from raymlops.models import export, parity
from raymlops.pipelines import lineage, resuming
from raymlops.pipelines.accounts import admit_version
from raymlops.pipelines.cluster import join_cluster
from raymlops.pipelines.prepare import Prepared, describe_source, prepare
from raymlops.pipelines.proof import Proof, prove_model
from raymlops.pipelines.rows import Rows
from raymlops.pipelines.trusting import Trusted
from raymlops.settings import Settings
from raymlops.specs.experiment import ExperimentSpec, with_parameters
from raymlops.tracking import registry, runs, store
from raymlops.training import demand
from raymlops.training.search import run_search
from raymlops.training.trials import SearchResult, Trial, TrialObserver
from raymlops.training.worker import load_state, network_of


@dataclasses.dataclass(frozen=True)
class Request:
    """What a person asks for beside the spec."""

    why: str = ""
    name: str | None = None
    autoscaling: bool = False
    register: bool = True
    resume: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a search."""

    search: SearchResult
    run: str
    proof: Proof
    model: pathlib.Path
    version: str | None
    digest: str
    alias: str | None
    seconds: dict[str, float]
    trusted: Trusted | None = None
    """What the gate found; None when nothing was registered."""


def develop_model(
    spec: ExperimentSpec,
    settings: Settings,
    request: Request = Request(),
    *,
    observers: Sequence[TrialObserver] = (),
    tell: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Search, export the winner, prove it, register it. Raises before the first trial for what cannot
    work."""
    clock = _Clock()
    name = request.name or f"{spec.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    if request.resume:
        name = resuming.find_unfinished(settings.storage_path, spec, request.name)
        tell(f"Resuming {name}")
    client = store.connect(settings)
    join_cluster(settings)
    concurrent = demand.check_demand(spec, autoscaling=request.autoscaling)
    clock.lap("start")
    prepared = prepare(spec, tell)
    clock.lap("data")
    experiment = store.ensure_experiment(client, spec.name, settings)
    resuming.write_mark(settings.storage_path, name, spec, done=False)
    run = _start(client, experiment.experiment_id, name, prepared, settings, request)
    tell(f"Searching: {spec.search.trials} trials, {concurrent} at a time, by {spec.search.algorithm}")
    trial_runs = runs.TrialRuns(
        client,
        experiment.experiment_id,
        run,
        spool=settings.home / "spool" / f"{name}.jsonl",
        tell=tell,
        tags={
            "raymlops.fingerprint": prepared.scan.fingerprint.digest,
            "raymlops.commit": lineage.git_commit(),
            "mlflow.user": settings.user,
        },
    )
    try:
        found = run_search(
            prepared.job,
            name=name,
            storage_path=settings.storage_path,
            concurrent=concurrent,
            observers=[trial_runs, *observers],
            resume=request.resume,
        )
        clock.lap("search")
        _complete(trial_runs, found)
        tell("Exporting the best trial to one ONNX file, and proving it on the test split")
        outcome = _finish(client, found, prepared, settings, request, run, trial_runs, clock, tell)
    except BaseException as error:
        trial_runs.close()
        runs.finish_run(client, run, metrics={}, tags={"raymlops.error": str(error)}, failed=True)
        raise
    resuming.write_mark(settings.storage_path, name, spec, done=True)
    return outcome


def _complete(trial_runs: runs.TrialRuns, found: SearchResult) -> None:
    """Bring the trials' runs to what the trials know of themselves: epochs that a killed driver never sent."""
    for trial in found.trials:
        if trial.checkpoint is not None:
            trial_runs.fill_gaps(trial.name, load_state(trial.checkpoint)["history"])
        checkpoint = str(trial.checkpoint or "none")
        trial_runs.describe(
            trial.name, {"raymlops.seconds": f"{trial.seconds:.1f}", "raymlops.checkpoint": checkpoint}
        )
        trial_runs.trial_ended(trial.name, trial.error)
    trial_runs.close()


class _Clock:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = now - self._last, now


def _start(
    client: store.Client,
    experiment: str,
    name: str,
    prepared: Prepared,
    settings: Settings,
    request: Request,
) -> str:
    spec = prepared.spec
    run = runs.start_run(
        client,
        experiment,
        search=name,
        parent=settings.parent_run,
        tags={
            "raymlops.fingerprint": prepared.scan.fingerprint.digest,
            "raymlops.why": request.why,
            "raymlops.commit": lineage.git_commit(),
            "mlflow.user": settings.user,
            "mlflow.source.git.commit": lineage.git_commit(),
            "mlflow.note.content": spec.description,
        },
        parameters={
            "algorithm": spec.search.algorithm,
            "scheduler": spec.search.scheduler,
            "trials": spec.search.trials,
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
    client.log_text(run, lineage.environment_lock(), "requirements.lock.txt")
    return run


def load_best(trial: Trial, prepared: Prepared) -> torch.nn.Module:
    """The network of a trial with the weights of its best epoch."""
    assert trial.checkpoint is not None
    spec = with_parameters(prepared.spec, trial.parameters)
    job = prepared.job
    network = network_of(spec.network, job.packing, job.target)
    network.load_state_dict(load_state(trial.checkpoint)["best_network"])
    return network.eval()


def _finish(
    client: store.Client,
    found: SearchResult,
    prepared: Prepared,
    settings: Settings,
    request: Request,
    run: str,
    trial_runs: runs.TrialRuns,
    clock: _Clock,
    tell: Callable[[str], None],
) -> Outcome:
    spec, best = prepared.spec, found.best
    network = load_best(best, prepared)
    model = export.export_network(network, prepared.features, name=spec.name)
    path, digest = export.save_model(model, settings.home / "models" / spec.name / _digest_of(model)[:12])
    proof = prove_model(path.read_bytes(), network, prepared)
    parity.require(proof.parity, limit=spec.limits.parity, flipped=spec.limits.flipped)
    clock.lap("export")
    version = alias = trusted = None
    if request.register:
        version = _register(client, path, proof, prepared, settings, request, run, found, trial_runs)
    runs.finish_run(
        client,
        run,
        metrics={
            **{f"test_{key}": value for key, value in proof.metrics.items()},
            **{f"seconds_{key}": value for key, value in clock.laps.items()},
            "parity_difference": proof.parity.difference,
            "parity_flipped": proof.parity.flipped,
        },
        tags={"raymlops.best_trial": best.name},
    )
    clock.lap("register")
    if version is not None:
        tell("Asking the gate")
        scanned = prepared.scan
        digest_of_data = scanned.fingerprint.digest
        rows = Rows(
            prepared.rows["test"],
            describe_source(spec),
            digest_of_data,
            scanned.findings,
            prepared.rows["train"],
        )
        why = request.why or f"best of {len(found.trials)} trials"
        version, alias, trusted = admit_version(spec.name, version, spec, rows, settings, why, tell)
        clock.lap("gate")
    return Outcome(found, run, proof, path, version, digest, alias, dict(clock.laps), trusted)


def _digest_of(model: Any) -> str:
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def _register(
    client: store.Client,
    path: pathlib.Path,
    proof: Proof,
    prepared: Prepared,
    settings: Settings,
    request: Request,
    run: str,
    found: SearchResult,
    trial_runs: runs.TrialRuns,
) -> str:
    spec, best = prepared.spec, found.best
    version, _ = registry.register_version(
        client,
        name=spec.name,
        run=run,
        model=path.read_bytes(),
        signature=export.signature_of(prepared.features),
        example=proof.example,
        tags={
            "raymlops.search_run": run,
            "raymlops.trial": best.name,
            "raymlops.trial_run": trial_runs.run_of(best.name) or "",
            "raymlops.fingerprint": prepared.scan.fingerprint.digest,
            "raymlops.commit": lineage.git_commit(),
            "raymlops.who": settings.user,
            "raymlops.why": request.why or f"best of {len(found.trials)} trials",
            "raymlops.when": lineage.now(),
            "raymlops.parameters": json.dumps(best.parameters, default=str),
            "raymlops.parity": json.dumps(proof.parity.to_json()),
            "raymlops.test": json.dumps(proof.metrics),
        },
        files={
            registry.PROFILE_FILE: {"columns": prepared.profile, "predictions": proof.predictions},
            registry.FEATURES_FILE: prepared.features.to_json(),
        },
        description=spec.description,
    )
    return version
