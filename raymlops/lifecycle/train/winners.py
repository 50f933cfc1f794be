"""The winner of a search: chosen among its trials and their blends, rebuilt from a record, loaded, and written as one
graph on packed rows. Runs no trials, and adds no preprocessing."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx

from raymlops.errors import RaymlopsError, StorageError, last_line
from raymlops.features import FittedFeatures, FittedTarget, Packing, packing_of
from raymlops.specs.experiment import ExperimentSpec, with_parameters
from raymlops.training import learners
from raymlops.training.bags import train_bags
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
    to_margins,
    to_single,
)
from raymlops.training.demand import count_places
from raymlops.training.learners import Job, Scorer, learner_of
from raymlops.training.packed import LABEL, NO_ROWS, WEIGHT, narrow
from raymlops.training.replay import Replayed
from raymlops.training.search_time import SearchTime
from raymlops.training.trials import SearchResult, Trial, read_state

Tell = Callable[[str], None]
_MOST_BAGS, _MOST_TRIALS = 6, 12
"""Trials among which a blend chooses: with folds each is trained again."""
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
        picked = _pick_for_folds(found, spec, target, seconds)
        if picked:
            named = [(trial, to_spec_of(spec, trial)) for trial in picked]
            trained = train_bags(
                named, job, folds=folds, location=location, seconds=seconds, tell=tell
            ).finite
            if any(bag.trial is picked[0] for bag in trained.bags):  # the best of them
                found = trained
        else:
            tell("There is no time to train the best trials again on folds, and they are taken as they are")
    return blend_bags(found, spec.training, target), found


def _pick_for_folds(
    found: Bags, spec: ExperimentSpec, target: FittedTarget, seconds: float | None
) -> list[Trial]:
    """The trials to train again on folds: without the slowest beside the best, so that they end in time by what each
    took; none if even the best does not."""
    left = math.inf if seconds is None else seconds
    time = SearchTime(left, spec.search.folds or 0, count_places(spec))
    held, firsts = found, True
    while True:
        picked = choose_bags(held, spec.training, target, _MOST_BAGS, firsts=firsts)
        if time.seconds_of_folds(sum(trial.seconds for trial in picked)) < left:
            return picked
        others = [trial for trial in picked if trial is not picked[0]]
        if not firsts and not others:
            return []
        if not firsts:
            slowest = max(others, key=lambda trial: trial.seconds)
            held = dataclasses.replace(held, bags=tuple(one for one in held.bags if one.trial is not slowest))
        firsts = False


def _answer_validation(job: Job, trials: Sequence[Trial], tell: Tell) -> Bags:
    """What the models of trials answer to the validation rows. A learner that cannot load or ask its model is told, and
    does not end a search that others finished."""
    rows = job.validation.load_evenly(MOST_ROWS)
    labels, weights = rows.pop(LABEL), rows.pop(WEIGHT, None)
    bags = []
    for trial in trials:
        try:
            scorer = _load_trial(job.spec, job.packing, job.target, trial)
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
        bags.append(Bag(trial, (trial,), np.asarray(margins)))
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
            (bag,) = train_bags(named, job, folds=one.models, location=location).bags
            parts = bag.parts
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
    known = to_spec_of(spec, trial)
    return learner_of(known).load(read_state(trial), Job(known, packing, target, NO_ROWS, NO_ROWS))
