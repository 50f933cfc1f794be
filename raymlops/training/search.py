"""The search: Ray Tune over trainings; observers are notified of each trial. Exports and registers nothing."""

import functools
import logging
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
import ray
from ray import train, tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch
from ray.tune.stopper import CombinedStopper

from raymlops import locations, metrics, ray_internals, settings
from raymlops.errors import RaymlopsError, SpecError, StorageError
from raymlops.specs.experiment import ExperimentSpec, with_parameters
from raymlops.training import space, storage, worker
from raymlops.training.candidates import find_candidates
from raymlops.training.demand import count_places
from raymlops.training.learner_scheduler import LearnerScheduler
from raymlops.training.learner_search import LearnerSearch
from raymlops.training.learners import Job, check_space, holds_rows, learner_of, trainer_for
from raymlops.training.pruned_checkpoints import replace_pruned
from raymlops.training.replay import Replayed, ReplaySearch, StopAsThen
from raymlops.training.search_state import SearchState, signed_by
from raymlops.training.search_time import SearchTime
from raymlops.training.team_resources import remove_group
from raymlops.training.trial_limits import SearchDeadline, TrialLimits
from raymlops.training.trials import (
    Notify,
    Parameters,
    SearchResult,
    Trial,
    TrialObserver,
    UnfinishedTrials,
    to_trial,
)
from raymlops.training.warm_start import NOTHING_KNOWN, SearchPrior


def run_search(
    job: Job,
    *,
    name: str,
    storage_path: str,
    concurrent: int,
    observers: Sequence[TrialObserver] = (),
    resume: bool = False,
    state: SearchState | None = None,
    trusted: bool = False,
    replayed: Sequence[Replayed] = (),
    prior: SearchPrior = NOTHING_KNOWN,
) -> SearchResult:
    """Run the trials of a spec. Raises if none finished, with the cause of the last failure.

    `resume` continues the search of that name: finished trials stay, others start from their checkpoints; one that
    was cut off before Tune wrote anything starts over. `state` signs what Tune pickles, and checks it before it is
    unpickled, unless it is `trusted`; without `state`, as in tests, the caller must trust the storage path. With
    `replayed` trials it runs those, and no others. `prior` is what is known of the learners of a search over several.
    """
    spec = job.spec
    for logger in ray_internals.SEARCH_LOGGERS:  # observers are notified of failures too
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", module=r"ray\.tune")
    metric = spec.training.metric_of(job.target.task)
    check_space(spec)
    began = time.monotonic()
    trainable = tune.with_resources(
        tune.with_parameters(_run_trial, job=job, storage_path=storage_path, name=name), _resources(spec)
    )
    folder = locations.join(storage_path, name)
    unended = UnfinishedTrials()
    SearchDeadline.passed = False
    observers = [*observers, unended]
    again = resume and tune.Tuner.can_restore(folder)
    if again and state is not None and not trusted:
        state.require_signed()
    tuner = (
        _restore_tuner(trainable, folder, observers)
        if again
        else _make_tuner(trainable, job, metric, name, storage_path, concurrent, observers, replayed, prior)
    )
    if state is not None and (trusted or not again):
        state.adopt()  # the tuner's own pickle, which it has just written
    try:
        with signed_by(state):
            results = tuner.fit()
    except tune.TuneError as error:
        if isinstance(error.__context__, StorageError):  # raised by Notify
            raise error.__context__ from None
        raise
    for result in results:  # those that the end of the search stopped
        remove_group(result.metrics)
    if unended.trials and not SearchDeadline.passed:
        raise KeyboardInterrupt  # Tune catches an interrupt, stops its trials, and returns what there is
    trials = [to_trial(result, folder, place) for place, result in enumerate(results)]
    return _rank(trials, metric, spec, time.monotonic() - began, overtime=SearchDeadline.passed)


def _rank(
    trials: Sequence[Trial], metric: str, spec: ExperimentSpec, seconds: float, *, overtime: bool
) -> SearchResult:
    """The best first. Raises if none finished, with the cause of the last failure."""
    finished = [trial for trial in trials if trial.checkpoint is not None and trial.learned]
    if not finished:
        if overtime and not any(trial.error for trial in trials):
            raise SpecError(
                f"search.max_minutes: no trial reported a result within {60 * (spec.search.max_minutes or 0):.0f} s, "
                "which is what it leaves to trials; allow more, or lower training.epochs"
            )
        raise RaymlopsError(
            f"None of {len(trials)} trials finished; the last error: "
            f"{trials[-1].error if trials else 'none ran'}"
        )
    sign = 1 if metric in metrics.FALLING else -1
    finished.sort(key=lambda trial: sign * trial.learned[f"best_{metric}"])
    failed = [trial for trial in trials if trial not in finished]
    return SearchResult(metric, (*finished, *failed), seconds, overtime)


def _make_tuner(
    trainable: Any,
    job: Job,
    metric: str,
    name: str,
    storage_path: str,
    concurrent: int,
    observers: Sequence[TrialObserver],
    replayed: Sequence[Replayed],
    prior: SearchPrior,
) -> tune.Tuner:
    spec, mode = job.spec, "min" if metric in metrics.FALLING else "max"
    suggested = replayed or spec.search.learners is not None or spec.search.algorithm == "optuna"
    learners = (
        None if replayed or spec.search.learners is None else _make_learner_search(job, metric, mode, prior)
    )
    # Trials that are replayed end as they did then, on whatever machine.
    seconds = None if replayed or spec.search.max_minutes is None else spec.search.max_minutes * 60
    deadline = SearchDeadline(seconds, learners) if seconds else None
    limits = TrialLimits(
        trial_minutes=None if replayed else spec.search.trial_minutes,
        learners=learners,
        deadline=deadline,
        teams=spec.training.workers > 1,
    )
    return tune.Tuner(
        trainable,
        param_space=None if suggested else space.to_tune_space(spec),
        tune_config=tune.TuneConfig(
            metric=f"best_{metric}",
            mode=mode,
            search_alg=(
                ConcurrencyLimiter(ReplaySearch(replayed, metric=f"best_{metric}", mode=mode), concurrent)
                if replayed
                else ConcurrencyLimiter(learners, max_concurrent=concurrent)
                if learners is not None
                else _algorithm(spec, metric, mode, concurrent)
            ),
            scheduler=FIFOScheduler() if replayed else _scheduler(spec),
            num_samples=len(replayed) or spec.search.budget,
            max_concurrent_trials=None if suggested else concurrent,
            reuse_actors=spec.training.workers == 1,
            trial_name_creator=lambda trial: f"trial-{trial.trial_id.rsplit('_', 1)[-1]}",
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=storage_path,
            verbose=0,
            stop=_combine(StopAsThen(replayed) if replayed else None, deadline),
            callbacks=[
                limits,
                Notify(observers),
            ],  # in this order: what ends a trial is what observers are told
            failure_config=tune.FailureConfig(max_failures=spec.search.retries),
            # Under PBT a trial may copy one that has continued since: its checkpoint must still exist.
            checkpoint_config=tune.CheckpointConfig(
                num_to_keep=None if spec.search.scheduler == "pbt" else 2
            ),
        ),
    )


def _restore_tuner(trainable: Any, path: str, observers: Sequence[TrialObserver]) -> tune.Tuner:
    # Tune restores its callbacks from a pickle, which cannot contain observers; it has no way to pass new ones.
    Notify.restored = tuple(observers)
    with storage.explained(path):
        replace_pruned(path)
    return tune.Tuner.restore(path, trainable, resume_unfinished=True, restart_errored=True)


def _run_trial(config: Parameters, job: Job, storage_path: str, name: str) -> None:
    spec = with_parameters(job.spec, config)
    if spec.training.workers == 1:
        worker.run_alone(job, spec, storage_path)
        return
    settings.export(settings.TEAM_DEFAULTS)
    trainer = trainer_for(learner_of(spec))(
        worker.run_in_team,
        train_loop_config={"job": [ray.put(job)], "spec": spec, "storage_path": storage_path},
        scaling_config=_scaling(spec),
        run_config=train.RunConfig(
            name=tune.get_context().get_trial_id(),
            storage_path=locations.join(storage_path, name),
            callbacks=[_TuneNotifier()],
            failure_config=train.FailureConfig(max_failures=spec.search.retries),
            checkpoint_config=train.CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        trainer.fit()
    except train.ControllerError as error:
        if isinstance(error.controller_failure, StorageError):
            raise error.controller_failure from None
        raise


class _TuneNotifier(TuneReportCallback):  # type: ignore[misc]
    """Passes the reports of its team to the trial; ends the team if it cannot save, since retrying is useless."""

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        for error in worker_exceptions.values():
            if isinstance(error, StorageError):
                raise error


def _scaling(spec: ExperimentSpec) -> train.ScalingConfig:
    training = spec.training
    elastic = training.fewest_workers < training.workers
    return train.ScalingConfig(
        num_workers=(training.fewest_workers, training.workers) if elastic else training.workers,
        elastic_resize_monitor_interval_s=training.resize_s,
        use_gpu=training.use_gpu,
        resources_per_worker=training.worker_resources,
        # workers that hold their share of the rows have the memory of a node each, as far as there are nodes
        placement_strategy="SPREAD" if holds_rows(learner_of(spec)) else "PACK",
        label_selector=dict(training.labels) or None,
    )


def _resources(spec: ExperimentSpec) -> tune.PlacementGroupFactory:
    training = spec.training
    if training.workers == 1:
        return tune.PlacementGroupFactory(
            [training.worker_resources], bundle_label_selector=[training.labels]
        )
    # The trial only controls; the trainer places its workers. Tune does not accept an empty demand, and a CPU reserved
    # here could be the one that a worker waits for.
    return tune.PlacementGroupFactory([{"memory": 2**20}])


def _combine(*stoppers: tune.Stopper | None) -> tune.Stopper | None:
    given = [one for one in stoppers if one is not None]
    return CombinedStopper(*given) if given else None


def _make_learner_search(job: Job, metric: str, mode: str, prior: SearchPrior) -> LearnerSearch:
    spec, limit, sample = job.spec, None, job.spec.search.sample_rows
    if spec.search.max_minutes is not None:
        places = count_places(spec)
        folds = spec.search.folds or 0 if spec.search.blends else 0
        refits = spec.search.blends and spec.search.refit is not False
        limit = SearchTime(spec.search.max_minutes * 60, folds, places, refits)
    return LearnerSearch(
        find_candidates(spec, job.train.count, job.target.task),
        metric=f"best_{metric}",
        mode=mode,
        seed=spec.search.seed,
        sampled=spec.search.algorithm == "random",
        limit=limit,
        rows=job.train.count,
        sample_rows=sample if sample and sample < job.train.count else None,
        prior=prior,
    )


def _algorithm(spec: ExperimentSpec, metric: str, mode: str, concurrent: int) -> Any:
    if spec.search.algorithm == "optuna":
        searcher = OptunaSearch(
            space=_to_optuna(spec),
            metric=f"best_{metric}",
            mode=mode,
            seed=spec.search.seed,
            points_to_evaluate=space.first_points(spec) or None,
        )
        return ConcurrencyLimiter(searcher, max_concurrent=concurrent)
    points = space.first_points(spec) if spec.search.algorithm == "random" else []
    return BasicVariantGenerator(
        random_state=spec.search.seed, max_concurrent=concurrent, points_to_evaluate=points or None
    )


def _to_optuna(spec: ExperimentSpec) -> dict[str, Any]:
    return dict(OptunaSearch.convert_search_space(space.to_tune_space(spec)))


def _scheduler(spec: ExperimentSpec) -> Any:
    if spec.search.scheduler == "asha":
        make = functools.partial(
            ASHAScheduler,
            time_attr="epoch",
            max_t=spec.training.pace.epochs,
            grace_period=min(spec.search.grace_epochs or 2, spec.training.pace.epochs),
            reduction_factor=spec.search.reduction,
        )
        return make() if spec.search.learners is None else LearnerScheduler(make)
    if spec.search.scheduler == "pbt":
        return PopulationBasedTraining(
            time_attr="epoch",
            perturbation_interval=spec.search.perturb_epochs,
            hyperparam_mutations=space.to_mutations(spec),
            require_attrs=False,
        )
    return FIFOScheduler()
