"""The search space of a spec as Ray Tune domains. Samples nothing itself."""

from collections.abc import Mapping
from typing import Any

from ray import tune

from raymlops.specs.experiment import ExperimentSpec
from raymlops.specs.training import Dimension
from raymlops.training.learners import learner_of


def dimensions_of(spec: ExperimentSpec) -> Mapping[str, Dimension]:
    """What the search varies: the spec's own space, or that of its learner."""
    return spec.search.space or learner_of(spec).space


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
    """What PBT may change during a training: numbers of the training, not the shape of the network."""
    return {
        name: _to_domain(dimension, grid=False)
        for name, dimension in dimensions_of(spec).items()
        if not name.startswith(("network.", "training.options."))
        and name not in ("batch_size", "training.batch_size", "epochs", "seed")
    }
