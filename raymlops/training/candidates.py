"""The learners among which a search chooses, each with what it varies. Trains nothing."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from raymlops.errors import SpecError
from raymlops.features import FittedTarget, Packing
from raymlops.specs import defaults
from raymlops.specs.code_references import find_own_names
from raymlops.specs.experiment import ExperimentSpec, space_key, with_parameters
from raymlops.specs.training import Dimension
from raymlops.training import learners, networks
from raymlops.training.learners import Learner, find_learner

LEARNER, ROWS = "training.learner", "training.rows"
"""Parameters of a trial: its learner, and the rows of its sample, where it does not train on all."""

AUTO = ("lightgbm", "linear", "network", "xgboost", "realmlp", "ebm", "forest")
"""What `auto` stands for, in the order in which their defaults are tried."""

COSTS = {
    "linear": 0.5,
    "lightgbm": 1.0,
    "xgboost": 1.5,
    "forest": 2.0,
    "network": 4.0,
    "ebm": 12.0,
    "realmlp": 9.0,
}
"""CPU seconds of the defaults to those of LightGBM, as measured on five tables of 700 to 28,000 rows: what a first
trial may take before it is tried."""

GLASSBOX = ("linear", "ebm")
"""Learners whose models are sums of terms of one or two columns."""

_NO_INTEGER = 0.41421356
"""Of the way between two integers lies none, however far they are apart."""

Space = dict[str, Dimension | bool | int | float | str]
"""Parameter, as in `search.space` -> what is varied, or the value that is held."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One learner of a search."""

    name: str
    varied: Mapping[str, Dimension]
    held: Mapping[str, Any]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What its first trial has for what is varied, as far as that is known."""
    begin: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The values of its first trial, where its own defaults do not lie in the space."""
    first: tuple[Mapping[str, Any], ...] = ()
    """Good values to try after the defaults, of what is varied and of what the spec leaves open."""
    cost: float | None = None
    """What its first trial takes to that of others; None if that is not known."""

    def with_learner(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of a trial."""
        return {LEARNER: self.name, **self.held, **values}


def list_names(spec: ExperimentSpec) -> tuple[str, ...]:
    """The learners that a spec names, or its only one."""
    named = spec.search.learners
    if named is None:
        return (spec.training.learner,)
    names = AUTO if named == "auto" else tuple(named)
    return tuple(name for name in names if name in GLASSBOX) if spec.search.glassbox else names


def read_for(spec: ExperimentSpec) -> frozenset[str]:
    """The packed tensors that the learners of a spec take, and the network that is to learn from their blend."""
    names = (*list_names(spec), *["network"] * bool(spec.search.distill))
    return frozenset().union(*(learners.read_by(find_learner(name)) for name in names))


def find_candidates(spec: ExperimentSpec, rows: int = 0, task: str = "") -> tuple[Candidate, ...]:
    """Of a spec with `search.learners`; their defaults are for so many training rows. Raises SpecError for a name that
    is not known."""
    given = spec.search.learners
    spaces = given if isinstance(given, Mapping) else {}
    found = (_to_candidate(name, spaces.get(name) or {}) for name in list_names(spec))
    return tuple(_complete(one, spec, rows, task) for one in found)


def _complete(candidate: Candidate, spec: ExperimentSpec, rows: int, task: str) -> Candidate:
    """With its first values."""
    candidate = dataclasses.replace(candidate, varied=settle_integers(spec, candidate.name, candidate.varied))
    known = _find_defaults(candidate, spec, rows, task)
    within = {key: candidate.varied[key].nearest(value) for key, value in known.items()}
    return dataclasses.replace(
        candidate,
        defaults=within,
        begin={key: value for key, value in within.items() if value != known[key]},
        first=tuple(_find_first(candidate, spec, rows, task)) if rows else (),
    )


def settle_integers(
    spec: ExperimentSpec, learner: str, space: Mapping[str, Dimension]
) -> Mapping[str, Dimension]:
    """A space in which the ranges between integers of what takes nothing else, as leaves, are of integers."""
    return {
        key: one.model_copy(update={"integer": True}) if _is_whole(spec, learner, key, one) else one
        for key, one in space.items()
    }


def _is_whole(spec: ExperimentSpec, learner: str, key: str, dimension: Dimension) -> bool:
    low, high = dimension.low, dimension.high
    if low is None or high is None or dimension.integer or not (low.is_integer() and high.is_integer()):
        return False
    part, name = space_key(key)
    if part == "network.options":
        return networks.is_whole(spec.network.name, name)
    between = low + (high - low) * _NO_INTEGER
    return _takes(spec, learner, key, round(between)) and not _takes(spec, learner, key, between)


def _takes(spec: ExperimentSpec, learner: str, key: str, value: float) -> bool:
    try:
        learners.check(with_parameters(spec, {LEARNER: learner, key: value}))
    except SpecError:
        return False
    return True


def _find_first(
    candidate: Candidate, spec: ExperimentSpec, rows: int, task: str
) -> Iterator[Mapping[str, Any]]:
    """The portfolio of a learner, without what the spec holds, excludes or cannot do."""
    for options in learners.portfolio_for(find_learner(candidate.name), rows, task):
        values = {_to_parameter(candidate.name, key): value for key, value in options.items()}
        varied = candidate.varied
        outside = any(key in varied and not varied[key].takes(value) for key, value in values.items())
        if outside or not values.keys().isdisjoint(candidate.held):
            continue
        try:
            learners.check(with_parameters(spec, candidate.with_learner(values)))
        except SpecError:  # such as a penalty that the spec's loss does not have
            continue
        yield values


def _find_defaults(candidate: Candidate, spec: ExperimentSpec, rows: int, task: str) -> Mapping[str, Any]:
    options_for = getattr(find_learner(candidate.name), "options_for", None)
    options = options_for(rows, task) if rows and options_for else {}
    held = spec.model_dump()
    known = {}
    for key in candidate.varied:
        part, name = space_key(key)
        value = options.get(name) if part == "training.options" else None
        if candidate.name == "network":
            value = held["training"].get(name) if part == "training" else spec.network.options.get(name)
        if value is not None:
            known[key] = value
    return known


def _to_candidate(name: str, given: Mapping[str, Any]) -> Candidate:
    space: Space = {**_space_of(name, find_learner(name), given)}
    space |= {_to_parameter(name, key): value for key, value in given.items()}
    varied = {key: value for key, value in space.items() if isinstance(value, Dimension)}
    held = {key: value for key, value in space.items() if key not in varied}
    return Candidate(name, varied, held, cost=COSTS.get(name))


def _space_of(name: str, learner: Learner, given: Mapping[str, Any]) -> Mapping[str, Dimension]:
    options = {key.removeprefix("training.options."): value for key, value in given.items()}
    return defaults.NETWORK_SPACE if name == "network" else learners.space_for(learner, options)


def _to_parameter(name: str, key: str) -> str:
    """The option of a learner as a parameter; a network has those of `training`, too."""
    if name == "network" or key.startswith(("training.", "network.")):
        return key
    return f"training.options.{key}"


def choose_candidates(
    spec: ExperimentSpec,
    packing: Packing | None = None,
    target: FittedTarget | None = None,
    tell: Callable[[str], None] = lambda line: None,
    rows: int = 0,
) -> tuple[Candidate, ...]:
    """Those that can do what the spec asks with so many training rows: of `auto` the others are left out, and told.

    Raises SpecError for one that the spec names, or if none is left.
    """
    if not list_names(spec):
        raise SpecError(
            f"search.glassbox: true leaves none of the learners; it takes {' and '.join(GLASSBOX)}"
        )
    able: list[Candidate] = []
    refused: dict[str, str] = {}
    for candidate in find_candidates(spec):
        try:
            _check(candidate, spec, packing, target, rows)
        except SpecError as error:
            if spec.search.learners != "auto":
                raise SpecError(f"search.learners: {candidate.name}: {error}") from None
            refused[candidate.name] = str(error)
        else:
            able.append(candidate)
    if not able:
        reasons = dict.fromkeys(refused.values())
        told = refused.items() if len(reasons) > 1 else [("all", next(iter(reasons)))]
        raise SpecError(
            "search.learners: none can do what the spec asks; "
            + "; ".join(f"{name}: {reason}" for name, reason in told)
        )
    for name, reason in refused.items():
        tell(f"Learner {name} is left out: {reason}")
    return tuple(able)


def _check(
    candidate: Candidate,
    spec: ExperimentSpec,
    packing: Packing | None,
    target: FittedTarget | None,
    rows: int,
) -> None:
    trial = with_parameters(spec, candidate.with_learner({}))
    if candidate.name != "network":  # of which no option is varied that its network does not take
        search = trial.search.model_copy(update={"space": dict(candidate.varied)})
        trial = trial.model_copy(update={"search": search})
    learners.check(trial, packing, target)
    if packing is not None:
        learners.check_size(trial, packing, rows)


def check(
    spec: ExperimentSpec,
    packing: Packing | None = None,
    target: FittedTarget | None = None,
    *,
    imports: bool = True,
) -> None:
    """Checks that the learner of a spec, or one of its learners, can do what the spec says. Raises SpecError.

    What names code of the user's own is only examined if `imports` allows running its modules.
    """
    if spec.search.learners is None:
        learners.check(spec, packing, target, imports=imports)
    elif imports or not find_own_names(spec):
        choose_candidates(spec, packing, target)
