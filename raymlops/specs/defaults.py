"""What a spec does not say, chosen from the rows, columns and classes of the training data. Reads no data."""

import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from raymlops.specs.dataset import RandomSplit
from raymlops.specs.document import validate_document
from raymlops.specs.evaluation import PARITY
from raymlops.specs.experiment import ExperimentSpec, space_key
from raymlops.specs.features import CategoryFeature
from raymlops.specs.training import Dimension, TrainingSpec

LEAST_STEPS = 1500
"""Steps of one training, at least: with fewer a network has learned nothing yet."""


NETWORK_SPACE: Mapping[str, Dimension] = {
    "lr": Dimension(low=3e-4, high=1e-2, log=True),
    "weight_decay": Dimension(low=1e-4, high=0.3, log=True),
    "network.options.hidden": Dimension(choices=(64, 128, 256)),
    "network.options.dropout": Dimension(low=0.0, high=0.5),
}
"""What a search over networks varies, of the options that the network takes and the spec leaves open."""


_MANY = 5_000
"""Validation rows from which on they tell as many trials apart as there is time for."""
MOST_FOLDED = 20_000
"""Training and validation rows up to which the best trials are trained again on folds."""


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the choices depend on."""

    train: int
    """Rows."""
    validation: int
    test: int
    columns: int = 0
    """Numbers of a packed row, and its categories."""
    task: str = "regression"
    rarest: float = 1.0
    """Share of the rarest class."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """A value for a key of the spec, such as `training.epochs`, and the reason."""

    key: str
    value: Any
    why: str


def choose_encodings(spec: ExperimentSpec, train: int) -> tuple[Choice, ...]:
    """From how many training rows on a category is told from others, and with how many values it becomes target means;
    needed before columns are known."""
    if spec.defaults == "fixed":
        return ()
    chosen = []
    if spec.features.min_count is None:
        value = min(20, max(2, train // 1000))
        why = f"a thousandth of {train:,} training rows, 2 to 20"
        chosen.append(Choice("features.min_count", value, why))
    if spec.features.means_above is None:
        chosen.append(Choice("features.means_above", 1_000, "with more values most have few rows"))
    return tuple(chosen)


def choose(
    spec: ExperimentSpec, facts: Facts, space: Mapping[str, Dimension], options: Collection[str] = ()
) -> tuple[Choice, ...]:
    """The choices for all that the spec leaves open; none if its defaults are fixed. `space` is that of its learner,
    and `options` are those that its network takes, if it has one."""
    if spec.defaults == "fixed":
        return ()
    chosen = [
        *choose_encodings(spec, facts.train),
        *_choose_pace(spec, facts),
        *_choose_metric(spec, facts),
    ]
    chosen += [
        choice
        for choice in _choose_options(facts)
        if _takes(choice.key, options) and not _says(spec, choice.key)
    ]
    return (*chosen, *_choose_search(spec, facts, space, options, chosen), *_choose_gate(spec, facts))


def _takes(key: str, options: Collection[str]) -> bool:
    part, name = space_key(key)
    return part != "network.options" or name in options


def _says(spec: ExperimentSpec, key: str) -> bool:
    value: Any = spec.model_dump()
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value is not None


def _choose_pace(spec: ExperimentSpec, facts: Facts) -> Iterator[Choice]:
    training, rows = spec.training, max(1, facts.train)
    batch = training.batch_size
    if batch is None:
        batch = max(_size_batch(rows), training.workers)
        yield Choice(
            "training.batch_size", batch, f"for {rows:,} training rows: an eighth of few, up to 4,096"
        )
    steps = math.ceil(rows / batch)  # of one pass
    epochs, passes = training.epochs, training.passes
    if epochs is None:
        epochs = min(24, max(12, math.ceil(LEAST_STEPS / (steps * (passes or 1)))))
        yield Choice("training.epochs", epochs, f"{LEAST_STEPS:,} steps or more, validated 12 to 24 times")
        if passes is None:
            passes = math.ceil(LEAST_STEPS / (epochs * steps))
            why = f"{epochs} epochs of {passes} x {steps:,} steps are {epochs * passes * steps:,}"
            yield Choice("training.passes", passes, why)
    elif passes is None:
        yield Choice("training.passes", 1, "the spec gives the epochs")
    if training.patience is None:
        yield Choice("training.patience", max(3, math.ceil(epochs / 4)), "a quarter of the epochs")
    if training.lr is None:
        few = rows < 2_000
        yield Choice("training.lr", 1e-3 if few else 3e-3, f"{rows:,} rows are {'few' if few else 'enough'}")
    if training.weight_decay is None:
        few = rows < 50 * max(1, facts.columns)
        why = f"{rows:,} rows are {'few' if few else 'enough'} for {facts.columns:,} columns"
        yield Choice("training.weight_decay", 0.1 if few else 1e-2 if rows < 20_000 else 1e-4, why)


def _choose_metric(spec: ExperimentSpec, facts: Facts) -> Iterator[Choice]:
    if spec.training.metric is not None or facts.task != "binary":
        return
    rare = round(facts.rarest * facts.validation)
    if rare < 1_000:
        why = f"{rare:,} validation rows of the rarer class are too few to rank trainings by ROC AUC"
        yield Choice("training.metric", "log_loss", why)


def _size_batch(rows: int) -> int:
    if rows < 50_000:
        return min(256, max(16, rows // 8))
    return int(min(4096, 2 ** round(math.log2(rows / 100))))


def _choose_options(facts: Facts) -> Iterator[Choice]:
    yield Choice("network.options.linear", True, "a linear model is fitted first, and the layers add to it")
    few = facts.train < 2_000
    yield Choice("network.options.hidden", 128 if facts.train < 20_000 else 256, f"{facts.train:,} rows")
    yield Choice("network.options.dropout", 0.3 if few else 0.1, f"{facts.train:,} rows")


def _choose_search(
    spec: ExperimentSpec,
    facts: Facts,
    space: Mapping[str, Dimension],
    options: Collection[str],
    chosen: list[Choice],
) -> Iterator[Choice]:
    search = spec.search
    timed = bool(search.max_minutes and search.learners)
    if search.trials is None and not (timed and facts.validation >= _MANY):
        few = facts.validation < 500
        why = f"{facts.validation:,} validation rows tell {'few' if few else 'many'} trials apart"
        more = (20 if few else 60) if timed else 6 if few else 10
        first = len(search.learners) if isinstance(search.learners, Mapping) else 0
        if first:
            why = f"one of each of {first} learners, and {more} more: {why}"
        yield Choice("search.trials", first + more, why)
    epochs = spec.training.epochs or next(one.value for one in chosen if one.key == "training.epochs")
    if search.grace_epochs is None:
        yield Choice("search.grace_epochs", max(2, math.ceil(epochs / 6)), "a sixth of the epochs")
    if search.folds is None and search.blends:
        rows = facts.train + facts.validation
        alone = isinstance(spec.split, RandomSplit) and not spec.split.key
        few = rows <= MOST_FOLDED and alone
        why = f"{rows:,} rows" if alone else "folds would part rows that the split keeps together"
        yield Choice("search.folds", 5 if few else 0, why)
    if search.first is None:
        yield Choice("search.first", "spec", "the defaults are a trial too")
    if search.space is None and search.learners is None:
        left = {
            key: one.model_dump()
            for key, one in space.items()
            if _takes(key, options) and not _says(spec, ".".join(space_key(key)))
        }
        yield Choice("search.space", left, "what the learner varies and the spec does not say")


def _choose_gate(spec: ExperimentSpec, facts: Facts) -> Iterator[Choice]:
    if spec.gate.baselines is None:
        yield Choice("gate.baselines", spec.gate.beaten, "a model that these beat beyond doubt is of no use")
    for part, held in (("evaluation", spec.evaluation.bootstrap), ("gate", spec.gate.bootstrap)):
        if held is None:
            few = facts.test < 1_000
            why = f"{facts.test:,} test rows" + (
                ": wide intervals, whose ends need more draws" if few else ""
            )
            yield Choice(f"{part}.bootstrap", 2000 if few else 1000, why)


def insert(spec: ExperimentSpec, choices: Iterable[Choice]) -> ExperimentSpec:
    """The spec that says what was chosen."""
    value = spec.model_dump()
    for choice in choices:
        *parents, last = choice.key.split(".")
        target = value
        for parent in parents:
            target = target[parent]
        target[last] = choice.value
    return validate_document(value, ExperimentSpec, source="the spec with its defaults", recorded=True)


def settle(spec: ExperimentSpec, choices: Iterable[Choice]) -> ExperimentSpec:
    """The spec with every choice inserted, which nothing changes any more."""
    return insert(spec, (*choices, Choice("defaults", "fixed", "")))


def fix(spec: ExperimentSpec) -> ExperimentSpec:
    """The spec with the fixed numbers for all that it leaves open, as every spec was recorded before they could be
    fitted."""
    pace = TrainingSpec().pace
    chosen = {
        **{f"training.{key}": value for key, value in dataclasses.asdict(pace).items()},
        "features.min_count": spec.features.least_count,
        "search.trials": spec.search.budget,
        "search.grace_epochs": 2,
        "search.first": "suggested",
        "search.space": {},
        "evaluation.bootstrap": 1000,
        "gate.bootstrap": 1000,
        "gate.baselines": ("constant",),
        "gate.parity": PARITY,
    }
    left = [Choice(key, value, "fixed") for key, value in chosen.items() if not _says(spec, key)]
    settled = settle(spec, left)
    columns = {
        name: feature.model_copy(update={"min_count": feature.min_count or settled.features.least_count})
        if isinstance(feature, CategoryFeature)
        else feature
        for name, feature in settled.features.columns.items()
    }
    return settled.model_copy(update={"features": settled.features.model_copy(update={"columns": columns})})
