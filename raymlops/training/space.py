"""The search space of a spec as Ray Tune domains. Samples nothing itself."""

from typing import Any

from ray import tune

from raymlops.specs.experiment import ExperimentSpec, space_key
from raymlops.specs.training import Dimension
from raymlops.training.learners import dimensions_of, is_mutable


def to_tune_space(spec: ExperimentSpec) -> dict[str, Any]:
    """Parameter -> Tune domain, in the order of the spec."""
    grid = spec.search.algorithm == "grid"
    return {name: _to_domain(dimension, grid) for name, dimension in dimensions_of(spec).items()}


def first_points(spec: ExperimentSpec) -> list[dict[str, Any]]:
    """The spec's own values, as the first point of a search; none if it asks for a suggested one, or if the space does
    not have them."""
    if spec.search.first != "spec":
        return []
    held = spec.model_dump()
    point = {}
    for name, dimension in dimensions_of(spec).items():
        part, key = space_key(name)
        value: Any = held
        for step in (*part.split("."), key):
            value = value.get(step)
        if not _contains(dimension, value):
            return []
        point[name] = value
    return [point] if point else []


def _contains(dimension: Dimension, value: Any) -> bool:
    if dimension.choices is not None:
        return value in dimension.choices
    low, high = dimension.low, dimension.high
    return isinstance(value, int | float) and low is not None and high is not None and low <= value <= high


def _to_domain(dimension: Dimension, grid: bool) -> Any:
    if dimension.choices is not None:
        return tune.grid_search(list(dimension.choices)) if grid else tune.choice(list(dimension.choices))
    low, high = dimension.low, dimension.high
    assert low is not None
    assert high is not None
    if dimension.integer:  # Tune's upper bound is exclusive, the spec's is not
        return (tune.lograndint if dimension.log else tune.randint)(int(low), int(high) + 1)
    return (tune.loguniform if dimension.log else tune.uniform)(low, high)


def to_mutations(spec: ExperimentSpec) -> dict[str, Any]:
    """What PBT may change during a training."""
    return {
        name: _to_domain(dimension, grid=False)
        for name, dimension in dimensions_of(spec).items()
        if is_mutable(name)
    }
