"""Runs the stages of a training in order, within a run in the tracking store, and then the gate. The stages
themselves are in stages.py."""

import contextlib
import dataclasses
import pathlib
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ray.exceptions import RayError

from raymlops import attestation, locations
from raymlops.data.scan import Fingerprint
from raymlops.errors import DataError, RaymlopsError, SpecError, UnreachableError, last_line
from raymlops.evaluation.improvement import find_improvement
from raymlops.evaluation.learner_ranking import LearnerRanking
from raymlops.lifecycle.cluster import join_cluster
from raymlops.lifecycle.govern.baseline_rows import start_fitting
from raymlops.lifecycle.govern.evaluate import EvaluatedVersion
from raymlops.lifecycle.govern.evaluation_rows import Rows, to_test_rows
from raymlops.lifecycle.govern.promotion import admit_version
from raymlops.lifecycle.train import cross_validation, run_heartbeat, stages, winners
from raymlops.lifecycle.train.distillation import School, distill
from raymlops.lifecycle.train.learner_board import measure_files
from raymlops.lifecycle.train.limits import Fitting, export_within, find_costs
from raymlops.lifecycle.train.prepare import Prepared, prepare
from raymlops.lifecycle.train.run_recorder import (
    Record,
    complete_trials,
    fail_record,
    finish_record,
    keep_folds,
    keep_ranking,
    open_record,
)
from raymlops.lifecycle.train.search_prior import find_prior
from raymlops.lifecycle.train.time_budget import TimeBudget
from raymlops.lifecycle.train.verify_export import Proof
from raymlops.models import export
from raymlops.settings import Settings
from raymlops.specs.experiment import ExperimentSpec
from raymlops.tensors import Batch
from raymlops.tracking import store
from raymlops.training import candidates, demand, search_state, storage
from raymlops.training.blends import STACK, Share, Winner, to_learner, to_shares, to_single
from raymlops.training.replay import Replayed
from raymlops.training.trials import SearchResult, TrialObserver
from raymlops.training.warm_start import NOTHING_KNOWN
from raymlops.training.worker_imports import start_imports


@dataclasses.dataclass(frozen=True)
class Request:
    """Options of a search or training beside the spec."""

    why: str = ""
    name: str | None = None
    autoscaling: bool = False
    register: bool = True
    resume: bool = False
    """Resume the interrupted search of that name."""
    trusted: bool = False
    """Resume even if no trusted key signed the stored state."""
    or_anew: bool = False
    """Start over if the data have changed since; otherwise that is an error."""
    began: float | None = None
    """When the command was begun, by time.monotonic, from where `search.max_minutes` counts; None: now."""
    replayed: tuple[Replayed, ...] = ()
    """The trials of a winner, to be run again in place of a search."""
    student: Mapping[str, Any] | None = None
    """The parameters of the network that learned from them; None where the winner is themselves."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a search."""

    search: SearchResult
    run: str
    proof: Proof
    model: pathlib.Path
    version: str | None
    digest: str
    alias: str | None
    seconds: dict[str, float]
    trusted: EvaluatedVersion | None = None
    learners: LearnerRanking | None = None
    """Of a search over several, where a blend was tried."""
    """The gate's result; None if nothing was registered."""


def develop_model(
    spec: ExperimentSpec,
    settings: Settings,
    request: Request = Request(),
    *,
    observers: Sequence[TrialObserver] = (),
    tell: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Search, export the winner, verify it, register it. Raises before the first trial if it cannot work."""
    clock, budget = _Clock(), _open_budget(spec, request)
    storage.require_writable(settings.storage_path)
    client = store.connect(settings)
    store.require_artifacts(settings)
    join_cluster(settings, teams=spec.training.workers > 1)
    cross_validation.check(spec)
    concurrent = demand.check_demand(spec, autoscaling=request.autoscaling)
    clock.lap("start")
    asked = (
        spec if not request.resume else run_heartbeat.to_resumed(settings.storage_path, request.name, spec)
    )
    prepared = prepare(asked, tell)
    spec = prepared.spec
    concurrent = demand.check_demand(spec, autoscaling=request.autoscaling)
    # Not before the table is read, which takes the processes that import, and then four times as long.
    start_imports(candidates.list_names(spec), min(concurrent, spec.search.budget))
    clock.lap("data")
    budget = budget.with_reserve(clock.laps["data"])
    fingerprint = prepared.rows.scan.fingerprint
    request = _settle_name(spec, settings, request, fingerprint, tell)
    assert request.name is not None
    with run_heartbeat.keep_heartbeat(settings.storage_path, request.name, asked, fingerprint.digest, tell):
        record = open_record(
            client, spec, prepared.rows, settings, request.name, request.why, tell,
            resumed=request.resume, chosen=prepared.chosen, checks=prepared.checks,
        )  # fmt: skip
        _tell_started(observers, spec, prepared)
        tell(_describe_start(spec, concurrent))
        try:
            granted = budget.grant_trials()
            searched = stages.search(
                spec,
                prepared.features,
                prepared.train,
                prepared.validation,
                name=request.name,
                storage_path=settings.storage_path,
                concurrent=concurrent,
                observers=[record.trials, *observers],
                resume=request.resume,
                state=_open_state(settings, request.name),
                trusted=request.trusted,
                seconds=granted,
                replayed=request.replayed,
                prior=NOTHING_KNOWN
                if request.resume or request.replayed
                else find_prior(record, prepared, concurrent),
            )
            clock.lap("search")
            curve = complete_trials(record, searched.trials)
            for line in _describe_end(searched.trials, curve, spec):
                tell(line)
            return _finish(record, prepared, searched, clock, request, budget)
        except BaseException as error:
            with contextlib.suppress(
                Exception
            ):  # the store is unreachable; the first error is the one to report
                fail_record(record, error)
            raise


def _tell_started(observers: Sequence[TrialObserver], spec: ExperimentSpec, prepared: Prepared) -> None:
    metric = spec.training.metric_of(prepared.features.target.task)
    for observer in observers:
        if hasattr(observer, "search_started"):
            observer.search_started(spec.search.planned, metric)


def _describe_start(spec: ExperimentSpec, concurrent: int) -> str:
    search = spec.search
    count = f"{search.planned} trials" if search.planned else f"trials for {search.max_minutes:g} minutes"
    named = f" of {', '.join(candidates.list_names(spec))}" if search.learners else ""
    return f"Searching: {count}{named}, {concurrent} at a time, by {search.algorithm}"


def _describe_winner(winner: Winner) -> Iterator[str]:
    judged = winner.judged
    named = ", ".join(map(_describe_share, winner.shares))
    if winner.teacher:
        yield f"The winner is a network that learned from the blend of {_name_teacher(winner)}"
    if len(winner.shares) > 1:
        how = (
            "stacked by a linear model" if judged is not None and judged.kind == STACK else "a weighted mean"
        )
        yield f"The winner is a blend, {how}: {named}"
    elif winner.is_blend:
        yield f"The winner is the mean of the folds of one trial: {named}"
    if judged is not None:
        yield (
            f"Loss of {judged.rows:,} rows that chose neither: {judged.single:.5g} of the best single, "
            f"{judged.blend:.5g} of a blend ({judged.kind}"
            + "".join(f"; {kind} {loss:.5g}" for kind, loss in judged.others.items())
            + f"); it gains {judged.gain:.2g}, with a standard error of {judged.error:.2g}"
        )


def _name_teacher(winner: Winner) -> str:
    return ", ".join(map(_describe_share, to_shares(winner.teacher)))


def _describe_share(share: Share) -> str:
    learner = to_learner(share.trial)
    folds = f" in {share.models} folds" if share.models > 1 else ""
    return f"{share.weight:.2f} {share.trial.name}" + (f" of {learner}" if learner else "") + folds


def _open_budget(spec: ExperimentSpec, request: Request) -> TimeBudget:
    minutes = spec.search.max_minutes
    began = time.monotonic() if request.began is None else request.began
    return TimeBudget(None if minutes is None else 60 * minutes, began)


def _describe_end(found: SearchResult, curve: Sequence[float], spec: ExperimentSpec) -> Iterator[str]:
    """Whether more time, trials or epochs would still help. `curve` is that of the best trial."""
    if found.timed:
        of = f" of {spec.search.planned}" if spec.search.planned else ""
        yield (
            f"The trials ended after {found.seconds:.0f} s, {len(found.trials)}{of}, so that the "
            f"model is registered within search.max_minutes: {spec.search.max_minutes:g}"
        )
    started = sorted(found.trials, key=lambda trial: trial.place)
    values = [trial.learned.get(f"best_{found.metric}", float("nan")) for trial in started]
    yield from find_improvement(
        found.metric,
        values,
        curve,
        epochs=winners.to_spec_of(spec, found.best).training.pace.epochs,
        timed=found.timed,
        ordered=spec.search.algorithm != "grid",
    )


def _settle_name(
    spec: ExperimentSpec,
    settings: Settings,
    request: Request,
    fingerprint: Fingerprint,
    tell: Callable[[str], None],
) -> Request:
    """The request with an unused name, or that of a search that can be resumed with these data."""
    heartbeat = run_heartbeat.read_heartbeat(settings.storage_path, request.name) if request.name else None
    if heartbeat is not None and not request.resume:
        raise SpecError(f"A run named {request.name!r} was started before; give another --name, or none")
    if heartbeat is None or fingerprint.matches(heartbeat.data):
        return request if request.name else dataclasses.replace(request, name=_stamp(spec), resume=False)
    changed = (
        f"The data of {heartbeat.name} had fingerprint {heartbeat.data}, and now have {fingerprint.digest}"
    )
    if not request.or_anew:
        raise DataError(f"{changed}; give the same data to resume it, or start over without --resume")
    tell(f"{changed}: starting over")
    return dataclasses.replace(request, name=_stamp(spec), resume=False)


def _open_state(settings: Settings, name: str) -> search_state.SearchState:
    key = attestation.load_signing_key(settings)
    return search_state.open_state(settings.storage_path, name, key, attestation.load_trusted_keys(settings))


def _stamp(spec: ExperimentSpec) -> str:
    """Sorted by time; the last part tells apart what starts within a second."""
    return f"{spec.name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"


class _Clock:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = now - self._last, now


def _cross_validate(
    record: Record, prepared: Prepared, searched: stages.Searched, clock: _Clock, budget: TimeBudget
) -> cross_validation.CrossValidation | None:
    """The winner's results over folds, stored with the run; None if the spec asks for none, there is no time for them,
    or they fail: the search is not lost."""
    spec, best = prepared.spec, searched.trials.best
    if not spec.evaluation.folds:
        return None
    needed = spec.evaluation.folds * spec.evaluation.repeats * (clock.laps["data"] + best.seconds)
    if not budget.allows(needed):
        record.tell(
            f"evaluation.folds are left out: they take about {needed:.0f} s, and search.max_minutes leaves "
            f"{budget.left_to_train:.0f} s"
        )
        return None
    try:
        found = cross_validation.cross_validate(spec, prepared.rows, best.parameters, record.tell)
    except (RaymlopsError, RayError) as error:
        record.tell(f"The folds could not be measured: {last_line(error)}")
        return None
    keep_folds(record, found.to_json())
    record.tell(found.describe(spec.gate.metric_of(prepared.features.target.task)))
    return found


def _blend(
    record: Record, prepared: Prepared, found: SearchResult, request: Request, budget: TimeBudget
) -> stages.Blended:
    assert request.name is not None
    return stages.blend(
        prepared.spec,
        prepared.rows,
        prepared.features,
        prepared.encoder,
        prepared.train,
        prepared.validation,
        found,
        location=locations.join(record.settings.storage_path, request.name, "folds"),
        seconds=budget.left_to_train,
        replayed=request.replayed,
        student=request.student,
        tell=record.tell,
    )


def _export(
    record: Record,
    prepared: Prepared,
    found: SearchResult,
    winner: Winner,
    request: Request,
    budget: TimeBudget,
) -> Fitting:
    """The winner, or what takes its place within the limits; one that is trained again is what it was."""
    spec, features = prepared.spec, prepared.features
    if request.replayed:
        return Fitting(winner, stages.export(spec, features, winner).model)

    def teach() -> Winner | None:
        if spec.search.distill is not None:  # it was, or it is not wanted
            return None
        assert request.name is not None
        school = School(
            spec, prepared.rows, features, prepared.encoder, prepared.train, prepared.validation, found,
            locations.join(record.settings.storage_path, request.name, "folds"),
        )  # fmt: skip
        student = distill(school, winner, seconds=budget.left_to_train, tell=record.tell)
        if student is not None and student.distilled is not None:
            record.tell(student.distilled.describe())
        return student

    return export_within(spec, prepared.rows, features, winner, found, teach, record.tell)


def _rank(
    record: Record,
    prepared: Prepared,
    found: SearchResult,
    blended: stages.Blended,
    within: Fitting,
    example: Batch,
    remarks: Sequence[str],
) -> LearnerRanking | None:
    """The ranking of the learners with their files and with what limits cost, stored with the run; None where there is
    nothing to tell."""
    if not (blended.ranking or within.given_up or remarks):
        return None
    trials = {trial.name: trial for trial in found.trials}

    def export_trial(name: str) -> bytes:
        return stages.export(prepared.spec, prepared.features, to_single(trials[name])).model

    held = blended.ranking or LearnerRanking(found.metric, 0, 1, ()).to_json()
    ranking = measure_files(
        LearnerRanking.from_json(held), within.winner, within.model, export_trial, example, record.tell
    )
    ranking = dataclasses.replace(
        ranking, limits=find_costs(ranking, within, found), remarks=tuple(dict.fromkeys(remarks))
    )
    keep_ranking(record, ranking.to_json())
    return ranking if ranking.lines else None


def _fit_ahead(prepared: Prepared) -> Future[Rows]:
    """The test rows with the baselines that the gate compares with, which a thread reads and a task fits meanwhile; if
    that fails, the gate tells why."""
    pool = ThreadPoolExecutor(1)
    ahead = pool.submit(_fit_baselines, prepared)
    pool.shutdown(wait=False)
    return ahead


def _fit_baselines(prepared: Prepared) -> Rows:
    rows = to_test_rows(prepared.rows, prepared.spec)
    with contextlib.suppress(RaymlopsError, RayError, ValueError, ArithmeticError, MemoryError):
        return dataclasses.replace(rows, fitting=start_fitting(prepared.features, rows))
    return rows


def _finish(
    record: Record,
    prepared: Prepared,
    searched: stages.Searched,
    clock: _Clock,
    request: Request,
    budget: TimeBudget,
) -> Outcome:
    settings, tell = record.settings, record.tell
    spec, rows, features = prepared.spec, prepared.rows, prepared.features
    found = searched.trials
    remarks: list[str] = []

    def note(line: str) -> None:
        remarks.append(line)
        tell(line)

    noted = dataclasses.replace(record, tell=note)
    blended = _blend(noted, prepared, found, request, budget)
    for line in _describe_winner(blended.winner):
        tell(line)
    clock.lap("blend")
    tell("Exporting it to one ONNX file, and verifying that on the test split")
    ahead = _fit_ahead(prepared) if request.register else None
    within = _export(noted, prepared, found, blended.winner, request, budget)
    winner, model = within.winner, within.model
    path, digest = export.save_model(model, settings.home / "models" / spec.name)
    (proof,) = stages.verify(spec, rows, features, prepared.encoder, winner, model)
    ranking = _rank(record, prepared, found, blended, within, proof.example, remarks)
    clock.lap("export")
    crossed = _cross_validate(record, prepared, searched, clock, budget)
    if crossed is not None:
        clock.lap("folds")
    version = None
    if request.register:
        try:
            (version,) = stages.register(
                spec, rows, features, prepared.profile, found, winner, model, proof, record=record
            )
        except UnreachableError as error:
            raise UnreachableError(
                f"{error}. The model is kept as {path}; resume this search once the store answers, and it will "
                "be registered"
            ) from None
    clock.lap("register")
    finish_record(
        record,
        {
            **{f"test_{key}": value for key, value in proof.metrics.items()},
            **{f"seconds_{key}": value for key, value in clock.laps.items()},
            **{
                f"folds_{key}": interval.value
                for key, interval in (crossed.intervals if crossed else {}).items()
            },
            "parity_difference": proof.parity.difference,
            "parity_flipped": proof.parity.flipped,
        },
        {"raymlops.best_trial": winner.best.name},
    )
    alias = trusted = None
    if version is not None and ahead is not None:
        named, measured = version, ahead.result()
        tell("Running the gate")
        why = record.why or f"best of {len(found.trials)} trials"
        version, alias, trusted = store.retry_until_answered(
            lambda: admit_version(spec.name, named, spec, measured, settings, why, tell), tell
        )
        clock.lap("gate")
    return Outcome(found, record.run, proof, path, version, digest, alias, dict(clock.laps), trusted, ranking)
