"""The winner of a search: chosen among its trials and their blends, rebuilt from a record, loaded, and written as one
graph on packed rows. Runs no trials, and adds no preprocessing."""

import dataclasses
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
    find_worse,
    judge_bags,
    to_margins,
    to_single,
)
from raymlops.training.demand import count_places
from raymlops.training.learners import Job, Scorer, State, learner_of
from raymlops.training.packed import LABEL, NO_ROWS, WEIGHT, narrow
from raymlops.training.refits import refit_trials
from raymlops.training.replay import Replayed
from raymlops.training.search_time import FOLDS_START_S, SearchTime
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
_LEAST_ROWS = 500
"""Validation rows by which the members of a blend are chosen well enough that one more training of all of them is
preferred to the folds of some."""
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
    began = time.monotonic()
    found = _answer_validation(job, chosen, tell).finite
    if not found.bags:
        return to_single(trials.best), None
    left = None if seconds is None else max(0.0, seconds - (time.monotonic() - began))
    winner = blend_bags(found, spec.training, target)
    members = [share.trial for share in winner.shares]
    refits, enough = _wants_refits(job, tell), len(found.labels) >= _LEAST_ROWS
    if folds and not (refits and enough and not _fits_folds(found, spec, members, left)):
        trained = _train_folds(found, job, location=location, seconds=left, tell=tell)
        if trained is not None:
            return blend_bags(trained, spec.training, target), trained
        left = None if seconds is None else max(0.0, seconds - (time.monotonic() - began))
    if refits and (left is None or left > FOLDS_START_S):
        winner = _refit(winner, found, job, location=location, seconds=left, tell=tell)
    return winner, found


def _wants_refits(job: Job, tell: Tell) -> bool:
    """Whether the winner's models are to be trained again on all rows, if they are not on folds."""
    search, training = job.spec.search, job.spec.training
    wanted = search.max_minutes is not None if search.refit is None else search.refit
    if not wanted:
        return False
    why = "this training has several workers" if training.workers > 1 else ""
    if job.train.arrays is None or job.validation.arrays is None:
        why = "these take more than training.resident_bytes"
    if why and search.refit:
        tell(f"search.refit is left out: one process trains again on all rows in memory, and {why}")
    return not why


def _refit(
    winner: Winner, found: Bags, job: Job, *, location: str, seconds: float | None, tell: Tell
) -> Winner:
    """The winner with models of training and validation rows. One that answers the latter worse than without them went
    astray, and is left out."""
    named = [(share.trial, to_spec_of(job.spec, share.trial)) for share in winner.shares]
    refitted = refit_trials(named, job, location=location, seconds=seconds, tell=tell)
    if found.step == 1:
        margins = {name: one.margins for name, one in refitted.items()}
        for name in find_worse(found, margins, job.spec.training, job.target):
            tell(f"{name} answers worse after it was trained on all rows, and is taken as it was")
            del refitted[name]
    if refitted:
        rows = job.train.count + job.validation.count
        tell(
            f"{len(refitted)} of {len(named)} models were trained again on {rows:,} rows, validation included"
        )
    members = tuple(
        Member(refitted[one.trial.name].trial, one.weight, whole=True) if one.trial.name in refitted else one
        for one in winner.members
    )
    return dataclasses.replace(winner, members=members)


def _train_folds(found: Bags, job: Job, *, location: str, seconds: float | None, tell: Tell) -> Bags | None:
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
        return train_bags(
            named, job, folds=folds, location=location, deal=deal, seconds=left, tell=tell
        ).finite

    trained = train(picked, 0)
    if not trained.bags:
        return None
    if seconds is not None:
        trained = _train_again(trained, found, job, seconds, began, train)
    # Its own folds are its better judge: it was chosen by the validation rows.
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
    # The same ones in each deal: a record says how many models a trial has, and they are those of the first deals.
    shares = blend_bags(trained, job.spec.training, job.target).shares
    size = sum(sizes[share.trial.name] * share.models for share in shares)
    for deal in range(1, _MOST_DEALS):
        left = seconds - (time.monotonic() - began)
        if left < _MARGIN * first or size * (deal + 1) > _MOST_BYTES:
            break
        more = train([share.trial for share in shares], deal)
        if len(more.bags) < len(shares):
            break
        trained = join_bags(trained, more)
    return trained


def _fits_folds(found: Bags, spec: ExperimentSpec, trials: Sequence[Trial], left: float | None) -> bool:
    """Whether these end in time on folds, with the writing and measuring of their files."""
    if left is None:
        return True
    folds = spec.search.folds or 0
    sizes = {bag.trial.name: bag.bytes for bag in found.bags}
    files = folds * sum(sizes[trial.name] for trial in trials) * _SECONDS_A_BYTE
    limit = SearchTime(left, folds, count_places(spec))
    return limit.seconds_of_folds(sum(trial.seconds for trial in trials)) + files < left


def _pick_for_folds(
    found: Bags, spec: ExperimentSpec, target: FittedTarget, seconds: float | None
) -> list[Trial]:
    """The trials to train again on folds: those that end in time together, by what each took, and whose files are
    written and measured in it; none if none does."""

    def fits(trials: Sequence[Trial]) -> bool:
        return _fits_folds(found, spec, trials, seconds)

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
        elif one.whole:
            named = [(trial, to_spec_of(job.spec, trial))]
            told: list[str] = []
            refitted = refit_trials(named, job, location=location, tell=told.append)
            if not refitted:
                raise RaymlopsError("; ".join(told))
            parts = (refitted[trial.name].trial,)
        members += [Member(part, one.weight / len(parts), one.whole) for part in parts]
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
