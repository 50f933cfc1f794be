"""The weight of each class in losses, as a spec asks. Does not import torch."""

from raymlops.errors import SpecError, unknown_name
from raymlops.features import FittedTarget
from raymlops.specs.training import TrainingSpec


def weigh_classes(spec: TrainingSpec, target: FittedTarget) -> tuple[float, ...]:
    """In the order of the target's classes; empty if all weigh alike. Raises SpecError for a class that the target does
    not have."""
    asked = spec.class_weights
    if asked is None:
        return ()
    if asked == "balanced":
        return tuple(1 / (len(target.shares) * share) for share in target.shares)
    names = [str(name) for name in target.classes]
    for name in asked:
        if name not in names:
            raise SpecError(f"training.class_weights: {unknown_name('class', name, names)}")
    return tuple(asked.get(name, 1.0) for name in names)
