"""Weighted sums of trained models: their selection, whether they gain, and their scores. Trains and exports nothing.

Margins are what is averaged: log odds, logarithms of probabilities, or standardised predictions, (rows, outputs).
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from raymlops.features import FittedTarget
from raymlops.metrics import FALLING
from raymlops.specs.training import TrainingSpec
from raymlops.tensors import Batch
from raymlops.training.class_weights import weigh_classes
from raymlops.training.learners import Scorer
from raymlops.training.packed import narrow
from raymlops.training.row_losses import Floats, RowLoss, make_loss
from raymlops.training.stacking import fit_stack
from raymlops.training.trials import Trial

LEAST_MARGIN = -16.0
"""Logarithms of probabilities below are cut off; FP32 has none closer to 1 than this."""
GREEDY, STACK, BOTH, _SINGLE = "greedy", "stack", "both", "single"
MakeLoss = Callable[[npt.NDArray[np.int64]], RowLoss]
"""Numbers of rows -> the loss of these."""
_STEPS = 25
_MOST = 6
"""Members of a blend."""
_FOLDS = 5
_FEW = 1_000
"""Validation rows below which they do not tell trials, or temperatures, apart."""
_CONFIDENCE = 1.645
"""Standard errors by which a blend must gain: 95 of 100 single models that are as good are kept."""
_TEMPERATURES = np.exp(np.linspace(np.log(0.5), np.log(2.0), 29))


@dataclasses.dataclass(frozen=True)
class Member:
    """A trained model with its weight, larger than 0."""

    trial: Trial
    weight: float
    whole: bool = False
    """Whether it was trained on the validation rows, too."""


@dataclasses.dataclass(frozen=True)
class Bag:
    """Models with the values of one trial: that of the trial itself, or one a fold, which weigh alike."""

    trial: Trial
    parts: tuple[Trial, ...]
    margins: Floats
    """(rows, outputs), of rows that the model that answers them has not seen."""
    bytes: int = 0
    """Of one of its models as it was saved."""


@dataclasses.dataclass(frozen=True)
class Bags:
    """Bags that answered the same rows."""

    bags: tuple[Bag, ...]
    labels: npt.NDArray[Any]
    weights: npt.NDArray[Any] | None
    splits: tuple[str, ...] = ("validation",)
    """Whose rows these are, in order."""
    step: int = 1
    """Every so many of them, from the first on."""

    @property
    def margins(self) -> Floats:
        """(bags, rows, outputs)"""
        return np.stack([bag.margins for bag in self.bags])

    @property
    def finite(self) -> "Bags":
        """Without those that have no number for some row: a mean with them would have none, either."""
        kept = tuple(bag for bag in self.bags if np.isfinite(bag.margins).all())
        return dataclasses.replace(self, bags=kept)

    def of_rows(self, rows: slice) -> "Bags":
        """The same of a part of the rows."""
        return dataclasses.replace(
            self,
            bags=tuple(dataclasses.replace(bag, margins=bag.margins[rows]) for bag in self.bags),
            labels=self.labels[rows],
            weights=None if self.weights is None else self.weights[rows],
        )

    def weigh(self, spec: TrainingSpec, target: FittedTarget) -> npt.NDArray[Any] | None:
        """The weights of the rows in losses."""
        return weigh_rows(spec, target, self.labels, self.weights)


@dataclasses.dataclass(frozen=True)
class Judged:
    """Mean losses of rows that chose neither, and the gain of the blend with its standard error."""

    single: float
    blend: float
    gain: float
    error: float
    rows: int
    kind: str = GREEDY
    """How its members are weighed: that of SELECTIONS with the least loss."""
    others: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """The losses of the other kinds."""

    @property
    def beyond_doubt(self) -> bool:
        return self.gain > _CONFIDENCE * self.error


@dataclasses.dataclass(frozen=True)
class Distilled:
    """A network that learned from the answers of a blend, and its values of the search's metric on validation rows,
    which taught none of them."""

    metric: str
    student: float
    teacher: float
    """Of the blend of the trials as they were trained, on training rows alone."""
    single: float
    """Of the best trial."""
    rows: int
    """Rows that it learned from, those that were drawn anew included."""

    @property
    def gains(self) -> bool:
        """Whether it is better than the best trial."""
        return self.student < self.single if self.metric in FALLING else self.student > self.single

    def describe(self) -> str:
        """A sentence."""
        return (
            f"A network learned from the answers of the blend to {self.rows:,} rows: validation {self.metric} "
            f"{self.student:.4g}, of the blend {self.teacher:.4g}, of the best trial {self.single:.4g}"
        )


@dataclasses.dataclass(frozen=True)
class Share:
    """What the models with the values of one trial weigh together."""

    trial: Trial
    weight: float
    models: int
    whole: bool = False


@dataclasses.dataclass(frozen=True)
class Winner:
    """What leaves a search: one trial of weight 1, or several."""

    members: tuple[Member, ...]
    judged: Judged | None = None
    """None where no blend was tried."""
    teacher: tuple[Member, ...] = ()
    """The blend from which its only member learned; empty for one that learned from the labels."""
    distilled: Distilled | None = None

    @property
    def shares(self) -> tuple[Share, ...]:
        """By trial, the largest first."""
        return to_shares(self.members)

    @property
    def best(self) -> Trial:
        """The trial of the largest share."""
        return self.shares[0].trial

    @property
    def is_blend(self) -> bool:
        return len(self.members) > 1

    def to_json(self) -> dict[str, Any]:
        """For the record of a version."""
        found: dict[str, Any] = {
            "members": [_to_record(share) for share in self.shares],
            "judged": None if self.judged is None else dataclasses.asdict(self.judged),
        }
        if self.teacher:
            found["teacher"] = [_to_record(share) for share in to_shares(self.teacher)]
            found["distilled"] = None if self.distilled is None else dataclasses.asdict(self.distilled)
        return found


def to_shares(members: Sequence[Member]) -> tuple[Share, ...]:
    """By trial, the largest first."""
    found: dict[str, Share] = {}
    for member in members:
        held = found.get(member.trial.name, Share(member.trial, 0.0, 0))
        found[member.trial.name] = Share(
            held.trial, held.weight + member.weight, held.models + 1, member.whole
        )
    return tuple(sorted(found.values(), key=lambda share: -share.weight))


def _to_record(share: Share) -> dict[str, Any]:
    return {
        "trial": share.trial.name,
        "weight": share.weight,
        "models": share.models,
        "whole": share.whole,
        "epochs": int(share.trial.learned.get("epoch", 1)),
        "parameters": share.trial.parameters,
    }


def to_single(trial: Trial, judged: Judged | None = None) -> Winner:
    return Winner((Member(trial, 1.0),), judged)


@dataclasses.dataclass(frozen=True)
class BlendScorer:
    """Several trained models as one."""

    members: tuple[tuple[Scorer, float, frozenset[str]], ...]
    """Each with its weight, and the packed tensors that it reads."""
    target: FittedTarget

    def scores(self, batch: Batch) -> Floats:
        margins = sum(
            weight * to_margins(self.target.task, scorer.scores(narrow(batch, tensors)))
            for scorer, weight, tensors in self.members
        )
        return to_scores(self.target.task, np.asarray(margins))


def to_margins(task: str, scores: Floats) -> Floats:
    """Scores of a learner as margins (rows, outputs), float64."""
    values = np.asarray(scores, dtype=np.float64)
    if task == "regression":
        return np.asarray(values[:, None])
    tiny = np.exp(LEAST_MARGIN)
    if task == "multiclass":
        return np.asarray(np.log(np.maximum(values, tiny)))
    odds = np.clip(
        np.log(np.maximum(values, tiny)) - np.log(np.maximum(1 - values, tiny)), LEAST_MARGIN, -LEAST_MARGIN
    )
    return np.asarray(odds[:, None])


def to_scores(task: str, margins: Floats) -> Floats:
    """Margins as scores of a learner, float32."""
    if task == "regression":
        return np.asarray(margins[..., 0], dtype=np.float32)
    if task == "multiclass":
        powers = np.exp(margins - margins.max(axis=-1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True), dtype=np.float32)
    return np.asarray(np.exp(-np.logaddexp(0, -margins[..., 0])), dtype=np.float32)


def weigh_rows(
    spec: TrainingSpec,
    target: FittedTarget,
    labels: npt.NDArray[Any],
    weights: npt.NDArray[Any] | None,
) -> npt.NDArray[Any] | None:
    """The weights of rows, and of their classes, as in training."""
    classes = weigh_classes(spec, target) if target.task != "regression" else ()
    if not classes:
        return weights
    of_classes = np.asarray(classes)[labels.astype(np.int64)]
    return of_classes if weights is None else of_classes * weights


def select_members(
    margins: Floats, loss: RowLoss, weights: npt.NDArray[Any] | None = None, most: int = _MOST
) -> npt.NDArray[np.float64]:
    """Weights (models,) of the greedy blend that starts with the best model and adds, with replacement, the one that
    lowers the mean loss most (Caruana, Niculescu-Mizil, Crew, Ksikes 2004). `margins` are (models, rows, outputs)."""
    counts = np.zeros(len(margins))
    total = np.zeros(margins.shape[1:])
    best, kept = np.inf, counts.copy()
    for step in range(1, _STEPS + 1):
        open_to = np.ones(len(margins), dtype=bool)
        if np.count_nonzero(counts) >= most:
            open_to = counts > 0
        losses = np.array([
            _mean(loss((total + one) / step), weights) if able else np.inf
            for one, able in zip(margins, open_to, strict=True)
        ])  # fmt: skip
        place = int(losses.argmin())
        counts[place] += 1
        total = total + margins[place]
        if losses[place] < best - 1e-12:
            best, kept = float(losses[place]), counts.copy()
    return np.asarray(kept / kept.sum())


def _mean(losses: Floats, weights: npt.NDArray[Any] | None) -> float:
    return float(np.average(losses, weights=weights))


def find_worse(
    bags: Bags, other: Mapping[str, Floats], spec: TrainingSpec, target: FittedTarget
) -> list[str]:
    """The trials of which other models, by their margins of the same rows, are worse beyond doubt."""
    loss, weights = make_loss(spec, target, bags.labels), bags.weigh(spec, target)
    found = []
    for bag in bags.bags:
        if bag.trial.name in other:
            margins = other[bag.trial.name]
            if not np.isfinite(margins).all():
                found.append(bag.trial.name)
                continue
            more, error = _mean_with_error(loss(margins) - loss(bag.margins), weights)
            found += [bag.trial.name] * (more > _CONFIDENCE * error)
    return found


def calibrate(
    task: str,
    margins: Floats,
    make: MakeLoss,
    weights: npt.NDArray[Any] | None = None,
    seed: int = 0,
) -> float:
    """The factor of the margins (rows, outputs) with the least loss (temperature scaling, Guo et al. 2017), if on rows
    that did not choose it, fold by fold, it gains beyond doubt; else 1, as for a regression: of few rows, the best
    temperature is often far from the true one."""
    rows = len(margins)
    if task == "regression" or rows < _FEW:
        return 1.0
    gains = np.zeros(rows)
    for rest, held in _deal(rows, seed):
        factor = _find_factor(margins[rest], make(rest), None if weights is None else weights[rest])
        unknown = make(held)
        gains[held] = unknown(margins[held]) - unknown(margins[held] * factor)
    gain, error = _mean_with_error(gains, weights)
    return _find_factor(margins, make(np.arange(rows)), weights) if gain > _CONFIDENCE * error else 1.0


def _find_factor(margins: Floats, loss: RowLoss, weights: npt.NDArray[Any] | None) -> float:
    losses = [_mean(loss(margins / temperature), weights) for temperature in _TEMPERATURES]
    return float(1 / _TEMPERATURES[int(np.argmin(losses))])


def _deal(rows: int, seed: int) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """The numbers of the rows that choose, and of those that are left out, fold by fold."""
    order = np.random.default_rng(seed).permutation(rows)
    for fold in range(_FOLDS):
        held = order[fold::_FOLDS]
        yield np.setdiff1d(order, held), held


def _mean_with_error(values: Floats, weights: npt.NDArray[Any] | None) -> tuple[float, float]:
    mass = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    mean = _mean(values, mass)
    return mean, float(np.sqrt((mass**2 * (values - mean) ** 2).sum()) / mass.sum())


def _choose_single(
    margins: Floats, loss: RowLoss, weights: npt.NDArray[Any] | None = None, most: int = _MOST
) -> npt.NDArray[np.float64]:
    return np.asarray(np.eye(len(margins))[int(np.argmin([_mean(loss(one), weights) for one in margins]))])


def _stack_members(
    margins: Floats, loss: RowLoss, weights: npt.NDArray[Any] | None = None, most: int = _MOST
) -> npt.NDArray[np.float64]:
    """Weights (models,) that add up to 1 where there are classes: how sure a blend is, its temperature says."""
    found = fit_stack(margins, loss, weights, most)
    return found / found.sum() if loss.of_classes and found.any() else found


def _mix_both(
    margins: Floats, loss: RowLoss, weights: npt.NDArray[Any] | None = None, most: int = _MOST
) -> npt.NDArray[np.float64]:
    """The mean of the weights of both."""
    found = (select_members(margins, loss, weights, most) + _stack_members(margins, loss, weights, most)) / 2
    kept = np.argsort(-found, kind="stable")[:most]
    result = np.zeros(len(found))
    result[kept] = found[kept] * (found.sum() / found[kept].sum())
    return result


SELECTIONS: Mapping[str, Callable[..., npt.NDArray[np.float64]]] = {
    GREEDY: select_members,
    STACK: _stack_members,
    BOTH: _mix_both,
}
"""How models may be weighed: (margins, loss, weights of rows, most members) -> the weight of each."""


def judge_blend(
    margins: Floats, make: MakeLoss, weights: npt.NDArray[Any] | None = None, seed: int = 0
) -> Judged:
    """Choose a blend of each kind and the best single model on four fifths of the rows, measure all on the fifth, in
    turn."""
    rows = margins.shape[1]
    kinds = {_SINGLE: _choose_single, **SELECTIONS}
    found = {kind: np.zeros(rows) for kind in kinds}
    for rest, held in _deal(rows, seed):
        mass = None if weights is None else weights[rest]
        known, unknown = make(rest), make(held)
        for kind, select in kinds.items():
            chosen = select(margins[:, rest], known, mass, _MOST)
            found[kind][held] = unknown(np.tensordot(chosen, margins[:, held], axes=1))
    means = {kind: _mean(losses, weights) for kind, losses in found.items()}
    single = means.pop(_SINGLE)
    best = min(means, key=lambda kind: means[kind])
    gain, error = _mean_with_error(found[_SINGLE] - found[best], weights)
    others = {kind: mean for kind, mean in means.items() if kind != best}
    return Judged(single, means[best], gain, error, rows, best, others)


def choose_bags(
    bags: Bags, spec: TrainingSpec, target: FittedTarget, most: int, *, firsts: bool = True
) -> list[Trial]:
    """The trials that are worth to be trained again: those of the best blend, and the best alone; of few rows, which
    cannot tell, also the first of each learner, unless there is no time for these."""
    loss, weights = make_loss(spec, target, bags.labels), bags.weigh(spec, target)
    chosen = select_members(bags.margins, loss, weights, most)
    trials = [bag.trial for bag in bags.bags]
    kept = {trial.name for trial, weight in zip(trials, chosen, strict=True) if weight > 0} | {trials[0].name}
    if firsts and len(bags.labels) < _FEW:
        kept |= {trial.name for trial in list_firsts(sorted(trials, key=lambda trial: trial.place))}
    return [trial for trial in trials if trial.name in kept]


def judge_bags(bags: Bags, spec: TrainingSpec, target: FittedTarget) -> float:
    """The mean loss of what `blend_bags` would take of these, on rows that did not choose it."""
    judged = judge_blend(bags.margins, _make_losses(bags, spec, target), bags.weigh(spec, target), spec.seed)
    return judged.blend if judged.beyond_doubt else judged.single


def _make_losses(bags: Bags, spec: TrainingSpec, target: FittedTarget) -> MakeLoss:
    return lambda rows: make_loss(spec, target, bags.labels[rows])


def blend_bags(bags: Bags, spec: TrainingSpec, target: FittedTarget) -> Winner:
    """The blend of these, the best by the metric of the search first, or one alone, if a blend does not gain beyond
    doubt."""
    held, margins, weights = bags.bags, bags.margins, bags.weigh(spec, target)
    make, loss = _make_losses(bags, spec, target), make_loss(spec, target, bags.labels)
    judged, folds = None, len(held[0].parts) > 1
    # The first is the best of one split; where folds answered, they are the better judge.
    chosen = _choose_single(margins, loss, weights) if folds else np.eye(len(held))[0]
    if len(held) > 1:
        judged = judge_blend(margins, make, weights, spec.seed)
        if judged.beyond_doubt:
            found = SELECTIONS[judged.kind](margins, loss, weights, _MOST)
            chosen = found if found.any() else chosen
    if np.count_nonzero(chosen) > 1 or folds:
        mixed = np.tensordot(chosen, margins, axes=1)
        chosen = chosen * calibrate(target.task, mixed, make, weights, spec.seed)
    members = [
        Member(part, float(weight) / len(bag.parts))
        for bag, weight in zip(held, chosen, strict=True)
        if weight > 0
        for part in bag.parts
    ]
    return Winner(tuple(members), judged)


def choose_trials(trials: Sequence[Trial], most: int = 12, *, defaults: bool = False) -> list[Trial]:
    """Of finished trials, the best first: the best of each learner, and the best of all others. With `defaults` also
    the first of each learner: among few rows, the best of many trials is the luckiest."""
    finished = [trial for trial in trials if trial.checkpoint is not None and trial.learned]
    kept: dict[str, Trial] = {}
    for order in (finished, sorted(finished, key=lambda trial: trial.place) if defaults else []):
        kept |= {trial.name: trial for trial in list_firsts(order)}
    for trial in finished:
        if len(kept) >= most:
            break
        kept[trial.name] = trial
    return [trial for trial in finished if trial.name in kept]


def list_firsts(trials: Sequence[Trial]) -> list[Trial]:
    """The first finished trial of each learner, in the order given."""
    first: dict[str, Trial] = {}
    for trial in trials:
        if trial.checkpoint is not None and trial.learned:
            first.setdefault(to_learner(trial), trial)
    return list(first.values())


def to_learner(trial: Trial) -> str:
    """Of a search over several; else empty."""
    return str(trial.parameters.get("training.learner", ""))
