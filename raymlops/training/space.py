"""The search space of a spec as Ray Tune domains. Samples nothing itself."""

from typing import Any

from ray import tune

from raymlops.specs.experiment import ExperimentSpec
from raymlops.specs.training import Dimension
from raymlops.training.learners import dimensions_of, is_mutable


def to_tune_space(spec: ExperimentSpec) -> dict[str, Any]:
    """Parameter -> Tune domain, in the order of the spec."""
    grid = spec.search.algorithm == "grid"
    return {name: _to_domain(dimension, grid) for name, dimension in dimensions_of(spec).items()}


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
