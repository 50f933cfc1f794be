"""The winner of a search: chosen among its trials and their blends, rebuilt from a record, loaded, and written as one
graph on packed rows. Runs no trials, and adds no preprocessing."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import onnx

from raymlops.errors import RaymlopsError, StorageError, last_line
from raymlops.features import FittedFeatures, FittedTarget, Packing, packing_of
from raymlops.specs.experiment import ExperimentSpec, with_parameters
from raymlops.training import learners
from raymlops.training.bags import join_bags, train_bags
from raymlops.training.blend_export import write_blend
from raymlops.training.blends import (
    Bag,
    Bags,
    BlendScorer,
    Member,
    Winner,
    blend_bags,
    choose_bags,
    choose_trials,
    judge_bags,
    to_margins,
    to_single,
)
from raymlops.training.demand import count_places
from raymlops.training.learners import Job, Scorer, State, learner_of
from raymlops.training.packed import LABEL, NO_ROWS, WEIGHT, narrow
from raymlops.training.replay import Replayed
from raymlops.training.search_time import SearchTime
from raymlops.training.trials import SearchResult, Trial, read_state
from raymlops.training.worker import count_state_bytes

Tell = Callable[[str], None]
_MOST_BAGS, _MOST_TRIALS = 6, 12
"""Trials among which a blend chooses: with folds each is trained again."""
_SECONDS_A_BYTE = 0.25e-6
"""Of a model's file, to write it, to compare it with the model, to register it, and to measure it."""
_FEW_ROWS, _MOST_DEALS, _MOST_BYTES = 5_000, 4, 8_000_000
"""Rows that are dealt again, how often, and the bytes of all models of a blend that this may give."""
_MARGIN = 1.2
MOST_ROWS = 50_000
"""Validation rows by which it chooses."""


def choose_winner(
    job: Job, trials: SearchResult, *, location: str, seconds: float | None, tell: Tell
) -> tuple[Winner, Bags | None]:
    """The best trial, or a blend that gains beyond doubt, and the answers by which it was chosen; None if no trial
    answered. See `stages.blend`."""
    spec, target = job.spec, job.target
    folds = spec.search.folds or 0
    chosen = choose_trials(trials.trials, _MOST_TRIALS, defaults=bool(folds))
    found = _answer_validation(job, chosen, tell).finite
    if not found.bags:
        return to_single(trials.best), None
    if folds:
        trained = _train_folds(found, job, location=location, seconds=seconds, tell=tell)
        if trained is not None:
            found = trained
    return blend_bags(found, spec.training, target), found


def _train_folds(
    found: Bags, job: Job, *, location: str, seconds: float | None, tell: Tell
) -> Bags | None:
    """The bags of the trials that are worth it; None if there is no time, or if the best trial has none and is better
    alone."""
    spec, target = job.spec, job.target
    began = time.monotonic()
    picked = _pick_for_folds(found, spec, target, seconds)
    if not picked:
        tell("There is no time to train the best trials again on folds, and they are taken as they are")
        return None

    def train(trials: Sequence[Trial], deal: int) -> Bags:
        named = [(trial, to_spec_of(spec, trial)) for trial in trials]
        left = None if seconds is None else max(seconds - (time.monotonic() - began), 0.0)
        folds = spec.search.folds or 0
        return train_bags(named, job, folds=folds, location=location, deal=deal, seconds=left, tell=tell).finite

    trained = train(picked, 0)
    if not trained.bags:
        return None
    if seconds is not None:
        trained = _train_again(trained, found, job, seconds, began, train)
    if any(bag.trial is found.bags[0].trial for bag in trained.bags):
        return trained
    rows = len(found.labels)  # validation rows, which are the last ones of those that folds answer
    if found.step != 1 or not np.array_equal(trained.labels[-rows:], found.labels):
        return None
    loss = judge_bags(trained.of_rows(slice(-rows, None)), spec.training, target)
    return trained if loss < judge_bags(found, spec.training, target) else None


def _train_again(
    trained: Bags,
    found: Bags,
    job: Job,
    seconds: float,
    began: float,
    train: Callable[[Sequence[Trial], int], Bags],
) -> Bags:
    """The members of the blend of few rows with more models, of other deals of the rows, while there is time: how rows
    are dealt is most of the chance in the answers of small models."""
    first = time.monotonic() - began
    sizes = {bag.trial.name: bag.bytes for bag in found.bags}
    if len(trained.labels) > _FEW_ROWS:
        return trained
    for deal in range(1, _MOST_DEALS):
        winner = blend_bags(trained, job.spec.training, job.target)
        members = [share.trial for share in winner.shares]
        size = sum(sizes[share.trial.name] * share.models for share in winner.shares)
        left = seconds - (time.monotonic() - began)
        if left < _MARGIN * first or size * (deal + 1) / deal > _MOST_BYTES:
            break
        trained = join_bags(trained, train(members, deal))
    return trained


def _pick_for_folds(
    found: Bags, spec: ExperimentSpec, target: FittedTarget, seconds: float | None
) -> list[Trial]:
    """The trials to train again on folds: those that end in time together, by what each took, and whose files are
    written and measured in it; none if none does."""
    left = math.inf if seconds is None else seconds
    folds = spec.search.folds or 0
    limit = SearchTime(left, folds, count_places(spec))
    sizes = {bag.trial.name: bag.bytes for bag in found.bags}

    def fits(trials: Sequence[Trial]) -> bool:
        files = folds * sum(sizes[trial.name] for trial in trials) * _SECONDS_A_BYTE
        return limit.seconds_of_folds(sum(trial.seconds for trial in trials)) + files < left

    held, firsts = found, True
    while held.bags:
        picked = choose_bags(held, spec.training, target, _MOST_BAGS, firsts=firsts)
        if fits(picked):
            return picked
        late = {trial.name for trial in picked if not fits([trial])}
        if not late and firsts:
            firsts = False
            continue
        slowest = late or {max(picked[1:], key=lambda trial: trial.seconds).name}
        held = dataclasses.replace(
            held, bags=tuple(one for one in held.bags if one.trial.name not in slowest)
        )
    return []


def _answer_validation(job: Job, trials: Sequence[Trial], tell: Tell) -> Bags:
    """What the models of trials answer to the validation rows. A learner that cannot load or ask its model is told, and
    does not end a search that others finished."""
    rows = job.validation.load_evenly(MOST_ROWS)
    labels, weights = rows.pop(LABEL), rows.pop(WEIGHT, None)
    bags = []
    for trial in trials:
        try:
            state = read_state(trial)
            scorer = _open_state(job.spec, job.packing, job.target, trial, state)
            margins = to_margins(job.target.task, scorer.scores(narrow(rows, _read_by(job.spec, trial))))
            if margins.shape != (len(labels), job.target.outputs):
                raise ValueError(
                    f"its scores are {margins.shape}, expected {(len(labels), job.target.outputs)}"
                )
        except StorageError:
            raise
        except Exception as error:  # of any learner, also of the user's own
            tell(
                f"Trial {trial.name} cannot be a part of a blend: {type(error).__name__}: {last_line(error)}"
            )
            continue
        bags.append(Bag(trial, (trial,), np.asarray(margins), count_state_bytes(state)))
    return Bags(tuple(bags), labels, weights, step=job.validation.step_of(MOST_ROWS))


def rebuild_winner(job: Job, trials: SearchResult, replayed: Sequence[Replayed], location: str) -> Winner:
    """The winner that a record names, of trials that were run again. Raises RaymlopsError if one of them failed."""
    members = []
    for one in replayed:
        trial = next(held for held in trials.trials if held.parameters == one.parameters)
        if trial.error is not None or trial.checkpoint is None:
            raise RaymlopsError(f"A member of the winner failed when it was trained again: {trial.error}")
        parts: tuple[Trial, ...] = (trial,)
        if one.models > 1:
            named = [(trial, to_spec_of(job.spec, trial))]
            folds = job.spec.search.folds or one.models
            for deal in range(one.models // folds):
                (bag,) = train_bags(named, job, folds=folds, location=location, deal=deal).bags
                parts = bag.parts if deal == 0 else (*parts, *bag.parts)
        members += [Member(part, one.weight / len(parts)) for part in parts]
    return Winner(tuple(members))


def to_spec_of(spec: ExperimentSpec, trial: Trial) -> ExperimentSpec:
    """The spec of one trial of a search: with its parameters, and what the rows decided."""
    return with_parameters(spec, {**trial.decided, **trial.parameters})


def load_scorer(spec: ExperimentSpec, features: FittedFeatures, winner: Winner) -> Scorer:
    """The trained winner. Raises StorageError."""
    if winner.is_blend:
        return load_blend(spec, features, winner.members)
    return _load_trial(spec, packing_of(features), features.target, winner.members[0].trial)


def load_blend(spec: ExperimentSpec, features: FittedFeatures, members: Sequence[Member]) -> BlendScorer:
    """Trained models as one, also of a single one with its weight. Raises StorageError."""
    packing, target = packing_of(features), features.target
    parts = (
        (_load_trial(spec, packing, target, one.trial), one.weight, _read_by(spec, one.trial))
        for one in members
    )
    return BlendScorer(tuple(parts), target)


def write_core(spec: ExperimentSpec, features: FittedFeatures, winner: Winner) -> onnx.ModelProto:
    """The winner as a graph of packed rows, as of `Learner.to_onnx`. Raises ArtifactError, StorageError."""
    packing, target, cores = packing_of(features), features.target, []
    for member in winner.members:
        scorer = _load_trial(spec, packing, target, member.trial)
        learner = learner_of(to_spec_of(spec, member.trial))
        cores.append((learner.to_onnx(scorer, packing, target), member.weight))
    return write_blend(cores, target.task) if winner.is_blend else cores[0][0]


def read_for(spec: ExperimentSpec, winner: Winner) -> frozenset[str]:
    """The packed tensors that its models read."""
    return frozenset().union(*(_read_by(spec, member.trial) for member in winner.members))


def _read_by(spec: ExperimentSpec, trial: Trial) -> frozenset[str]:
    return learners.read_by(learner_of(to_spec_of(spec, trial)))


def _load_trial(spec: ExperimentSpec, packing: Packing, target: FittedTarget, trial: Trial) -> Scorer:
    """The best model of a trial, from its best epoch. Raises StorageError."""
    return _open_state(spec, packing, target, trial, read_state(trial))


def _open_state(
    spec: ExperimentSpec, packing: Packing, target: FittedTarget, trial: Trial, state: State
) -> Scorer:
    known = to_spec_of(spec, trial)
    return learner_of(known).load(state, Job(known, packing, target, NO_ROWS, NO_ROWS))
